//! One node of a run: its files, its tools, and the agent on it while it lives.

use super::{
    hub::Hub,
    lockstep::Lockstep,
    machine::Machine,
    tools::{Ground, Tools},
};
use crate::world::{NodeFiles, standing::proof_path};
use anyhow::{Context, Result};
use proximity_agent::{
    config::Config,
    host::NodeContext,
    worker::{Worker, WorkerError},
};
use proximity_protocol::{
    command::{Command, Reply, Verb},
    event::Notice,
    ids::Epoch,
    observed::{Inventory, NodeFacts},
};
use pve_sim::{Cluster, Layout, Node, NodeSpec};
use std::{
    fs,
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// The coordinator of all runs, as agents know it.
const COORDINATOR: &str = "the campaign's coordinator";

/// One life of an agent.
struct Life {
    process: Lockstep,
    worker: Worker,
    doomed: Arc<AtomicBool>,
    spared: Arc<AtomicBool>,
    /// Looks under way: they read files on a thread of their own.
    looks: Arc<AtomicUsize>,
}

/// A node.
pub struct RunNode {
    /// Name in Proxmox.
    pub name: String,
    /// Its tools.
    pub tools: Tools,
    /// How it stands.
    pub ground: Ground,
    /// It has power.
    pub powered: bool,
    /// Its link is in order.
    pub linked: bool,
    /// Its inventory is to be sent.
    pub owes_report: bool,
    cluster: Option<Cluster>,
    place: usize,
    config: Config,
    life: Option<Life>,
}

/// Where published ports of the node answer: nobody ever listens there, everything happens in files.
fn address(place: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 30, u8::try_from(place + 1).unwrap_or(u8::MAX), 1)
}

fn config(root: &Path, place: usize) -> Config {
    let mut config = Config::default();
    config.paths.state = root.join("var/lib/proximity-agent");
    config.paths.policy = root.join("etc/proximity/policy.toml");
    config.host.pve_tools = root.join("usr/bin");
    config.host.nft = root.join("usr/sbin/nft");
    config.host.etc_pve = root.join("etc/pve");
    config.host.proc = root.join("proc");
    config.host.cgroup = root.join("sys/fs/cgroup");
    config.host.task_log = root.join("var/log/pve");
    config.host.run = root.join("run");
    config.host.sys_class_net = root.join("sys/class/net");
    config.node.address = Some(address(place));
    config
}

impl RunNode {
    /// Lays the node out, alone or in a cluster; its agent does not live yet.
    pub fn create(place: usize, cluster: Option<&Cluster>, ground: Ground) -> Result<Self> {
        let name = format!("pve{}", place + 1);
        let mut spec = NodeSpec::new(&name, address(place));
        (spec.memory_mb, spec.disk_gb) = (64 * 1024, 2048);
        spec.cluster = cluster.cloned();
        let node = Node::create(&ground.root, &spec).with_context(|| ground.root.display().to_string())?;
        let tools = Tools::new(ground.clone());
        tools.booted(&node.layout().info().boot_id);
        let config = config(&ground.root, place);
        fs::create_dir_all(&config.paths.state)?;
        fs::create_dir_all(ground.root.join("etc/proximity"))?;
        fs::write(&config.paths.policy, "adoption = \"any\"\n")?;
        Ok(Self {
            name,
            tools,
            ground,
            powered: true,
            linked: true,
            owes_report: false,
            cluster: cluster.cloned(),
            place,
            config,
            life: None,
        })
    }

    /// The network of its apps, of which the third number is the node's.
    pub fn network(&self) -> (String, String, String) {
        let third = self.place + 1;
        (
            format!("10.30.{third}.0/24"),
            format!("10.30.{third}.10"),
            format!("10.30.{third}.250"),
        )
    }

    /// For [`crate::world`].
    pub fn files(&self) -> NodeFiles {
        NodeFiles {
            name: self.name.clone(),
            root: self.ground.root.clone(),
        }
    }

