//! What users ask for. The kinds come from the engine: one that nobody here knows how to bring about fails a test.

use super::{ledger::Proof, run::Run};
use anyhow::{Context, Result, bail};
use proximity_coordinator::{
    domain::app_state::{Action, Status},
    operations::KINDS,
    service::{
        ServiceError,
        apps::{Acted, CreateApp, Created, Deletion},
    },
    store::apps::{self, AppFilter, ListedApp},
};
use serde_json::json;
use std::{fs, path::Path};

/// How an operation of a kind comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A user creates an app.
    Create,
    /// A user acts on one.
    Act(Action),
    /// Somebody starts a stopped app's container by hand, and reconciliation publishes it.
    StartByHand,
    /// A user adopts a container that somebody made by hand.
    Adopt,
    /// A user deletes an adopted app.
    Forget,
    /// A user changes an app.
    Change,
    /// An operator empties a node.
    Drain,
}

/// Kinds that no run asks for yet: archives and containers beside an app's own need checks of their own at the end of a run. Their steps, undos and crashes are
/// tested with the engine.
pub const NOT_YET: &[&str] = &["backup", "backup_delete", "restore", "discard", "verify", "clone"];

/// How an operation of that kind comes about; `None`: this campaign does not know the kind.
pub fn way(kind: &str) -> Option<Way> {
    Some(match kind {
        "deploy" => Way::Create,
        "start" => Way::Act(Action::Start),
        "stop" => Way::Act(Action::Stop),
        "restart" => Way::Act(Action::Restart),
        "delete" => Way::Act(Action::Delete),
        "publish" => Way::StartByHand,
        "adopt" => Way::Adopt,
        "forget" => Way::Forget,
        "configure" => Way::Change,
        "migrate" => Way::Drain,
        _ => return None,
    })
}

fn recipe(id: &str, template: &str, volumes: serde_json::Value, env: serde_json::Value) -> serde_json::Value {
    json!({
        "id": id, "name": id, "description": "An app of the campaign.", "version": "1", "category": "Test", "tags": [], "env_vars": env,
        "ports": {"http": 80}, "main_port": "http", "min_memory": 64, "min_cpu": 1, "min_disk": 1, "environment": {}, "volumes": volumes,
        "deploy": {
            "kind": "native", "template": template, "install_timeout_s": 300, "health_timeout_s": 30,
            "install": ["#!/bin/sh", "true"], "health": ["#!/bin/sh", "true"], "files": {}
        }
    })
}

/// Two apps: a plain one, and one with a volume, a generated secret, and a template that has to be fetched.
pub(super) fn write_catalog(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let greeting = json!({"description": "What it says.", "default": "hello", "required": true});
    let password =
        json!({"description": "Drawn at random.", "secret": true, "generated": true, "length": 16, "required": true});
    let volumes = json!([{"path": "/srv/data", "size_gb": 1}]);
    let plain = json!({"GREETING": greeting});
    let data = json!({"GREETING": greeting, "PASSWORD": password});
    for entry in [
        recipe("plain", "debian-12-standard", json!([]), plain),
        recipe("data", "debian-13-standard", volumes, data),
    ] {
        let name = format!("{}.json", entry["id"].as_str().unwrap_or_default());
        fs::write(folder.join(name), entry.to_string())?;
    }
    Ok(())
}

impl Run {
    /// Every app of the registry, as it stands.
    pub(super) fn rows(&self) -> Result<Vec<ListedApp>> {
        let coordinator = self.coordinator()?;
        coordinator.run(async {
            let mut conn = coordinator.store.read().await?;
            Ok::<_, anyhow::Error>(apps::list(&mut conn, &AppFilter::default(), 200, 0).await?.0)
        })?
    }

    /// A user asks for something.
    pub(super) fn request(&mut self) -> Result<()> {
        self.requests += 1;
        // No two requests come in the same millisecond: their order is that of their times.
        self.time.pass_to(self.time.now() + 1);
        self.settle()?;
        if self.coordinator.is_none() {
            // It met its end in that millisecond.
            return Ok(());
        }
        if self.dice.chance(60) {
            return self.turn_one_around();
        }
        let rows = self.rows()?;
        let room = rows.len() < usize::try_from(self.profile.apps).unwrap_or(usize::MAX);
        let weights: Vec<u32> = KINDS
            .iter()
            .map(|kind| match way(kind.name) {
                Some(Way::Create) if room => 10,
                Some(Way::Adopt) if room => 2,
                Some(Way::Create | Way::Adopt) | None => 0,
                Some(Way::Drain) => 1,
                Some(Way::Act(Action::Delete)) => 2,
                Some(_) => 3,
            })
            .collect();
        let Some(kind) = self.dice.throw(|dice| dice.weighted(&weights)) else {
            bail!("there is nothing to ask for");
        };
        match way(KINDS[kind].name).context("a kind with a weight")? {
            Way::Create => self.create(),
            Way::Act(action) => self.act(&rows, action),
            Way::StartByHand => self.start_by_hand(&rows),
            Way::Adopt => self.adopt(),
            Way::Forget => self.forget(&rows),
            Way::Change => self.change(&rows),
            Way::Drain => self.drain(),
        }
    }

    fn create(&mut self) -> Result<()> {
        let number = self.ledger.apps.len();
        let entry = if self.dice.chance(300) { "data" } else { "plain" };
        let body = CreateApp {
            catalog_id: entry.into(),
            hostname: format!("app-{number}"),
            config: json!({"cpu_cores": 1, "memory_mb": 256, "disk_gb": 2})
                .as_object()
                .cloned(),
            ..CreateApp::default()
        };
        let coordinator = self.coordinator()?;
        match coordinator.run(coordinator.apps.create(&coordinator.caller, &body, false))? {
            Ok(Created::Accepted(view)) => {
                let app = self.ledger.created(&view.id);
                let operation = view.operation_id.context("a created app without an operation")?;
                self.accepted(
                    &operation,
                    "deploy",
                    app,
                    format!("a user creates app {app} ({entry}) on {}", view.node),
                );
                Ok(())
            }
            Ok(Created::Plan(_)) => bail!("a plan instead of an app"),
            Err(error) => self.refused(error),
        }
    }

