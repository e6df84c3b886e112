//! Which moves are possible, and carrying them out.

use super::{
    hub::Stage,
    run::Run,
    tools::{SeenTool, Stand},
};
use crate::campaign::profile::Trouble;
use anyhow::{Context, Result};
use proximity_protocol::command::Command;
use std::sync::atomic::Ordering;

/// A move.
#[derive(Debug, Clone)]
pub(super) enum Move {
    /// A command arrives.
    Command(u64, usize, Box<Command>),
    /// An answer arrives.
    Answer(u64, Box<Command>),
    /// A notice arrives.
    Notice(usize),
    /// A tool goes on.
    Tool(usize, SeenTool),
    /// An agent connects.
    Connect(usize),
    /// An agent tells what is on its node.
    Report(usize),
    /// An agent looks after its published ports.
    Repair(usize),
    /// An agent starts.
    StartAgent(usize),
    /// The coordinator starts.
    StartCoordinator,
    /// A machine boots.
    Boot(usize),
    /// A link is in order again.
    Heal(usize),
    /// A disk has room again.
    Room(usize),
    /// There is quorum again.
    Quorum,
    /// Somebody else's lock goes.
    Unlock(usize),
    /// Emptied nodes take apps again.
    Undrain,
    /// A user asks for something.
    Request,
    /// Time passes, to that moment.
    Pass(i64),
}

impl Move {
    /// In a word or two that are the same whenever the run is repeated.
    pub(super) fn mark(&self) -> String {
        match self {
            Self::Command(id, node, _) => format!("command {id} to {node}"),
            Self::Answer(id, _) => format!("answer {id}"),
            Self::Tool(node, tool) => format!("tool {} of {node}", tool.id),
            other => format!("{other:?}"),
        }
    }
}

impl Run {
    fn weighed(&self) -> Vec<(u32, Move)> {
        let mut moves = Vec::new();
        for seen in self.hub.seen() {
            let command = Box::new(seen.command);
            match seen.stage {
                Stage::Sent => moves.push((10, Move::Command(seen.id, seen.node, command))),
                Stage::Answered(_) => moves.push((10, Move::Answer(seen.id, command))),
                Stage::AtWork => {}
            }
        }
        let now = self.time.now();
        for (place, node) in self.nodes.iter().enumerate() {
            if self.hub.notices(place) > 0 {
                moves.push((6, Move::Notice(place)));
            }
            for tool in node.tools.seen() {
                match tool.stand {
                    Stand::Sleeps(until) if until > now => {}
                    _ => moves.push((10, Move::Tool(place, tool))),
                }
            }
            let open = self.hub.is_open(place);
            if self.coordinator.is_some() && node.lives() && node.linked && !open {
                moves.push((5, Move::Connect(place)));
            }
            if open && node.owes_report {
                moves.push((4, Move::Report(place)));
            }
            if !node.powered {
                moves.push((2, Move::Boot(place)));
            } else if !node.lives() {
                moves.push((2, Move::StartAgent(place)));
            }
            if !node.linked {
                moves.push((2, Move::Heal(place)));
            }
            if node.ground.conditions.disk_full.load(Ordering::SeqCst) {
                moves.push((1, Move::Room(place)));
            }
        }
        if self.partitioned {
            moves.push((1, Move::Quorum));
        }
        if self.coordinator.is_none() {
            moves.push((4, Move::StartCoordinator));
        }
        for (at, (node, _)) in self.strangers.locks.iter().enumerate() {
            if self.is_in_order(*node) {
                moves.push((1, Move::Unlock(at)));
            }
        }
        if self.coordinator.is_some() && !self.drained.is_empty() {
            moves.push((1, Move::Undrain));
        }
        let asks = self.coordinator.is_some()
            && self.requests < self.profile.requests
            && self.ledger.under_way() < usize::try_from(self.profile.at_once).unwrap_or(usize::MAX);
        if asks {
            moves.push((5, Move::Request));
        }
        moves
    }

    /// When something happens by itself next.
    pub(super) fn next_due(&self) -> Option<i64> {
        let now = self.time.now();
        let tools = self
            .nodes
            .iter()
            .filter_map(|node| node.tools.next_due())
            .filter(|due| *due > now);
        tools.chain(self.time.next_due()).min()
    }

    /// Whether anything but time can move.
    pub(super) fn can_move(&self) -> bool {
        !self.weighed().is_empty()
    }

