//! `cargo demo`: a coordinator, three agents on simulated Proxmox nodes, an app deployed and answering. Stays up until Ctrl-C; `--once` ends after the app
//! has answered, also while the coordinator is stopped and after the agent was restarted.

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use proximity_tests::{
    api::page,
    fleet::{ADMIN, Fleet, FleetSpec},
    process::until,
    programs::workspace,
};
use pve_sim::{lab::Lab, layout::BodyKind};
use serde_json::Value;
use std::{
    ffi::OsStr,
    io::{self, Write as _},
    iter,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    signal::unix::{Signal, SignalKind, signal},
};

/// Ctrl-C reaches the demo and the tools it runs in the same instant; how long the demo's own may take when a tool has ended by it.
const SAME_INSTANT: Duration = Duration::from_millis(200);

/// An app on three simulated Proxmox nodes, from join token to URL.
#[derive(Debug, Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo")]
struct Options {
    /// End after the app has answered, with exit code 0 only if it did.
    #[arg(long)]
    once: bool,
    /// What containers are made of; auto takes real ones where it can.
    #[arg(long, value_enum, default_value_t = Body::Auto)]
    body: Body,
    /// How many nodes, 1 to 8.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    nodes: u8,
    /// Which app of the catalog to deploy.
    #[arg(long, default_value = "nginx")]
    app: String,
    /// Only say whether real containers can run here: exit code 0 or 1.
    #[arg(long)]
    check_lxc: bool,
}

