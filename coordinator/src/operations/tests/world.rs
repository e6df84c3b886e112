//! A registry with a host, nodes and users, the fake nodes behind it, and what has to be true when everything has ended.

use super::{
    backups,
    clock::TestClock,
    node::{Container, FakeNodes, Port},
};
use crate::{
    clock::{Clock, SharedClock},
    domain::{
        app_state::Status,
        backups::BackupStatus,
        settings::{Group as _, OperationSettings},
        side_containers::{KeepPrevious, SideRole},
    },
    events::Bus,
    nodes::{SharedQueries, inventories::Inventories},
    operations::{
        Engine, EngineDeps, EngineSettings, kind,
        params::{
            ActionParams, BackupDeleteParams, BackupParams, CloneParams, ConfigureParams, DeployParams, DeployRecipe,
            DiscardParams, EnvironmentParams, FixedParams, MigrateParams, NetworkParams, RestoreParams,
        },
        submit::{self, Requester},
    },
    secrets::Sealer,
    store::{
        Connection, Store, app_secrets,
        apps::{self, AppRow, Resources},
        operation_secrets,
        operations::{self, OperationRow},
        reservations, settings,
        side_containers::{self, SideRow},
    },
};
use proximity_protocol::{
    backup::{BackupMode, Compression},
    command::Target,
    ids::{
        AppId, ArchiveId, BridgeName, EnvName, Epoch, Generation, NodeId, NodeName, OperationId, Owner, StorageId,
        TemplatePrefix, Vmid,
    },
    observed::{BridgeFact, NodeFacts, PolicyFact, StorageFact},
    secret::SecretText,
    spec::{Recipe, Settings},
};
use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The number of the container beside the app's.
pub(crate) const SIDE: u32 = 101;

/// The app that is cloned; the registry does not look at it meanwhile.
pub(crate) const SOURCE: &str = "nginx-00000009";

fn source() -> Target {
    Target {
        vmid: Vmid::new(200).unwrap(),
        owner: Owner {
            app: AppId::new(SOURCE).unwrap(),
            generation: Generation(1),
        },
    }
}

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) nodes: Arc<FakeNodes>,
    pub(crate) ids: Vec<NodeId>,
    pub(crate) clock: TestClock,
    pub(crate) bus: Bus,
    pub(crate) inventories: Inventories,
    pub(crate) secrets: Arc<Sealer>,
    _dir: tempfile::TempDir,
}

pub(crate) fn facts(name: &str) -> NodeFacts {
    NodeFacts {
        node_name: NodeName::new(name).unwrap(),
        address: Ipv4Addr::new(192, 0, 2, 1),
        cluster: None,
        quorate: true,
        host_fingerprint: [7; 32],
        pve_version: Some("8.4.1".into()),
        kernel: "6.8".into(),
        cpu_count: 8,
        memory_total_bytes: 512 << 30,
        storages: vec![StorageFact {
            id: StorageId::new("local").unwrap(),
            kind: "dir".into(),
            content: vec!["rootdir".into(), "vztmpl".into(), "backup".into()],
            shared: false,
            total_bytes: Some(4 << 40),
            used_bytes: Some(0),
        }],
        bridges: vec![BridgeFact {
            name: BridgeName::new("vmbr0").unwrap(),
            address: None,
            prefix: None,
            gateway: None,
        }],
        next_id: None,
        policy: PolicyFact {
            vmid_first: 100,
            vmid_last: 999_999_999,
            port_first: 1,
            port_last: 65_535,
            storages: vec![],
            bridges: vec![],
            denied_verbs: vec![],
        },
    }
}

fn folder() -> tempfile::TempDir {
    // The registry is synced at each commit; where there is a memory file system, that costs nothing.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
    .unwrap()
}

