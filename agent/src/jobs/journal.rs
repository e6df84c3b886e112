//! `<state>/journal`: what was intended and what came of it, on disk before it is acted on or told.
//!
//! Append-only, compacted at start, when it has grown, and as soon as an intention that carried secrets is finished. Each append is synced before the
//! next begins, so only the last record can be torn by a crash: it was never acted on and is cut off. Damage anywhere else is not guessed at.

use super::record::{self, HEAD_LEN, Record, State};
use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// The first bytes of the file; the last digit is the format.
const MAGIC: &[u8; 8] = b"PXJOURN1";
/// Growth since the last compaction that starts the next one, bytes.
const GROWTH_MAX: u64 = 1024 * 1024;
/// Most records that share one sync.
const BATCH_MAX: usize = 64;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Input or output failed.
    #[error("cannot {attempt} the journal {path}: {source}")]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another format.
    #[error(
        "the journal {0} has a format that this version of the agent does not know; run the version that wrote it until its operations have ended, or move the file away if none is open"
    )]
    Format(PathBuf),
    /// Not the torn end of a crash but damage in the middle.
    #[error(
        "the journal {path} is damaged at byte {offset}, with intact records after that; restore it, or move it away after making sure that the coordinator shows no open operation on this node"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: usize,
    },
}

/// A record did not reach the disk; the sentence says why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotWritten(String);

/// The open file and what it adds up to.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    compacted_length: u64,
    state: State,
    broken: Option<String>,
}

impl Journal {
    /// Reads the journal below `state_dir`, cuts a torn end off, and compacts it. Makes an empty one if there is none.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let path = state_dir.join("journal");
        let io = |attempt| {
            let path = path.clone();
            move |source| JournalError::Io { attempt, path, source }
        };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Zeroizing::default(),
            Err(error) => return Err(io("read")(error)),
        };
        let state = replay(&path, &bytes)?;
        drop(bytes);
        let (file, length) = write_whole(&path, &state).map_err(io("compact"))?;
        Ok(Self {
            path,
            file,
            length,
            compacted_length: length,
            state,
            broken: None,
        })
    }

    /// Writes to another file from now on, which a test can fill up.
    #[cfg(test)]
    pub(super) fn redirect(&mut self, file: File) {
        (self.file, self.length) = (file, 0);
    }

    /// What the records add up to.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Writes the records and syncs. On an error none of them counts as written.
    pub(crate) fn append(&mut self, records: Vec<Record>) -> Result<(), NotWritten> {
        if let Some(why) = &self.broken {
            return Err(NotWritten(why.clone()));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        for record in &records {
            record::write(record, &mut bytes).map_err(|error| NotWritten(format!("cannot write a record: {error}")))?;
        }
        if let Err(error) = self.file.write_all(&bytes) {
            return Err(self.take_back(error));
        }
        if let Err(error) = self.file.sync_data() {
            // What a failed sync leaves on the disk is unknown, and a second one would claim success.
            return Err(self.give_up("sync", error));
        }
        self.length += bytes.len() as u64;
        let mut wipe = false;
        for record in records {
            wipe |= self.state.apply(record);
        }
        if wipe || self.length > self.compacted_length + GROWTH_MAX {
            self.compact();
        }
        Ok(())
    }

    fn take_back(&mut self, error: io::Error) -> NotWritten {
        let undone = self
            .file
            .set_len(self.length)
            .and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
        match undone {
            Ok(_) => NotWritten(format!("cannot write to {}: {error}", self.path.display())),
            Err(_) => self.give_up("write to", error),
        }
    }

    fn give_up(&mut self, attempt: &str, error: io::Error) -> NotWritten {
        let why = format!(
            "cannot {attempt} {}: {error}; no work is taken until the agent is restarted on a healthy disk",
            self.path.display()
        );
        tracing::error!(error = %why, "the journal is unusable");
        self.broken = Some(why.clone());
        NotWritten(why)
    }

    /// A failure costs only space: what was appended stays valid.
    fn compact(&mut self) {
        match write_whole(&self.path, &self.state) {
            Ok((file, length)) => {
                self.file = file;
                self.length = length;
            }
            Err(error) => tracing::warn!(%error, path = %self.path.display(), "could not compact the journal"),
        }
        self.compacted_length = self.length;
    }
}

fn replay(path: &Path, bytes: &[u8]) -> Result<State, JournalError> {
    let mut state = State::default();
    let Some(mut rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
        // A crash while the very first file was made leaves nothing, since it is renamed into place: anything else is a stranger.
        return if bytes.is_empty() {
            Ok(state)
        } else {
            Err(JournalError::Format(path.into()))
        };
    };
    while !rest.is_empty() {
        let offset = bytes.len() - rest.len();
        let Some(json) = record::intact(rest) else {
            if (1..rest.len()).any(|skip| record::intact(&rest[skip..]).is_some()) {
                return Err(JournalError::Damaged {
                    path: path.into(),
                    offset,
                });
            }
            tracing::warn!(
                offset,
                lost_bytes = rest.len(),
                "cut a torn record off the journal; it was never acted on"
            );
            break;
        };
        let record = serde_json::from_slice(json).map_err(|_| JournalError::Format(path.into()))?;
        state.apply(record);
        rest = &rest[HEAD_LEN + json.len()..];
    }
    Ok(state)
}

/// Writes a new file beside, syncs it and renames it into place. Answers it open at its end, and its length.
fn write_whole(path: &Path, state: &State) -> io::Result<(File, u64)> {
    let mut bytes = Zeroizing::new(MAGIC.to_vec());
    for record in state.records() {
        record::write(&record, &mut bytes)?;
    }
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok((file, bytes.len() as u64))
}

struct Request {
    records: Vec<Record>,
    done: oneshot::Sender<Result<(), NotWritten>>,
}

/// The journal on a thread of its own: requests that wait while one is synced share the next sync.
#[derive(Clone)]
pub(crate) struct Writer {
    requests: std::sync::mpsc::Sender<Request>,
}

impl Writer {
    /// Hands the journal over to its thread, which ends with the last `Writer`.
    pub(crate) fn start(mut journal: Journal) -> io::Result<Self> {
        let (requests, inbox) = std::sync::mpsc::channel::<Request>();
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            while let Ok(first) = inbox.recv() {
                let batch: Vec<Request> = std::iter::once(first)
                    .chain(inbox.try_iter().take(BATCH_MAX - 1))
                    .collect();
                let (records, waiting): (Vec<_>, Vec<_>) = batch.into_iter().map(|r| (r.records, r.done)).unzip();
                let written = journal.append(records.into_iter().flatten().collect());
                for done in waiting {
                    // Nobody waits any more when the agent is stopping; the record is on disk all the same.
                    let _ = done.send(written.clone());
                }
            }
        })?;
        Ok(Self { requests })
    }

    /// Returns when the records are on the disk.
    pub(crate) async fn write(&self, records: Vec<Record>) -> Result<(), NotWritten> {
        let (done, written) = oneshot::channel();
        let gone = || NotWritten("the journal's thread has ended".into());
        self.requests.send(Request { records, done }).map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }
}
