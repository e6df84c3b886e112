//! `POST /api/apps/{id}/clone`.

use super::{Apps, Plan, PlanPort, ServiceError, may_change, plan_steps, quota};
use crate::{
    domain::{
        app_state::Status,
        backups::{Way, choose_storage, left_out, way},
        placement::Admission,
    },
    operations::{
        clone::CLONE,
        params::{CloneParams, DEFAULT_HEALTH_TIMEOUT_S},
        record::app_event,
        reserve,
        submit::{self, Requester},
        surroundings::{self, Surroundings, SurroundingsError},
    },
    service::{Caller, FieldError},
    store::{
        self, Connection, StoreError, app_secrets,
        apps::{self, AppRow, ListedApp},
        fleet::{self, FleetNode},
        operations,
    },
};
use proximity_protocol::{
    backup::{BackupMode, BackupQuestion, Compression},
    command::Target,
    ids::{Hostname, StorageId, Vmid},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// `{new_hostname, node?}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneApp {
    /// The new app's host name.
    pub new_hostname: String,
    /// Where; by default on the source's node.
    #[serde(default)]
    pub node: Option<String>,
}

/// The answer to a clone.
#[derive(Debug, Clone, PartialEq)]
pub enum Cloned {
    /// 202.
    Started(CloneStarted),
    /// 200, of a dry run.
    Plan(Box<Plan>),
}

/// 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CloneStarted {
    /// True.
    pub success: bool,
    /// `Cloning my-nginx-01 to my-nginx-clone-01...`, and how the source is kept still for it.
    pub message: String,
    /// The source.
    pub source_app_id: String,
    /// As asked.
    pub new_hostname: String,
    /// The new app.
    pub id: String,
    /// Where.
    pub node: String,
    /// Where it can be followed.
    pub operation_id: String,
}

/// What was decided.
struct Ready {
    source_node: FleetNode,
    to: FleetNode,
    source: Target,
    copy_storage: StorageId,
    way: Way,
}

fn conflict<T>(why: String) -> Result<T, ServiceError> {
    Err(ServiceError::Conflict(why))
}

fn refuse_source(app: &AppRow) -> Result<Vmid, ServiceError> {
    if app.adopted {
        return conflict(format!(
            "{} was adopted: how it is installed, and whether it is healthy, is not known, so it is not cloned; clone container {} in Proxmox and adopt the clone",
            app.hostname,
            app.vmid.unwrap_or_default()
        ));
    }
    match app.status {
        Status::Running | Status::Stopped => app
            .vmid
            .filter(|_| app.vmid_confirmed)
            .and_then(|vmid| Vmid::new(vmid).ok())
            .ok_or_else(|| ServiceError::Conflict(format!("{} has no container that could be cloned", app.hostname))),
        other => conflict(format!(
            "{} is {other}; it is cloned from running or stopped",
            app.hostname
        )),
    }
}

