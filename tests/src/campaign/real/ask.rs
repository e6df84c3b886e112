//! What users ask for over HTTP in a run in real time.

use super::play::Play;
use crate::{
    api::Answer,
    campaign::simulated::{Way, way},
    world::{
        AppFile,
        standing::{Proof, Stranger, proof_path},
    },
};
use anyhow::{Context, Result, bail};
use proximity_coordinator::domain::app_state::{Action, Status};
use pve_sim::Layout;
use serde_json::json;

/// Numbers of containers that are made by hand: none that the coordinator gives out in a run.
const BY_HAND: u32 = 900;

impl Play {
    async fn suited(&self, pick: usize, suits: impl Fn(&AppFile) -> bool) -> Result<Option<AppFile>> {
        let apps = self.fleet.registry().await?.apps().await?;
        let suited: Vec<AppFile> = apps.into_iter().filter(suits).collect();
        Ok(suited.get(pick % suited.len().max(1)).cloned())
    }

    /// What a user is told counts; what breaks off on the way may have happened or not.
    pub(super) async fn ask(&mut self, kind: &str, pick: usize) -> Result<()> {
        let client = self.fleet.client.clone();
        let may = |action: Action, app: &AppFile| {
            app.status
                .parse()
                .is_ok_and(|status: Status| action.allowed_from(status))
        };
        let answer = match way(kind).context("a kind without a way")? {
            Way::Create => {
                self.created += 1;
                let body = json!({"catalog_id": "nginx", "hostname": format!("app-{}", self.created),
                    "config": {"cpu_cores": 1, "memory_mb": 256, "disk_gb": 2}});
                client.post("/api/apps", &body).await
            }
            Way::Act(action) => {
                let suits = |app: &AppFile| may(action, app) && (action != Action::Delete || !app.adopted);
                let Some(app) = self.suited(pick, suits).await? else {
                    return Ok(());
                };
                let path = format!("/api/apps/{}/action", app.id);
                client.post(&path, &json!({"action": action.as_str()})).await
            }
            Way::Forget => {
                let suits = |app: &AppFile| app.adopted && may(Action::Delete, app);
                let Some(app) = self.suited(pick, suits).await? else {
                    return Ok(());
                };
                client.delete(&format!("/api/apps/{}", app.id)).await
            }
            Way::Change => {
                let suits = |app: &AppFile| !app.adopted && matches!(app.status.as_str(), "running" | "stopped");
                let Some(app) = self.suited(pick, suits).await? else {
                    return Ok(());
                };
                let config = json!({"memory_mb": 192 + 64 * (pick % 5), "disk_gb": 2 + pick % 3});
                let path = format!("/api/apps/{}", app.id);
                client.patch(&path, &json!({"config": config})).await
            }
            Way::Adopt => return self.adopt(pick).await,
            Way::Drain => return self.drain(pick).await,
            Way::StartByHand => return self.start_by_hand(pick).await,
        };
        self.hear(answer).map(drop)
    }

    /// Answers the app, where the answer names it, if the request was accepted.
    fn hear(&mut self, answer: Result<Answer>) -> Result<Option<String>> {
        let Ok(answer) = answer else { return Ok(None) };
        let text = |name: &str| answer.body[name].as_str().map(str::to_owned);
        match answer.status.as_u16() {
            200..=299 => {
                // A change of nothing is none.
                let Some(operation) = text("operation_id") else {
                    return Ok(None);
                };
                self.accepted.insert(operation);
                Ok(Some(text("id").unwrap_or_default()))
            }
            // The world has moved on since the list was read, no node can take it, or a disk would shrink.
            404 | 409 | 422 | 503 => Ok(None),
            _ => bail!("a user's request was answered with {}: {}", answer.status, answer.body),
        }
    }

    async fn start_by_hand(&mut self, pick: usize) -> Result<()> {
        let suits = |app: &AppFile| app.confirmed && app.status == "stopped";
        let Some(app) = self.suited(pick, suits).await? else {
            return Ok(());
        };
        let node = self.fleet.nodes.iter().find(|node| node.name == app.node);
        if let (Some(node), Some(vmid)) = (node, app.vmid) {
            // Whether it can be done now is not ours to know.
            let _ = node.tool("pct", &["start", &vmid.to_string()]);
        }
        Ok(())
    }

