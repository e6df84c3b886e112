//! `backup` and `restore`: the coordinator's whole state as a folder. The registry is copied while the coordinator runs, as it is at one moment; the keys beside it
//! are made once and never change, and the authority is saved as `ca backup` does. Every file stands with its checksum in `manifest.json`.
//!
//! A restored state is older than the nodes. Its next run is newer than every run that an agent has obeyed: the epoch is raised by more than the starts that there
//! can have been since the backup. What the nodes have and the registry does not know stays as it is: reconciliation lists it.

use super::exit::{self, Failure};
use crate::{
    assemble,
    clock::{Clock as _, SystemClock, UnixMs, rfc3339},
    config::Config,
    pki::{self, Lock, Pki},
    store::copy::{self, Contents},
};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

const FORMAT: &str = "proximity-coordinator-backup/1";
const MANIFEST: &str = "manifest.json";
const REGISTRY: &str = "registry.db";
const AUTHORITY: &str = "authority.json";
/// Keys that lie beside the registry.
const KEYS: [&str; 2] = ["secrets.key", "session.key"];
/// Starts in a second: more than there can be.
const STARTS_PER_S: u64 = 10;
/// For a clock that was set between backup and restore.
const SPARE_STARTS: u64 = 1_000_000;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: String,
    version: String,
    made_at: String,
    made_at_ms: UnixMs,
    epoch: u64,
    apps: i64,
    nodes: i64,
    files: Vec<Listed>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    name: String,
    size: u64,
    sha256: String,
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let text = format!("cannot {action} {}", path.display());
    move |error| Failure::new(exit::FAILED, format!("{text}: {error}"))
}

fn refused(why: String) -> Failure {
    Failure::new(exit::REFUSED, why)
}

fn private_folder(path: &Path) -> Result<(), Failure> {
    DirBuilder::new().mode(0o700).create(path).map_err(failed("make", path))
}

/// Length and checksum of a file.
fn measure(path: &Path) -> Result<(u64, String), Failure> {
    let mut file = File::open(path).map_err(failed("read", path))?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0_u64, vec![0_u8; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(failed("read", path))? {
            0 => return Ok((size, HEXLOWER.encode(&hash.finalize()))),
            n => {
                size += n as u64;
                hash.update(&buffer[..n]);
            }
        }
    }
}

/// Copies into a new file for its owner alone, and syncs it.
fn copy_private(from: &Path, into: &Path) -> Result<(), Failure> {
    let mut source = File::open(from).map_err(failed("read", from))?;
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(into)
        .map_err(failed("write", into))?;
    io::copy(&mut source, &mut target)
        .and_then(|_| target.sync_all())
        .map_err(failed("write", into))
}

fn sync(path: &Path) -> Result<(), Failure> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(failed("write", path))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Runs `fill` on a new folder beside `target` that then takes its name; if it fails, nothing is left.
async fn whole_or_not_at_all<T>(
    target: &Path,
    fill: impl AsyncFnOnce(&Path) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder_of(target).join(format!(".{name}.{}", std::process::id()));
    private_folder(&draft)?;
    let filled = async {
        let filled = fill(&draft).await?;
        sync(&draft)?;
        fs::rename(&draft, target).map_err(failed("make", target))?;
        sync(folder_of(target))?;
        Ok::<T, Failure>(filled)
    }
    .await;
    if filled.is_err()
        && let Err(left) = fs::remove_dir_all(&draft)
        && left.kind() != io::ErrorKind::NotFound
    {
        eprintln!("what was begun is left in {}: {left}", draft.display());
    }
    filled
}

/// `backup DIR`.
pub(super) async fn back_up(config: &Config, into: &Path) -> Result<(), Failure> {
    let now = SystemClock.now_ms();
    if !config.registry().exists() {
        return Err(refused(format!(
            "there is no registry in {} yet: the coordinator's first start makes it",
            config.state.display()
        )));
    }
    let target: PathBuf = if into.is_dir() {
        let stamp: String = rfc3339(now).chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        into.join(format!("proximity-coordinator-{stamp}"))
    } else {
        into.to_owned()
    };
    if target.exists() {
        return Err(refused(format!(
            "{} is there already; a backup overwrites nothing: name another folder",
            target.display()
        )));
    }
    let contents = whole_or_not_at_all(&target, async |draft| fill(config, draft, now).await).await?;
    eprintln!(
        "saved the coordinator's state to {}: {} apps, {} nodes, run {}; the registry was read back and is whole",
        target.display(),
        contents.apps,
        contents.nodes,
        contents.epoch
    );
    eprintln!("It is not encrypted, and holds every key: keep it like the state folder itself.");
    Ok(())
}

