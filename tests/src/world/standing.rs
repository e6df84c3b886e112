//! Whether each app stands as the registry says, and whether anything is left of what happened: locks, running tools, temporary files, strangers' doings.
//! For nodes whose containers are files.

use super::{AppFile, Found, NodeFiles, Registry, names};
use anyhow::Result;
use pve_sim::Layout;
use sqlx::Row;
use std::{collections::BTreeMap, net::SocketAddrV4};

/// A file that was left in a container.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The app, by its id.
    pub app: String,
    /// What the file holds.
    pub content: Vec<u8>,
}

/// A container of somebody else.
#[derive(Debug, Clone)]
pub struct Stranger {
    /// Names of the nodes of which one has it.
    pub nodes: Vec<String>,
    /// Its number.
    pub vmid: u32,
    /// Its configuration.
    pub conf: String,
}

/// What is known from outside.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Files left in containers.
    pub proofs: Vec<Proof>,
    /// Containers of others.
    pub strangers: Vec<Stranger>,
}

/// Where the file lies that is left in a container of a node of files.
pub fn proof_path(layout: &Layout, vmid: u32) -> std::path::PathBuf {
    layout.guest_dir(vmid).join("files/root/proof")
}

/// Everything that does not stand as it should, in words. Call it when nothing is under way and every node has told what is on it.
pub async fn out_of_place(registry: &mut Registry, nodes: &[NodeFiles], known: &Known) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let apps = registry.apps().await?;
    // What a stuck one has done is kept for its retry.
    let mut stuck = Vec::new();
    for row in registry.rows("SELECT id FROM operations WHERE state = 'stuck'").await? {
        stuck.push(row.try_get::<String, _>(0)?);
    }
    let by_id: BTreeMap<&str, &AppFile> = apps.iter().map(|app| (app.id.as_str(), app)).collect();
    for node in nodes {
        let found = node.read()?;
        let layout = Layout::open(&node.root)?;
        for app in apps.iter().filter(|app| app.node == node.name) {
            stands(app, &found, &layout, &mut wrong)?;
        }
        published(node, &found, &by_id, &mut wrong);
        for (vmid, lock) in &found.locks {
            let stuck = apps
                .iter()
                .any(|app| app.node == node.name && app.vmid == Some(*vmid) && app.status == "error");
            if !stuck {
                wrong.push(format!(
                    "container {vmid} of {} is locked ({lock}), and nobody says why",
                    node.name
                ));
            }
        }
        left_behind(node, &stuck, &mut wrong)?;
    }
    for proof in &known.proofs {
        let Some(app) = by_id.get(proof.app.as_str()).filter(|app| app.confirmed) else {
            continue;
        };
        let (Some(vmid), Some(node)) = (app.vmid, nodes.iter().find(|node| node.name == app.node)) else {
            continue;
        };
        match std::fs::read(proof_path(&Layout::open(&node.root)?, vmid)) {
            Ok(content) if content == proof.content => {}
            Ok(_) => wrong.push(format!("the file in container {vmid} of app {} is another", app.id)),
            Err(error) => wrong.push(format!(
                "the file in container {vmid} of app {} is gone: {error}",
                app.id
            )),
        }
    }
    for stranger in &known.strangers {
        let mut there = Vec::new();
        for node in nodes.iter().filter(|node| stranger.nodes.contains(&node.name)) {
            match std::fs::read_to_string(Layout::open(&node.root)?.conf_path(stranger.vmid)) {
                Ok(conf) => there.push(conf),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        if there != [stranger.conf.clone()] {
            wrong.push(format!(
                "somebody else's container {} of {:?} was touched: {there:?} instead of {:?}",
                stranger.vmid, stranger.nodes, stranger.conf
            ));
        }
    }
    Ok(wrong)
}

fn stands(app: &AppFile, found: &Found, layout: &Layout, wrong: &mut Vec<String>) -> Result<()> {
    let Some(vmid) = app.vmid else { return Ok(()) };
    let runs = found.running.contains(&vmid);
    let entry = found.published.iter().find(|port| port.app == app.id);
    let of = |what: &str| format!("app {} is {}, but {what}", app.id, app.status);
    match app.status.as_str() {
        "running" => {
            if !runs {
                wrong.push(of(&format!("container {vmid} does not run")));
            }
            if app.published.is_none() {
                wrong.push(of("the registry does not say where its port answers"));
            }
            let Some(entry) = entry else {
                wrong.push(of("its port is not published"));
                return Ok(());
            };
            if Some(entry.port) != app.public_port || entry.vmid != vmid || Some(&entry.address) != app.address.as_ref()
            {
                wrong.push(of(&format!("its port is published otherwise: {entry:?}, {app:?}")));
            }
            let at = SocketAddrV4::new(layout.info().address, entry.port);
            if !pve_sim::answers(layout, at)? {
                wrong.push(of(&format!("nothing answers at {at}")));
            }
        }
        "stopped" => {
            if runs {
                wrong.push(of(&format!("container {vmid} runs")));
            }
            // Somebody who stops a container by hand closes no port; then the registry says so too.
            if entry.is_some() != app.published.is_some() {
                wrong.push(of(&format!(
                    "its port is published: {entry:?}, by the registry: {:?}",
                    app.published
                )));
            }
        }
        _ => {}
    }
    Ok(())
}

fn published(node: &NodeFiles, found: &Found, apps: &BTreeMap<&str, &AppFile>, wrong: &mut Vec<String>) {
    for port in &found.published {
        let own = apps.get(port.app.as_str()).is_some_and(|app| {
            app.node == node.name && app.vmid == Some(port.vmid) && app.public_port == Some(port.port)
        });
        if !own {
            wrong.push(format!(
                "{} publishes port {} for {}, whose it is not",
                node.name, port.port, port.app
            ));
        }
        if found.records.get(&port.vmid) != Some(&port.app) {
            wrong.push(format!(
                "{} publishes port {} of container {}, which is not of {}",
                node.name, port.port, port.vmid, port.app
            ));
        }
    }
}

/// Of tools and recipes.
fn left_behind(node: &NodeFiles, stuck: &[String], wrong: &mut Vec<String>) -> Result<()> {
    let state = node.state();
    for name in names(&state.join("tools"))? {
        let folder = state.join("tools").join(&name);
        if stuck.iter().any(|id| name.contains(id.as_str())) {
            continue;
        }
        let ended = folder.join("status.json").exists();
        // Marked while it still ran; it goes with the next operation.
        if ended && folder.join("forgotten").exists() {
            continue;
        }
        wrong.push(format!(
            "the agent of {} keeps a tool's results although nothing is under way: {name}{}",
            node.name,
            if ended { "" } else { ", which has not ended" }
        ));
    }
    // An app's values lie there for the moment of a copy.
    for name in names(&state.join("tmp"))? {
        wrong.push(format!("the agent of {} has left a temporary file: {name}", node.name));
    }
    Ok(())
}
