//! What operations change of the containers beside an app's, in the transaction that records it.

use super::{
    discard,
    params::{Data, RestoreParams},
    record::{Line, RecordError, line},
    reserve,
    step::SideChange,
    submit::Requester,
    surroundings::{self, SurroundingsError},
};
use crate::{
    clock::UnixMs,
    domain::{
        settings::{Group as _, OperationSettings},
        side_containers::{KeepPrevious, SideRole},
    },
    nodes::inventories::Inventories,
    store::{
        Connection, StoreError,
        apps::AppRow,
        deployment_logs::LogLevel,
        fleet,
        operations::OperationRow,
        reservations::{self, Choice},
        settings,
        side_containers::{self, SideRow},
    },
};
use proximity_protocol::ids::Vmid;

/// After a removal that failed, the next try comes this much later, milliseconds.
const AGAIN_AFTER_MS: i64 = 3_600_000;

/// The container that the operation makes beside its app's.
pub(super) async fn own(tx: &mut Connection, operation: &OperationRow) -> Result<Option<SideRow>, StoreError> {
    let all = side_containers::of_app(tx, &operation.app_id).await?;
    Ok(all
        .into_iter()
        .find(|side| side.operation_id == operation.id && side.role != SideRole::Previous))
}

/// Gives back the number that a node refused, remembers the refusal, and takes another.
pub(super) async fn choose_again(
    tx: &mut Connection,
    inventories: &Inventories,
    now: UnixMs,
    side: &SideRow,
) -> Result<Line, RecordError> {
    let nodes = fleet::nodes(&mut *tx).await?;
    let node = nodes.iter().find(|node| node.id == side.node_id);
    let (Some(node), Some(facts)) = (node, node.and_then(|node| node.facts.as_ref())) else {
        return Err(RecordError::Exhausted("the node is no longer in the registry".into()));
    };
    let around = match surroundings::of_node(&mut *tx, node, facts, &nodes, inventories).await {
        Ok(around) => around,
        Err(SurroundingsError::Store(error)) => return Err(error.into()),
        Err(other) => return Err(RecordError::Exhausted(other.to_string())),
    };
    let (app, refused) = (side.app_id.as_str(), side.vmid);
    reservations::refuse(&mut *tx, now, side.host_id, Choice::Vmid, &refused.to_string()).await?;
    gone(&mut *tx, side).await?;
    let next = reserve::vmid(&mut *tx, now, &around, app, side.generation).await?;
    let Some(next) = next.and_then(|next| Vmid::new(next).ok()) else {
        return Err(RecordError::Exhausted(format!("{} has no other free VMID", node.name)));
    };
    let chosen = SideRow {
        vmid: next,
        ..side.clone()
    };
    side_containers::insert(tx, &chosen).await?;
    Ok(line(
        LogLevel::Warning,
        "reserve",
        format!("VMID {refused} is taken on {}; using {next}", node.name),
    ))
}

/// Applies one change.
pub(super) async fn apply(
    tx: &mut Connection,
    now: UnixMs,
    operation: &OperationRow,
    app: &mut AppRow,
    data: &mut Data,
    change: &SideChange,
) -> Result<(), StoreError> {
    match change {
        SideChange::OldStood { gone, onboot } => {
            data.old_is_gone = *gone;
            data.was_onboot = Some(*onboot);
        }
        SideChange::Made(mac) => data.side_mac.clone_from(mac),
        SideChange::Address(address) => data.side_address = Some(*address),
        SideChange::Published(address) => data.side_published = Some(*address),
        SideChange::TakesOver => takes_over(tx, now, operation, app, data).await?,
        SideChange::Gone => {
            if let Some(side) = own(&mut *tx, operation).await? {
                gone(tx, &side).await?;
            }
        }
        SideChange::Removed(vmid) => {
            if let Some(side) = numbered(&mut *tx, operation, *vmid).await? {
                gone(tx, &side).await?;
            }
        }
        SideChange::Stays(vmid, why) => {
            if let Some(mut side) = numbered(&mut *tx, operation, *vmid).await? {
                side.note = Some(why.clone());
                side.keep_until = side.keep_until.map(|until| until.max(now + AGAIN_AFTER_MS));
                side_containers::update(tx, &side).await?;
            }
        }
    }
    Ok(())
}

async fn numbered(tx: &mut Connection, operation: &OperationRow, vmid: Vmid) -> Result<Option<SideRow>, StoreError> {
    let all = side_containers::of_app(tx, &operation.app_id).await?;
    Ok(all.into_iter().find(|side| side.vmid == vmid))
}

async fn gone(tx: &mut Connection, side: &SideRow) -> Result<(), StoreError> {
    side_containers::remove(&mut *tx, side.host_id, side.vmid).await?;
    reservations::free_vmid(tx, side.app_id.as_str(), side.vmid.get()).await
}

/// The app is the new container from now on.
async fn takes_over(
    tx: &mut Connection,
    now: UnixMs,
    operation: &OperationRow,
    app: &mut AppRow,
    data: &Data,
) -> Result<(), StoreError> {
    let params: RestoreParams = serde_json::from_value(operation.params.clone())?;
    let Some(new) = own(&mut *tx, operation).await? else {
        return Err(StoreError::Corrupt(format!(
            "operation {} has no container of its own",
            operation.id
        )));
    };
    side_containers::remove(&mut *tx, new.host_id, new.vmid).await?;
    let old = app.vmid.and_then(|vmid| Vmid::new(vmid).ok());
    let old_generation = app.generation;
    app.vmid = Some(new.vmid.get());
    app.generation = new.generation;
    app.vmid_confirmed = true;
    app.mac.clone_from(&data.side_mac);
    app.ip_address = data.side_address.or(app.ip_address);
    app.published = data.side_published;
    app.pending_restart.clear();
    let Some(old) = old else { return Ok(()) };
    if !params.has_old || data.old_is_gone {
        return reservations::free_vmid(tx, app.id.as_str(), old.get()).await;
    }
    // Only the first container of an adopted app was there before the app; what a restore made is ours.
    let adopted = app.adopted && old_generation == 1;
    let settings: OperationSettings = settings::get(&mut *tx, OperationSettings::NAME)
        .await?
        .unwrap_or_default();
    let previous = SideRow {
        host_id: app.host_id,
        vmid: old,
        app_id: app.id.clone(),
        node_id: app.node_id,
        generation: old_generation,
        role: SideRole::Previous,
        adopted,
        keep_until: match params.keep {
            KeepPrevious::ForAWhile if !adopted => Some(now + i64::from(settings.keep_previous_s) * 1000),
            KeepPrevious::No if !adopted => Some(now),
            _ => None,
        },
        note: params.keep_note,
        operation_id: operation.id,
        created_at: now,
    };
    side_containers::insert(&mut *tx, &previous).await?;
    if params.keep == KeepPrevious::No && !adopted {
        let by = Requester {
            name: operation.requested_by.clone(),
            request_id: operation.request_id.clone(),
        };
        discard::queue(tx, now, app, previous, false, &by).await?;
    }
    Ok(())
}
