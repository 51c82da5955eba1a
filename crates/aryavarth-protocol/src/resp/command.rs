//! A command as it arrived: its name and arguments, which are parts of one piece of the input.

use std::ops::Range;

use bytes::Bytes;

/// A command: one or more arguments, the first of which is its name. Cheap to clone and to keep:
/// the arguments are parts of the bytes that arrived.
///
/// ```
/// use aryavarth_protocol::Command;
///
/// let command = Command::from_args(["SET", "k", "v"]);
/// assert_eq!((command.len(), command.name()), (3, &b"SET"[..]));
/// assert_eq!(command.get(2), Some(&b"v"[..]));
/// assert_eq!(command.args().count(), 2);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    bytes: Bytes,
    /// Where each argument lies in `bytes`; never empty.
    parts: Box<[Range<usize>]>,
}

impl Command {
    /// A command whose arguments lie in `bytes` at `parts`, of which there is at least one.
    pub(crate) fn new(bytes: Bytes, parts: Vec<Range<usize>>) -> Self {
        debug_assert!(!parts.is_empty(), "a command has a name");
        Command { bytes, parts: parts.into() }
    }

    /// A command of these arguments, the name first; an empty list is a command without a name.
    pub fn from_args(args: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let mut bytes = Vec::new();
        let mut parts = Vec::new();
        for arg in args {
            let start = bytes.len();
            bytes.extend_from_slice(arg.as_ref());
            parts.push(start..bytes.len());
        }
        if parts.is_empty() {
            parts.push(0..0);
        }
        Command::new(bytes.into(), parts)
    }

    /// The name, as it was sent, in whatever case.
    pub fn name(&self) -> &[u8] {
        self.part(&self.parts[0])
    }

    /// How many arguments there are, the name included.
    #[expect(clippy::len_without_is_empty, reason = "there is always a name")]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// The argument at `index`; the name is at 0.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.parts.get(index).map(|part| self.part(part))
    }

    /// The arguments after the name.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &[u8]> + DoubleEndedIterator + Clone {
        self.parts[1..].iter().map(|part| self.part(part))
    }

    /// Bytes that the command keeps.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.parts)
    }

    fn part(&self, part: &Range<usize>) -> &[u8] {
        &self.bytes[part.clone()]
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.parts.iter().map(|part| self.part(part).escape_ascii().to_string());
        f.debug_list().entries(shown).finish()
    }
}
