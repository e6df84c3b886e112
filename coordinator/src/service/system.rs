//! How the coordinator itself is.

use super::ServiceError;
use crate::{
    domain::catalog::SharedCatalog,
    nodes::SharedQueries,
    store::{self, Store},
};
use serde::Serialize;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether it works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// `healthy` or `degraded`.
    pub status: &'static str,
    /// `connected` or `unavailable`.
    pub database: &'static str,
    /// The in-memory registry of live figures and connections; it lives and dies with the process.
    pub cache: &'static str,
    /// `proximity`.
    pub service: &'static str,
    /// Of the program.
    pub version: &'static str,
    /// How many agents there are.
    pub agents: Agents,
}

/// How many agents there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Agents {
    /// Linked now.
    pub connected: usize,
    /// Enrolled and not revoked.
    pub total: usize,
}

/// What it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SystemInfo {
    service: &'static str,
    version: &'static str,
    api_base: &'static str,
    database: &'static str,
    started_at: String,
    agents: Agents,
    catalog_apps: usize,
}

/// The use cases of the system.
#[derive(Clone)]
pub struct SystemService {
    store: Store,
    queries: SharedQueries,
    catalog: SharedCatalog,
    started_at: String,
}

impl std::fmt::Debug for SystemService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SystemService(…)")
    }
}

impl SystemService {
    /// Puts the use cases together; now is when it started.
    pub fn new(
        store: Store,
        queries: SharedQueries,
        catalog: SharedCatalog,
        clock: &crate::clock::SharedClock,
    ) -> Self {
        Self {
            store,
            queries,
            catalog,
            started_at: crate::clock::rfc3339(clock.now_ms()),
        }
    }

    async fn agents(&self) -> Result<Agents, ServiceError> {
        let nodes = store::fleet::nodes(&mut *self.store.read().await?).await?;
        Ok(Agents {
            connected: self.queries.online().len(),
            total: nodes
                .iter()
                .filter(|n| n.admission != crate::domain::placement::Admission::Revoked)
                .count(),
        })
    }

    /// Whether it works. Never fails: that the registry cannot be read is the answer.
    pub async fn health(&self) -> Health {
        let agents = match self.agents().await {
            Ok(agents) => Some(agents),
            Err(error) => {
                tracing::error!(%error, "the registry cannot be read");
                None
            }
        };
        Health {
            status: if agents.is_some() { "healthy" } else { "degraded" },
            database: if agents.is_some() { "connected" } else { "unavailable" },
            cache: "connected",
            service: "proximity",
            version: VERSION,
            agents: agents.unwrap_or(Agents {
                connected: self.queries.online().len(),
                total: 0,
            }),
        }
    }

    /// The id of the latest stored event; a stream without a place begins after it.
    pub async fn latest_event(&self) -> Result<i64, ServiceError> {
        Ok(store::events::latest(&mut *self.store.read().await?).await?)
    }

    /// Whether an event that came after this place is no longer kept.
    pub async fn misses_events_after(&self, place: i64) -> Result<bool, ServiceError> {
        Ok(store::events::any_forgotten_after(&mut *self.store.read().await?, place).await?)
    }

    /// What it is made of.
    pub async fn info(&self) -> Result<SystemInfo, ServiceError> {
        Ok(SystemInfo {
            service: "proximity",
            version: VERSION,
            api_base: "/api",
            database: "sqlite",
            started_at: self.started_at.clone(),
            agents: self.agents().await?,
            catalog_apps: self.catalog.current().len(),
        })
    }
}
