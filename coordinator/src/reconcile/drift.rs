//! What an inventory says about an app, compared with its row.

use crate::{
    domain::{app_state::Status, settings::DriftPolicy},
    store::apps::AppRow,
};
use proximity_protocol::observed::{Inventory, RunState};

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A complete inventory of a quorate node has no such container, here or elsewhere.
    Missing,
    /// Something else has its VMID.
    NotOurs,
    /// It runs, and should be stopped (or it was not known).
    Runs,
    /// It is stopped, and should run (or it was not known).
    Stands,
    /// It runs, but its port does not lead there.
    Unpublished,
    /// It lives on the node of that name.
    Moved(String),
    /// It lives on the node that tells, and the row names another one of the host; whether it runs there.
    Arrived {
        /// It does.
        running: bool,
    },
}

impl Finding {
    /// One word, for reports.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotOurs => "not_ours",
            Self::Runs => "runs",
            Self::Stands => "stands",
            Self::Unpublished => "unpublished",
            Self::Moved(_) => "moved",
            Self::Arrived { .. } => "arrived",
        }
    }
}

/// The fewest missing apps that are told as one.
const SO_MANY: usize = 3;

/// Whether so many of a node's apps are missing at once that they have one cause.
pub fn so_many(missing: usize, of: usize, percent: u32) -> bool {
    missing >= SO_MANY && missing.saturating_mul(100) > of.saturating_mul(usize::try_from(percent).unwrap_or(100))
}

/// What is to happen when the app was started or stopped by hand: its own label says, or the settings.
pub fn policy(labels: &[String], default: DriftPolicy) -> DriftPolicy {
    let own = labels.iter().rev().find_map(|label| match label.as_str() {
        "drift:report" => Some(DriftPolicy::Report),
        "drift:correct" => Some(DriftPolicy::Correct),
        _ => None,
    });
    own.unwrap_or(default)
}

/// Compares with the inventory of the app's node; `None` if nothing differs, or nothing can be concluded. Apps on the way from one state to another are left
/// alone, and what a node without quorum tells proves nothing: its list of guests is of yesterday.
pub fn find(app: &AppRow, inventory: &Inventory) -> Option<Finding> {
    if app.status.in_transit() || !app.vmid_confirmed || !inventory.quorate {
        return None;
    }
    let vmid = app.vmid?;
    let Some(container) = inventory.containers.iter().find(|c| c.vmid.get() == vmid) else {
        if let Some((_, node)) = inventory.elsewhere.iter().find(|(v, _)| v.get() == vmid) {
            return Some(Finding::Moved(node.clone()));
        }
        // An app that is in `error` says so already.
        let gone = inventory.is_evidence_of_absence() && app.status != Status::Error;
        return gone.then_some(Finding::Missing);
    };
    match &container.owner {
        Some(owner) if *owner == app.owner() => {}
        // A record that could not be read is no proof of another owner.
        _ if !inventory.is_evidence_of_absence() || app.status == Status::Error => return None,
        _ => return Some(Finding::NotOurs),
    }
    match (app.status, container.state) {
        (Status::Stopped | Status::Unknown, RunState::Running) => Some(Finding::Runs),
        // Somebody works on it: a backup or a migration stops it for a while.
        (_, RunState::Stopped) if container.lock.is_some() => None,
        (Status::Running | Status::Unknown, RunState::Stopped) => Some(Finding::Stands),
        (Status::Running, RunState::Running) => {
            let published = inventory
                .published
                .iter()
                .any(|p| Some(p.public_port) == app.public_port && p.owner == app.owner() && p.vmid.get() == vmid);
            let moved_address = app
                .ip_address
                .is_some_and(|a| !container.addresses.is_empty() && !container.addresses.contains(&a));
            let readable = inventory.unreadable.is_empty();
            (readable && (!published || moved_address)).then_some(Finding::Unpublished)
        }
        _ => None,
    }
}

