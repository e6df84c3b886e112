//! The container exists, made as asked and recorded as ours.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    half_made, leftover,
};
use crate::{
    facts::{bridges, cluster},
    ownership::{self, OwnershipRecord},
    pve::{argv, cluster::GuestKind, conf::Conf, words},
};
use proximity_protocol::{
    command::Outcome,
    fault::{Fault, FaultKind},
    ids::{MacAddress, Vmid},
    spec::ContainerSpec,
};
use std::time::Duration;

/// The name of the tool's run.
pub(super) const CREATE: &str = "create";
/// Unpacking a big template on a slow disk takes minutes; after this it is told to roll back.
const BOUND: Duration = Duration::from_secs(1_800);

/// What is there under the number.
enum Found {
    Nothing,
    /// Made by us, whole.
    Whole(Box<Conf>, OwnershipRecord),
    /// Half made by us.
    Half,
}

pub(super) async fn run(act: &Act<'_>, spec: &ContainerSpec) -> Result<Outcome, Fault> {
    let vmid = spec.vmid;
    act.check_idle(vmid)?;
    if !act.has_called(CREATE) {
        match find(act, spec)? {
            Found::Whole(conf, record) => return finish(act, spec, &conf, record),
            Found::Half => leftover::remove(act, vmid).await?,
            Found::Nothing => {}
        }
        check_place(act, spec)?;
        ownership::write(
            act.node,
            vmid,
            &OwnershipRecord::begin(spec.owner.clone(), act.operation, act.node.tools().now_unix_ms() / 1000),
        )?;
        act.say(&format!("creating container {vmid} from {}", spec.template));
    }
    let argv = argv::create(spec);
    let end = act.tool(CREATE, &argv, Some(vmid), Bound::Terminate(BOUND), &[]).await;
    let fault = match end {
        Ok(end) if end.success() => None,
        Ok(end) => Some(failure(&argv, &end)),
        Err(fault) => Some(fault),
    };
    let refused = fault.as_ref().is_some_and(|fault| fault.kind == FaultKind::VmidTaken);
    if refused {
        give_up(act, spec)?;
    }
    match (find(act, spec), fault) {
        (Ok(Found::Whole(conf, record)), _) => finish(act, spec, &conf, record),
        (Ok(Found::Nothing), fault) => {
            if !refused {
                give_up(act, spec)?;
            }
            Err(fault.map(did_not_happen).unwrap_or_else(|| {
                Fault::new(
                    FaultKind::ToolFailed,
                    format!("pct create {vmid} reported success but there is no container"),
                )
            }))
        }
        (Ok(Found::Half), Some(fault)) => {
            remember(act, spec)?;
            Err(did_not_happen(fault))
        }
        (Ok(Found::Half), None) => {
            remember(act, spec)?;
            let message = format!("pct create {vmid} left the container half made");
            Err(Fault::new(FaultKind::ToolFailed, message))
        }
        (Err(_), Some(fault)) => Err(fault),
        (Err(fault), None) => Err(fault),
    }
}

/// The tool's own result is dropped once the coordinator has heard of it; that what is left here is ours must outlive that.
fn remember(act: &Act<'_>, spec: &ContainerSpec) -> Result<(), Fault> {
    let Some(record) = ownership::read(act.node, spec.vmid)? else {
        return Ok(());
    };
    if record.owner != spec.owner || record.interrupted {
        return Ok(());
    }
    let interrupted = OwnershipRecord {
        interrupted: true,
        ..record.clone()
    };
    match ownership::write(act.node, spec.vmid, &interrupted) {
        Err(fault) if fault.kind == FaultKind::NotQuorate => {
            half_made::note(act.node, spec.vmid, &record)?;
            Err(fault)
        }
        other => other,
    }
}

fn taken(vmid: Vmid, by: &str) -> Fault {
    Fault::new(FaultKind::VmidTaken, format!("VMID {vmid} is taken by {by}"))
}

fn find(act: &Act<'_>, spec: &ContainerSpec) -> Result<Found, Fault> {
    let vmid = spec.vmid;
    let record = ownership::read(act.node, vmid)?;
    let guests = cluster::guests(act.node)?;
    let Some(guest) = guests.guests.get(&vmid) else {
        return match record {
            Some(record) if record.owner != spec.owner => Err(taken(vmid, &format!("app {}", record.owner.app))),
            _ => Ok(Found::Nothing),
        };
    };
    let Some(record) = record.filter(|record| record.owner == spec.owner && guest.kind == GuestKind::Container) else {
        return Err(taken(vmid, &format!("another guest on node {}", guest.node)));
    };
    if guest.node != act.node.name().as_str() {
        return Err(Fault::new(
            FaultKind::MovedToOtherNode,
            format!("container {vmid} is on node {} now", guest.node),
        ));
    }
    let Some(conf) = cluster::conf(act.node, vmid)? else {
        return Ok(Found::Nothing);
    };
    // The removal of what was half made may have been broken off in its turn.
    if conf.is_half_made() || (conf.is_half_destroyed() && !record.is_complete()) {
        return if leftover::is_ours(act, vmid, &record)? {
            Ok(Found::Half)
        } else {
            Err(taken(vmid, "a container that somebody else is making"))
        };
    }
    if record.is_of(&conf) {
        return Ok(Found::Whole(Box::new(conf), record));
    }
    Err(taken(vmid, "another container on this node"))
}

/// Says before anything is made what would fail in the middle.
fn check_place(act: &Act<'_>, spec: &ContainerSpec) -> Result<(), Fault> {
    if !cluster::storage(act.node, &spec.storage)?.takes("rootdir") {
        return Err(Fault::new(
            FaultKind::StorageUnavailable,
            format!("storage {} does not take containers (content rootdir)", spec.storage),
        ));
    }
    let bridge = &spec.network.bridge;
    if !bridges::exists(act.node, bridge) {
        return Err(Fault::new(
            FaultKind::BridgeMissing,
            format!("bridge {bridge} does not exist on this node"),
        ));
    }
    Ok(())
}

/// The number is not ours after all, or nothing was made: a record would claim what does not exist.
fn give_up(act: &Act<'_>, spec: &ContainerSpec) -> Result<(), Fault> {
    match ownership::read(act.node, spec.vmid)? {
        Some(record) if record.owner == spec.owner => ownership::remove(act.node, spec.vmid),
        _ => Ok(()),
    }
}

fn finish(act: &Act<'_>, spec: &ContainerSpec, conf: &Conf, record: OwnershipRecord) -> Result<Outcome, Fault> {
    if let Some(lock) = conf.get("lock") {
        return Err(Fault::new(
            FaultKind::Locked,
            format!("container {} is locked by {}", spec.vmid, words::holder(lock)),
        ));
    }
    let complete = OwnershipRecord {
        interrupted: false,
        root_volume: conf.root_volume().map(str::to_owned),
        mac: conf.mac().map(str::to_owned),
        ..record.clone()
    };
    if complete != record {
        ownership::write(act.node, spec.vmid, &complete)?;
        half_made::forget(act.node, spec.vmid)?;
    }
    Ok(Outcome::Created {
        mac: conf.mac().and_then(|mac| MacAddress::new(mac).ok()),
    })
}