    /// Now and then somebody asks for what cannot be.
    pub(super) fn suited(&self, rows: &[ListedApp], suits: impl Fn(&ListedApp) -> bool) -> Option<ListedApp> {
        let any = self.dice.chance(50);
        let suited: Vec<&ListedApp> = rows.iter().filter(|app| any || suits(app)).collect();
        if suited.is_empty() {
            return None;
        }
        Some(suited[self.dice.throw(|dice| dice.below(suited.len()))].clone())
    }

    fn act(&mut self, rows: &[ListedApp], action: Action) -> Result<()> {
        let suits =
            |app: &ListedApp| action.allowed_from(app.app.status) && (action != Action::Delete || !app.app.adopted);
        let Some(app) = self.suited(rows, suits) else {
            return Ok(());
        };
        self.act_on(app.app.id.as_str(), action)
    }

    fn forget(&mut self, rows: &[ListedApp]) -> Result<()> {
        let suits = |app: &ListedApp| app.app.adopted && Action::Delete.allowed_from(app.app.status);
        let Some(app) = self.suited(rows, suits) else {
            return Ok(());
        };
        self.act_on(app.app.id.as_str(), Action::Delete)
    }

    pub(super) fn act_on(&mut self, id: &str, action: Action) -> Result<()> {
        let app = self.ledger.app(id).context("an app that nobody created")?;
        let coordinator = self.coordinator()?;
        let acting = coordinator
            .apps
            .act(&coordinator.caller, id, action, Deletion::default());
        match coordinator.run(acting)? {
            Ok(Acted::Accepted(answer)) => {
                // Which kind it is, its first event says.
                self.accepted(
                    &answer.operation_id,
                    action.as_str(),
                    app,
                    format!("a user asks to {action} app {app}"),
                );
                Ok(())
            }
            Ok(Acted::Plan(_)) => bail!("a plan instead of an act"),
            Err(error) => self.refused(error),
        }
    }

    fn start_by_hand(&mut self, rows: &[ListedApp]) -> Result<()> {
        let stopped = |app: &ListedApp| app.app.status == Status::Stopped && app.app.vmid_confirmed;
        let Some(app) = self.suited(rows, stopped) else {
            return Ok(());
        };
        let node = self
            .ids
            .iter()
            .position(|id| *id == app.app.node_id)
            .context("an app of an unknown node")?;
        let (Some(vmid), true) = (app.app.vmid, self.nodes[node].powered) else {
            return Ok(());
        };
        if self.nodes[node].by_hand("pct", &["start", &vmid.to_string()])? {
            self.note(format!("somebody runs pct start {vmid} on {}", self.nodes[node].name));
            self.nodes[node].owes_report = true;
        }
        Ok(())
    }

    pub(super) fn accepted(&mut self, operation: &str, kind: &str, app: usize, words: String) {
        let place = self.ledger.operation(operation, kind, Some(app));
        self.ledger.operations[place].acknowledged = true;
        self.note(format!("{words}: {}", self.ledger.name(operation)));
    }

    pub(super) fn refused(&mut self, error: ServiceError) -> Result<()> {
        let kind = match &error {
            ServiceError::Refused(_) => "refused",
            ServiceError::NotFound(_) => "not found",
            ServiceError::Conflict(_) => "conflict",
            ServiceError::Unavailable { .. } => "unavailable",
            _ => bail!("a user's request ended with: {error}"),
        };
        *self.refused.entry(kind.to_owned()).or_default() += 1;
        self.note(format!("a user's request is answered: {kind}"));
        Ok(())
    }

    pub(super) fn draw_proof(&self) -> Vec<u8> {
        self.dice
            .throw(|dice| (0..64).map(|_| dice.draw().to_be_bytes()).collect::<Vec<_>>())
            .concat()
    }

    /// The app was deployed: a file that nobody else can have written goes into its container.
    pub(super) fn leave_proof(&mut self, app: usize) -> Result<()> {
        let id = self.ledger.apps[app].id.clone();
        let row = self.rows()?.into_iter().find(|row| row.app.id.as_str() == id);
        let Some(row) = row.filter(|row| row.app.vmid_confirmed) else {
            bail!("app {app} was deployed, and the registry knows no container of it");
        };
        let node = self
            .ids
            .iter()
            .position(|id| *id == row.app.node_id)
            .context("an app of an unknown node")?;
        let vmid = row.app.vmid.context("a confirmed app without a number")?;
        let content = self.draw_proof();
        let path = self.nodes[node].proof(vmid)?;
        let folder = path.parent().context("a file in a folder")?;
        fs::create_dir_all(folder)
            .with_context(|| format!("app {app} was deployed, and its container has no files"))?;
        fs::write(&path, &content)?;
        self.ledger.apps[app].proof = Some(Proof { node, vmid, content });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_operation_is_brought_about() {
        for name in NOT_YET {
            assert!(
                KINDS.iter().any(|kind| kind.name == *name),
                "{name} is no kind any more"
            );
            assert_eq!(way(name), None, "{name} has a way: take it off the list");
        }
        for kind in KINDS {
            assert!(
                way(kind.name).is_some() || NOT_YET.contains(&kind.name),
                "the campaign never asks for {}: give it a way",
                kind.name
            );
        }
    }
}
