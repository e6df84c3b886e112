//! How often somebody may try a password: per account and per address.

use crate::clock::UnixMs;
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

/// Failed tries count for so long.
const WINDOW_MS: UnixMs = 5 * 60 * 1000;
/// Failed tries per account within the window.
const PER_ACCOUNT: usize = 10;
/// Failed tries per address within the window. Many people may share one.
const PER_ADDRESS: usize = 60;
/// Above so many keys those that count no longer are forgotten.
const SWEEP_ABOVE: usize = 10_000;

/// Whom a try counts against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Account(String),
    Address(IpAddr),
}

/// Counts tries that have not (yet) succeeded. In memory: a restart forgives, and nobody can restart the coordinator from outside.
#[derive(Debug, Default)]
pub struct RateLimit {
    tries: Mutex<HashMap<Key, VecDeque<UnixMs>>>,
}

/// A try that was let through. It counts as failed unless it is [`forgiven`](RateLimit::forgive).
#[derive(Debug)]
pub struct Try {
    keys: Vec<Key>,
    at: UnixMs,
}

impl RateLimit {
    /// Lets a try through, or answers after how many seconds it may be repeated.
    pub fn admit(&self, account: &str, address: Option<IpAddr>, now: UnixMs) -> Result<Try, u64> {
        let account: String = account.to_lowercase().chars().take(256).collect();
        let mut keys = vec![Key::Account(account)];
        keys.extend(address.map(|a| Key::Address(a.to_canonical())));
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wait_ms = 0;
        for key in &keys {
            let allowed = match key {
                Key::Account(_) => PER_ACCOUNT,
                Key::Address(_) => PER_ADDRESS,
            };
            if let Some(times) = tries.get_mut(key) {
                while times.front().is_some_and(|t| *t <= now - WINDOW_MS) {
                    times.pop_front();
                }
                if times.len() >= allowed {
                    let oldest = times.front().copied().unwrap_or(now);
                    wait_ms = wait_ms.max(oldest + WINDOW_MS - now);
                }
            }
        }
        if wait_ms > 0 {
            return Err(u64::try_from(wait_ms).unwrap_or(0).div_ceil(1000));
        }
        if tries.len() > SWEEP_ABOVE {
            tries.retain(|_, times| times.back().is_some_and(|t| *t > now - WINDOW_MS));
        }
        for key in &keys {
            tries.entry(key.clone()).or_default().push_back(now);
        }
        Ok(Try { keys, at: now })
    }

    /// The try succeeded: it does not count.
    pub fn forgive(&self, admitted: &Try) {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &admitted.keys {
            if let Some(times) = tries.get_mut(key) {
                if let Some(at) = times.iter().position(|t| *t == admitted.at) {
                    times.remove(at);
                }
                if times.is_empty() {
                    tries.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    #[test]
    fn an_account_is_closed_after_ten_failures_and_opens_again() {
        let limit = RateLimit::default();
        for i in 0..10 {
            limit.admit("Admin", HERE, i).unwrap();
        }
        assert_eq!(limit.admit("admin", None, 10).unwrap_err(), 300);
        limit.admit("somebody", HERE, 10).unwrap();
        limit.admit("admin", HERE, WINDOW_MS).unwrap();
    }

    #[test]
    fn an_address_is_closed_whatever_the_account() {
        let limit = RateLimit::default();
        for i in 0..60 {
            limit.admit(&format!("user{i}"), HERE, 0).unwrap();
        }
        assert!(limit.admit("another", HERE, 1000).is_err());
        assert!(
            limit
                .admit("another", Some("::ffff:127.0.0.1".parse().unwrap()), 1000)
                .is_err()
        );
        limit
            .admit("another", Some("192.0.2.1".parse().unwrap()), 1000)
            .unwrap();
    }

    #[test]
    fn what_succeeds_does_not_count() {
        let limit = RateLimit::default();
        for i in 0..1000 {
            let admitted = limit.admit("admin", HERE, i).unwrap();
            limit.forgive(&admitted);
        }
        assert!(limit.tries.lock().unwrap().is_empty());
    }
}
