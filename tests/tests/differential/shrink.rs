//! From a long sequence that ends in a difference to a short one that does.
//!
//! Every try starts from two empty servers. Pipelines are taken apart first; then ever smaller
//! pieces are left out as long as a difference in the last step's reply stays.

use std::time::{Duration, Instant};

use crate::Servers;
use crate::generator::Step;
use crate::pair::{Difference, Pair};

/// A step older than this many is hardly the cause.
const STEPS_MAX: usize = 3_000;

/// A short sequence that ends in a difference; `None` if the difference does not show again.
pub(crate) fn shrunk(
    servers: &Servers,
    version: u8,
    history: &[Step],
    time: Duration,
) -> Option<(Vec<Step>, Difference)> {
    let start = Instant::now();
    let recent = &history[history.len().saturating_sub(STEPS_MAX)..];
    let single: Vec<Step> = recent.iter().flat_map(taken_apart).collect();
    let (mut steps, mut difference) = first_difference(servers, version, &single)?;
    let mut piece = steps.len() / 2;
    while piece > 0 {
        let mut at = 0;
        let mut is_shorter = false;
        while at + piece < steps.len() {
            if start.elapsed() > time {
                return Some((steps, difference));
            }
            let without = [&steps[..at], &steps[at + piece..]].concat();
            match first_difference(servers, version, &without) {
                Some(found) if found.1.kind() == difference.kind() => {
                    (steps, difference) = found;
                    is_shorter = true;
                }
                _ => at += piece,
            }
        }
        // An earlier piece may have been needed for a later one only.
        piece = if is_shorter && piece == 1 { 1 } else { piece / 2 };
    }
    Some((steps, difference))
}

/// The steps up to the first difference, and the difference.
fn first_difference(
    servers: &Servers,
    version: u8,
    steps: &[Step],
) -> Option<(Vec<Step>, Difference)> {
    let (redis, ours) = (servers.redis.addr(), servers.ours.addr());
    let mut pair = Pair::open(redis, ours, version).ok()?;
    for (count, step) in (1..).zip(steps) {
        if let Some(difference) = pair.run(step).ok()? {
            return Some((steps[..count].to_vec(), difference));
        }
    }
    None
}

fn taken_apart(step: &Step) -> Vec<Step> {
    match step {
        Step::Pipeline(commands) => {
            commands.iter().map(|command| Step::Pipeline(vec![command.clone()])).collect()
        }
        other => vec![other.clone()],
    }
}
