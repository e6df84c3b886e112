//! A registry with a host, nodes and users, the fake nodes behind it, and what has to be true when everything has ended.

use super::{
    clock::TestClock,
    node::{Container, FakeNodes, Port},
};
use crate::{
    clock::{Clock, SharedClock},
    domain::{
        app_state::Status,
        operation_state::OperationState,
        settings::{Group as _, OperationSettings},
    },
    events::Bus,
    nodes::{SharedQueries, inventories::Inventories},
    operations::{
        Engine, EngineDeps, EngineSettings, kind,
        params::{ActionParams, DeployParams, DeployRecipe, FixedParams, NetworkParams},
        submit::{self, Requester},
    },
    secrets::Sealer,
    store::{
        Store, app_secrets,
        apps::{self, AppRow, Resources},
        operations::{self, OperationRow},
        reservations, settings,
    },
};
use proximity_protocol::{
    command::Target,
    ids::{AppId, BridgeName, Epoch, NodeId, NodeName, OperationId, StorageId, TemplatePrefix, Vmid},
    observed::{BridgeFact, NodeFacts, PolicyFact, StorageFact},
    secret::SecretText,
};
use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

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

fn facts(name: &str) -> NodeFacts {
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
            content: vec!["rootdir".into(), "vztmpl".into()],
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
            "start" => Status::Stopped,
            _ => Status::Running,
        };
        let app = app_row("nginx-00000001", self.node(), status);
        apps::insert(&mut tx, &app).await.unwrap();
        let id = app.id.as_str();
        reservations::take_vmid(&mut tx, now, 1, 100, id, 1).await.unwrap();
        reservations::take_port(&mut tx, now, 1, 8000, id).await.unwrap();
        reservations::take_address(&mut tx, now, 1, Ipv4Addr::new(10, 1, 0, 10), id)
            .await
            .unwrap();
        let sealed = self
            .secrets
            .seal(id, "PASSWORD", &SecretText::new("very secret"))
            .unwrap();
        app_secrets::put(&mut tx, id, "PASSWORD", &sealed).await.unwrap();
        let params = if kind_name == "deploy" {
            serde_json::to_value(deploy_params()).unwrap()
        } else {
            let target = Target {
                vmid: Vmid::new(100).unwrap(),
                owner: app.owner(),
            };
            let running = status == Status::Running;
            self.nodes.model(self.node(), |m| {
                let container = Container {
                    owner: app.owner(),
                    running,
                    address: app.ip_address,
                    recipe: None,
                };
                m.containers.insert(100, container);
                if running {
                    m.published.insert(8000, target);
                }
            });
            serde_json::to_value(ActionParams {
                previous: status,
                health_timeout_s: 60,
            })
            .unwrap()
        };
        let requester = Requester {
            name: "ada".into(),
            request_id: None,
        };
        let operation = submit::queue(&mut tx, now, kind(kind_name).unwrap(), &app, params, &requester)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        operation
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

    async fn count(&self, table: &'static str) -> i64 {
        let sql = match table {
            "vmid" => {
                "SELECT COUNT(*) FROM vmid_reservations r WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id AND a.vmid = r.vmid)"
            }
            "port" => {
                "SELECT COUNT(*) FROM port_reservations r WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id AND a.public_port = r.port)"
            }
            "address" => {
                "SELECT COUNT(*) FROM address_reservations r WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id)"
            }
            "unreserved" => {
                "SELECT COUNT(*) FROM apps a WHERE a.vmid IS NOT NULL AND NOT EXISTS (SELECT 1 FROM vmid_reservations r WHERE r.app_id = a.id AND r.vmid = a.vmid)"
            }
            "secret" => {
                "SELECT COUNT(*) FROM app_secrets s WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = s.app_id)"
            }
            "reservations" => {
                "SELECT (SELECT COUNT(*) FROM vmid_reservations) + (SELECT COUNT(*) FROM port_reservations) + (SELECT COUNT(*) FROM address_reservations)"
            }
            other => panic!("{other}"),
        };
        let (count,): (i64,) = sqlx::query_as(sql)
            .fetch_one(&mut *self.store.read().await.unwrap())
            .await
            .unwrap();
        count
    }

    pub(crate) async fn reservation_count(&self) -> i64 {
        self.count("reservations").await
    }

    /// What holds after every end: no reservation without owner, nothing on a node without an app, no double owner.
    pub(crate) async fn assert_nothing_stray(&self, context: &str) {
        for table in ["vmid", "port", "address", "unreserved", "secret"] {
            assert_eq!(self.count(table).await, 0, "{context}: stray {table}");
        }
        for node in &self.ids {
            let (containers, published) = self.nodes.model(*node, |m| (m.containers.clone(), m.published.clone()));
            for (vmid, container) in &containers {
                let app = self.app(container.owner.app.as_str()).await;
                let app = app.unwrap_or_else(|| panic!("{context}: container {vmid} without an app"));
                assert_eq!(app.vmid, Some(*vmid), "{context}: container {vmid} is not its app's");
            }
            for (port, target) in &published {
                assert!(
                    containers.contains_key(&target.vmid.get()),
                    "{context}: port {port} leads nowhere"
                );
            }
        }
    }

    /// What holds after an operation of that kind has ended in that state.
    pub(crate) async fn assert_ended(&self, kind_name: &str, operation: &OperationRow, context: &str) {
        self.assert_nothing_stray(context).await;
        let app = self.app("nginx-00000001").await;
        let (container, published) = self.nodes.model(self.node(), |m| {
            (
                app.as_ref()
                    .and_then(|a| a.vmid)
                    .and_then(|v| m.containers.get(&v).cloned()),
                m.published.len(),
            )
        });
        let serves = container.as_ref().is_some_and(|c| c.running) && published == 1;
        let status = app.as_ref().map(|a| a.status);
        match (kind_name, operation.state) {
            ("deploy" | "start" | "restart" | "publish", OperationState::Done) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
                assert!(app.unwrap().published.is_some(), "{context}");
            }
            ("deploy", OperationState::Undone) => {
                assert_eq!(status, Some(Status::Error), "{context}");
                let reason = app.unwrap().status_reason.unwrap_or_default();
                assert!(!reason.is_empty(), "{context}: no reason");
                let left = self
                    .nodes
                    .model(self.node(), |m| m.containers.len() + m.published.len());
                assert_eq!(left, 0, "{context}: something is left on the node");
                assert_eq!(self.reservation_count().await, 0, "{context}");
            }
            // It is published or not, whatever the failed command did; a person has to look.
            ("publish", OperationState::Undone) => assert_eq!(status, Some(Status::Error), "{context}"),
            ("start", OperationState::Undone) => {
                assert_eq!(status, Some(Status::Error), "{context}");
                assert!(!container.unwrap().running && published == 0, "{context}");
            }
            ("restart", OperationState::Undone) => match status {
                // It could not be brought down, or did not come up again.
                Some(Status::Running) => assert!(serves, "{context}: running but does not serve"),
                Some(Status::Error) => assert!(!container.unwrap().running && published == 0, "{context}"),
                other => panic!("{context}: {other:?}"),
            },
            ("stop", OperationState::Done) => {
                assert_eq!(status, Some(Status::Stopped), "{context}");
                assert!(!container.unwrap().running && published == 0, "{context}");
            }
            ("stop", OperationState::Undone) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
            }
            ("delete", OperationState::Done) => {
                assert_eq!(status, None, "{context}");
                assert_eq!(
                    self.nodes
                        .model(self.node(), |m| m.containers.len() + m.published.len()),
                    0,
                    "{context}"
                );
                assert_eq!(self.reservation_count().await, 0, "{context}");
            }
            (_, OperationState::Stuck) => {
                assert!(
                    operation.action.as_ref().is_some_and(|a| a.contains("pve1")),
                    "{context}: {operation:?}"
                );
                assert_eq!(status, Some(Status::Error), "{context}");
            }
            other => panic!("{context}: ended as {other:?}"),
        }
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
    let made = status != Status::Deploying;
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
        created_at: 0,
        updated_at: 0,
        state_changed_at: 0,
    }
}
