//! How a command ends, and how it reports on its way.

use std::error::Error;
use std::io::{self, Write};

/// The outcome of a command: whether every bound that it checks was kept.
pub(crate) type Outcome = Result<bool, BoxError>;

/// Any error ends the run with its message.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Tells a person how far the run is.
pub(crate) fn progress(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