impl Apps {
    /// Begins to clone an app, or says how that would go.
    pub async fn clone_app(
        &self,
        caller: &Caller,
        id: &str,
        body: &CloneApp,
        dry_run: bool,
    ) -> Result<Cloned, ServiceError> {
        may_change(caller)?;
        let (source, nodes) = {
            let mut conn = self.deps().store.read().await?;
            (
                self.visible(&mut conn, caller, id).await,
                fleet::nodes(&mut conn).await?,
            )
        };
        let hostname = Hostname::new(&body.new_hostname).map_err(|error| {
            ServiceError::Invalid(vec![FieldError::body("new_hostname", format!("is {}", error.rule))])
        })?;
        let source = source?;
        let ready = self.clone_ready(&source, body, &nodes).await?;

        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        let source = self.visible(&mut tx, caller, id).await?.app;
        if refuse_source(&source)? != ready.source.vmid || source.owner() != ready.source.owner {
            return conflict(format!(
                "{} has got another container meanwhile; ask again",
                source.hostname
            ));
        }
        if let Some(other) = operations::unfinished_of(&mut tx, id).await?.first() {
            return conflict(format!(
                "{} of {} is under way (operation {}); wait until it has ended",
                other.kind, source.hostname, other.id
            ));
        }
        if apps::hostname_taken(&mut tx, hostname.as_str()).await? {
            return conflict(format!("the host name {hostname} is taken; choose another"));
        }
        let resources = &source.resources;
        let volumes_gb: u64 = source.volumes.iter().map(|v| u64::from(v.size_gb)).sum();
        let more = quota::More {
            apps: 1,
            cpu_cores: resources.cpu_cores.into(),
            memory_mb: resources.memory_mb.into(),
            disk_gb: u64::from(resources.disk_gb) + volumes_gb,
        };
        quota::allows(&mut tx, caller.user_id, &more).await?;
        self.check_room(&mut tx, ready.to.id, &ready.to.name).await?;
        let around = around(&mut tx, &ready.to, &nodes, self).await?;
        let new_id = self.new_id(&mut tx, &source.catalog_id).await?;
        let app = new_id.as_str();
        let row = AppRow {
            hostname: hostname.to_string(),
            status: Status::Cloning,
            status_reason: None,
            host_id: ready.to.host_id,
            node_id: ready.to.id,
            owner_id: caller.user_id,
            generation: 1,
            vmid: reserve::vmid(&mut tx, now, &around, app, 1).await?,
            vmid_confirmed: false,
            public_port: reserve::port(&mut tx, now, &around, app).await?,
            ip_address: reserve::address(&mut tx, now, &around, app).await?,
            published: None,
            mac: None,
            placement: Some(json!({
                "node": ready.to.name,
                "host_id": ready.to.host_id,
                "host": ready.to.host_name,
                "because": format!("cloned from {}", source.hostname),
            })),
            pending_restart: Vec::new(),
            created_at: now,
            updated_at: now,
            state_changed_at: now,
            id: new_id.clone(),
            ..source.clone()
        };
        let missing = [
            ("VMID", row.vmid.is_none()),
            ("public port", row.public_port.is_none()),
            ("address", row.ip_address.is_none() && around.network.pool.is_some()),
        ];
        if let Some((what, _)) = missing.into_iter().find(|(_, missing)| *missing) {
            return conflict(format!(
                "{} has no free {what}; delete an app there or widen its range",
                ready.to.name
            ));
        }
        if dry_run {
            // Dropped without commit: nothing is left of it.
            return Ok(Cloned::Plan(Box::new(plan(&row, &ready))));
        }
        apps::insert(&mut tx, &row).await?;
        self.copy_secrets(&mut tx, &source, &row).await?;
        let catalog = self.deps().catalog.current();
        let entry = catalog.get(&source.catalog_id);
        let params = serde_json::to_value(CloneParams {
            previous: Status::Cloning,
            health_timeout_s: entry
                .and_then(|entry| entry.native().ok())
                .map_or(DEFAULT_HEALTH_TIMEOUT_S, |native| native.health_timeout_s),
            source: ready.source.clone(),
            source_node: ready.source_node.id,
            copy_storage: ready.copy_storage.clone(),
            mode: ready.way.mode,
            compression: Compression::Zstd,
            network: around.network.params,
        })
        .map_err(StoreError::from)?;
        let by = Requester {
            name: caller.username.clone(),
            request_id: caller.request_id.clone(),
        };
        let operation = submit::queue(&mut tx, now, &CLONE, &row, params, &by).await?;
        let event = store::insert_event(&mut tx, now, app_event(&row, false)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.deps().bus.publish(event);
        self.deps().engine.wake();
        tracing::info!(app_id = %row.id, source_app_id = %source.id, operation_id = %operation, node_id = %row.node_id, request_id = caller.request_id, "accepted a clone");
        let mut message = format!("Cloning {} to {hostname}...", source.hostname);
        if let Some(because) = &ready.way.fallback {
            message.push_str(&format!(" {because}"));
        }
        Ok(Cloned::Started(CloneStarted {
            success: true,
            message,
            source_app_id: source.id.to_string(),
            new_hostname: hostname.to_string(),
            id: row.id.to_string(),
            node: ready.to.name,
            operation_id: operation.to_string(),
        }))
    }

    /// Asks the source's node, and decides how it is to be done.
    async fn clone_ready(
        &self,
        source: &ListedApp,
        body: &CloneApp,
        nodes: &[FleetNode],
    ) -> Result<Ready, ServiceError> {
        let app = &source.app;
        let vmid = refuse_source(app)?;
        let Some(source_node) = nodes.iter().find(|node| node.id == app.node_id) else {
            return conflict(format!("the node of {} is no longer in the registry", app.hostname));
        };
        let to = match &body.node {
            None => source_node,
            Some(name) => destination(source_node, name, nodes)?,
        };
        if !self.deps().queries.is_online(to.id) {
            return conflict(format!("node {} is not connected", to.name));
        }
        if to.admission != Admission::Enrolled || !to.host_active {
            return conflict(format!(
                "node {} takes no new apps now (drained, or its host is inactive)",
                to.name
            ));
        }
        let copy_storage = copy_storage(source_node, to)?;
        let target = Target {
            vmid,
            owner: app.owner(),
        };
        let question = BackupQuestion {
            target: Some(target.clone()),
            storage: Some(copy_storage.clone()),
            archive: None,
            place: None,
        };
        let told = self.backups().ask(source_node, question).await?;
        if let Some(trouble) = told.storage_trouble {
            return conflict(format!("no copy can be made on {}: {trouble}", source_node.name));
        }
        let Some(container) = told.container else {
            return conflict(format!(
                "container {vmid} of {} is not on {} any more",
                app.hostname, source_node.name
            ));
        };
        let lacking = left_out(&container.volumes);
        if !lacking.is_empty() {
            return conflict(format!(
                "a clone of {} would lack {}: set backup=1 on what is to be copied, or take it off the container",
                app.hostname,
                lacking.join("; ")
            ));
        }
        Ok(Ready {
            way: way(BackupMode::Snapshot, &container),
            source_node: source_node.clone(),
            to: to.clone(),
            source: target,
            copy_storage,
        })
    }

    /// Its own, sealed anew: a secret is sealed for one app.
    async fn copy_secrets(&self, tx: &mut Connection, from: &AppRow, to: &AppRow) -> Result<(), ServiceError> {
        let sealer = &self.deps().secrets;
        for (name, sealed) in app_secrets::of_app(&mut *tx, from.id.as_str()).await? {
            let failed = |error: crate::secrets::SecretError| ServiceError::Internal(error.to_string());
            let secret = sealer.unseal(from.id.as_str(), &name, &sealed).map_err(failed)?;
            let sealed = sealer.seal(to.id.as_str(), &name, &secret).map_err(failed)?;
            app_secrets::put(&mut *tx, to.id.as_str(), &name, &sealed).await?;
        }
        Ok(())
    }
}

/// Another node of the same host.
fn destination<'f>(source: &FleetNode, name: &str, nodes: &'f [FleetNode]) -> Result<&'f FleetNode, ServiceError> {
    let mut named = nodes.iter().filter(|node| node.name == name).peekable();
    if named.peek().is_none() {
        return Err(ServiceError::NotFound(format!(
            "there is no node {name:?}; GET /api/proxmox/nodes lists them"
        )));
    }
    named.find(|node| node.host_id == source.host_id).ok_or_else(|| {
        ServiceError::Conflict(format!(
            "{name} is not of the host {} that {} belongs to: a clone stays where its copy is reached",
            source.host_name, source.name
        ))
    })
}

