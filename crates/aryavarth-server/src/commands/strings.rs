//! Strings: GET.

use aryavarth_protocol::Reply;

use super::args::Args;
use super::read::Read;
use super::spec::{Flags, Outcome, Run, Spec};

pub(super) const SPECS: &[Spec] = &[Spec::new("get", 2, "key", Run::Read(get))
    .key()
    .flags(Flags::READONLY.and(Flags::FAST))
    .says("Returns the value of a key")];

fn get(keys: &mut dyn Read, args: &Args<'_>) -> Outcome {
    Ok(Reply::bulk_or_null(keys.find(args.get(1))?.map(|stored| stored.value)))
}
