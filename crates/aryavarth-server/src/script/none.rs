//! A server that was built without Lua: every script is refused.

use std::borrow::Cow;

use aryavarth_protocol::Reply;

use super::{Host, Input, Running, Script, Stop};
use crate::limits::ScriptLimits;

const NO_LUA: &[u8] = b"ERR this server was built without its feature `lua`: it runs no scripts";

/// Refuses a script.
pub(crate) fn run(
    _: &Script,
    _: Input<'_>,
    _: (&Running<'_>, &ScriptLimits),
    _: &mut dyn Host,
) -> Result<Reply, Stop> {
    Err(Stop::Refused(Cow::Borrowed(NO_LUA)))
}

/// Refuses a script's text.
pub(super) fn check(_: &Script, _: &ScriptLimits) -> Result<(), String> {
    Err(String::from_utf8_lossy(&NO_LUA[4..]).into_owned())
}
