//! The registry in SQLite. The only room with SQL.
//!
//! One connection writes (every write transaction is `BEGIN IMMEDIATE`: a deferred one that reads and then writes fails under load), several read. One file
//! per table or family of tables; each function takes the transaction, so that a use case composes several in one.

pub mod adopted_configurations;
pub mod app_secrets;
pub mod apps;
pub mod backups;
pub mod certificates;
pub mod copy;
pub mod deployment_logs;
pub mod events;
pub mod fleet;
pub mod hosts;
pub mod join_tokens;
pub mod node_trust;
pub mod nodes;
pub mod operation_secrets;
pub mod operations;
pub mod reports;
pub mod reservations;
mod row;
pub mod scheduled_backups;
pub mod schedules;
pub mod sessions;
pub mod settings;
pub mod side_containers;
pub mod users;

use crate::clock::UnixMs;
use sqlx::{
    Sqlite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{path::Path, time::Duration};

/// A failed read or write.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("cannot open the registry {path}: {source}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: sqlx::Error,
    },
    /// The schema cannot be brought up to date, or is of a newer version.
    #[error("the registry's schema does not fit this version: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A unique constraint: somebody else owns it.
    #[error("{0} is taken")]
    Taken(String),
    /// A row holds what this version cannot read.
    #[error("the registry holds a value that cannot be read: {0}")]
    Corrupt(String),
    /// Everything else.
    #[error("registry: {0}")]
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(db) if db.is_unique_violation() => {
                // "UNIQUE constraint failed: apps.hostname"
                let what = db.message().rsplit(": ").next().unwrap_or("the value").to_owned();
                Self::Taken(what)
            }
            _ => Self::Sql(error),
        }
    }
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Corrupt(error.to_string())
    }
}

/// What functions of this room take: a transaction or a reading connection.
pub type Connection = SqliteConnection;
/// A write transaction; dropped without commit it leaves nothing.
pub type Tx = Transaction<'static, Sqlite>;

/// Connections that read at the same time.
const READERS: u32 = 8;

/// Starts of the coordinator that an old copy of the registry can have missed: one each second for a quarter of a century.
pub(crate) const MOST_STARTS_AHEAD: i64 = 1_000_000_000;

/// The registry.
#[derive(Debug, Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Store {
    /// Opens or makes the file and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, READERS).await
    }

    /// As [`Store::open`], but with one connection for reading and writing: accesses come in the order in which they were asked for, so that a run of the
    /// coordinator can be repeated exactly. Whoever holds one access and asks for a second waits for ever.
    pub async fn open_serial(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, 0).await
    }

    async fn open_with(path: &Path, readers: u32) -> Result<Self, StoreError> {
        let at = |source| StoreError::Open {
            path: path.display().to_string(),
            source,
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(30));
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(60))
            .connect_with(options.clone())
            .await
            .map_err(at)?;
        sqlx::migrate!("./migrations").run(&writer).await?;
        if readers == 0 {
            let readers = writer.clone();
            return Ok(Self { writer, readers });
        }
        let readers = SqlitePoolOptions::new()
            .max_connections(readers)
            .acquire_timeout(Duration::from_secs(60))
            .connect_with(options.read_only(true))
            .await
            .map_err(at)?;
        Ok(Self { writer, readers })
    }

    /// Begins the one write transaction; others wait their turn.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// A connection that only reads.
    pub async fn read(&self) -> Result<sqlx::pool::PoolConnection<Sqlite>, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    /// Whether no access is under way.
    pub fn is_at_rest(&self) -> bool {
        [&self.writer, &self.readers]
            .iter()
            .all(|pool| u32::try_from(pool.num_idle()) == Ok(pool.size()))
    }

    /// Closes every connection after what is under way.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Raises the epoch: one integer, one higher at each start, never lowered.
    pub async fn raise_epoch(&self) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let (value,): (String,) = sqlx::query_as(
            "INSERT INTO meta (key, value) VALUES ('epoch', '1')
             ON CONFLICT (key) DO UPDATE SET value = CAST(CAST(meta.value AS INTEGER) + 1 AS TEXT) RETURNING value",
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        value
            .parse()
            .map_err(|_| StoreError::Corrupt(format!("epoch {value:?} is not a number")))
    }

    /// An agent has obeyed a newer run than there is in this registry, which is an older copy then: the next run is newer than that one. Whether that is new. A
    /// lead that no number of starts explains is not believed.
    pub async fn learn_epoch(&self, seen: u64) -> Result<bool, StoreError> {
        let seen = i64::try_from(seen).map_err(|_| StoreError::Corrupt(format!("epoch {seen} is out of bounds")))?;
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE meta SET value = CAST($1 AS TEXT) WHERE key = 'epoch' AND CAST(value AS INTEGER) BETWEEN $1 - $2 AND $1 - 1",
        )
        .bind(seen)
        .bind(MOST_STARTS_AHEAD)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }
}

