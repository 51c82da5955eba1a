//! Keys, whatever they hold: walking, removing, moving, deadlines.

pub(crate) mod expiry;
pub(crate) mod keys;
pub(crate) mod scan;
