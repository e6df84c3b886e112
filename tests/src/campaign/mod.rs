//! The crash campaign: random operations on three nodes (one alone, two in a cluster) and some thirty apps, while everything that can go wrong does. After each
//! run everything is mended, comes to rest, and is looked at: every operation `done`, `undone` or `stuck` with what to do; one container per app and none
//! without one; one owner for each VMID, port and address; no reservation without an owner; every lock explained; a file in each container intact; and whatever
//! is deleted then leaves nothing.
//!
//! - [`dice`], [`profile`]: from a seed, what a run is like.
//! - [`simulated`]: a run in one process and in a time of its own, where every message, tool and kill is a move that the seed decides. It can be repeated
//!   exactly.
//! - [`real`]: a run of the product's own executables as processes, with signals, sockets and disks.
//! - [`spoil`]: breaks a promise on purpose, to show that the campaign can fail.

pub mod dice;
pub mod profile;
pub mod real;
pub mod simulated;
pub mod spoil;

use anyhow::{Context, Result};
use dice::Dice;
use profile::Profile;
use spoil::Spoil;
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// How much a run is at most.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Apps at a time.
    pub apps: u32,
    /// Requests of users.
    pub requests: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            apps: 30,
            requests: 120,
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What it was like.
    pub profile: String,
    /// What happened, in order.
    pub schedule: Vec<String>,
    /// In virtual time: every move, with what happened in its place between them.
    pub moves: Vec<String>,
    /// A checksum over that; in real time over the plan.
    pub schedule_digest: String,
    /// A checksum over how the world looked in the end.
    pub world_digest: String,
    /// Operations by kind and end.
    pub ended: BTreeMap<(String, String), usize>,
    /// How often something went wrong.
    pub troubles: usize,
    /// Everything that is not as it must be; empty is good.
    pub broken: Vec<String>,
    /// Where everything of it lies, if it was kept.
    pub kept: Option<PathBuf>,
}

/// Where runs lie: in memory, where that is possible.
pub fn ground() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// One run in virtual time. `spoil` is broken on purpose before it is looked at.
pub fn simulated_run(seed: u64, size: Size, spoil: Option<Spoil>) -> Outcome {
    let profile = Profile::draw(&mut Dice::new(seed), size.apps, size.requests);
    let mut outcome = Outcome {
        seed,
        profile: profile.to_string(),
        ..Outcome::default()
    };
    let folder = ground().join(format!("proximity-campaign-{}-{seed}", std::process::id()));
    let played = catch_unwind(AssertUnwindSafe(|| play(seed, profile, &folder, &mut outcome, spoil)));
    match played {
        Ok(Ok(())) => {}
        Ok(Err(error)) => outcome.broken.push(format!("{error:#}")),
        Err(payload) => {
            let words = payload.downcast_ref::<String>().map(String::as_str);
            let words = words.or(payload.downcast_ref::<&str>().copied());
            outcome
                .broken
                .push(format!("it panicked: {}", words.unwrap_or("without a word")));
        }
    }
    if outcome.broken.is_empty() {
        // Without quorum its folders may not be removed, but every run ends with it.
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            eprintln!("{} stays behind: {error}", folder.display());
        }
    } else {
        outcome.kept = Some(folder);
    }
    outcome
}

/// As [`simulated_run`], twice: the second must come out exactly as the first.
pub fn simulated_twice(seed: u64, size: Size) -> Outcome {
    let first = simulated_run(seed, size, None);
    if !first.broken.is_empty() {
        return first;
    }
    let mut second = simulated_run(seed, size, None);
    if (&first.schedule_digest, &first.world_digest) != (&second.schedule_digest, &second.world_digest) {
        second.broken.push(difference(&first, &second));
    }
    second
}

/// Where two runs that should be alike part.
fn difference(first: &Outcome, second: &Outcome) -> String {
    let digests = format!(
        "played again it came out otherwise: schedule {} and {}, world {} and {}",
        first.schedule_digest, second.schedule_digest, first.world_digest, second.world_digest
    );
    let longest = first.moves.len().max(second.moves.len());
    let parts = (0..longest).find(|at| first.moves.get(*at) != second.moves.get(*at));
    match parts {
        Some(at) => format!(
            "{digests}; at move {at}: {:?} and {:?}, after {:?}",
            first.moves.get(at),
            second.moves.get(at),
            &first.moves[at.saturating_sub(5)..at]
        ),
        None => digests,
    }
}

fn play(seed: u64, profile: Profile, folder: &Path, outcome: &mut Outcome, spoil: Option<Spoil>) -> Result<()> {
    let mut run = simulated::Run::begin(seed, profile, folder).context("the run could not begin")?;
    let played = run.play();
    let looked_at = played.and_then(|()| {
        if let Some(spoil) = spoil {
            run.spoil(spoil)?;
        }
        outcome.world_digest = run.world_digest()?;
        let mut broken = run.broken()?;
        if broken.is_empty() {
            broken = run.clear_up()?;
        }
        Ok(broken)
    });
    outcome.schedule_digest = run.schedule.digest();
    outcome.troubles = run.schedule.troubles();
    outcome.schedule = run.schedule.lines().to_vec();
    outcome.moves = run.schedule.all().to_vec();
    for operation in &run.ledger.operations {
        let end = (operation.kind.clone(), operation.state.clone());
        *outcome.ended.entry(end).or_default() += 1;
    }
    outcome.broken = looked_at?;
    Ok(())
}