    /// Draws the next move.
    pub(super) fn choose(&self) -> Move {
        let mut moves = self.weighed();
        // What comes back by itself does so in its own time.
        let pressing = moves.iter().any(|(weight, _)| *weight > 2);
        if let Some(due) = self.next_due() {
            if !self.calm && self.dice.chance(self.profile.haste) {
                return Move::Pass(due);
            }
            if !pressing {
                moves.push((4, Move::Pass(due)));
            }
        }
        if !self.calm
            && let Some(place) = self.dice.throw(|dice| {
                let place = dice.below(self.nodes.len());
                dice.chance(3).then_some(place)
            })
            && self.nodes[place].lives()
        {
            return Move::Repair(place);
        }
        let weights: Vec<u32> = moves.iter().map(|(weight, _)| *weight).collect();
        match self.dice.throw(|dice| dice.weighted(&weights)) {
            Some(at) => moves.swap_remove(at).1,
            // Nothing at all is to come: an hour later it is the same.
            None => Move::Pass(self.time.now() + 3_600_000),
        }
    }

    fn name(&self, command: &Command) -> String {
        format!(
            "{} ({})",
            self.ledger.name(&command.operation.to_string()),
            command.step
        )
    }

    /// Does it.
    pub(super) fn carry_out(&mut self, chosen: Move) -> Result<()> {
        match chosen {
            Move::Command(id, node, command) => self.command(id, node, &command),
            Move::Answer(id, command) => {
                let name = self.name(&command);
                if self.happens(Trouble::ReplyLost) {
                    self.trouble(format!("the answer to {name} is lost"));
                    self.hub.lose(id);
                } else {
                    self.note(format!("the answer to {name} arrives"));
                    self.hub.deliver(id);
                }
                Ok(())
            }
            Move::Notice(node) => {
                let Some(notice) = self.hub.next_notice(node) else {
                    return Ok(());
                };
                if self.happens(Trouble::NoticeLost) {
                    // A stream loses nothing as long as its link stands.
                    self.trouble(format!("a notice to {} is lost with its link", self.nodes[node].name));
                    self.hub.close(node);
                    return Ok(());
                }
                if self.nodes[node].lives() {
                    self.nodes[node].notice(notice)?;
                }
                Ok(())
            }
            Move::Tool(node, tool) => self.tool(node, &tool),
            Move::Connect(node) => {
                self.note(format!("the agent of {} connects", self.nodes[node].name));
                self.connect(node)
            }
            Move::Report(node) => {
                self.note(format!("{} tells what is on it", self.nodes[node].name));
                self.report(node)
            }
            Move::Repair(node) => self.nodes[node].repair(),
            Move::StartAgent(node) => {
                self.note(format!("the agent of {} starts", self.nodes[node].name));
                self.nodes[node].start_agent()
            }
            Move::StartCoordinator => {
                self.note("the coordinator starts");
                self.start_coordinator()
            }
            Move::Boot(node) => {
                self.note(format!("{} boots", self.nodes[node].name));
                self.nodes[node].boot()
            }
            Move::Heal(node) => {
                self.note(format!("the link of {} is in order again", self.nodes[node].name));
                self.nodes[node].linked = true;
                Ok(())
            }
            Move::Room(node) => {
                self.note(format!("the disk of {} has room again", self.nodes[node].name));
                self.nodes[node]
                    .ground
                    .conditions
                    .disk_full
                    .store(false, Ordering::SeqCst);
                Ok(())
            }
            Move::Quorum => {
                self.note("the nodes of the cluster see each other again");
                self.whole()
            }
            Move::Unlock(at) => self.unlock(at),
            Move::Undrain => self.undrain(),
            Move::Request => self.request(),
            Move::Pass(then) => {
                self.time.pass_to(then);
                Ok(())
            }
        }
    }

    fn command(&mut self, id: u64, node: usize, command: &Command) -> Result<()> {
        let name = self.name(command);
        if self.happens(Trouble::CommandLost) {
            self.trouble(format!("{name} is lost on its way to {}", self.nodes[node].name));
            self.hub.lose(id);
            return Ok(());
        }
        self.note(format!("{name} arrives at {}", self.nodes[node].name));
        let Some(command) = self.hub.take(id) else {
            return Ok(());
        };
        let hub = self.hub.clone();
        self.nodes[node].execute(&hub, id, command)
    }

    fn tool(&mut self, node: usize, tool: &SeenTool) -> Result<()> {
        let name = format!("{} of {}", tool.name, self.nodes[node].name);
        let ended = self.nodes[node]
            .tools
            .proceed(tool.id, Vec::new())
            .with_context(|| name.clone())?;
        match ended {
            Some(words) => self.note(format!("{name} {words}")),
            None => {
                let stand = self.nodes[node]
                    .tools
                    .seen()
                    .into_iter()
                    .find(|seen| seen.id == tool.id);
                self.note(format!("{name} goes on: {:?}", stand.map(|seen| seen.stand)));
            }
        }
        self.check_now(node)
    }
}
