//! A command as it arrived: its name and arguments, which are parts of one piece of the input.
//!
//! Invariants:
//! - There is always a name, and every part lies inside the bytes.
//! - A command of up to [`FEW`] arguments takes no memory beyond the piece that it shares.

use std::ops::Range;

use bytes::Bytes;

/// The most arguments that need no list of their own: `SET key value EX 10` is five.
const FEW: usize = 5;

/// Where one argument lies in the bytes of its command.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    start: u32,
    end: u32,
}

/// Where the arguments of a command lie, in order.
#[derive(Clone, Debug)]
pub(super) enum Parts {
    Few { count: u32, parts: [Part; FEW] },
    Many(Vec<Part>),
}

impl Default for Parts {
    fn default() -> Self {
        Parts::Few { count: 0, parts: [Part::default(); FEW] }
    }
}

impl Parts {
    /// Adds the argument from `start` to `end`, in bytes of its command, which are below 4 GiB.
    pub(super) fn push(&mut self, start: usize, end: usize) {
        let part = Part { start: offset(start), end: offset(end) };
        match self {
            Parts::Few { count, parts } if (*count as usize) < FEW => {
                parts[*count as usize] = part;
                *count += 1;
            }
            Parts::Few { parts, .. } => {
                let mut many = Vec::with_capacity(2 * FEW);
                many.extend_from_slice(parts);
                many.push(part);
                *self = Parts::Many(many);
            }
            Parts::Many(parts) => parts.push(part),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// Where the name lies, if there is one.
    pub(super) fn first(&self) -> Option<Range<usize>> {
        self.as_slice().first().map(|part| part.start as usize..part.end as usize)
    }

    fn as_slice(&self) -> &[Part] {
        match self {
            Parts::Few { count, parts } => &parts[..*count as usize],
            Parts::Many(parts) => parts,
        }
    }

    /// Bytes allocated beyond the value itself.
    fn heap_bytes(&self) -> usize {
        match self {
            Parts::Few { .. } => 0,
            Parts::Many(parts) => parts.capacity() * size_of::<Part>(),
        }
    }
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a command takes less than 4 GiB, or it was refused")
}

/// A command: one or more arguments, the first of which is its name. Cheap to clone: the arguments
/// are parts of the bytes that arrived, which stay in memory for as long as one command of the same
/// piece does. To keep a command for long, keep its [`detached`](Command::detached) copy.
///
/// ```
/// use aryavarth_protocol::Command;
///
/// let command = Command::from_args(["SET", "k", "v"]);
/// assert_eq!((command.len(), command.name()), (3, &b"SET"[..]));
/// assert_eq!(command.get(2), Some(&b"v"[..]));
/// assert_eq!(command.args().count(), 2);
/// ```
#[derive(Clone)]
pub struct Command {
    bytes: Bytes,
    parts: Parts,
}

impl Command {
    /// A command whose arguments lie in `bytes` at `parts`, of which there is at least one.
    pub(super) fn new(bytes: Bytes, parts: Parts) -> Self {
        debug_assert!(!parts.is_empty(), "a command has a name");
        Command { bytes, parts }
    }

    /// A command of these arguments, the name first; an empty list is a command without a name.
    /// Panics if they take 4 GiB or more.
    pub fn from_args(args: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut bytes = Vec::new();
        let mut parts = Parts::default();
        for arg in args {
            let start = bytes.len();
            bytes.extend_from_slice(arg.as_ref());
            parts.push(start, bytes.len());
        }
        if parts.is_empty() {
            parts.push(0, 0);
        }
        Command::new(bytes.into(), parts)
    }

    /// The name as it was sent, in any case.
    pub fn name(&self) -> &[u8] {
        self.part(self.parts.as_slice()[0])
    }

    /// How many arguments there are, the name included.
    #[expect(clippy::len_without_is_empty, reason = "there is always a name")]
    pub fn len(&self) -> usize {
        self.parts.as_slice().len()
    }

    /// The argument at `index`; the name is at 0.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.parts.as_slice().get(index).map(|part| self.part(*part))
    }

    /// The arguments after the name.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &[u8]> + DoubleEndedIterator + Clone {
        self.parts.as_slice()[1..].iter().map(|part| self.part(*part))
    }

    /// Bytes that the command takes: its length on the wire, and the list of its arguments.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.parts.heap_bytes()
    }

    /// A copy that keeps nothing in memory but itself.
    #[must_use]
    pub fn detached(&self) -> Command {
        Command::from_args(self.parts.as_slice().iter().map(|part| self.part(*part)))
    }

    fn part(&self, part: Part) -> &[u8] {
        &self.bytes[part.start as usize..part.end as usize]
    }
}

/// Commands are equal if their arguments are, however they were written on the wire.
impl PartialEq for Command {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.args().eq(other.args())
    }
}

impl Eq for Command {}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut list = f.debug_list();
        for part in self.parts.as_slice() {
            list.entry(&format_args!("\"{}\"", self.part(*part).escape_ascii()));
        }
        list.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_arguments_and_many_are_the_same_to_a_reader() {
        for count in 1..4 * FEW {
            let args: Vec<String> = (0..count).map(|number| number.to_string()).collect();
            let command = Command::from_args(&args);
            assert_eq!(command.len(), count);
            assert_eq!(command.name(), b"0");
            assert!(command.args().eq(args[1..].iter().map(String::as_bytes)));
            assert_eq!(command.get(count - 1), Some(args[count - 1].as_bytes()));
            assert_eq!(command.get(count), None);
            assert_eq!(command.detached(), command);
        }
    }

    #[test]
    fn commands_are_equal_by_their_arguments() {
        assert_eq!(Command::from_args([""; 0]), Command::from_args([""]));
        assert_ne!(Command::from_args(["a", "bc"]), Command::from_args(["ab", "c"]));
        assert_ne!(Command::from_args(["a"]), Command::from_args(["a", ""]));
    }
}
