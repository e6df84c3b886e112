//! The machine below one agent's life: the port of the agent to a simulated node in the same process.

use super::tools::{Ground, Tools};
use crate::campaign::profile::Trouble;
use proximity_agent::host::{BoxFuture, HostTools, ProcessStamp, Short, ShortEnd};
use pve_sim::{Clock, Layout, Node};
use std::{
    future::pending,
    io,
    net::SocketAddrV4,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

/// One life of an agent on a simulated node.
#[derive(Debug)]
pub struct Machine {
    ground: Ground,
    tools: Tools,
    /// It is to be killed: nothing that it asks for is answered any more.
    doomed: Arc<AtomicBool>,
    /// The harness itself asks: no trouble meanwhile.
    spared: Arc<AtomicBool>,
}

/// For tools that are run from here: time stands still for them.
#[derive(Debug)]
struct Standing(u64);

impl Clock for Standing {
    fn now_ms(&self) -> u64 {
        self.0
    }
    fn sleep(&self, _: Duration) {}
}

impl Machine {
    /// A new life.
    pub fn new(ground: Ground, tools: Tools, doomed: Arc<AtomicBool>, spared: Arc<AtomicBool>) -> Self {
        Self {
            ground,
            tools,
            doomed,
            spared,
        }
    }

    /// The agent asks for something: this may be where it is killed. It hears nothing any more then.
    async fn mortal(&self) {
        let rate = self.ground.profile.rate(Trouble::AgentKilledInAct);
        if !self.is_calm() && self.ground.dice.chance(rate) {
            self.doomed.store(true, Ordering::SeqCst);
        }
        if self.doomed.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
    }

    /// Whether a short command fails now, and whether it has acted before that.
    fn fails(&self) -> Option<bool> {
        if self.is_calm() || !self.ground.dice.chance(self.ground.profile.rate(Trouble::ShortFails)) {
            return None;
        }
        Some(self.ground.dice.chance(500))
    }

    fn is_calm(&self) -> bool {
        self.ground.conditions.calm.load(Ordering::SeqCst) || self.spared.load(Ordering::SeqCst)
    }

    fn run(&self, command: &Short<'_>) -> io::Result<ShortEnd> {
        let now = u64::try_from(self.ground.time.now()).unwrap_or(0);
        let node = Node::open(&self.ground.root)?.with_clock(Arc::new(Standing(now)));
        let name = command.program.file_name().unwrap_or_default().to_string_lossy();
        let words: Vec<String> = command
            .arguments
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = node.run_with_input(
            &name,
            &words,
            &mut command.stdin.unwrap_or_default(),
            &mut out,
            &mut err,
        );
        Ok(ShortEnd {
            success: code == 0,
            stdout: String::from_utf8_lossy(&out).into_owned(),
            stderr: String::from_utf8_lossy(&err).into_owned(),
        })
    }
}

/// What `nft` says while somebody else changes the same.
fn refused() -> ShortEnd {
    ShortEnd {
        success: false,
        stdout: String::new(),
        stderr: "Error: Could not process rule: Device or resource busy\n".into(),
    }
}

impl HostTools for Machine {
    fn now_unix_ms(&self) -> i64 {
        self.ground.time.now()
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.tools.uptime_ms())
    }

    fn boot(&self) -> io::Result<String> {
        Ok(self.tools.boot())
    }

    /// Files have real times, and this machine has not: whatever was written was written just now.
    fn age(&self, _: SystemTime) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.mortal().await;
            self.ground.time.sleep(time).await;
        })
    }

    fn start<'a>(&'a self, _: &'a str, folder: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.mortal().await;
            self.tools.ask(folder);
            self.mortal().await;
            Ok(())
        })
    }

    fn news<'a>(&'a self, folder: &'a Path, at_most: Duration) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !folder.join("status.json").exists() {
                self.ground.time.sleep_or_news(at_most, Some(folder.to_owned())).await;
            }
            self.mortal().await;
        })
    }

    fn lives(&self, process: &ProcessStamp) -> bool {
        self.tools.lives(process)
    }

    fn run_lives(&self, _: &Path, claim: Option<&ProcessStamp>) -> bool {
        claim.is_some_and(|claim| self.tools.lives(claim))
    }

    fn process_lives(&self, pid: i32, _: u64) -> bool {
        self.tools.process_lives(pid)
    }

    fn terminate(&self, process: &ProcessStamp) -> io::Result<()> {
        self.tools.terminate(process);
        Ok(())
    }

    fn short<'a>(&'a self, command: Short<'a>) -> BoxFuture<'a, io::Result<ShortEnd>> {
        Box::pin(async move {
            self.mortal().await;
            let fails = self.fails();
            let end = match fails {
                Some(false) => refused(),
                _ => self.run(&command)?,
            };
            self.mortal().await;
            Ok(if fails == Some(true) { refused() } else { end })
        })
    }

    fn connect(&self, address: SocketAddrV4, _: Duration) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.mortal().await;
            if pve_sim::answers(&Layout::open(&self.ground.root)?, address)? {
                Ok(())
            } else {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        })
    }
}
