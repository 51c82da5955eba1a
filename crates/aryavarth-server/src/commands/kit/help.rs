//! HELP: the subcommands of a command, as its rows tell them.

use aryavarth_protocol::Reply;

use crate::commands::kit::args::Args;
use crate::commands::kit::context::Context;
use crate::commands::kit::failure::{SYNTAX, refused};
use crate::commands::kit::rows::subcommands;
use crate::commands::kit::spec::{Outcome, Run, Spec};

/// A row of every command with subcommands.
pub(crate) const HELP: Spec = Spec::new("help", 2, "", Run::Context(help))
    .flags("loading stale")
    .since("5.0.0")
    .says("Shows helpful text about the different subcommands");

fn help(context: &mut Context<'_>, args: &Args<'_>) -> Outcome {
    let Some(spec) = context.registry.by_name(args.get(0)) else { return refused(SYNTAX) };
    let name = spec.name.to_ascii_uppercase();
    let mut lines =
        vec![format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")];
    for sub in subcommands(spec) {
        lines.push(format!("{} {}", sub.name.to_ascii_uppercase(), sub.usage).trim_end().into());
        lines.push(format!("    {}.", sub.summary));
    }
    Ok(Reply::Array(lines.into_iter().map(|line| Reply::Simple(line.into())).collect()))
}