    /// The agent's state folder.
    pub fn state(&self) -> &Path {
        &self.config.paths.state
    }

    /// Whether its agent lives.
    pub fn lives(&self) -> bool {
        self.life.is_some()
    }

    /// Whether its agent is to be killed.
    pub fn is_doomed(&self) -> bool {
        self.life
            .as_ref()
            .is_some_and(|life| life.doomed.load(Ordering::SeqCst))
    }

    /// Starts the agent. It may meet its end while it starts.
    pub fn start_agent(&mut self) -> Result<()> {
        let process = Lockstep::new()?;
        let (doomed, spared) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let machine = Machine::new(self.ground.clone(), self.tools.clone(), doomed.clone(), spared.clone());
        let opened: Arc<Mutex<Option<Result<Worker, WorkerError>>>> = Arc::default();
        let node = NodeContext::open_on(&self.config, None, Arc::new(machine))?;
        let unwritten: Arc<Mutex<Option<Worker>>> = Arc::default();
        let looks = Arc::<AtomicUsize>::default();
        {
            let (worker, looks) = (unwritten.clone(), looks.clone());
            process.busy_while(move || {
                let worker = worker.lock().unwrap_or_else(PoisonError::into_inner);
                let works = |worker: &Worker| worker.unwritten() + worker.measuring() > 0;
                looks.load(Ordering::SeqCst) > 0 || worker.as_ref().is_some_and(works)
            });
        }
        let (slot, known) = (opened.clone(), unwritten);
        process.spawn(async move {
            let worker = Worker::open(node, COORDINATOR.into()).await;
            *known.lock().unwrap_or_else(PoisonError::into_inner) = worker.as_ref().ok().cloned();
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
        });
        process.settle()?;
        let opened = opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        match opened {
            None => process.kill(),
            Some(worker) => {
                self.life = Some(Life {
                    process,
                    worker: worker?,
                    doomed,
                    spared,
                    looks,
                });
            }
        }
        Ok(())
    }

    /// As `kill -9` of the agent; its tools go on. `torn`: what it was writing to its journal is there in part.
    pub fn kill_agent(&mut self, torn: bool) -> Result<()> {
        if let Some(life) = self.life.take() {
            life.process.kill();
        }
        if torn {
            // The head of a record that promises more than is there.
            let mut journal = fs::File::options().append(true).open(self.state().join("journal"))?;
            journal.write_all(&[0, 0, 1, 0, 1, 2, 3, 4, b'{', b'"'])?;
        }
        Ok(())
    }

    /// The machine loses its power: agent, tools and containers are gone.
    pub fn lose_power(&mut self) -> Result<()> {
        self.kill_agent(false)?;
        self.tools.vanish()?;
        self.powered = false;
        match &self.cluster {
            Some(cluster) => Ok(cluster.power_off(&self.name)?),
            None => Ok(()),
        }
    }

    /// It comes up again, and starts the containers that are to be started with it.
    pub fn boot(&mut self) -> Result<()> {
        let clock = Arc::new(Booting(self.ground.time.clone()));
        match &self.cluster {
            Some(cluster) => cluster.power_on_at(&self.name, clock)?,
            None => drop(Node::open(&self.ground.root)?.with_clock(clock).reboot(true)?),
        }
        let layout = Layout::open(&self.ground.root)?;
        self.tools.booted(&layout.info().boot_id);
        self.powered = true;
        Ok(())
    }

    /// Lets the agent move until it rests.
    pub fn settle(&self) -> Result<()> {
        match &self.life {
            Some(life) => life
                .process
                .settle()
                .with_context(|| format!("the agent of {}", self.name)),
            None => Ok(()),
        }
    }

    fn life(&self) -> Result<&Life> {
        self.life
            .as_ref()
            .with_context(|| format!("the agent of {} does not live", self.name))
    }

    /// The agent's worker.
    pub fn worker(&self) -> Result<&Worker> {
        Ok(&self.life()?.worker)
    }

