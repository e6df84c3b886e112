//! `catalog`: checks files before they are served.

use super::exit::{self, Failure};
use crate::{
    config::Config,
    domain::catalog::SCHEMA,
    service::catalog::{CatalogError, load},
};
use std::path::PathBuf;

/// The catalog of apps.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Catalog {
    /// Check every file of a catalog folder and list all problems
    Check {
        /// The folder [default: that of the configuration]
        dir: Option<PathBuf>,
    },
    /// Print the JSON Schema of an entry
    Schema,
}

impl Catalog {
    pub(super) fn execute(self, config: &Config) -> Result<(), Failure> {
        let dir = match self {
            Self::Schema => {
                print!("{SCHEMA}");
                return Ok(());
            }
            Self::Check { dir } => dir.unwrap_or_else(|| config.catalog.clone()),
        };
        match load(&dir) {
            Ok(catalog) => {
                for entry in catalog.entries() {
                    match entry.native() {
                        Ok(_) => println!("{}: good", entry.id),
                        Err(because) => println!("{}: good, not deployable: {because}", entry.id),
                    }
                }
                if catalog.is_empty() {
                    eprintln!("{} holds no entry (*.json)", dir.display());
                }
                Ok(())
            }
            Err(CatalogError::Problems(problems)) => {
                for problem in &problems {
                    println!("{problem}");
                }
                Err(Failure::new(
                    exit::CATALOG,
                    format!(
                        "{} problem(s) in {}; the lines above name file, field and reason",
                        problems.len(),
                        dir.display()
                    ),
                ))
            }
            Err(error) => Err(Failure::new(exit::CATALOG, error.to_string())),
        }
    }
}
