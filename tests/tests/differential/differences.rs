//! Where our replies differ from those of redis 7.0 on purpose, and why.
//!
//! The list is data, and docs/clients.md shows it to users; a test holds the two together. A
//! difference that is not in the list is a bug. Replies that no sequence here can ask for (the texts of
//! INFO, addresses, cursors of SCAN, which are compared by their effects) are not in the list.

use aryavarth_tests::resp::shown;

/// A difference that stays.
pub(crate) struct Deliberate {
    /// The command, in capitals.
    pub(crate) command: &'static str,
    /// The beginning of redis's reply.
    pub(crate) redis: &'static str,
    /// The beginning of our reply.
    pub(crate) ours: &'static str,
    /// Why, as docs/clients.md says it.
    pub(crate) reason: &'static str,
}

pub(crate) const DELIBERATE: &[Deliberate] = &[];

/// Whether two replies that are not equal may stay so.
pub(crate) fn is_deliberate(command: &[u8], redis: &[u8], ours: &[u8]) -> bool {
    let (redis, ours) = (shown(redis), shown(ours));
    DELIBERATE.iter().any(|known| {
        (known.command.as_bytes().eq_ignore_ascii_case(command) || known.command == "*")
            && redis.starts_with(known.redis)
            && ours.starts_with(known.ours)
    })
}

#[test]
fn every_deliberate_difference_is_told_to_users() {
    let page = aryavarth_tests::root().join("docs/clients.md");
    let page = std::fs::read_to_string(page).unwrap();
    let words: Vec<&str> = page.split_whitespace().collect();
    let page = words.join(" ");
    let missing: Vec<&str> =
        DELIBERATE.iter().map(|known| known.reason).filter(|why| !page.contains(why)).collect();
    assert!(missing.is_empty(), "docs/clients.md does not say:\n{}", missing.join("\n"));
}
