//! What becomes of the apps of a node that is emptied: each goes to another node of its cluster, or stays and is told why.

use super::{
    app_state::Status,
    placement::{self, Candidate, Demand},
};
use proximity_protocol::ids::{StorageId, Vmid};

/// An app on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// Its status.
    pub status: Status,
    /// Its container's number, if it has one.
    pub vmid: Option<Vmid>,
    /// Whether somebody else made the container.
    pub adopted: bool,
    /// The kind of the operation that is under way on it.
    pub under_way: Option<String>,
    /// Cores.
    pub cpu_cores: u32,
    /// MiB.
    pub memory_mb: u64,
    /// GiB of all its volumes.
    pub disk_gb: u64,
    /// Where its root volume is.
    pub storage: StorageId,
    /// What its node told of the container; `None`: it did not find it.
    pub container: Option<Found>,
}

/// A container as its node tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether HA manages it.
    pub ha: bool,
    /// `lock:` of its configuration.
    pub lock: Option<String>,
    /// What its mount points lead to: volumes, or paths and devices of the node.
    pub mounts: Vec<String>,
}

/// What becomes of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It goes to that candidate.
    Moves(usize),
    /// It stays; the text says why and what can be done.
    Stays(String),
}

/// Decides for each, in the order given; what is promised to one is not promised to the next. `candidates`: the other nodes of the host. `from`: the node's name.
pub fn plan(from: &str, in_cluster: bool, residents: &[Resident], candidates: &[Candidate]) -> Vec<Fate> {
    let mut candidates = candidates.to_vec();
    residents
        .iter()
        .map(|resident| match decide(from, in_cluster, resident, &candidates) {
            Ok(index) => {
                promise(resident, &mut candidates[index]);
                Fate::Moves(index)
            }
            Err(why) => Fate::Stays(why),
        })
        .collect()
}

fn decide(from: &str, in_cluster: bool, resident: &Resident, candidates: &[Candidate]) -> Result<usize, String> {
    let vmid = movable(from, resident)?;
    if !in_cluster {
        return Err(format!(
            "{from} is in no cluster, so there is nowhere to move it: stop it before you work on the node, or delete it and create it on another host"
        ));
    }
    if candidates.is_empty() {
        return Err(format!(
            "no other node of the cluster has an agent: run `proximity-agent join` on one, or move it by hand with `pct migrate {vmid} <node> --restart` on {from}; \
             the app follows its container to a node that has an agent"
        ));
    }
    let (demand, others) = demand(resident)?;
    let mut fits = Vec::new();
    let mut why = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        match placement::could_be_moved_to(&demand, &others, candidate) {
            Ok(available_mb) => fits.push((std::cmp::Reverse(available_mb), &candidate.name, index)),
            Err(because) => why.push(format!("{}: {because}", candidate.name)),
        }
    }
    match fits.into_iter().min() {
        Some((_, _, index)) => Ok(index),
        None => Err(format!("no other node takes it: {}", why.join("; "))),
    }
}

/// Whether it is in a state in which it can be moved at all.
fn movable(from: &str, resident: &Resident) -> Result<Vmid, String> {
    if let Some(kind) = &resident.under_way {
        return Err(format!("{kind} is under way; drain again when it has ended"));
    }
    let Some(vmid) = resident.vmid else {
        return Err("it has no container; delete it".into());
    };
    if !matches!(resident.status, Status::Running | Status::Stopped) {
        return Err(format!(
            "it is {}; start, stop or delete it, then drain again",
            resident.status
        ));
    }
    let by_hand =
        format!("move it by hand with `pct migrate {vmid} <node> --restart` on {from}, and the app follows it");
    if resident.adopted {
        return Err(format!(
            "its container was adopted and is not moved from here: {by_hand}"
        ));
    }
    let Some(found) = &resident.container else {
        return Err(format!("{from} does not find its container {vmid}"));
    };
    if found.ha {
        return Err(format!(
            "HA manages its container, and alone moves it: `ha-manager migrate ct:{vmid} <node>`, and the app follows it"
        ));
    }
    if let Some(lock) = &found.lock {
        return Err(format!(
            "its container is locked by Proxmox ({lock}); drain again when that has ended"
        ));
    }
    if let Some(path) = found.mounts.iter().find(|mount| mount.starts_with('/')) {
        return Err(format!(
            "its container has {path} of {from} mounted, which stays behind: take that mount out first, or move it by hand"
        ));
    }
    Ok(vmid)
}

/// What a node has to have, and the storages that it needs besides the root volume's.
fn demand(resident: &Resident) -> Result<(Demand, Vec<StorageId>), String> {
    let mut others = Vec::new();
    for mount in resident.container.iter().flat_map(|found| &found.mounts) {
        let id = mount.split(':').next().unwrap_or_default();
        let id = StorageId::new(id).map_err(|_| format!("its mount point {mount} is on no storage that is known"))?;
        if id != resident.storage && !others.contains(&id) {
            others.push(id);
        }
    }
    let demand = Demand {
        cpu_cores: resident.cpu_cores,
        memory_mb: memory_mb(resident),
        disk_gb: resident.disk_gb,
        storage: Some(resident.storage.clone()),
    };
    Ok((demand, others))
}

