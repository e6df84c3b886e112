//! The Proximity agent: one per Proxmox VE node. It dials the coordinator, takes typed verbs, runs `pct` and its siblings, and tells what *is*.
//!
//! The executable is `main.rs`; this library exists so that `main` and the project's end-to-end tests share it.
//!
//! | room | what it does |
//! |---|---|
//! | [`config`] | `/etc/proximity/agent.toml`, parsed whole before anything starts |
//! | `identity` | join: key, CSR, pin, certificate; loading it again |
//! | `link` | the QUIC connection, reconnect, control stream, commands, figures |
//! | [`worker`] | jobs, published ports and what is told of the node, put together without a link |
//! | `jobs` | intake, journal, the machine that runs a job once; `jobs/steps` one file per verb |
//! | `host` | the port to the machine: the only spawner of processes, the only reader of host files |
//! | `pve` | argv builder and parsers, pure |
//! | `ownership` | root-only records of which containers are ours |
//! | `archives` | root-only records of which backups are ours |
//! | `publish` | the nftables table `proximity` |
//! | `facts` | figures and facts read without forking |
//! | `policy` | the node's own policy file, read by nobody else |
//! | `doctor` | what may be wrong with the node, looked at and said; changes nothing |
//! | `leave` | undoing a join, with what goes and what stays |

mod archives;
pub mod assemble;
pub mod cli;
pub mod config;
mod doctor;
pub mod facts;
pub mod host;
pub mod identity;
pub mod jobs;
mod leave;
mod link;
pub mod ownership;
pub mod policy;
pub mod publish;
pub mod pve;
#[cfg(test)]
mod tests;
pub mod worker;
