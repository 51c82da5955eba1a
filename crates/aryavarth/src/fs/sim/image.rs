//! One simulated file: the contents for its readers, and those that a crash would leave.
//!
//! An [`Inode`] keeps the live image, the durable image as of the last sync, and the operations
//! since, in order. A sync folds them into the durable image; a crash folds some of them, torn at
//! sectors, into a copy. Blocks are shared between images until one of them is written, so a
//! crash costs a few pointers, not a copy of the data.
//!
//! Invariants:
//! - Whatever lies between the length and the end of its block is zero, so that a file which is
//!   cut and grows again reads as zeros.
//! - An image has exactly the blocks that its length needs.

use super::random::Random;
use crate::sync::Arc;

/// Bytes of a block: the unit in which space is counted.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Bytes of a sector: the unit in which a crash tears a write.
const SECTOR_BYTES: u64 = 512;

#[derive(Clone, Default)]
enum Block {
    /// Takes no space and reads as zeros.
    #[default]
    Hole,
    /// Allocated, never written.
    Zeros,
    Data(Arc<[u8; BLOCK_BYTES]>),
}

/// The contents of a file at one moment.
#[derive(Clone, Default)]
pub(super) struct Image {
    len: u64,
    blocks: Vec<Block>,
}

impl Image {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes on the disk, in whole blocks.
    pub(super) fn allocated(&self) -> u64 {
        let taken = self.blocks.iter().filter(|block| !matches!(block, Block::Hole)).count();
        (taken * BLOCK_BYTES) as u64
    }

    /// Copies the bytes at `offset` into `buf`; returns how many there are.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let bytes = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        for piece in pieces(offset, bytes) {
            let to = &mut buf[piece.from..piece.from + piece.bytes];
            match &self.blocks[piece.block] {
                Block::Hole | Block::Zeros => to.fill(0),
                Block::Data(data) => to.copy_from_slice(&data[piece.at..piece.at + piece.bytes]),
            }
        }
        bytes
    }

    /// How many of `bytes` at `offset` can be written with `blocks_free` new blocks.
    pub(super) fn fitting(&self, offset: u64, bytes: usize, mut blocks_free: u64) -> usize {
        for piece in pieces(offset, bytes) {
            if matches!(self.blocks.get(piece.block), None | Some(Block::Hole)) {
                if blocks_free == 0 {
                    return piece.from;
                }
                blocks_free -= 1;
            }
        }
        bytes
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        self.set_len(self.len.max(offset + bytes.len() as u64));
        for piece in pieces(offset, bytes.len()) {
            let block = &mut self.blocks[piece.block];
            if !matches!(block, Block::Data(_)) {
                *block = Block::Data(Arc::new([0; BLOCK_BYTES]));
            }
            if let Block::Data(data) = block {
                let from = &bytes[piece.from..piece.from + piece.bytes];
                Arc::make_mut(data)[piece.at..piece.at + piece.bytes].copy_from_slice(from);
            }
        }
    }

    fn allocate(&mut self, len: u64) {
        self.set_len(self.len.max(len));
        for block in self.blocks.iter_mut().take(blocks_of(len)) {
            if matches!(block, Block::Hole) {
                *block = Block::Zeros;
            }
        }
    }

    fn set_len(&mut self, len: u64) {
        let cut = len < self.len;
        self.len = len;
        self.blocks.resize_with(blocks_of(len), Block::default);
        let tail = len as usize % BLOCK_BYTES;
        if cut
            && tail > 0
            && let Some(Block::Data(data)) = self.blocks.last_mut()
        {
            Arc::make_mut(data)[tail..].fill(0);
        }
    }
}

fn blocks_of(len: u64) -> usize {
    len.div_ceil(BLOCK_BYTES as u64) as usize
}

/// The part of a range that lies in one block.
struct Piece {
    block: usize,
    /// Where it begins in the block.
    at: usize,
    /// Where it begins in the range.
    from: usize,
    bytes: usize,
}

fn pieces(offset: u64, bytes: usize) -> impl Iterator<Item = Piece> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let place = offset as usize + from;
        let (block, at) = (place / BLOCK_BYTES, place % BLOCK_BYTES);
        let piece = Piece { block, at, from, bytes: (BLOCK_BYTES - at).min(bytes - from) };
        from += piece.bytes;
        (piece.bytes > 0).then_some(piece)
    })
}