/// Compares an app whose row names another node of the same host with the inventory of a node that has its container.
pub fn arrived(app: &AppRow, inventory: &Inventory) -> Option<Finding> {
    if app.status.in_transit() || !app.vmid_confirmed || !inventory.quorate {
        return None;
    }
    let container = inventory
        .containers
        .iter()
        .find(|c| Some(c.vmid.get()) == app.vmid && c.owner.as_ref() == Some(&app.owner()))?;
    match (container.state, &container.lock) {
        // A migration that has not ended: started is it at its end.
        (RunState::Stopped, Some(_)) | (RunState::Unknown, _) => None,
        (state, _) => Some(Finding::Arrived {
            running: state == RunState::Running,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::operations::tests::world::app_row;
    use proximity_protocol::{
        ids::{NodeId, Vmid},
        observed::{ContainerObserved, PublishedObserved},
    };
    use std::net::Ipv4Addr;

    fn app(status: Status) -> AppRow {
        app_row("nginx-00000001", NodeId(uuid::Uuid::from_u128(1)), status)
    }

    fn inventory(app: &AppRow, state: RunState) -> Inventory {
        let vmid = Vmid::new(100).unwrap();
        Inventory {
            quorate: true,
            unreadable: vec![],
            containers: vec![ContainerObserved {
                vmid,
                hostname: None,
                state,
                lock: None,
                owner: Some(app.owner()),
                addresses: vec![Ipv4Addr::new(10, 1, 0, 10)],
                memory_mb: None,
                cpu_cores: None,
            }],
            elsewhere: vec![],
            published: vec![PublishedObserved {
                public_port: 8000,
                owner: app.owner(),
                vmid,
                address: Ipv4Addr::new(10, 1, 0, 10),
                port: 80,
            }],
        }
    }

    #[test]
    fn what_agrees_is_left_alone() {
        let running = app(Status::Running);
        assert_eq!(find(&running, &inventory(&running, RunState::Running)), None);
        let stopped = app(Status::Stopped);
        assert_eq!(find(&stopped, &inventory(&stopped, RunState::Stopped)), None);
        for status in Status::ALL.iter().copied().filter(|s| s.in_transit()) {
            let app = app(status);
            let mut nothing = inventory(&app, RunState::Running);
            nothing.containers.clear();
            assert_eq!(find(&app, &nothing), None, "{status}");
        }
    }

    #[test]
    fn the_apps_own_label_goes_before_the_setting() {
        let labels = |all: &[&str]| all.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        for default in [DriftPolicy::Report, DriftPolicy::Correct] {
            assert_eq!(policy(&labels(&["team:x"]), default), default);
            assert_eq!(policy(&labels(&["drift:correct"]), default), DriftPolicy::Correct);
            assert_eq!(
                policy(&labels(&["a", "drift:report", "b"]), default),
                DriftPolicy::Report
            );
        }
    }

    #[test]
    fn a_few_are_told_one_by_one_and_many_as_one() {
        assert!(!so_many(2, 2, 50), "two are not many");
        assert!(so_many(3, 3, 50) && so_many(3, 5, 50));
        assert!(!so_many(3, 6, 50), "half is not more than half");
        assert!(so_many(400, 400, 99) && !so_many(400, 400, 100));
    }

    #[test]
    fn only_a_complete_inventory_of_a_quorate_node_proves_absence() {
        let app = app(Status::Running);
        let mut absent = inventory(&app, RunState::Running);
        absent.containers.clear();
        assert_eq!(find(&app, &absent), Some(Finding::Missing));
        let not_quorate = Inventory {
            quorate: false,
            ..absent.clone()
        };
        assert_eq!(find(&app, &not_quorate), None);
        let incomplete = Inventory {
            unreadable: vec!["/etc/pve/lxc".into()],
            ..absent.clone()
        };
        assert_eq!(find(&app, &incomplete), None);
        let moved = Inventory {
            elsewhere: vec![(Vmid::new(100).unwrap(), "pve2".into())],
            ..absent
        };
        assert_eq!(find(&app, &moved), Some(Finding::Moved("pve2".into())));
        let of_yesterday = Inventory {
            quorate: false,
            ..moved
        };
        assert_eq!(find(&app, &of_yesterday), None);
    }

    #[test]
    fn who_works_on_a_container_may_stop_it() {
        let app = app(Status::Running);
        for lock in ["backup", "migrate"] {
            let mut stopped = inventory(&app, RunState::Stopped);
            stopped.containers[0].lock = Some(lock.into());
            assert_eq!((find(&app, &stopped), arrived(&app, &stopped)), (None, None), "{lock}");
        }
    }

    #[test]
    fn a_container_that_came_is_the_apps_only_with_its_record() {
        for status in [Status::Running, Status::Stopped, Status::Error, Status::Unknown] {
            let app = app(status);
            for (state, running) in [(RunState::Running, true), (RunState::Stopped, false)] {
                let there = inventory(&app, state);
                assert_eq!(arrived(&app, &there), Some(Finding::Arrived { running }), "{status}");
                let of_yesterday = Inventory {
                    quorate: false,
                    ..there.clone()
                };
                assert_eq!(arrived(&app, &of_yesterday), None);
                let mut strange = there;
                strange.containers[0].owner = None;
                assert_eq!(arrived(&app, &strange), None);
            }
        }
        let deploying = self::app(Status::Deploying);
        assert_eq!(arrived(&deploying, &inventory(&deploying, RunState::Running)), None);
    }

    #[test]
    fn drift_is_found() {
        let (running, stopped) = (app(Status::Running), app(Status::Stopped));
        assert_eq!(
            find(&running, &inventory(&running, RunState::Stopped)),
            Some(Finding::Stands)
        );
        assert_eq!(
            find(&stopped, &inventory(&stopped, RunState::Running)),
            Some(Finding::Runs)
        );
        assert_eq!(find(&running, &inventory(&running, RunState::Unknown)), None);
        let mut lost = inventory(&running, RunState::Running);
        lost.published.clear();
        assert_eq!(find(&running, &lost), Some(Finding::Unpublished));
        let mut other = inventory(&running, RunState::Running);
        other.containers[0].owner = None;
        assert_eq!(find(&running, &other), Some(Finding::NotOurs));
        other.unreadable.push("/etc/pve/priv/proximity".into());
        assert_eq!(find(&running, &other), None);
    }
}
