//! `operations`: what goes on, and what an operator does about what is stuck. Works on the registry's file, whether `serve` runs or not; a coordinator that
//! runs goes on with what is let go on within seconds.

use super::{
    exit::{self, Failure},
    owner::become_owner,
};
use crate::{
    clock::SystemClock,
    config::Config,
    domain::operation_state::OperationState,
    service::{
        Caller, Role, ServiceError,
        operations::OperationView,
        rescue::{Placed, Rescue, Wanted},
    },
    store::Store,
};
use serde::Serialize;
use std::{
    fmt::Write as _,
    io::{self, Write as _},
    sync::Arc,
};

/// Operations, with which apps are deployed, started, stopped and deleted.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Operations {
    /// List what goes on and what is stuck, newest first
    List {
        /// Those that have ended, too
        #[arg(long)]
        all: bool,
        /// Only in this state: queued, running, waiting, undoing, done, undone or stuck
        #[arg(long, value_name = "STATE")]
        state: Option<OperationState>,
        /// Only of this app
        #[arg(long, value_name = "ID")]
        app: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
        limit: u16,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one with its steps
    Show {
        /// The operation's id, as `list` shows it
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a stuck one go on from where it stands, after what stood in its way was put right
    Retry {
        /// The operation's id, as `list` shows it
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give one up for good that is stuck, or waits for what never comes; says what is left of it
    Abandon {
        /// The operation's id, as `list` shows it
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

fn caller() -> Caller {
    Caller {
        user_id: 0,
        username: "command line".into(),
        role: Role::Admin,
        remote: None,
        request_id: None,
    }
}

/// The service names HTTP paths; here there is a command for it.
fn in_commands(error: ServiceError, id: &str) -> Failure {
    match error {
        ServiceError::NotFound(_) => Failure::new(
            exit::REFUSED,
            format!("there is no operation {id:?}; `proximity-coordinator operations list --all` shows them"),
        ),
        other => other.into(),
    }
}

/// A registry made here would be empty, and "there is none under way" would be said of the wrong place. One that may not be looked at is told below.
fn there_is_a_registry(config: &Config) -> Result<(), Failure> {
    if matches!(config.registry().try_exists(), Ok(false)) {
        return Err(Failure::new(
            exit::CONFIGURATION,
            format!(
                "there is no registry in {}: the coordinator has not run with this state folder; name its configuration with --config, or its folder with --state",
                config.state.display()
            ),
        ));
    }
    Ok(())
}

fn print(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{text}")
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot write to stdout: {error}")))
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot write JSON: {error}")))?;
    print(&text)
}

fn state(operation: &OperationView) -> String {
    if operation.abandoned_at.is_some() {
        "abandoned".into()
    } else {
        operation.state.to_string()
    }
}

fn line(placed: &Placed) -> String {
    let o = &placed.operation;
    let mut line = format!(
        "{}  {:<9}  {:<9}  {}  on {}  since {}",
        o.id,
        state(o),
        o.kind,
        o.hostname,
        placed.node.as_deref().unwrap_or("a node that is gone"),
        o.created_at
    );
    if let Some(since) = &o.no_progress_since {
        write!(line, "  no progress since {since}").ok();
    }
    if let Some(reason) = &o.reason {
        write!(line, "  {reason}").ok();
    }
    line
}

fn page(placed: &Placed) -> String {
    let o = &placed.operation;
    let mut text = format!(
        "{} of {} (app {}) on {}: {}\n",
        o.kind,
        o.hostname,
        o.app_id,
        placed.node.as_deref().unwrap_or("a node that is gone"),
        state(o)
    );
    let mut field = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            writeln!(text, "  {name:<12} {value}").ok();
        }
    };
    field("id", Some(&o.id));
    field("asked for", Some(&format!("{} by {}", o.created_at, o.requested_by)));
    field("ended", o.finished_at.as_deref());
    field("no progress", o.no_progress_since.as_deref());
    field("why", o.reason.as_deref());
    field("to do", o.action.as_deref());
    for step in &o.steps {
        write!(text, "  {:<9} {}", step.state, step.title).ok();
        if step.attempt > 1 {
            write!(text, " (try {})", step.attempt).ok();
        }
        if let Some(reason) = step.reason.as_deref().filter(|reason| !reason.is_empty()) {
            write!(text, ": {reason}").ok();
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

impl Operations {
    pub(super) async fn execute(self, config: &Config) -> Result<(), Failure> {
        there_is_a_registry(config)?;
        config.ensure_state()?;
        become_owner(&config.state)?;
        let store = Store::open(&config.registry()).await?;
        let done = self.on(&Rescue::new(store.clone(), Arc::new(SystemClock), None)).await;
        store.close().await;
        done
    }

    async fn on(self, rescue: &Rescue) -> Result<(), Failure> {
        match self {
            Self::List {
                all,
                state,
                app,
                limit,
                json,
            } => {
                let wanted = Wanted {
                    all,
                    state,
                    app_id: app,
                };
                let found = rescue.list(&wanted, limit.into()).await?;
                if json {
                    return print_json(&found);
                }
                if found.is_empty() {
                    eprintln!(
                        "there is none{}",
                        if all {
                            ""
                        } else {
                            " under way or stuck; --all shows those that have ended"
                        }
                    );
                }
                found.iter().try_for_each(|placed| print(&line(placed)))
            }
            Self::Show { id, json } => {
                let placed = rescue.show(&id).await.map_err(|error| in_commands(error, &id))?;
                if json {
                    print_json(&placed)
                } else {
                    print(&page(&placed))
                }
            }
            Self::Retry { id, json } => {
                let operation = rescue
                    .retry(&caller(), &id)
                    .await
                    .map_err(|error| in_commands(error, &id))?;
                if json {
                    return print_json(&operation);
                }
                eprintln!(
                    "the {} of {} goes on ({}) as soon as the coordinator runs; `proximity-coordinator operations show {id}` tells how far it is",
                    operation.kind, operation.hostname, operation.state
                );
                Ok(())
            }
            Self::Abandon { id, json } => {
                let abandoned = rescue
                    .abandon(&caller(), &id)
                    .await
                    .map_err(|error| in_commands(error, &id))?;
                if json {
                    return print_json(&abandoned);
                }
                eprintln!(
                    "the {} of {} is abandoned",
                    abandoned.operation.kind, abandoned.operation.hostname
                );
                abandoned.left.iter().try_for_each(|what| print(what))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_registry_is_named_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            state: folder.path().join("elsewhere"),
            ..Config::default()
        };
        let refused = there_is_a_registry(&config).unwrap_err();
        assert_eq!(refused.code, exit::CONFIGURATION);
        assert!(
            refused.message.contains("elsewhere") && refused.message.contains("--config"),
            "{}",
            refused.message
        );
        assert!(!config.state.exists());
        std::fs::create_dir(&config.state).unwrap();
        std::fs::write(config.registry(), "").unwrap();
        assert!(there_is_a_registry(&config).is_ok());
    }
}
