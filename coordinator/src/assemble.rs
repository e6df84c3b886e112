//! Puts the rooms together, in the order in which they need each other: registry, keys, listener for agents, engine, reconciliation, HTTP. And takes them
//! apart again in the opposite order.

pub(crate) mod scheduled;

use crate::{
    api::{self, Api},
    auth::{AuthError, passwords::Passwords, sessions::Sessions, setup_code::SetupCode, tokens::Signer},
    clock::{SharedClock, SystemClock},
    config::{Config, ConfigError},
    domain::catalog::SharedCatalog,
    events::Bus,
    live::Live,
    nodes::{
        SharedCommands, SharedQueries,
        inventories::Inventories,
        quic::{Deps, ListenError, Listener},
    },
    operations::{Engine, EngineDeps},
    pki::{Pki, PkiError},
    reconcile::{Reconciler, janitor::Janitor, rounds::Rounds, schedules::Scheduler},
    secrets::{Sealer, SecretError},
    service::{
        ServiceError,
        apps::{Apps, AppsDeps},
        audit::Audit,
        auth::AuthService,
        authority::Authority,
        catalog::{self, CatalogError, CatalogService},
        clock_alarm,
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
    store::{Store, StoreError, app_secrets},
};
use proximity_protocol::ids::Epoch;
use scheduled::Scheduled;
use std::{
    fs::{File, OpenOptions, TryLockError},
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long requests that are under way may take once the coordinator stops.
const HTTP_GRACE: Duration = Duration::from_secs(5);

/// How often the engine looks for what the command line has queued.
const LOOK_FOR_WORK: Duration = Duration::from_secs(3);

/// How often a stream of events looks its session up.
const STREAM_CHECK: Duration = Duration::from_secs(15);

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration or the state folder.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another coordinator has the state folder.
    #[error("another coordinator runs on {path}; stop it, or use another state folder")]
    Running {
        /// The lock's file.
        path: PathBuf,
    },
    /// The lock's file.
    #[error("cannot lock {path}: {source}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The catalog.
    #[error("{0}; run proximity-coordinator catalog check, or set `catalog`")]
    Catalog(#[from] CatalogError),
    /// The registry.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The CA.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The key of the apps' secrets.
    #[error(transparent)]
    Secrets(#[from] SecretError),
    /// The key of the sessions.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// HTTP.
    #[error("cannot listen on TCP {address}: {source}; set http_listen")]
    Http {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// QUIC.
    #[error("{0}; set quic_listen")]
    Listen(#[from] ListenError),
    /// The proxies.
    #[error("trusted_proxies: {0}")]
    Proxies(String),
}

/// A running coordinator.
pub struct Coordinator {
    http: SocketAddr,
    quic: SocketAddr,
    auth: AuthService,
    store: Store,
    listener: Listener,
    /// For HTTP first, so that no new work comes; then for the rest.
    http_stop: CancellationToken,
    stop: CancellationToken,
    http_tasks: TaskTracker,
    tasks: TaskTracker,
    broken: watch::Receiver<Option<String>>,
    /// Held for as long as it runs.
    _lock: File,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator")
            .field("http", &self.http)
            .field("quic", &self.quic)
            .finish_non_exhaustive()
    }
}

/// One coordinator per state folder: two would give out the same VMIDs.
pub(crate) fn lock(config: &Config) -> Result<File, StartError> {
    let path = config.state.join("coordinator.lock");
    let file = match OpenOptions::new().create(true).truncate(false).write(true).open(&path) {
        Ok(file) => file,
        Err(source) => return Err(StartError::Lock { path, source }),
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Running { path }),
        Err(TryLockError::Error(source)) => Err(StartError::Lock { path, source }),
    }
}

/// Wakes the engine from time to time: the command line writes to the same registry and cannot.
async fn look_for_work(engine: &Engine, stop: &CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK_FOR_WORK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => engine.wake(),
        }
    }
}

/// Spawns a task that is to run until `stop`; says so in `broken` if it ends before.
fn keep(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    broken: &watch::Sender<Option<String>>,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let (stop, broken) = (stop.clone(), broken.clone());
    let work = tasks.spawn(work);
    tasks.spawn(async move {
        let ended = work.await;
        if !stop.is_cancelled() {
            let why = ended
                .err()
                .map_or_else(|| "without a reason".to_owned(), |e| e.to_string());
            broken.send_replace(Some(format!("{name} ended ({why}); the log says more")));
        }
    });
}

impl Coordinator {
    /// Opens, binds and starts everything. What fails leaves nothing running.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_at(config, Arc::new(SystemClock)).await
    }

    /// The same by another clock.
    pub async fn start_at(config: &Config, clock: SharedClock) -> Result<Self, StartError> {
        config.ensure_state()?;
        let lock = lock(config)?;
        let proxies = config.trusted_proxies().map_err(StartError::Proxies)?;
        let catalog = SharedCatalog::new(catalog::load(&config.catalog)?);
        let (bus, live, inventories) = (Bus::default(), Live::default(), Inventories::default());
        let pki = Pki::open(&config.state, clock.now_ms())?;
        let signer = Signer::open(&config.state)?;
        let passwords = Passwords::default();
        passwords.warm_up().await?;
        let http = TcpListener::bind(config.http_listen)
            .await
            .map_err(|source| StartError::Http {
                address: config.http_listen,
                source,
            })?;
        let http_address = http.local_addr().map_err(|source| StartError::Http {
            address: config.http_listen,
            source,
        })?;
        let store = Store::open(&config.registry()).await?;
        let in_use = app_secrets::any(&mut *store.read().await?).await?;
        let secrets = Arc::new(Sealer::open(&config.state, in_use)?);
        let epoch = Epoch(store.raise_epoch().await?);
        let listener = Listener::bind(
            config.quic_listen,
            Deps {
                store: store.clone(),
                clock: Arc::clone(&clock),
                pki: pki.clone(),
                live: live.clone(),
                inventories: inventories.clone(),
                bus: bus.clone(),
                epoch,
            },
        )?;
        let quic_address = listener.local_addr();
        let commands: SharedCommands = listener.connections();
        let queries: SharedQueries = listener.connections();

        let (stop, http_stop) = (CancellationToken::new(), CancellationToken::new());
        let (tasks, http_tasks) = (TaskTracker::new(), TaskTracker::new());
        let (broken_tx, broken) = watch::channel(None);

        let engine = Engine::new(EngineDeps {
            store: store.clone(),
            commands: Arc::clone(&commands),
            inventories: inventories.clone(),
            clock: Arc::clone(&clock),
            bus: bus.clone(),
            epoch,
            settings: config.engine_settings(),
            secrets: Arc::clone(&secrets),
        });
        let (runner, token) = (engine.clone(), stop.clone());
        keep(&tasks, &stop, &broken_tx, "the engine", async move {
            runner.run(token).await
        });
        let (woken, token) = (engine.clone(), stop.clone());
        keep(&tasks, &stop, &broken_tx, "the look for work", async move {
            look_for_work(&woken, &token).await;
        });

        let (for_reconciler, for_janitor) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let rounds = Rounds::new(
            store.clone(),
            Arc::clone(&clock),
            Arc::clone(&for_reconciler),
            Arc::clone(&for_janitor),
        );
        let reconciler = Reconciler {
            store: store.clone(),
            commands,
            inventories: inventories.clone(),
            engine: engine.clone(),
            clock: Arc::clone(&clock),
            bus: bus.clone(),
            epoch,
            rounds: rounds.clone(),
        };
        let token = stop.clone();
        keep(&tasks, &stop, &broken_tx, "reconciliation", async move {
            reconciler.run(token).await;
        });
        let janitor = Janitor {
            store: store.clone(),
            engine: engine.clone(),
            clock: Arc::clone(&clock),
            bus: bus.clone(),
            rounds,
        };
        let token = stop.clone();
        keep(&tasks, &stop, &broken_tx, "the janitor", async move {
            janitor.run(token).await;
        });

        let authority = Authority::new(store.clone(), Arc::clone(&clock), pki.clone());
        let token = stop.clone();
        keep(&tasks, &stop, &broken_tx, "the watch over the authority", async move {
            authority.run(token).await;
        });

        let watching = clock_alarm::run(store.clone(), live.clone(), Arc::clone(&clock), stop.clone());
        keep(&tasks, &stop, &broken_tx, "the watch over the clocks", watching);

        let apps = Apps::new(AppsDeps {
            store: store.clone(),
            engine: engine.clone(),
            queries: Arc::clone(&queries),
            live: live.clone(),
            inventories: inventories.clone(),
            catalog: catalog.clone(),
            clock: Arc::clone(&clock),
            bus: bus.clone(),
            secrets,
        });
        let (zone, for_scheduler) = (jiff::tz::TimeZone::system(), Arc::new(Notify::new()));
        let scheduler = Scheduler {
            store: store.clone(),
            clock: Arc::clone(&clock),
            zone: zone.clone(),
            bus: bus.clone(),
            work: Arc::new(Scheduled(apps.backups())),
            bell: Arc::clone(&for_scheduler),
        };
        let token = stop.clone();
        keep(&tasks, &stop, &broken_tx, "the schedules of backups", async move {
            scheduler.run(token).await;
        });

        let setup = SetupCode::new(&config.state);
        let sessions = Sessions::new(store.clone(), Arc::clone(&clock), signer);
        let auth = AuthService::new(store.clone(), Arc::clone(&clock), passwords, sessions, setup);
        let api = Api {
            audit: Arc::new(Audit::new(store.clone(), Arc::clone(&clock))),
            auth: auth.clone(),
            settings: SettingsService::new(store.clone(), Arc::clone(&clock)),
            catalog: CatalogService::new(
                catalog.clone(),
                config.catalog.clone(),
                store.clone(),
                Arc::clone(&clock),
            ),
            system: SystemService::new(store.clone(), Arc::clone(&queries), catalog.clone(), &clock),
            apps,
            schedules: Schedules::new(store.clone(), Arc::clone(&clock), zone, for_scheduler),
            operations: Operations::new(store.clone(), engine.clone()),
            upkeep: Upkeep::new(store.clone(), Arc::clone(&clock), for_reconciler, for_janitor),
            rescue: Rescue::new(store.clone(), Arc::clone(&clock), Some((engine.clone(), bus.clone()))),
            hosts: Hosts::new(store.clone(), Arc::clone(&clock), Arc::clone(&queries)),
            nodes: Nodes::new(
                store.clone(),
                Arc::clone(&clock),
                queries,
                live,
                inventories,
                bus.clone(),
            ),
            join_tokens: JoinTokens::new(store.clone(), clock, pki, config.advertised(quic_address)),
            bus,
            trusted_proxies: proxies,
            shutdown: http_stop.clone(),
            stream_check: STREAM_CHECK,
        };
        let token = http_stop.clone();
        keep(&http_tasks, &http_stop, &broken_tx, "HTTP", async move {
            let served = axum::serve(http, api::service(api)).with_graceful_shutdown(token.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "HTTP ended");
            }
        });
        http_tasks.close();
        tasks.close();
        tracing::info!(http = %http_address, quic = %quic_address, %epoch, "the coordinator runs");
        Ok(Self {
            http: http_address,
            quic: quic_address,
            auth,
            store,
            listener,
            http_stop,
            stop,
            http_tasks,
            tasks,
            broken,
            _lock: lock,
        })
    }

    /// Where HTTP is served.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where agents connect.
    pub fn quic(&self) -> SocketAddr {
        self.quic
    }

    /// The setup code and its file, as long as there is no user.
    pub async fn setup_code(&self) -> Result<Option<(String, PathBuf)>, ServiceError> {
        self.auth.setup_code().await
    }

    /// Waits until a part ends that should not, and says which.
    pub async fn failed(&self) -> String {
        let mut broken = self.broken.clone();
        loop {
            if let Some(what) = broken.borrow_and_update().clone() {
                return what;
            }
            if broken.changed().await.is_err() {
                // Every part has ended without a word: nothing is left that could.
                return "every part has ended".into();
            }
        }
    }

    /// Ends everything in good order. What is under way on nodes goes on there; the next run asks for the results.
    pub async fn stop(self) {
        tracing::info!("stopping");
        self.http_stop.cancel();
        if tokio::time::timeout(HTTP_GRACE, self.http_tasks.wait()).await.is_err() {
            tracing::warn!(
                after_s = HTTP_GRACE.as_secs(),
                "clients that are still connected are cut off"
            );
        }
        self.stop.cancel();
        self.tasks.wait().await;
        self.listener.shutdown().await;
        self.store.close().await;
        tracing::info!("stopped");
    }
}
