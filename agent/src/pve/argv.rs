//! Argument vectors for Proxmox's tools. Only what is written here can be said: there is no way to ask for a privileged container, a bind mount, a
//! device, a hook script or a raw `lxc.*` line, and no value reaches a shell.

use proximity_protocol::{
    ids::{NodeName, StorageId, Vmid, VolumeId},
    spec::{AddressSpec, ContainerSpec, NetworkSpec},
};
use std::path::Path;

/// The tag of our containers. Decoration: the ownership record decides.
pub(crate) const TAG: &str = "proximity";

/// Every tool and command that the agent can call. Whoever adds one shows what becomes of it when the agent is killed meanwhile (`tests/suite/crash.rs` takes
/// its list from here).
pub const TOOLS: &[(&str, &str)] = &[
    ("pct", "create"),
    ("pct", "start"),
    ("pct", "shutdown"),
    ("pct", "stop"),
    ("pct", "unlock"),
    ("pct", "destroy"),
    ("pct", "push"),
    ("pct", "exec"),
    ("pct", "set"),
    ("pct", "resize"),
    ("pct", "migrate"),
    ("pct", "restore"),
    ("pct", "delsnapshot"),
    ("vzdump", ""),
    ("pvesm", "free"),
    ("/bin/rm", ""),
    ("pveam", "update"),
    ("pveam", "available"),
    ("pveam", "download"),
    ("/bin/umount", ""),
];

/// One call of one tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Argv {
    /// `pct` or `pveam`; an absolute path is a tool of the system.
    pub(crate) tool: &'static str,
    pub(crate) words: Vec<String>,
}

impl Argv {
    /// One of those of the list.
    pub(super) fn of(tool: &'static str, words: Vec<String>) -> Self {
        let sub = if tool.starts_with('/') || tool == "vzdump" {
            ""
        } else {
            words.first().map_or("", String::as_str)
        };
        debug_assert!(TOOLS.contains(&(tool, sub)), "{tool} {sub} is not in the list of tools");
        Self { tool, words }
    }
}

fn pct<const N: usize>(words: [String; N]) -> Argv {
    Argv::of("pct", words.into())
}

/// `pct create`.
pub(crate) fn create(spec: &ContainerSpec) -> Argv {
    let mut words = vec!["create".to_owned(), spec.vmid.to_string(), spec.template.to_string()];
    let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    option("unprivileged", "1".into());
    option("onboot", "1".into());
    option("tags", TAG.into());
    option(
        "features",
        if spec.keyctl { "nesting=1,keyctl=1" } else { "nesting=1" }.into(),
    );
    option("hostname", spec.hostname.to_string());
    option("cores", spec.cpu_cores.to_string());
    option("memory", spec.memory_mb.to_string());
    option("swap", spec.swap_mb.to_string());
    option("rootfs", format!("{}:{}", spec.storage, spec.disk_gb));
    for (n, volume) in spec.volumes.iter().enumerate() {
        option(
            &format!("mp{n}"),
            format!("{}:{},mp={},backup=1", spec.storage, volume.size_gb, volume.path),
        );
    }
    option("net0", net0(&spec.network));
    if !spec.network.dns.is_empty() {
        let servers: Vec<String> = spec.network.dns.iter().map(ToString::to_string).collect();
        option("nameserver", servers.join(" "));
    }
    Argv::of("pct", words)
}

/// The value of `net0`.
pub(crate) fn net0(network: &NetworkSpec) -> String {
    let mut parts = vec!["name=eth0".to_owned(), format!("bridge={}", network.bridge)];
    match &network.address {
        AddressSpec::Dhcp => parts.push("ip=dhcp".into()),
        AddressSpec::Static {
            address,
            prefix,
            gateway,
        } => {
            parts.push(format!("ip={address}/{prefix}"));
            parts.extend(gateway.map(|gateway| format!("gw={gateway}")));
        }
    }
    parts.extend(network.mac.as_ref().map(|mac| format!("hwaddr={mac}")));
    parts.extend(network.vlan.map(|vlan| format!("tag={vlan}")));
    parts.join(",")
}

/// `pct start`.
pub(crate) fn start(vmid: Vmid) -> Argv {
    pct(["start".into(), vmid.to_string()])
}

