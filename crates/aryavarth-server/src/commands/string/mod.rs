//! Strings: reading, setting, counting.

pub(crate) mod assign;
mod extended;
pub(crate) mod increment;
mod lcs;
mod natural;
pub(crate) mod values;
