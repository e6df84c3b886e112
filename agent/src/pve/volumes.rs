//! The volumes of a container's configuration, and what backups take of them (`PVE::VZDump::LXC`): the root always, mount points with `backup=1` only, bind
//! mounts and devices never.

use super::conf::Conf;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfVolume {
    /// `rootfs`, `mp0`….
    pub(crate) key: String,
    /// `local:100/vm-100-disk-0.raw`, or a path of the node (a bind mount, a device).
    pub(crate) source: String,
    /// Where it is mounted.
    pub(crate) path: String,
    /// `backup=1`.
    pub(crate) backup: bool,
}

impl ConfVolume {
    /// The storage that it is on; `None`: it is no volume.
    pub(crate) fn storage(&self) -> Option<&str> {
        if self.source.starts_with('/') {
            return None;
        }
        self.source.split_once(':').map(|(storage, _)| storage)
    }

    /// Why backups leave it out.
    pub(crate) fn left_out(&self) -> Option<&'static str> {
        if self.storage().is_none() {
            Some("a bind mount or device of the node, which backups never hold")
        } else if self.key != "rootfs" && !self.backup {
            Some("backup=1 is not set on it")
        } else {
            None
        }
    }
}

/// The root first, then mount points by number.
pub(crate) fn volumes(conf: &Conf) -> Vec<ConfVolume> {
    let mut found: Vec<(u32, ConfVolume)> = conf
        .iter()
        .filter_map(|(key, value)| {
            let place = match key {
                "rootfs" => 0,
                _ => key.strip_prefix("mp")?.parse::<u32>().ok()?.checked_add(1)?,
            };
            let property = |name: &str| {
                value
                    .split(',')
                    .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
            };
            let first = value.split(',').next().unwrap_or_default();
            let volume = ConfVolume {
                key: key.to_owned(),
                source: property("volume").unwrap_or(first).trim().to_owned(),
                path: if key == "rootfs" {
                    "/"
                } else {
                    property("mp").unwrap_or_default()
                }
                .to_owned(),
                backup: property("backup") == Some("1"),
            };
            Some((place, volume))
        })
        .collect();
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, volume)| volume).collect()
}

/// Why no container is made of an archive with this configuration: it asks for more than a container of ours may have.
pub(crate) fn refused(conf: &Conf) -> Option<String> {
    if conf.get("unprivileged") != Some("1") {
        return Some("its container is privileged".into());
    }
    if !conf.raw_lxc.is_empty() {
        return Some("its configuration has raw lxc lines".into());
    }
    if let Some((key, _)) = conf
        .iter()
        .find(|(key, _)| *key == "hookscript" || key.starts_with("dev"))
    {
        return Some(format!("its configuration has {key}"));
    }
    volumes(conf)
        .into_iter()
        .find(|volume| volume.storage().is_none())
        .map(|volume| format!("its {} is {} of the node", volume.key, volume.source))
}

/// When a snapshot was made (`snaptime`, seconds since 1970), of a configuration's text.
pub(crate) fn snapshot_time(text: &str, name: &str) -> Option<i64> {
    text.lines()
        .skip_while(|line| line.trim_end() != format!("[{name}]"))
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.strip_prefix("snaptime:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "arch: amd64\nmp10: local:100/vm-100-disk-3.raw,mp=/ten,backup=1,size=1G\nmp2: /srv/shared,mp=/shared,backup=1\n\
        mp0: volume=local-lvm:vm-100-disk-1,mp=/data,size=1G\nrootfs: local:100/vm-100-disk-0.raw,size=1G\nunprivileged: 1\n\n[vzdump]\nhostname: x\nsnaptime: 1795381836\n[z]\nsnaptime: 5\n";

    #[test]
    fn what_backups_leave_out_is_named() {
        let found = volumes(&Conf::parse(TEXT));
        let shown: Vec<(&str, &str, Option<&str>, bool)> = found
            .iter()
            .map(|v| (v.key.as_str(), v.path.as_str(), v.storage(), v.left_out().is_some()))
            .collect();
        assert_eq!(
            shown,
            [
                ("rootfs", "/", Some("local"), false),
                ("mp0", "/data", Some("local-lvm"), true),
                ("mp2", "/shared", None, true),
                ("mp10", "/ten", Some("local"), false)
            ]
        );
        assert_eq!(
            (snapshot_time(TEXT, "vzdump"), snapshot_time(TEXT, "s")),
            (Some(1_795_381_836), None)
        );
    }

    #[test]
    fn only_what_we_could_have_made_is_taken() {
        let with = |line: &str| {
            refused(&Conf::parse(&format!(
                "rootfs: local:100/x,size=1G\nunprivileged: 1\n{line}\n"
            )))
        };
        assert_eq!(with("features: nesting=1"), None);
        for line in [
            "unprivileged: 0",
            "hookscript: local:snippets/x",
            "dev0: /dev/sda",
            "lxc.mount.entry: /etc etc none bind",
            "mp0: /etc,mp=/x",
        ] {
            assert!(with(line).is_some(), "{line}");
        }
        assert!(refused(&Conf::parse("rootfs: local:100/x\n")).is_some());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(rootfs|mp|[0-9]|: |,|=|volume|/|\\[|\\]|vzdump|snaptime|\n|[ -~]){0,40}") {
            let conf = Conf::parse(&text);
            let _ = (volumes(&conf), refused(&conf), snapshot_time(&text, "vzdump"));
        }
    }
}
