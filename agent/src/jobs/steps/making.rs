//! What making a container has in common, whatever it is made of: under a reserved number, with a record that is written before, found again after a crash, and
//! taken away where nothing came of it.

use super::{
    act::{Act, did_not_happen},
    half_made, leftover,
};
use crate::{
    facts::{bridges, cluster},
    ownership::{self, OwnershipRecord},
    pve::{cluster::GuestKind, conf::Conf, words},
};
use proximity_protocol::{
    command::Outcome,
    fault::{Fault, FaultKind},
    ids::{BridgeName, MacAddress, Owner, StorageId, Vmid},
};

/// The name of the run of the tool that makes it.
pub(super) const CREATE: &str = "create";

/// What is there under the number.
pub(super) enum Found {
    Nothing,
    /// Made by us, whole.
    Whole(Box<Conf>, OwnershipRecord),
    /// Half made by us.
    Half,
}

/// A container to be made.
#[derive(Clone, Copy)]
pub(super) struct Making<'a> {
    pub(super) act: &'a Act<'a>,
    pub(super) vmid: Vmid,
    pub(super) owner: &'a Owner,
    /// See [`OwnershipRecord`].
    pub(super) of_adopted: bool,
}

fn taken(vmid: Vmid, by: &str) -> Fault {
    Fault::new(FaultKind::VmidTaken, format!("VMID {vmid} is taken by {by}"))
}

impl Making<'_> {
    pub(super) fn find(&self) -> Result<Found, Fault> {
        let (act, vmid) = (self.act, self.vmid);
        let record = ownership::read(act.node, vmid)?;
        let guests = cluster::guests(act.node)?;
        let Some(guest) = guests.guests.get(&vmid) else {
            return match record {
                Some(record) if record.owner != *self.owner => Err(taken(vmid, &format!("app {}", record.owner.app))),
                _ => Ok(Found::Nothing),
            };
        };
        let Some(record) = record.filter(|record| record.owner == *self.owner && guest.kind == GuestKind::Container)
        else {
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

    /// Writes whose it will be.
    pub(super) fn begin(&self) -> Result<(), Fault> {
        let now_s = self.act.node.tools().now_unix_ms() / 1000;
        let record = OwnershipRecord {
            of_adopted: self.of_adopted,
            ..OwnershipRecord::begin(self.owner.clone(), self.act.operation, now_s)
        };
        ownership::write(self.act.node, self.vmid, &record)
    }

    /// What is there after the tool, which perhaps failed.
    pub(super) fn made(&self, fault: Option<Fault>, tool: &str) -> Result<(Box<Conf>, OwnershipRecord), Fault> {
        let refused = fault.as_ref().is_some_and(|fault| fault.kind == FaultKind::VmidTaken);
        if refused {
            self.give_up()?;
        }
        match (self.find(), fault) {
            (Ok(Found::Whole(conf, record)), _) => Ok((conf, record)),
            (Ok(Found::Nothing), fault) => {
                if !refused {
                    self.give_up()?;
                }
                Err(fault.map(did_not_happen).unwrap_or_else(|| {
                    Fault::new(
                        FaultKind::ToolFailed,
                        format!("{tool} {} reported success but there is no container", self.vmid),
                    )
                }))
            }
            (Ok(Found::Half), Some(fault)) => {
                self.remember()?;
                Err(did_not_happen(fault))
            }
            (Ok(Found::Half), None) => {
                self.remember()?;
                let message = format!("{tool} {} left the container half made", self.vmid);
                Err(Fault::new(FaultKind::ToolFailed, message))
            }
            (Err(_), Some(fault)) => Err(fault),
            (Err(fault), None) => Err(fault),
        }
    }

    /// The tool's own result is dropped once the coordinator has heard of it; that what is left here is ours must outlive that.
    fn remember(&self) -> Result<(), Fault> {
        let node = self.act.node;
        let Some(record) = ownership::read(node, self.vmid)? else {
            return Ok(());
        };
        if record.owner != *self.owner || record.interrupted {
            return Ok(());
        }
        let interrupted = OwnershipRecord {
            interrupted: true,
            ..record.clone()
        };
        match ownership::write(node, self.vmid, &interrupted) {
            Err(fault) if fault.kind == FaultKind::NotQuorate => {
                half_made::note(node, self.vmid, &record)?;
                Err(fault)
            }
            other => other,
        }
    }

    /// The number is not ours after all, or nothing was made: a record would claim what does not exist.
    fn give_up(&self) -> Result<(), Fault> {
        match ownership::read(self.act.node, self.vmid)? {
            Some(record) if record.owner == *self.owner => ownership::remove(self.act.node, self.vmid),
            _ => Ok(()),
        }
    }

    /// Completes the record with what Proxmox chose.
    pub(super) fn finish(&self, conf: &Conf, record: OwnershipRecord) -> Result<Outcome, Fault> {
        if let Some(lock) = conf.get("lock") {
            return Err(Fault::new(
                FaultKind::Locked,
                format!("container {} is locked by {}", self.vmid, words::holder(lock)),
            ));
        }
        let complete = OwnershipRecord {
            interrupted: false,
            root_volume: conf.root_volume().map(str::to_owned),
            mac: conf.mac().map(str::to_owned),
            ..record.clone()
        };
        if complete != record {
            ownership::write(self.act.node, self.vmid, &complete)?;
            half_made::forget(self.act.node, self.vmid)?;
        }
        Ok(Outcome::Created {
            mac: conf.mac().and_then(|mac| MacAddress::new(mac).ok()),
        })
    }
}

/// Says before anything is made what would fail in the middle.
pub(super) fn check_storage(act: &Act<'_>, storage: &StorageId) -> Result<(), Fault> {
    if cluster::storage(act.node, storage)?.takes("rootdir") {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::StorageUnavailable,
        format!("storage {storage} does not take containers (content rootdir)"),
    ))
}

/// The same of a bridge.
pub(super) fn check_bridge(act: &Act<'_>, bridge: &BridgeName) -> Result<(), Fault> {
    if bridges::exists(act.node, bridge) {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::BridgeMissing,
        format!("bridge {bridge} does not exist on this node"),
    ))
}

/// The keys of a configuration's interfaces.
pub(super) fn interfaces(conf: &Conf) -> Vec<String> {
    conf.iter()
        .map(|(key, _)| key)
        .filter(|key| key.strip_prefix("net").is_some_and(|n| n.parse::<u8>().is_ok()))
        .map(str::to_owned)
        .collect()
}

/// The bridges that they are attached to.
pub(super) fn bridges_of(conf: &Conf) -> Vec<BridgeName> {
    interfaces(conf)
        .iter()
        .filter_map(|key| {
            conf.get(key)?
                .split(',')
                .find_map(|part| part.trim().strip_prefix("bridge="))
        })
        .filter_map(|name| BridgeName::new(name).ok())
        .collect()
}
