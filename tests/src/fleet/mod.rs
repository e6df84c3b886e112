//! A whole installation in a folder: one coordinator, some nodes with an agent each, all separate processes of the product's own executables.
//!
//! Start order, as an operator would do it: the admin is made on the command line, `serve` starts, a join token is made over HTTP for each node, the agent
//! joins with it and runs, and each host gets the network that its node has. Every part can be stopped, killed and started again on its own.
//!
//! Nodes stand alone or in clusters ([`FleetSpec::with_cluster`], hollow only). A cluster is one host: one network, one list of VMIDs, the storage
//! [`SHARED_STORAGE`] beside each node's own. Its agents run without CAP_DAC_OVERRIDE, so that they are refused like everybody when it has no quorum.

mod addresses;
mod cluster;
mod coordinator;
mod ground;
mod node;

pub use addresses::LoopbackNet;
pub use cluster::{SHARED_STORAGE, SimCluster};
pub use coordinator::{CoordinatorProcess, Settings};
pub use ground::Ground;
pub use node::{NodeNet, SimNode};

use crate::{
    api::Client,
    process::{PATIENCE, until},
    programs::Programs,
    world::{NodeFiles, Registry, broken_promises},
};
use anyhow::{Context, Result, bail};
use pve_sim::layout::BodyKind;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Name of the first admin.
pub const ADMIN: &str = "admin";

/// What to set up.
#[derive(Debug, Clone)]
pub struct FleetSpec {
    /// How many nodes, each a standalone host.
    pub nodes: u8,
    /// Clusters by their number of nodes, hollow only: one host each. Their nodes come after the standalone ones.
    pub clusters: Vec<u8>,
    /// What their containers are made of.
    pub body: BodyKind,
    /// Settings of the coordinator.
    pub settings: Settings,
}

impl FleetSpec {
    /// Hollow nodes.
    pub fn hollow(nodes: u8) -> Self {
        Self {
            nodes,
            clusters: Vec::new(),
            body: BodyKind::Hollow,
            settings: Settings::default(),
        }
    }

    /// One hollow cluster and nothing else.
    pub fn cluster(nodes: u8) -> Self {
        Self::hollow(0).with_cluster(nodes)
    }

    /// One cluster more.
    #[must_use]
    pub fn with_cluster(mut self, nodes: u8) -> Self {
        self.clusters.push(nodes);
        self
    }
}

/// A running installation. Dropped, everything that it started ends and its folder goes.
#[derive(Debug)]
pub struct Fleet {
    /// The nodes: the standalone ones, then those of the clusters in their order.
    pub nodes: Vec<SimNode>,
    /// The clusters.
    pub clusters: Vec<SimCluster>,
    /// The coordinator, while it runs.
    pub coordinator: Option<CoordinatorProcess>,
    /// A client logged in as admin.
    pub client: Client,
    /// The admin's password.
    pub password: String,
    settings: Settings,
    programs: Programs,
    // After the processes: fields are dropped in order, and the ground goes last.
    ground: Ground,
    folder: tempfile::TempDir,
}

impl Fleet {
    /// Sets everything up and waits until each node is online. `say` hears what happens.
    pub async fn start(spec: &FleetSpec, say: impl FnMut(&str)) -> Result<Self> {
        Self::start_with(Programs::build()?.clone(), spec, say).await
    }

