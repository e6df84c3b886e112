//! Everything random of a run comes from here, and all of it from the run's seed.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
};

/// xoshiro256** (Blackman and Vigna), seeded through splitmix64: the same on every machine and in every version of every library.
#[derive(Debug, Clone)]
pub struct Dice([u64; 4]);

impl Dice {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self([next(), next(), next(), next()])
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// One of `0..n`; `n` is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        // The bias of a remainder is far below anything that a campaign could notice.
        usize::try_from(self.draw() % n as u64).expect("smaller than a usize")
    }

    /// One of the range.
    pub fn range(&mut self, range: RangeInclusive<u32>) -> u32 {
        let span = u64::from(range.end() - range.start()) + 1;
        range.start() + u32::try_from(self.draw() % span).expect("smaller than the range")
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.range(0..=999) < per_mille
    }

    /// One of the places, by weight; `None` if all weights are 0.
    pub fn weighted(&mut self, weights: &[u32]) -> Option<usize> {
        let sum: u32 = weights.iter().sum();
        if sum == 0 {
            return None;
        }
        let mut at = self.range(0..=sum - 1);
        weights.iter().position(|weight| {
            let hit = at < *weight;
            at = at.wrapping_sub(*weight);
            hit
        })
    }
}

/// Dice that several parts of one run throw, one after the other.
#[derive(Debug, Clone)]
pub struct SharedDice(Arc<Mutex<Dice>>);

impl SharedDice {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Dice::new(seed))))
    }

    /// Throws.
    pub fn throw<T>(&self, throw: impl FnOnce(&mut Dice) -> T) -> T {
        throw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// See [`Dice::chance`].
    pub fn chance(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.throw(|dice| dice.chance(per_mille))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_seed_one_sequence() {
        let draws = |seed| {
            let mut dice = Dice::new(seed);
            [dice.draw(), dice.draw(), dice.draw()]
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn weights_are_kept_to() {
        let mut dice = Dice::new(1);
        let mut hits = [0; 4];
        for _ in 0..4000 {
            hits[dice.weighted(&[1, 0, 2, 1]).unwrap()] += 1;
        }
        assert!(
            hits[1] == 0 && hits[2] > 1800 && hits[0] > 800 && hits[3] > 800,
            "{hits:?}"
        );
        assert_eq!(dice.weighted(&[0, 0]), None);
    }
}
