//! Integers from zero on, of any size: as much as exact decimal conversion needs.

use std::cmp::Ordering;

/// A number; 32 bits a digit, the lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Natural(Vec<u32>);

impl Natural {
    pub(super) fn new(number: u64) -> Natural {
        let mut new = Natural(vec![low(number), low(number >> 32)]);
        new.trim();
        new
    }

    /// Ten to a power.
    pub(super) fn power_of_ten(power: u64) -> Natural {
        let mut number = Natural::new(1);
        for _ in 0..power / 9 {
            number.multiply_add(1_000_000_000, 0);
        }
        for _ in 0..power % 9 {
            number.multiply_add(10, 0);
        }
        number
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bits it has.
    pub(super) fn bits(&self) -> u64 {
        self.0.last().map_or(0, |top| 32 * self.0.len() as u64 - u64::from(top.leading_zeros()))
    }

    /// Multiplies by `factor` and adds `term`.
    pub(super) fn multiply_add(&mut self, factor: u32, term: u32) {
        let mut carry = u64::from(term);
        for digit in &mut self.0 {
            carry += u64::from(*digit) * u64::from(factor);
            *digit = low(carry);
            carry >>= 32;
        }
        self.0.push(low(carry));
        self.trim();
    }

    /// Divides by `divisor`; returns the rest.
    pub(super) fn divide(&mut self, divisor: u32) -> u32 {
        let mut rest = 0;
        for digit in self.0.iter_mut().rev() {
            let part = (rest << 32) | u64::from(*digit);
            *digit = low(part / u64::from(divisor));
            rest = part % u64::from(divisor);
        }
        self.trim();
        low(rest)
    }

    pub(super) fn times(&self, other: &Natural) -> Natural {
        let mut product = vec![0; self.0.len() + other.0.len()];
        for (at, a) in self.0.iter().enumerate() {
            let mut carry = 0;
            for (b, digit) in other.0.iter().zip(&mut product[at..]) {
                carry += u64::from(*a) * u64::from(*b) + u64::from(*digit);
                *digit = low(carry);
                carry >>= 32;
            }
            product[at + other.0.len()] = low(carry);
        }
        let mut product = Natural(product);
        product.trim();
        product
    }

    pub(super) fn shift_left(&mut self, bits: u64) {
        let bits = usize::try_from(bits).unwrap_or(usize::MAX);
        self.0.splice(0..0, std::iter::repeat_n(0, bits / 32));
        self.multiply_add(1 << (bits % 32), 0);
    }

    /// Subtracts a number that is not greater.
    pub(super) fn subtract(&mut self, other: &Natural) {
        let mut is_borrowed = false;
        let others = other.0.iter().copied().chain(std::iter::repeat(0));
        for (digit, other) in self.0.iter_mut().zip(others) {
            let (less, first) = digit.overflowing_sub(other);
            let (less, second) = less.overflowing_sub(u32::from(is_borrowed));
            *digit = less;
            is_borrowed = first || second;
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_length = self.0.len().cmp(&other.0.len());
        by_length.then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The lower 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "the upper bits are taken by another call")]
fn low(number: u64) -> u32 {
    number as u32
}
