//! `ca/`: the roots with their keys, and the one file that says what each is good for. A step of a rotation is the replacement of that file, in one rename:
//! what is made before it counts for nothing without it, and what is removed after it is removed at the next look if a crash came between.

use super::{
    PkiError,
    authority::{self, Authority, Files, Root},
    file,
    rotation::{Plan, Standing, StepError, Terms},
};
use crate::clock::UnixMs;
use proximity_protocol::roots::{Pin, Roots};
use rustls_pki_types::CertificateDer;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// A root with everything that is there of it.
pub(super) struct Held {
    pub(super) root: Root,
    pub(super) standing: Standing,
    /// Its key, signed by the root before.
    pub(super) cross: Option<CertificateDer<'static>>,
    pub(super) authority: Option<Authority>,
}

/// All roots, as of one moment.
pub(super) struct Authorities {
    pub(super) plan: Plan,
    pub(super) held: Vec<Held>,
}

impl Authorities {
    /// The one that signs.
    pub(super) fn signing(&self) -> (&Held, &Authority) {
        let found = self.held.iter().find(|held| held.standing == Standing::Signing);
        let with_key = found.and_then(|held| held.authority.as_ref().map(|authority| (held, authority)));
        with_key.expect("reading refuses a folder without a root that signs and its key")
    }

    /// Those of which certificates are taken.
    pub(super) fn trusted(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(|held| held.standing != Standing::Past)
    }

    pub(super) fn by_pin(&self, pin: &Pin) -> Option<&Held> {
        self.held.iter().find(|held| held.root.pin == *pin)
    }

    /// The root that has issued that certificate.
    pub(super) fn issuer(&self, certificate: &[u8]) -> Option<&Held> {
        self.held.iter().find(|held| held.root.has_issued(certificate))
    }