/// `pct shutdown`: asks, and gives up after `timeout_s`.
pub(crate) fn shutdown(vmid: Vmid, timeout_s: u32) -> Argv {
    pct([
        "shutdown".into(),
        vmid.to_string(),
        "--timeout".into(),
        timeout_s.to_string(),
    ])
}

/// `pct stop`: kills.
pub(crate) fn stop(vmid: Vmid) -> Argv {
    pct(["stop".into(), vmid.to_string()])
}

/// `pct unlock`, for a leftover of our own.
pub(crate) fn unlock(vmid: Vmid) -> Argv {
    pct(["unlock".into(), vmid.to_string()])
}

/// `umount`, for what a killed `pct create` leaves: `pct unmount` works on `lock: mounted` only.
pub(crate) fn unmount(point: &Path) -> Argv {
    Argv::of("/bin/umount", vec![point.to_string_lossy().into_owned()])
}

/// `pct destroy` with its disks, also those that its configuration does not name, and its entries in backup jobs.
pub(crate) fn destroy(vmid: Vmid) -> Argv {
    pct([
        "destroy".into(),
        vmid.to_string(),
        "--purge".into(),
        "1".into(),
        "--destroy-unreferenced-disks".into(),
        "1".into(),
    ])
}

/// `pct destroy` of a configuration whose volumes are gone: none is looked for.
pub(crate) fn destroy_empty(vmid: Vmid) -> Argv {
    pct(["destroy".into(), vmid.to_string(), "--purge".into(), "1".into()])
}

