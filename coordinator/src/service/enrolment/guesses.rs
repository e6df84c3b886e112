//! How many wrong tokens an address may send. Right ones are never counted, so that a rack of nodes behind one address enrols at once.

use crate::clock::UnixMs;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

/// Wrong tokens per address and window.
const WRONG_MAX: u32 = 10;
const WINDOW_MS: i64 = 60_000;
/// Addresses that are remembered. Beyond it all are forgotten: 256 bits are not guessed, this only bounds work and memory.
const ADDRESSES_MAX: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Tally {
    since: UnixMs,
    wrong: u32,
    told: bool,
}

/// What an address may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try.
    Welcome,
    /// Wait; `tell`: the first time in this window.
    Refused { tell: bool },
}

/// Wrong tokens by address.
#[derive(Debug, Default)]
pub(super) struct Guesses(HashMap<IpAddr, Tally>);

/// An IPv6 subscriber has a whole /64.
fn subscriber(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

impl Guesses {
    pub(super) fn look(&mut self, address: IpAddr, now: UnixMs) -> Verdict {
        match self.0.get_mut(&subscriber(address)) {
            Some(tally) if now - tally.since < WINDOW_MS && tally.wrong >= WRONG_MAX => {
                let tell = !tally.told;
                tally.told = true;
                Verdict::Refused { tell }
            }
            _ => Verdict::Welcome,
        }
    }

    pub(super) fn wrong(&mut self, address: IpAddr, now: UnixMs) {
        if self.0.len() >= ADDRESSES_MAX {
            self.0.retain(|_, tally| now - tally.since < WINDOW_MS);
            if self.0.len() >= ADDRESSES_MAX {
                self.0.clear();
            }
        }
        let fresh = Tally {
            since: now,
            wrong: 0,
            told: false,
        };
        let tally = self.0.entry(subscriber(address)).or_insert(fresh);
        if now - tally.since >= WINDOW_MS {
            *tally = fresh;
        }
        tally.wrong += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_that_guesses_waits_and_others_do_not() {
        let (mut guesses, bad, good) = (
            Guesses::default(),
            "192.0.2.1".parse().unwrap(),
            "192.0.2.2".parse().unwrap(),
        );
        for _ in 0..WRONG_MAX {
            assert_eq!(guesses.look(bad, 1), Verdict::Welcome);
            guesses.wrong(bad, 1);
        }
        assert_eq!(guesses.look(bad, 2), Verdict::Refused { tell: true });
        assert_eq!(guesses.look(bad, 3), Verdict::Refused { tell: false });
        assert_eq!(guesses.look(good, 3), Verdict::Welcome);
        assert_eq!(guesses.look(bad, WINDOW_MS + 1), Verdict::Welcome);
    }

    #[test]
    fn memory_is_bounded_and_a_whole_64_counts_as_one() {
        let mut guesses = Guesses::default();
        for host in 0..20_u128 {
            guesses.wrong(IpAddr::V6((0x2001_0db8_u128 << 96 | host).into()), 1);
        }
        assert_eq!(guesses.0.len(), 1);
        for host in 0..10_000_u32 {
            guesses.wrong(IpAddr::V4(host.into()), 1);
        }
        assert!(guesses.0.len() <= ADDRESSES_MAX);
    }
}
