//! SHA-1, by which clients name scripts. It guards nothing.

use std::fmt;

/// The SHA-1 of a text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Hash([u8; 20]);

const BLOCK: usize = 64;

impl Hash {
    pub(crate) fn of(text: &[u8]) -> Hash {
        let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
        let (blocks, rest) = text.as_chunks::<BLOCK>();
        for block in blocks {
            mix(&mut state, block);
        }
        // A one bit, zeros, and the length in bits.
        let mut end = [0; 2 * BLOCK];
        end[..rest.len()].copy_from_slice(rest);
        end[rest.len()] = 0x80;
        let length = if rest.len() < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        let bits = (text.len() as u64).wrapping_mul(8);
        end[length - 8..length].copy_from_slice(&bits.to_be_bytes());
        for block in end[..length].as_chunks::<BLOCK>().0 {
            mix(&mut state, block);
        }
        let mut hash = [0; 20];
        for (word, bytes) in state.iter().zip(hash.as_chunks_mut::<4>().0) {
            *bytes = word.to_be_bytes();
        }
        Hash(hash)
    }

    /// Reads the 40 digits that clients send, in either case.
    pub(crate) fn parse(digits: &[u8]) -> Option<Hash> {
        let mut hash = [0; 20];
        if digits.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            *byte = u8::try_from(high? * 16 + low?).ok()?;
        }
        Some(Hash(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[expect(clippy::many_single_char_names, reason = "the standard names its words so")]
fn mix(state: &mut [u32; 5], block: &[u8; BLOCK]) {
    let mut words = [0_u32; 80];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for at in 16..80 {
        let mixed = words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16];
        words[at] = mixed.rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (at, word) in words.into_iter().enumerate() {
        let (chosen, constant) = match at {
            0..20 => ((b & c) | (!b & d), 0x5a82_7999),
            20..40 => (b ^ c ^ d, 0x6ed9_eba1),
            40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6_u32),
        };
        let next = a.rotate_left(5).wrapping_add(chosen).wrapping_add(e);
        let next = next.wrapping_add(constant).wrapping_add(word);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    for (word, mixed) in state.iter_mut().zip([a, b, c, d, e]) {
        *word = word.wrapping_add(mixed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_those_of_the_standard() {
        for (text, digits) in [
            ("", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            ("abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
            ),
            ("return 1", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"),
        ] {
            assert_eq!(Hash::of(text.as_bytes()).to_string(), digits);
        }
        let million = vec![b'a'; 1_000_000];
        assert_eq!(Hash::of(&million).to_string(), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
    }

    #[test]
    fn a_hash_is_read_in_either_case() {
        let hash = Hash::of(b"abc");
        let digits = hash.to_string();
        assert_eq!(Hash::parse(digits.as_bytes()), Some(hash));
        assert_eq!(Hash::parse(digits.to_uppercase().as_bytes()), Some(hash));
        assert_eq!(Hash::parse(&digits.as_bytes()[1..]), None);
        assert_eq!(Hash::parse(&[b'g'; 40]), None);
    }
}
