//! Each side of today against the other side of message version 1, as it was recorded: it is understood, the version that both know is agreed on, nothing
//! is said that the older side does not know, and what a later side may say breaks no link. And the state folder that the older agent has left.

#![allow(clippy::unwrap_used)]

#[path = "older/agent.rs"]
mod agent;
#[path = "older/coordinator.rs"]
mod coordinator;
#[path = "older/state.rs"]
mod state;

use proximity_protocol::{
    codec::{self, CodecError, HEADER_LEN, Message},
    command::{Command, Outcome, Reply},
    enroll::{EnrollReply, EnrollRequest},
    event::{Event, Notice},
    hello::{Hello, HelloReply},
    metrics::MetricsFrame,
    renew::{ReturnReply, ReturnRequest},
};
use proximity_tests::recording::{Frame, Recording, Side};
use std::path::PathBuf;

/// The folder of the recording.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("recorded/v1")
}

fn recording() -> Recording {
    Recording::load(&folder().join("conversation.txt")).unwrap()
}

/// Verbs of version 1.
const VERBS: [&str; 12] = [
    "inventory",
    "confirm",
    "ensure_template",
    "ensure_created",
    "ensure_started",
    "ensure_stopped",
    "await_network",
    "install_recipe",
    "await_healthy",
    "ensure_published",
    "ensure_unpublished",
    "ensure_destroyed",
];
/// Message types of version 1, and how many variants each has (0: it is no enum).
const VARIANTS: [(u16, u32); 11] = [
    (Hello::TYPE, 0),
    (HelloReply::TYPE, 2),
    (Command::TYPE, 0),
    (Reply::TYPE, 3),
    (Event::TYPE, 6),
    (Notice::TYPE, 6),
    (MetricsFrame::TYPE, 2),
    (EnrollRequest::TYPE, 0),
    (EnrollReply::TYPE, 2),
    (ReturnRequest::TYPE, 0),
    (ReturnReply::TYPE, 2),
];

/// Fails if a side of version 1 could not read these bytes.
#[track_caller]
fn known_to_version_1(bytes: &[u8]) {
    let frame = Frame {
        by: Side::Agent,
        stream: String::new(),
        bytes: bytes.to_vec(),
    };
    assert_eq!(
        frame.version(),
        1,
        "type {} is encoded for another version",
        frame.kind()
    );
    let variants = VARIANTS.iter().find(|(kind, _)| *kind == frame.kind());
    let (_, variants) = variants.unwrap_or_else(|| panic!("version 1 has no message of type {}", frame.kind()));
    if *variants > 0 {
        let variant = frame.variant().unwrap();
        assert!(
            variant < *variants,
            "type {}: version 1 has no variant {variant}",
            frame.kind()
        );
    }
    if let Some(command) = frame.as_message::<Command>() {
        assert!(VERBS.contains(&command.verb.name()), "{:?}", command.verb);
    }
    if let Some(HelloReply::Welcome(welcome)) = frame.as_message() {
        for notice in welcome.notices {
            known_to_version_1(&codec::encode(1, &notice).unwrap());
        }
    }
    match frame.as_message() {
        // Seven outcomes and 25 kinds of fault.
        Some(Reply::Finished(Ok(_))) => assert!(number_at(bytes, 16) < 7),
        Some(Reply::Finished(Err(_))) => assert!(number_at(bytes, 16) < 25),
        _ => {}
    }
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A whole frame of that type whose outermost variant nobody knows.
fn of_the_future<M: Message>() -> Vec<u8> {
    let mut bytes = vec![0, 1];
    bytes.extend(M::TYPE.to_be_bytes());
    bytes.extend(4u32.to_be_bytes());
    bytes.extend(4_000u32.to_le_bytes());
    assert!(matches!(codec::decode::<M>(&bytes), Err(CodecError::Malformed(_))));
    bytes
}

/// `Finished` with an outcome that nobody knows.
fn outcome_of_the_future() -> Vec<u8> {
    let mut bytes = codec::encode(1, &Reply::Finished(Ok(Outcome::Done))).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&4_000u32.to_le_bytes());
    bytes
}

#[test]
fn every_recorded_frame_is_read_and_written_as_it_was() {
    fn again<M: Message>(bytes: &[u8]) -> Vec<u8> {
        codec::encode(1, &codec::decode::<M>(bytes).unwrap()).unwrap()
    }
    let recording = recording();
    assert!(recording.frames().count() > 200);
    let mut kinds = std::collections::BTreeSet::new();
    for frame in recording.frames() {
        let bytes = &frame.bytes;
        known_to_version_1(bytes);
        kinds.insert(frame.kind());
        let same = match frame.kind() {
            Hello::TYPE => again::<Hello>(bytes),
            HelloReply::TYPE => again::<HelloReply>(bytes),
            Command::TYPE => again::<Command>(bytes),
            Reply::TYPE => again::<Reply>(bytes),
            Event::TYPE => again::<Event>(bytes),
            Notice::TYPE => again::<Notice>(bytes),
            MetricsFrame::TYPE => again::<MetricsFrame>(bytes),
            EnrollRequest::TYPE => again::<EnrollRequest>(bytes),
            EnrollReply::TYPE => again::<EnrollReply>(bytes),
            ReturnRequest::TYPE => again::<ReturnRequest>(bytes),
            ReturnReply::TYPE => again::<ReturnReply>(bytes),
            other => panic!("message type {other}"),
        };
        assert_eq!(same, *bytes);
    }
    assert_eq!(
        kinds.len(),
        VARIANTS.len(),
        "every message type of version 1 is in it: {kinds:?}"
    );
    assert!(recording.frames().all(|frame| frame.bytes.len() >= HEADER_LEN));
}
