//! One run: a coordinator, three nodes (one alone, two in a cluster), users who ask for things, and everything that goes wrong meanwhile, on one thread and in a time of its own.
//!
//! The run goes from move to move: it draws one of the moves that are possible ([`super::moves`]), lets what is concerned move until all rests, and draws the
//! next. Between two moves nothing moves, so the order of the moves is the whole of what happened.

use super::{
    coordinator::Coordinator,
    hub::Hub,
    ledger::Ledger,
    node::RunNode,
    schedule::Schedule,
    time::Time,
    tools::{Conditions, Ground},
};
use crate::campaign::{
    dice::SharedDice,
    profile::{Profile, Trouble},
};
use anyhow::{Context, Result, bail};
use proximity_coordinator::{domain::catalog::SharedCatalog, service::catalog, store::operations};
use proximity_protocol::ids::NodeId;
use pve_sim::Cluster;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

/// Nodes of a run.
const NODES: usize = 3;
/// A run of more moves does not come to an end.
pub(super) const MOVES_MAX: usize = 60_000;

/// Somebody else's doing, which has to be undone, or must still be there, at the end.
#[derive(Debug, Default)]
pub struct Strangers {
    /// Locks of somebody else: node and container.
    pub locks: Vec<(usize, u32)>,
    /// Containers of somebody else: node, number, and their configuration.
    pub containers: Vec<(usize, u32, String)>,
    /// Those of them that a user may adopt, with what is in their file.
    pub adoptable: Vec<(usize, u32, Vec<u8>)>,
}

/// A run.
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// What it is like.
    pub profile: Arc<Profile>,
    /// Where everything of it lies.
    pub folder: PathBuf,
    /// What happened.
    pub schedule: Schedule,
    /// What was promised.
    pub ledger: Ledger,
    pub(super) dice: SharedDice,
    pub(super) time: Time,
    pub(super) hub: Hub,
    pub(super) nodes: Vec<RunNode>,
    pub(super) ids: Vec<NodeId>,
    pub(super) cluster: Cluster,
    pub(super) partitioned: bool,
    pub(super) coordinator: Option<Coordinator>,
    pub(super) catalog: SharedCatalog,
    pub(super) strangers: Strangers,
    /// What users wait for.
    pub(super) asked: Vec<super::changes::Asked>,
    /// Nodes that an operator has emptied.
    pub(super) drained: BTreeSet<usize>,
    /// No trouble any more: it is brought to its end.
    pub(super) calm: bool,
    pub(super) requests: u32,
    pub(super) moves: usize,
    /// Why use cases refused, and how often: users who ask for nonsense are no trouble, but nothing else may come of it.
    pub(super) refused: BTreeMap<String, usize>,
}

impl Run {
    /// Lays everything out below `folder`, starts the coordinator and the agents.
    pub fn begin(seed: u64, profile: Profile, folder: &Path) -> Result<Self> {
        let (profile, time) = (Arc::new(profile), Time::default());
        // The seed's own dice drew the profile.
        let dice = SharedDice::new(seed ^ 0x5eed);
        fs::create_dir_all(folder.join("coordinator"))?;
        let catalog_folder = folder.join("catalog");
        super::requests::write_catalog(&catalog_folder)?;
        let cluster = Cluster::create(&folder.join("lab"), "lab", &["nas"])?;
        let mut nodes = Vec::new();
        for place in 0..NODES {
            let ground = Ground {
                root: folder.join(format!("pve{}", place + 1)),
                time: time.clone(),
                dice: dice.clone(),
                profile: profile.clone(),
                conditions: Arc::new(Conditions::default()),
            };
            // The first stands alone, the others are a cluster.
            nodes.push(RunNode::create(place, (place > 0).then_some(&cluster), ground)?);
        }
        let ids: Vec<NodeId> = (1..=NODES).map(|n| NodeId(uuid::Uuid::from_u128(n as u128))).collect();
        let mut run = Self {
            seed,
            hub: Hub::new(&ids, dice.clone(), profile.clone()),
            profile,
            folder: folder.to_owned(),
            schedule: Schedule::default(),
            ledger: Ledger::default(),
            dice,
            time,
            nodes,
            ids,
            cluster,
            partitioned: false,
            coordinator: None,
            catalog: SharedCatalog::new(catalog::load(&catalog_folder)?),
            strangers: Strangers::default(),
            asked: Vec::new(),
            drained: BTreeSet::new(),
            calm: false,
            requests: 0,
            moves: 0,
            refused: BTreeMap::new(),
        };
        run.start_coordinator()?;
        run.enrol()?;
        Ok(run)
    }

    fn enrol(&mut self) -> Result<()> {
        self.set_calm(true);
        let mut facts = Vec::new();
        for node in &mut self.nodes {
            node.start_agent()?;
            facts.push(node.facts()?);
        }
        self.coordinator()?.enrol(&self.nodes, &self.ids, &facts)?;
        for node in 0..NODES {
            self.connect(node)?;
            self.report(node)?;
        }
        self.set_calm(false);
        Ok(())
    }

    /// No trouble from now on, or again.
    pub(super) fn set_calm(&mut self, calm: bool) {
        self.calm = calm;
        self.hub.set_calm(calm);
        for node in &self.nodes {
            node.ground.conditions.calm.store(calm, Ordering::SeqCst);
        }
    }

    pub(super) fn note(&mut self, what: impl AsRef<str>) {
        self.schedule.note(self.time.since_begin_ms(), what);
    }

