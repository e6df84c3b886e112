//! A node is emptied: each of its apps that can be moved goes to another node of the cluster, and of each other it is told why it stays.

use super::{Apps, ServiceError};
use crate::{
    domain::{
        app_state::Status,
        drain::{self, Fate, Found, Resident},
        placement::Candidate,
    },
    operations::{
        migrate::MIGRATE,
        params::{DEFAULT_HEALTH_TIMEOUT_S, MigrateParams},
        record::app_event,
        submit::{self, Requester},
    },
    service::Caller,
    store::{
        self, StoreError, Tx,
        apps::{self, AppRow},
        fleet::{self, FleetNode},
        operations::{self, OperationRow},
    },
};
use proximity_protocol::{
    examined::{Examination, Examined},
    ids::{NodeName, OperationId, Vmid},
};
use serde::Serialize;
use std::collections::HashMap;

/// What becomes of an app of a node that is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrainedApp {
    /// Its id.
    pub id: String,
    /// Its host's name.
    pub hostname: String,
    /// Its status before.
    pub status: Status,
    /// Whether it is moved.
    pub can_move: bool,
    /// To which node.
    pub moves_to: Option<String>,
    /// Why it stays, and what can be done about that.
    pub because: Option<String>,
    /// What moves it.
    pub operation_id: Option<String>,
}

/// Everything that the decision is made from.
struct Looked {
    /// Each app of the node with what is under way on it.
    apps: Vec<(AppRow, Option<OperationRow>)>,
    in_cluster: bool,
    /// The other nodes of the host, or why they cannot be judged.
    others: Result<Vec<Candidate>, String>,
}

impl Apps {
    /// Queues the moves, and tells of every app of the node what becomes of it.
    pub(in crate::service) async fn move_away(
        &self,
        caller: &Caller,
        node: &str,
    ) -> Result<Vec<DrainedApp>, ServiceError> {
        let from = {
            let mut conn = self.deps().store.read().await?;
            let nodes = fleet::nodes(&mut conn).await?;
            nodes.into_iter().find(|known| known.id.to_string() == node)
        };
        // Gone from the registry meanwhile, and its apps with it.
        let Some(from) = from else { return Ok(Vec::new()) };
        // Asked before the registry is held: a node may take its time.
        let told = self.examine(&from, None).await;
        let mut tx = self.deps().store.begin().await?;
        let looked = self.look_around(&mut tx, &from).await?;
        let fates = match &told {
            Ok(told) => fates(&from, &looked, told),
            Err(untold) => {
                let why = format!(
                    "{} has to be asked first, and {}; drain again when it is back",
                    from.name,
                    untold.words()
                );
                looked.apps.iter().map(|_| Fate::Stays(why.clone())).collect()
            }
        };
        let mut all = Vec::new();
        let mut events = Vec::new();
        for ((app, under_way), fate) in looked.apps.iter().zip(fates) {
            let mut drained = DrainedApp {
                id: app.id.to_string(),
                hostname: app.hostname.clone(),
                status: app.status,
                can_move: false,
                moves_to: None,
                because: None,
                operation_id: None,
            };
            if let Some((to, operation)) = under_way.as_ref().and_then(is_moving) {
                // Of an earlier call.
                (drained.can_move, drained.moves_to) = (true, Some(to));
                drained.operation_id = Some(operation.to_string());
            } else {
                match (fate, &looked.others) {
                    (Fate::Moves(index), Ok(others)) => {
                        let to = &others[index];
                        let operation = self.queue_move(&mut tx, caller, app, &from, to, &mut events).await?;
                        (drained.can_move, drained.moves_to) = (true, Some(to.name.clone()));
                        drained.operation_id = Some(operation.to_string());
                    }
                    (Fate::Stays(why), _) => drained.because = Some(why),
                    (Fate::Moves(_), Err(why)) => drained.because = Some(why.clone()),
                }
            }
            all.push(drained);
        }
        tx.commit().await.map_err(StoreError::from)?;
        for event in events {
            self.deps().bus.publish(event);
        }
        self.deps().engine.wake();
        Ok(all)
    }

