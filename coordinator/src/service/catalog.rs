//! The catalog as users see it, and its folder.

use super::{Caller, FieldError, ServiceError, settings};
use crate::{
    clock::SharedClock,
    domain::catalog::{Catalog, Entry, Problem, SharedCatalog},
    store::{self, AuditEntry, Store, StoreError},
};
use serde::Serialize;
use serde_json::Value;
use std::{fs, io, path::PathBuf};

/// Far above any entry.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Why a folder is no catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It cannot be read.
    #[error("cannot read the catalog folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Files in it are wrong.
    #[error("the catalog has {} problem(s): {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Problems(Vec<Problem>),
}

/// Reads every `*.json` of a folder (hidden ones and sub-folders are left out). Blocks.
pub fn load(folder: &std::path::Path) -> Result<Catalog, CatalogError> {
    let at = |source| CatalogError::Folder {
        path: folder.to_owned(),
        source,
    };
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).map_err(at)? {
        let entry = entry.map_err(at)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".json") && !name.starts_with('.') && !entry.path().is_dir() {
            names.push(name);
        }
    }
    names.sort();
    let mut files = Vec::new();
    let mut problems = Vec::new();
    for name in names {
        let path = folder.join(&name);
        match fs::metadata(&path).map(|m| m.len()) {
            Ok(size) if size > FILE_MAX_BYTES => {
                problems.push(Problem::new(
                    &name,
                    "",
                    format!("has {size} bytes, at most {FILE_MAX_BYTES}"),
                ));
                continue;
            }
            _ => {}
        }
        match fs::read(&path) {
            Ok(content) => files.push((name, content)),
            Err(error) => problems.push(Problem::new(&name, "", format!("cannot be read: {error}"))),
        }
    }
    match Catalog::parse(files.iter().map(|(n, c)| (n.as_str(), c.as_slice()))) {
        Ok(catalog) if problems.is_empty() => Ok(catalog),
        Ok(_) => Err(CatalogError::Problems(problems)),
        Err(mut more) => {
            problems.append(&mut more);
            Err(CatalogError::Problems(problems))
        }
    }
}

/// Entries as a list shows them.
#[derive(Debug, Serialize)]
pub struct EntryList {
    total: usize,
    applications: Vec<Value>,
}

/// Figures over the catalog.
#[derive(Debug, Serialize)]
pub struct CatalogStats {
    total_apps: usize,
    total_categories: usize,
    deployable_apps: usize,
    categories: std::collections::BTreeMap<String, usize>,
}

/// The use cases of the catalog.
#[derive(Clone)]
pub struct CatalogService {
    shared: SharedCatalog,
    folder: PathBuf,
    store: Store,
    clock: SharedClock,
}

impl std::fmt::Debug for CatalogService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CatalogService(…)")
    }
}

fn list<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> EntryList {
    let applications: Vec<Value> = entries.into_iter().map(Entry::to_json).collect();
    EntryList {
        total: applications.len(),
        applications,
    }
}

impl CatalogService {
    /// Serves a shared catalog that was read from `folder`.
    pub fn new(shared: SharedCatalog, folder: PathBuf, store: Store, clock: SharedClock) -> Self {
        Self {
            shared,
            folder,
            store,
            clock,
        }
    }

    /// Refuses whoever is not logged in, unless the catalog is public.
    pub async fn allow(&self, caller: Option<&Caller>) -> Result<(), ServiceError> {
        if caller.is_some() {
            return Ok(());
        }
        let features: settings::FeatureSettings = settings::read(&mut *self.store.read().await?).await?;
        if features.public_catalog {
            Ok(())
        } else {
            Err(ServiceError::Unauthenticated("log in to see the catalog".into()))
        }
    }

    /// Every entry.
    pub fn all(&self) -> EntryList {
        list(self.shared.current().entries())
    }

    /// The names of the categories.
    pub fn categories(&self) -> Vec<String> {
        self.shared
            .current()
            .categories()
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    /// The entries of one category; an unknown one has none.
    pub fn in_category(&self, category: &str) -> EntryList {
        list(self.shared.current().in_category(category))
    }

    /// The entries that fit, the best first.
    pub fn search(&self, query: &str) -> EntryList {
        list(self.shared.current().search(query))
    }

    /// Figures.
    pub fn stats(&self) -> CatalogStats {
        let catalog = self.shared.current();
        let categories: std::collections::BTreeMap<String, usize> = catalog.categories().into_iter().collect();
        CatalogStats {
            total_apps: catalog.len(),
            total_categories: categories.len(),
            deployable_apps: catalog.entries().filter(|e| e.native().is_ok()).count(),
            categories,
        }
    }

    /// One entry.
    pub fn get(&self, id: &str) -> Result<Value, ServiceError> {
        self.shared.current().get(id).map(Entry::to_json).ok_or_else(|| {
            ServiceError::NotFound(format!(
                "the catalog has no entry {id:?}; GET /api/catalog lists what there is"
            ))
        })
    }

    /// Swaps the whole catalog for what the folder holds now; keeps the old one if a file is bad. Answers how many entries there are.
    pub async fn reload(&self, caller: &Caller) -> Result<usize, ServiceError> {
        settings::only_admins(caller)?;
        let folder = self.folder.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&folder))
            .await
            .map_err(|error| ServiceError::Internal(error.to_string()))?;
        let mut entry = AuditEntry {
            actor: caller.username.clone(),
            action: "catalog.reload".into(),
            remote: caller.remote.clone(),
            outcome: "ok".into(),
            request_id: caller.request_id.clone(),
            ..AuditEntry::default()
        };
        let answer = match loaded {
            Ok(catalog) => {
                let count = catalog.len();
                self.shared.replace(catalog);
                Ok(count)
            }
            Err(CatalogError::Problems(problems)) => Err(ServiceError::Invalid(
                problems
                    .into_iter()
                    .map(|p| FieldError {
                        loc: vec!["catalog".into(), p.file, p.field],
                        msg: p.reason,
                    })
                    .collect(),
            )),
            Err(error @ CatalogError::Folder { .. }) => Err(ServiceError::Invalid(vec![FieldError {
                loc: vec!["catalog".into()],
                msg: error.to_string(),
            }])),
        };
        if let Err(error) = &answer {
            entry.outcome = "refused".into();
            entry.detail = Some(error.to_string().chars().take(500).collect());
        }
        let mut tx = self.store.begin().await?;
        store::audit(&mut tx, self.clock.now_ms(), &entry).await?;
        tx.commit().await.map_err(StoreError::from)?;
        answer
    }
}
