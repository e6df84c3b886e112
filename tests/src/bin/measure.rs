//! What an agent costs its node: the time from its start until it is ready and linked, and its memory and processor time beside many containers.
//! `packaging/measure` runs it with the programs of the packages. One hollow node; some of its containers are apps with a published port each, the others
//! are not ours and only have figures. Ends with 1 if the memory is at or above the goal.

use anyhow::{Context, Result, bail};
use clap::Parser;
use proximity_tests::{
    fleet::{Fleet, FleetSpec, SimNode},
    process::{PATIENCE, until},
    programs::Programs,
};
use std::{
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::{Child, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// RSS, MiB.
const GOAL_MIB: f64 = 15.0;

#[derive(Debug, Parser)]
struct Arguments {
    /// The agent [default: that of the workspace's build]
    #[arg(long)]
    agent: Option<PathBuf>,
    /// The coordinator [default: that of the workspace's build]
    #[arg(long)]
    coordinator: Option<PathBuf>,
    /// Containers in all
    #[arg(long, default_value_t = 100)]
    containers: u32,
    /// How many of them are apps
    #[arg(long, default_value_t = 20)]
    apps: u32,
    /// How long the agent is watched, seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("measure: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool> {
    let mut programs = Programs::build()?.clone();
    programs.agent = arguments.agent.unwrap_or(programs.agent);
    programs.coordinator = arguments.coordinator.unwrap_or(programs.coordinator);
    let mut fleet = Fleet::start_with(programs, &FleetSpec::hollow(1), |line| eprintln!("{line}")).await?;
    for number in 0..arguments.apps {
        fleet.deploy("nginx", &format!("app-{number}")).await?;
    }
    eprintln!("{} apps run", arguments.apps);
    for number in arguments.apps..arguments.containers {
        foreign(&fleet.nodes[0], 10_000 + number)?;
    }
    eprintln!("{} containers run", arguments.containers);

    fleet.nodes[0].stop_agent().await?;
    let folder = tempfile::tempdir()?;
    let mut agent = Agent::start(&fleet.nodes[0], folder.path().join("notify"))?;
    let ready = agent.says("READY=1")?;
    let status = fleet.nodes[0].state().join("status.json");
    let linked = until("linked", PATIENCE, async || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        Ok(text.contains("\"connected\"").then(|| agent.started.elapsed()))
    })
    .await?;
    until("the node online again", PATIENCE, async || {
        let nodes = fleet.client.get("/api/proxmox/nodes").await?.expect(200)?;
        Ok((nodes[0]["status"] == "online").then_some(()))
    })
    .await?;
    let before = agent.figures()?;
    let mut most = before.clone();
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    while Instant::now() < end {
        second.tick().await;
        let now = agent.figures()?;
        if now.rss_kib > most.rss_kib {
            most = now;
        }
    }
    let after = agent.figures()?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    println!(
        "containers            {}, of which apps {}",
        arguments.containers, arguments.apps
    );
    println!("start to ready        {} ms", ready.as_millis());
    println!("start to linked       {} ms", linked.as_millis());
    println!(
        "RSS                   {:.1} MiB at most in {} s, {:.1} MiB at the end",
        mib(most.rss_kib),
        arguments.seconds,
        mib(after.rss_kib)
    );
    println!("  of it not of files  {:.1} MiB", mib(after.anonymous_kib));
    println!("RSS ever              {:.1} MiB", mib(after.peak_kib));
    println!("threads               {}", after.threads);
    let used = after.cpu_ticks.saturating_sub(before.cpu_ticks) as f64 / 100.0;
    println!(
        "processor             {:.2} % of one",
        100.0 * used / arguments.seconds as f64
    );
    agent.stop()?;
    fleet.stop().await?;
    let good = mib(most.rss_kib) < GOAL_MIB;
    println!(
        "goal                  RSS below {GOAL_MIB} MiB: {}",
        if good { "met" } else { "missed" }
    );
    Ok(good)
}

/// A running container that an operator made.
fn foreign(node: &SimNode, vmid: u32) -> Result<()> {
    let vmid = vmid.to_string();
    let template = format!("local:vztmpl/{}", pve_sim::TEMPLATES[0]);
    let name = format!("ct-{vmid}");
    let create = [
        "create",
        &vmid,
        &template,
        "--hostname",
        &name,
        "--rootfs",
        "local:1",
        "--memory",
        "64",
        "--net0",
        "name=eth0,bridge=vmbr0,ip=dhcp",
    ];
    node.tool("pct", &create)?;
    node.tool("pct", &["start", &vmid])?;
    Ok(())
}

/// An agent that tells us, as it tells systemd, how it is.
struct Agent {
    child: Child,
    started: Instant,
    socket: UnixDatagram,
}

/// What `/proc` says of it.
#[derive(Debug, Clone)]
struct Figures {
    rss_kib: u64,
    peak_kib: u64,
    anonymous_kib: u64,
    threads: u64,
    /// Clock ticks, 100 a second.
    cpu_ticks: u64,
}

impl Agent {
    fn start(node: &SimNode, socket: PathBuf) -> Result<Self> {
        let mut command = node.agent_cli(&["run"]);
        command
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let socket = UnixDatagram::bind(&socket)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let started = Instant::now();
        let child = command.spawn()?;
        Ok(Self { child, started, socket })
    }

    /// Waits until it says something that begins so, and answers how long after its start that was.
    fn says(&mut self, words: &str) -> Result<Duration> {
        let mut buffer = [0; 4096];
        loop {
            let length = self
                .socket
                .recv(&mut buffer)
                .with_context(|| format!("the agent did not say {words}"))?;
            if buffer[..length].starts_with(words.as_bytes()) {
                return Ok(self.started.elapsed());
            }
        }
    }

    fn figures(&self) -> Result<Figures> {
        let folder = format!("/proc/{}", self.child.id());
        let status = std::fs::read_to_string(format!("{folder}/status"))?;
        let number = |key: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let word = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
            Ok(word.with_context(|| format!("no {key} in {folder}/status"))?.parse()?)
        };
        let stat = std::fs::read_to_string(format!("{folder}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let [user, system] =
            [fields.get(11), fields.get(12)].map(|field| field.and_then(|word| word.parse::<u64>().ok()));
        Ok(Figures {
            rss_kib: number("VmRSS")?,
            peak_kib: number("VmHWM")?,
            anonymous_kib: number("RssAnon")?,
            threads: number("Threads")?,
            cpu_ticks: user.unwrap_or(0) + system.unwrap_or(0),
        })
    }

    fn stop(mut self) -> Result<()> {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?),
            nix::sys::signal::Signal::SIGTERM,
        )?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the agent ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
