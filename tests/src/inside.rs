//! A coordinator and agents inside this process: the product's own code, whole, on simulated nodes and real QUIC, by clocks that a test turns. What needs a
//! process of its own (`kill -9`, the command line) is a [`crate::fleet`].

use crate::{
    api::Client,
    fleet::{ADMIN, Ground, SimNode},
    process::{PATIENCE, until},
    programs::{Programs, workspace},
    turned_clock::TurnedClock,
};
use anyhow::{Context, Result, bail};
use proximity_agent::{
    assemble::{Ground as AgentGround, run_on},
    config::Config as AgentConfig,
};
use proximity_coordinator::{
    assemble::Coordinator,
    auth::{passwords::Passwords, setup_code::SetupCode},
    clock::SystemClock,
    config::Config,
    pki::Pki,
    service::{Caller, Role, authority::Authority, users::UserService},
    store::Store,
};
use proximity_protocol::secret::SecretText;
use pve_sim::layout::BodyKind;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A node whose agent runs in this process.
#[derive(Debug)]
pub struct InsideNode {
    /// The simulated node.
    pub node: SimNode,
    /// The clock of its agent.
    pub clock: TurnedClock,
    agent: Option<(CancellationToken, JoinHandle<Result<(), String>>)>,
    program: PathBuf,
}

impl InsideNode {
    /// Starts the agent.
    pub fn start(&mut self) -> Result<()> {
        if self.agent.is_some() {
            bail!("the agent of {} runs already", self.node.name);
        }
        let config = AgentConfig::load(Some(self.node.config()))?;
        let ground = AgentGround {
            clock: Arc::new(self.clock.clone()),
            executable: Some(self.program.clone()),
        };
        let stop = CancellationToken::new();
        let token = stop.clone();
        let running =
            tokio::spawn(async move { run_on(&config, ground, token).await.map_err(|error| error.to_string()) });
        self.agent = Some((stop, running));
        Ok(())
    }

    /// Stops the agent in good order.
    pub async fn stop(&mut self) -> Result<()> {
        let (stop, running) = self.agent.take().context("the agent does not run")?;
        stop.cancel();
        running.await?.map_err(anyhow::Error::msg)
    }

    /// Whether the agent is still there: it never ends by itself.
    pub fn runs(&self) -> bool {
        self.agent.as_ref().is_some_and(|(_, running)| !running.is_finished())
    }

    /// What the agent says of itself.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(
            self.node.state().join("status.json"),
        )?)?)
    }

    /// Waits until the agent gives a reason that holds all of these words.
    pub async fn says(&self, words: &[&str]) -> Result<String> {
        let mut last = String::new();
        let waited = until("the agent's reason", PATIENCE, async || {
            let Ok(status) = self.status() else { return Ok(None) };
            last = status["problem"].as_str().unwrap_or_default().to_owned();
            Ok(words.iter().all(|word| last.contains(word)).then(|| last.clone()))
        });
        let waited = waited.await;
        waited.with_context(|| format!("wanted {words:?}; {} says {last:?}", self.node.name))
    }

    /// Waits until the agent says that it is connected.
    pub async fn linked(&self) -> Result<()> {
        let linked = until("the agent's link", PATIENCE, async || {
            let connected = self.status().is_ok_and(|status| status["link"]["state"] == "connected");
            Ok(connected.then_some(()))
        });
        linked
            .await
            .with_context(|| format!("{}: {:?}", self.node.name, self.status()))
    }

    /// Its identity file.
    pub fn identity(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(
            self.node.state().join("identity/identity.json"),
        )?)?)
    }
}

