//! One simulated Proxmox node with its agent.

use super::{Ground, ground::KernelFiles};
use crate::{process::Process, programs::Programs, world::NodeFiles};
use anyhow::{Context, Result, bail};
use pve_sim::{Cluster, Node, NodeSpec, Script, layout::BodyKind};
use serde_json::{Value, json};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

/// A node's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNet {
    /// Where published ports answer.
    pub address: Ipv4Addr,
    /// The containers' network, CIDR.
    pub subnet: String,
    /// First address for containers.
    pub first: Ipv4Addr,
    /// Last.
    pub last: Ipv4Addr,
    /// The way out.
    pub gateway: Option<Ipv4Addr>,
    /// DNS servers.
    pub dns: Vec<Ipv4Addr>,
}

impl NodeNet {
    /// As `PUT /api/proxmox/hosts/{id}/network` takes it.
    pub fn as_json(&self) -> Value {
        json!({
            "bridge": "vmbr0", "address_mode": "static", "subnet": self.subnet,
            "pool_first": self.first, "pool_last": self.last, "gateway": self.gateway, "dns": self.dns,
        })
    }
}

/// A node.
#[derive(Debug)]
pub struct SimNode {
    /// Name in Proxmox.
    pub name: String,
    /// Its network.
    pub network: NodeNet,
    root: PathBuf,
    logs: PathBuf,
    config: PathBuf,
    agent_program: PathBuf,
    agent: Option<Process>,
    stubs: Option<Process>,
    /// `pve-sim serve`, of a hollow node.
    stubs_program: Option<PathBuf>,
    agent_command: CommandOnNode,
}

/// How a command is put on the node, kept so that an agent can be started again.
#[derive(Debug, Clone)]
struct CommandOnNode {
    program: std::ffi::OsString,
    args: Vec<std::ffi::OsString>,
}

impl CommandOnNode {
    /// Root is above modes, and with it the refusals of a cluster without quorum: it gives that up for good.
    fn below_modes(self) -> Self {
        if !nix::unistd::geteuid().is_root() {
            return self;
        }
        let caps = "-dac_override,-dac_read_search";
        let mut args: Vec<std::ffi::OsString> = ["--bounding-set", caps, "--inh-caps", caps].map(Into::into).into();
        args.push(self.program);
        args.extend(self.args);
        Self {
            program: "setpriv".into(),
            args,
        }
    }
    fn of(command: &Command) -> Self {
        Self {
            program: command.get_program().to_owned(),
            args: command.get_args().map(ToOwned::to_owned).collect(),
        }
    }
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        command
    }
}

impl SimNode {
    /// Lays the node out below `folder`, alone or in a cluster, with its stub server if it is hollow.
    pub(crate) fn create(
        programs: &Programs,
        folder: &Path,
        ground: &Ground,
        index: u8,
        network: NodeNet,
        cluster: Option<&Cluster>,
    ) -> Result<Self> {
        let name = format!("pve{}", index + 1);
        let root = ground.root(index, folder);
        let mut spec = NodeSpec::new(&name, network.address).executable(&programs.pve_sim);
        spec.body = ground.body();
        spec.cluster = cluster.cloned();
        spec.dhcp_range = (network.first, network.last);
        // Room for a few hundred small containers; hollow ones use none of it.
        (spec.memory_mb, spec.disk_gb) = (64 * 1024, 2048);
        if let Ground::Lxc(lab, template) = ground {
            spec.lab = lab.node(usize::from(index)).settings();
            spec.templates = vec![(pve_sim::TEMPLATES[0].to_owned(), Some(template.clone()))];
        }
        Node::create(&root, &spec).with_context(|| format!("cannot lay out {}", root.display()))?;
        let logs = folder.join("logs");
        let config = write_config(folder, &root, &name, &network, &ground.kernel_files(index, &root))?;
        let mut agent_command = CommandOnNode::of(&ground.command(index, &programs.agent));
        if cluster.is_some() {
            agent_command = agent_command.below_modes();
        }
        let mut node = Self {
            name,
            network,
            root,
            logs,
            config,
            agent_program: programs.agent.clone(),
            agent: None,
            stubs: None,
            stubs_program: (ground.body() == BodyKind::Hollow).then(|| programs.pve_sim.clone()),
            agent_command,
        };
        node.start_stubs()?;
        Ok(node)
    }

    /// Starts what answers on a hollow node's ports, and runs HA in a cluster.
    pub(super) fn start_stubs(&mut self) -> Result<()> {
        if let Some(program) = &self.stubs_program {
            let mut command = Command::new(program);
            command.args(["serve".as_ref(), "--root".as_ref(), self.root.as_os_str()]);
            self.stubs = Some(Process::start(&format!("{}-stubs", self.name), &self.logs, command)?);
        }
        Ok(())
    }

    /// Everything of the machine ends at once.
    pub(super) fn kill(&mut self) -> Result<()> {
        for process in [self.agent.take(), self.stubs.take()].into_iter().flatten() {
            process.kill_9()?;
        }
        Ok(())
    }

