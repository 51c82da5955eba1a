//! The table of commands: every family's, and how one is found by its name.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::args::Args;
use super::failure::{Failure, quotable, refused, refused_quoting};
use super::spec::{Group, Run, Spec};
use super::{
    client, config, counters, debug, docs, expiry, info, keys, observe, scan, server, session, set,
    standalone, strings, transaction,
};

/// Every family, in the order in which docs/commands.md lists them.
pub(crate) static FAMILIES: &[(Group, &[Spec])] = &[
    (Group::Connection, session::SPECS),
    (Group::Connection, client::SPECS),
    (Group::String, strings::SPECS),
    (Group::String, set::SPECS),
    (Group::String, counters::SPECS),
    (Group::Generic, keys::SPECS),
    (Group::Generic, scan::SPECS),
    (Group::Generic, expiry::SPECS),
    (Group::Transactions, transaction::SPECS),
    (Group::Server, docs::SPECS),
    (Group::Server, info::SPECS),
    (Group::Server, config::SPECS),
    (Group::Server, server::SPECS),
    (Group::Server, observe::SPECS),
    (Group::Server, debug::SPECS),
    (Group::Server, standalone::SERVER),
    (Group::Scripting, standalone::SCRIPTING),
    (Group::Cluster, standalone::CLUSTER),
];

/// What an error quotes of a name, and of all arguments together.
const QUOTED_BYTES_MAX: usize = 128;

/// The longest name of a command.
const NAME_BYTES_MAX: usize = 32;

static BY_NAME: LazyLock<HashMap<&'static [u8], &'static Spec>> =
    LazyLock::new(|| all().map(|spec| (spec.name.as_bytes(), spec)).collect());

/// A row with what its place in the table says of it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) spec: &'static Spec,
    pub(crate) group: Group,
    /// With the container's name before it, like `client|id`.
    pub(crate) name: String,
}

/// Every command and subcommand, each at its number.
static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let mut rows = Vec::new();
    for (group, specs) in FAMILIES {
        for spec in *specs {
            rows.push(Row { spec, group: *group, name: spec.name.to_owned() });
            for sub in subcommands(spec) {
                let name = format!("{}|{}", spec.name, sub.name);
                rows.push(Row { spec: sub, group: *group, name });
            }
        }
    }
    rows
});

/// The number of each row, by its address: a row stands in one place for ever.
static NUMBERS: LazyLock<HashMap<usize, usize>> = LazyLock::new(|| {
    ROWS.iter().enumerate().map(|(number, row)| (address(row.spec), number)).collect()
});

fn address(spec: &'static Spec) -> usize {
    std::ptr::from_ref(spec).addr()
}

/// Every command and subcommand; a row's place is its number.
pub(crate) fn rows() -> &'static [Row] {
    &ROWS
}

/// The number of a row of the table, to count by.
pub(crate) fn number(spec: &'static Spec) -> usize {
    NUMBERS.get(&address(spec)).copied().unwrap_or(usize::MAX - 1)
}

/// The subcommands of a command.
pub(crate) fn subcommands(spec: &'static Spec) -> &'static [Spec] {
    match spec.run {
        Run::Container(subcommands) => subcommands,
        _ => &[],
    }
}

/// The row of a name in whatever case, a subcommand's being like `client|id`.
pub(crate) fn row(name: &[u8]) -> Option<&'static Row> {
    ROWS.iter().find(|row| name.eq_ignore_ascii_case(row.name.as_bytes()))
}

/// Every command, subcommands apart.
pub(crate) fn all() -> impl Iterator<Item = &'static Spec> {
    FAMILIES.iter().flat_map(|(_, specs)| specs.iter())
}

/// The command of a name in whatever case.
pub(crate) fn by_name(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    BY_NAME.get(&*lower).copied()
}

/// The command, or subcommand, that a call means, if it can be called with these arguments.
///
/// # Errors
/// The text that clients match.
pub(crate) fn find(args: &Args<'_>) -> Result<&'static Spec, Failure> {
    let Some(spec) = by_name(args.get(0)) else {
        return Err(Failure::Refused(unknown(args).into()));
    };
    let Run::Container(subcommands) = spec.run else {
        return if spec.takes(args.len()) { Ok(spec) } else { refused(wrong_arity(spec.name)) };
    };
    if args.len() < 2 {
        // One that can be called alone means its first subcommand then.
        let first = subcommands.first().filter(|_| spec.takes(1));
        return first.map_or_else(|| refused(wrong_arity(spec.name)), Ok);
    }
    let wanted = args.get(1);
    let found = subcommands.iter().find(|sub| wanted.eq_ignore_ascii_case(sub.name.as_bytes()));
    match found {
        Some(sub) if sub.takes(args.len()) => Ok(sub),
        Some(sub) => refused(wrong_arity(&format!("{}|{}", spec.name, sub.name))),
        None => {
            let help = format!("'. Try {} HELP.", spec.name.to_ascii_uppercase());
            refused_quoting("ERR unknown subcommand '", quotable(wanted, QUOTED_BYTES_MAX), &help)
        }
    }
}

/// The command that a call means, whether or not it can be called so.
pub(crate) fn known(args: &Args<'_>) -> Option<&'static Spec> {
    let spec = by_name(args.get(0))?;
    let named = |sub: &&Spec| args.get(1).eq_ignore_ascii_case(sub.name.as_bytes());
    Some(subcommands(spec).iter().find(named).unwrap_or(spec))
}

pub(crate) fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// What a subcommand says that counts its arguments itself.
pub(crate) fn wrong_subcommand<T>(args: &Args<'_>) -> Result<T, Failure> {
    let command = String::from_utf8_lossy(args.get(0)).to_ascii_uppercase();
    let begin = "ERR unknown subcommand or wrong number of arguments for '";
    let sent = quotable(args.get(1), QUOTED_BYTES_MAX);
    refused_quoting(begin, sent, &format!("'. Try {command} HELP."))
}

fn unknown(args: &Args<'_>) -> Vec<u8> {
    let name = quotable(args.get(0), QUOTED_BYTES_MAX);
    let mut text = [b"ERR unknown command '", name, b"', with args beginning with: "].concat();
    let begin = text.len();
    for arg in args.from(1) {
        let left = QUOTED_BYTES_MAX.saturating_sub(text.len() - begin);
        if left == 0 {
            break;
        }
        text.extend_from_slice(&[b"'", quotable(arg, left), b"' "].concat());
    }
    text
}