impl World {
    pub(crate) async fn new(node_count: u128, is_static: bool) -> Self {
        let dir = folder();
        let store = Store::open(&dir.path().join("registry.db")).await.unwrap();
        let ids: Vec<NodeId> = (1..=node_count).map(|n| NodeId(uuid::Uuid::from_u128(n))).collect();
        let mut tx = store.begin().await.unwrap();
        for (id, name, role) in [
            (1, "ada", "user"),
            (2, "bob", "user"),
            (3, "eve", "viewer"),
            (4, "root", "admin"),
        ] {
            sqlx::query(
                "INSERT INTO users (id, username, password_hash, role, date_joined) VALUES ($1, $2, '', $3, 0)",
            )
            .bind(id)
            .bind(name)
            .bind(role)
            .execute(&mut *tx)
            .await
            .unwrap();
        }
        sqlx::query(
            "INSERT INTO hosts (id, name, is_default, created_at, updated_at, address_mode, subnet, pool_first, pool_last, gateway)
             VALUES (1, 'lab', TRUE, 0, 0, $1, '10.1.0.0/16', '10.1.0.10', '10.1.3.250', '10.1.0.1')",
        )
        .bind(if is_static { "static" } else { "dhcp" })
        .execute(&mut *tx)
        .await
        .unwrap();
        for (n, id) in (1..).zip(&ids) {
            let name = format!("pve{n}");
            sqlx::query(
                "INSERT INTO nodes (id, host_id, name, facts, created_at, updated_at) VALUES ($1, 1, $2, $3, 0, 0)",
            )
            .bind(id.to_string())
            .bind(&name)
            .bind(serde_json::to_string(&facts(&name)).unwrap())
            .execute(&mut *tx)
            .await
            .unwrap();
        }
        // In virtual time each wait would be over before any answer.
        let patient = OperationSettings {
            no_progress_alarm_s: 0,
            no_answer_s: 0,
            ..OperationSettings::default()
        };
        settings::put(&mut tx, 0, None, OperationSettings::NAME, &patient)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        Self {
            nodes: FakeNodes::new(&ids),
            ids,
            clock: TestClock::default(),
            bus: Bus::default(),
            inventories: Inventories::default(),
            secrets: Arc::new(Sealer::open(dir.path(), false).unwrap()),
            store,
            _dir: dir,
        }
    }

    /// As many nodes as an operation of that kind goes to.
    pub(crate) async fn of(kind_name: &str) -> Self {
        Self::new(if kind_name == "migrate" { 2 } else { 1 }, true).await
    }

    /// Changes the settings of operations.
    pub(crate) async fn set(&self, change: impl FnOnce(&mut OperationSettings)) {
        let mut tx = self.store.begin().await.unwrap();
        let mut now: OperationSettings = settings::get(&mut tx, OperationSettings::NAME).await.unwrap().unwrap();
        change(&mut now);
        settings::put(&mut tx, 0, None, OperationSettings::NAME, &now)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) fn node(&self) -> NodeId {
        self.ids[0]
    }

    pub(crate) fn engine(&self, epoch: u64) -> Engine {
        self.engine_at(epoch, Arc::new(self.clock.clone()))
    }

    pub(crate) fn engine_at(&self, epoch: u64, clock: SharedClock) -> Engine {
        Engine::new(EngineDeps {
            store: self.store.clone(),
            commands: Arc::new(Port(self.nodes.clone())),
            inventories: self.inventories.clone(),
            clock,
            bus: self.bus.clone(),
            epoch: Epoch(epoch),
            settings: EngineSettings::default(),
            secrets: self.secrets.clone(),
        })
    }

    pub(crate) fn queries(&self) -> SharedQueries {
        Arc::new(Port(self.nodes.clone()))
    }

