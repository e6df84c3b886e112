#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use proximity_protocol::{
    ids::NodeName,
    observed::{BridgeFact, PolicyFact},
};
use std::net::Ipv4Addr;

fn storage(id: &str, content: &[&str], free_gb: Option<u64>) -> StorageFact {
    StorageFact {
        id: StorageId::new(id).unwrap(),
        kind: "dir".into(),
        content: content.iter().map(|c| (*c).to_owned()).collect(),
        shared: false,
        total_bytes: free_gb.map(|gb| gb * GIB + GIB),
        used_bytes: free_gb.map(|_| GIB),
    }
}

pub(in crate::domain) fn candidate(n: u128, memory_gb: u64) -> Candidate {
    let name = format!("pve{n}");
    Candidate {
        node: NodeId(uuid::Uuid::from_u128(n)),
        name: name.clone(),
        host_id: 1,
        host_name: "lab".into(),
        host_active: true,
        host_default: false,
        online: true,
        admission: Admission::Enrolled,
        facts: Some(NodeFacts {
            node_name: NodeName::new(name).unwrap(),
            address: Ipv4Addr::new(10, 0, 0, 1),
            cluster: None,
            quorate: true,
            host_fingerprint: [0; 32],
            pve_version: None,
            kernel: "6.8".into(),
            cpu_count: 4,
            memory_total_bytes: memory_gb * GIB,
            storages: vec![storage("local", &["rootdir", "vztmpl"], Some(100))],
            bridges: vec![BridgeFact {
                name: BridgeName::new("vmbr0").unwrap(),
                address: None,
                prefix: None,
                gateway: None,
            }],
            next_id: None,
            policy: PolicyFact {
                vmid_first: 100,
                vmid_last: 999_999_999,
                port_first: 8000,
                port_last: 9000,
                storages: vec![],
                bridges: vec![],
                denied_verbs: vec![],
            },
        }),
        memory_used_bytes: 0,
        in_flight_mb: 0,
        bridge: BridgeName::new("vmbr0").unwrap(),
    }
}

fn demand() -> Demand {
    Demand {
        cpu_cores: 2,
        memory_mb: 512,
        disk_gb: 4,
        storage: None,
    }
}

fn because(candidate: Candidate, demand: &Demand) -> String {
    let ranking = rank(demand, &[candidate]);
    assert!(ranking.fits.is_empty(), "{ranking:?}");
    ranking.why_none()
}

#[test]
fn most_available_memory_wins_and_in_flight_counts() {
    let (small, mut large) = (candidate(1, 8), candidate(2, 16));
    let first = |c: &[Candidate]| rank(&demand(), c).fits[0].index;
    assert_eq!(first(&[small.clone(), large.clone()]), 1);
    large.in_flight_mb = 12 * 1024;
    assert_eq!(first(&[small.clone(), large.clone()]), 0);
    large.host_default = true;
    assert_eq!(first(&[small, large]), 1);
}

#[test]
fn each_reason_is_said() {
    let with = |change: &dyn Fn(&mut Candidate)| {
        let mut c = candidate(1, 8);
        change(&mut c);
        because(c, &demand())
    };
    let facts = |change: &dyn Fn(&mut NodeFacts)| with(&|c| change(c.facts.as_mut().unwrap()));
    assert!(with(&|c| c.online = false).contains("not connected"));
    assert!(with(&|c| c.admission = Admission::Draining).contains("draining"));
    assert!(with(&|c| c.admission = Admission::Revoked).contains("revoked"));
    assert!(with(&|c| c.host_active = false).contains("inactive"));
    assert!(with(&|c| c.facts = None).contains("not told"));
    assert!(with(&|c| c.memory_used_bytes = 8 * GIB).contains("memory"));
    assert!(with(&|c| c.bridge = BridgeName::new("vmbr9").unwrap()).contains("no bridge vmbr9"));
    assert!(facts(&|f| f.cpu_count = 1).contains("1 CPUs"));
    assert!(facts(&|f| f.quorate = false).contains("quorum"));
    assert!(facts(&|f| f.policy.denied_verbs = vec!["ensure_created".into()]).contains("denies"));
    assert!(facts(&|f| f.policy.bridges = vec![BridgeName::new("vmbr1").unwrap()]).contains("policy"));
    assert!(facts(&|f| f.policy.storages = vec![StorageId::new("other").unwrap()]).contains("storage"));
    assert!(facts(&|f| f.storages = vec![storage("small", &["rootdir", "vztmpl"], Some(3))]).contains("3 GiB free"));
    assert!(facts(&|f| f.storages = vec![storage("x", &["rootdir"], Some(30))]).contains("templates"));
    let wanted = Demand {
        storage: Some(StorageId::new("fast").unwrap()),
        ..demand()
    };
    assert!(because(candidate(1, 8), &wanted).contains("no storage fast"));
    assert!(rank(&demand(), &[]).why_none().contains("join"));
}

#[test]
fn the_roomiest_storage_is_taken_and_templates_go_to_local() {
    let mut c = candidate(1, 8);
    c.facts.as_mut().unwrap().storages = vec![
        storage("local", &["vztmpl", "rootdir"], Some(10)),
        storage("lvm", &["rootdir"], Some(50)),
        storage("unknown", &["rootdir"], None),
    ];
    let fit = rank(&demand(), &[c]).fits.remove(0);
    assert_eq!((fit.storage.as_str(), fit.template_storage.as_str()), ("lvm", "local"));
}

proptest! {
    #[test]
    fn what_is_chosen_has_room_and_nothing_better_was_left(memories in proptest::collection::vec((1u64..64, 0u64..64, 0u64..65_536), 1..12), memory_mb in 16u64..65_536) {
        let candidates: Vec<Candidate> = memories.iter().enumerate().map(|(n, (total, used, in_flight))| {
            let mut c = candidate(n as u128, *total);
            c.memory_used_bytes = used * GIB;
            c.in_flight_mb = *in_flight;
            c
        }).collect();
        let free = |c: &Candidate| (c.facts.as_ref().unwrap().memory_total_bytes / MIB).saturating_sub(c.memory_used_bytes / MIB).saturating_sub(c.in_flight_mb);
        let ranking = rank(&Demand { memory_mb, ..demand() }, &candidates);
        prop_assert_eq!(ranking.considered.len(), candidates.len());
        let most = candidates.iter().map(free).max().unwrap();
        match ranking.fits.first() {
            Some(fit) => prop_assert!(free(&candidates[fit.index]) == most && most >= memory_mb),
            None => prop_assert!(most < memory_mb),
        }
    }
}
