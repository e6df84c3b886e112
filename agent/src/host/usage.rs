//! How full file systems are. `statvfs(3)` on a dead NFS mount never comes back, so it is asked in a thread of its own, at most one per path, and
//! whoever wants to know gets the last answer.

use nix::sys::statvfs::statvfs;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// One file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) total_bytes: u64,
    pub(crate) used_bytes: u64,
    /// How many more files it takes; `None` where the file system does not count them (btrfs).
    pub(crate) inodes_free: Option<u64>,
    /// Tells whether two paths lie on the same.
    pub(crate) id: u64,
}

#[derive(Debug, Default)]
struct Entry {
    figures: Option<FileSystem>,
    asked: Option<Instant>,
    pending: bool,
}

/// The last answers, and how many wait for a new one.
#[derive(Debug, Clone, Default)]
pub(crate) struct StorageUsage(Arc<Mutex<HashMap<PathBuf, Entry>>>, Arc<AtomicUsize>);

/// Counts somebody for as long as he waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn ask(path: &Path) -> Option<FileSystem> {
    let figures = statvfs(path).ok()?;
    // Root's reserve counts as neither used nor free, as in df(1).
    let block = figures.fragment_size();
    Some(FileSystem {
        total_bytes: figures.blocks() * block,
        used_bytes: figures.blocks().saturating_sub(figures.blocks_free()) * block,
        inodes_free: (figures.files() > 0).then(|| figures.files_available()),
        id: figures.filesystem_id(),
    })
}

impl StorageUsage {
    /// The last answer, at once; asks again in the background if it is older than `fresh`.
    pub(crate) fn last(&self, path: &Path, fresh: Duration) -> Option<FileSystem> {
        self.refresh(path, fresh);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path)?.figures
    }

    /// A new answer, or after `bound` the last one.
    pub(crate) async fn now(&self, path: &Path, bound: Duration) -> Option<FileSystem> {
        if let Some(answered) = self.refresh(path, Duration::ZERO) {
            let _waiting = Waiting::begin(&self.1);
            // Too late, or the thread is gone: both mean the last answer.
            tokio::time::timeout(bound, answered).await.ok();
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path)?.figures
    }

    /// How many wait for a new answer.
    pub(crate) fn awaited(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    fn refresh(&self, path: &Path, fresh: Duration) -> Option<oneshot::Receiver<()>> {
        {
            let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = entries.entry(path.to_owned()).or_default();
            if entry.pending || entry.asked.is_some_and(|asked| asked.elapsed() < fresh) {
                return None;
            }
            (entry.pending, entry.asked) = (true, Some(Instant::now()));
        }
        let (answered, wait) = oneshot::channel();
        let (entries, path, span) = (self.0.clone(), path.to_owned(), tracing::Span::current());
        std::thread::spawn(move || {
            let _inside = span.enter();
            let figures = ask(&path);
            let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = entries.entry(path).or_default();
            (entry.figures, entry.pending) = (figures, false);
            drop(entries);
            // Nobody waits: fine.
            answered.send(()).ok();
        });
        Some(wait)
    }

    /// Drops answers for paths that are not wanted any more.
    pub(crate) fn retain(&self, wanted: impl Fn(&Path) -> bool) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|path, entry| entry.pending || wanted(path));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_file_system_is_measured_and_a_missing_path_is_unknown() {
        let usage = StorageUsage::default();
        let dir = tempfile::tempdir().unwrap();
        let figures = usage.now(dir.path(), Duration::from_secs(10)).await.unwrap();
        assert!(figures.total_bytes >= figures.used_bytes && figures.total_bytes > 0);
        assert_eq!(
            usage.now(Path::new("/nonexistent/x"), Duration::from_secs(10)).await,
            None
        );
        assert_eq!(usage.last(dir.path(), Duration::from_secs(60)), Some(figures));
    }
}
