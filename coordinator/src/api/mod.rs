//! HTTP: one file per resource, and what surrounds every request.
//!
//! A handler parses (in `extract`), knows who asks (`identity`), calls one use case in `service`, and turns the answer into JSON. Refusals are
//! `Problem`s, which the `envelope` writes as RFC 9457 documents with the request's id. Order of refusals: 401, 403, 422, 404, 409, 503, because that is the
//! order of a handler's arguments and of what a use case checks.
//!
//! Nothing here decides, reads the registry, or knows a node.

mod apps;
mod auth;
mod backups;
mod catalog;
mod cookies;
mod core;
mod envelope;
mod events;
mod extract;
mod hosts;
mod identity;
mod join_tokens;
mod nodes;
mod operations;
mod paging;
mod problem;
mod remote;
mod schedules;
#[cfg(test)]
mod tests;
mod upkeep;

use crate::{
    events::Bus,
    service::{
        apps::Apps,
        auth::{AuthService, IpNet},
        catalog::CatalogService,
        hosts::Hosts,
        join_tokens::JoinTokens,
        nodes::Nodes,
        operations::Operations,
        rescue::Rescue,
        schedules::Schedules,
        settings::SettingsService,
        system::SystemService,
        upkeep::Upkeep,
    },
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
    middleware,
};
use std::{net::IpAddr, sync::Arc};
use tokio_util::sync::CancellationToken;
use tower_http::normalize_path::NormalizePath;

/// Largest body, bytes.
const BODY_MAX_BYTES: usize = 1024 * 1024;

/// Whose `X-Forwarded-…` headers count.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Addresses and networks.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        texts
            .into_iter()
            .map(str::parse)
            .collect::<Result<Vec<IpNet>, String>>()
            .map(|nets| Self(nets.into()))
    }
    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(address))
    }
}

/// What handlers work with; clones share.
#[derive(Clone)]
pub struct Api {
    /// Writes down who changed what.
    pub audit: Arc<crate::service::audit::Audit>,
    /// Login, sessions.
    pub auth: AuthService,
    /// Settings.
    pub settings: SettingsService,
    /// The catalog.
    pub catalog: CatalogService,
    /// Health.
    pub system: SystemService,
    /// Apps.
    pub apps: Apps,
    /// Schedules of backups.
    pub schedules: Schedules,
    /// Operations.
    pub operations: Operations,
    /// What operators do about those that are stuck.
    pub rescue: Rescue,
    /// Reconciliation and janitor.
    pub upkeep: Upkeep,
    /// Proxmox installations.
    pub hosts: Hosts,
    /// Their machines.
    pub nodes: Nodes,
    /// Tokens that agents enrol with.
    pub join_tokens: JoinTokens,
    /// What changes, for streams.
    pub bus: Bus,
    /// Whose forwarded addresses count.
    pub trusted_proxies: TrustedProxies,
    /// Ends the streams when the coordinator stops.
    pub shutdown: CancellationToken,
    /// How often a stream looks its session up, which may have been ended.
    pub stream_check: std::time::Duration,
}

async fn nothing_here() -> problem::Problem {
    problem::Problem::of_status(StatusCode::NOT_FOUND)
}

/// Every path, each with and without a trailing slash.
pub fn router(api: Api) -> NormalizePath<Router> {
    let api_paths = Router::new()
        .nest("/auth", auth::routes())
        .nest("/core", core::routes())
        .nest("/catalog", catalog::routes())
        .nest(
            "/apps",
            apps::routes().merge(backups::routes()).merge(schedules::of_backups()),
        )
        .nest("/backups", schedules::routes())
        .nest("/operations", operations::routes())
        .nest(
            "/proxmox",
            hosts::routes().merge(nodes::routes()).merge(join_tokens::routes()),
        )
        .merge(events::routes());
    let router = Router::new()
        .nest("/api", api_paths)
        .merge(core::probes())
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(middleware::from_fn_with_state(api.clone(), envelope::envelope))
        .with_state(api);
    NormalizePath::trim_trailing_slash(router)
}

/// The service for one listener: with the peer's address of each connection.
pub type Service =
    axum::extract::connect_info::IntoMakeServiceWithConnectInfo<NormalizePath<Router>, std::net::SocketAddr>;

/// Makes the router into what a listener serves.
pub fn service(api: Api) -> Service {
    axum::ServiceExt::<Request>::into_make_service_with_connect_info(router(api))
}
