//! The tools of one node: each runs on a thread of its own, a step at a time, with the files that the agent's own shim writes. A tool knows nothing of the
//! agent that asked for it, and goes on when that is gone.

use super::time::Time;
use crate::campaign::{dice::SharedDice, profile::Profile, profile::Trouble};
use anyhow::{Context, Result};
use proximity_agent::host::{ProcessStamp, Shim, Status};
use pve_sim::{At, Clock, EXIT_KILLED, Fault, Faults, Node, Point, Signals};
use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Where a tool stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// Its shim was started and has done nothing yet.
    Asked,
    /// At a point of its work.
    At(At),
    /// It waits for time to pass.
    Sleeps(i64),
}

/// What the thread tells.
enum Told {
    Stands(Stand),
    Ended(i32),
    /// It was made to vanish.
    Gone,
}

/// What the thread is told.
enum Tell {
    Go(Vec<Fault>),
    Vanish,
}

struct Vanished;

#[derive(Debug)]
struct Ends {
    told: Sender<Told>,
    tell: Mutex<Receiver<Tell>>,
}

impl Ends {
    /// Hands over and waits to be told.
    fn stop(&self, stand: Stand) -> Vec<Fault> {
        let told = self.told.send(Told::Stands(stand));
        let tell = self.tell.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match (told, tell) {
            (Ok(()), Ok(Tell::Go(faults))) => faults,
            // Not a panic that anybody should hear of: the machine lost its power.
            _ => resume_unwind(Box::new(Vanished)),
        }
    }
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

impl std::fmt::Debug for Tell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tell")
    }
}

/// The node's troubles that concern its tools.
#[derive(Debug, Default)]
pub struct Conditions {
    /// Nothing more can be written to the storages.
    pub disk_full: AtomicBool,
    /// No trouble at all any more.
    pub calm: AtomicBool,
}

/// What every tool of a node is handed.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Root of the node's files.
    pub root: PathBuf,
    /// The run's time.
    pub time: Time,
    /// The run's dice.
    pub dice: SharedDice,
    /// What the run is like.
    pub profile: Arc<Profile>,
    /// How it stands with the node.
    pub conditions: Arc<Conditions>,
}

#[derive(Debug)]
struct Work {
    ends: Arc<Ends>,
    ground: Ground,
}

impl Clock for Work {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.ground.time.now()).unwrap_or(0)
    }
    fn sleep(&self, duration: Duration) {
        let span = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4).max(1);
        // To be told to go on is all that comes of it.
        let _ = self.ends.stop(Stand::Sleeps(self.ground.time.now() + span));
    }
}

impl Faults for Work {
    fn due(&self, point: Point<'_>) -> Vec<Fault> {
        let Ground {
            dice,
            profile,
            conditions,
            ..
        } = &self.ground;
        let mut faults = if dice.chance(profile.stops) {
            self.ends.stop(Stand::At(point.at))
        } else {
            Vec::new()
        };
        if conditions.calm.load(Ordering::SeqCst) {
            return faults;
        }
        let happens = |trouble| dice.chance(profile.rate(trouble));
        if happens(Trouble::ToolHangs) {
            let span = dice.throw(|dice| i64::from(dice.range(1_000..=400_000)));
            faults.extend(self.ends.stop(Stand::Sleeps(self.ground.time.now() + span)));
        }
        if happens(Trouble::ToolKilled) {
            faults.push(Fault::KillSelf);
        }
        if point.at == At::Middle && happens(Trouble::HalfDone) {
            faults.push(Fault::HalfCreate);
        }
        if happens(Trouble::ToolFails) {
            faults.push(Fault::Fail {
                exit: 255,
                stderr: "something that nobody has ever heard of".into(),
                stdout: String::new(),
            });
        }
        if happens(Trouble::AnswerLost) {
            faults.push(Fault::LoseAnswer);
        }
        let writes = matches!(
            (point.tool, point.sub),
            (
                "pct",
                "create" | "push" | "exec" | "clone" | "restore" | "set" | "resize"
            ) | ("pveam", "download")
                | ("vzdump", _)
        );
        if writes && point.at == At::Middle && conditions.disk_full.load(Ordering::SeqCst) {
            faults.push(Fault::DiskFull);
        }
        faults
    }
}

