//! `bit`: operations on 32 bits, as `LuaBitOp` has them.

use mlua::{Lua, MultiValue, Table, Value};

use super::calls::Arguments;

type Fold = fn(u32, u32) -> u32;
type Shift = fn(u32, u32) -> u32;
type Change = fn(u32) -> u32;

/// A number as 32 bits: rounded to the nearest integer, and modulo 2^32.
fn bits(args: &Arguments<'_>, at: usize) -> mlua::Result<u32> {
    let number = args.number(at)?.round_ties_even();
    let rest = number.rem_euclid(4_294_967_296.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is from 0 on and below 2^32, or no number"
    )]
    Ok(rest as u32)
}

fn value(bits: u32) -> Value {
    Value::Integer(i64::from(bits.cast_signed()))
}

/// The table `bit`.
pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let folds: [(&'static str, Fold); 3] =
        [("band", |a, b| a & b), ("bor", |a, b| a | b), ("bxor", |a, b| a ^ b)];
    for (name, fold) in folds {
        let function = lua.create_function(move |lua, values: MultiValue| {
            let count = values.len().max(1);
            let args = Arguments { lua, name, values };
            let mut folded = bits(&args, 1)?;
            for at in 2..=count {
                folded = fold(folded, bits(&args, at)?);
            }
            Ok(value(folded))
        })?;
        table.raw_set(name, function)?;
    }
    let shifts: [(&'static str, Shift); 5] = [
        ("lshift", |bits, by| bits << by),
        ("rshift", |bits, by| bits >> by),
        ("arshift", |bits, by| (bits.cast_signed() >> by).cast_unsigned()),
        ("rol", u32::rotate_left),
        ("ror", u32::rotate_right),
    ];
    for (name, shift) in shifts {
        let function = lua.create_function(move |lua, values| {
            let args = Arguments { lua, name, values };
            Ok(value(shift(bits(&args, 1)?, bits(&args, 2)? & 31)))
        })?;
        table.raw_set(name, function)?;
    }
    let singles: [(&'static str, Change); 3] =
        [("tobit", |bits| bits), ("bnot", |bits| !bits), ("bswap", u32::swap_bytes)];
    for (name, change) in singles {
        let function = lua.create_function(move |lua, values| {
            Ok(value(change(bits(&Arguments { lua, name, values }, 1)?)))
        })?;
        table.raw_set(name, function)?;
    }
    table.raw_set("tohex", lua.create_function(to_hex)?)?;
    Ok(table)
}

/// Hexadecimal digits: as many as asked for, in capitals if that is negative.
fn to_hex(lua: &Lua, values: MultiValue) -> mlua::Result<String> {
    let args = Arguments { lua, name: "tohex", values };
    let bits = bits(&args, 1)?;
    let wanted = if args.value(2).is_nil() { 8 } else { args.integer(2)? };
    let digits = usize::try_from(wanted.unsigned_abs()).unwrap_or(8).min(8);
    let text = if wanted < 0 { format!("{bits:08X}") } else { format!("{bits:08x}") };
    Ok(text[8 - digits..].to_owned())
}
