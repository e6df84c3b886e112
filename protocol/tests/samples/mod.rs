//! One example of every message and of every variant in it, under a name that stays.
#![allow(clippy::unwrap_used, dead_code)]

mod asking;
mod commands;
mod conversation;

use proximity_protocol::{
    codec::{self, Message},
    fault::{Fault, FaultKind},
    ids::{AppId, Epoch, Generation, OperationId, Owner, StepKey, StepName, Vmid},
    observed::{BridgeFact, NodeFacts, PolicyFact, StorageFact},
};
use uuid::Uuid;

/// A message as bytes, and what can be done with bytes in its place.
pub(crate) struct Sample {
    /// `type.variant`, possibly with a detail.
    pub(crate) name: String,
    /// Header and payload.
    pub(crate) frame: Vec<u8>,
    /// Decodes as this message type and encodes again; the answer of the codec if that fails.
    pub(crate) again: fn(&[u8]) -> Result<Vec<u8>, codec::CodecError>,
}

pub(crate) fn sample<M: Message>(name: impl Into<String>, message: &M) -> Sample {
    Sample {
        name: name.into(),
        frame: codec::encode(1, message).unwrap(),
        again: again::<M>,
    }
}

fn again<M: Message>(frame: &[u8]) -> Result<Vec<u8>, codec::CodecError> {
    codec::decode::<M>(frame).and_then(|message| codec::encode(1, &message))
}

pub(crate) fn all() -> Vec<Sample> {
    let mut all = conversation::all();
    all.extend(commands::all());
    all.extend(asking::all());
    all
}

pub(crate) fn operation() -> OperationId {
    OperationId(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10))
}

pub(crate) fn step() -> StepKey {
    StepKey {
        name: StepName::new("ensure_created").unwrap(),
        undo: true,
        attempt: 3,
    }
}

pub(crate) fn owner() -> Owner {
    Owner {
        app: AppId::new("nginx-a1b2c3d4").unwrap(),
        generation: Generation(2),
    }
}

pub(crate) fn vmid() -> Vmid {
    Vmid::new(104).unwrap()
}

pub(crate) const EPOCH: Epoch = Epoch(7);

pub(crate) fn fault(kind: FaultKind) -> Fault {
    Fault::new(kind, "what to do").with_detail("the tool's words")
}

pub(crate) fn facts() -> NodeFacts {
    NodeFacts {
        node_name: "pve1".parse().unwrap(),
        address: [192, 168, 1, 10].into(),
        cluster: Some("lab".into()),
        quorate: true,
        host_fingerprint: [0xAB; 32],
        pve_version: Some("8.4.1".into()),
        kernel: "6.8.12-9-pve".into(),
        cpu_count: 8,
        memory_total_bytes: 16 << 30,
        storages: vec![StorageFact {
            id: "local-lvm".parse().unwrap(),
            kind: "lvmthin".into(),
            content: vec!["rootdir".into(), "images".into()],
            shared: false,
            total_bytes: Some(1 << 40),
            used_bytes: None,
        }],
        bridges: vec![BridgeFact {
            name: "vmbr0".parse().unwrap(),
            address: Some([192, 168, 1, 10].into()),
            prefix: Some(24),
            gateway: None,
        }],
        next_id: Some((200, 299)),
        policy: PolicyFact {
            vmid_first: 100,
            vmid_last: 999_999_999,
            port_first: 30_000,
            port_last: 32_767,
            storages: vec!["local-lvm".parse().unwrap()],
            bridges: vec!["vmbr0".parse().unwrap()],
            denied_verbs: vec!["ensure_destroyed".into()],
        },
    }
}
