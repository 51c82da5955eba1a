//! Figures as data: the name, kind and value of each. INFO writes them as text; another reader finds
//! the same figures without a look at that text.

use std::borrow::Cow;
use std::fmt;

/// The way in which a figure changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Grows while the process runs, unless statistics are reset.
    Counter,
    /// A state that goes up and down.
    Gauge,
    /// No number.
    Text,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Integer(i128),
    /// A number, and the digits behind the point with which it is written.
    Float(f64, usize),
    Text(String),
    /// Figures of one subject, such as a command or a database.
    Fields(Vec<(&'static str, Value)>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: Kind,
    pub(crate) value: Value,
}

/// The figures of one section, in their order.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) figures: Vec<Figure>,
}

/// A figure's value from an integer of any size.
pub(crate) fn integer(value: impl TryInto<i128>) -> Value {
    Value::Integer(value.try_into().unwrap_or(i128::MAX))
}

impl Section {
    pub(crate) fn new(name: &'static str) -> Self {
        Section { name, figures: Vec::new() }
    }

    pub(crate) fn push(&mut self, name: impl Into<Cow<'static, str>>, kind: Kind, value: Value) {
        self.figures.push(Figure { name: name.into(), kind, value });
    }

    pub(crate) fn counter(&mut self, name: &'static str, value: impl TryInto<i128>) {
        self.push(name, Kind::Counter, integer(value));
    }

    pub(crate) fn gauge(&mut self, name: &'static str, value: impl TryInto<i128>) {
        self.push(name, Kind::Gauge, integer(value));
    }

    pub(crate) fn text(&mut self, name: &'static str, value: impl fmt::Display) {
        self.push(name, Kind::Text, Value::Text(value.to_string()));
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Integer(number) => write!(f, "{number}"),
            Value::Float(number, digits) => write!(f, "{number:.digits$}"),
            Value::Text(text) => f.write_str(text),
            Value::Fields(fields) => {
                for (at, (name, value)) in fields.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(f, "{comma}{name}={value}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Section {
    /// The section as INFO shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "# {}\r\n", self.name)?;
        self.figures
            .iter()
            .try_for_each(|Figure { name, value, .. }| write!(f, "{name}:{value}\r\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_written_as_clients_of_redis_read_it() {
        let mut section = Section::new("Keyspace");
        section.gauge("databases", 16_usize);
        section.gauge("offset", -1);
        section.push("load", Kind::Gauge, Value::Float(1.0 / 3.0, 2));
        let fields = vec![("keys", integer(2_u64)), ("expires", integer(1_u64))];
        section.push("db0", Kind::Gauge, Value::Fields(fields));
        section.text("engine", "kvs");
        assert_eq!(
            section.to_string(),
            "# Keyspace\r\ndatabases:16\r\noffset:-1\r\nload:0.33\r\ndb0:keys=2,expires=1\r\n\
             engine:kvs\r\n"
        );
    }
}
