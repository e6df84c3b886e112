//! One call of one tool: where its words go, what faults wait for it, and how it ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::body::{BodyError, Interrupted};
use crate::cluster::Cluster;
use crate::node::Node;
use crate::options::Arguments;
use crate::script::{At, Fault, Point};
use crate::tasks::TaskLog;

/// Exit code of what is not simulated; no real tool uses it.
pub const EXIT_NOT_SIMULATED: i32 = 99;
/// Exit code of a `kill_self` in the in-process door, as a shell would report SIGKILL.
pub const EXIT_KILLED: i32 = 137;

/// Why a call ends before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// An error text for stderr, and a failure.
    Die(String),
    /// Just this exit code.
    Exit(i32),
    /// An error text and the exit code that the fault script asks for.
    Fail {
        /// Never zero.
        exit: i32,
        /// For stderr.
        text: String,
    },
    /// TERM or INT came: undo, then fail.
    Interrupted,
    /// The reader of stdout went away: undo, then fail.
    BrokenPipe,
    /// As after SIGKILL: nothing is undone, nothing is said.
    Killed,
    /// Fails without undoing (`half_create`).
    Half(String),
    /// Something that the simulator does not do.
    NotSimulated(String),
}

impl Stop {
    pub(crate) fn die(text: impl Into<String>) -> Self {
        Self::Die(text.into())
    }

    /// `400 Parameter verification failed.` with every problem, sorted, and the usage line.
    pub(crate) fn parameters(problems: &BTreeMap<String, String>, usage: &str) -> Self {
        let mut text = "400 Parameter verification failed.\n".to_owned();
        for (name, reason) in problems {
            let _ = writeln!(text, "{name}: {reason}");
        }
        text.push_str(usage);
        Self::Die(text)
    }

    /// Whether the tool still lives and undoes what it has begun.
    pub(crate) fn undoes(&self) -> bool {
        !matches!(self, Self::Killed | Self::Half(_) | Self::NotSimulated(_))
    }

    /// What a task log and stderr say.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Die(text) | Self::Half(text) | Self::Fail { text, .. } => text.clone(),
            Self::Exit(code) => format!("exit code {code}"),
            Self::Interrupted => "received interrupt".to_owned(),
            Self::BrokenPipe => "broken pipe".to_owned(),
            Self::Killed => "killed".to_owned(),
            Self::NotSimulated(what) => format!("pve-sim: not simulated: {what}"),
        }
    }
}

impl From<BodyError> for Stop {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Interrupted => Self::Interrupted,
            BodyError::BrokenPipe => Self::BrokenPipe,
            other => Self::Die(other.to_string()),
        }
    }
}

/// Set once TERM or INT came.
#[derive(Debug, Clone, Default)]
pub struct Signals(Arc<AtomicBool>);

impl Signals {
    /// Notes that a signal came.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Interrupted for Signals {
    fn yes(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The three streams of a call.
pub(crate) struct Streams<'a> {
    pub(crate) stdin: &'a mut dyn Read,
    pub(crate) out: &'a mut dyn Write,
    pub(crate) err: &'a mut dyn Write,
    /// They are this process's own descriptors.
    pub(crate) own: bool,
}

/// One call.
pub(crate) struct Call<'a> {
    pub(crate) node: &'a Node,
    pub(crate) tool: String,
    pub(crate) sub: String,
    pub(crate) vmid: Option<u32>,
    pub(crate) args: Arguments,
    pub(crate) streams: Streams<'a>,
    pub(crate) signals: Signals,
    /// The task that is running, when output goes into its log as well.
    pub(crate) task: Option<TaskLog>,
    pub(crate) answer_lost: bool,
    /// What still happens when it is killed: the real tool is several processes, and not all of them die.
    pub(crate) at_death: Option<Box<dyn FnOnce()>>,
}

