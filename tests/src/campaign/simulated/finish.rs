//! The end of a run: everything is mended, everything comes to rest, and then it is looked at.

use super::{run::Run, schedule::digest};
use crate::{
    campaign::{dice::Dice, spoil::Spoil},
    world::{
        NodeFiles, Registry, broken_promises,
        standing::{Known, Proof, Stranger, out_of_place},
    },
};
use anyhow::{Context, Result, bail};
use proximity_coordinator::domain::app_state::{Action, Status};
use sqlx::Row;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// Reconciliation looks at every node by itself that often.
const HOUR_MS: i64 = 3_600_000;
/// More rounds than that to come to rest would be a run that never does.
const ROUNDS_MAX: usize = 40;

impl Run {
    /// No more trouble; whatever is under way ends, and the registry and the nodes come to agree.
    pub(super) fn come_to_rest(&mut self) -> Result<()> {
        self.note("no more trouble");
        self.set_calm(true);
        self.mend()?;
        for _ in 0..ROUNDS_MAX {
            self.until_idle()?;
            let before = self.ledger.operations.len();
            for node in 0..self.nodes.len() {
                self.nodes[node].repair()?;
                self.report(node)?;
            }
            self.time.pass_to(self.time.now() + HOUR_MS);
            self.until_idle()?;
            if self.ledger.operations.len() == before {
                return Ok(());
            }
        }
        bail!("registry and nodes do not come to agree: reconciliation queues operations for ever");
    }

    /// Until nothing is under way.
    fn until_idle(&mut self) -> Result<()> {
        self.settle()?;
        loop {
            if self.can_move() {
                self.step()?;
                continue;
            }
            if !self.has_unfinished()? {
                return Ok(());
            }
            let Some(due) = self.next_due() else {
                bail!("operations are under way, and nothing will ever happen");
            };
            self.moves += 1;
            if due - self.time.now() > HOUR_MS * 12 || self.moves > super::run::MOVES_MAX {
                bail!("{} operations are under way and do not end", self.ledger.under_way());
            }
            self.time.pass_to(due);
            self.settle()?;
        }
    }

    fn files(&self) -> Vec<NodeFiles> {
        self.nodes.iter().map(super::node::RunNode::files).collect()
    }

    fn known(&self) -> Known {
        let proofs = self.ledger.apps.iter().filter_map(|app| {
            let proof = app.proof.as_ref()?;
            Some(Proof {
                app: app.id.clone(),
                content: proof.content.clone(),
            })
        });
        let strangers = self.strangers.containers.iter().map(|(node, vmid, conf)| Stranger {
            // Within a cluster it may have been moved.
            nodes: self
                .nodes
                .iter()
                .enumerate()
                .filter(|(at, _)| (*at == 0) == (*node == 0))
                .map(|(_, node)| node.name.clone())
                .collect(),
            vmid: *vmid,
            conf: conf.clone(),
        });
        Known {
            proofs: proofs.collect(),
            strangers: strangers.collect(),
        }
    }

