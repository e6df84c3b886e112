//! `<state>/journal`: what was intended and what came of it, on disk before it is acted on or told.
//!
//! Append-only, compacted at start, when it has grown, and as soon as an intention that carried secrets is finished. Each append is one checksummed
//! frame and synced before the next begins, so only the last frame can be torn by a crash: it was never acted on and is cut off. Damage anywhere else is
//! not guessed at.
//!
//! A full disk refuses new work and nothing else: what is in the file stays valid, also when there is no room to compact it. What a failed sync left on the
//! disk is unknown, so after one no work is taken until the agent has been restarted.

use super::record::{self, HEAD_LEN, Record, State};
use crate::host::files;
use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// The first bytes of the file; the last digit is the format.
const MAGIC: &[u8; 8] = b"PXJOURN1";
/// Growth since the last compaction that starts the next one, bytes.
const GROWTH_MAX: u64 = 1024 * 1024;
/// Most requests that share one sync.
const BATCH_MAX: usize = 64;
/// Most bytes of JSON that share one sync, as far as several requests make them up; the largest single request fits a frame beside them.
const BATCH_BYTES_MAX: usize = record::JSON_MAX / 2;

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
pub struct NotWritten(pub(super) String);

/// The open file and what it adds up to.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    compacted_length: u64,
    state: State,
    /// Secrets stand in the file that a compaction without room could not wipe.
    unwiped: bool,
    broken: Option<String>,
}

