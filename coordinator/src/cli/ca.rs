//! `ca`: the certificate authority, for whoever has the machine. Works on the files and the registry, whether `serve` runs or not; one that runs notices within
//! seconds.

use super::{
    exit::{self, Failure},
    password::{self, What},
    token::{caller, print},
};
use crate::{
    assemble,
    clock::{Clock as _, SystemClock},
    config::Config,
    pki::{
        self, BackupError, Lock, Pki,
        rotation::{ANNOUNCE_DEFAULT_DAYS, OVERLAP_DEFAULT_DAYS, RENEW_WITHIN_DEFAULT_S, Standing, Terms},
    },
    service::authority::{Authority, AuthorityView, NodeView},
    store::Store,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Of a backup that is written.
const NEW_PASSPHRASE: What = What {
    word: "passphrase",
    flag: "--passphrase-file",
    new: true,
};
/// Of one that is read.
const PASSPHRASE: What = What {
    new: false,
    ..NEW_PASSPHRASE
};

/// The certificate authority.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Ca {
    /// Show the roots, how far a rotation is, which nodes have followed, and what to do next
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Save the keys and certificates of the authority to a new file, and check it; the registry is saved with the state folder
    Backup {
        /// The file to make; it must not exist
        file: PathBuf,
        #[command(flatten)]
        lock: LockArguments,
    },
    /// Put a saved authority into a state folder that has none; the coordinator must not run
    Restore {
        /// The file that `backup` made
        file: PathBuf,
        #[command(flatten)]
        lock: LockArguments,
    },
    /// Replace the root: announce a new one, let it sign once the nodes know it, and retire the old one after the overlap
    Rotate {
        /// How long the old root stays trusted after the new one has begun to sign, days, 2 to 1825
        #[arg(long, value_name = "DAYS", default_value_t = OVERLAP_DEFAULT_DAYS)]
        overlap_days: u16,
        /// How long nodes that are away are waited for before the new root signs, days
        #[arg(long, value_name = "DAYS", default_value_t = ANNOUNCE_DEFAULT_DAYS)]
        announce_days: u16,
        /// Over how long connected nodes spread the renewal of their certificates, seconds
        #[arg(long, value_name = "SECONDS", default_value_t = RENEW_WITHIN_DEFAULT_S)]
        renew_within: u32,
        /// Take the next step of a rotation now, whoever has not followed
        #[arg(long, conflicts_with_all = ["overlap_days", "announce_days", "renew_within", "call_off"])]
        proceed: bool,
        /// Forget a new root that does not sign yet
        #[arg(long, conflicts_with_all = ["overlap_days", "announce_days", "renew_within"])]
        call_off: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct LockArguments {
    /// File whose first line is the passphrase [default: asked for, or standard input]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Without a passphrase: whoever reads the file can speak for this coordinator to every node
    #[arg(long, conflicts_with = "passphrase_file")]
    unencrypted: bool,
}

impl LockArguments {
    fn lock(&self, what: What) -> Result<Lock, Failure> {
        if self.unencrypted {
            return Ok(Lock::Open);
        }
        password::read(what, self.passphrase_file.as_deref()).map(Lock::Passphrase)
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let code = match &error {
            BackupError::Pki(_) | BackupError::Differs(_) | BackupError::Passphrase(_) => exit::FAILED,
            _ => exit::REFUSED,
        };
        Self::new(code, error.to_string())
    }
}

impl Ca {
    pub(super) async fn execute(self, config: &Config) -> Result<(), Failure> {
        config.ensure_state()?;
        if let Self::Restore { file, lock } = &self {
            return restore(config, file, lock);
        }
        if !Pki::is_there(&config.state) {
            return Err(Failure::new(
                exit::REFUSED,
                format!(
                    "there is no authority in {} yet: the coordinator's first start makes it, `ca restore` brings a saved one back",
                    config.state.display()
                ),
            ));
        }
        let store = Store::open(&config.registry()).await?;
        let done = self.on(config, &store).await;
        store.close().await;
        done
    }

    async fn on(self, config: &Config, store: &Store) -> Result<(), Failure> {
        let pki = Pki::open(&config.state, SystemClock.now_ms())?;
        let authority = Authority::new(store.clone(), Arc::new(SystemClock), pki.clone());
        match self {
            Self::Status { json } => {
                let view = authority.status(&caller()).await?;
                if json {
                    let text = serde_json::to_string_pretty(&view)
                        .map_err(|error| Failure::new(exit::FAILED, format!("cannot write JSON: {error}")))?;
                    print(std::iter::once(text))
                } else {
                    print(lines(&view).into_iter())
                }
            }
            Self::Backup { file, lock } => {
                let with = lock.lock(NEW_PASSPHRASE)?;
                let sealed = matches!(with, Lock::Passphrase(_));
                let saved = pki.back_up(&file, &with, SystemClock.now_ms())?;
                authority.saved(&caller(), &file.display().to_string(), sealed).await?;
                eprintln!(
                    "saved the authority ({} root{}) to {}, read it back and compared it",
                    saved.pins.len(),
                    if saved.pins.len() == 1 { "" } else { "s" },
                    file.display()
                );
                if !sealed {
                    eprintln!("It is not encrypted: keep it like the keys that it holds.");
                }
                eprintln!(
                    "It holds {} only. The registry and the key of the apps' secrets are saved with the rest of {}.",
                    config.state.join("ca").display(),
                    config.state.display()
                );
                Ok(())
            }
            Self::Rotate { call_off: true, .. } => said(&authority.call_off(&caller()).await?),
            Self::Rotate { proceed: true, .. } => said(&authority.proceed(&caller()).await?),
            Self::Rotate {
                overlap_days,
                announce_days,
                renew_within,
                ..
            } => {
                let terms = Terms {
                    overlap_days,
                    announce_days,
                    renew_within_s: renew_within,
                };
                said(&authority.begin(&caller(), terms).await?)
            }
            // `execute` has done it.
            Self::Restore { .. } => Ok(()),
        }
    }
}

fn restore(config: &Config, file: &Path, lock: &LockArguments) -> Result<(), Failure> {
    // Nobody is to make a new authority in between.
    let _alone = assemble::lock(config)?;
    // A file that is not encrypted needs no passphrase, and is not asked about.
    let from_file = |with: &Lock| pki::restore(&config.state, file, with, SystemClock.now_ms());
    let restored = match from_file(&Lock::Open) {
        Err(BackupError::Sealed(_)) if !lock.unencrypted => from_file(&lock.lock(PASSPHRASE)?),
        other => other,
    }?;
    eprintln!(
        "restored the authority as it was on {} ({} root{}, the newest is {}); start the coordinator",
        restored.made_at,
        restored.pins.len(),
        if restored.pins.len() == 1 { "" } else { "s" },
        restored.pins.last().map_or("", String::as_str)
    );
    Ok(())
}

/// How it stands after a step.
fn said(view: &AuthorityView) -> Result<(), Failure> {
    print(lines(view).into_iter())
}

fn standing(of: Standing) -> &'static str {
    match of {
        Standing::Incoming => "incoming: announced, signs nothing yet",
        Standing::Signing => "signs",
        Standing::Outgoing => "outgoing: still trusted, signs for agents that cannot follow",
        Standing::Past => "past: trusted no more, its key is destroyed",
    }
}

fn lines(view: &AuthorityView) -> Vec<String> {
    let mut lines = Vec::new();
    for root in &view.roots {
        lines.push(format!("root      {}", root.pin));
        lines.push(format!("          {}", standing(root.standing)));
        lines.push(format!(
            "          valid from {} until {}",
            root.valid_from, root.valid_until
        ));
    }
    lines.push(match (view.stage, &view.stage_since, &view.stage_until) {
        (stage, Some(since), Some(until)) => format!("stage     {stage} since {since}, until {until}"),
        (stage, ..) => format!("stage     {}", stage.replace('_', " ")),
    });
    lines.push(format!(
        "backup    {}",
        view.backed_up_at
            .as_ref()
            .map_or_else(|| "not saved as it is now".into(), |at| format!("saved on {at}"))
    ));
    lines.push(format!(
        "nodes     {}; {} have the newest root, {} a certificate of it",
        view.nodes.len(),
        view.told,
        view.renewed
    ));
    let newest = view.roots.last().map(|root| root.pin.as_str());
    lines.extend(view.nodes.iter().filter_map(|node| behind(node, newest)));
    lines.extend(view.next.iter().map(|sentence| format!("next      {sentence}")));
    lines
}

/// A node that has not followed yet; the others are not worth a line.
fn behind(node: &NodeView, newest: Option<&str>) -> Option<String> {
    let newest = newest?;
    let renewed = node.certificate_root.as_deref() == Some(newest);
    let stored = node.roots.iter().any(|pin| pin == newest);
    if renewed && stored {
        return None;
    }
    let why = match (node.follows, stored) {
        (Some(false), _) => "its agent is too old to follow: update it".to_owned(),
        (None, _) => "not connected since the coordinator knows of this".to_owned(),
        (Some(true), false) => "has not heard of the newest root".to_owned(),
        (Some(true), true) => "has the newest root, and no certificate of it yet".to_owned(),
    };
    let seen = node
        .last_seen
        .as_ref()
        .map_or_else(|| "never seen".into(), |at| format!("last seen {at}"));
    Some(format!("          {}: {why}; {seen}", node.name))
}
