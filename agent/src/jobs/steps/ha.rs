//! Containers that Proxmox's HA manages. Of these `pct start`, `stop` and `shutdown` only queue a request and end at once: what counts is the state, which
//! follows within some rounds of HA's daemons (10 s each), here or, if HA decides so, on another node.
//!
//! What HA would undo or forbids is refused as a lock that the operator holds: it is told at once, spends no try, and goes on by itself when it is taken away.

use super::{act::Act, standing};
use crate::{
    facts::cluster,
    host::NodeContext,
    pve::ha::{self, Requested, Service},
};
use proximity_protocol::{
    command::Target,
    fault::{Fault, FaultKind},
    ids::Vmid,
};
use std::time::Duration;

/// How long HA may take beyond the time that a container itself needs: some rounds of manager and local manager.
pub(super) const SETTLE: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// The service, if HA looks after the container.
pub(super) fn managed(node: &NodeContext, vmid: Vmid) -> Result<Option<Service>, Fault> {
    let service = cluster::ha_service(node, vmid)?;
    Ok(service.filter(|service| service.requested != Requested::Ignored))
}

/// Refuses to destroy what HA's configuration names.
pub(super) fn refuse_destroying(node: &NodeContext, vmid: Vmid) -> Result<(), Fault> {
    match cluster::ha_service(node, vmid)? {
        None => Ok(()),
        Some(_) => Err(Fault::new(
            FaultKind::Locked,
            format!(
                "container {vmid} is under Proxmox's HA and is not destroyed: take it out there (`ha-manager remove {}`), then this goes on by itself",
                ha::sid(vmid)
            ),
        )),
    }
}

/// Refuses to let a container stand that HA would start again.
pub(super) fn refuse_standing(vmid: Vmid, service: &Service) -> Result<(), Fault> {
    check_error(vmid, service)?;
    if service.requested != Requested::Started {
        return Ok(());
    }
    let sid = ha::sid(vmid);
    Err(Fault::new(
        FaultKind::Locked,
        format!(
            "container {vmid} does not run now, but Proxmox's HA is asked to have it started and will start it again: `ha-manager set {sid} --state stopped`, \
             then this goes on by itself"
        ),
    ))
}

/// HA has given a service up: it carries nothing out until it has been disabled.
pub(super) fn check_error(vmid: Vmid, service: &Service) -> Result<(), Fault> {
    if service.state.as_deref() != Some("error") || service.requested == Requested::Disabled {
        return Ok(());
    }
    let sid = ha::sid(vmid);
    Err(Fault::new(
        FaultKind::Locked,
        format!(
            "Proxmox's HA has given container {vmid} up (state error) and does nothing more: put right what stands in its way (its task log tells), then \
             `ha-manager set {sid} --state disabled`, and this goes on by itself"
        ),
    ))
}

/// Waits until the container runs, or stands still. It may be that it does so on another node: that is a fault of its own.
pub(super) async fn comes_to(act: &Act<'_>, target: &Target, running: bool, within: Duration) -> Result<(), Fault> {
    let vmid = target.vmid;
    let tools = act.node.tools();
    let limit = tools.uptime() + within;
    let aim = if running { "start" } else { "stop" };
    act.say(&format!(
        "waiting until Proxmox's HA has carried out the {aim} of container {vmid}"
    ));
    loop {
        standing::require(act.node, target)?;
        if standing::is_running(act.node, vmid)? == running {
            return Ok(());
        }
        let service = cluster::ha_service(act.node, vmid)?;
        if let Some(service) = &service {
            check_error(vmid, service)?;
        }
        if !cluster::members(act.node)?.quorate {
            return Err(Fault::new(
                FaultKind::NotQuorate,
                format!("the cluster has lost its quorum while its HA was to {aim} container {vmid}"),
            ));
        }
        if tools.uptime() >= limit {
            let state = service.and_then(|service| service.state);
            return Err(Fault::new(
                FaultKind::DeadlineExceeded,
                format!(
                    "Proxmox's HA was asked to {aim} container {vmid} and has not done so within {} s (its state there: {}): see `ha-manager status`",
                    within.as_secs(),
                    state.as_deref().unwrap_or("none")
                ),
            ));
        }
        tools.sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    fn vmid() -> Vmid {
        Vmid::new(100).unwrap()
    }

    #[test]
    fn what_ha_forbids_is_refused_with_what_to_change() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        assert_eq!(managed(&node, vmid()).unwrap(), None, "no HA at all");
        refuse_destroying(&node, vmid()).unwrap();
        testing::put(dir.path(), "etc/pve/ha/resources.cfg", "ct: 100\n\tstate ignored\n");
        assert_eq!(managed(&node, vmid()).unwrap(), None);
        let fault = refuse_destroying(&node, vmid()).unwrap_err();
        assert!(
            fault.kind.waits() && fault.message.contains("`ha-manager remove ct:100`"),
            "{fault}"
        );
        testing::put(dir.path(), "etc/pve/ha/resources.cfg", "ct: 100\n");
        let service = managed(&node, vmid()).unwrap().unwrap();
        let fault = refuse_standing(vmid(), &service).unwrap_err();
        assert!(
            fault.message.contains("`ha-manager set ct:100 --state stopped`"),
            "{fault}"
        );
        testing::put(
            dir.path(),
            "etc/pve/ha/manager_status",
            r#"{"service_status":{"ct:100":{"node":"pve1","state":"error","uid":"x"}}}"#,
        );
        let service = managed(&node, vmid()).unwrap().unwrap();
        let fault = check_error(vmid(), &service).unwrap_err();
        assert!(
            fault.message.contains("`ha-manager set ct:100 --state disabled`"),
            "{fault}"
        );
    }
}