    /// What agents are told.
    pub(super) fn told(&self) -> Roots {
        use super::rotation::Stage;
        Roots {
            trusted: self.trusted().map(|held| held.root.certificate.to_vec()).collect(),
            crossed: self
                .held
                .iter()
                .filter_map(|held| held.cross.as_ref().map(|der| der.to_vec()))
                .collect(),
            signs: self.signing().0.root.pin,
            renew_within_s: match self.plan.rotation {
                Some(Stage::Announced { renew_within_s, .. } | Stage::Overlap { renew_within_s, .. }) => renew_within_s,
                None => super::rotation::RENEW_WITHIN_DEFAULT_S,
            },
        }
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

/// Held while a step is taken: `serve` and the command line may both want to.
struct Alone {
    _lock: File,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn plan_path(&self) -> PathBuf {
        self.0.join("roots.json")
    }

    fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PkiError + 'a {
        move |source| PkiError::File {
            action,
            path: path.to_owned(),
            source,
        }
    }

    fn alone(&self) -> Result<Alone, PkiError> {
        let path = self.0.join("lock");
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(Self::failed("open", &path))?;
        file::give_to_owner_of(&self.0, &file, &path)?;
        file.lock().map_err(Self::failed("lock", &path))?;
        Ok(Alone { _lock: file })
    }

    /// The text of the plan, to see whether it has changed; `None`: there is none yet.
    pub(super) fn plan_text(&self) -> Result<Option<Vec<u8>>, PkiError> {
        let path = self.plan_path();
        match std::fs::read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Self::failed("read", &path)(error)),
        }
    }

    fn plan(&self, text: Option<&[u8]>) -> Result<Plan, PkiError> {
        match text {
            Some(text) => Plan::parse(text).map_err(|detail| PkiError::Damaged {
                path: self.plan_path(),
                detail,
            }),
            None => Ok(Plan::default()),
        }
    }

    /// Reads every root. `text` is the plan's.
    pub(super) fn read(&self, text: Option<&[u8]>) -> Result<Authorities, PkiError> {
        let plan = self.plan(text)?;
        let mut held = Vec::new();
        for entry in &plan.roots {
            let files = Files::of(&self.0, &entry.name);
            if entry.standing == Standing::Past {
                // A crash may have come between the end of its time and the end of its key.
                file::ensure_gone(&files.key)?;
            }
            let root = authority::read_root(&files.certificate)?;
            let authority = Authority::read(&files, &root)?;
            if authority.is_none() && entry.standing != Standing::Past {
                return Err(PkiError::Incomplete {
                    present: files.certificate,
                    missing: files.key,
                });
            }
            let cross = if files.cross.exists() {
                Some(authority::read_certificate(&files.cross)?)
            } else {
                None
            };
            held.push(Held {
                root,
                standing: entry.standing,
                cross,
                authority,
            });
        }
        Ok(Authorities { plan, held })
    }

    /// Makes the first root, if there is none.
    pub(super) fn ensure_first(&self, now: UnixMs) -> Result<(), PkiError> {
        if self.plan_text()?.is_some() {
            return Ok(());
        }
        authority::make_first(&Files::of(&self.0, "ca"), now)
    }

    fn write(&self, plan: &Plan) -> Result<(), PkiError> {
        let path = self.plan_path();
        let text = serde_json::to_vec_pretty(plan).map_err(|error| PkiError::Damaged {
            path: path.clone(),
            detail: error.to_string(),
        })?;
        file::replace(&path, &text, 0o600)
    }

    /// Takes one step of the plan.
    fn step(&self, step: impl FnOnce(Plan) -> Result<Plan, StepError>) -> Result<Plan, PkiError> {
        let plan = step(self.plan(self.plan_text()?.as_deref())?)?;
        self.write(&plan)?;
        Ok(plan)
    }

    /// Makes the next root and announces it.
    pub(super) fn announce(&self, now: UnixMs, terms: Terms) -> Result<(), PkiError> {
        let _alone = self.alone()?;
        let text = self.plan_text()?;
        let before = self.read(text.as_deref())?;
        // Refused before anything is made.
        before.plan.clone().announce(now, terms)?;
        let files = Files::of(&self.0, &before.plan.next_name());
        // Of a try that a crash ended before it counted, or of one that was called off.
        discard(&files)?;
        let (held, authority) = before.signing();
        authority::make_next(&files, (authority, &held.root), now)?;
        self.step(|plan| plan.announce(now, terms))?;
        Ok(())
    }

    /// The new root signs.
    pub(super) fn switch(&self, now: UnixMs) -> Result<(), PkiError> {
        let _alone = self.alone()?;
        self.step(|plan| plan.switch(now))?;
        Ok(())
    }

    /// The old root is trusted no more, and its key is destroyed.
    pub(super) fn retire(&self) -> Result<(), PkiError> {
        let _alone = self.alone()?;
        let plan = self.step(Plan::retire)?;
        for entry in plan.roots.iter().filter(|entry| entry.standing == Standing::Past) {
            file::ensure_gone(&Files::of(&self.0, &entry.name).key)?;
        }
        Ok(())
    }

    /// The new root is forgotten.
    pub(super) fn call_off(&self) -> Result<(), PkiError> {
        let _alone = self.alone()?;
        let plan = self.step(Plan::call_off)?;
        discard(&Files::of(&self.0, &plan.next_name()))
    }

    /// Remembers that the keys were saved as they are now, if the plan is still the one that was saved.
    pub(super) fn backed_up(&self, saved: Option<&[u8]>, now: UnixMs) -> Result<(), PkiError> {
        let _alone = self.alone()?;
        if self.plan_text()?.as_deref() != saved {
            return Ok(());
        }
        self.step(|plan| {
            Ok(Plan {
                backed_up_at: Some(now),
                ..plan
            })
        })?;
        Ok(())
    }

    /// Runs `work` while no step can be taken.
    pub(super) fn at_rest<T>(&self, work: impl FnOnce() -> Result<T, PkiError>) -> Result<T, PkiError> {
        let _alone = self.alone()?;
        work()
    }
}

fn discard(files: &Files) -> Result<(), PkiError> {
    for path in [&files.key, &files.cross, &files.certificate] {
        file::ensure_gone(path)?;
    }
    Ok(())
}
