//! Reads a large file from its beginning to its end, through the program that decompresses it, and adds it up on the way. Nothing is kept, nothing is written.
//! It need not outlive the agent: it is begun anew.

use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Bytes at a time.
const PIECE: usize = 256 * 1024;
/// How much a program may say about what is wrong.
const WORDS_MAX: u64 = 4096;

/// Why it could not be read through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The file.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("{program} cannot be started: {source}")]
    Program {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program cannot decompress it.
    #[error("{0}")]
    Damaged(String),
    /// What is inside is not what it should be.
    #[error("{0}")]
    Content(String),
    /// Nobody waits for it any more.
    #[error("nobody waits for it any more")]
    GivenUp,
}

/// Reads in a thread of its own. `content` gets what is inside, in order; its error ends it. Answers the SHA-256 of the file as it lies there, and what
/// `content` made of it.
pub(crate) async fn read_through<T: Send + 'static>(
    path: PathBuf,
    decompressor: Option<PathBuf>,
    content: impl FnMut(&[u8]) -> Result<(), String> + Send + 'static,
    finish: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<([u8; 32], T), StreamError> {
    let given_up = GivenUp::default();
    let flag = Arc::clone(&given_up.0);
    let work = tokio::task::spawn_blocking(move || read(&path, decompressor.as_deref(), content, finish, &flag));
    let ended = work.await;
    drop(given_up);
    ended.unwrap_or_else(|error| Err(StreamError::Content(format!("the agent broke off: {error}"))))
}

/// Dropped with its future, it tells the thread.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);
impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn read<T>(
    path: &Path,
    decompressor: Option<&Path>,
    mut content: impl FnMut(&[u8]) -> Result<(), String>,
    finish: impl FnOnce() -> Result<T, String>,
    given_up: &AtomicBool,
) -> Result<([u8; 32], T), StreamError> {
    let failed = |source| StreamError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let mut sum = Sha256::new();
    let Some(program) = decompressor else {
        let mut piece = vec![0; PIECE];
        loop {
            let length = next(&mut file, &mut piece, given_up)?.map_err(failed)?;
            if length == 0 {
                break;
            }
            sum.update(&piece[..length]);
            content(&piece[..length]).map_err(StreamError::Content)?;
        }
        return Ok((sum.finalize().into(), finish().map_err(StreamError::Content)?));
    };
    let unstarted = |source| StreamError::Program {
        program: program.to_owned(),
        source,
    };
    let mut child = Command::new(program)
        .arg("-dc")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(unstarted)?;
    let (input, output, words) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut input), Some(mut output), Some(words)) = (input, output, words) else {
        return Err(unstarted(io::Error::other("it has no streams")));
    };
    let enough = &AtomicBool::new(false);
    let (fed, read, said) = thread::scope(|scope| {
        let feeding = scope.spawn(move || -> Result<Sha256, StreamError> {
            let mut piece = vec![0; PIECE];
            let mut heard = true;
            loop {
                let length = next(&mut file, &mut piece, given_up)?.map_err(failed)?;
                if length == 0 || enough.load(Ordering::SeqCst) {
                    return Ok(sum);
                }
                sum.update(&piece[..length]);
                // A program that has found the end, or damage, reads no more; the file is added up to its end all the same.
                heard = heard && input.write_all(&piece[..length]).is_ok();
            }
        });
        let listening = scope.spawn(move || {
            let mut text = Vec::new();
            // What cannot be heard is not said.
            let _ = words.take(WORDS_MAX).read_to_end(&mut text);
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        let mut piece = vec![0; PIECE];
        let read = loop {
            match next(&mut output, &mut piece, given_up) {
                Err(error) => break Err(error),
                Ok(Err(error)) => break Err(failed(error)),
                Ok(Ok(0)) => break Ok(()),
                Ok(Ok(length)) => {
                    if let Err(why) = content(&piece[..length]) {
                        break Err(StreamError::Content(why));
                    }
                }
            }
        };
        enough.store(read.is_err(), Ordering::SeqCst);
        // Its end lets the program end, whatever it still has to say.
        drop(output);
        let broke = |_| StreamError::Content("the agent broke off".into());
        (
            feeding.join().map_err(broke).and_then(|fed| fed),
            read,
            listening.join().unwrap_or_default(),
        )
    });
    let status = child.wait().map_err(failed)?;
    if let Err(error @ (StreamError::Content(_) | StreamError::GivenUp)) = read {
        return Err(error);
    }
    let sum = fed?;
    if !status.success() {
        let why = said.lines().last().unwrap_or("it says nothing");
        return Err(StreamError::Damaged(format!(
            "{} cannot decompress it: {why}",
            program.display()
        )));
    }
    read?;
    Ok((sum.finalize().into(), finish().map_err(StreamError::Content)?))
}

fn next(from: &mut impl Read, piece: &mut [u8], given_up: &AtomicBool) -> Result<io::Result<usize>, StreamError> {
    loop {
        if given_up.load(Ordering::SeqCst) {
            return Err(StreamError::GivenUp);
        }
        match from.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return Ok(other),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Mutex;

    async fn through(path: &Path, program: Option<&str>) -> Result<([u8; 32], usize), StreamError> {
        let total = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&total);
        let count = move |piece: &[u8]| {
            *counted.lock().unwrap() += piece.len();
            Ok(())
        };
        read_through(path.to_owned(), program.map(PathBuf::from), count, move || {
            Ok(*total.lock().unwrap())
        })
        .await
    }

    fn gzip(content: &[u8], to: &Path) {
        let plain = to.with_extension("plain");
        std::fs::write(&plain, content).unwrap();
        let packed = Command::new("gzip").arg("-c").arg(&plain).output().unwrap();
        std::fs::write(to, packed.stdout).unwrap();
    }

    #[tokio::test]
    async fn a_file_is_added_up_and_decompressed_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gz");
        let content: Vec<u8> = (0..3_000_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
            .collect();
        gzip(&content, &path);
        let bytes = std::fs::read(&path).unwrap();
        let sum: [u8; 32] = Sha256::digest(&bytes).into();
        assert_eq!(through(&path, Some("/bin/gzip")).await.unwrap(), (sum, content.len()));
        assert_eq!(through(&path, None).await.unwrap(), (sum, bytes.len()));
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(
            matches!(through(&path, Some("/bin/gzip")).await, Err(StreamError::Damaged(why)) if why.contains("gzip"))
        );
        let mut damaged = bytes;
        damaged[6_000_000] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(
            through(&path, Some("/bin/gzip")).await,
            Err(StreamError::Damaged(_))
        ));
        let gone = dir.path().join("gone");
        assert!(matches!(
            through(&gone, Some("/bin/gzip")).await,
            Err(StreamError::Read { .. })
        ));
        assert!(matches!(
            through(&path, Some("/nonexistent/zstd")).await,
            Err(StreamError::Program { .. })
        ));
    }

    #[tokio::test]
    async fn what_is_inside_may_end_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gz");
        gzip(&vec![1; 20_000_000], &path);
        let refused = read_through(path, Some("/bin/gzip".into()), |_| Err("not a tar".into()), || Ok(())).await;
        assert!(matches!(refused, Err(StreamError::Content(why)) if why == "not a tar"));
    }
}