/// A tool that has been claimed by its shim.
struct Running {
    shim: Shim,
    tell: Sender<Tell>,
    told: Receiver<Told>,
    thread: JoinHandle<()>,
    signals: Signals,
}

struct Run {
    folder: PathBuf,
    name: String,
    stand: Stand,
    running: Option<Running>,
}

/// A tool as the run sees it.
#[derive(Debug, Clone)]
pub struct SeenTool {
    /// Its number.
    pub id: i32,
    /// Its unit, without the operation's random number; and what it runs.
    pub name: String,
    /// Where it stands.
    pub stand: Stand,
}

#[derive(Default)]
struct State {
    runs: BTreeMap<i32, Run>,
    next: i32,
    boot: String,
    booted_ms: i64,
}

/// Every tool of a node. Clones share them.
#[derive(Clone)]
pub struct Tools {
    state: Arc<Mutex<State>>,
    ground: Ground,
}

impl std::fmt::Debug for Tools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tools")
    }
}

impl Tools {
    /// None yet.
    pub fn new(ground: Ground) -> Self {
        Self {
            state: Arc::default(),
            ground,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine was booted anew.
    pub fn booted(&self, boot: &str) {
        let mut state = self.state();
        state.boot = boot.to_owned();
        state.booted_ms = self.ground.time.now();
    }

    /// Which boot it is.
    pub fn boot(&self) -> String {
        self.state().boot.clone()
    }

    /// Milliseconds since then.
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.ground.time.now() - self.state().booted_ms).unwrap_or(0)
    }

    /// Somebody starts a shim for that folder.
    pub fn ask(&self, folder: &Path) {
        let unit = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // `proximity-op-<uuid>-<step>`: a name that is the same when the run is repeated.
        let name = unit.get("proximity-op-".len() + 37..).unwrap_or(&unit).to_owned();
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        let run = Run {
            folder: folder.to_owned(),
            name,
            stand: Stand::Asked,
            running: None,
        };
        state.runs.insert(id, run);
    }

    /// Every tool that has not ended, in the order of asking.
    pub fn seen(&self) -> Vec<SeenTool> {
        let state = self.state();
        let seen = |(id, run): (&i32, &Run)| SeenTool {
            id: *id,
            name: run.name.clone(),
            stand: run.stand.clone(),
        };
        state.runs.iter().map(seen).collect()
    }

    /// When the first of those that wait for time is due.
    pub fn next_due(&self) -> Option<i64> {
        let state = self.state();
        let due = state.runs.values().filter_map(|run| match run.stand {
            Stand::Sleeps(until) => Some(until),
            _ => None,
        });
        due.min()
    }

    /// Of a process that begins now.
    fn stamp(&self, id: i32) -> ProcessStamp {
        ProcessStamp {
            pid: id,
            started_ticks: self.uptime_ms() / 10,
            boot: self.boot(),
        }
    }

    /// Whether the tool of that number runs: a worker of Proxmox is its tool's process here.
    pub fn process_lives(&self, pid: i32) -> bool {
        self.state().runs.get(&pid).is_some_and(|run| run.running.is_some())
    }

    /// Whether a process of that stamp lives: that of a shim, which is that of its tool as well.
    pub fn lives(&self, stamp: &ProcessStamp) -> bool {
        let state = self.state();
        stamp.boot == state.boot && state.runs.get(&stamp.pid).is_some_and(|run| run.running.is_some())
    }

    /// TERM: it wakes up, and looks at its signals when it comes to.
    pub fn terminate(&self, stamp: &ProcessStamp) {
        let now = self.ground.time.now();
        let mut state = self.state();
        if let Some(run) = state.runs.get_mut(&stamp.pid)
            && let Some(running) = &run.running
        {
            running.signals.raise();
            if matches!(run.stand, Stand::Sleeps(_)) {
                run.stand = Stand::Sleeps(now);
            }
        }
    }

