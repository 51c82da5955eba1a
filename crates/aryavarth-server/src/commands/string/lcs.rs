//! LCS: the longest sequence of bytes that two values have in common, in order, with gaps.
//!
//! The usual table of prefixes, walked back from its end; where two ways are equally long the walk
//! takes the one that Redis takes, so that the same bytes come out. Invariant: the table is no
//! larger than a value may be, so neither memory nor time are without bounds.

use std::ops::RangeInclusive;

use aryavarth_protocol::Reply;

use super::values::length;
use crate::commands::kit::args::Args;
use crate::commands::kit::failure::{SYNTAX, refused};
use crate::commands::kit::read::Read;
use crate::commands::kit::spec::Outcome;

#[derive(Default)]
struct Options {
    len: bool,
    idx: bool,
    match_bytes_min: i64,
    with_match_len: bool,
}

pub(super) fn lcs(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    keys.begin_long()?;
    let mut value = |place| {
        let found = keys.find(args.get(place))?;
        Ok::<_, crate::commands::kit::failure::Failure>(
            found.map_or_else(Vec::new, |stored| stored.value),
        )
    };
    let (a, b) = (value(1)?, value(2)?);
    let mut options = Options::default();
    let mut place = 3;
    while place < args.len() {
        if args.is(place, "LEN") {
            options.len = true;
        } else if args.is(place, "IDX") {
            options.idx = true;
        } else if args.is(place, "WITHMATCHLEN") {
            options.with_match_len = true;
        } else if args.is(place, "MINMATCHLEN") && place + 1 < args.len() {
            place += 1;
            options.match_bytes_min = args.integer(place)?;
        } else {
            return refused(SYNTAX);
        }
        place += 1;
    }
    if options.len && options.idx {
        return refused("ERR If you want both the length and indexes, please just use IDX.");
    }
    let cells = (a.len() + 1).saturating_mul(b.len() + 1);
    if cells.saturating_mul(size_of::<u32>()) > args.value_bytes_max() {
        return refused(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        );
    }
    let common = Common::of(&a, &b);
    Ok(if options.idx {
        matches_reply(&common, &options)
    } else if options.len {
        length(common.bytes)
    } else {
        let parts = common.matches.iter().rev().map(|(in_a, _)| &a[in_a.clone()]);
        Reply::Bulk(parts.collect::<Vec<_>>().concat())
    })
}

/// Where two values have the same bytes: the places in the first and in the second.
type Match = (RangeInclusive<usize>, RangeInclusive<usize>);

struct Common {
    /// Bytes in common.
    bytes: usize,
    /// The runs of them, the last one first.
    matches: Vec<Match>,
}

impl Common {
    fn of(a: &[u8], b: &[u8]) -> Self {
        let width = b.len() + 1;
        // How long the longest common sequence of each two prefixes is.
        let mut table = vec![0_u32; (a.len() + 1) * width];
        for (i, in_a) in a.iter().enumerate() {
            let (above, below) = table[i * width..(i + 2) * width].split_at_mut(width);
            for (j, in_b) in b.iter().enumerate() {
                below[j + 1] = if in_a == in_b { above[j] + 1 } else { above[j + 1].max(below[j]) };
            }
        }
        let at = |i: usize, j: usize| table[i * width + j];
        let (mut i, mut j) = (a.len(), b.len());
        let mut matches = Vec::new();
        let mut run: Option<Match> = None;
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                (i, j) = (i - 1, j - 1);
                run = Some(match run {
                    Some((in_a, in_b)) => (i..=*in_a.end(), j..=*in_b.end()),
                    None => (i..=i, j..=j),
                });
            } else {
                matches.extend(run.take());
                if at(i - 1, j) > at(i, j - 1) {
                    i -= 1;
                } else {
                    j -= 1;
                }
            }
        }
        matches.extend(run);
        Common { bytes: at(a.len(), b.len()) as usize, matches }
    }
}

fn matches_reply(common: &Common, options: &Options) -> Reply {
    let ends = |range: &RangeInclusive<usize>| {
        Reply::Array(vec![length(*range.start()), length(*range.end())])
    };
    let mut shown = Vec::new();
    for (in_a, in_b) in &common.matches {
        let bytes = length(in_a.end() - in_a.start() + 1);
        if matches!(bytes, Reply::Integer(bytes) if bytes < options.match_bytes_min) {
            continue;
        }
        let mut parts = vec![ends(in_a), ends(in_b)];
        if options.with_match_len {
            parts.push(bytes);
        }
        shown.push(Reply::Array(parts));
    }
    Reply::Map(vec![
        (Reply::bulk("matches"), Reply::Array(shown)),
        (Reply::bulk("len"), length(common.bytes)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_from_the_end_on() {
        let common = Common::of(b"ohmytext", b"mynewtext");
        assert_eq!(common.bytes, 6);
        assert_eq!(common.matches, [(4..=7, 5..=8), (2..=3, 0..=1)]);
        let none = Common::of(b"", b"abc");
        assert_eq!((none.bytes, none.matches.len()), (0, 0));
    }

    #[test]
    fn runs_are_as_long_as_the_table_says() {
        // A generator of Knuth's, so that a failure can be repeated.
        let mut random: u64 = 1;
        let mut text = || {
            (0..40)
                .map_while(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (!(random >> 33).is_multiple_of(30))
                        .then_some(b"abc"[(random >> 40) as usize % 3])
                })
                .collect::<Vec<u8>>()
        };
        for _ in 0..500 {
            let (a, b) = (text(), text());
            let common = Common::of(&a, &b);
            let runs = common.matches.iter().map(|(in_a, in_b)| {
                assert_eq!(a[in_a.clone()], b[in_b.clone()]);
                in_a.end() - in_a.start() + 1
            });
            assert_eq!(runs.sum::<usize>(), common.bytes);
        }
    }
}