    /// Breaks a promise on purpose.
    pub fn spoil(&self, spoil: Spoil) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(spoil.apply(&self.folder.join("coordinator/registry.db"), &self.files()))
    }

    /// Everything that is not as it must be.
    pub fn broken(&self) -> Result<Vec<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let strangers: BTreeSet<u32> = self.strangers.containers.iter().map(|(_, vmid, _)| *vmid).collect();
        let mut broken = runtime.block_on(async {
            let mut registry = Registry::open(&self.folder.join("coordinator/registry.db")).await?;
            let mut broken = broken_promises(&mut registry, &self.files(), &strangers).await?;
            broken.extend(out_of_place(&mut registry, &self.files(), &self.known()).await?);
            broken.extend(self.forgotten(&mut registry).await?);
            Ok::<_, anyhow::Error>(broken)
        })?;
        for node in &self.nodes {
            for job in node.worker()?.open_jobs() {
                let name = self.ledger.name(&job.operation.to_string());
                let stuck = self
                    .ledger
                    .operations
                    .iter()
                    .any(|operation| operation.id == job.operation.to_string() && operation.state == "stuck");
                if !stuck {
                    broken.push(format!(
                        "the journal of {} keeps {name} ({}) although it is over",
                        node.name, job.step
                    ));
                }
            }
        }
        Ok(broken)
    }

    /// Operations that a user was told of and that the registry does not have.
    async fn forgotten(&self, registry: &mut Registry) -> Result<Vec<String>> {
        let mut there = BTreeSet::new();
        for row in registry.rows("SELECT id FROM operations").await? {
            there.insert(row.try_get::<String, _>(0)?);
        }
        let lost = self
            .ledger
            .operations
            .iter()
            .filter(|operation| operation.acknowledged && !there.contains(&operation.id));
        Ok(lost
            .map(|operation| {
                format!(
                    "{} was accepted, and the registry does not know it",
                    self.ledger.name(&operation.id)
                )
            })
            .collect())
    }

    /// What an operator does about apps in `error`: they are deleted; and now and then all are. Nothing may be left of them.
    pub fn clear_up(&mut self) -> Result<Vec<String>> {
        let everything = self.dice.chance(250);
        self.note(if everything {
            "every app is deleted"
        } else {
            "what is in error is deleted"
        });
        for row in self.rows()? {
            if everything || row.app.status == Status::Error {
                self.act_on(row.app.id.as_str(), Action::Delete)?;
            }
        }
        self.come_to_rest()?;
        let mut broken = self.broken()?;
        let left = self.rows()?.len();
        if everything && left > 0 {
            broken.push(format!("every app was deleted, and the registry still has {left}"));
        }
        let in_error = self.rows()?.into_iter().filter(|row| row.app.status == Status::Error);
        for row in in_error {
            let app = self
                .ledger
                .app(row.app.id.as_str())
                .context("an app that nobody created")?;
            broken.push(format!(
                "app {app} was in error and could not be deleted: {:?}",
                row.app.status_reason
            ));
        }
        Ok(broken)
    }

    /// How the world looks, without anything random: equal for two runs of one seed.
    pub fn world(&self) -> Result<String> {
        let mut text = String::new();
        let mut named = BTreeMap::new();
        for row in self.rows()? {
            let place = self
                .ledger
                .app(row.app.id.as_str())
                .context("an app that nobody created")?;
            let app = row.app;
            named.insert(
                place,
                format!(
                    "app {place} {} on {} generation {} vmid {:?} port {:?} address {:?} published {:?}",
                    app.status, row.node_name, app.generation, app.vmid, app.public_port, app.ip_address, app.published
                ),
            );
        }
        for line in named.values() {
            writeln!(text, "{line}")?;
        }
        for operation in &self.ledger.operations {
            writeln!(text, "{} {}", self.ledger.name(&operation.id), operation.state)?;
        }
        for node in &self.nodes {
            let found = node.files().read()?;
            let place = |app: &String| self.ledger.app(app);
            writeln!(
                text,
                "{}: containers {:?} running {:?} locks {:?} volumes {:?}",
                node.name, found.containers, found.running, found.locks, found.volumes
            )?;
            for (vmid, app) in &found.records {
                writeln!(text, "{}: {vmid} is of app {:?}", node.name, place(app))?;
            }
            for port in &found.published {
                writeln!(
                    text,
                    "{}: port {} leads to {} at {}",
                    node.name, port.port, port.vmid, port.address
                )?;
            }
        }
        Ok(text)
    }

    /// A checksum over [`Run::world`].
    pub fn world_digest(&self) -> Result<String> {
        Ok(digest(&self.world()?))
    }

    /// What must hold at every moment: looked at whenever a tool has gone on.
    pub(super) fn check_now(&self, node: usize) -> Result<()> {
        let found = self.nodes[node].files().read()?;
        let mut whose: BTreeMap<&String, u32> = BTreeMap::new();
        for (vmid, app) in &found.records {
            if found.containers.contains(vmid)
                && let Some(other) = whose.insert(app, *vmid)
            {
                bail!(
                    "an app has two containers on {}: {other} and {vmid}",
                    self.nodes[node].name
                );
            }
        }
        for port in &found.published {
            // The number may have got another owner only after the port was closed.
            if let Some(owner) = found.records.get(&port.vmid)
                && *owner != port.app
                && found.running.contains(&port.vmid)
            {
                bail!(
                    "port {} of {} leads to the container of another app",
                    port.port,
                    self.nodes[node].name
                );
            }
        }
        Ok(())
    }

    /// Another seed for what comes after the run, so that it does not depend on how many numbers the run drew.
    pub fn dice_after(&self) -> Dice {
        Dice::new(self.seed.rotate_left(17))
    }
}
