//! The table of commands: every family's, and how one is found by its name.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::args::Args;
use super::spec::{Group, Run, Spec};
use super::{counters, expiry, keys, scan, set, strings, transaction};

/// Every family, in the order in which docs/commands.md lists them.
pub(crate) const FAMILIES: &[(Group, &[Spec])] = &[
    (Group::String, strings::SPECS),
    (Group::String, set::SPECS),
    (Group::String, counters::SPECS),
    (Group::Generic, keys::SPECS),
    (Group::Generic, scan::SPECS),
    (Group::Generic, expiry::SPECS),
    (Group::Transactions, transaction::SPECS),
];

/// The longest name of a command.
const NAME_BYTES_MAX: usize = 32;

static BY_NAME: LazyLock<HashMap<&'static [u8], &'static Spec>> =
    LazyLock::new(|| all().map(|spec| (spec.name.as_bytes(), spec)).collect());

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
pub(crate) fn find(args: &Args<'_>) -> Result<&'static Spec, String> {
    let Some(spec) = by_name(args.get(0)) else {
        return Err(unknown(args));
    };
    let Run::Container(subcommands) = spec.run else {
        return if spec.takes(args.len()) { Ok(spec) } else { Err(wrong_arity(spec.name)) };
    };
    if args.len() < 2 {
        return Err(wrong_arity(spec.name));
    }
    let wanted = args.get(1);
    let found = subcommands.iter().find(|sub| wanted.eq_ignore_ascii_case(sub.name.as_bytes()));
    match found {
        Some(sub) if sub.takes(args.len()) => Ok(sub),
        Some(sub) => Err(wrong_arity(&format!("{}|{}", spec.name, sub.name))),
        None => {
            let shown = shown(wanted, 128);
            let upper = spec.name.to_ascii_uppercase();
            Err(format!("ERR unknown subcommand '{shown}'. Try {upper} HELP."))
        }
    }
}

pub(crate) fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

fn unknown(args: &Args<'_>) -> String {
    let mut text =
        format!("ERR unknown command '{}', with args beginning with: ", shown(args.get(0), 128));
    let begin = text.len();
    for arg in args.from(1) {
        let left = 128_usize.saturating_sub(text.len() - begin);
        if left == 0 {
            break;
        }
        text.push_str(&format!("'{}' ", shown(arg, left)));
    }
    text
}

/// The beginning of what a client sent, as text.
fn shown(bytes: &[u8], bytes_max: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(bytes_max)]).into_owned()
}
