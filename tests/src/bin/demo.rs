//! `cargo demo`: a coordinator, three agents on simulated Proxmox nodes, an app deployed and answering. Stays up until Ctrl-C; `--once` ends after the app
//! has answered, also while the coordinator is stopped and after the agent was restarted.

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use proximity_tests::{
    api::page,
    fleet::{ADMIN, Fleet, FleetSpec},
    process::until,
};
use pve_sim::{lab::Lab, layout::BodyKind};
use serde_json::Value;
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// An app on three simulated Proxmox nodes, from join token to URL.
#[derive(Debug, Parser)]
#[command(name = "cargo demo")]
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

async fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let say = move |line: &str| println!("{:>6.1}s  {line}", start.elapsed().as_secs_f32());
    let spec = FleetSpec {
        nodes: options.nodes,
        body: choose_body(options.body)?,
        ..FleetSpec::hollow(options.nodes)
    };
    // Ctrl-C while things start: dropping the fleet stops all that was started.
    let mut fleet = tokio::select! {
        fleet = Fleet::start(&spec, say) => fleet?,
        _ = tokio::signal::ctrl_c() => bail!("stopped"),
    };
    let outcome = tokio::select! {
        outcome = show(&mut fleet, options, say) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    if let Err(error) = outcome {
        eprintln!("{}", fleet.logs());
        return Err(error);
    }
    say("stopping everything that was started");
    fleet.stop().await
}

async fn show(fleet: &mut Fleet, options: &Options, say: impl Fn(&str) + Copy) -> Result<()> {
    let app = deploy(fleet, &options.app, say).await?;
    let url = app["url"].as_str().context("a running app without url")?.to_owned();
    if options.app == "nginx" {
        say(&format!("the app answers: {}", first_words(&fetch(&url).await?)));
    }
    if options.once {
        if options.app == "nginx" {
            survive(fleet, &app, &url, say).await?;
        }
        return Ok(());
    }
    print_login(fleet, &app, &url)?;
    tokio::signal::ctrl_c().await?;
    println!();
    Ok(())
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
async fn survive(fleet: &mut Fleet, app: &Value, url: &str, say: impl Fn(&str)) -> Result<()> {
    fleet.stop_coordinator().await?;
    fetch(url).await.context("with the coordinator stopped")?;
    say("the coordinator is stopped: the app still answers");
    let node = text(app, "node")?;
    let node = fleet
        .nodes
        .iter_mut()
        .find(|n| n.name == node)
        .context("the app's node")?;
    node.stop_agent().await?;
    fetch(url).await.context("with the agent stopped")?;
    node.start_agent()?;
    let name = node.name.clone();
    fleet.start_coordinator().await?;
    fleet.node_online(&name).await?;
    fetch(url).await.context("with the agent restarted")?;
    say("the agent was restarted and has found the coordinator again: the app still answers");
    fleet.assert_promises().await
}

async fn fetch(url: &str) -> Result<String> {
    until(&format!("a page from {url}"), Duration::from_secs(20), async || {
        Ok(page(url).await)
    })
    .await
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

fn print_login(fleet: &Fleet, app: &Value, url: &str) -> Result<()> {
    let base = &fleet.client.base;
    println!();
    println!("app        {url}");
    println!("API        {base}/api");
    println!("login      {ADMIN} / {}", fleet.password);
    println!();
    println!("curl {url}/");
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
    println!();
    println!("Ctrl-C stops everything.");
    Ok(())
}
