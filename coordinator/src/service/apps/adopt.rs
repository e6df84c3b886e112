//! `POST /api/apps/adopt`: a container that somebody else made becomes an app.

use super::{Apps, Caller, ServiceError, discover::obstacle};
use crate::{
    domain::{adoption, app_state::Status, catalog::Catalog},
    operations::{
        adopt::ADOPT,
        params::{ActionParams, DEFAULT_HEALTH_TIMEOUT_S},
        record::app_event,
        reserve,
        submit::{self, Requester},
        surroundings::{self, SurroundingsError},
    },
    service::{FieldError, nodes::only_operators},
    store::{
        self, Connection, StoreError,
        apps::{self, AppRow, Resources},
        deployment_logs::{self, LogLevel},
        fleet::{self, FleetNode},
        reservations,
    },
};
use proximity_protocol::{
    examined::{Examination, Examined},
    ids::{AppId, StorageId, Vmid},
    observed::RunState,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// Body of `POST /api/apps/adopt`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptContainer {
    /// Which container.
    pub vmid: u32,
    /// On which node.
    pub node_name: String,
    /// The host, where two have a node of that name.
    #[serde(default)]
    pub host_id: Option<i64>,
    /// What it is, e.g. `nginx`; guessed if it is absent.
    #[serde(default)]
    pub suggested_type: Option<String>,
    /// The port inside; found by what listens there if it is absent.
    #[serde(default)]
    pub port_to_expose: Option<u16>,
}

/// The answer: the seed's fields, and where it can be followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdoptAnswer {
    /// True.
    pub success: bool,
    /// `Adoption of container 105 started...`
    pub message: String,
    /// The container.
    pub vmid: u32,
    /// Its node.
    pub node: String,
    /// What it is taken for.
    pub r#type: String,
    /// `automatic` or `manual:80`.
    pub port_detection: String,
    /// The port inside that is published.
    pub internal_port: u16,
    /// The new app.
    pub id: String,
    /// Its host name.
    pub hostname: String,
    /// Where its steps can be followed.
    pub operation_id: String,
}

/// A body whose fields are well-formed.
struct Checked {
    vmid: Vmid,
    kind: Option<String>,
}

impl AdoptContainer {
    fn checked(&self) -> Result<Checked, ServiceError> {
        let mut wrong = Vec::new();
        let vmid = Vmid::new(self.vmid);
        if let Err(e) = &vmid {
            wrong.push(FieldError::body("vmid", format!("is {}", e.rule)));
        }
        if self.port_to_expose == Some(0) {
            wrong.push(FieldError::body("port_to_expose", "is a port from 1 to 65535"));
        }
        let kind = self.suggested_type.clone();
        // It becomes the first part of the app's id.
        if let Some(kind) = &kind
            && AppId::compose(kind, 0).is_err()
        {
            let msg = "is 1 to 50 of a-z, 0-9 and '-', neither first nor last a '-', e.g. nginx or custom";
            wrong.push(FieldError::body("suggested_type", msg));
        }
        match vmid {
            Ok(vmid) if wrong.is_empty() => Ok(Checked { vmid, kind }),
            _ => Err(ServiceError::Invalid(wrong)),
        }
    }
}

/// What the container is taken for, and its port.
struct Guess {
    kind: String,
    name: String,
    port: u16,
    detection: String,
}