    /// An app as it is before an operation of that kind, and the operation, queued.
    pub(crate) async fn queued(&self, kind_name: &str) -> OperationId {
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await.unwrap();
        let status = match kind_name {
            "deploy" => Status::Deploying,
            "clone" => Status::Cloning,
            "adopt" => Status::Adopting,
            "start" => Status::Stopped,
            _ => Status::Running,
        };
        let mut app = app_row("nginx-00000001", self.node(), status);
        app.adopted = matches!(kind_name, "adopt" | "forget");
        if matches!(kind_name, "start" | "restart" | "migrate") {
            app.pending_restart = vec!["memory".into()];
        }
        // Before a publication, and before a change that finds its container moved, the registry knows that the port leads nowhere.
        if status == Status::Running && !matches!(kind_name, "publish" | "configure") {
            app.published = Some(Ipv4Addr::new(192, 0, 2, 1));
        }
        apps::insert(&mut tx, &app).await.unwrap();
        apps::update(&mut tx, now, &app).await.unwrap();
        let id = app.id.as_str();
        reservations::take_vmid(&mut tx, now, 1, 100, id, 1).await.unwrap();
        reservations::take_port(&mut tx, now, 1, 8000, id).await.unwrap();
        if !app.adopted {
            reservations::take_address(&mut tx, now, 1, Ipv4Addr::new(10, 1, 0, 10), id)
                .await
                .unwrap();
            let sealed = self.sealed(id, "PASSWORD", "very secret");
            app_secrets::put(&mut tx, id, "PASSWORD", &sealed).await.unwrap();
        }
        let params = match kind_name {
            "backup" => serde_json::to_value(BackupParams {
                backup_id: backups::put_row(&mut tx, now, &app, BackupStatus::Creating, None).await,
                storage: StorageId::new("local").unwrap(),
                mode: BackupMode::Suspend,
                compression: Compression::Zstd,
            }),
            "backup_delete" => {
                let archive = self.put_archive(&app);
                let status = BackupStatus::Deleting;
                serde_json::to_value(BackupDeleteParams {
                    backup_id: backups::put_row(&mut tx, now, &app, status, Some(archive.clone())).await,
                    archive,
                    vmid: Vmid::new(100).unwrap(),
                })
            }
            "restore" | "verify" => {
                let archive = self.put_archive(&app);
                let status = if kind_name == "restore" {
                    BackupStatus::Restoring
                } else {
                    BackupStatus::Completed
                };
                serde_json::to_value(RestoreParams {
                    previous: Status::Running,
                    health_timeout_s: 60,
                    backup_id: backups::put_row(&mut tx, now, &app, status, Some(archive.clone())).await,
                    archive,
                    archive_vmid: Vmid::new(100).unwrap(),
                    archive_node: Some(self.node()),
                    sha256: Some(backups::SUM),
                    storage: StorageId::new("local").unwrap(),
                    settings: Settings::default(),
                    disk_gb: None,
                    has_old: true,
                    keep: KeepPrevious::ForAWhile,
                    keep_note: None,
                })
            }
            "discard" => serde_json::to_value(DiscardParams {
                previous: status,
                health_timeout_s: 60,
                vmid: Vmid::new(SIDE).unwrap(),
                checks_health: true,
            }),
            "clone" => serde_json::to_value(CloneParams {
                previous: status,
                health_timeout_s: 60,
                source: source(),
                source_node: self.node(),
                copy_storage: StorageId::new("local").unwrap(),
                mode: BackupMode::Suspend,
                compression: Compression::Zstd,
                network: deploy_params().network,
            }),
            "deploy" => serde_json::to_value(deploy_params()),
            "configure" => serde_json::to_value(configure_params(status)),
            "migrate" => serde_json::to_value(MigrateParams {
                previous: status,
                health_timeout_s: 60,
                from: self.ids[0],
                from_name: NodeName::new("pve1").unwrap(),
                to: self.ids[1],
                to_name: NodeName::new("pve2").unwrap(),
            }),
            _ => serde_json::to_value(ActionParams {
                previous: status,
                health_timeout_s: 60,
            }),
        }
        .unwrap();
        match kind_name {
            "deploy" => {}
            "clone" => self.put_source(),
            _ => self.put_container(&app),
        }
        let requester = Requester {
            name: "ada".into(),
            request_id: None,
        };
        let operation = submit::queue(&mut tx, now, kind(kind_name).unwrap(), &app, params, &requester)
            .await
            .unwrap();
        // Where containers move, what is kept stays behind.
        let removes = matches!(kind_name, "delete" | "forget") && self.ids.len() == 1;
        if removes || matches!(kind_name, "restore" | "verify" | "discard") {
            let role = match kind_name {
                "restore" => SideRole::Replacement,
                "verify" => SideRole::Trial,
                _ => SideRole::Previous,
            };
            self.put_side(&mut tx, &app, role, operation).await;
        }
        if kind_name == "configure" {
            for (name, value) in [("PASSWORD", "newer secret"), ("TOKEN", "a token")] {
                let sealed = self.sealed(id, name, value);
                operation_secrets::put(&mut tx, operation, id, name, &sealed)
                    .await
                    .unwrap();
            }
        }
        tx.commit().await.unwrap();
        operation
    }

