//! One record of the journal: what it says, its bytes, and what a sequence of them adds up to.
//!
//! ```text
//! 0                4                8
//! | length of JSON | CRC-32 of JSON | JSON …
//! ```
//! Numbers big-endian. The JSON of such a frame is one record, or a list of those that were written at once: a disk that loses power may keep the later
//! blocks of one write and lose the earlier, so what is synced together stands or falls together.

use super::{JobKey, JobResult};
use proximity_protocol::{
    command::{Command, Verb},
    ids::Epoch,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io};
use zeroize::Zeroizing;

/// Length and checksum.
pub(crate) const HEAD_LEN: usize = 8;
/// No frame is longer: a recipe of the largest command grows about fourfold in JSON.
pub(crate) const JSON_MAX: usize = 16 * 1024 * 1024;

/// What a record says. Variants and their fields are never renamed: a journal outlives an update of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// The newest epoch of this coordinator (by the fingerprint of its CA).
    Epoch {
        /// SHA-256 of the CA's public key, hexadecimal.
        coordinator: String,
        /// The epoch.
        epoch: Epoch,
    },
    /// This will be tried.
    Intention {
        /// In full, secrets included: it must be possible to try again without a link.
        command: Box<Command>,
    },
    /// This came of it.
    Result {
        /// The job.
        job: JobKey,
        /// What came of it.
        result: JobResult,
    },
    /// The job is of no interest any more.
    Forgotten {
        /// The job.
        job: JobKey,
    },
}

/// A job as the journal knows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    /// Intended; nothing is known of its end.
    Open(Box<Command>),
    /// Ended, not committed by the coordinator yet.
    Finished(JobResult),
}

/// What the records so far add up to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct State {
    /// Whose epoch.
    pub(crate) coordinator: String,
    /// The newest seen.
    pub(crate) epoch: Epoch,
    /// Jobs that are open or not committed, each with its place in the order of intentions.
    jobs: BTreeMap<JobKey, (u64, Entry)>,
    next: u64,
}

impl State {
    /// Takes one record in. Answers whether it left secrets behind in the file that should be wiped.
    pub(crate) fn apply(&mut self, record: Record) -> bool {
        match record {
            Record::Epoch { coordinator, epoch } => {
                (self.coordinator, self.epoch) = (coordinator, epoch);
                false
            }
            Record::Intention { command } => {
                self.jobs
                    .insert(JobKey::of(&command), (self.next, Entry::Open(command)));
                self.next += 1;
                false
            }
            Record::Result { job, result } => {
                let place = self.jobs.get(&job).map_or(self.next, |(place, _)| *place);
                self.next += 1;
                carried_secrets(self.jobs.insert(job, (place, Entry::Finished(result))))
            }
            Record::Forgotten { job } => carried_secrets(self.jobs.remove(&job)),
        }
    }

    /// The jobs as they came.
    pub(crate) fn in_order(&self) -> Vec<(&JobKey, &Entry)> {
        let mut jobs: Vec<_> = self
            .jobs
            .iter()
            .map(|(key, (place, entry))| (*place, key, entry))
            .collect();
        jobs.sort_by_key(|(place, ..)| *place);
        jobs.into_iter().map(|(_, key, entry)| (key, entry)).collect()
    }

    /// The shortest sequence of records that adds up to this.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let epoch = (!self.coordinator.is_empty()).then(|| Record::Epoch {
            coordinator: self.coordinator.clone(),
            epoch: self.epoch,
        });
        epoch
            .into_iter()
            .chain(self.in_order().into_iter().map(|(job, entry)| match entry {
                Entry::Open(command) => Record::Intention {
                    command: command.clone(),
                },
                Entry::Finished(result) => Record::Result {
                    job: job.clone(),
                    result: result.clone(),
                },
            }))
    }
}

fn carried_secrets(before: Option<(u64, Entry)>) -> bool {
    let Some((_, Entry::Open(command))) = before else {
        return false;
    };
    matches!(command.verb, Verb::InstallRecipe { .. } | Verb::RewriteValues { .. })
}

/// Appends one frame with all these records to `bytes`. Fails if they are more than a frame holds; see [`json_len`].
pub(crate) fn write(records: &[Record], bytes: &mut Zeroizing<Vec<u8>>) -> io::Result<()> {
    let json = Zeroizing::new(match records {
        [one] => serde_json::to_vec(one)?,
        many => serde_json::to_vec(many)?,
    });
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= JSON_MAX);
    let length = length.ok_or_else(|| io::Error::other(format!("{} bytes are too many for one record", json.len())))?;
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&crc32(&json).to_be_bytes());
    bytes.extend_from_slice(&json);
    Ok(())
}

/// How long records are as JSON, bytes.
pub(crate) fn json_len(records: &[Record]) -> Result<usize, serde_json::Error> {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, records)?;
    Ok(count.0)
}

/// The records of a frame's JSON.
pub(crate) fn read(json: &[u8]) -> Result<Vec<Record>, serde_json::Error> {
    if json.first() == Some(&b'[') {
        serde_json::from_slice(json)
    } else {
        serde_json::from_slice(json).map(|record| vec![record])
    }
}

/// The JSON of a whole and intact frame at the start of `bytes`.
pub(crate) fn intact(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    if length == 0 || length > JSON_MAX {
        return None;
    }
    let json = rest.get(..length)?;
    (crc32(json) == u32::from_be_bytes(*sum)).then_some(json)
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                (value >> 1) ^ 0xEDB8_8320
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// CRC-32 as of IEEE 802.3.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        CRC_TABLE[((sum ^ u32::from(*byte)) & 0xFF) as usize] ^ (sum >> 8)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_the_common_one() {
        assert_eq!(super::crc32(b"123456789"), 0xCBF4_3926);
    }
}