impl Apps {
    /// Accepts the adoption of a container, after its node has said that it may be.
    pub async fn adopt(&self, caller: &Caller, body: &AdoptContainer) -> Result<AdoptAnswer, ServiceError> {
        only_operators(caller)?;
        let checked = body.checked()?;
        let vmid = checked.vmid;
        let (nodes, node) = {
            let mut conn = self.deps().store.read().await?;
            let nodes = fleet::nodes(&mut conn).await?;
            let node = self.of_adoption(&mut conn, body, &nodes).await?;
            managed(&mut conn, &node, vmid).await?;
            (nodes, node)
        };
        let examination = self
            .examine(&node, Some(vmid))
            .await
            .map_err(|untold| untold.refusal(&node))?;
        let container = adoptable(&examination, &node, vmid)?;
        let catalog = self.deps().catalog.current();
        let guess = guess(&catalog, &checked, body.port_to_expose, container, &node)?;

        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        managed(&mut tx, &node, vmid).await?;
        self.check_room(&mut tx, node.id, &node.name).await?;
        let id = self.new_id(&mut tx, &guess.kind).await?;
        let app = id.as_str();
        match reservations::take_vmid(&mut tx, now, node.host_id, vmid.get(), app, 1).await {
            Err(StoreError::Taken(_)) => {
                return Err(ServiceError::Conflict(format!(
                    "VMID {vmid} is reserved for an app that is being made; try again when that has ended"
                )));
            }
            other => other?,
        }
        let public_port = self.port_for(&mut tx, now, &node, &nodes, app).await?;
        let hostname = free_hostname(
            &mut tx,
            adoption::hostname(container.hostname.as_deref(), vmid.get()),
            vmid,
        )
        .await?;
        let row = AppRow {
            id: id.clone(),
            catalog_id: guess.kind.clone(),
            name: guess.name.clone(),
            hostname: hostname.clone(),
            description: String::new(),
            status: Status::Adopting,
            status_reason: None,
            host_id: node.host_id,
            node_id: node.id,
            owner_id: caller.user_id,
            generation: 1,
            vmid: Some(vmid.get()),
            vmid_confirmed: false,
            public_port: Some(public_port),
            internal_port: guess.port,
            ip_address: None,
            published: None,
            mac: None,
            adopted: true,
            config: json!({}),
            resources: resources(container, &node)?,
            environment: BTreeMap::new(),
            ports: ports(&catalog, &guess),
            volumes: Vec::new(),
            labels: Vec::new(),
            placement: None,
            pending_restart: container.pending.clone(),
            created_at: now,
            updated_at: now,
            state_changed_at: now,
        };
        apps::insert(&mut tx, &row).await?;
        let params = serde_json::to_value(ActionParams {
            previous: Status::Adopting,
            health_timeout_s: DEFAULT_HEALTH_TIMEOUT_S,
        })
        .map_err(StoreError::from)?;
        let requester = Requester {
            name: caller.username.clone(),
            request_id: caller.request_id.clone(),
        };
        let operation = submit::queue(&mut tx, now, &ADOPT, &row, params, &requester).await?;
        let message = format!(
            "Accepted: container {vmid} on {} as {hostname}; its port {} ({})",
            node.name, guess.port, guess.detection
        );
        deployment_logs::append(&mut tx, now, app, Some(operation), LogLevel::Info, "accept", &message).await?;
        let event = store::insert_event(&mut tx, now, app_event(&row, false)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.deps().bus.publish(event);
        self.deps().engine.wake();
        tracing::info!(app_id = %id, operation_id = %operation, node_id = %node.id, %vmid, request_id = caller.request_id, "accepted an adoption");
        Ok(AdoptAnswer {
            success: true,
            message: format!("Adoption of container {vmid} started..."),
            vmid: vmid.get(),
            node: node.name,
            r#type: guess.kind,
            port_detection: guess.detection,
            internal_port: guess.port,
            id: id.to_string(),
            hostname,
            operation_id: operation.to_string(),
        })
    }

    /// The node that is meant, if it takes apps now: 404 before 409.
    async fn of_adoption(
        &self,
        conn: &mut Connection,
        body: &AdoptContainer,
        nodes: &[FleetNode],
    ) -> Result<FleetNode, ServiceError> {
        let meant = super::place::named(conn, &body.node_name, body.host_id, nodes).await?;
        self.refuse_closed_node(&meant)?;
        match meant.as_slice() {
            [node] => Ok((*node).clone()),
            _ => Err(ServiceError::Internal(
                "a node name that was checked means no single node".into(),
            )),
        }
    }

    async fn port_for(
        &self,
        tx: &mut Connection,
        now: i64,
        node: &FleetNode,
        nodes: &[FleetNode],
        app: &str,
    ) -> Result<u16, ServiceError> {
        let Some(facts) = &node.facts else {
            return Err(ServiceError::Conflict(format!(
                "node {} has not told what it is yet; try again",
                node.name
            )));
        };
        let around = match surroundings::of_node(&mut *tx, node, facts, nodes, &self.deps().inventories).await {
            Ok(around) => around,
            Err(SurroundingsError::Store(error)) => return Err(error.into()),
            Err(other) => {
                return Err(ServiceError::Conflict(format!(
                    "{other}; set it with PUT /api/proxmox/hosts/{}/network",
                    node.host_id
                )));
            }
        };
        reserve::port(tx, now, &around, app).await?.ok_or_else(|| {
            ServiceError::Conflict(format!(
                "{} has no free public port; delete an app there or widen its range",
                node.name
            ))
        })
    }
}

/// Refuses a container that is an app's in the registry.
async fn managed(conn: &mut Connection, node: &FleetNode, vmid: Vmid) -> Result<(), ServiceError> {
    let app = apps::by_vmid(conn, node.host_id, vmid.get()).await?;
    // A number that is only reserved is another matter: its node has not confirmed it.
    match app.filter(|app| app.vmid_confirmed || app.adopted) {
        Some(app) => Err(ServiceError::Conflict(format!(
            "container {vmid} is managed already: it is the app {} ({})",
            app.hostname, app.id
        ))),
        None => Ok(()),
    }
}

/// The container, if its node lets it be adopted.
fn adoptable<'e>(examination: &'e Examination, node: &FleetNode, vmid: Vmid) -> Result<&'e Examined, ServiceError> {
    let conflict = |why: String| Err(ServiceError::Conflict(why));
    let Some(container) = examination.containers.iter().find(|c| c.vmid == vmid) else {
        if let Some(other) = examination.others.iter().find(|o| o.vmid == vmid) {
            return if other.machine {
                conflict(format!("{vmid} is a virtual machine; only containers can be adopted"))
            } else {
                conflict(format!(
                    "container {vmid} is on node {}; adopt it with that node_name",
                    other.node
                ))
            };
        }
        if !examination.unreadable.is_empty() {
            let why = examination.unreadable.join("; ");
            return conflict(format!("node {} cannot tell of container {vmid} now: {why}", node.name));
        }
        return Err(ServiceError::NotFound(format!(
            "there is no container {vmid} on node {}; GET /api/apps/discover lists those that could be adopted",
            node.name
        )));
    };
    if let Some(owner) = &container.owner {
        return conflict(format!(
            "container {vmid} is managed already: node {} has it as app {}'s",
            node.name, owner.app
        ));
    }
    if container.half_made {
        return conflict(format!(
            "container {vmid} is only being made; adopt it when it is whole"
        ));
    }
    match obstacle(container) {
        Some(why) => conflict(format!("container {vmid} cannot be adopted: {why}")),
        None => Ok(container),
    }
}