/// All of it. Dropped, everything ends.
pub struct Inside {
    /// The coordinator, while it runs.
    pub coordinator: Option<Coordinator>,
    /// The coordinator's clock.
    pub clock: TurnedClock,
    /// The nodes.
    pub nodes: Vec<InsideNode>,
    /// A client that has logged in as admin.
    pub client: Client,
    password: String,
    config: Config,
    _ground: Ground,
    folder: tempfile::TempDir,
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inside")
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

/// The caller of use cases that tests call without HTTP.
pub fn admin() -> Caller {
    Caller {
        user_id: 0,
        username: "command line".into(),
        role: Role::Admin,
        remote: None,
        request_id: None,
    }
}

impl Inside {
    /// Sets a coordinator and `nodes` hollow nodes up, joins them, and waits until all are online.
    pub async fn start(nodes: u8) -> Result<Self> {
        let programs = Programs::build()?;
        let folder = tempfile::Builder::new().prefix("proximity-").tempdir()?;
        let ground = Ground::prepare(BodyKind::Hollow, nodes, &mut |_| ())?;
        let clock = TurnedClock::default();
        let mut config = Config {
            state: folder.path().join("coordinator"),
            http_listen: "127.0.0.1:0".parse()?,
            quic_listen: "127.0.0.1:0".parse()?,
            catalog: workspace().join("catalog_data"),
            ..Config::default()
        };
        config.operations.first_retry_ms = 500;
        config.operations.max_retry_ms = 2000;
        config.ensure_state()?;
        let password = uuid::Uuid::new_v4().simple().to_string();
        make_admin(&config, &password).await?;
        let coordinator = Coordinator::start_at(&config, Arc::new(clock.clone())).await?;
        // A restart is to be found at the same place.
        config.http_listen = coordinator.http();
        config.quic_listen = coordinator.quic();
        let client = Client::new(format!("http://{}", coordinator.http()))?;
        let mut inside = Self {
            coordinator: Some(coordinator),
            clock,
            nodes: Vec::new(),
            client,
            password,
            config,
            _ground: ground,
            folder,
        };
        inside.login().await?;
        for index in 0..nodes {
            let network = inside._ground.network(index);
            let node = SimNode::create(programs, inside.folder.path(), &inside._ground, index, network, None)?;
            let mut node = InsideNode {
                node,
                clock: TurnedClock::default(),
                agent: None,
                program: programs.agent.clone(),
            };
            let token = inside.join_token(&json!({"node_name": node.node.name})).await?;
            tokio::task::block_in_place(|| node.node.join(&token))?;
            node.start()?;
            inside.nodes.push(node);
        }
        for index in 0..inside.nodes.len() {
            let name = inside.nodes[index].node.name.clone();
            let online = inside.online(&name).await?;
            let path = format!("/api/proxmox/hosts/{}/network", online["host_id"]);
            let network = inside.nodes[index].node.network.as_json();
            inside.client.put(&path, &network).await?.expect(200)?;
        }
        Ok(inside)
    }

    /// Logs in anew: a login does not last as long as a certificate.
    pub async fn login(&mut self) -> Result<()> {
        self.client.login(ADMIN, &self.password).await
    }

    /// Makes a join token.
    pub async fn join_token(&self, body: &Value) -> Result<String> {
        let made = self.client.post("/api/proxmox/join-tokens", body).await?.expect(201)?;
        Ok(made["token"].as_str().context("no token in the answer")?.to_owned())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The coordinator's state folder.
    pub fn state(&self) -> &Path {
        &self.config.state
    }

    /// The node of that name as the API shows it.
    pub async fn node(&self, name: &str) -> Result<Value> {
        let nodes = self.client.get("/api/proxmox/nodes").await?.expect(200)?;
        let nodes = nodes.as_array().context("nodes is not an array")?;
        let found = nodes.iter().find(|node| node["name"] == name).cloned();
        found.with_context(|| format!("no node {name}"))
    }

    /// Waits until it is online.
    pub async fn online(&self, name: &str) -> Result<Value> {
        until(&format!("{name} online"), PATIENCE, async || {
            let node = self.node(name).await?;
            Ok((node["status"] == "online").then_some(node))
        })
        .await
    }

    /// Ends the coordinator in good order.
    pub async fn stop_coordinator(&mut self) -> Result<()> {
        self.coordinator
            .take()
            .context("the coordinator does not run")?
            .stop()
            .await;
        Ok(())
    }

    /// Starts it again, at the same place.
    pub async fn start_coordinator(&mut self) -> Result<()> {
        self.coordinator = Some(Coordinator::start_at(&self.config, Arc::new(self.clock.clone())).await?);
        self.login().await
    }

    /// So much time passes everywhere.
    pub fn pass(&self, time: std::time::Duration) {
        self.clock.pass(time);
        for node in &self.nodes {
            node.clock.pass(time);
        }
    }

    /// The authority as the command line has it: on the files, beside the running coordinator.
    pub async fn authority(&self) -> Result<(Authority, Store)> {
        use proximity_coordinator::clock::Clock as _;
        let store = Store::open(&self.config.registry()).await?;
        let pki = Pki::open(&self.config.state, self.clock.now_ms())?;
        Ok((Authority::new(store.clone(), Arc::new(self.clock.clone()), pki), store))
    }

    /// Ends everything in good order.
    pub async fn stop(mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.agent.is_some() {
                node.stop().await?;
            }
            node.node.stop().await?;
        }
        if self.coordinator.is_some() {
            self.stop_coordinator().await?;
        }
        Ok(())
    }
}

async fn make_admin(config: &Config, password: &str) -> Result<()> {
    let store = Store::open(&config.registry()).await?;
    let users = UserService::new(
        store.clone(),
        Arc::new(SystemClock),
        Passwords::default(),
        SetupCode::new(&config.state),
    );
    users.create(ADMIN, SecretText::new(password), Role::Admin).await?;
    store.close().await;
    Ok(())
}
