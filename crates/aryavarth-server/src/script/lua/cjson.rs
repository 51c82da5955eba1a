//! `cjson`: JSON to values and back, as lua-cjson 2.1 has it.
//!
//! Invariants:
//! - Nesting is bounded: 1,000 levels each way, less where the script says so.
//! - An encoding has at most as many bytes as the script may have memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mlua::{LightUserData, Lua, MultiValue, Table, Value};

use super::calls::Arguments;
use super::control::Control;
use super::problem;

/// The deepest nesting that a script may ask for.
const NESTING_MAX: usize = 1_000;

/// The settings that a script may change; each run begins with these.
#[derive(Debug)]
pub(super) struct Settings {
    sparse_convert: Cell<bool>,
    sparse_ratio: Cell<i64>,
    sparse_safe: Cell<i64>,
    encode_depth: Cell<usize>,
    decode_depth: Cell<usize>,
    digits: Cell<usize>,
    /// Whether numbers that are none are written, and as null.
    encode_invalid: Cell<Invalid>,
    decode_invalid: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Invalid {
    Refused,
    Written,
    Null,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sparse_convert: Cell::new(false),
            sparse_ratio: Cell::new(2),
            sparse_safe: Cell::new(10),
            encode_depth: Cell::new(NESTING_MAX),
            decode_depth: Cell::new(NESTING_MAX),
            digits: Cell::new(14),
            encode_invalid: Cell::new(Invalid::Refused),
            decode_invalid: Cell::new(true),
        }
    }
}

impl Settings {
    /// The settings of a new run.
    pub(super) fn reset(&self) {
        let new = Settings::default();
        self.sparse_convert.swap(&new.sparse_convert);
        self.sparse_ratio.swap(&new.sparse_ratio);
        self.sparse_safe.swap(&new.sparse_safe);
        self.encode_depth.swap(&new.encode_depth);
        self.decode_depth.swap(&new.decode_depth);
        self.digits.swap(&new.digits);
        self.encode_invalid.swap(&new.encode_invalid);
        self.decode_invalid.swap(&new.decode_invalid);
    }
}