    /// The container that is cloned; it runs, and nothing of it changes.
    fn put_source(&self) {
        let source = source();
        let container = Container {
            recipe: Some(recipe(&[("COLOR", "blue")])),
            ..Container::new(Some(source.owner), true, Some(Ipv4Addr::new(10, 1, 0, 99)))
        };
        self.nodes
            .model(self.node(), |m| m.containers.insert(source.vmid.get(), container));
    }

    /// A container beside the app's, which is there unless an operation is to make it.
    pub(crate) async fn put_side(&self, tx: &mut Connection, app: &AppRow, role: SideRole, operation_id: OperationId) {
        let now = self.clock.now_ms();
        let side = SideRow {
            host_id: 1,
            vmid: Vmid::new(SIDE).unwrap(),
            app_id: app.id.clone(),
            node_id: self.node(),
            generation: 2,
            role,
            adopted: app.adopted,
            keep_until: (role == SideRole::Previous).then_some(now),
            note: None,
            operation_id,
            created_at: now,
        };
        reservations::take_vmid(&mut *tx, now, 1, SIDE, app.id.as_str(), 2)
            .await
            .unwrap();
        side_containers::insert(tx, &side).await.unwrap();
        if role == SideRole::Previous {
            let owner = Owner {
                app: app.id.clone(),
                generation: Generation(2),
            };
            let container = Container {
                adopted: app.adopted,
                ..Container::new(Some(owner), false, app.ip_address)
            };
            self.nodes.model(self.node(), |m| m.containers.insert(SIDE, container));
        }
    }

    /// An app that is there, with its container and its reservations, and nothing that works on it.
    pub(crate) async fn standing_app(&self, status: Status) -> AppRow {
        let now = self.clock.now_ms();
        let app = app_row("nginx-00000001", self.node(), status);
        let mut tx = self.store.begin().await.unwrap();
        apps::insert(&mut tx, &app).await.unwrap();
        apps::update(&mut tx, now, &app).await.unwrap();
        let id = app.id.as_str();
        reservations::take_vmid(&mut tx, now, 1, 100, id, 1).await.unwrap();
        reservations::take_port(&mut tx, now, 1, 8000, id).await.unwrap();
        reservations::take_address(&mut tx, now, 1, Ipv4Addr::new(10, 1, 0, 10), id)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        self.put_container(&app);
        app
    }

    fn sealed(&self, app: &str, name: &str, value: &str) -> Vec<u8> {
        self.secrets.seal(app, name, &SecretText::new(value)).unwrap()
    }

