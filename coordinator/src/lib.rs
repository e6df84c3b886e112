//! The Proximity coordinator: it keeps the registry, chooses nodes, reserves VMIDs, ports and addresses, runs operations, and serves the HTTP API.
//!
//! The executable is `main.rs`; this library exists so that `main` and the project's end-to-end tests share it.
//!
//! | room | what it does | may import |
//! |---|---|---|
//! | `api` | HTTP: one file per resource | `service`, `auth`, `events` |
//! | `auth` | passwords, sessions, tokens of users | `store` |
//! | [`service`] | use cases: authorise, validate, one transaction | `domain`, `store`, `live`, `events`, [`nodes::NodeQueries`], the engine's submit |
//! | `domain` | pure decisions: app state, placement, pools, catalog | nothing of the others |
//! | `operations` | the engine, recovery, one file per operation | `domain`, `store`, `events`, [`nodes::NodeCommands`] |
//! | `reconcile` | liveness, drift | as `operations` |
//! | [`store`] | the only SQL | |
//! | [`nodes`] | ports to the nodes; `nodes::quic` is the only room with quinn | `store`, `live`, `pki` |

pub mod api;
pub mod assemble;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod events;
pub mod live;
pub mod nodes;
pub mod operations;
pub mod pki;
pub mod reconcile;
pub mod secrets;
pub mod service;
pub mod store;
