//! The server over the Redis protocol, beside Debian's redis-server.
//!
//! The same commands go to ours, which syncs before it answers, to redis without persistence, to
//! redis that syncs before it answers, and to a server that answers without looking. They run in
//! processes of their own, over files on the same disk, and take turns. Ours gets a line for each
//! of the others, with the median of the ratios of the rounds.

use crate::args::{Args, chosen};
use crate::clients::Clients;
use crate::figure::{Figure, print_machine};
use crate::outcome::{BoxError, Outcome, progress};
use crate::redis_server::{REDIS, REDIS_SYNCED, find};
use crate::resp::Operation;
use crate::serve::{NOTHING, OURS};
use crate::server::Plan;
use crate::sockets::raise_open_files;
use crate::wire::Wire;

const SYSTEMS: [&str; 4] = [NOTHING, OURS, REDIS, REDIS_SYNCED];

pub(crate) fn run(args: &mut Args) -> Outcome {
    let mut plan = Plan::take(args, 1_000_000, 2.0, 9)?;
    let only: String = args.take("only", String::new())?;
    let operations = chosen(&only, Operation::ALL, |operation| operation.name())?;
    let systems = chosen(&args.take("systems", String::new())?, SYSTEMS, |name| name)?;
    let path: String = args.take("redis-server", String::new())?;
    args.finish()?;

    if systems.iter().any(|name| [REDIS, REDIS_SYNCED].contains(name)) {
        let (program, version) = find(&path)?;
        progress(&format!("{} is {version}", program.display()));
        plan.setup.redis = program;
    }
    raise_open_files()?;
    print_machine()?;
    let clients = Clients::new()?;
    for operation in operations {
        plan.measure(operation.name(), Wire::Resp(operation), &systems, &clients, print)?;
    }
    Ok(true)
}

/// Prints a figure of all systems; ours beside each of the others.
fn print(figures: &[Figure]) -> Result<(), BoxError> {
    let limit = figures.iter().find(|figure| figure.system == NOTHING).map(Figure::value);
    let is_ours = |figure: &&Figure| figure.system == OURS;
    let (ours, others): (Vec<_>, Vec<_>) = figures.iter().partition(is_ours);
    for other in &others {
        let limit = limit.filter(|_| other.system != NOTHING);
        Figure { limit, ..(*other).clone() }.print()?;
    }
    for ours in ours {
        let ours = Figure { limit, ..ours.clone() };
        if others.is_empty() {
            ours.print()?;
        }
        others.iter().try_for_each(|other| ours.clone().beside(other).print())?;
    }
    Ok(())
}
