//! What a run in real time does, all of it from its seed: who asks for what in which order, and what goes wrong between which requests. When a tool is killed
//! is written into the nodes' scripts, by the count of its calls.

use crate::campaign::{
    dice::Dice,
    simulated::{Way, way},
};
use proximity_coordinator::{domain::app_state::Action, operations::KINDS};
use pve_sim::{At, Fault, Rule, Script};
use std::fmt;

/// Something that goes wrong and comes to an end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// SIGKILL to the coordinator.
    CoordinatorKilled,
    /// SIGKILL to an agent.
    AgentKilled(usize),
    /// SIGSTOP to an agent.
    AgentFrozen(usize),
    /// Nothing passes between an agent and the coordinator.
    LinkCut(usize),
    /// A machine loses its power.
    PowerLost(usize),
    /// The nodes of the cluster do not see each other.
    NoQuorum,
}

/// Something that happens in a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL to a tool.
    ToolKilled(usize),
    /// SIGKILL to a shim; its tool goes on.
    ShimKilled(usize),
    /// The packet filter is flushed.
    TableFlushed(usize),
    /// A container is stopped by hand.
    StoppedByHand(usize),
    /// A container is started by hand.
    StartedByHand(usize),
}

/// One item of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A user asks for something; the number picks the app.
    Ask(&'static str, usize),
    /// Trouble begins, and ends after so many milliseconds.
    Begin(Trouble, u64),
    /// A blow.
    Strike(Blow),
    /// Nothing for so many milliseconds.
    Pause(u64),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask(kind, pick) => write!(f, "somebody asks for {kind} ({pick})"),
            Self::Begin(trouble, ms) => write!(f, "!! {trouble:?} for {ms} ms"),
            Self::Strike(blow) => write!(f, "!! {blow:?}"),
            Self::Pause(ms) => write!(f, "{ms} ms pass"),
        }
    }
}

/// The whole.
#[derive(Debug, Clone)]
pub struct Plan {
    /// In order.
    pub items: Vec<Item>,
    /// What goes wrong in tools, by node.
    pub scripts: Vec<Vec<Rule>>,
    /// Operations under way at most.
    pub at_once: i64,
    /// Whether every app is deleted in the end.
    pub clears_all: bool,
}

/// Apps of a run in real time are fewer than in a simulated one: each of their tools is two processes.
const TOOLS: &[(&str, &str)] = &[
    ("pct", "create"),
    ("pct", "start"),
    ("pct", "shutdown"),
    ("pct", "stop"),
    ("pct", "destroy"),
    ("pct", "push"),
    ("pct", "exec"),
    ("pct", "unlock"),
    ("pveam", "download"),
    ("nft", "-f"),
];

impl Plan {
    /// Draws one for so many nodes, of which all but the first are a cluster.
    pub fn draw(seed: u64, nodes: usize, apps: u32, requests: u32) -> Self {
        let mut dice = Dice::new(seed);
        let requests = dice.range(requests / 2..=requests);
        let share = dice.range(50..=400);
        let mut items = Vec::new();
        let mut created = 0;
        for _ in 0..requests {
            while dice.chance(share) {
                items.push(trouble(&mut dice, nodes));
            }
            if dice.chance(300) {
                items.push(Item::Pause(u64::from(dice.range(0..=400))));
            }
            let kind = ask(&mut dice, created < apps);
            created += u32::from(way(kind) == Some(Way::Create));
            items.push(Item::Ask(kind, dice.below(1 << 16)));
        }
        Self {
            items,
            scripts: (0..nodes).map(|_| script(&mut dice)).collect(),
            at_once: i64::from(dice.range(2..=10)),
            clears_all: dice.chance(250),
        }
    }

    /// In words.
    pub fn lines(&self) -> Vec<String> {
        let scripts = self.scripts.iter().enumerate();
        let rules = scripts.flat_map(|(node, rules)| {
            rules
                .iter()
                .map(move |rule| format!("script of pve{}: {rule:?}", node + 1))
        });
        rules.chain(self.items.iter().map(ToString::to_string)).collect()
    }

    /// The script of a node.
    pub fn script(&self, node: usize) -> Script {
        self.scripts[node].iter().cloned().fold(Script::new(), Script::rule)
    }
}

fn ask(dice: &mut Dice, room: bool) -> &'static str {
    let weights: Vec<u32> = KINDS
        .iter()
        .map(|kind| match way(kind.name) {
            Some(Way::Create) if room => 8,
            Some(Way::Create) | None => 0,
            Some(Way::Act(Action::Delete) | Way::Adopt | Way::Drain) => 2,
            Some(_) => 3,
        })
        .collect();
    let place = dice.weighted(&weights).unwrap_or(0);
    KINDS[place].name
}

fn trouble(dice: &mut Dice, nodes: usize) -> Item {
    let node = dice.below(nodes);
    let long = u64::from(dice.range(200..=4_000));
    let begins = |trouble| Item::Begin(trouble, long);
    match dice.below(11) {
        0 => begins(Trouble::CoordinatorKilled),
        1 | 2 => begins(Trouble::AgentKilled(node)),
        3 => begins(Trouble::AgentFrozen(node)),
        4 => begins(Trouble::LinkCut(node)),
        5 => begins(Trouble::PowerLost(node)),
        6 => begins(Trouble::NoQuorum),
        7 => Item::Strike(Blow::ToolKilled(node)),
        8 => Item::Strike(Blow::ShimKilled(node)),
        9 => Item::Strike(Blow::TableFlushed(node)),
        _ if dice.chance(500) => Item::Strike(Blow::StoppedByHand(node)),
        _ => Item::Strike(Blow::StartedByHand(node)),
    }
}

fn script(dice: &mut Dice) -> Vec<Rule> {
    let rules = dice.range(0..=8);
    (0..rules)
        .map(|_| {
            let (tool, sub) = TOOLS[dice.below(TOOLS.len())];
            let at = [At::Before, At::Middle, At::After][dice.below(3)];
            let fault = match dice.below(6) {
                0 => Fault::KillSelf,
                1 => Fault::LoseAnswer,
                2 => Fault::DiskFull,
                3 => Fault::HalfCreate,
                4 => Fault::DelayMs(u64::from(dice.range(100..=3_000))),
                _ => Fault::Fail {
                    exit: 255,
                    stderr: "something that nobody has ever heard of".into(),
                    stdout: String::new(),
                },
            };
            // A full disk stays full for a while.
            let times = if fault == Fault::DiskFull { dice.range(1..=6) } else { 1 };
            Rule::on(tool, fault)
                .subcommand(sub)
                .at(at)
                .skip(u64::from(dice.range(0..=12)))
                .times(u64::from(times))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_plan() {
        let lines = |seed| Plan::draw(seed, 3, 10, 30).lines();
        assert_eq!(lines(4), lines(4));
        assert_ne!(lines(4), lines(5));
    }
}
