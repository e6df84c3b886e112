//! Breaking a promise on purpose, right before a run is looked at: the campaign must be able to fail, and must say of what.

use crate::world::{NodeFiles, Registry, standing::proof_path};
use anyhow::{Context, Result};
use clap::ValueEnum;
use pve_sim::Layout;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use std::{fs, path::Path};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Spoil {
    /// An app's container is gone.
    Container,
    /// A container is there that no app owns.
    Orphan,
    /// A container's ownership record is gone.
    Record,
    /// A record names another generation.
    Generation,
    /// A volume is left of a container that does not exist.
    Volume,
    /// Two apps have one port.
    Port,
    /// A reservation is left of an app that does not exist.
    Reservation,
    /// An app uses a number that is not reserved for it.
    Unreserved,
    /// An operation never ended.
    Operation,
    /// A stuck operation does not say what to do.
    Advice,
    /// A file in a container is another.
    File,
    /// A container is locked and nobody says why.
    Lock,
    /// An app's port leads nowhere.
    Published,
}

impl Spoil {
    /// What the report must say.
    pub fn words(self) -> &'static str {
        match self {
            Self::Container => "has no container",
            Self::Orphan => "that no app owns",
            Self::Record => "which is not of",
            Self::Generation => "which the registry does not know there",
            Self::Volume => "has volumes of container",
            Self::Port => "has two owners",
            Self::Reservation => "which does not exist or has no use for it",
            Self::Unreserved => "which is not reserved for it",
            Self::Operation => "is still running",
            Self::Advice => "without what to do",
            Self::File => "the file in container",
            Self::Lock => "and nobody says why",
            Self::Published => "its port is not published",
        }
    }

    /// Breaks it.
    pub async fn apply(self, registry: &Path, nodes: &[NodeFiles]) -> Result<()> {
        let apps = Registry::open(registry).await?.apps().await?;
        let app = apps
            .iter()
            .find(|app| app.status == "running" && app.confirmed)
            .context("no app runs: there is nothing to break")?;
        let vmid = app.vmid.context("a confirmed app without a number")?;
        let node = nodes
            .iter()
            .find(|node| node.name == app.node)
            .context("an app of an unknown node")?;
        let layout = Layout::open(&node.root)?;
        let record = node.root.join(format!("etc/pve/priv/proximity/{vmid}"));
        let sql = |text: &'static str| execute(registry, text);
        match self {
            Self::Container => fs::remove_file(layout.conf_path(vmid))?,
            Self::Orphan => fs::write(layout.conf_path(9_999), "hostname: orphan\n")?,
            Self::Record => fs::remove_file(record)?,
            Self::Generation => {
                let text = fs::read_to_string(&record)?;
                fs::write(&record, text.replace("\"generation\":1", "\"generation\":7"))?;
            }
            Self::Volume => {
                let folder = node.root.join("var/lib/vz/images/9999");
                fs::create_dir_all(&folder)?;
                fs::write(folder.join("vm-9999-disk-0.raw"), "")?;
            }
            Self::Port => sql("UPDATE apps SET public_port = 8000, host_id = 1").await?,
            Self::Reservation => {
                sql("INSERT INTO vmid_reservations (host_id, vmid, app_id, generation, created_at) VALUES (1, 9998, 'nobody-00000000', 1, 0)").await?;
            }
            Self::Unreserved => {
                sql("DELETE FROM vmid_reservations WHERE rowid = (SELECT MIN(rowid) FROM vmid_reservations)").await?
            }
            Self::Operation => {
                sql("UPDATE operations SET state = 'running' WHERE rowid = (SELECT MIN(rowid) FROM operations)")
                    .await?;
            }
            Self::Advice => {
                sql("UPDATE operations SET state = 'stuck', reason = 'why', action = NULL WHERE rowid = (SELECT MIN(rowid) FROM operations)").await?;
            }
            Self::File => fs::write(proof_path(&layout, vmid), "another")?,
            Self::Lock => {
                let path = layout.conf_path(vmid);
                let text = fs::read_to_string(&path)?;
                fs::write(path, format!("lock: backup\n{text}"))?;
            }
            Self::Published => fs::remove_file(node.state().join("published.json"))?,
        }
        Ok(())
    }
}

async fn execute(registry: &Path, text: &'static str) -> Result<()> {
    let options = SqliteConnectOptions::new().filename(registry);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::query(text).execute(&mut connection).await?;
    Ok(connection.close().await?)
}
