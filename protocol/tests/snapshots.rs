//! The wire, frozen: the bytes of every message and variant, as they are in `snapshots.txt`.
//!
//! A line that changes breaks every agent that is out there. A new variant adds a line; `PROXIMITY_SNAPSHOTS=add cargo test -p proximity-protocol` appends
//! what is missing and never changes what is there.
#![allow(clippy::unwrap_used)]

mod samples;

use data_encoding::HEXLOWER;
use proximity_protocol::{
    codec,
    command::{Command, Verb},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots.txt");

fn frozen(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .map(|line| line.split_once(' ').expect("a name, a space, hexadecimal digits"))
        .collect()
}

#[test]
fn every_message_is_encoded_as_it_always_was() {
    let mut text = std::fs::read_to_string(FILE).unwrap_or_default();
    let mut missing = String::new();
    let known = frozen(&text);
    for sample in samples::all() {
        match known.get(sample.name.as_str()) {
            Some(hex) => assert_eq!(
                *hex,
                HEXLOWER.encode(&sample.frame),
                "{} has changed on the wire",
                sample.name
            ),
            None => writeln!(missing, "{} {}", sample.name, HEXLOWER.encode(&sample.frame)).unwrap(),
        }
    }
    if std::env::var("PROXIMITY_SNAPSHOTS").is_ok_and(|what| what == "add") {
        text.push_str(&missing);
        std::fs::write(FILE, text).unwrap();
    } else {
        assert!(missing.is_empty(), "not frozen yet:\n{missing}");
    }
}

#[test]
fn every_frozen_frame_is_still_understood() {
    let text = std::fs::read_to_string(FILE).unwrap();
    let samples: BTreeMap<String, samples::Sample> = samples::all()
        .into_iter()
        .map(|sample| (sample.name.clone(), sample))
        .collect();
    for (name, hex) in frozen(&text) {
        let sample = samples
            .get(name)
            .unwrap_or_else(|| panic!("no sample for {name} any more"));
        let frame = HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!((sample.again)(&frame).as_deref(), Ok(&frame[..]), "{name}");
    }
}

/// The number that follows the last variant is answered with "there are this many": so none is without a sample.
#[test]
fn no_variant_is_without_a_sample() {
    let samples = samples::all();
    // Where the number of the variant stands, counted from the frame's start or (negative) from its end.
    for (prefix, variants, base, at) in [
        ("hello_reply.", 2, "hello_reply.refused", 8),
        ("event.", 7, "event.stopping", 8),
        ("notice.", 8, "notice.refresh", 8),
        ("metrics.", 2, "metrics.delta", 8),
        ("return_reply.", 3, "return_reply.granted", 8),
        ("return_reply.refused.", 6, "return_reply.refused.Revoked", 12),
        ("enquiry.", 1, "enquiry.clock", 8),
        ("enquiry_reply.", 1, "enquiry_reply.clock", 8),
        ("leave_reply.", 2, "leave_reply.left", 8),
        ("leave_reply.refused.", 4, "leave_reply.refused.UnknownKey", 12),
        ("enroll_reply.", 2, "enroll_reply.granted", 8),
        ("enroll_reply.refused.", 11, "enroll_reply.refused.Spent", 12),
        ("command.", 27, "command.inventory", -4),
        ("reply.", 3, "reply.accepted", 8),
        ("reply.finished.", 15, "reply.finished.done", -4),
        ("reply.fault.", 28, "reply.fault.Locked", 16),
    ] {
        let sample = samples.iter().find(|sample| sample.name == base).unwrap();
        let at = if at < 0 {
            sample.frame.len() - 4
        } else {
            usize::try_from(at).unwrap()
        };
        let mut numbers: Vec<u32> = samples
            .iter()
            .filter(|sample| sample.name.starts_with(prefix))
            .map(|sample| u32::from_le_bytes(sample.frame[at..at + 4].try_into().unwrap()))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (0..variants).collect::<Vec<u32>>(), "{prefix}");
        let mut frame = sample.frame.clone();
        frame[at..at + 4].copy_from_slice(&variants.to_le_bytes());
        let error = (sample.again)(&frame).unwrap_err().to_string();
        assert!(error.contains(&format!("0 <= i < {variants}")), "{prefix}: {error}");
    }
}

#[test]
fn every_verb_has_its_word_in_the_list() {
    let commands = samples::all()
        .into_iter()
        .filter(|sample| sample.name.starts_with("command."));
    let said: BTreeSet<&str> = commands
        .map(|sample| codec::decode::<Command>(&sample.frame).unwrap().verb.name())
        .collect();
    assert_eq!(said, Verb::NAMES.into_iter().collect());
}
