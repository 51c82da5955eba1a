//! The registry of commands as data: its rows, their numbers, and how a call finds its row.
//!
//! Invariant: a row's number is its place, the same while the server runs, and counted by in
//! `clients/`.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::commands::kit::args::Args;
use crate::commands::kit::failure::{
    Failure, QUOTED_BYTES_MAX, quotable, refused, refused_quoting, unknown, wrong_arity,
};
use crate::commands::kit::spec::{Group, Run, Spec};

/// The commands of one family, under the heading that docs/commands.md gives them.
pub(crate) type Family = (Group, &'static [Spec]);

/// The longest name of a command.
const NAME_BYTES_MAX: usize = 32;

/// A row with its group and its full name.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) spec: &'static Spec,
    pub(crate) group: Group,
    /// With the container's name before it, like `client|id`.
    pub(crate) name: String,
}

/// Every command and subcommand.
#[derive(Debug)]
pub(crate) struct Registry {
    rows: Vec<Row>,
    by_name: FixedMap<&'static [u8], &'static Spec>,
    /// The number of each row, by its address: a row stands in one place for ever.
    numbers: FixedMap<usize, usize>,
}

/// A map whose keys no client chooses. A client chooses only the names that it looks for, so the hash
/// needs no secret, and costs a few instructions.
type FixedMap<K, V> = HashMap<K, V, BuildHasherDefault<FixedHasher>>;

/// The hash FNV-1a for bytes, and one multiplication for numbers.
#[derive(Default)]
struct FixedHasher(u64);

impl FixedHasher {
    const PRIME: u64 = 0x0100_0000_01b3;
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
}

impl Hasher for FixedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(Self::PRIME);
        }
    }

    fn write_usize(&mut self, number: usize) {
        self.0 ^= number as u64;
    }

    fn finish(&self) -> u64 {
        // The map takes its place from the low bits and its tag from the high ones.
        let spread = self.0.wrapping_mul(Self::SPREAD);
        spread ^ (spread >> 32)
    }
}

fn address(spec: &'static Spec) -> usize {
    std::ptr::from_ref(spec).addr()
}

/// The subcommands of a command.
pub(crate) fn subcommands(spec: &'static Spec) -> &'static [Spec] {
    match spec.run {
        Run::Container(subcommands) => subcommands,
        _ => &[],
    }
}

impl Registry {
    pub(crate) fn new(families: &[Family]) -> Registry {
        let mut rows = Vec::new();
        let mut by_name = FixedMap::default();
        for (group, specs) in families {
            for spec in *specs {
                by_name.insert(spec.name.as_bytes(), spec);
                rows.push(Row { spec, group: *group, name: spec.name.to_owned() });
                for sub in subcommands(spec) {
                    let name = format!("{}|{}", spec.name, sub.name);
                    rows.push(Row { spec: sub, group: *group, name });
                }
            }
        }
        let numbers = rows.iter().enumerate();
        let numbers = numbers.map(|(number, row)| (address(row.spec), number)).collect();
        Registry { rows, by_name, numbers }
    }

    /// Every command and subcommand; a row's place is its number.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Every command, subcommands apart.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.name.contains('|'))
    }

    /// The number of a row, to count by.
    pub(crate) fn number(&self, spec: &'static Spec) -> usize {
        self.numbers.get(&address(spec)).copied().unwrap_or(usize::MAX - 1)
    }

    /// The row of a name in whatever case, a subcommand's being like `client|id`.
    pub(crate) fn row(&self, name: &[u8]) -> Option<&Row> {
        self.rows.iter().find(|row| name.eq_ignore_ascii_case(row.name.as_bytes()))
    }

    /// The command of a name in whatever case.
    pub(crate) fn by_name(&self, name: &[u8]) -> Option<&'static Spec> {
        let mut lower = [0; NAME_BYTES_MAX];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        self.by_name.get(&*lower).copied()
    }

    /// The command, or subcommand, that a call means, if it can be called with these arguments.
    ///
    /// # Errors
    /// The text that clients match.
    pub(crate) fn find(&self, args: &Args<'_>) -> Result<&'static Spec, Failure> {
        let Some(spec) = self.by_name(args.get(0)) else {
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
                refused_quoting(
                    "ERR unknown subcommand '",
                    quotable(wanted, QUOTED_BYTES_MAX),
                    &help,
                )
            }
        }
    }

    /// The command that a call means, whether or not it can be called so.
    pub(crate) fn known(&self, args: &Args<'_>) -> Option<&'static Spec> {
        let spec = self.by_name(args.get(0))?;
        let named = |sub: &&Spec| args.get(1).eq_ignore_ascii_case(sub.name.as_bytes());
        Some(subcommands(spec).iter().find(named).unwrap_or(spec))
    }
}