    pub(super) fn trouble(&mut self, what: impl AsRef<str>) {
        self.schedule.trouble(self.time.since_begin_ms(), what);
    }

    pub(super) fn happens(&self, trouble: Trouble) -> bool {
        !self.calm && self.dice.chance(self.profile.rate(trouble))
    }

    pub(super) fn coordinator(&self) -> Result<&Coordinator> {
        self.coordinator.as_ref().context("the coordinator does not live")
    }

    /// Plays until every request was made and has ended, and all is in order again.
    pub fn play(&mut self) -> Result<()> {
        while self.requests < self.profile.requests || self.ledger.under_way() > 0 && self.moves < MOVES_MAX / 4 {
            self.step()?;
        }
        self.come_to_rest()
    }

    /// One move, and what follows from it.
    pub(super) fn step(&mut self) -> Result<()> {
        self.moves += 1;
        if self.moves > MOVES_MAX {
            bail!(
                "it does not come to an end: {} operations are under way after {MOVES_MAX} moves",
                self.ledger.under_way()
            );
        }
        self.stir_up().context("a trouble could not be made")?;
        let chosen = self.choose();
        let mark = chosen.mark();
        self.schedule.drawn(mark.clone());
        self.carry_out(chosen)
            .with_context(|| format!("the move `{mark}` could not be made"))?;
        self.settle()
    }

    /// Lets everything move until all of it rests, and buries the dead.
    pub(super) fn settle(&mut self) -> Result<()> {
        loop {
            if let Some(coordinator) = &self.coordinator {
                coordinator.settle()?;
            }
            for node in &self.nodes {
                node.settle()?;
            }
            let doomed: Vec<usize> = (0..NODES).filter(|node| self.nodes[*node].is_doomed()).collect();
            for node in &doomed {
                self.trouble(format!("the agent of {} is killed in an act", self.nodes[*node].name));
                self.kill_agent(*node)?;
            }
            let falls = self.coordinator.is_some() && self.hub.is_doomed();
            if falls {
                // What it has told was heard.
                self.listen()?;
                self.trouble("the coordinator is killed in an act");
                self.kill_coordinator();
            }
            if doomed.is_empty() && !falls {
                break;
            }
        }
        self.listen()
    }

    /// Hears what the coordinator told.
    fn listen(&mut self) -> Result<()> {
        self.hear_answers()?;
        let Some(coordinator) = &mut self.coordinator else {
            return Ok(());
        };
        let Some(events) = coordinator.events() else {
            bail!("more was told at once than anybody could hear");
        };
        for event in events {
            let Some(place) = self.ledger.heard(&event) else {
                continue;
            };
            let ended = &self.ledger.operations[place];
            let (name, state, kind, app) = (
                self.ledger.name(&ended.id),
                ended.state.clone(),
                ended.kind.clone(),
                ended.app,
            );
            let reason = event.data["reason"].as_str().unwrap_or_default();
            // Random numbers stand in some reasons.
            tracing::info!(target: "campaign", reason, "{name} ends {state}");
            self.note(format!("{name} ends {state}"));
            if let (Some(app), "deploy", "done") = (app, kind.as_str(), state.as_str()) {
                self.leave_proof(app)?;
            }
        }
        Ok(())
    }

    pub(super) fn start_coordinator(&mut self) -> Result<()> {
        let state = self.folder.join("coordinator");
        self.hub.reborn();
        self.coordinator = Some(Coordinator::start(&state, &self.catalog, &self.hub, &self.time)?);
        Ok(())
    }

    pub(super) fn kill_coordinator(&mut self) {
        if let Some(coordinator) = self.coordinator.take() {
            coordinator.kill();
        }
        self.asked.clear();
        for node in 0..NODES {
            self.hub.close(node);
        }
    }

    pub(super) fn kill_agent(&mut self, node: usize) -> Result<()> {
        let torn = self.happens(Trouble::JournalTorn);
        self.nodes[node].kill_agent(torn)?;
        if torn {
            self.trouble(format!(
                "the last record of its journal is torn on {}",
                self.nodes[node].name
            ));
        }
        self.hub.close(node);
        Ok(())
    }

    /// The agent dials, says Hello, and is welcome.
    pub(super) fn connect(&mut self, node: usize) -> Result<()> {
        let facts = self.nodes[node].facts()?;
        let worker = self.nodes[node].worker()?.clone();
        let mut open: Vec<_> = worker.open_jobs().into_iter().map(|job| job.operation).collect();
        open.dedup();
        let coordinator = self.coordinator()?;
        let (notices, epoch) = (coordinator.welcome(self.ids[node], &facts, &open)?, coordinator.epoch);
        self.nodes[node].welcome(epoch)?;
        self.hub.open(node);
        for notice in notices {
            self.nodes[node].notice(notice)?;
        }
        self.nodes[node].owes_report = true;
        self.settle()
    }

    /// The agent tells what is on its node.
    pub(super) fn report(&mut self, node: usize) -> Result<()> {
        let inventory = self.nodes[node].inventory()?;
        self.coordinator()?.report(self.ids[node], inventory);
        self.nodes[node].owes_report = false;
        self.settle()
    }

    /// Whether the registry knows an operation that has not ended.
    pub(super) fn has_unfinished(&self) -> Result<bool> {
        let coordinator = self.coordinator()?;
        coordinator.run(async {
            let left = operations::unfinished(&mut *coordinator.store.read().await?).await?;
            Ok::<_, anyhow::Error>(!left.is_empty())
        })?
    }
}
