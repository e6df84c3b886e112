//! What a run is like: how much is asked, how fast time passes, and what goes wrong how often. Each run draws a mixture of its own, so that some runs see one
//! kind of fault alone and others all of them at once.

use super::dice::Dice;
use std::fmt;

macro_rules! troubles {
    ($($(#[$doc:meta])* $variant:ident = $words:literal, $most:literal;)+) => {
        /// What goes wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Trouble { $($(#[$doc])* $variant),+ }
        impl Trouble {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// In words.
            pub fn words(self) -> &'static str {
                match self { $(Self::$variant => $words),+ }
            }
            /// The most often that it happens, per mille of the occasions.
            fn most(self) -> u32 {
                match self { $(Self::$variant => $most),+ }
            }
        }
    };
}

troubles! {
    /// A command does not arrive.
    CommandLost = "commands lost", 60;
    /// A command was carried out and its reply does not arrive.
    ReplyLost = "replies lost", 60;
    /// A notice (committed, cancel) does not arrive, and the link breaks with it.
    NoticeLost = "notices lost", 60;
    /// A node's link is cut and comes back later.
    LinkCut = "links cut", 6;
    /// An agent is killed and comes back later.
    AgentKilled = "agents killed", 6;
    /// An agent is killed right before or after it asks its machine for something.
    AgentKilledInAct = "agents killed in an act", 6;
    /// The last record of a killed agent's journal is torn.
    JournalTorn = "journals torn", 300;
    /// The coordinator is killed and comes back later.
    CoordinatorKilled = "coordinator killed", 6;
    /// The coordinator is killed right before it sends something, or right after it was answered.
    CoordinatorKilledInAct = "coordinator killed in an act", 6;
    /// A node loses its power and comes back later.
    PowerLost = "power lost", 3;
    /// A tool is killed.
    ToolKilled = "tools killed", 25;
    /// A tool and its shim are killed: nobody knows how it ended.
    ShimKilled = "shims killed", 25;
    /// A tool does its work, and is killed before it says so.
    AnswerLost = "tools' answers lost", 25;
    /// A tool fails.
    ToolFails = "tools failing", 40;
    /// A tool fails and leaves what is half done.
    HalfDone = "half done", 15;
    /// A tool hangs for a while.
    ToolHangs = "tools hanging", 20;
    /// A node's disk is full for a while.
    DiskFull = "disks full", 4;
    /// A node has no quorum for a while.
    NoQuorum = "quorum lost", 4;
    /// Somebody else locks a container for a while.
    ForeignLock = "foreign locks", 6;
    /// Another tool flushes the node's packet filter.
    TableFlushed = "tables flushed", 4;
    /// A short command (`nft`) fails, before or after it has acted.
    ShortFails = "short commands failing", 30;
    /// An operator moves a container to the other node of its cluster.
    Migrated = "migrated by hand", 3;
    /// An operator stops or starts a container by hand.
    ByHand = "stopped or started by hand", 4;
    /// A stranger takes the number that an app is about to get.
    Stranger = "strangers' containers", 4;
}

/// One run.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Apps at most at a time.
    pub apps: u32,
    /// Requests of users in all.
    pub requests: u32,
    /// Operations under way at most; further requests wait.
    pub at_once: u32,
    /// How much time passes although something else could happen first, per mille.
    pub haste: u32,
    /// How often a tool is stopped at one of its points, per mille.
    pub stops: u32,
    rates: Vec<u32>,
}

impl Profile {
    /// Draws one. `apps` and `requests` are the most.
    pub fn draw(dice: &mut Dice, apps: u32, requests: u32) -> Self {
        let share = dice.range(100..=900);
        let rates = Trouble::ALL
            .iter()
            .map(|trouble| {
                if dice.chance(share) {
                    dice.range(1..=trouble.most())
                } else {
                    0
                }
            })
            .collect();
        Self {
            apps,
            requests: dice.range(requests / 2..=requests),
            at_once: dice.range(2..=16),
            haste: dice.range(0..=120),
            stops: dice.range(0..=500),
            rates,
        }
    }

    /// Without any trouble.
    pub fn calm(apps: u32, requests: u32) -> Self {
        Self {
            apps,
            requests,
            at_once: 8,
            haste: 50,
            stops: 100,
            rates: vec![0; Trouble::ALL.len()],
        }
    }

    /// How often it happens, per mille of its occasions.
    pub fn rate(&self, trouble: Trouble) -> u32 {
        Trouble::ALL
            .iter()
            .position(|t| *t == trouble)
            .and_then(|at| self.rates.get(at))
            .copied()
            .unwrap_or(0)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests on up to {} apps", self.requests, self.apps)?;
        for trouble in Trouble::ALL {
            if self.rate(*trouble) > 0 {
                write!(f, ", {} {}‰", trouble.words(), self.rate(*trouble))?;
            }
        }
        Ok(())
    }
}
