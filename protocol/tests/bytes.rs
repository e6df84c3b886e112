//! Any bytes are a message or a clean error; a message comes back as it went.
#![allow(clippy::unwrap_used)]

mod samples;

use proptest::{collection::vec, prelude::*};
use proximity_protocol::codec::{CodecError, HEADER_LEN, Header, PAYLOAD_MAX};

fn with_length(mut frame: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(frame.len() - HEADER_LEN).unwrap();
    frame[4..8].copy_from_slice(&length.to_be_bytes());
    frame
}

#[test]
fn a_cut_frame_is_cut_off_and_a_longer_one_has_a_rest() {
    for sample in samples::all() {
        for cut in 0..sample.frame.len() {
            assert_eq!(
                (sample.again)(&sample.frame[..cut]),
                Err(CodecError::CutOff),
                "{} cut at {cut}",
                sample.name
            );
            if cut >= HEADER_LEN {
                let shorter = with_length(sample.frame[..cut].to_vec());
                assert!((sample.again)(&shorter).is_err(), "{} ends early at {cut}", sample.name);
            }
        }
        for rest in [1, 100] {
            let mut longer = sample.frame.clone();
            longer.resize(longer.len() + rest, 0);
            assert_eq!(
                (sample.again)(&longer),
                Err(CodecError::Trailing(rest)),
                "{}",
                sample.name
            );
            assert_eq!(
                (sample.again)(&with_length(longer)),
                Err(CodecError::Trailing(rest)),
                "{}",
                sample.name
            );
        }
    }
}

#[test]
fn headers_are_judged_before_payloads() {
    for sample in samples::all() {
        let altered = |at: usize, byte: u8| {
            let mut frame = sample.frame.clone();
            frame[at] = byte;
            (sample.again)(&frame)
        };
        assert_eq!(altered(1, 0), Err(CodecError::Version(0)));
        assert_eq!(altered(1, 2), Err(CodecError::Version(2)), "one above the newest");
        assert!(matches!(altered(2, 0xFF), Err(CodecError::Type { .. })));
        assert!(matches!(altered(4, 0x7F), Err(CodecError::TooLarge(_))));
    }
    let just_too_large = u32::try_from(PAYLOAD_MAX + 1).unwrap().to_be_bytes();
    let head = [
        0,
        1,
        0,
        3,
        just_too_large[0],
        just_too_large[1],
        just_too_large[2],
        just_too_large[3],
    ];
    assert_eq!(Header::parse(head), Err(CodecError::TooLarge(PAYLOAD_MAX + 1)));
}

#[test]
fn messages_of_one_type_are_not_taken_for_another() {
    let samples = samples::all();
    for one in &samples {
        for other in &samples {
            let same = one.frame[2..4] == other.frame[2..4];
            assert_eq!(
                (one.again)(&other.frame).is_ok(),
                same,
                "{} as {}",
                other.name,
                one.name
            );
        }
    }
}

/// Decodes as every type under a header that fits; what is a message must come back the same.
fn digest(payload: &[u8]) {
    for sample in samples::all() {
        let mut frame = sample.frame[..HEADER_LEN].to_vec();
        frame.extend_from_slice(payload);
        let frame = with_length(frame);
        if let Ok(encoded) = (sample.again)(&frame) {
            assert_eq!((sample.again)(&encoded).unwrap(), encoded, "{}", sample.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_a_message_or_an_error(payload in vec(any::<u8>(), 0..600)) {
        digest(&payload);
        for sample in samples::all() {
            // As a whole frame, header included: hardly ever a message, never a panic.
            prop_assert!((sample.again)(&payload).is_err());
        }
    }

    #[test]
    fn a_damaged_message_is_another_message_or_an_error(
        which in any::<prop::sample::Index>(),
        damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let samples = samples::all();
        let sample = which.get(&samples);
        let mut frame = sample.frame.clone();
        for (at, byte) in damages {
            let at = HEADER_LEN + at.index(frame.len() - HEADER_LEN);
            frame[at] = byte;
        }
        if let Ok(encoded) = (sample.again)(&frame) {
            prop_assert_eq!((sample.again)(&encoded), Ok(encoded));
        }
    }
}
