//! A template with the prefix is on the storage. Names of the index carry versions that vanish, so what is asked for is a beginning.

use super::act::{Act, Bound, did_not_happen, failure};
use crate::{
    facts::{cluster, storages},
    host::tool::ToolEnd,
    pve::argv,
};
use proximity_protocol::{
    command::Outcome,
    fault::{Fault, FaultKind},
    ids::{StorageId, TemplatePrefix, VolumeId},
};
use std::{cmp::Ordering, fs, io, path::Path, time::Duration};

/// How long the index may take.
const INDEX_BOUND: Duration = Duration::from_secs(180);
/// How long a download may take.
const DOWNLOAD_BOUND: Duration = Duration::from_secs(3_600);

fn unavailable(message: String) -> Fault {
    Fault::new(FaultKind::TemplateUnavailable, message)
}

pub(super) async fn run(act: &Act<'_>, storage: &StorageId, prefix: &TemplatePrefix) -> Result<Outcome, Fault> {
    let found = cluster::storage(act.node, storage)?;
    if !found.takes("vztmpl") {
        return Err(Fault::new(
            FaultKind::StorageUnavailable,
            format!("storage {storage} does not take templates (content vztmpl)"),
        ));
    }
    let folder = storages::folder(act.node, &found)
        .ok_or_else(|| {
            Fault::new(
                FaultKind::StorageUnavailable,
                format!("storage {storage} has no folder for templates"),
            )
        })?
        .join(found.template_folder());
    let _alone = act.node.lock_storage(storage).await;
    if let Some(volume) = newest_there(storage, &folder, prefix)? {
        return Ok(Outcome::Template { volume });
    }
    let name = newest_in_index(act, prefix).await?;
    let volume = VolumeId::new(format!("{storage}:vztmpl/{name}"))
        .map_err(|error| unavailable(format!("the index of templates names {name:?}: {error}")))?;
    act.say(&format!("downloading template {name} to storage {storage}"));
    let argv = argv::template_download(storage, &volume);
    let end = act
        .tool("download", &argv, None, Bound::Wait(DOWNLOAD_BOUND), &[])
        .await;
    // Zero is not success, and no result is no failure: what counts is the file, which gets its name when it is whole.
    if let Some(volume) = newest_there(storage, &folder, prefix)? {
        return Ok(Outcome::Template { volume });
    }
    Err(match end {
        Ok(end) if end.success() => unavailable(format!(
            "{name} is not on storage {storage} although its download reported success: see the task log in Proxmox"
        )),
        Ok(end) => failure(&argv, &end),
        Err(fault) => did_not_happen(fault),
    })
}

fn newest_there(storage: &StorageId, folder: &Path, prefix: &TemplatePrefix) -> Result<Option<VolumeId>, Fault> {
    let unreadable = |error: io::Error| {
        Fault::new(
            FaultKind::StorageUnavailable,
            format!("{} of storage {storage} cannot be read: {error}", folder.display()),
        )
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // Proxmox makes it with the first template. But a storage that is not mounted is not an empty one.
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder.ancestors().skip(1).any(Path::is_dir) => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        // An empty file is what a full disk leaves of a download.
        if entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(newest(names, prefix).and_then(|name| VolumeId::new(format!("{storage}:vztmpl/{name}")).ok()))
}

async fn newest_in_index(act: &Act<'_>, prefix: &TemplatePrefix) -> Result<String, Fault> {
    let none = || {
        unavailable(format!(
            "no template that begins with {prefix} is on the storage or in the index of downloads: run `pveam update` on the node, or upload one"
        ))
    };
    let look = |end: ToolEnd| {
        newest(
            end.stdout
                .lines()
                .filter_map(|line| line.split_ascii_whitespace().nth(1).map(str::to_owned)),
            prefix,
        )
    };
    let before = act
        .must(
            "available",
            &argv::templates_available(),
            None,
            Bound::Wait(INDEX_BOUND),
        )
        .await?;
    if let Some(name) = look(before) {
        return Ok(name);
    }
    act.say("fetching the index of templates");
    // It ends with zero also when it failed; the index tells.
    act.must("index", &argv::template_index(), None, Bound::Wait(INDEX_BOUND))
        .await?;
    let after = act
        .must(
            "available_again",
            &argv::templates_available(),
            None,
            Bound::Wait(INDEX_BOUND),
        )
        .await?;
    look(after).ok_or_else(none)
}

/// The newest archive with the prefix, by version as people read it: 12.10 is after 12.7.
fn newest(names: impl IntoIterator<Item = String>, prefix: &TemplatePrefix) -> Option<String> {
    names
        .into_iter()
        .filter(|name| fits(name, prefix))
        .max_by(|a, b| by_number(a, b))
}

/// `debian-12` fits `debian-12-standard_…` and `debian-12_…`, not `debian-120-…`.
fn fits(name: &str, prefix: &TemplatePrefix) -> bool {
    let archive = [".tar.zst", ".tar.gz", ".tar.xz"].iter().any(|end| name.ends_with(end));
    let rest = name.strip_prefix(prefix.as_str());
    archive && rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
}

fn by_number(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (parts(a).into_iter(), parts(b).into_iter());
    loop {
        match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x != y => {
                return match (x.parse::<u64>(), y.parse::<u64>()) {
                    (Ok(x), Ok(y)) => x.cmp(&y),
                    _ => x.cmp(y),
                };
            }
            _ => {}
        }
    }
}

/// Runs of digits, and what is between them.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let bytes = text.as_bytes();
    for at in 1..=bytes.len() {
        if at == bytes.len()
            || (text.is_char_boundary(at) && bytes[at].is_ascii_digit() != bytes[at - 1].is_ascii_digit())
        {
            parts.push(&text[start..at]);
            start = at;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_is_chosen_by_number() {
        let prefix = TemplatePrefix::new("debian-12-standard").unwrap();
        let names = [
            "debian-12-standard_12.7-1_amd64.tar.zst",
            "debian-12-standard_12.10-1_amd64.tar.zst",
            "debian-12-standard_12.9-1_amd64.tar.zst.tmp",
            "debian-12-standardx_99_amd64.tar.zst",
        ];
        assert_eq!(
            newest(names.map(str::to_owned), &prefix).as_deref(),
            Some("debian-12-standard_12.10-1_amd64.tar.zst")
        );
        assert_eq!(newest(["ubuntu.tar.gz".to_owned()], &prefix), None);
    }

    #[test]
    fn a_prefix_ends_at_a_word() {
        let prefix = TemplatePrefix::new("debian-12").unwrap();
        assert!(fits("debian-12-standard_12.7-1_amd64.tar.zst", &prefix));
        assert!(!fits("debian-120-standard_1_amd64.tar.zst", &prefix));
    }

    #[test]
    fn parts_never_panic() {
        for text in ["", "é1é", "12", "a", "é"] {
            let _ = parts(text);
        }
    }
}
