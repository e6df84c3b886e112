//! Backups through the API, on hollow nodes with real processes: made in each mode, told of before, listed, deleted, restored; and what others do to them.

#![allow(clippy::unwrap_used)]

mod cloning;
mod making;
mod restoring;

use anyhow::Result;
use proximity_tests::{fleet::Fleet, process::PATIENCE};
use serde_json::{Value, json};
use std::{fs, path::PathBuf};

/// Another two storages: one that takes snapshots, and a Proxmox Backup Server.
const STORAGES: &str = "\nlvmthin: local-lvm\n\tthinpool data\n\tvgname pve\n\tcontent rootdir,images\n\npbs: pbs\n\tdatastore main\n\tserver pbs.example.org\n\tcontent backup\n";

fn id(app: &Value) -> &str {
    app["id"].as_str().unwrap()
}

fn backups(app: &Value) -> String {
    format!("/api/apps/{}/backups", id(app))
}

/// Begins a backup.
async fn ask(fleet: &Fleet, app: &Value, body: Value) -> Value {
    let answer = fleet.client.post(&backups(app), &body).await.unwrap();
    answer.expect(202).unwrap()
}

/// Makes a backup and answers how it is shown.
async fn made(fleet: &Fleet, app: &Value, body: Value) -> Value {
    let started = ask(fleet, app, body).await;
    fleet.done(&started).await.unwrap();
    shown(fleet, app, &started["id"]).await
}

async fn shown(fleet: &Fleet, app: &Value, backup: &Value) -> Value {
    let path = format!("{}/{backup}", backups(app));
    fleet.client.get(&path).await.unwrap().expect(200).unwrap()
}

async fn ended(fleet: &Fleet, started: &Value) -> Value {
    let operation = started["operation_id"].as_str().unwrap();
    fleet.client.operation_end(operation, PATIENCE).await.unwrap()
}

async fn status(fleet: &Fleet, app: &Value, wanted: &str) -> Value {
    fleet.client.app_status(id(app), &[wanted], PATIENCE).await.unwrap()
}

async fn act(fleet: &Fleet, app: &Value, action: &str) {
    let path = format!("/api/apps/{}/action", id(app));
    let answer = fleet.client.post(&path, &json!({"action": action})).await.unwrap();
    fleet.done(&answer.expect(200).unwrap()).await.unwrap();
}

fn vmid(app: &Value) -> u32 {
    u32::try_from(app["lxc_id"].as_u64().unwrap()).unwrap()
}

fn root(fleet: &Fleet) -> PathBuf {
    fleet.nodes[0].root().to_owned()
}

fn conf(fleet: &Fleet, vmid: u32) -> Option<String> {
    fs::read_to_string(root(fleet).join(format!("etc/pve/lxc/{vmid}.conf"))).ok()
}

/// A file inside a container.
fn note(fleet: &Fleet, vmid: u32) -> PathBuf {
    root(fleet).join(format!("var/lib/lxc/{vmid}/files/note"))
}

fn dump(fleet: &Fleet) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root(fleet).join("var/lib/vz/dump")) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The node has more storages from now on, and the coordinator knows.
async fn more_storages(fleet: &Fleet, app: &Value) -> Result<()> {
    let cfg = root(fleet).join("etc/pve/storage.cfg");
    fs::write(&cfg, fs::read_to_string(&cfg)? + STORAGES)?;
    let path = format!("/api/proxmox/hosts/{}/sync-nodes", app["host_id"]);
    fleet.client.post(&path, &json!({})).await?.expect(200)?;
    Ok(())
}