    /// The same with other executables than those of the workspace's build.
    pub async fn start_with(programs: Programs, spec: &FleetSpec, mut say: impl FnMut(&str)) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("proximity-").tempdir()?;
        let all = spec.nodes + spec.clusters.iter().sum::<u8>();
        let ground = Ground::prepare(spec.body, all, &mut say)?;
        let password = uuid::Uuid::new_v4().simple().to_string();
        CoordinatorProcess::make_admin(&programs, folder.path(), &ground, &spec.settings, &password)?;
        let coordinator = CoordinatorProcess::start(&programs, folder.path(), &ground, &spec.settings).await?;
        say(&format!(
            "the coordinator listens at {} (HTTP) and {} (QUIC)",
            coordinator.http, coordinator.quic
        ));
        let mut client = Client::new(coordinator.base())?;
        client.login(ADMIN, &password).await?;
        let mut fleet = Self {
            nodes: Vec::new(),
            clusters: Vec::new(),
            coordinator: Some(coordinator),
            client,
            password,
            settings: spec.settings.clone(),
            programs,
            ground,
            folder,
        };
        for _ in 0..spec.nodes {
            fleet.add_node(None, &mut say).await?;
        }
        for (number, nodes) in spec.clusters.iter().enumerate() {
            let cluster = SimCluster::create(fleet.folder.path(), number, spec.body)?;
            fleet.clusters.push(cluster);
            for _ in 0..*nodes {
                fleet.add_node(Some(number), &mut say).await?;
            }
        }
        Ok(fleet)
    }

    /// Lays the next node out, alone or in that cluster, enrols its agent, starts it, and gives its host the node's network. A cluster has that of its
    /// first node.
    async fn add_node(&mut self, cluster: Option<usize>, say: &mut impl FnMut(&str)) -> Result<()> {
        let node = self.lay_out(cluster)?;
        let cluster = cluster.map(|number| &mut self.clusters[number]);
        let is_first = cluster.as_ref().is_none_or(|cluster| cluster.nodes.is_empty());
        if let Some(cluster) = cluster {
            cluster.nodes.push(self.nodes.len());
        }
        self.nodes.push(node);
        self.enrol(self.nodes.len() - 1, is_first, say).await
    }

    fn lay_out(&self, cluster: Option<usize>) -> Result<SimNode> {
        let index = u8::try_from(self.nodes.len())?;
        let cluster = cluster.map(|number| &self.clusters[number]);
        let network = match cluster.and_then(|cluster| cluster.nodes.first()) {
            Some(first) => NodeNet {
                address: self.ground.network(index).address,
                ..self.nodes[*first].network.clone()
            },
            None => self.ground.network(index),
        };
        let sim = cluster.map(|cluster| &cluster.sim);
        SimNode::create(&self.programs, self.folder.path(), &self.ground, index, network, sim)
    }

    /// Lets a node of a cluster be that has no agent; answers its index.
    pub fn add_without_agent(&mut self, cluster: usize) -> Result<usize> {
        let node = self.lay_out(Some(cluster))?;
        self.clusters[cluster].nodes.push(self.nodes.len());
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// Enrols the agent of a node that has been laid out, and starts it.
    async fn enrol(&mut self, index: usize, sets_network: bool, say: &mut impl FnMut(&str)) -> Result<()> {
        let name = self.nodes[index].name.clone();
        let token = self.join_token(&json!({"node_name": name})).await?;
        self.nodes[index].join(&token)?;
        self.nodes[index].start_agent()?;
        let online = self
            .node_online(&name)
            .await
            .with_context(|| format!("the agent's log ends with\n{}", self.nodes[index].agent_log()))?;
        let network = &self.nodes[index].network;
        if sets_network {
            let host_id = online["host_id"].as_i64().context("a node without host_id")?;
            self.client
                .put(&format!("/api/proxmox/hosts/{host_id}/network"), &network.as_json())
                .await?
                .expect(200)?;
        }
        say(&format!(
            "{name} has joined: published ports answer at {}",
            network.address
        ));
        Ok(())
    }

    /// A node that has been laid out without an agent gets one.
    pub async fn join_later(&mut self, index: usize) -> Result<()> {
        self.enrol(index, false, &mut |_| ()).await
    }

    /// Makes a join token and answers its line.
    pub async fn join_token(&self, body: &Value) -> Result<String> {
        let mut body = body.clone();
        body["ttl_seconds"] = json!(900);
        let made = self.client.post("/api/proxmox/join-tokens", &body).await?.expect(201)?;
        Ok(made["token"].as_str().context("no token in the answer")?.to_owned())
    }

    /// Waits until the node of that name is online and answers it.
    pub async fn node_online(&self, name: &str) -> Result<Value> {
        until(&format!("{name} online"), PATIENCE, async || {
            let Ok(answer) = self.client.get("/api/proxmox/nodes").await else {
                return Ok(None);
            };
            let nodes = answer.expect(200)?;
            let nodes = nodes.as_array().context("nodes is not an array")?;
            Ok(nodes
                .iter()
                .find(|n| n["name"] == name && n["status"] == "online")
                .cloned())
        })
        .await
    }

    /// Deploys an app and answers it once it runs; fails with the ends of all logs.
    pub async fn deploy(&self, catalog_id: &str, hostname: &str) -> Result<Value> {
        let created = self.client.create_app(catalog_id, hostname).await?;
        self.done(&created).await?;
        let id = created["id"].as_str().context("an app without id")?;
        self.client.app_status(id, &["running"], PATIENCE).await
    }

    /// The same on a node.
    pub async fn deploy_on(&self, catalog_id: &str, hostname: &str, node: &str) -> Result<Value> {
        let body = json!({"catalog_id": catalog_id, "hostname": hostname, "node": node});
        let created = self.client.post("/api/apps", &body).await?.expect(201)?;
        self.done(&created).await?;
        let id = created["id"].as_str().context("an app without id")?;
        self.client.app_status(id, &["running"], PATIENCE).await
    }

    /// Waits until the coordinator has noticed that a node is away.
    pub async fn node_offline(&self, name: &str) -> Result<()> {
        until(&format!("{name} offline"), PATIENCE, async || {
            let nodes = self.client.get("/api/proxmox/nodes").await?.expect(200)?;
            let nodes = nodes.as_array().context("nodes is not an array")?;
            let away = nodes.iter().any(|n| n["name"] == name && n["status"] == "offline");
            Ok(away.then_some(()))
        })
        .await
    }

    /// Waits until the operation that an answer names is `done`, and answers the operation.
    pub async fn done(&self, answer: &Value) -> Result<Value> {
        let operation = answer["operation_id"]
            .as_str()
            .with_context(|| format!("no operation_id in {answer}"))?;
        let ended = self
            .client
            .operation_end(operation, PATIENCE)
            .await
            .with_context(|| self.logs())?;
        if ended["state"] != "done" {
            bail!(
                "the {} ended {}: {ended:#}\n{}",
                ended["kind"],
                ended["state"],
                self.logs()
            );
        }
        Ok(ended)
    }

    /// The folder stays when the fleet goes, to be looked at; answers it.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// The fleet's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The coordinator's state folder.
    pub fn state(&self) -> PathBuf {
        coordinator::state(self.folder.path())
    }

    /// Kills the coordinator with SIGKILL.
    pub fn kill_coordinator(&mut self) -> Result<()> {
        self.coordinator
            .take()
            .context("the coordinator does not run")?
            .kill_9()
    }

    /// Stops the coordinator with SIGTERM.
    pub async fn stop_coordinator(&mut self) -> Result<()> {
        let status = self
            .coordinator
            .take()
            .context("the coordinator does not run")?
            .stop()
            .await?;
        if !status.success() {
            bail!("the coordinator ended with {status}");
        }
        Ok(())
    }

    /// Starts the coordinator again on the same ports; the logins go on.
    pub async fn start_coordinator(&mut self) -> Result<()> {
        if self.coordinator.is_some() {
            bail!("the coordinator runs already");
        }
        let coordinator =
            CoordinatorProcess::start(&self.programs, self.folder.path(), &self.ground, &self.settings).await?;
        self.client.base = coordinator.base();
        self.coordinator = Some(coordinator);
        Ok(())
    }

    /// A command of the coordinator's executable on this state, whether it serves or not.
    pub fn coordinator_command(&self, args: &[&str]) -> std::process::Command {
        let mut command = CoordinatorProcess::command_line(&self.programs, self.folder.path());
        command.args(args).stdin(std::process::Stdio::null());
        command
    }

    /// Runs one and answers its stdout.
    pub fn coordinator_cli(&self, args: &[&str]) -> Result<String> {
        let output = self.coordinator_command(args).output()?;
        if !output.status.success() {
            bail!(
                "{args:?} ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The registry's file, read beside the coordinator.
    pub async fn registry(&self) -> Result<Registry> {
        Registry::open(&self.state().join("registry.db")).await
    }

    /// What is broken; see [`crate::world`].
    pub async fn broken_promises(&self) -> Result<Vec<String>> {
        self.broken_promises_beside(&BTreeSet::new()).await
    }

    /// The same where containers of these numbers are somebody else's, and nobody misses an app for them.
    pub async fn broken_promises_beside(&self, strangers: &BTreeSet<u32>) -> Result<Vec<String>> {
        let files: Vec<NodeFiles> = self.nodes.iter().map(SimNode::files).collect();
        broken_promises(&mut self.registry().await?, &files, strangers).await
    }

    /// Fails with everything that is broken and the ends of the logs.
    pub async fn assert_promises(&self) -> Result<()> {
        let broken = self.broken_promises().await?;
        if broken.is_empty() {
            return Ok(());
        }
        bail!("{}\n{}", broken.join("\n"), self.logs())
    }

    /// The ends of all logs, for error messages.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        if let Some(coordinator) = &self.coordinator {
            text.push_str(&format!("--- coordinator\n{}\n", coordinator.log_tail()));
        }
        for node in &self.nodes {
            text.push_str(&format!("--- agent of {}\n{}\n", node.name, node.agent_log()));
        }
        text
    }

    /// Ends everything in good order.
    pub async fn stop(mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.stop().await?;
        }
        if self.coordinator.is_some() {
            self.stop_coordinator().await?;
        }
        self.nodes.clear();
        self.clusters.clear();
        self.ground.down()
    }
}

/// One hollow node without a coordinator, for tests that play the coordinator themselves.
#[derive(Debug)]
pub struct LoneNode {
    /// The node.
    pub node: SimNode,
    _ground: Ground,
    _folder: tempfile::TempDir,
}

impl LoneNode {
    /// Lays it out; its agent is neither joined nor started.
    pub fn create() -> Result<Self> {
        let programs = Programs::build()?;
        let folder = tempfile::Builder::new().prefix("proximity-").tempdir()?;
        let ground = Ground::prepare(BodyKind::Hollow, 1, &mut |_| ())?;
        let node = SimNode::create(programs, folder.path(), &ground, 0, ground.network(0), None)?;
        Ok(Self {
            node,
            _ground: ground,
            _folder: folder,
        })
    }
}