    /// An archive of the app's container.
    pub(crate) fn put_archive(&self, app: &AppRow) -> ArchiveId {
        let vmid = Vmid::new(100).unwrap();
        let id = backups::archive_id(&StorageId::new("local").unwrap(), vmid, 0);
        let archive = backups::Archive {
            app: app.id.clone(),
            vmid,
            operation: OperationId(uuid::Uuid::nil()),
            damaged: false,
            container: Container {
                recipe: Some(recipe(&[("COLOR", "blue"), ("PASSWORD", "very secret")])),
                ..Container::new(Some(app.owner()), false, app.ip_address)
            },
        };
        self.nodes
            .model(self.node(), |m| m.archives.all.insert(id.clone(), archive));
        id
    }

    /// The app's container as it is before an operation.
    fn put_container(&self, app: &AppRow) {
        let running = matches!(app.status, Status::Running | Status::Adopting);
        let by_hand = app.status == Status::Adopting;
        let target = Target {
            vmid: Vmid::new(100).unwrap(),
            owner: app.owner(),
        };
        let container = Container {
            adopted: app.adopted && !by_hand,
            recipe: (!app.adopted).then(|| recipe(&[("COLOR", "blue"), ("PASSWORD", "very secret")])),
            pending: app.pending_restart.clone(),
            ..Container::new((!by_hand).then(|| app.owner()), running, app.ip_address)
        };
        self.nodes.model(self.node(), |m| {
            m.adopts.insert(100);
            m.containers.insert(100, container);
            if running && !by_hand {
                m.published.insert(8000, target);
            }
        });
    }

    /// Another operation on an app that is there, queued.
    pub(crate) async fn queue_again(&self, kind_name: &str, app_id: &str) -> OperationId {
        let mut tx = self.store.begin().await.unwrap();
        let app = apps::by_id(&mut tx, app_id).await.unwrap().unwrap();
        let params = serde_json::to_value(ActionParams {
            previous: app.status,
            health_timeout_s: 60,
        })
        .unwrap();
        let requester = Requester {
            name: "ada".into(),
            request_id: None,
        };
        let id = submit::queue(
            &mut tx,
            self.clock.now_ms(),
            kind(kind_name).unwrap(),
            &app,
            params,
            &requester,
        )
        .await
        .unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// So many operations of other apps wait on a node.
    pub(crate) async fn fill_queue(&self, node: NodeId, count: i64) {
        let mut tx = self.store.begin().await.unwrap();
        sqlx::query(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
             INSERT INTO operations (id, kind, app_id, hostname, node_id, owner_id, state, params, requested_by, created_at, updated_at)
             SELECT printf('00000000-0000-0000-0000-%012d', i), 'deploy', 'other-' || i, 'x', $1, 1, 'queued', '{}', 'x', 0, 0 FROM n",
        )
        .bind(node.to_string())
        .bind(count)
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) async fn operation(&self, id: OperationId) -> OperationRow {
        let mut conn = self.store.read().await.unwrap();
        operations::by_id(&mut conn, id).await.unwrap().unwrap()
    }

    pub(crate) async fn app(&self, id: &str) -> Option<AppRow> {
        let mut conn = self.store.read().await.unwrap();
        apps::by_id(&mut conn, id).await.unwrap()
    }

    /// Runs an engine until nothing is left to do.
    pub(crate) async fn run_to_the_end(&self, epoch: u64) {
        let engine = self.engine(epoch);
        self.settle(&engine).await;
    }

    /// Runs this engine until nothing is left to do.
    pub(crate) async fn settle(&self, engine: &Engine) {
        let stop = CancellationToken::new();
        let mut events = self.bus.subscribe();
        let running = tokio::spawn({
            let (engine, stop) = (engine.clone(), stop.clone());
            async move { engine.run(stop).await }
        });
        let ended = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let left = operations::unfinished(&mut self.store.read().await.unwrap())
                    .await
                    .unwrap();
                if left.is_empty() {
                    return;
                }
                // Every transition is told; a lagging reader looks again.
                let _ = events.recv().await;
            }
        })
        .await;
        stop.cancel();
        running.await.unwrap();
        if ended.is_err() {
            let left = operations::unfinished(&mut self.store.read().await.unwrap())
                .await
                .unwrap();
            let row = self.operation(left[0]).await;
            panic!(
                "operations have not ended: {row:#?}, seen {:#?}",
                self.nodes.seen.lock().unwrap().last()
            );
        }
    }

    /// Nothing failed, so no step had a second key: what was lost was asked again with the first one.
    pub(crate) async fn assert_one_key_each(&self, id: OperationId, context: &str) {
        let mut conn = self.store.read().await.unwrap();
        for step in operations::steps(&mut conn, id).await.unwrap() {
            assert!(step.attempt <= 1, "{context}: {} has {} keys", step.name, step.attempt);
        }
    }
}

