//! What is ours: one root-only record per container, `/etc/pve/priv/proximity/<vmid>`, written before the container is made and removed after it is
//! destroyed. It lies in the cluster file system, so it follows the container to other nodes. A tag is decoration and proves nothing.
//!
//! A record alone is not enough: an operator may have destroyed our container by hand and made another one of the same number. So a record also keeps
//! the root volume and the Ethernet address as Proxmox chose them, and `OwnershipRecord::is_of` wants two of these three to hold: root volume,
//! address, tag. An adopted container has no tag of ours: its address has to hold, or where it has no interface, its root volume.

use crate::{
    host::{NodeContext, files},
    pve::{argv::TAG, conf::Conf},
};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::{OperationId, Owner, Vmid},
};
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnershipRecord {
    /// Of this format; 1.
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) owner: Owner,
    /// The operation that made or adopted the container.
    pub(crate) operation: OperationId,
    /// Seconds since 1970 when that began: a `vzcreate` task that is older is not of ours.
    pub(crate) began_unix_s: i64,
    /// Somebody else made the container: its configuration is not ours to change, and whether it may be destroyed is for the node's policy to say.
    #[serde(default)]
    pub(crate) adopted: bool,
    /// Our tool began to make it and did not finish: what lies half made under the number may be ours.
    #[serde(default)]
    pub(crate) interrupted: bool,
    /// It was made in the place of an adopted one, and can be let go like that.
    #[serde(default)]
    pub(crate) of_adopted: bool,
    /// After it was made.
    pub(crate) root_volume: Option<String>,
    /// After it was made.
    pub(crate) mac: Option<String>,
}

impl OwnershipRecord {
    /// Before the container is made.
    pub(crate) fn begin(owner: Owner, operation: OperationId, began_unix_s: i64) -> Self {
        Self {
            version: 1,
            owner,
            operation,
            began_unix_s,
            adopted: false,
            interrupted: false,
            of_adopted: false,
            root_volume: None,
            mac: None,
        }
    }

    /// Whether the container was made whole: then the record knows its marks.
    pub(crate) fn is_complete(&self) -> bool {
        self.root_volume.is_some() || self.mac.is_some()
    }

    /// Of a container that somebody else made.
    pub(crate) fn adopt(owner: Owner, operation: OperationId, began_unix_s: i64, conf: &Conf) -> Self {
        Self {
            adopted: true,
            root_volume: conf.root_volume().map(str::to_owned),
            mac: conf.mac().map(str::to_owned),
            ..Self::begin(owner, operation, began_unix_s)
        }
    }

    /// Whether this configuration is of the container that the record was written for. A record that was never completed (the agent was killed right
    /// after the container was made) knows no marks: then the tag must be there, which a stranger's container has not.
    pub(crate) fn is_of(&self, conf: &Conf) -> bool {
        if self.adopted {
            // Proxmox names the first volume of every container of a number alike: it tells only where there is nothing better.
            return match &self.mac {
                Some(mac) => Some(mac.as_str()) == conf.mac(),
                None => self.root_volume.is_some() && self.root_volume.as_deref() == conf.root_volume(),
            };
        }
        let tag = conf.has_tag(TAG);
        if !self.is_complete() {
            return tag;
        }
        let volume = self.root_volume.is_some() && self.root_volume.as_deref() == conf.root_volume();
        let mac = self.mac.is_some() && self.mac.as_deref() == conf.mac();
        [volume, mac, tag].into_iter().filter(|holds| *holds).count() >= 2
    }
}

fn folder(node: &NodeContext) -> PathBuf {
    node.etc_pve("priv/proximity")
}

fn failed(act: &str, vmid: Vmid, error: &io::Error) -> Fault {
    let kind = match error.raw_os_error() {
        // pmxcfs refuses every write without quorum, with EACCES.
        Some(nix::libc::EACCES) if act != "read" => FaultKind::NotQuorate,
        _ => FaultKind::Internal,
    };
    Fault::new(
        kind,
        format!("cannot {act} the ownership record of container {vmid} in /etc/pve/priv/proximity: {error}"),
    )
}

/// The record of a container.
pub(crate) fn read(node: &NodeContext, vmid: Vmid) -> Result<Option<OwnershipRecord>, Fault> {
    let text =
        files::read_if_there(&folder(node).join(vmid.to_string())).map_err(|error| failed("read", vmid, &error))?;
    let Some(text) = text else { return Ok(None) };
    let record: OwnershipRecord = serde_json::from_str(&text)
        .map_err(|error| failed("read", vmid, &io::Error::new(io::ErrorKind::InvalidData, error)))?;
    Ok(Some(record))
}