impl Options {
    fn serves_pages(&self) -> bool {
        self.app == "nginx"
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Body {
    Auto,
    Hollow,
    Lxc,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if options.check_lxc {
        return match Lab::requirements() {
            Ok(()) => ExitCode::SUCCESS,
            Err(missing) => {
                println!("{missing}");
                ExitCode::FAILURE
            }
        };
    }
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn choose_body(wanted: Body) -> Result<BodyKind> {
    match (wanted, Lab::requirements()) {
        (Body::Hollow, _) => Ok(BodyKind::Hollow),
        (Body::Auto | Body::Lxc, Ok(())) => Ok(BodyKind::Lxc),
        (Body::Lxc, Err(missing)) => bail!("{missing}"),
        (Body::Auto, Err(missing)) => {
            println!("hollow containers, a stub answers for each: {missing}");
            Ok(BodyKind::Hollow)
        }
    }
}

/// Ctrl-C, SIGTERM, and the end of the terminal. Made before anything is started: from then on none of them ends the demo without the cleaning up.
struct Stop([Signal; 3]);

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn asked(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Whether the catalog has the app, said before anything is started.
fn check_app(wanted: &str) -> Result<()> {
    let folder = workspace().join("catalog_data");
    let mut ids = Vec::new();
    for file in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = file?.path();
        let entry: Value =
            serde_json::from_slice(&std::fs::read(&path)?).with_context(|| path.display().to_string())?;
        ids.push(text(&entry, "id")?);
    }
    ids.sort();
    if !ids.iter().any(|id| id == wanted) {
        bail!(
            "there is no app {wanted:?} in the catalog; choose one of: {}",
            ids.join(", ")
        );
    }
    Ok(())
}

async fn run(options: &Options) -> Result<()> {
    check_app(&options.app)?;
    let mut stop = Stop::new()?;
    let start = Instant::now();
    let say = move |line: &str| {
        // The terminal may be gone; then nobody reads, and the cleaning up goes on.
        let _ = writeln!(io::stdout(), "{:>6.1}s  {line}", start.elapsed().as_secs_f32());
    };
    let spec = FleetSpec {
        nodes: options.nodes,
        body: choose_body(options.body)?,
        ..FleetSpec::hollow(options.nodes)
    };
    // Stopped while things start: dropping the fleet stops all that was started.
    let started = tokio::select! {
        biased;
        () = stop.asked() => Err(None),
        fleet = Fleet::start(&spec, say) => fleet.map_err(Some),
    };
    let mut fleet = match started {
        Ok(fleet) => fleet,
        Err(Some(error)) if tokio::time::timeout(SAME_INSTANT, stop.asked()).await.is_err() => return Err(error),
        Err(_) => bail!("stopped before the app was deployed; nothing is left running"),
    };
    let outcome = tokio::select! {
        biased;
        () = stop.asked() => None,
        outcome = show(&mut fleet, options, spec.body, say) => Some(outcome),
    };
    let answered = matches!(outcome, Some(Ok(())));
    if let Some(Err(error)) = outcome
        && tokio::time::timeout(SAME_INSTANT, stop.asked()).await.is_err()
    {
        eprintln!("{}", fleet.logs());
        return Err(error);
    }
    say("stopping everything that was started");
    fleet.stop().await?;
    say("stopped");
    if options.once && !answered {
        bail!("stopped before the app had answered");
    }
    Ok(())
}

async fn show(fleet: &mut Fleet, options: &Options, body: BodyKind, say: impl Fn(&str) + Copy) -> Result<()> {
    let app = deploy(fleet, &options.app, say).await?;
    let url = app["url"].as_str().context("a running app without url")?.to_owned();
    say(&format!("the app answers: {}", answer(options, &url).await?));
    if options.once {
        return survive(fleet, options, &app, &url, say).await;
    }
    print_login(fleet, options, body, &app, &url)?;
    std::future::pending().await
}

/// Deploys and prints what the operation tells as it happens.
async fn deploy(fleet: &Fleet, catalog_id: &str, say: impl Fn(&str)) -> Result<Value> {
    let created = fleet.client.create_app(catalog_id, &format!("my-{catalog_id}")).await?;
    let (id, operation) = (text(&created, "id")?, text(&created, "operation_id")?);
    say(&format!(
        "deploying {id} on {}: public port {}",
        text(&created, "node")?,
        created["public_port"]
    ));
    let mut stream = fleet
        .client
        .stream(&format!("/api/operations/{operation}/events"))
        .await?;
    let mut pending = String::new();
    let mut last = String::new();
    while let Some(bytes) = stream.chunk().await? {
        pending.push_str(&String::from_utf8_lossy(&bytes));
        while let Some((line, rest)) = pending.split_once('\n') {
            if let Some(data) = line.trim_end().strip_prefix("data:")
                && let Ok(data) = serde_json::from_str::<Value>(data.trim())
                && let Some(message) = data["message"].as_str()
                && message != last
            {
                say(&format!("  {message}"));
                last = message.to_owned();
            }
            pending = rest.to_owned();
        }
    }
    let ended = fleet.client.operation_end(&operation, Duration::from_secs(600)).await?;
    if ended["state"] != "done" {
        bail!("the deployment ended {}: {}", ended["state"], ended["error"]);
    }
    fleet
        .client
        .app_status(&id, &["running"], Duration::from_secs(10))
        .await
}

/// Coordinator down, agent restarted: the page stays.
async fn survive(fleet: &mut Fleet, options: &Options, app: &Value, url: &str, say: impl Fn(&str)) -> Result<()> {
    fleet.stop_coordinator().await?;
    answer(options, url).await.context("with the coordinator stopped")?;
    say("the coordinator is stopped: the app still answers");
    let node = text(app, "node")?;
    let node = fleet
        .nodes
        .iter_mut()
        .find(|n| n.name == node)
        .context("the app's node")?;
    node.stop_agent().await?;
    answer(options, url).await.context("with the agent stopped")?;
    node.start_agent()?;
    let name = node.name.clone();
    fleet.start_coordinator().await?;
    fleet.node_online(&name).await?;
    answer(options, url).await.context("with the agent restarted")?;
    say("the agent was restarted and has found the coordinator again: the app still answers");
    fleet.assert_promises().await
}

/// What comes back through the app's published port: the page of an app that serves pages, or that the port takes connections.
async fn answer(options: &Options, url: &str) -> Result<String> {
    let patience = Duration::from_secs(20);
    if options.serves_pages() {
        let page = until(&format!("a page from {url}"), patience, async || Ok(page(url).await)).await?;
        return Ok(first_words(&page));
    }
    let port = url
        .split_once("://")
        .map_or(url, |(_, rest)| rest)
        .trim_end_matches('/');
    until(&format!("a connection to {port}"), patience, async || {
        Ok(TcpStream::connect(port).await.ok())
    })
    .await?;
    Ok(format!("{port} takes connections"))
}

fn first_words(page: &str) -> String {
    let text = page
        .split('<')
        .filter_map(|part| part.split_once('>'))
        .map(|(_, text)| text.trim())
        .find(|t| !t.is_empty());
    text.unwrap_or(page).chars().take(80).collect()
}

fn text(value: &Value, field: &str) -> Result<String> {
    Ok(value[field]
        .as_str()
        .with_context(|| format!("no {field} in {value}"))?
        .to_owned())
}

/// Program and arguments.
fn as_typed(command: &std::process::Command) -> String {
    let words = iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn print_login(fleet: &Fleet, options: &Options, body: BodyKind, app: &Value, url: &str) -> Result<()> {
    let base = &fleet.client.base;
    println!();
    println!("app        {url}");
    println!("API        {base}/api");
    println!("login      {ADMIN} / {}", fleet.password);
    println!();
    if options.serves_pages() {
        println!("curl {url}/");
    }
    let login = format!("{{\"username\":\"{ADMIN}\",\"password\":\"{}\"}}", fleet.password);
    println!(
        "TOKEN=$(curl -s {base}/api/auth/login -H 'content-type: application/json' -d '{login}' | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')"
    );
    println!("curl -s {base}/api/proxmox/nodes -H \"authorization: Bearer $TOKEN\"");
    println!(
        "curl -s {base}/api/apps/{} -H \"authorization: Bearer $TOKEN\"",
        text(app, "id")?
    );
    let another = r#"{"catalog_id":"nginx","hostname":"another-one"}"#;
    println!(
        "curl -s {base}/api/apps -H \"authorization: Bearer $TOKEN\" -H 'content-type: application/json' -d '{another}'"
    );
    println!(
        "curl -s {base}/api/apps/{}/logs -H \"authorization: Bearer $TOKEN\"",
        text(app, "id")?
    );
    println!(
        "curl -s {base}/api/apps/{}/action -H \"authorization: Bearer $TOKEN\" -H 'content-type: application/json' -d '{{\"action\":\"stop\"}}'",
        text(app, "id")?
    );
    println!();
    println!("{}", as_typed(&fleet.coordinator_command(&["operations", "list"])));
    // Real containers are in namespaces of their nodes, where a tool by itself does not look.
    if body == BodyKind::Hollow
        && let Some(node) = fleet.nodes.first()
    {
        println!("{} list", node.root().join("usr/bin/pct").display());
    }
    println!();
    println!("Ctrl-C stops everything.");
    Ok(())
}