/// A recipe as it lies in a container.
fn recipe(env: &[(&str, &str)]) -> Recipe {
    Recipe {
        install: "true".into(),
        health: "true".into(),
        files: vec![],
        env: env
            .iter()
            .map(|(name, value)| (EnvName::new(*name).unwrap(), SecretText::new(*value)))
            .collect(),
        port: 80,
        install_timeout_s: 60,
    }
}

/// More memory, a larger disk, another colour's name, another password, one more secret.
pub(crate) fn configure_params(previous: Status) -> ConfigureParams {
    ConfigureParams {
        previous,
        cpu_cores: None,
        memory_mb: Some(256),
        swap_mb: None,
        disk_gb: Some(4),
        environment: Some(EnvironmentParams {
            plain: BTreeMap::from([("SHAPE".into(), "round".into())]),
            secrets: vec!["PASSWORD".into(), "TOKEN".into()],
            forget_secrets: vec![],
            timeout_s: 60,
        }),
        config: serde_json::json!({"memory_mb": 256, "disk_gb": 4}),
        health_timeout_s: 60,
    }
}

pub(crate) fn deploy_params() -> DeployParams {
    DeployParams {
        recipe: DeployRecipe {
            version: "1".into(),
            template: TemplatePrefix::new("debian-12-standard").unwrap(),
            install: "true".into(),
            health: "true".into(),
            files: vec![],
            install_timeout_s: 60,
            health_timeout_s: 60,
            keyctl: false,
        },
        template_storage: StorageId::new("local").unwrap(),
        network: NetworkParams {
            bridge: BridgeName::new("vmbr0").unwrap(),
            vlan: None,
            dns: vec![],
            fixed: Some(FixedParams {
                prefix: 16,
                gateway: None,
            }),
        },
    }
}

pub(crate) fn app_row(id: &str, node: NodeId, status: Status) -> AppRow {
    let made = !matches!(status, Status::Deploying | Status::Cloning | Status::Adopting);
    AppRow {
        id: AppId::new(id).unwrap(),
        catalog_id: "nginx".into(),
        name: "nginx".into(),
        hostname: format!("host-{}", &id[id.len() - 8..]),
        description: String::new(),
        status,
        status_reason: None,
        host_id: 1,
        node_id: node,
        owner_id: 1,
        generation: 1,
        vmid: Some(100),
        vmid_confirmed: made,
        public_port: Some(8000),
        internal_port: 80,
        ip_address: Some(Ipv4Addr::new(10, 1, 0, 10)),
        published: None,
        mac: None,
        adopted: false,
        config: serde_json::json!({}),
        resources: Resources {
            cpu_cores: 1,
            memory_mb: 128,
            disk_gb: 2,
            swap_mb: 0,
            storage: StorageId::new("local").unwrap(),
        },
        environment: BTreeMap::from([("COLOR".into(), "blue".into())]),
        ports: BTreeMap::from([("http".into(), 80)]),
        volumes: vec![],
        labels: vec![],
        placement: None,
        pending_restart: vec![],
        created_at: 0,
        updated_at: 0,
        state_changed_at: 0,
    }
}
