//! The configuration file of a container, `/etc/pve/lxc/<id>.conf`: read only, since the tools write it.

use std::{collections::BTreeMap, net::Ipv4Addr};

/// What is in force. Unknown keys are kept; pending values and snapshots are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Conf {
    values: BTreeMap<String, String>,
    /// Raw `lxc.*` lines: not ours to make, but an operator's to have.
    pub(crate) raw_lxc: Vec<String>,
    /// Names of snapshots.
    pub(crate) snapshots: Vec<String>,
    /// Keys that wait for the next start.
    pub(crate) pending: Vec<String>,
}

impl Conf {
    /// Any text is a configuration: a line that is none is skipped, as Proxmox does (with a warning).
    pub(crate) fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        let mut section = None;
        for line in text.lines() {
            let line = line.trim_end();
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                if name != "pve:pending" {
                    conf.snapshots.push(name.to_owned());
                }
                section = Some(name.to_owned());
                continue;
            }
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            match (&section, line.split_once([':', '='])) {
                (None, Some((key, _))) if key.trim().starts_with("lxc.") => conf.raw_lxc.push(line.to_owned()),
                (None, Some((key, _))) => {
                    // `=` may end a raw key only; of an ordinary one the first `:` does.
                    let value = line.split_once(':').map_or("", |(_, value)| value.trim());
                    conf.values.insert(key.trim().to_owned(), value.to_owned());
                }
                (Some(name), Some((key, _))) if name == "pve:pending" => conf.pending.push(key.trim().to_owned()),
                _ => {}
            }
        }
        conf
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    /// MiB. Proxmox's default is 512.
    pub(crate) fn memory_mb(&self) -> u64 {
        self.number("memory").unwrap_or(512)
    }

    /// `None`: all of the node.
    pub(crate) fn cores(&self) -> Option<u32> {
        self.number("cores")
    }

    /// The volume of the root, without its options.
    pub(crate) fn root_volume(&self) -> Option<&str> {
        self.get("rootfs")?.split(',').next()
    }

    /// Whether it is what `pct create` writes before the container is there (only `lock: create`), or what `pct unlock` makes of that (nothing).
    pub(crate) fn is_half_made(&self) -> bool {
        match self.get("lock") {
            Some(lock) => lock == "create",
            None => self.get("rootfs").is_none(),
        }
    }

    /// Whether `pct destroy` has begun to take it away.
    pub(crate) fn is_being_destroyed(&self) -> bool {
        self.get("lock") == Some("destroyed")
    }

    /// Whether it is what `pct destroy` leaves when it is broken off after the volumes: only `lock: destroyed`.
    pub(crate) fn is_half_destroyed(&self) -> bool {
        self.is_being_destroyed() && self.get("rootfs").is_none()
    }

    /// Whether a tag is set.
    pub(crate) fn has_tag(&self, tag: &str) -> bool {
        self.get("tags")
            .is_some_and(|tags| tags.split([';', ',', ' ']).any(|t| t == tag))
    }

    /// A property of `net0`.
    pub(crate) fn net0(&self, property: &str) -> Option<&str> {
        self.get("net0")?
            .split(',')
            .find_map(|part| part.strip_prefix(property)?.strip_prefix('='))
    }

    /// The Ethernet address of `net0`.
    pub(crate) fn mac(&self) -> Option<&str> {
        self.net0("hwaddr")
    }

    /// Static addresses of all interfaces, with their prefix.
    pub(crate) fn static_addresses(&self) -> Vec<(Ipv4Addr, u8)> {
        self.values
            .iter()
            .filter(|(key, _)| key.strip_prefix("net").is_some_and(|n| n.parse::<u8>().is_ok()))
            .flat_map(|(_, value)| value.split(','))
            .filter_map(|part| {
                let (address, prefix) = part.strip_prefix("ip=")?.split_once('/')?;
                Some((address.parse().ok()?, prefix.parse().ok()?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const RECORDED: &str = "#multi\n#line desc\narch: amd64\nfeatures: nesting=1\nhostname: ct102b\nlock: backup\nmemory: 1024\n\
        net0: name=eth0,bridge=vmbr0,gw=10.99.0.1,hwaddr=BC:24:11:72:BA:72,ip=10.99.0.102/24,type=veth\nrootfs: btr:102/subvol-102-disk-0.subvol,size=0T\n\
        tags: a;proximity\nunprivileged: 1\nfuture: something\nlxc.apparmor.profile: unconfined\n\n[pve:pending]\nfeatures: nesting=1,keyctl=1\n\n\
        [s1]\n#first snap\nhostname: old\nsnaptime: 1795381579\n";

    #[test]
    fn a_recorded_file_is_understood() {
        let conf = Conf::parse(RECORDED);
        assert_eq!(conf.get("hostname"), Some("ct102b"));
        assert_eq!(conf.get("lock"), Some("backup"));
        assert_eq!(conf.get("future"), Some("something"));
        assert_eq!(conf.memory_mb(), 1024);
        assert_eq!(conf.cores(), None);
        assert_eq!(conf.root_volume(), Some("btr:102/subvol-102-disk-0.subvol"));
        assert_eq!(conf.mac(), Some("BC:24:11:72:BA:72"));
        assert_eq!(conf.net0("gw"), Some("10.99.0.1"));
        assert_eq!(conf.static_addresses(), [([10, 99, 0, 102].into(), 24)]);
        assert!(!conf.is_half_made() && Conf::parse("lock: create\n").is_half_made() && Conf::parse("").is_half_made());
        assert!(!Conf::parse("lock: backup\n").is_half_made());
        assert!(conf.has_tag("proximity") && !conf.has_tag("prox"));
        assert_eq!(
            (conf.snapshots, conf.pending, conf.raw_lxc.len()),
            (vec!["s1".to_owned()], vec!["features".to_owned()], 1)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>(), tail in "(net0|rootfs|tags|\\[|lxc\\.|ip=|:|,|/|\n|=){0,30}") {
            let conf = Conf::parse(&format!("{text}\n{tail}"));
            let _ = (conf.static_addresses(), conf.root_volume(), conf.mac(), conf.cores());
        }
    }
}
