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
    /// What waits for the next start, by key. A key that is to go has no value.
    pub(crate) pending: BTreeMap<String, Option<String>>,
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
                (Some(name), Some((key, _))) if name == "pve:pending" => {
                    let value = line.split_once(':').map_or("", |(_, value)| value.trim());
                    match key.trim() {
                        // `delete: mp0,!features`: a `!` would delete by force (PVE::GuestHelpers).
                        "delete" => conf.pending.extend(
                            value
                                .split([',', ' '])
                                .map(|key| key.trim_start_matches('!'))
                                .filter(|key| !key.is_empty())
                                .map(|key| (key.to_owned(), None)),
                        ),
                        key => drop(conf.pending.insert(key.to_owned(), Some(value.to_owned()))),
                    }
                }
                _ => {}
            }
        }
        conf
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Every key and its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    /// MiB. Proxmox's default is 512.
    pub(crate) fn memory_mb(&self) -> u64 {
        self.number("memory").unwrap_or(512)
    }

    /// MiB. Proxmox's default is 512.
    pub(crate) fn swap_mb(&self) -> u64 {
        self.number("swap").unwrap_or(512)
    }

    /// Whether it is a template.
    pub(crate) fn is_template(&self) -> bool {
        self.get("template") == Some("1")
    }

    /// The size of the root volume, bytes, as the configuration has it; `None` where it says none, or nothing (a subvolume without a quota is `0T`).
    pub(crate) fn root_size_bytes(&self) -> Option<u64> {
        let size = self
            .get("rootfs")?
            .split(',')
            .find_map(|part| part.strip_prefix("size="))?;
        size_bytes(size).filter(|bytes| *bytes > 0)
    }

    /// `None`: all of the node.
    pub(crate) fn cores(&self) -> Option<u32> {
        self.number("cores")
    }

    /// The volume of the root, without its options.
    pub(crate) fn root_volume(&self) -> Option<&str> {
        self.get("rootfs")?.split(',').next()
    }

    /// What the mount points besides the root lead to, without their options.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let is_mount = |key: &str| key.strip_prefix("mp").is_some_and(|n| n.parse::<u8>().is_ok());
        self.values
            .iter()
            .filter(|(key, _)| is_mount(key))
            .filter_map(|(_, value)| value.split(',').next())
            .map(|volume| volume.strip_prefix("volume=").unwrap_or(volume).to_owned())
            .collect()
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

/// The text of a configuration without the values of environment variables (`env:` of containers made from OCI images, `lxc.environment`): those may be
/// secrets, and nobody needs them to know how a container was configured.
pub(crate) fn without_environment(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match line.split_once([':', '=']) {
            Some((key, _)) if key.trim() == "env" || key.trim().starts_with("lxc.environment") => {
                let separator = &line[key.len()..=key.len()];
                kept.push_str(&format!("{key}{separator} (left out)\n"));
            }
            _ => kept.push_str(line),
        }
    }
    kept
}

/// A size as Proxmox writes it (`8G`, `512M`, `1.5T`, bytes without a letter; PVE::JSONSchema::parse_size).
fn size_bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().last()? {
        (at, 'K') => (&text[..at], 1 << 10),
        (at, 'M') => (&text[..at], 1 << 20),
        (at, 'G') => (&text[..at], 1 << 30),
        (at, 'T') => (&text[..at], 1_u64 << 40),
        _ => (text, 1),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if part.is_empty() {
        return Some(whole);
    }
    let scale = 10_u64.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part = u128::from(part.parse::<u64>().ok()?) * u128::from(unit) / u128::from(scale);
    whole.checked_add(u64::try_from(part).ok()?)
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
        assert_eq!((conf.snapshots, conf.raw_lxc.len()), (vec!["s1".to_owned()], 1));
        assert_eq!(
            conf.pending,
            BTreeMap::from([("features".to_owned(), Some("nesting=1,keyctl=1".to_owned()))])
        );
    }

    #[test]
    fn what_is_to_be_deleted_waits_too() {
        let conf = Conf::parse("memory: 512\n\n[pve:pending]\ndelete: mp0,!features\nmemory: 256\n");
        let pending: Vec<(&str, Option<&str>)> = conf.pending.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        assert_eq!(pending, [("features", None), ("memory", Some("256")), ("mp0", None)]);
        assert_eq!(conf.memory_mb(), 512, "what waits is not in force");
    }

    #[test]
    fn values_of_variables_are_left_out_of_a_copy() {
        let text = "env: A=secret\nhostname: env\nlxc.environment = B=secret\nlxc.apparmor.profile: unconfined\n\n[s1]\nenv: A=older";
        assert_eq!(
            without_environment(text),
            "env: (left out)\nhostname: env\nlxc.environment = (left out)\nlxc.apparmor.profile: unconfined\n\n[s1]\nenv: (left out)\n"
        );
        assert_eq!(without_environment(RECORDED), RECORDED);
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("8G", Some(8 << 30)),
            ("1.5G", Some((3 << 30) / 2)),
            ("512M", Some(512 << 20)),
            ("4K", Some(4096)),
            ("77", Some(77)),
            ("0T", Some(0)),
            ("G", None),
            ("", None),
            ("-1G", None),
            ("99999999999T", None),
        ] {
            assert_eq!(size_bytes(text), bytes, "{text}");
        }
        let conf = Conf::parse("mp0: local:8,mp=/a\nmp12: /srv,mp=/b\nmpx: y\n");
        assert_eq!(conf.mounts(), ["local:8", "/srv"]);
        let size = |rootfs: &str| Conf::parse(&format!("rootfs: {rootfs}\n")).root_size_bytes();
        assert_eq!(size("local:100/vm-100-disk-0.raw,size=2G"), Some(2 << 30));
        assert_eq!(size("btr:102/subvol-102-disk-0.subvol,size=0T"), None);
        assert_eq!(size("local:100/x"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>(), tail in "(net0|rootfs|size=|tags|\\[|lxc\\.|ip=|:|,|/|\n|=){0,30}") {
            let conf = Conf::parse(&format!("{text}\n{tail}"));
            let _ = (conf.static_addresses(), conf.root_volume(), conf.mac(), conf.cores(), conf.root_size_bytes(), size_bytes(&text));
        }
    }
}