/// Why a file was not compacted.
enum NotCompacted {
    /// The old file is still the journal.
    Unchanged(io::Error),
    /// The new one is, but whether that outlives a power loss is not known.
    Uncertain(io::Error),
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
        let (state, intact) = replay(&path, &bytes)?;
        drop(bytes);
        let (file, length, unwiped) = match write_whole(&path, &state) {
            Ok((file, length)) => (file, length, false),
            // Without room for a new file the old one serves: jobs that run have to be looked after all the same.
            Err(NotCompacted::Unchanged(error)) if intact > 0 => {
                tracing::warn!(%error, path = %path.display(), "could not compact the journal; it is used as it is");
                (reopen(&path, intact).map_err(io("open"))?, intact, true)
            }
            Err(NotCompacted::Unchanged(error) | NotCompacted::Uncertain(error)) => return Err(io("compact")(error)),
        };
        Ok(Self {
            path,
            file,
            length,
            compacted_length: length,
            state,
            unwiped,
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

    /// Writes the records as one frame and syncs. On an error none of them counts as written.
    pub(crate) fn append(&mut self, records: Vec<Record>) -> Result<(), NotWritten> {
        if let Some(why) = &self.broken {
            return Err(NotWritten(why.clone()));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        record::write(&records, &mut bytes).map_err(|error| NotWritten(format!("cannot write a record: {error}")))?;
        if let Err(error) = self.file.write_all(&bytes) {
            return Err(self.take_back(error));
        }
        if let Err(error) = self.file.sync_data() {
            // What a failed sync leaves on the disk is unknown, and a second one would claim success.
            return Err(self.give_up("sync", error));
        }
        self.length += bytes.len() as u64;
        for record in records {
            self.unwiped |= self.state.apply(record);
        }
        if self.unwiped || self.length > self.compacted_length + GROWTH_MAX {
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

    /// A failure costs only space: what was appended stays valid. Secrets that it should have wiped are wiped with the next append that finds room.
    fn compact(&mut self) {
        match write_whole(&self.path, &self.state) {
            Ok((file, length)) => {
                (self.file, self.length, self.unwiped) = (file, length, false);
            }
            Err(NotCompacted::Unchanged(error)) => {
                tracing::warn!(%error, path = %self.path.display(), "could not compact the journal");
            }
            // The file that is open has lost its name, and what were appended to the new one could be lost with the new name.
            Err(NotCompacted::Uncertain(error)) => drop(self.give_up("compact", error)),
        }
        self.compacted_length = self.length;
    }
}

/// What the records add up to, and how many bytes are intact.
fn replay(path: &Path, bytes: &[u8]) -> Result<(State, u64), JournalError> {
    let mut state = State::default();
    let Some(mut rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
        // A crash while the very first file was made leaves nothing, since it is renamed into place: anything else is a stranger.
        return if bytes.is_empty() {
            Ok((state, 0))
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
        for record in record::read(json).map_err(|_| JournalError::Format(path.into()))? {
            state.apply(record);
        }
        rest = &rest[HEAD_LEN + json.len()..];
    }
    Ok((state, (bytes.len() - rest.len()) as u64))
}

/// The file as it is, without its torn end, open at its end.
fn reopen(path: &Path, intact: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.set_len(intact)?;
    file.sync_all()?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

/// Writes a new file beside, syncs it and renames it into place. Answers it open at its end, and its length.
fn write_whole(path: &Path, state: &State) -> Result<(File, u64), NotCompacted> {
    let beside = path.with_extension("new");
    let written = (|| {
        let mut bytes = Zeroizing::new(MAGIC.to_vec());
        for record in state.records() {
            record::write(std::slice::from_ref(&record), &mut bytes)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        Ok((file, bytes.len() as u64))
    })();
    let written = written.map_err(|error| {
        // Best effort: the error that matters is the one above, and the next compaction begins by emptying the file.
        files::remove_if_there(&beside).ok();
        NotCompacted::Unchanged(error)
    })?;
    match path.parent().map(files::sync_dir) {
        Some(Err(error)) => Err(NotCompacted::Uncertain(error)),
        _ => Ok(written),
    }
}

struct Request {
    records: Vec<Record>,
    /// Of who asks, so that what is logged on the journal's thread says for what.
    span: tracing::Span,
    done: oneshot::Sender<Result<(), NotWritten>>,
}

/// The first request and those that wait behind it, as far as they fit one frame.
fn batch(first: Request, inbox: &std::sync::mpsc::Receiver<Request>) -> Vec<Request> {
    // What cannot be measured cannot be written either, and is told so when it is tried.
    let size = |request: &Request| record::json_len(&request.records).unwrap_or(0);
    let mut bytes = size(&first);
    let mut batch = vec![first];
    while bytes < BATCH_BYTES_MAX
        && batch.len() < BATCH_MAX
        && let Ok(next) = inbox.try_recv()
    {
        bytes += size(&next);
        batch.push(next);
    }
    batch
}

/// The journal on a thread of its own: requests that wait while one is synced share the next sync.
#[derive(Clone)]
pub(crate) struct Writer {
    requests: std::sync::mpsc::Sender<Request>,
    pending: Arc<AtomicUsize>,
}

impl Writer {
    /// Hands the journal over to its thread, which ends with the last `Writer`.
    pub(crate) fn start(mut journal: Journal) -> io::Result<Self> {
        let (requests, inbox) = std::sync::mpsc::channel::<Request>();
        let pending = Arc::new(AtomicUsize::new(0));
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            while let Ok(first) = inbox.recv() {
                let span = first.span.clone();
                let _inside = span.enter();
                let batch = batch(first, &inbox);
                let (records, waiting): (Vec<_>, Vec<_>) = batch.into_iter().map(|r| (r.records, r.done)).unzip();
                let written = journal.append(records.into_iter().flatten().collect());
                for done in waiting {
                    // Nobody waits any more when the agent is stopping; the record is on disk all the same.
                    let _ = done.send(written.clone());
                }
            }
        })?;
        Ok(Self { requests, pending })
    }

    /// Returns when the records are on the disk.
    pub(crate) async fn write(&self, records: Vec<Record>) -> Result<(), NotWritten> {
        let (done, written) = oneshot::channel();
        let gone = || NotWritten("the journal's thread has ended".into());
        let _pending = Pending::begin(&self.pending);
        let span = tracing::Span::current();
        self.requests
            .send(Request { records, span, done })
            .map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }

    /// Requests of which nobody has taken the answer yet.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }
}

/// Counts a request for as long as somebody waits for its answer.
struct Pending<'a>(&'a AtomicUsize);

impl<'a> Pending<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
