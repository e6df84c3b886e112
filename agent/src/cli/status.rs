//! `proximity-agent status`.

use super::{failure::Failure, join::date};
use crate::{
    config::Config,
    identity::{self, Identity, IdentityError},
    link::status::{LinkState, Status},
};
use clap::Args;
use serde::Serialize;

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    joined: bool,
    running: bool,
    identity: Option<IdentityReport>,
    agent: Option<Status>,
}

#[derive(Serialize)]
struct IdentityReport {
    node_id: String,
    coordinator_addresses: Vec<String>,
    certificate_not_before: String,
    certificate_not_after: String,
}

impl StatusArguments {
    pub(super) fn execute(self, config: &Config) -> Result<(), Failure> {
        let state_dir = &config.paths.state;
        let identity = Identity::load(state_dir)?;
        let running = identity.is_some() && is_running(config)?;
        let mut agent = Status::read(state_dir);
        if let Some(status) = &mut agent
            && !running
        {
            // A killed agent could not say so itself.
            status.link = LinkState::Stopped;
        }
        let report = Report {
            joined: identity.is_some(),
            running,
            identity: identity.map(|identity| IdentityReport {
                node_id: identity.node.to_string(),
                coordinator_addresses: identity.addresses.clone(),
                certificate_not_before: date(identity.not_before),
                certificate_not_after: date(identity.not_after),
            }),
            agent,
        };
        if self.json {
            println!(
                "{}",
                serde_json::to_string_pretty(&report).expect("strings, numbers and lists always serialise")
            );
        } else {
            print(&report);
        }
        if report.joined {
            Ok(())
        } else {
            Err(crate::assemble::RunError::NotJoined.into())
        }
    }
}

fn is_running(config: &Config) -> Result<bool, Failure> {
    match identity::lock_state_dir(&config.paths.state) {
        Ok(_free) => Ok(false),
        Err(IdentityError::InUse(_)) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn print(report: &Report) {
    let Some(identity) = &report.identity else { return };
    println!("node          {}", identity.node_id);
    println!("coordinator   {}", identity.coordinator_addresses.join(", "));
    println!(
        "certificate   {} to {}",
        identity.certificate_not_before, identity.certificate_not_after
    );
    println!(
        "agent         {}",
        if report.running { "running" } else { "not running" }
    );
    let Some(agent) = &report.agent else { return };
    let link = match &agent.link {
        LinkState::Connecting => "connecting".to_owned(),
        LinkState::Connected { address } => format!("connected to {address}"),
        LinkState::Waiting => "not connected".to_owned(),
        LinkState::Stopped => "stopped".to_owned(),
    };
    println!("link          {link} since {}", date(agent.link_since));
    if let Some(problem) = &agent.problem {
        println!("problem       {problem}");
    }
    println!("open jobs     {}", agent.open_jobs.len());
    for job in &agent.open_jobs {
        let state = if job.finished {
            "finished, not committed"
        } else {
            "open"
        };
        println!("              {} {} ({state})", job.operation, job.step);
    }
    println!("published     {}", agent.published.len());
    for port in &agent.published {
        println!(
            "              {} to {} ({}, container {})",
            port.public_port, port.to, port.app, port.vmid
        );
    }
}
