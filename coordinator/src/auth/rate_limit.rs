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

/// Counts failed tries. In memory: a restart forgives, and nobody can restart the coordinator from outside.
#[derive(Debug, Default)]
pub struct RateLimit {
    failed: Mutex<HashMap<Key, VecDeque<UnixMs>>>,
}

fn keys(account: &str, address: Option<IpAddr>) -> Vec<Key> {
    let account: String = account.to_lowercase().chars().take(256).collect();
    let mut keys = vec![Key::Account(account)];
    keys.extend(address.map(|a| Key::Address(a.to_canonical())));
    keys
}

impl RateLimit {
    /// Whether a try is let through; if not, after how many seconds it may be repeated.
    pub fn check(&self, account: &str, address: Option<IpAddr>, now: UnixMs) -> Result<(), u64> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wait_ms = 0;
        for key in keys(account, address) {
            let allowed = match key {
                Key::Account(_) => PER_ACCOUNT,
                Key::Address(_) => PER_ADDRESS,
            };
            if let Some(times) = failed.get_mut(&key) {
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
            Err(u64::try_from(wait_ms).unwrap_or(0).div_ceil(1000))
        } else {
            Ok(())
        }
    }

    /// A try has failed.
    pub fn failed(&self, account: &str, address: Option<IpAddr>, now: UnixMs) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() > SWEEP_ABOVE {
            failed.retain(|_, times| times.back().is_some_and(|t| *t > now - WINDOW_MS));
        }
        for key in keys(account, address) {
            failed.entry(key).or_default().push_back(now);
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
            limit.check("Admin", HERE, i).unwrap();
            limit.failed("Admin", HERE, i);
        }
        assert_eq!(limit.check("admin", None, 10).unwrap_err(), 300);
        limit.check("somebody", HERE, 10).unwrap();
        limit.check("admin", HERE, WINDOW_MS).unwrap();
    }

    #[test]
    fn an_address_is_closed_whatever_the_account() {
        let limit = RateLimit::default();
        for i in 0..60 {
            limit.failed(&format!("user{i}"), HERE, 0);
        }
        assert!(limit.check("another", HERE, 1000).is_err());
        assert!(
            limit
                .check("another", Some("::ffff:127.0.0.1".parse().unwrap()), 1000)
                .is_err()
        );
        limit
            .check("another", Some("192.0.2.1".parse().unwrap()), 1000)
            .unwrap();
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let limit = RateLimit::default();
        for i in 0..=i64::try_from(SWEEP_ABOVE).unwrap() {
            limit.failed(&format!("user{i}"), None, 0);
        }
        limit.failed("last", None, WINDOW_MS);
        assert_eq!(limit.failed.lock().unwrap().len(), 1);
    }
}
