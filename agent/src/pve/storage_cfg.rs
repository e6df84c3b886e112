//! `/etc/pve/storage.cfg`.

use proximity_protocol::ids::StorageId;

/// One storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) id: StorageId,
    /// `dir`, `lvmthin`….
    pub(crate) kind: String,
    properties: Vec<(String, String)>,
}

impl Storage {
    fn get(&self, key: &str) -> Option<&str> {
        self.properties
            .iter()
            .rev()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// What it takes. Without the line, images and rootdir (PVE::Storage::Plugin).
    pub(crate) fn content(&self) -> Vec<String> {
        let text = self.get("content").unwrap_or("images,rootdir");
        text.split([',', ' '])
            .map(str::trim)
            .filter(|word| !word.is_empty() && *word != "none")
            .map(str::to_owned)
            .collect()
    }

    /// Whether it takes this kind of content.
    pub(crate) fn takes(&self, content: &str) -> bool {
        self.content().iter().any(|held| held == content)
    }

    /// Whether several nodes see the same files.
    pub(crate) fn shared(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "nfs" | "cifs" | "cephfs" | "glusterfs" | "rbd" | "pbs" | "iscsi" | "iscsidirect" | "zfs"
        ) || self
            .get("shared")
            .is_some_and(|value| matches!(value, "1" | "on" | "yes" | "true" | ""))
    }

    /// Whether this node has it.
    pub(crate) fn is_for(&self, node: &str) -> bool {
        self.get("nodes")
            .is_none_or(|nodes| nodes.split([',', ' ']).any(|name| name.trim() == node))
            && !self
                .get("disable")
                .is_some_and(|value| matches!(value, "1" | "on" | "yes" | "true" | ""))
    }

    /// Its folder on the node, if it is one.
    pub(crate) fn path(&self) -> Option<String> {
        match (self.get("path"), self.kind.as_str()) {
            (Some(path), _) if path.starts_with('/') => Some(path.to_owned()),
            // Where Proxmox mounts what names no path.
            (None, "nfs" | "cifs" | "cephfs" | "glusterfs") => Some(format!("/mnt/pve/{}", self.id)),
            _ => None,
        }
    }

    /// The folder of its templates below [`Storage::path`]: `content-dirs` may move it.
    pub(crate) fn template_folder(&self) -> &str {
        self.content_folder("vztmpl").unwrap_or("template/cache")
    }

    /// The folder of its backups below [`Storage::path`].
    pub(crate) fn backup_folder(&self) -> &str {
        self.content_folder("backup").unwrap_or("dump")
    }

    fn content_folder(&self, content: &str) -> Option<&str> {
        let moved = self.get("content-dirs")?.split(',').find_map(|dir| {
            let (kind, folder) = dir.trim().split_once('=')?;
            (kind == content).then_some(folder)
        });
        moved.filter(|dir| !dir.split('/').any(|part| part == ".."))
    }
}

/// All storages in the order of the file. Entries whose id is not one are left out and named in the second list.
pub(crate) fn parse(text: &str) -> (Vec<Storage>, Vec<String>) {
    let (mut storages, mut strange): (Vec<Storage>, Vec<String>) = (Vec::new(), Vec::new());
    let mut skipping = true;
    for line in text.lines() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if let (false, Some(storage)) = (skipping, storages.last_mut()) {
                let (key, value) = line.trim().split_once([' ', '\t']).unwrap_or((line.trim(), ""));
                storage.properties.push((key.to_owned(), value.trim().to_owned()));
            }
            continue;
        }
        let Some((kind, id)) = line.split_once(':') else {
            (skipping, _) = (true, strange.push(line.trim().to_owned()));
            continue;
        };
        match StorageId::new(id.trim()) {
            Ok(id) => {
                storages.push(Storage {
                    id,
                    kind: kind.trim().to_owned(),
                    properties: Vec::new(),
                });
                skipping = false;
            }
            Err(error) => (skipping, _) = (true, strange.push(error.to_string())),
        }
    }
    (storages, strange)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ordinary_file_is_understood() {
        let text = "dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl,backup\n\nlvmthin: local-lvm\n\tthinpool data\n\tvgname pve\n\tcontent rootdir,images\n\n\
            nfs: share\n\tserver 10.0.0.9\n\texport /x\n\tcontent vztmpl\n\tnodes pve2,pve3\n\tcontent-dirs vztmpl=tmpl\n\ndir: 9bad\n\tpath /bad\n";
        let (storages, strange) = parse(text);
        assert_eq!(
            storages.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(),
            ["local", "local-lvm", "share"]
        );
        assert_eq!(strange.len(), 1);
        let [local, lvm, share] = storages.as_slice() else {
            panic!("three")
        };
        assert!(local.takes("vztmpl") && !local.takes("rootdir") && !local.shared());
        assert_eq!(
            (local.path(), lvm.path(), share.path()),
            (Some("/var/lib/vz".into()), None, Some("/mnt/pve/share".into()))
        );
        assert_eq!(
            (local.template_folder(), share.template_folder()),
            ("template/cache", "tmpl")
        );
        assert!(share.shared() && share.is_for("pve2") && !share.is_for("pve1") && local.is_for("pve1"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(dir|: |:|\n|\t|path|content|[ -~]|é){0,60}") {
            for storage in parse(&text).0 {
                let _ = (storage.content(), storage.path(), storage.template_folder().len(), storage.backup_folder().len(), storage.shared(), storage.is_for("x"));
            }
        }
    }
}
