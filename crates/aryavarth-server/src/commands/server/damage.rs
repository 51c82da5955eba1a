//! ARYAVARTH: questions that no other server answers. So far one: the damage in the store's files.

use aryavarth::{Damage, Verdict};
use aryavarth_protocol::Reply;

use crate::commands::kit::args::{Args, DATABASES};
use crate::commands::kit::context::Context;
use crate::commands::kit::failure::{SYNTAX, refused, refused_quoting};
use crate::commands::kit::help::HELP;
use crate::commands::kit::spec::{Outcome, Run, Spec};

/// Places that a reply lists unless it is asked for another number, and at most.
const PLACES: usize = 100;
const PLACES_MAX: usize = 1000;
/// Bytes of keys and paths behind which a reply lists no further place.
const BYTES_MAX: usize = 1 << 20;

pub(crate) const SPECS: &[Spec] = &[Spec::new("aryavarth", -2, "subcommand", Run::Container(SUBS))
    .since("0.2.0")
    .cost("Depends on subcommand.")
    .says("A container for commands that this server has for itself")];

const SUBS: &[Spec] = &[
    // It takes a lock that the reading of damaged files takes, too.
    Spec::new("damage", -2, "[COUNT count]", Run::Context(damage))
        .flags("admin noscript loading stale WAITS")
        .tips(&["nondeterministic_output"])
        .since("0.2.0")
        .cost("O(N), N being the damaged places that are known")
        .says("Lists the damaged places of the store's files that are known"),
    HELP.since("0.2.0"),
];

fn damage(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let count = match args.len() {
        2 => PLACES,
        4 if args.is(2, "COUNT") => match usize::try_from(args.integer(3)?) {
            Ok(count) => count.min(PLACES_MAX),
            Err(_negative) => return refused("ERR COUNT must not be negative"),
        },
        _ => return refused(SYNTAX),
    };
    let Some(mut all) = context.server.damage() else {
        let engine = context.server.engine_name().as_bytes();
        return refused_quoting("ERR the engine ", engine, " does not look for damage");
    };
    // Losses first: a list that is cut short leaves the places out that cost nothing.
    all.sort_by_key(|damage| !damage.is_loss());
    let losses = all.iter().filter(|damage| damage.is_loss()).count();
    let mut bytes = 0;
    let listed = all.iter().take(count).take_while(|damage| {
        let is_room = bytes < BYTES_MAX;
        bytes += damage.key.as_ref().map_or(0, Vec::len) + damage.reason.len();
        is_room
    });
    let listed = listed.map(place).collect();
    // Whether a key was written again is told, so that write has to be durable first.
    context.position = context.written();
    Ok(Reply::Map(vec![
        (Reply::bulk("places"), integer(all.len())),
        (Reply::bulk("losses"), integer(losses)),
        (Reply::bulk("listed"), Reply::Array(listed)),
    ]))
}

/// A place as the reply lists it.
fn place(damage: &Damage) -> Reply {
    let verdict = match damage.verdict {
        Verdict::Loss => "loss",
        Verdict::Dead => "dead",
        _ => "harmless",
    };
    let database = damage.space.filter(|space| *space < DATABASES);
    let key = damage.key.as_deref();
    let fields = [
        ("file", Reply::bulk(damage.path.display().to_string())),
        ("offset", integer(damage.offset)),
        ("bytes", integer(damage.bytes)),
        ("reason", Reply::bulk(damage.reason.as_str())),
        ("verdict", Reply::bulk(verdict)),
        ("key", key.map_or(Reply::Null, Reply::bulk)),
        ("key-is-certain", Reply::Integer(i64::from(damage.key_is_certain))),
        ("db", database.map_or(Reply::Null, integer)),
        ("removal", damage.removal.map_or(Reply::Null, |is| Reply::Integer(i64::from(is)))),
        ("first-seen-ms", integer(damage.first_seen_ms)),
    ];
    Reply::Map(fields.into_iter().map(|(name, value)| (Reply::bulk(name), value)).collect())
}

fn integer(number: impl TryInto<i64>) -> Reply {
    Reply::Integer(number.try_into().unwrap_or(i64::MAX))
}
