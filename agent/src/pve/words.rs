//! What the tools' error texts mean. Only zero or not is reliable in their exit codes; the words are what tells the causes apart.

use proximity_protocol::fault::FaultKind;

/// What is inside `prefix … suffix` somewhere in the text.
fn between<'a>(text: &'a str, prefix: &str, suffix: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(prefix)?;
    rest.split_once(suffix).map(|(inside, _)| inside)
}

/// Which fault an error text is, and a sentence about it. `None`: nothing that is known; the tool simply failed.
pub(crate) fn cause(text: &str) -> Option<(FaultKind, String)> {
    if let Some(lock) = between(text, "CT is locked (", ")") {
        return Some((
            FaultKind::Locked,
            format!("the container is locked by {}", holder(lock)),
        ));
    }
    if text.contains("can't acquire lock '") && text.contains("vzdump.lock") {
        return Some((
            FaultKind::Locked,
            "another backup runs on the node (vzdump), which makes one at a time".into(),
        ));
    }
    if text.contains("can't lock file") || text.contains("got timeout") && text.contains("lock") {
        return Some((
            FaultKind::Locked,
            "another Proxmox task holds the lock of the container's configuration".into(),
        ));
    }
    if text.contains("no quorum") || text.contains("cluster not ready") || text.lines().any(is_refused_by_pmxcfs) {
        return Some((
            FaultKind::NotQuorate,
            "the cluster has no quorum: nothing can be changed until enough of its nodes are up".into(),
        ));
    }
    if text.contains("No space left on device")
        || text.contains("not enough free space")
        || text.contains("Disk quota exceeded")
    {
        return Some((
            FaultKind::DiskFull,
            "the storage is full: free space on it or choose another".into(),
        ));
    }
    if let Some(storage) = between(text, "storage '", "' does not exist") {
        return Some((
            FaultKind::StorageUnavailable,
            format!("storage {storage:?} does not exist on this node"),
        ));
    }
    if let Some(storage) = between(text, "storage '", "' is not online") {
        return Some((
            FaultKind::StorageUnavailable,
            format!("storage {storage:?} is not online: its server does not answer"),
        ));
    }
    if text.contains("unable to activate storage") || text.contains("Can't connect to") {
        return Some((
            FaultKind::StorageUnavailable,
            "the storage is not reachable from this node".into(),
        ));
    }
    if text.contains("does not support container directories")
        || text.contains("is not available on node")
        || text.contains("is disabled") && text.contains("storage")
    {
        return Some((
            FaultKind::StorageUnavailable,
            "the storage does not take containers on this node".into(),
        ));
    }
    if let Some(bridge) = between(text, "bridge '", "' does not exist") {
        return Some((
            FaultKind::BridgeMissing,
            format!("bridge {bridge:?} does not exist on this node"),
        ));
    }
    if text.contains("already exists on node") {
        return Some((FaultKind::VmidTaken, "the VMID belongs to another guest by now".into()));
    }
    if text.contains("volume '") && text.contains(":vztmpl/") && text.contains("' does not exist") {
        return Some((
            FaultKind::TemplateUnavailable,
            "the template is no longer on its storage".into(),
        ));
    }
    if text.contains("Configuration file '") && text.contains("' does not exist") {
        return Some((
            FaultKind::ContainerMissing,
            "the container does not exist on this node".into(),
        ));
    }
    if text.contains("not running") || text.contains("can only push files to a running CT") {
        return Some((FaultKind::ContainerStopped, "the container is not running".into()));
    }
    None
}

/// Root is refused a write only by pmxcfs, and that only without quorum (EACCES of dcdb_send_fuse_message).
fn is_refused_by_pmxcfs(line: &str) -> bool {
    line.contains("Permission denied") && (line.contains("'/etc/pve/") || line.contains("failed to remove config file"))
}

/// Who holds a lock, in words for an operator.
pub(crate) fn holder(lock: &str) -> String {
    match lock {
        "backup" => "a backup (vzdump)".into(),
        "migrate" => "a migration".into(),
        "snapshot" | "snapshot-delete" | "rollback" => format!("a {lock} task"),
        other => format!("a task of kind {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn recorded_words_are_told_apart() {
        let table = [
            ("CT is locked (backup)", FaultKind::Locked),
            (
                "trying to acquire lock...\ncan't lock file '/run/lock/lxc/pve-config-100.lock' - got timeout",
                FaultKind::Locked,
            ),
            ("CT 100 already exists on node 'pve1'", FaultKind::VmidTaken),
            ("VM 100 already exists on node 'pve1'", FaultKind::VmidTaken),
            ("storage 'nostore' does not exist", FaultKind::StorageUnavailable),
            ("bridge 'vmbr9' does not exist", FaultKind::BridgeMissing),
            (
                "unable to create CT 101 - cluster not ready - no quorum?",
                FaultKind::NotQuorate,
            ),
            (
                "unable to open file '/etc/pve/nodes/pve1/lxc/100.conf.tmp.4711' - Permission denied",
                FaultKind::NotQuorate,
            ),
            ("failed to remove config file: Permission denied", FaultKind::NotQuorate),
            ("unable to create image: No space left on device", FaultKind::DiskFull),
            (
                "unable to create CT 101 - volume 'local:vztmpl/nope.tar.zst' does not exist",
                FaultKind::TemplateUnavailable,
            ),
            (
                "Configuration file 'nodes/pve1/lxc/999.conf' does not exist",
                FaultKind::ContainerMissing,
            ),
            (
                "ERROR: can't acquire lock '/var/run/vzdump.lock' (wait = 0)",
                FaultKind::Locked,
            ),
            ("storage 'nas' is not online", FaultKind::StorageUnavailable),
            (
                "unable to activate storage 'usb' - directory '/mnt/usb' does not exist or is unreachable",
                FaultKind::StorageUnavailable,
            ),
            (
                "pbs: error fetching datastores - 500 Can't connect to pbs.example.org:8007 (Connection refused)",
                FaultKind::StorageUnavailable,
            ),
            ("CT 100 not running", FaultKind::ContainerStopped),
            ("container '100' not running!", FaultKind::ContainerStopped),
        ];
        for (text, kind) in table {
            assert_eq!(cause(text).unwrap().0, kind, "{text}");
        }
        assert!(cause("CT locked (backup)").is_none());
        assert!(cause("cat: /etc/shadow: Permission denied").is_none());
        assert_eq!(
            cause("CT is locked (backup)").unwrap().1,
            "the container is locked by a backup (vzdump)"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = (cause(&text), cause(&format!("CT is locked ({text}")));
        }
    }
}