fn guess(
    catalog: &Catalog,
    checked: &Checked,
    port: Option<u16>,
    container: &Examined,
    node: &FleetNode,
) -> Result<Guess, ServiceError> {
    let listening = container.listening.as_deref().unwrap_or_default();
    let kind = match &checked.kind {
        Some(kind) => kind.clone(),
        None => adoption::suggest(catalog, container.hostname.as_deref(), listening).to_owned(),
    };
    let entry = catalog.get(&kind);
    let (port, detection) = match port {
        Some(port) => (port, format!("manual:{port}")),
        None => match adoption::port(entry.map(|e| e.main_port), listening) {
            Some(port) => (port, "automatic".to_owned()),
            None => {
                let why = match container.state {
                    RunState::Running => "nothing listens in it that looks like an app",
                    _ => "it does not run, so that its port cannot be found",
                };
                return Err(ServiceError::Conflict(format!(
                    "container {} on {}: {why}; say which port with port_to_expose",
                    container.vmid, node.name
                )));
            }
        },
    };
    Ok(Guess {
        name: entry.map_or_else(|| kind.clone(), |e| e.name.clone()),
        kind,
        port,
        detection,
    })
}

/// Named ports: those of its type, if the published one is among them.
fn ports(catalog: &Catalog, guess: &Guess) -> BTreeMap<String, u16> {
    let known = catalog.get(&guess.kind).map(|entry| &entry.ports);
    match known.filter(|ports| ports.values().any(|port| *port == guess.port)) {
        Some(ports) => ports.clone(),
        None => BTreeMap::from([("http".to_owned(), guess.port)]),
    }
}

/// What it has, as its configuration says.
fn resources(container: &Examined, node: &FleetNode) -> Result<Resources, ServiceError> {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let cores = container
        .cpu_cores
        .or_else(|| node.facts.as_ref().map(|facts| facts.cpu_count));
    let storage = container
        .root_volume
        .as_deref()
        .and_then(|volume| volume.split(':').next());
    let storage = storage
        .and_then(|id| StorageId::new(id).ok())
        .map_or_else(|| StorageId::new("unknown"), Ok)
        .map_err(|e| ServiceError::Internal(e.to_string()))?;
    Ok(Resources {
        cpu_cores: cores.unwrap_or(1),
        memory_mb: number(container.memory_mb),
        disk_gb: number(container.disk_total_bytes.unwrap_or(0) >> 30),
        swap_mb: number(container.swap_mb),
        storage,
    })
}

/// The wanted one, or one beside it.
async fn free_hostname(conn: &mut Connection, wanted: String, vmid: Vmid) -> Result<String, ServiceError> {
    let mut hostname = wanted.clone();
    let mut n = 1_u32;
    while apps::hostname_taken(conn, &hostname).await? {
        hostname = if n == 1 {
            format!("{wanted}-{vmid}")
        } else {
            format!("{wanted}-{vmid}-{n}")
        };
        n += 1;
    }
    Ok(hostname)
}
