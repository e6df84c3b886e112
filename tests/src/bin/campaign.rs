//! `cargo campaign --seed S --runs N`: the crash campaign. Ends with 0 if no run broke a promise. A seed that did is printed with what happened; `--seed <it>
//! --runs 1` plays it again exactly.

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use proximity_tests::campaign::{
    Outcome, Size, real::real_run, simulated::turns, simulated_run, simulated_twice, spoil::Spoil,
};
use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Random operations while coordinator, agents, tools, links, disks and quorum fail; then everything is looked at.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// The first run's seed; each further run has the next number. Without one it is drawn from the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// How many runs.
    #[arg(long, default_value_t = 10)]
    runs: u64,
    /// Stops after that many seconds, whatever is left.
    #[arg(long)]
    seconds: Option<u64>,
    /// How runs are played: in virtual time, as real processes, or both: then every twentieth seed is a run of processes.
    #[arg(long, value_enum, default_value_t = Depth::Both)]
    depth: Depth,
    /// Runs at the same time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
    /// Apps at most.
    #[arg(long, default_value_t = Size::default().apps)]
    apps: u32,
    /// Requests of users at most, in a run.
    #[arg(long, default_value_t = Size::default().requests)]
    requests: u32,
    /// Breaks a promise on purpose at the end of each run, which must be found.
    #[arg(long, value_enum)]
    spoil: Option<Spoil>,
    /// Goes on after a run that broke a promise.
    #[arg(long)]
    keep_going: bool,
    /// Plays each run in virtual time twice: it must come out exactly alike.
    #[arg(long, conflicts_with = "spoil")]
    twice: bool,
    /// Prints every schedule.
    #[arg(long)]
    schedule: bool,
    /// Prints the product's own log too; with `--jobs 1`.
    #[arg(long)]
    log: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Depth {
    Virtual,
    Real,
    Both,
}

/// Of so many seeds one is a run of processes.
const REAL_SHARE: u64 = 20;

impl Depth {
    fn is_real(self, seed: u64) -> bool {
        match self {
            Self::Virtual => false,
            Self::Real => true,
            Self::Both => seed.is_multiple_of(REAL_SHARE),
        }
    }
}

/// Below the modes of files, as everybody who is not root: without quorum `/etc/pve` refuses by its modes, which root would not see.
const BELOW: &str = "PROXIMITY_CAMPAIGN_BELOW_MODES";

fn below_modes() -> Result<()> {
    if !nix::unistd::geteuid().is_root() || std::env::var_os(BELOW).is_some() {
        return Ok(());
    }
    let capabilities = "-dac_override,-dac_read_search";
    let error = Command::new("setpriv")
        .args(["--bounding-set", capabilities, "--inh-caps", capabilities])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(BELOW, "1")
        .exec();
    Err(error).context("setpriv of util-linux is needed when the campaign runs as root")
}

/// The cores that this process may use.
fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0));
    allowed.map_or_else(
        |_| Vec::new(),
        |set| {
            (0..CpuSet::count())
                .filter(|core| set.is_set(*core) == Ok(true))
                .collect()
        },
    )
}

/// This thread and those that it begins stay on these; that they may not is only slower.
fn stay_on(cores: &[usize]) {
    let mut set = CpuSet::new();
    let known = cores.iter().filter(|core| set.set(**core).is_ok()).count();
    if known > 0 {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    below_modes()?;
    turns::install(options.log);
    let begin = match options.seed {
        Some(seed) => seed,
        None => u64::try_from(std::time::UNIX_EPOCH.elapsed()?.as_millis())?,
    };
    println!(
        "campaign: {} runs from seed {begin}, {} at a time",
        options.runs, options.jobs
    );
    let tally = Tally::default();
    let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    let cores = cores();
    let work = |job: usize| {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            let late = options
                .seconds
                .is_some_and(|seconds| started.elapsed() >= Duration::from_secs(seconds));
            if number >= options.runs || late || over.load(Ordering::SeqCst) {
                return;
            }
            let size = Size {
                apps: options.apps,
                requests: options.requests,
            };
            let seed = begin.wrapping_add(number);
            // The threads of a run in virtual time work one after the other: on one core nobody has to be woken elsewhere.
            let real = options.depth.is_real(seed);
            let own = cores.get(job % cores.len().max(1)).copied();
            stay_on(if real { &cores } else { own.as_slice() });
            let outcome = if real {
                real_run(seed, size)
            } else if options.twice {
                simulated_twice(seed, size)
            } else {
                simulated_run(seed, size, options.spoil)
            };
            if options.schedule {
                println!("{}", outcome.schedule.join("\n"));
            }
            if !outcome.broken.is_empty() && !options.keep_going {
                over.store(true, Ordering::SeqCst);
            }
            tally.add(&outcome);
        }
    };
    std::thread::scope(|scope| {
        for job in 0..options.jobs.max(1) {
            let work = &work;
            scope.spawn(move || work(job));
        }
    });
    tally.print(started.elapsed());
    if tally.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Tally {
    failed: Mutex<bool>,
    runs: AtomicU64,
    troubles: AtomicU64,
    ended: Mutex<BTreeMap<(String, String), usize>>,
}

impl Tally {
    fn add(&self, outcome: &Outcome) {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.troubles.fetch_add(outcome.troubles as u64, Ordering::SeqCst);
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        for (end, count) in &outcome.ended {
            *ended.entry(end.clone()).or_default() += count;
        }
        drop(ended);
        println!(
            "seed {} {}: schedule {} world {}, {} operations, {} troubles",
            outcome.seed,
            if outcome.broken.is_empty() { "holds" } else { "BREAKS" },
            outcome.schedule_digest,
            outcome.world_digest,
            outcome.ended.values().sum::<usize>(),
            outcome.troubles,
        );
        if !outcome.broken.is_empty() {
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = true;
            if let Err(error) = report(outcome) {
                eprintln!("the report could not be written: {error:#}");
            }
        }
    }

    fn print(&self, took: Duration) {
        let runs = self.runs.load(Ordering::SeqCst);
        println!(
            "{runs} runs in {:.0} s ({:.1} a minute), {} troubles",
            took.as_secs_f64(),
            f64::from(u32::try_from(runs).unwrap_or(u32::MAX)) * 60.0 / took.as_secs_f64().max(0.001),
            self.troubles.load(Ordering::SeqCst)
        );
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        for ((kind, state), count) in ended.iter() {
            println!("  {kind} {state}: {count}");
        }
    }
}

/// What happened, and where to look further.
fn report(outcome: &Outcome) -> Result<()> {
    println!("--- seed {}: {}", outcome.seed, outcome.profile);
    let from = outcome.schedule.len().saturating_sub(40);
    println!("{}", outcome.schedule[from..].join("\n"));
    for broken in &outcome.broken {
        println!("BROKEN: {broken}");
    }
    // A run that only came out otherwise the second time left nothing to look at.
    if let Some(kept) = &outcome.kept {
        let file = kept.join("schedule.txt");
        std::fs::write(&file, format!("{}\n{}\n", outcome.profile, outcome.schedule.join("\n")))?;
        println!("everything of it: {} (schedule: {})", kept.display(), file.display());
    }
    println!(
        "again: cargo campaign --seed {} --runs 1 --jobs 1 --log   (RUST_LOG=info says more)",
        outcome.seed
    );
    Ok(())
}