    async fn look_around(&self, tx: &mut Tx, from: &FleetNode) -> Result<Looked, ServiceError> {
        let mut all = Vec::new();
        for app in apps::on_node(&mut *tx, from.id).await? {
            let under_way = operations::unfinished_of(&mut *tx, app.id.as_str()).await?;
            all.push((app, under_way.into_iter().next()));
        }
        let nodes = fleet::nodes(&mut *tx).await?;
        let others: Vec<&FleetNode> = nodes
            .iter()
            .filter(|node| node.host_id == from.host_id && node.id != from.id)
            .collect();
        Ok(Looked {
            apps: all,
            in_cluster: from.facts.as_ref().is_some_and(|facts| facts.cluster.is_some()),
            others: match self.candidates(tx, &others, &nodes).await {
                Ok(candidates) => Ok(candidates),
                Err(ServiceError::Conflict(why)) => Err(why),
                Err(other) => return Err(other),
            },
        })
    }

    async fn queue_move(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        app: &AppRow,
        from: &FleetNode,
        to: &Candidate,
        events: &mut Vec<crate::events::Event>,
    ) -> Result<OperationId, ServiceError> {
        let now = self.deps().clock.now_ms();
        let catalog = self.deps().catalog.current();
        let native = catalog.get(&app.catalog_id).and_then(|entry| entry.native().ok());
        let name = |name: &str| {
            NodeName::new(name)
                .map_err(|error| ServiceError::Internal(format!("the registry holds a bad name: {error}")))
        };
        let params = MigrateParams {
            previous: app.status,
            health_timeout_s: native.map_or(DEFAULT_HEALTH_TIMEOUT_S, |n| n.health_timeout_s),
            from: from.id,
            from_name: name(&from.name)?,
            to: to.node,
            to_name: name(&to.name)?,
        };
        let params = serde_json::to_value(params).map_err(StoreError::from)?;
        let mut app = app.clone();
        app.status = Status::Updating;
        app.status_reason = None;
        apps::update(&mut *tx, now, &app).await?;
        let requester = Requester {
            name: caller.username.clone(),
            request_id: caller.request_id.clone(),
        };
        let operation = submit::queue(&mut *tx, now, &MIGRATE, &app, params, &requester).await?;
        events.push(store::insert_event(&mut *tx, now, app_event(&app, false)).await?);
        tracing::info!(app_id = %app.id, operation_id = %operation, to = to.name, request_id = caller.request_id, "moving an app away");
        Ok(operation)
    }
}

/// Where an app is on its way to.
fn is_moving(operation: &OperationRow) -> Option<(String, OperationId)> {
    if operation.kind != MIGRATE.name {
        return None;
    }
    let params: MigrateParams = serde_json::from_value(operation.params.clone()).ok()?;
    Some((params.to_name.to_string(), operation.id))
}

fn fates(from: &FleetNode, looked: &Looked, told: &Examination) -> Vec<Fate> {
    let found: HashMap<Vmid, &Examined> = told.containers.iter().map(|c| (c.vmid, c)).collect();
    let residents: Vec<Resident> = looked
        .apps
        .iter()
        .map(|(app, under_way)| resident(app, under_way.as_ref(), &found))
        .collect();
    match &looked.others {
        Ok(others) => drain::plan(&from.name, looked.in_cluster, &residents, others),
        Err(why) => residents.iter().map(|_| Fate::Stays(why.clone())).collect(),
    }
}

fn resident(app: &AppRow, under_way: Option<&OperationRow>, found: &HashMap<Vmid, &Examined>) -> Resident {
    let vmid = app.vmid.and_then(|vmid| Vmid::new(vmid).ok());
    let owner = app.owner();
    let container = vmid
        .and_then(|vmid| found.get(&vmid))
        .filter(|container| container.owner.as_ref() == Some(&owner));
    let volumes_gb: u64 = app.volumes.iter().map(|volume| u64::from(volume.size_gb)).sum();
    Resident {
        status: app.status,
        vmid,
        adopted: app.adopted,
        under_way: under_way.map(|operation| operation.kind.clone()),
        cpu_cores: app.resources.cpu_cores,
        memory_mb: app.resources.memory_mb.into(),
        disk_gb: u64::from(app.resources.disk_gb) + volumes_gb,
        storage: app.resources.storage.clone(),
        container: container.map(|container| Found {
            ha: container.ha,
            lock: container.lock.clone(),
            mounts: container.mounts.clone(),
        }),
    }
}
