//! One child process of a test: its output goes to a file, its end is noticed, and it is gone when the test is.

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How long anything in a test may take before it counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `check` answers something; asks every 20 ms. The error names what did not come, and `hint` is asked for more.
pub async fn until<T>(what: &str, patience: Duration, mut check: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = check().await? {
            return Ok(found);
        }
        if start.elapsed() > patience {
            bail!("{what}: not within {patience:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A child process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command`; stdout and stderr are appended to `<folder>/<name>.{out,err}`.
    pub fn start(name: &str, folder: &Path, mut command: Command) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (stdout, stderr) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        // A new stdout each time, so that the words of an earlier run are not taken for those of this one.
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(append(&stderr)?)
            .spawn()
            .with_context(|| format!("cannot start {name} ({command:?})"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            stdout,
            stderr,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed.
    pub fn stdout(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.stdout)?)
    }

    /// The end of its log, for error messages.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Its end, if it has come.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until a whole line of stdout starts with `prefix` and answers the rest of it.
    pub async fn line(&mut self, prefix: &str, patience: Duration) -> Result<String> {
        let what = format!("{}: the line {prefix:?}", self.name);
        let start = Instant::now();
        loop {
            let text = self.stdout()?;
            if let Some(rest) = text
                .split_inclusive('\n')
                .filter(|l| l.ends_with('\n'))
                .find_map(|l| l.trim_end().strip_prefix(prefix))
            {
                return Ok(rest.to_owned());
            }
            if let Some(status) = self.ended()? {
                bail!(
                    "{what} did not come: it ended ({status}); its log ends with\n{}",
                    self.log_tail()
                );
            }
            if start.elapsed() > patience {
                bail!(
                    "{what}: not within {patience:?}; its log ends with\n{}",
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// SIGKILL, and waits for the end.
    pub fn kill_9(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > PATIENCE {
                bail!(
                    "{} does not stop after SIGTERM; its log ends with\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The test is over; that it has ended meanwhile is no error.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
