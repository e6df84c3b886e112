//! What the node in memory does about adoption and about changes of what is there.

use super::node::{Container, Model, made, no, ours, there};
use proximity_protocol::{
    command::{Outcome, Verb},
    examined::{Adopted, Examination, Examined, Listening, OtherGuest, Permission},
    fault::{Fault, FaultKind},
    ids::Vmid,
    observed::RunState,
};

fn permission(granted: bool) -> Permission {
    if granted {
        Permission::Granted
    } else {
        Permission::Denied {
            because: "the policy of this node says no; run there: allow".into(),
        }
    }
}

pub(super) fn examination(model: &Model, only: Option<Vmid>) -> Examination {
    let examined = |(vmid, container): (&u32, &Container)| Examined {
        vmid: Vmid::new(*vmid).unwrap(),
        hostname: Some("by-hand".into()),
        state: if container.running {
            RunState::Running
        } else {
            RunState::Stopped
        },
        lock: None,
        template: false,
        half_made: false,
        owner: container.owner.clone(),
        adopted: container.adopted,
        cpu_cores: container.settings.cpu_cores,
        memory_mb: container.settings.memory_mb.unwrap().into(),
        swap_mb: container.settings.swap_mb.unwrap().into(),
        memory_used_bytes: container.running.then_some(41 << 20),
        root_volume: Some(format!("local:{vmid}/vm-{vmid}-disk-0.raw")),
        mounts: vec![],
        ha: container.ha,
        disk_total_bytes: Some(u64::from(container.disk_gb) << 30),
        disk_used_bytes: None,
        uptime_s: container.running.then_some(7),
        addresses: container.address.into_iter().filter(|_| container.running).collect(),
        listening: container.running.then(|| {
            vec![
                Listening {
                    port: 22,
                    outside: true,
                },
                Listening {
                    port: 8080,
                    outside: true,
                },
            ]
        }),
        pending: container.pending.clone(),
        adoption: permission(model.adopts.contains(vmid)),
    };
    let asked = |vmid: &u32| only.is_none_or(|only| only.get() == *vmid);
    let machine = |vmid: &u32| OtherGuest {
        vmid: Vmid::new(*vmid).unwrap(),
        node: "pve1".into(),
        machine: true,
    };
    Examination {
        quorate: true,
        unreadable: vec![],
        containers: model
            .containers
            .iter()
            .filter(|(vmid, _)| asked(vmid))
            .map(examined)
            .collect(),
        others: model
            .stranger_vmids
            .iter()
            .filter(|vmid| asked(vmid))
            .map(machine)
            .collect(),
        destroys_adopted: permission(model.destroys_adopted),
    }
}

pub(super) fn act(model: &mut Model, verb: &Verb) -> Result<Outcome, Fault> {
    match verb {
        Verb::EnsureAdopted(target) => {
            let adopts = model.adopts.contains(&target.vmid.get());
            let Some(container) = model.containers.get_mut(&target.vmid.get()) else {
                return no(FaultKind::ContainerMissing);
            };
            match &container.owner {
                Some(owner) if *owner == target.owner && container.adopted => {}
                Some(_) => return no(FaultKind::NotOurs),
                None if !adopts => return no(FaultKind::PolicyDenied),
                None => {
                    container.owner = Some(target.owner.clone());
                    container.adopted = true;
                }
            }
            Ok(Outcome::Adopted(Box::new(Adopted {
                mac: None,
                running: container.running,
                configuration: "hostname: by-hand\n".into(),
            })))
        }
        Verb::EnsureReleased(target) => {
            // There is no record of ours: it is so already.
            let nobodys = |c: &Container| c.owner.is_none();
            if !model.containers.get(&target.vmid.get()).is_some_and(nobodys)
                && let Some(container) = ours(model, target)?
            {
                if !container.adopted {
                    return no(FaultKind::PolicyDenied);
                }
                container.owner = None;
                container.adopted = false;
            }
            model.published.retain(|_, t| t != target);
            Ok(Outcome::Done)
        }
        Verb::EnsureConfigured { target, settings } => {
            settings.check().unwrap();
            made(there(model, target, false)?)?;
            let memory_waits = model.memory_waits;
            let container = ours(model, target)?.unwrap();
            let now = &mut container.settings;
            now.cpu_cores = settings.cpu_cores.or(now.cpu_cores);
            now.memory_mb = settings.memory_mb.or(now.memory_mb);
            now.swap_mb = settings.swap_mb.or(now.swap_mb);
            if memory_waits && settings.memory_mb.is_some() && container.running {
                container.pending = vec!["memory".into()];
            }
            Ok(Outcome::Configured {
                pending: container.pending.clone(),
            })
        }
        Verb::EnsureGrown { target, disk_gb } => {
            made(there(model, target, false)?)?;
            let container = ours(model, target)?.unwrap();
            container.disk_gb = container.disk_gb.max(*disk_gb);
            Ok(Outcome::Grown {
                disk_gb: container.disk_gb,
            })
        }
        Verb::EnsureMigrated { target, to } => {
            let vmid = target.vmid.get();
            if model.elsewhere.get(&vmid).is_some_and(|node| *node == to.as_str()) {
                return Ok(Outcome::Done);
            }
            let container = there(model, target, false)?;
            if model.name == to.as_str() {
                return Ok(Outcome::Done);
            }
            if container.adopted || container.ha {
                return no(FaultKind::PolicyDenied);
            }
            if container.running {
                return no(FaultKind::ToolFailed);
            }
            model.sent = Some((vmid, to.to_string()));
            Ok(Outcome::Done)
        }
        Verb::RewriteValues { target, values } => {
            values.check().unwrap();
            made(there(model, target, true)?)?;
            let recipe = ours(model, target)?.unwrap().recipe.as_mut().unwrap();
            // Files that are not written and not removed stay.
            recipe
                .env
                .retain(|(name, _)| !values.forget.contains(name) && !values.env.iter().any(|(n, _)| n == name));
            recipe.env.extend(values.env.clone());
            recipe.env.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(Outcome::Done)
        }
        other => panic!("the node in memory does not know {}", other.name()),
    }
}
