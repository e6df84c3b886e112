//! The catalog: what can be deployed.
//!
//! One JSON file per app. [`Catalog::parse`] takes every file's bytes at once and answers the whole catalog or every problem that it found, each with file,
//! field and reason: a catalog is swapped whole or not at all. Reading the folder is the service's part; nothing here touches a disk.
//!
//! Two kinds of entries: *native* (packages and files in a Debian container, `deploy.kind = "native"`) and *compose* (the original format, only
//! `docker_compose`). This version deploys native ones; a compose entry is listed and says why it is not deployable.

mod compose;
mod entry;
mod environment;
mod fields;
mod parse;
mod search;
#[cfg(test)]
mod tests;

pub use entry::{Deploy, Entry, Input, Native, Volume};
pub use environment::{
    ChangedEnvironment, ENVIRONMENT_MAX, EnvironmentError, GeneratedInput, Resolved, VALUE_MAX_BYTES,
};
pub use parse::Problem;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// The JSON Schema of an entry's file, for editors and for whoever writes entries.
pub const SCHEMA: &str = include_str!("schema.json");

/// Every entry, by id.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    entries: BTreeMap<String, Entry>,
}

impl Catalog {
    /// Parses files (name, content). Either all of them are good, or every problem of every file is answered.
    pub fn parse<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, Vec<Problem>> {
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        let mut origin: BTreeMap<String, String> = BTreeMap::new();
        let mut problems = Vec::new();
        for (file, content) in files {
            match parse::entry(file, content) {
                Ok(entry) => {
                    if let Some(other) = origin.get(&entry.id) {
                        problems.push(Problem::new(
                            file,
                            "id",
                            format!("{:?} is also the id in {other}; ids are unique", entry.id),
                        ));
                    } else {
                        origin.insert(entry.id.clone(), file.to_owned());
                        entries.insert(entry.id.clone(), entry);
                    }
                }
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            Ok(Self { entries })
        } else {
            Err(problems)
        }
    }

    /// One entry.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// Every entry, by id.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The categories as written, each once (case does not make a new one), with how many entries each has.
    pub fn categories(&self) -> Vec<(String, usize)> {
        let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for entry in self.entries.values() {
            let slot = found
                .entry(entry.category.to_lowercase())
                .or_insert_with(|| (entry.category.clone(), 0));
            slot.1 += 1;
        }
        found.into_values().collect()
    }

    /// The entries of a category, whatever its case.
    pub fn in_category(&self, category: &str) -> Vec<&Entry> {
        let wanted = category.to_lowercase();
        self.entries
            .values()
            .filter(|e| e.category.to_lowercase() == wanted)
            .collect()
    }

    /// The entries that fit a query, the best first. Every word has to fit somewhere; a typo or two are forgiven.
    pub fn search(&self, query: &str) -> Vec<&Entry> {
        search::ranked(self.entries.values(), query)
    }
}

/// The catalog in use, swapped whole. Cheap to clone; a reader keeps the catalog that it began with.
#[derive(Debug, Clone, Default)]
pub struct SharedCatalog(Arc<RwLock<Arc<Catalog>>>);

impl SharedCatalog {
    /// Shares a catalog.
    pub fn new(catalog: Catalog) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(catalog))))
    }

    /// The catalog now.
    pub fn current(&self) -> Arc<Catalog> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another in its place.
    pub fn replace(&self, catalog: Catalog) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }
}