/// A storage for the copy that both nodes reach.
fn copy_storage(source: &FleetNode, to: &FleetNode) -> Result<StorageId, ServiceError> {
    let (Some(from), Some(there)) = (&source.facts, &to.facts) else {
        return conflict("the node has not told yet what it is".into());
    };
    if source.id == to.id {
        return choose_storage(from, None)
            .map(|storage| storage.id.clone())
            .map_err(ServiceError::Conflict);
    }
    let mut reached = from.clone();
    reached.storages.retain(|storage| {
        let shared = storage.shared || storage.kind == "pbs";
        shared && there.storages.iter().any(|other| other.id == storage.id)
    });
    choose_storage(&reached, None)
        .map(|storage| storage.id.clone())
        .map_err(|_| {
            ServiceError::Conflict(format!(
                "{} and {} reach no common storage that takes backups, over which a copy could go: share one (NFS, CIFS, a Proxmox Backup Server), or clone to {}",
                source.name, to.name, source.name
            ))
        })
}

async fn around(
    conn: &mut Connection,
    node: &FleetNode,
    nodes: &[FleetNode],
    apps: &Apps,
) -> Result<Surroundings, ServiceError> {
    let Some(facts) = &node.facts else {
        return conflict(format!("node {} has not told yet what it is", node.name));
    };
    match surroundings::of_node(conn, node, facts, nodes, &apps.deps().inventories).await {
        Ok(around) => Ok(around),
        Err(SurroundingsError::Store(error)) => Err(error.into()),
        Err(other) => conflict(other.to_string()),
    }
}

fn plan(row: &AppRow, ready: &Ready) -> Plan {
    Plan {
        node: ready.to.name.clone(),
        steps: plan_steps(&CLONE),
        ports: vec![PlanPort {
            public_port: row.public_port,
            internal_port: row.internal_port,
        }],
        loses: Vec::new(),
        placement: row.placement.clone(),
    }
}