/// Every record of the cluster, by number. One that cannot be read is a fault, never left out.
pub(crate) fn all(node: &NodeContext) -> Result<Vec<(Vmid, OwnershipRecord)>, Fault> {
    let folder = folder(node);
    let unreadable = |error: io::Error| {
        Fault::new(
            FaultKind::Internal,
            format!("cannot look through {}: {error}", folder.display()),
        )
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        // What a write leaves when it breaks off begins with a dot.
        let name = entry.map_err(unreadable)?.file_name();
        let Some(vmid) = name.to_str().and_then(|name| name.parse::<Vmid>().ok()) else {
            continue;
        };
        if let Some(record) = read(node, vmid)? {
            all.push((vmid, record));
        }
    }
    all.sort_by_key(|(vmid, _)| *vmid);
    Ok(all)
}

/// Writes it whole.
pub(crate) fn write(node: &NodeContext, vmid: Vmid, record: &OwnershipRecord) -> Result<(), Fault> {
    let folder = folder(node);
    let written = (|| {
        files::private_dir(&folder)?;
        files::write_private(&folder.join(vmid.to_string()), &serde_json::to_vec(record)?)
    })();
    written.map_err(|error| failed("write", vmid, &error))
}

/// Removes it; none is fine.
pub(crate) fn remove(node: &NodeContext, vmid: Vmid) -> Result<(), Fault> {
    files::remove_if_there(&folder(node).join(vmid.to_string())).map_err(|error| failed("remove", vmid, &error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proximity_protocol::ids::Generation;
    use std::{fs, os::unix::fs::PermissionsExt};
    use uuid::Uuid;

    fn record() -> OwnershipRecord {
        let owner = Owner {
            app: "nginx-a1b2c3d4".parse().unwrap(),
            generation: Generation(1),
        };
        OwnershipRecord {
            root_volume: Some("local:100/vm-100-disk-0.raw".into()),
            mac: Some("BC:24:11:85:80:3C".into()),
            ..OwnershipRecord::begin(owner, OperationId(Uuid::from_u128(1)), 5)
        }
    }

    fn conf(volume: &str, mac: &str, tag: &str) -> Conf {
        Conf::parse(&format!(
            "rootfs: {volume},size=1G\nnet0: name=eth0,hwaddr={mac}\ntags: {tag}\n"
        ))
    }

    #[test]
    fn a_record_is_private_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let node = crate::facts::testing::node(dir.path());
        let vmid = Vmid::new(100).unwrap();
        assert_eq!(read(&node, vmid).unwrap(), None);
        write(&node, vmid, &record()).unwrap();
        assert_eq!(read(&node, vmid).unwrap(), Some(record()));
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("etc/pve/priv/proximity"), mode("etc/pve/priv/proximity/100")),
            (0o700, 0o600)
        );
        remove(&node, vmid).unwrap();
        remove(&node, vmid).unwrap();
        assert_eq!(read(&node, vmid).unwrap(), None);
    }

    #[test]
    fn a_broken_record_is_a_fault_and_not_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let node = crate::facts::testing::node(dir.path());
        files::private_dir(&folder(&node)).unwrap();
        fs::write(folder(&node).join("100"), "{").unwrap();
        assert_eq!(
            read(&node, Vmid::new(100).unwrap()).unwrap_err().kind,
            FaultKind::Internal
        );
    }

    #[test]
    fn two_of_three_marks_make_it_the_same_container() {
        let (volume, mac) = ("local:100/vm-100-disk-0.raw", "BC:24:11:85:80:3C");
        assert!(record().is_of(&conf(volume, mac, "proximity")));
        assert!(
            record().is_of(&conf("other:100/x", mac, "proximity")),
            "the disk was moved"
        );
        assert!(
            record().is_of(&conf(volume, "BC:24:11:00:00:00", "proximity;x")),
            "the address was changed"
        );
        assert!(record().is_of(&conf(volume, mac, "")), "the tag was removed");
        assert!(
            !record().is_of(&conf(volume, "BC:24:11:00:00:00", "")),
            "made anew by somebody else with the same number"
        );
        let begun = OwnershipRecord {
            root_volume: None,
            mac: None,
            ..record()
        };
        assert!(begun.is_of(&conf(volume, mac, "proximity")) && !begun.is_of(&conf(volume, mac, "")));
    }

    #[test]
    fn an_adopted_container_is_recognised_by_its_address() {
        let (volume, mac) = ("local:100/vm-100-disk-0.raw", "BC:24:11:85:80:3C");
        let adopted = |conf: &Conf| OwnershipRecord::adopt(record().owner, record().operation, 5, conf);
        let before = conf(volume, mac, "mine");
        assert!(adopted(&before).is_of(&conf("other:100/moved", mac, "")));
        assert!(!adopted(&before).is_of(&conf(volume, "BC:24:11:00:00:00", "mine")));
        let bare = Conf::parse(&format!("rootfs: {volume}\n"));
        assert!(adopted(&bare).is_of(&bare) && !adopted(&bare).is_of(&Conf::parse("rootfs: other:100/x\n")));
        // A record of an earlier version says nothing of adoption.
        let mut old = serde_json::to_value(record()).unwrap();
        for later in ["adopted", "of_adopted"] {
            old.as_object_mut().unwrap().remove(later);
        }
        assert_eq!(serde_json::from_value::<OwnershipRecord>(old).unwrap(), record());
    }
}