    /// Root of the node's files.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The agent's configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The agent's state folder.
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/proximity-agent")
    }

    /// The node's policy file.
    pub fn policy(&self) -> PathBuf {
        self.root.join("etc/proximity/policy.toml")
    }

    /// For [`crate::world`].
    pub fn files(&self) -> NodeFiles {
        NodeFiles {
            name: self.name.clone(),
            root: self.root.clone(),
        }
    }

    /// A command of the agent's executable, on the node.
    pub fn agent_cli(&self, args: &[&str]) -> Command {
        let mut command = self.agent_command.command();
        command.arg("--config").arg(&self.config).args(args);
        command
    }

    /// `proximity-agent join` with a token file.
    pub fn join(&self, token: &str) -> Result<()> {
        let output = self.join_output(token, &[])?;
        if !output.status.success() {
            bail!(
                "join failed ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// The same, with more arguments, and whatever comes of it.
    pub fn join_output(&self, token: &str, more: &[&str]) -> Result<std::process::Output> {
        let file = self.root.join("join.token");
        std::fs::write(&file, token)?;
        let output = self
            .agent_cli(&["join", "--replace", "--token-file"])
            .arg(&file)
            .args(more)
            .stdin(std::process::Stdio::null())
            .output()?;
        std::fs::remove_file(&file)?;
        Ok(output)
    }

    /// Starts the agent.
    pub fn start_agent(&mut self) -> Result<()> {
        if self.agent.is_some() {
            bail!("the agent of {} runs already", self.name);
        }
        let command = self.agent_cli(&["run"]);
        self.agent = Some(Process::start(&format!("{}-agent", self.name), &self.logs, command)?);
        Ok(())
    }

    /// The machine goes down and comes up: everything that ran is gone, containers with `onboot` are started, the agent is not.
    pub async fn reboot(&mut self) -> Result<()> {
        if self.agent.is_some() {
            bail!("stop or kill the agent of {} before its machine goes down", self.name);
        }
        Node::open(&self.root)?.reboot(true)?;
        Ok(())
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Process::pid)
    }

    /// Kills the agent with SIGKILL; its tools go on.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("the agent does not run")?.kill_9()
    }

    /// Stops the agent with SIGTERM.
    pub async fn stop_agent(&mut self) -> Result<()> {
        let status = self.agent.take().context("the agent does not run")?.stop().await?;
        if !status.success() {
            bail!("the agent of {} ended with {status}", self.name);
        }
        Ok(())
    }

    /// Stops agent and stubs.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if self.agent.is_some() {
            self.stop_agent().await?;
        }
        if let Some(stubs) = self.stubs.take() {
            stubs.stop().await?;
        }
        Ok(())
    }

    /// The end of the agent's log.
    pub fn agent_log(&self) -> String {
        let text = std::fs::read_to_string(self.logs.join(format!("{}-agent.err", self.name))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Puts a fault script into force.
    pub fn script(&self, script: &Script) -> Result<()> {
        Ok(script.write(&self.root)?)
    }

    /// How often each rule of the script in force was reached and acted.
    pub fn hits(&self) -> Result<Vec<pve_sim::Hits>> {
        Ok(Script::hits(&self.root)?)
    }

    /// Runs a tool on the node by hand, as an operator would, and answers its stdout.
    pub fn tool(&self, name: &str, args: &[&str]) -> Result<String> {
        let mut command = self.agent_command.command();
        // The wrapper of the namespace, if there is one, ends with the agent's program: the tool takes its place.
        let wrapped: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let tool = self.root.join("usr/bin").join(name);
        command = match wrapped.split_last() {
            Some((last, front)) if Path::new(last) == self.agent_program => {
                let mut command = Command::new(&self.agent_command.program);
                command.args(front).arg(&tool);
                command
            }
            _ => Command::new(&tool),
        };
        let output = command
            .args(args)
            .stdin(std::process::Stdio::null())
            .output()
            .with_context(|| tool.display().to_string())?;
        if !output.status.success() {
            bail!(
                "{name} {args:?} on {}: {}",
                self.name,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn write_config(folder: &Path, root: &Path, name: &str, network: &NodeNet, kernel: &KernelFiles) -> Result<PathBuf> {
    let text = |path: &Path| toml::Value::String(path.display().to_string());
    let mut paths = toml::Table::new();
    paths.insert("state".into(), text(&root.join("var/lib/proximity-agent")));
    paths.insert("policy".into(), text(&root.join("etc/proximity/policy.toml")));
    let mut host = toml::Table::new();
    host.insert("pve_tools".into(), text(&root.join("usr/bin")));
    host.insert("nft".into(), text(&kernel.nft));
    host.insert("etc_pve".into(), text(&root.join("etc/pve")));
    host.insert("proc".into(), text(&kernel.proc));
    host.insert("cgroup".into(), text(&kernel.cgroup));
    host.insert("cgroup_parent".into(), kernel.cgroup_parent.clone().into());
    host.insert("lxc".into(), text(&kernel.lxc));
    host.insert("task_log".into(), text(&root.join("var/log/pve")));
    host.insert("run".into(), text(&root.join("run")));
    host.insert("sys_class_net".into(), text(&kernel.sys_class_net));
    let mut node = toml::Table::new();
    node.insert("address".into(), network.address.to_string().into());
    let mut config = toml::Table::new();
    config.insert("paths".into(), paths.into());
    config.insert("host".into(), host.into());
    config.insert("node".into(), node.into());
    let path = folder.join(format!("{name}-agent.toml"));
    std::fs::write(&path, toml::to_string(&config)?)?;
    Ok(path)
}
