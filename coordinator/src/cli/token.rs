//! `token`: join tokens, for whoever has the machine. Works on the registry's file, whether `serve` runs or not.

use super::{
    exit::{self, Failure},
    owner::become_owner,
};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    pki::{Pki, PkiError},
    service::{
        Caller, Role, ServiceError,
        join_tokens::{JoinTokenView, JoinTokens, NewJoinToken},
    },
    store::{self, Store},
};
use std::{
    io::{self, Write as _},
    sync::Arc,
};

/// Tokens that `list` shows.
const LISTED_MAX: i64 = 200;

/// Join tokens.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Token {
    /// Make a token; its line goes to stdout, what to do with it to stderr
    Create {
        /// Id or name of the host that it is for [default: any, a new one too]
        #[arg(long, value_name = "ID|NAME")]
        host: Option<String>,
        /// Node that it is for [default: any]
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Address or network from which it may be used [default: anywhere]
        #[arg(long, value_name = "ADDR|NET")]
        from: Option<String>,
        /// How long it works, seconds, at most 86400
        #[arg(long, value_name = "SECONDS", default_value_t = crate::service::join_tokens::TTL_DEFAULT_S)]
        ttl: i64,
    },
    /// List tokens, newest first; never their secrets
    List,
    /// Take a token back
    Revoke {
        /// The token's id, as `list` shows it
        id: String,
    },
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        Self::new(exit::FAILED, error.to_string())
    }
}

/// Whoever has the machine.
pub(super) fn caller() -> Caller {
    Caller {
        user_id: 0,
        username: "command line".into(),
        role: Role::Admin,
        remote: None,
        request_id: None,
    }
}

async fn host_id(store: &Store, text: &str) -> Result<i64, Failure> {
    let hosts = store::hosts::list(&mut *store.read().await?).await?;
    let found = hosts.iter().find(|h| h.name == text || h.id.to_string() == text);
    found.map(|h| h.id).ok_or_else(|| {
        let names: Vec<&str> = hosts.iter().map(|h| h.name.as_str()).collect();
        let there = if names.is_empty() {
            "none yet; without --host the first node makes one".to_owned()
        } else {
            names.join(", ")
        };
        Failure::new(exit::REFUSED, format!("there is no host {text:?}; hosts: {there}"))
    })
}

fn line(token: &JoinTokenView) -> String {
    format!(
        "{}  {:<7}  until {}  host {}  node {}  from {}  by {}",
        token.id,
        token.status,
        token.expires_at,
        token.host_id.map_or_else(|| "any".into(), |h| h.to_string()),
        token.node_name.as_deref().unwrap_or("any"),
        token.allowed_cidr.as_deref().unwrap_or("anywhere"),
        token.created_by
    )
}

pub(super) fn print(lines: impl Iterator<Item = String>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")
            .map_err(|error| Failure::new(exit::FAILED, format!("cannot write to stdout: {error}")))?;
    }
    Ok(())
}

impl Token {
    pub(super) async fn execute(self, config: &Config) -> Result<(), Failure> {
        config.ensure_state()?;
        become_owner(&config.state)?;
        let store = Store::open(&config.registry()).await?;
        let done = self.on(config, &store).await;
        store.close().await;
        done
    }

    async fn on(self, config: &Config, store: &Store) -> Result<(), Failure> {
        let clock = SystemClock;
        let pki = Pki::open(&config.state, clock.now_ms())?;
        let tokens = JoinTokens::new(
            store.clone(),
            Arc::new(clock),
            pki,
            config.advertised(config.quic_listen),
        );
        match self {
            Self::Create { host, node, from, ttl } => {
                let host_id = match host {
                    Some(text) => Some(host_id(store, &text).await?),
                    None => None,
                };
                let new = NewJoinToken {
                    host_id,
                    node_name: node,
                    allowed_cidr: from,
                    ttl_seconds: Some(ttl),
                };
                let made = tokens.create(&caller(), new).await.map_err(in_flags)?;
                print(std::iter::once(made.token.expose().to_owned()))?;
                eprintln!(
                    "Run this on the node, as root, before {}, and give it the line above when it asks: {}",
                    made.expires_at, made.command
                );
                Ok(())
            }
            Self::List => {
                let page = tokens.list(&caller(), 1, LISTED_MAX).await?;
                print(page.tokens.iter().map(line))
            }
            Self::Revoke { id } => {
                tokens
                    .revoke(&caller(), &id)
                    .await
                    .map_err(|error| no_such_token(error, &id))?;
                eprintln!("revoked join token {id}");
                Ok(())
            }
        }
    }
}

/// The service names the HTTP path that lists tokens; here there is a command for it.
fn no_such_token(error: ServiceError, id: &str) -> Failure {
    match error {
        ServiceError::NotFound(_) => Failure::new(
            exit::REFUSED,
            format!("there is no join token {id:?}; `proximity-coordinator token list` shows them"),
        ),
        other => other.into(),
    }
}

/// What is wrong, under the names that the command line has for it.
fn in_flags(error: ServiceError) -> Failure {
    let ServiceError::Invalid(wrong) = &error else {
        return error.into();
    };
    let flag = |field: &str| match field {
        "ttl_seconds" => "--ttl",
        "node_name" => "--node",
        "allowed_cidr" => "--from",
        _ => "--host",
    };
    let told: Vec<String> = wrong
        .iter()
        .map(|e| format!("{} {}", flag(e.loc.last().map_or("", String::as_str)), e.msg))
        .collect();
    Failure::new(exit::REFUSED, told.join("; "))
}
