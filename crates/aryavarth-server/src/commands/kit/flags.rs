//! Flags and categories of a command, written in its row by their names, as in
//! `"write denyoom @string"`; a name that is not in the list does not compile.
//!
//! Names without a mark are redis's flags, names with `@` its categories; those in capitals are
//! this server's own, and clients do not see them.

/// A set of flags and categories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u32);

/// Every name; its place is its bit.
const NAMES: [&str; 30] = [
    "write",
    "readonly",
    "denyoom",
    "admin",
    "noscript",
    "pubsub",
    "blocking",
    "loading",
    "stale",
    "skip_monitor",
    "skip_slowlog",
    "fast",
    "no_auth",
    "no_async_loading",
    "no_multi",
    "allow_busy",
    "no_mandatory_keys",
    "@keyspace",
    "@string",
    "@admin",
    "@dangerous",
    "@connection",
    "@transaction",
    "@scripting",
    "UNQUEUED",
    "SUBSCRIBED",
    "LISTENS",
    "PUBLISHES",
    "WAITS",
    "NO_VALUES",
];

impl Flags {
    pub(crate) const NONE: Flags = Flags(0);
    pub(crate) const WRITE: Flags = Flags::named("write");
    /// Refused when there is too little memory.
    pub(crate) const DENYOOM: Flags = Flags::named("denyoom");
    /// Not for scripts.
    pub(crate) const NO_SCRIPT: Flags = Flags::named("noscript");
    /// Runs before a password was given.
    pub(crate) const NO_AUTH: Flags = Flags::named("no_auth");
    /// Refused inside a transaction.
    pub(crate) const NO_MULTI: Flags = Flags::named("no_multi");
    /// Kept out of the slow log, because its parts stand there.
    pub(crate) const SKIP_SLOWLOG: Flags = Flags::named("skip_slowlog");
    /// Runs at once inside a transaction that is being collected.
    pub(crate) const UNQUEUED: Flags = Flags::named("UNQUEUED");
    /// Runs for a client of RESP2 that has subscribed.
    pub(crate) const SUBSCRIBED: Flags = Flags::named("SUBSCRIBED");
    /// Changes the client's subscriptions: runs in the connection's own hands only.
    pub(crate) const LISTENS: Flags = Flags::named("LISTENS");
    /// Matches patterns, which may take long.
    pub(crate) const PUBLISHES: Flags = Flags::named("PUBLISHES");
    /// May wait for the engine's writer or for a disk.
    pub(crate) const WAITS: Flags = Flags::named("WAITS");
    /// Needs no values, only to know which keys there are, and their deadlines.
    pub(crate) const NO_VALUES: Flags = Flags::named("NO_VALUES");
    /// Not shown by MONITOR.
    pub(crate) const UNSEEN: Flags = Flags::named("admin skip_monitor");

    /// The set of names with a space between them.
    pub(crate) const fn named(names: &str) -> Flags {
        let names = names.as_bytes();
        let (mut bits, mut from, mut at) = (0, 0, 0);
        while at <= names.len() {
            if at == names.len() || names[at] == b' ' {
                bits |= bit(names, from, at);
                from = at + 1;
            }
            at += 1;
        }
        Flags(bits)
    }

    pub(crate) const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    pub(crate) const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn has_any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    fn all(self) -> impl Iterator<Item = &'static str> {
        let names = NAMES.into_iter().enumerate();
        names.filter(move |(at, _)| self.0 & (1 << at) != 0).map(|(_, name)| name)
    }

    /// The flags that `COMMAND` gives.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        self.all().filter(|name| name.starts_with(|first: char| first.is_ascii_lowercase()))
    }

    /// The categories that `COMMAND` gives, without their mark.
    pub(crate) fn categories(self) -> Vec<&'static str> {
        let is = |name: &str| self.has(Flags::named(name));
        let own = self.all().filter_map(|name| name.strip_prefix('@'));
        let mut categories: Vec<&str> = own.collect();
        let is_fast = is("fast");
        let implied = [
            // A script that only reads is no reading command, as in redis.
            ("read", is("readonly") && !is("@scripting")),
            ("write", is("write")),
            ("admin", is("admin")),
            ("dangerous", is("admin")),
            ("blocking", is("blocking")),
            ("pubsub", is("pubsub")),
            ("fast", is_fast),
            ("slow", !is_fast),
        ];
        categories.extend(implied.into_iter().filter(|(_, is)| *is).map(|(name, _)| name));
        categories.sort_by_key(|name| CATEGORIES.iter().position(|known| known == name));
        categories.dedup();
        categories
    }
}

/// The categories that there can be, in redis's order.
pub(crate) const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// The bit of the name at `from..to`.
const fn bit(names: &[u8], from: usize, to: usize) -> u32 {
    let mut known = 0;
    while known < NAMES.len() {
        let name = NAMES[known].as_bytes();
        if name.len() == to - from {
            let mut same = 0;
            while same < name.len() && name[same] == names[from + same] {
                same += 1;
            }
            if same == name.len() {
                return 1 << known;
            }
        }
        known += 1;
    }
    assert!(from == to, "a flag that is not in the list");
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_by_their_names() {
        let flags = Flags::named("write denyoom @string UNQUEUED");
        assert_eq!(flags.names().collect::<Vec<_>>(), ["write", "denyoom"]);
        assert_eq!(flags.categories(), ["write", "string", "slow"]);
        assert!(flags.has(Flags::UNQUEUED) && !flags.has(Flags::WAITS));
        assert_eq!(Flags::named(""), Flags::NONE);
    }
}