/// Stores an event in the transaction that makes it true; publish the returned one on the bus after commit.
pub async fn insert_event(
    tx: &mut SqliteConnection,
    at: UnixMs,
    event: crate::events::NewEvent,
) -> Result<crate::events::Event, StoreError> {
    let (id,): (i64,) =
        sqlx::query_as("INSERT INTO events (at, kind, app_id, operation_id, owner_id, data) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id")
            .bind(at)
            .bind(event.kind)
            .bind(&event.app_id)
            .bind(&event.operation_id)
            .bind(event.owner_id)
            .bind(event.data.to_string())
            .fetch_one(tx)
            .await?;
    Ok(crate::events::Event {
        id,
        at,
        kind: event.kind.into(),
        app_id: event.app_id,
        operation_id: event.operation_id,
        owner_id: event.owner_id,
        data: event.data,
    })
}

/// A row of the audit, written in the transaction that it speaks of, or in one of its own for refusals.
#[derive(Debug, Clone, Default)]
pub struct AuditEntry {
    /// User name, node id, `anonymous`, `command line`, `coordinator`.
    pub actor: String,
    /// e.g. `join_token.redeem`.
    pub action: String,
    /// What it was done to.
    pub target: Option<String>,
    /// From where.
    pub remote: Option<String>,
    /// `ok`, `refused`, `failed`.
    pub outcome: String,
    /// In words.
    pub detail: Option<String>,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
}

/// Appends to the audit. A refusal that repeats the latest row (same actor, action, target, address, outcome, within an hour) is counted there.
pub async fn audit(tx: &mut SqliteConnection, at: UnixMs, entry: &AuditEntry) -> Result<(), StoreError> {
    tracing::info!(target: "audit", actor = entry.actor, action = entry.action, object = entry.target, remote = entry.remote, outcome = entry.outcome, detail = entry.detail);
    if entry.outcome != "ok" {
        let counted = sqlx::query(
            "UPDATE audit SET count = count + 1, at = $1 WHERE id = (SELECT MAX(id) FROM audit)
             AND actor = $2 AND action = $3 AND target IS $4 AND remote IS $5 AND outcome = $6 AND detail IS $7 AND at > $1 - 3600000",
        )
        .bind(at)
        .bind(&entry.actor)
        .bind(&entry.action)
        .bind(&entry.target)
        .bind(&entry.remote)
        .bind(&entry.outcome)
        .bind(&entry.detail)
        .execute(&mut *tx)
        .await?;
        if counted.rows_affected() > 0 {
            return Ok(());
        }
    }
    sqlx::query("INSERT INTO audit (at, actor, action, target, remote, outcome, detail, request_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind(at)
        .bind(&entry.actor)
        .bind(&entry.action)
        .bind(&entry.target)
        .bind(&entry.remote)
        .bind(&entry.outcome)
        .bind(&entry.detail)
        .bind(&entry.request_id)
        .execute(tx)
        .await?;
    Ok(())
}

/// The newest time that the audit or a node's last connection bears: what the clock once said.
pub async fn newest_time(tx: &mut SqliteConnection) -> Result<Option<UnixMs>, StoreError> {
    let (at,): (Option<i64>,) = sqlx::query_as(
        "SELECT MAX(at) FROM (SELECT MAX(at) AS at FROM audit UNION ALL SELECT MAX(last_seen) FROM nodes)",
    )
    .fetch_one(tx)
    .await?;
    Ok(at)
}
