//! What a frame makes the receiver allocate is bounded, whatever lengths it claims.
//!
//! One test alone in its process, since it counts what the whole process allocates.
#![allow(clippy::unwrap_used)]
// Counting needs an allocator of our own, and that trait cannot be implemented without `unsafe`; it only passes on.
#![allow(unsafe_code)]

mod samples;

use proximity_protocol::codec::{HEADER_LEN, PAYLOAD_MAX};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

struct Counting;
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), SeqCst) + layout.size();
        PEAK.fetch_max(now, SeqCst);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), SeqCst);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Decoded, a payload may take some times its size (a one-byte `None` is a word or more in memory), and re-encoded once more.
const BOUND: usize = 24 * PAYLOAD_MAX;

#[test]
fn no_claimed_length_makes_the_receiver_allocate_beyond_a_bound() {
    let mut worst = (0, String::new());
    let mut measure = |name: &str, frame: &[u8], again: fn(&[u8]) -> Result<Vec<u8>, _>| {
        let before = NOW.load(SeqCst);
        PEAK.store(before, SeqCst);
        drop(again(frame));
        let used = PEAK.load(SeqCst) - before;
        if used > worst.0 {
            worst = (used, name.to_owned());
        }
    };
    for sample in samples::all() {
        // A length is eight bytes, little-endian, anywhere in the payload.
        for at in HEADER_LEN..sample.frame.len().saturating_sub(7) {
            for length in [u64::MAX, u64::from(u32::MAX), 1 << 30, PAYLOAD_MAX as u64] {
                let mut frame = sample.frame.clone();
                frame[at..at + 8].copy_from_slice(&length.to_le_bytes());
                measure(&sample.name, &frame, sample.again);
            }
        }
        // The largest payload there is, behind each beginning of a message, of bytes that make long lists of small things.
        for fill in [0, 1] {
            for keep in [HEADER_LEN, sample.frame.len() / 2, sample.frame.len() * 3 / 4] {
                let keep = keep.max(HEADER_LEN);
                let mut frame = sample.frame[..keep].to_vec();
                frame.resize(HEADER_LEN + PAYLOAD_MAX, fill);
                frame[4..8].copy_from_slice(&u32::try_from(PAYLOAD_MAX).unwrap().to_be_bytes());
                measure(&sample.name, &frame, sample.again);
            }
        }
    }
    assert!(worst.0 <= BOUND, "{} bytes for {}", worst.0, worst.1);
}