    /// The tool goes on to its next stop. Answers how it ended, if it did.
    pub fn proceed(&self, id: i32, faults: Vec<Fault>) -> Result<Option<String>> {
        let Some(mut run) = self.state().runs.remove(&id) else {
            return Ok(None);
        };
        let running = match run.running.take() {
            Some(running) => {
                running
                    .tell
                    .send(Tell::Go(faults))
                    .context("the tool's thread is gone")?;
                running
            }
            None => {
                // The folder of a run that only looked may be gone by now.
                if !run.folder.is_dir() {
                    return Ok(Some("is not wanted any more".into()));
                }
                let stamp = self.stamp(id);
                match Shim::claim(&run.folder, &stamp)? {
                    Some(shim) => self.begin(shim, &stamp)?,
                    None => return Ok(Some("finds that another has claimed it".into())),
                }
            }
        };
        match running.told.recv().context("the tool's thread broke")? {
            Told::Stands(stand) => {
                run.stand = stand;
                run.running = Some(running);
                self.state().runs.insert(id, run);
                Ok(None)
            }
            Told::Ended(code) => {
                let words = self.end(&running.shim, code)?;
                let broke = running.thread.join().is_err();
                anyhow::ensure!(!broke, "the thread of {} panicked", run.name);
                self.ground.time.news(&run.folder);
                Ok(Some(words))
            }
            Told::Gone => Ok(Some("vanished".into())),
        }
    }

    fn begin(&self, shim: Shim, stamp: &ProcessStamp) -> Result<Running> {
        let request = shim.request()?;
        let (mut out, mut err) = shim.outputs()?;
        shim.began(stamp)?;
        let (told_here, told) = channel();
        let (tell, tell_there) = channel();
        let (signals_here, signals) = channel();
        let ends = Arc::new(Ends {
            told: told_here,
            tell: Mutex::new(tell_there),
        });
        let ground = self.ground.clone();
        let (pid, ticks) = (u32::try_from(stamp.pid)?, stamp.started_ticks);
        let work = move || {
            let work = Arc::new(Work {
                ends: ends.clone(),
                ground: ground.clone(),
            });
            let name = request
                .program
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let code = Node::open(&ground.root).map(|node| {
                let node = node.with_clock(work.clone()).with_faults(work).as_process(pid, ticks);
                // Whoever started us waits for it.
                let _ = signals_here.send(node.signals());
                catch_unwind(AssertUnwindSafe(|| {
                    node.run(&name, &request.arguments, &mut out, &mut err)
                }))
            });
            let told = match code {
                Ok(Ok(code)) => Told::Ended(code),
                Ok(Err(payload)) if payload.is::<Vanished>() => Told::Gone,
                Ok(Err(payload)) => resume_unwind(payload),
                Err(_) => Told::Ended(255),
            };
            let _ = ends.told.send(told);
        };
        let thread = std::thread::Builder::new().name("tool".into()).spawn(work)?;
        let signals = signals.recv().unwrap_or_default();
        Ok(Running {
            shim,
            tell,
            told,
            thread,
            signals,
        })
    }

    /// The shim writes down how it ended, unless it is killed before.
    fn end(&self, shim: &Shim, code: i32) -> Result<String> {
        let Ground {
            dice,
            profile,
            conditions,
            ..
        } = &self.ground;
        if !conditions.calm.load(Ordering::SeqCst) && dice.chance(profile.rate(Trouble::ShimKilled)) {
            return Ok(format!("ends with {code}, and its shim is killed"));
        }
        let killed = code == EXIT_KILLED;
        shim.ended(&Status {
            code: (!killed).then_some(code),
            signal: killed.then_some(9),
            start_error: None,
        })?;
        Ok(format!("ends with {code}"))
    }

    /// The machine loses its power: every tool is gone where it stands, and what was not synced is lost.
    pub fn vanish(&self) -> Result<()> {
        let runs = std::mem::take(&mut self.state().runs);
        for run in runs.into_values() {
            let Some(running) = run.running else { continue };
            running.tell.send(Tell::Vanish).context("the tool's thread is gone")?;
            anyhow::ensure!(running.thread.join().is_ok(), "the thread of {} panicked", run.name);
            // Nobody syncs the words of a tool.
            for name in ["stdout", "stderr"] {
                fs::write(run.folder.join(name), "").with_context(|| run.folder.display().to_string())?;
            }
        }
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for run in std::mem::take(&mut self.runs).into_values() {
            if let Some(running) = run.running {
                // The run is over; a thread that is gone already is no error.
                let _ = running.tell.send(Tell::Vanish);
                let _ = running.thread.join();
            }
        }
    }
}
