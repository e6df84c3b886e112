//! Argument vectors for what is made of backups. As with [`super::argv`]: nothing privileged, nothing of the node, no shell.

use super::argv::Argv;
use proximity_protocol::{backup::RestoreSpec, ids::Vmid};

/// A key of the configuration and its value, in place of the archive's.
pub(crate) type Override = (String, String);

/// `pct restore` under a new number: never `--force`, which frees the volumes of what is there before it unpacks. `--onboot 0`: what it takes the place of is
/// still there.
pub(crate) fn restore(spec: &RestoreSpec, overrides: &[Override]) -> Argv {
    let mut words: Vec<String> = ["restore", &spec.vmid.to_string(), spec.archive.archive.as_str()]
        .map(str::to_owned)
        .into();
    let mut option = |name: &str, value: &str| words.extend([format!("--{name}"), value.to_owned()]);
    option("storage", spec.storage.as_str());
    option("unprivileged", "1");
    option("onboot", "0");
    for (key, value) in overrides {
        option(key, value);
    }
    Argv::of("pct", words)
}

/// `pct set --delete` of interfaces.
pub(crate) fn cut(vmid: Vmid, interfaces: &[String]) -> Argv {
    Argv::of(
        "pct",
        vec!["set".into(), vmid.to_string(), "--delete".into(), interfaces.join(",")],
    )
}

/// `pct set --onboot`.
pub(crate) fn onboot(vmid: Vmid, onboot: bool) -> Argv {
    let value = if onboot { "1" } else { "0" };
    Argv::of(
        "pct",
        vec!["set".into(), vmid.to_string(), "--onboot".into(), value.into()],
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proximity_protocol::{
        backup::{ArchiveRef, RestoredNetwork},
        ids::{AppId, Generation, Owner},
        spec::Settings,
    };

    #[test]
    fn restore_says_exactly_this() {
        let app: AppId = "nginx-a1b2c3d4".parse().unwrap();
        let spec = RestoreSpec {
            vmid: Vmid::new(101).unwrap(),
            owner: Owner {
                app: app.clone(),
                generation: Generation(2),
            },
            archive: ArchiveRef {
                archive: "local:backup/vzdump-lxc-100-2026_11_22-21_11_12.tar.zst"
                    .parse()
                    .unwrap(),
                app,
                vmid: Vmid::new(100).unwrap(),
            },
            storage: "local-lvm".parse().unwrap(),
            hostname: None,
            network: RestoredNetwork::AsSaved,
            settings: Settings::default(),
            disk_gb: None,
            of_adopted: false,
        };
        let text = restore(&spec, &[("tags".into(), "a;proximity".into())]).words.join(" ");
        assert_eq!(
            text,
            "restore 101 local:backup/vzdump-lxc-100-2026_11_22-21_11_12.tar.zst --storage local-lvm --unprivileged 1 --onboot 0 --tags a;proximity"
        );
        assert_eq!(
            cut(spec.vmid, &["net0".into(), "net1".into()]).words.join(" "),
            "set 101 --delete net0,net1"
        );
        assert_eq!(onboot(spec.vmid, true).words.join(" "), "set 101 --onboot 1");
    }
}