    async fn adopt(&mut self, pick: usize) -> Result<()> {
        if self.by_hand.is_empty() || pick.is_multiple_of(2) {
            self.make_by_hand(pick)?;
        }
        let Some((node, vmid, _, content)) = self.by_hand.get(pick % self.by_hand.len().max(1)).cloned() else {
            return Ok(());
        };
        let body = json!({"vmid": vmid, "node_name": self.fleet.nodes[node].name, "suggested_type": "custom",
            "port_to_expose": 80});
        let client = self.fleet.client.clone();
        let answer = client.post("/api/apps/adopt", &body).await;
        if let Some(app) = self.hear(answer)? {
            self.proofs.push(Proof { app, content });
        }
        Ok(())
    }

    fn make_by_hand(&mut self, pick: usize) -> Result<()> {
        let node = pick % self.fleet.nodes.len();
        let vmid = BY_HAND + u32::try_from(self.by_hand.len())?;
        let (number, host) = (vmid.to_string(), format!("hand-{vmid}"));
        let there = &self.fleet.nodes[node];
        let words = [
            "create",
            &number,
            "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst",
            "--rootfs",
            "local:1",
            "--hostname",
            &host,
            "--net0",
            "name=eth0,bridge=vmbr0,ip=dhcp",
        ];
        // The machine may be down, without quorum, or its tools may fail just now; what is left of that is taken away by hand.
        if there.tool("pct", &words).is_err() {
            let _ = there.tool("pct", &["unlock", &number]);
            let _ = there.tool("pct", &["destroy", &number, "--destroy-unreferenced-disks", "1"]);
            return Ok(());
        }
        let layout = Layout::open(there.root())?;
        let (path, content) = (proof_path(&layout, vmid), uuid::Uuid::new_v4().to_string().into_bytes());
        std::fs::create_dir_all(path.parent().context("a file in a folder")?)?;
        std::fs::write(&path, &content)?;
        let _ = there.tool("pct", &["start", &number]);
        let conf = std::fs::read_to_string(layout.conf_path(vmid))?;
        self.by_hand.push((node, vmid, conf, content));
        Ok(())
    }

    /// Empties a node of the cluster, and lets it take apps again at once: the moves go on.
    async fn drain(&mut self, pick: usize) -> Result<()> {
        let client = self.fleet.client.clone();
        let name = self.fleet.nodes[pick % self.fleet.nodes.len()].name.clone();
        let Ok(listed) = client.get("/api/proxmox/nodes").await else {
            return Ok(());
        };
        let listed = listed.expect(200)?;
        let nodes = listed
            .as_array()
            .or(listed["nodes"].as_array())
            .context("a list of nodes")?;
        let id = nodes
            .iter()
            .find(|node| node["name"] == name.as_str())
            .and_then(|node| node["id"].as_str())
            .context("an unknown node")?;
        let drained = client.post(&format!("/api/proxmox/nodes/{id}/drain"), &json!({})).await;
        if let Ok(answer) = &drained {
            let apps = answer.body["apps"].as_array().cloned().unwrap_or_default();
            let moves = apps.iter().filter_map(|app| app["operation_id"].as_str());
            self.accepted.extend(moves.map(str::to_owned));
        }
        // Lost on the way, the node is emptied again or lets apps in with the next request.
        let _ = client
            .post(&format!("/api/proxmox/nodes/{id}/undrain"), &json!({}))
            .await;
        Ok(())
    }

    /// Containers of others, which nobody may have touched.
    pub(super) fn strangers(&self) -> Vec<Stranger> {
        let within = |node: usize| {
            let nodes = self.fleet.nodes.iter().enumerate();
            nodes
                .filter(|(at, _)| (*at == 0) == (node == 0))
                .map(|(_, node)| node.name.clone())
                .collect()
        };
        let stranger = |(node, vmid, conf, _): &(usize, u32, String, Vec<u8>)| Stranger {
            nodes: within(*node),
            vmid: *vmid,
            conf: conf.clone(),
        };
        self.by_hand.iter().map(stranger).collect()
    }
}
