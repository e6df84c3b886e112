//! Puts the rooms together and runs the agent: the only place that knows all of them.

use crate::{
    config::Config,
    host::{HostError, NodeContext, OwnMachine},
    identity::{
        self, Identity, IdentityError,
        clock::{SharedClock, SystemClock},
        dial,
        keyring::Keyring,
    },
    jobs::machine::Jobs,
    link::{
        Link, Repairs,
        status::{LinkState, StatusFile},
    },
    publish,
    worker::{Worker, WorkerError},
};
use proximity_protocol::ids::{BootId, ProcessId};
use proximity_systemd::notify::ServiceManager;
use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often the list of open jobs in the status file is brought up to date.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// How long names of the coordinator may take to resolve before published ports are set.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(3);
const REPAIRS_WAITING_MAX: usize = 16;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No identity.
    #[error("this machine has not joined a coordinator yet: make a join token there and run `proximity-agent join`")]
    NotJoined,
    /// The state folder or the identity in it.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The journal, or a thread.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The boot id.
    #[error("cannot read the boot id from {path}: {why}")]
    BootId {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The identity cannot be used for a connection.
    #[error("the identity cannot be used: {0}")]
    Link(String),
}

/// What a run stands on besides its configuration.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The date that certificates go by.
    pub clock: SharedClock,
    /// The agent's own executable, which it starts as the shim of its tools; `None`: the one that runs.
    pub executable: Option<PathBuf>,
}

impl Default for Ground {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            executable: None,
        }
    }
}

/// Runs the agent until `shutdown`. Tools that it has started go on after that, and its next run finds them.
pub async fn run(config: &Config, shutdown: CancellationToken) -> Result<(), RunError> {
    run_on(config, Ground::default(), shutdown).await
}

/// The same by another clock, or within a program that is not the agent's.
pub async fn run_on(config: &Config, ground: Ground, shutdown: CancellationToken) -> Result<(), RunError> {
    let state_dir = &config.paths.state;
    identity::prepare_state_dir(state_dir)?;
    let _lock = identity::lock_state_dir(state_dir)?;
    let identity = Identity::load(state_dir)?.ok_or(RunError::NotJoined)?;
    let keys = Keyring::open(state_dir, ground.clock)?.ok_or(RunError::NotJoined)?;
    let boot = boot_id(config)?;
    let process = ProcessId(Uuid::new_v4());
    tracing::info!(node_id = %identity.node, version = env!("CARGO_PKG_VERSION"), process = %process, "starts");

    let address = own_address(config, &identity).await;
    let node = match ground.executable {
        Some(executable) => {
            let machine = OwnMachine::new(executable, config.host.runner);
            NodeContext::open_on(config, address, Arc::new(machine))?
        }
        None => NodeContext::open(config, address)?,
    };
    let worker = Worker::open(node.clone(), identity.coordinator).await?;
    let repairs = Arc::new(Repairs::default());
    let keeper = tokio::spawn(keep_published(node, repairs.clone()));
    let status = Arc::new(StatusFile::new(state_dir));
    let lister = tokio::spawn(list_open_jobs(worker.jobs().clone(), status.clone()));
    let stopper = tokio::spawn({
        let (jobs, shutdown) = (worker.jobs().clone(), shutdown.clone());
        async move {
            shutdown.cancelled().await;
            jobs.stop_intake();
        }
    });

    // Published ports stand and jobs go on: that is all that waits for us; the link may be long in coming.
    let manager = ServiceManager::from_environment();
    manager.ready();
    let link = Link {
        keys: Arc::new(keys),
        node: worker.view(),
        jobs: worker.jobs().clone(),
        boot,
        process,
        repairs,
        status: status.clone(),
        shutdown,
    };
    // In one task: if the link's loop hangs, the watchdog is not fed.
    let ended = tokio::select! {
        ended = link.run() => ended.map_err(|error| RunError::Link(error.to_string())),
        never = manager.attend(|| status.link_in_words()) => match never {},
    };
    manager.stopping();
    for task in [keeper, lister, stopper] {
        task.abort();
    }
    status.link(LinkState::Stopped, None);
    tracing::info!("stopped; tools that run go on");
    ended
}

/// Our address towards the coordinator. While a booting machine has no route yet, the one from before: published ports must stand without a link.
async fn own_address(config: &Config, identity: &Identity) -> Option<Ipv4Addr> {
    let path = config.paths.state.join("address");
    let found = tokio::time::timeout(ROUTE_TIMEOUT, dial::address_towards(&identity.addresses))
        .await
        .ok()
        .flatten();
    match found {
        Some(address) => {
            if let Err(error) = identity::replace_private(&path, address.to_string().as_bytes()) {
                tracing::warn!(%error, path = %path.display(), "cannot remember our address");
            }
            Some(address)
        }
        None => std::fs::read_to_string(&path).ok()?.trim().parse().ok(),
    }
}

fn boot_id(config: &Config) -> Result<BootId, RunError> {
    let path = config.host.proc.join("sys/kernel/random/boot_id");
    let parsed = std::fs::read_to_string(&path)
        .map_err(|error| error.to_string())
        .and_then(|text| text.trim().parse::<BootId>().map_err(|error| error.to_string()));
    parsed.map_err(|why| RunError::BootId { path, why })
}

/// Watches the published ports, and never lets the watcher wait for the link.
async fn keep_published(node: NodeContext, repairs: Arc<Repairs>) {
    let (repaired, mut counts) = mpsc::channel(REPAIRS_WAITING_MAX);
    tokio::join!(publish::watch(node, repaired), async {
        while let Some(count) = counts.recv().await {
            tracing::warn!(
                count,
                "published ports had been removed by something else and were set again"
            );
            repairs.add(count);
        }
    });
}

async fn list_open_jobs(jobs: Jobs, status: Arc<StatusFile>) {
    let mut ticks = tokio::time::interval(STATUS_INTERVAL);
    loop {
        ticks.tick().await;
        status.open_jobs(&jobs.open_jobs());
    }
}