/// `pct set` of numbers.
pub(crate) fn set(vmid: Vmid, settings: &[(&'static str, u32)]) -> Argv {
    let mut argv = pct(["set".into(), vmid.to_string()]);
    for (key, value) in settings {
        argv.words.extend([format!("--{key}"), value.to_string()]);
    }
    argv
}

/// `pct resize` of the root volume to so many GiB: without a `+`, so that repeating it changes nothing.
pub(crate) fn resize(vmid: Vmid, disk_gb: u32) -> Argv {
    pct([
        "resize".into(),
        vmid.to_string(),
        "rootfs".into(),
        format!("{disk_gb}G"),
    ])
}

/// `pct migrate` of a container that does not run.
pub(crate) fn migrate(vmid: Vmid, to: &NodeName) -> Argv {
    pct(["migrate".into(), vmid.to_string(), to.to_string()])
}

/// `pct push` of a file that only root may read.
pub(crate) fn push(vmid: Vmid, from: &Path, to: &str) -> Argv {
    pct([
        "push".into(),
        vmid.to_string(),
        from.to_string_lossy().into_owned(),
        to.to_owned(),
        "--perms".into(),
        "0600".into(),
    ])
}

/// `pct exec … -- mkdir -p -m 0700 …`, for folders of constant names.
pub(crate) fn make_folders(vmid: Vmid, folders: &[String]) -> Argv {
    let mut argv = pct([
        "exec".into(),
        vmid.to_string(),
        "--".into(),
        "mkdir".into(),
        "-p".into(),
        "-m".into(),
        "0700".into(),
    ]);
    argv.words.extend_from_slice(folders);
    argv
}

/// `pct exec … -- /bin/sh <script> <word>…`, for a script that was pushed and words of the agent's own.
pub(crate) fn run_script_with(vmid: Vmid, script: &str, words: [&str; 2]) -> Argv {
    let mut argv = run_script(vmid, script);
    argv.words.extend(words.map(str::to_owned));
    argv
}

/// `pct exec … -- /bin/cat <file>`.
pub(crate) fn show_file(vmid: Vmid, file: &str) -> Argv {
    pct([
        "exec".into(),
        vmid.to_string(),
        "--".into(),
        "/bin/cat".into(),
        file.to_owned(),
    ])
}

/// `pct exec … -- /bin/sh <script>`, for a script that was pushed.
pub(crate) fn run_script(vmid: Vmid, script: &str) -> Argv {
    pct([
        "exec".into(),
        vmid.to_string(),
        "--".into(),
        "/bin/sh".into(),
        script.to_owned(),
    ])
}

/// `pct exec … -- rm -f …`, for files of checked names below the recipe's folder.
pub(crate) fn remove_files(vmid: Vmid, files: &[String]) -> Argv {
    let mut argv = pct(["exec".into(), vmid.to_string(), "--".into(), "rm".into(), "-f".into()]);
    argv.words.extend_from_slice(files);
    argv
}

/// `pct exec … -- test -f …`: ends with zero if the file is there, with one if it is not.
pub(crate) fn is_file(vmid: Vmid, file: &str) -> Argv {
    pct([
        "exec".into(),
        vmid.to_string(),
        "--".into(),
        "test".into(),
        "-f".into(),
        file.to_owned(),
    ])
}

/// `pveam update`: a fresh index of templates.
pub(crate) fn template_index() -> Argv {
    Argv::of("pveam", vec!["update".into()])
}

/// `pveam available`.
pub(crate) fn templates_available() -> Argv {
    Argv::of("pveam", vec!["available".into(), "--section".into(), "system".into()])
}

/// `pveam download`. `name` comes from the index and is checked by the caller as part of a [`VolumeId`].
pub(crate) fn template_download(storage: &StorageId, template: &VolumeId) -> Argv {
    let name = template.as_str().rsplit('/').next().unwrap_or_default().to_owned();
    Argv::of("pveam", vec!["download".into(), storage.to_string(), name])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proximity_protocol::{
        ids::{ContainerPath, Generation, Hostname, Owner},
        spec::VolumeSpec,
    };

    fn spec() -> ContainerSpec {
        ContainerSpec {
            vmid: Vmid::new(100).unwrap(),
            owner: Owner {
                app: "nginx-a1b2c3d4".parse().unwrap(),
                generation: Generation(1),
            },
            hostname: Hostname::new("web").unwrap(),
            template: "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst".parse().unwrap(),
            storage: "local-lvm".parse().unwrap(),
            disk_gb: 8,
            cpu_cores: 2,
            memory_mb: 512,
            swap_mb: 0,
            network: NetworkSpec {
                bridge: "vmbr0".parse().unwrap(),
                vlan: Some(5),
                address: AddressSpec::Static {
                    address: [10, 0, 0, 5].into(),
                    prefix: 24,
                    gateway: Some([10, 0, 0, 1].into()),
                },
                dns: vec![[1, 1, 1, 1].into(), [9, 9, 9, 9].into()],
                mac: Some("BC:24:11:85:80:3C".parse().unwrap()),
            },
            volumes: vec![VolumeSpec {
                path: ContainerPath::new("/data").unwrap(),
                size_gb: 4,
            }],
            keyctl: true,
        }
    }

    #[test]
    fn create_says_exactly_this() {
        assert_eq!(
            create(&spec()).words.join(" "),
            "create 100 local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst --unprivileged 1 --onboot 1 --tags proximity \
             --features nesting=1,keyctl=1 --hostname web --cores 2 --memory 512 --swap 0 --rootfs local-lvm:8 \
             --mp0 local-lvm:4,mp=/data,backup=1 --net0 name=eth0,bridge=vmbr0,ip=10.0.0.5/24,gw=10.0.0.1,hwaddr=BC:24:11:85:80:3C,tag=5 \
             --nameserver 1.1.1.1 9.9.9.9"
        );
    }

    #[test]
    fn changes_say_exactly_this() {
        let vmid = Vmid::new(100).unwrap();
        let words = |argv: Argv| argv.words.join(" ");
        assert_eq!(
            words(set(vmid, &[("cores", 4), ("memory", 1024)])),
            "set 100 --cores 4 --memory 1024"
        );
        assert_eq!(words(resize(vmid, 12)), "resize 100 rootfs 12G");
        assert_eq!(
            words(remove_files(vmid, &["/x/env/A".into(), "/x/env/B".into()])),
            "exec 100 -- rm -f /x/env/A /x/env/B"
        );
        assert_eq!(words(is_file(vmid, "/x/configure")), "exec 100 -- test -f /x/configure");
    }

    #[test]
    fn dhcp_needs_no_address() {
        let mut spec = spec();
        spec.network.address = AddressSpec::Dhcp;
        (spec.network.mac, spec.network.vlan) = (None, None);
        assert_eq!(net0(&spec.network), "name=eth0,bridge=vmbr0,ip=dhcp");
    }

    #[test]
    fn nothing_forbidden_can_be_said() {
        let text = create(&spec()).words.join(" ");
        for forbidden in [
            "unprivileged 0",
            "hookscript",
            "lxc.",
            "dev0",
            "shared=",
            "mp=/,",
            "mp0 /",
        ] {
            assert!(!text.contains(forbidden), "{forbidden}");
        }
    }
}