    /// The coordinator's Welcome.
    pub fn welcome(&self, epoch: Epoch) -> Result<()> {
        let life = self.life()?;
        Ok(life.process.run(life.worker.welcome(epoch))??)
    }

    /// A command arrives; what comes of it goes to the hub.
    pub fn execute(&self, hub: &Hub, id: u64, command: Command) -> Result<()> {
        let life = self.life()?;
        let (worker, hub, looks) = (life.worker.clone(), hub.clone(), life.looks.clone());
        life.process.spawn(async move {
            let looks_in_a_thread = matches!(command.verb, Verb::Inventory | Verb::Examine { .. });
            let _look = looks_in_a_thread.then(|| Look::begin(looks));
            let mut replies = worker.execute(command).await;
            while let Some(reply) = replies.next().await {
                match reply {
                    Reply::Accepted => {}
                    Reply::Progress(progress) => hub.progress(id, progress),
                    Reply::Finished(answer) => hub.answer(id, answer),
                }
            }
        });
        life.process.settle()
    }

    /// A notice arrives.
    pub fn notice(&self, notice: Notice) -> Result<()> {
        let life = self.life()?;
        let worker = life.worker.clone();
        life.process.spawn(async move {
            // What could not be recorded is told again at the next Hello.
            if let Err(error) = worker.notice(&notice).await {
                tracing::warn!(%error, "a notice was not recorded");
            }
        });
        life.process.settle()
    }

    /// The agent looks after its published ports.
    pub fn repair(&self) -> Result<()> {
        let life = self.life()?;
        let worker = life.worker.clone();
        life.process.spawn(async move {
            if let Err(fault) = worker.repair_published().await {
                tracing::warn!(%fault, "published ports could not be looked after");
            }
        });
        life.process.settle()
    }

    fn spared<T>(&self, work: impl AsyncFnOnce(&Worker) -> T) -> Result<T> {
        let life = self.life()?;
        life.spared.store(true, Ordering::SeqCst);
        let done = life.process.run(work(&life.worker));
        life.spared.store(false, Ordering::SeqCst);
        done
    }

    /// What the node is. Storages are all alike, so that placement does not depend on the machine that the run happens on.
    pub fn facts(&self) -> Result<NodeFacts> {
        let mut facts = self.spared(async |worker| worker.facts().await)??;
        for storage in &mut facts.storages {
            storage.total_bytes = Some(2048 << 30);
            storage.used_bytes = Some(1 << 30);
        }
        Ok(facts)
    }

    /// What is on it.
    pub fn inventory(&self) -> Result<Inventory> {
        self.spared(async |worker| worker.inventory().await)
    }

    /// Where its files lie.
    pub fn layout(&self) -> Result<Layout> {
        Ok(Layout::open(&self.ground.root)?)
    }

    /// Where the file lies that is left in a container of this node.
    pub fn proof(&self, vmid: u32) -> Result<PathBuf> {
        Ok(proof_path(&self.layout()?, vmid))
    }

    /// Runs a tool by hand, as an operator would, with no trouble; whether it succeeded.
    pub fn by_hand(&self, tool: &str, words: &[&str]) -> Result<bool> {
        let node = Node::open(&self.ground.root)?.with_clock(Arc::new(Booting(self.ground.time.clone())));
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Ok(node.run(tool, &words, &mut std::io::sink(), &mut std::io::sink()) == 0)
    }
}

/// The time of a machine that boots, or of an operator: it is the run's, but waiting for a lock takes as long as it takes without anybody seeing it.
#[derive(Debug)]
struct Booting(super::time::Time);

impl pve_sim::Clock for Booting {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.now()).unwrap_or(0)
    }
    fn sleep(&self, duration: std::time::Duration) {
        let span = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4);
        self.0.pass_to(self.0.now() + span);
    }
}

/// A look under way.
struct Look(Arc<AtomicUsize>);

impl Look {
    fn begin(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