async fn fill(config: &Config, draft: &Path, now: UnixMs) -> Result<Contents, Failure> {
    let registry = draft.join(REGISTRY);
    copy::save(&config.registry(), &registry).await?;
    fs::set_permissions(&registry, Permissions::from_mode(0o600)).map_err(failed("write", &registry))?;
    sync(&registry)?;
    let contents = copy::check(&registry).await?;
    let mut names = vec![REGISTRY];
    for key in KEYS {
        let from = config.state.join(key);
        if from.exists() {
            copy_private(&from, &draft.join(key))?;
            names.push(key);
        }
    }
    if Pki::is_there(&config.state) {
        Pki::open(&config.state, now).map_err(pki::BackupError::from)?.back_up(
            &draft.join(AUTHORITY),
            &Lock::Open,
            now,
        )?;
        names.push(AUTHORITY);
    }
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let (size, sha256) = measure(&draft.join(name))?;
        files.push(Listed {
            name: name.to_owned(),
            size,
            sha256,
        });
    }
    let manifest = Manifest {
        format: FORMAT.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        made_at: rfc3339(now),
        made_at_ms: now,
        epoch: contents.epoch,
        apps: contents.apps,
        nodes: contents.nodes,
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot write JSON: {error}")))?;
    let path = draft.join(MANIFEST);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("write", &path))?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &path))?;
    Ok(contents)
}

/// Reads the manifest, and compares every file with it.
fn verified(from: &Path) -> Result<Manifest, Failure> {
    let path = from.join(MANIFEST);
    let no_backup = |why: String| {
        refused(format!(
            "{} is not a whole backup of a coordinator: {why}",
            from.display()
        ))
    };
    let text = fs::read(&path).map_err(|error| no_backup(format!("{MANIFEST} cannot be read ({error})")))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| no_backup(format!("{MANIFEST} is damaged ({error})")))?;
    if manifest.format != FORMAT {
        return Err(no_backup(format!(
            "its format is {:?}, this version knows {FORMAT:?}",
            manifest.format
        )));
    }
    for listed in &manifest.files {
        let known = [REGISTRY, AUTHORITY].contains(&listed.name.as_str()) || KEYS.contains(&listed.name.as_str());
        if !known {
            return Err(no_backup(format!("it holds a file named {:?}", listed.name)));
        }
        let (size, sha256) = measure(&from.join(&listed.name))?;
        if (size, &sha256) != (listed.size, &listed.sha256) {
            return Err(no_backup(format!("{} is not as it was saved", listed.name)));
        }
    }
    if !manifest.files.iter().any(|listed| listed.name == REGISTRY) {
        return Err(no_backup("it has no registry".into()));
    }
    Ok(manifest)
}

/// `restore DIR`.
pub(super) async fn restore(config: &Config, from: &Path) -> Result<(), Failure> {
    let manifest = verified(from)?;
    config.ensure_state()?;
    // Nobody is to start, or to make a registry of its own, in between.
    let _alone = assemble::lock(config)?;
    let has = |name: &str| manifest.files.iter().any(|listed| listed.name == name);
    for name in [REGISTRY, "ca"].into_iter().chain(KEYS) {
        let there = config.state.join(name);
        if there.exists() {
            return Err(refused(format!(
                "{} is there already: move everything out of {} first, if it is to be replaced",
                there.display(),
                config.state.display()
            )));
        }
    }
    let now = SystemClock.now_ms();
    let since_s = u64::try_from((now - manifest.made_at_ms).max(0) / 1000).unwrap_or(0);
    let epoch = manifest.epoch + since_s * STARTS_PER_S + SPARE_STARTS;
    let draft = config.state.join(format!("restoring-{}", std::process::id()));
    let placed = async {
        private_folder(&draft)?;
        let names: Vec<&str> = KEYS.into_iter().filter(|key| has(key)).chain([REGISTRY]).collect();
        for name in &names {
            copy_private(&from.join(name), &draft.join(name))?;
        }
        let registry = draft.join(REGISTRY);
        let contents = copy::check(&registry).await?;
        copy::raise_epoch_to(&registry, epoch).await?;
        sync(&registry)?;
        if has(AUTHORITY) {
            pki::restore(&config.state, &from.join(AUTHORITY), &Lock::Open, now)?;
        }
        // The registry comes last: without it nothing starts with half of a state.
        for name in names {
            let (file, target) = (draft.join(name), config.state.join(name));
            give_to_owner_of(&config.state, &file)?;
            fs::rename(&file, &target).map_err(failed("write", &target))?;
        }
        sync(&config.state)?;
        Ok::<Contents, Failure>(contents)
    }
    .await;
    let cleared = fs::remove_dir_all(&draft);
    let contents = placed.map_err(|failure| {
        Failure::new(
            failure.code,
            format!(
                "{}; move out of {} what is there of it, and restore again",
                failure.message,
                config.state.display()
            ),
        )
    })?;
    cleared.map_err(failed("remove", &draft))?;
    eprintln!(
        "restored the state of {}: {} apps, {} nodes; the next run is {}, newer than any that an agent has obeyed",
        manifest.made_at,
        contents.apps,
        contents.nodes,
        epoch + 1
    );
    eprintln!(
        "Start the coordinator. What was deployed, changed or deleted since then is not in this state, and stays on the nodes as it is. When they are connected, \
         POST /api/core/reconcile compares: its report lists as `strays` what the registry does not know, with what to do about each; apps that are gone become `error`. \
         Nodes that joined since join again."
    );
    Ok(())
}

/// What root puts into the state folder of the service has to be the service's.
fn give_to_owner_of(folder: &Path, path: &Path) -> Result<(), Failure> {
    let owner = fs::metadata(folder).map_err(failed("read", folder))?;
    let own = fs::metadata(path).map_err(failed("read", path))?;
    if own.uid() == 0 && owner.uid() != 0 {
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).map_err(failed("give away", path))?;
    }
    Ok(())
}