/// A change of a file that no sync has covered yet.
#[derive(Clone)]
enum Change {
    /// `extends` says that the write itself made the file longer.
    Write {
        offset: u64,
        bytes: Arc<[u8]>,
        extends: bool,
    },
    Allocate {
        len: u64,
    },
    SetLen {
        len: u64,
    },
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Change::Write { offset, bytes, .. } => image.write(bytes, *offset),
            Change::Allocate { len } => image.allocate(*len),
            Change::SetLen { len } => image.set_len(*len),
        }
    }

    /// Applies the part that a crash leaves: a change of the length as a whole or not at all, a
    /// write by its sectors, clipped to the length.
    fn apply_some(&self, image: &mut Image, random: &mut Random) {
        let Change::Write { offset, bytes, extends } = self else {
            if random.coin() {
                self.apply(image);
            }
            return;
        };
        let end = offset + bytes.len() as u64;
        if *extends && random.coin() {
            image.set_len(image.len.max(end));
        }
        let sectors = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        let torn = Tear::random(sectors.end - sectors.start, random);
        for (nth, sector) in sectors.enumerate() {
            let start = (sector * SECTOR_BYTES).max(*offset);
            let stop = ((sector + 1) * SECTOR_BYTES).min(end).min(image.len);
            if torn.keeps(nth as u64, random) && start < stop {
                image.write(&bytes[(start - offset) as usize..(stop - offset) as usize], start);
            }
        }
    }
}

/// Which sectors of a write a crash leaves.
enum Tear {
    First(u64),
    AllBut(u64),
    Any,
}

impl Tear {
    fn random(sectors: u64, random: &mut Random) -> Tear {
        match random.below(4) {
            0 => Tear::First(0),
            1 => Tear::First(random.below(sectors + 1)),
            2 => Tear::AllBut(random.below(sectors + 1)),
            _ => Tear::Any,
        }
    }

    fn keeps(&self, nth: u64, random: &mut Random) -> bool {
        match self {
            Tear::First(sectors) => nth < *sectors,
            Tear::AllBut(lost) => nth != *lost,
            Tear::Any => random.coin(),
        }
    }
}

/// A file, whatever its name.
#[derive(Clone, Default)]
pub(super) struct Inode {
    live: Image,
    durable: Image,
    unsynced: Vec<Change>,
    /// Open handles.
    pub(super) handles: u32,
    /// Whether a directory names it.
    pub(super) named: bool,
    /// Whether a handle holds its lock.
    pub(super) locked: bool,
    /// Syncs that forgot their changes. Each handle reports those that it has not seen once.
    pub(super) losses: u64,
}

impl Inode {
    /// A file with a name, its contents as durable as they are going to be.
    pub(super) fn named(image: Image) -> Inode {
        Inode { live: image.clone(), durable: image, named: true, ..Inode::default() }
    }

    /// The contents that calls see.
    pub(super) fn live(&self) -> &Image {
        &self.live
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let extends = offset + bytes.len() as u64 > self.live.len;
        self.change(Change::Write { offset, bytes: bytes.into(), extends });
    }

    pub(super) fn allocate(&mut self, len: u64) {
        self.change(Change::Allocate { len });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.change(Change::SetLen { len });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    /// Makes contents and length durable.
    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
        self.durable.set_len(self.live.len);
    }

    /// A sync that fails and forgets: see [`Fault::LostSync`](super::Fault::LostSync).
    pub(super) fn lose(&mut self) {
        self.unsynced.clear();
        self.losses += 1;
    }

    /// The rest of the file after a power cut: its synced bytes, and with luck some more.
    pub(super) fn after_power_cut(&self, luck: Option<&mut Random>) -> Image {
        let mut image = self.durable.clone();
        if let Some(luck) = luck {
            for change in &self.unsynced {
                change.apply_some(&mut image, luck);
            }
        }
        image
    }

    /// The same file after its process died: no handles, no lock, nothing more synced.
    pub(super) fn orphan(&self) -> Inode {
        Inode { handles: 0, locked: false, ..self.clone() }
    }
}