/// What stands still needs none.
fn memory_mb(resident: &Resident) -> u64 {
    if resident.status == Status::Running {
        resident.memory_mb
    } else {
        0
    }
}

fn promise(resident: &Resident, to: &mut Candidate) {
    to.in_flight_mb += memory_mb(resident);
    let storages = to.facts.iter_mut().flat_map(|facts| &mut facts.storages);
    for storage in storages.filter(|s| s.id == resident.storage && !s.shared) {
        storage.used_bytes = storage.used_bytes.map(|used| used + (resident.disk_gb << 30));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::placement::tests::candidate, *};

    fn resident() -> Resident {
        Resident {
            status: Status::Running,
            vmid: Some(Vmid::new(100).unwrap()),
            adopted: false,
            under_way: None,
            cpu_cores: 1,
            memory_mb: 512,
            disk_gb: 8,
            storage: StorageId::new("local").unwrap(),
            container: Some(Found::default()),
        }
    }

    fn why(in_cluster: bool, resident: Resident, candidates: &[Candidate]) -> String {
        match plan("pve1", in_cluster, &[resident], candidates).remove(0) {
            Fate::Stays(why) => why,
            Fate::Moves(index) => panic!("it moves to {index}"),
        }
    }

    #[test]
    fn what_cannot_be_moved_says_why_and_what_to_do() {
        let there = [candidate(2, 16)];
        let cases: [(&str, Resident); 9] = [
            (
                "restart is under way",
                Resident {
                    under_way: Some("restart".into()),
                    ..resident()
                },
            ),
            (
                "has no container",
                Resident {
                    vmid: None,
                    ..resident()
                },
            ),
            (
                "it is error",
                Resident {
                    status: Status::Error,
                    ..resident()
                },
            ),
            (
                "`pct migrate 100 <node> --restart` on pve1",
                Resident {
                    adopted: true,
                    ..resident()
                },
            ),
            (
                "does not find its container 100",
                Resident {
                    container: None,
                    ..resident()
                },
            ),
            (
                "ha-manager migrate ct:100",
                Resident {
                    container: Some(Found {
                        ha: true,
                        ..Found::default()
                    }),
                    ..resident()
                },
            ),
            (
                "(backup)",
                Resident {
                    container: Some(Found {
                        lock: Some("backup".into()),
                        ..Found::default()
                    }),
                    ..resident()
                },
            ),
            (
                "/srv/data of pve1",
                Resident {
                    container: Some(Found {
                        mounts: vec!["/srv/data".into()],
                        ..Found::default()
                    }),
                    ..resident()
                },
            ),
            (
                "pve2: has no storage tank",
                Resident {
                    container: Some(Found {
                        mounts: vec!["tank:x".into()],
                        ..Found::default()
                    }),
                    ..resident()
                },
            ),
        ];
        for (words, resident) in cases {
            let told = why(true, resident, &there);
            assert!(told.contains(words), "{words}: {told}");
        }
        assert!(why(false, resident(), &there).contains("pve1 is in no cluster"));
        assert!(why(true, resident(), &[]).contains("proximity-agent join"));
        let offline = Candidate {
            online: false,
            ..candidate(2, 16)
        };
        assert!(why(true, resident(), &[offline]).contains("pve2: its agent is not connected"));
    }

    #[test]
    fn each_goes_where_there_is_room_and_room_is_given_once() {
        let (mut small, large) = (candidate(2, 16), candidate(3, 32));
        small.facts.as_mut().unwrap().memory_total_bytes = 1 << 30;
        let all = [small, large];
        let big = Resident {
            memory_mb: 20 * 1024,
            ..resident()
        };
        let fates = plan("pve1", true, &[big.clone(), big.clone(), resident()], &all);
        assert!(
            matches!(&fates[..], [Fate::Moves(1), Fate::Stays(_), Fate::Moves(1)]),
            "{fates:?}"
        );
        // What stands still needs no memory.
        let stopped = Resident {
            status: Status::Stopped,
            ..big
        };
        assert_eq!(plan("pve1", true, &[stopped], &all[..1]), [Fate::Moves(0)]);
    }

    #[test]
    fn a_shared_storage_is_not_filled_by_a_move() {
        let mut there = candidate(2, 16);
        let disk = Resident {
            disk_gb: 60,
            ..resident()
        };
        let two = [disk.clone(), disk];
        let fates = plan("pve1", true, &two, std::slice::from_ref(&there));
        assert!(matches!(&fates[..], [Fate::Moves(0), Fate::Stays(_)]), "{fates:?}");
        for storage in &mut there.facts.as_mut().unwrap().storages {
            storage.shared = true;
        }
        assert_eq!(plan("pve1", true, &two, &[there]), [Fate::Moves(0), Fate::Moves(0)]);
    }
}