impl Call<'_> {
    /// A line for stdout, and for the task's log inside one.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), Stop> {
        self.print(&format!("{line}\n"))
    }

    /// Text for stdout as it is.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Stop> {
        if let Some(task) = &mut self.task {
            task.write(text)
                .map_err(|error| Stop::die(format!("task log: {error}")))?;
        }
        self.streams
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.streams.out.flush())
            .map_err(|_| Stop::BrokenPipe)
    }

    /// A line for stderr; inside a task it goes to stdout, as a worker's stderr does. Nobody to read it is no failure.
    pub(crate) fn complain(&mut self, line: &str) {
        if self.task.is_some() {
            // The real worker ignores a failed print to its merged stderr as well.
            let _ = self.say(line);
        } else {
            let _ = writeln!(self.streams.err, "{line}");
        }
    }

    /// Fails when a signal has come.
    pub(crate) fn check_signals(&self) -> Result<(), Stop> {
        if self.signals.yes() {
            Err(Stop::Interrupted)
        } else {
            Ok(())
        }
    }

    /// On a machine without power nothing goes on, and nothing is tidied up.
    fn check_power(&mut self) -> Result<(), Stop> {
        let name = &self.node.layout.info().name;
        let info = Cluster::of(&self.node.layout).and_then(|cluster| cluster.info().ok());
        match info.as_ref().and_then(|info| info.member(name)) {
            Some(member) if !member.powered => {
                self.at_death = None;
                Err(self.kill_self())
            }
            _ => Ok(()),
        }
    }

    /// A point at which the script may interfere.
    pub(crate) fn point(&mut self, at: At) -> Result<(), Stop> {
        self.check_power()?;
        let point = Point {
            tool: &self.tool,
            sub: &self.sub,
            vmid: self.vmid,
            at,
        };
        let mut faults = crate::script::due(&self.node.layout, point)
            .map_err(|error| Stop::die(format!("pve-sim: {}: {error}", self.node.layout.script().display())))?;
        if let Some(more) = &self.node.faults {
            faults.extend(more.due(point));
        }
        for fault in faults {
            self.suffer(fault)?;
        }
        if at == At::Middle { self.check_signals() } else { Ok(()) }
    }

    fn suffer(&mut self, fault: Fault) -> Result<(), Stop> {
        match fault {
            Fault::DelayMs(ms) => {
                let until = self.node.clock.now_ms().saturating_add(ms);
                while self.node.clock.now_ms() < until {
                    self.check_signals()?;
                    self.node.clock.sleep(Duration::from_millis(20.min(ms)));
                }
                Ok(())
            }
            Fault::Fail { exit, stderr, stdout } => {
                if !stdout.is_empty() {
                    self.say(&stdout)?;
                }
                if exit == 0 {
                    self.complain(&stderr);
                    return Err(Stop::Exit(0));
                }
                Err(Stop::Fail { exit, text: stderr })
            }
            Fault::PauseUntil(path) => {
                let mut reached = path.clone().into_os_string();
                reached.push(".reached");
                std::fs::write(&reached, self.sub.as_bytes())
                    .map_err(|error| Stop::die(format!("{}: {error}", path.display())))?;
                while !path.exists() {
                    self.check_signals()?;
                    self.check_power()?;
                    // Whoever would let it go on has taken the node away: without this it would wait for ever.
                    if !self.layout().root().exists() {
                        return Err(self.kill_self());
                    }
                    self.node.clock.wait_a_little_for(&path);
                }
                Ok(())
            }
            Fault::KillSelf => Err(self.kill_self()),
            Fault::HalfCreate => Err(Stop::Half("pve-sim: left half done by the fault script".to_owned())),
            Fault::DiskFull => {
                self.complain("tar: ./usr/lib: Cannot write: No space left on device");
                Err(Stop::die("No space left on device"))
            }
            Fault::LoseAnswer => {
                self.answer_lost = true;
                Ok(())
            }
            Fault::Lock(lock) => match self.vmid {
                Some(vmid) => crate::pmxcfs::set_lock(&self.node.layout, vmid, &lock)
                    .map_err(|error| Stop::die(format!("pve-sim: lock fault: {error}"))),
                None => Ok(()),
            },
        }
    }

    /// SIGKILL to itself; in-process, where that would end the test, only the outcome.
    pub(crate) fn kill_self(&mut self) -> Stop {
        if let Some(act) = self.at_death.take() {
            act();
        }
        if self.streams.own && nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).is_err() {
            std::process::abort();
        }
        Stop::Killed
    }
}
