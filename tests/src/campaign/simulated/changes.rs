//! What users ask for besides the plain life of an app: they adopt containers that somebody made by hand, change apps, empty nodes, cancel operations, and let
//! stuck ones go on. Some of it needs a node's answer first, so the user's request is under way while other things happen.

use super::{ledger::Proof, run::Run};
use anyhow::{Context, Result};
use proximity_coordinator::{
    domain::app_state::Status,
    service::{
        ServiceError,
        apps::{AdoptAnswer, AdoptContainer, ChangeApp, DrainedApp},
        drain,
    },
    store::apps::ListedApp,
};
use serde_json::json;
use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

/// What a user was answered.
enum Heard {
    Adopted(Box<AdoptAnswer>),
    Drained(Vec<DrainedApp>),
}

type Answer = Result<Heard, ServiceError>;

/// A request that is under way.
pub(super) struct Asked {
    what: String,
    answer: Arc<Mutex<Option<Answer>>>,
}

impl Run {
    fn ask(&mut self, what: String, request: impl Future<Output = Answer> + Send + 'static) -> Result<()> {
        self.note(&what);
        let answer: Arc<Mutex<Option<Answer>>> = Arc::default();
        let slot = answer.clone();
        self.coordinator()?.spawn(async move {
            let answer = request.await;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        });
        self.asked.push(Asked { what, answer });
        Ok(())
    }

    /// Takes in the answers that have come.
    pub(super) fn hear_answers(&mut self) -> Result<()> {
        for asked in std::mem::take(&mut self.asked) {
            let answer = asked.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
            match answer {
                None => self.asked.push(asked),
                Some(Ok(Heard::Adopted(answer))) => self.adopted(&asked.what, &answer)?,
                Some(Ok(Heard::Drained(apps))) => {
                    for app in apps {
                        let Some(operation) = &app.operation_id else { continue };
                        let place = self.ledger.app(&app.id).context("an app that nobody created")?;
                        self.accepted(
                            operation,
                            "migrate",
                            place,
                            format!("{}: app {place} moves", asked.what),
                        );
                    }
                }
                Some(Err(error)) => self.refused(error)?,
            }
        }
        Ok(())
    }

    /// Somebody makes a container by hand, with a file in it, and a user asks to adopt it; or one that was made earlier.
    pub(super) fn adopt(&mut self) -> Result<()> {
        let made = self.strangers.adoptable.len();
        if made == 0 || self.dice.chance(500) {
            self.make_by_hand()?;
        }
        let made = self.strangers.adoptable.len();
        if made == 0 {
            return Ok(());
        }
        let at = self.dice.throw(|dice| dice.below(made));
        let (node, vmid, _) = self.strangers.adoptable[at];
        let body = AdoptContainer {
            vmid,
            node_name: self.nodes[node].name.clone(),
            suggested_type: Some("custom".into()),
            port_to_expose: Some(80),
            ..AdoptContainer::default()
        };
        let coordinator = self.coordinator()?;
        let (apps, caller) = (coordinator.apps.clone(), coordinator.caller.clone());
        let what = format!("a user asks to adopt container {vmid} of {}", self.nodes[node].name);
        self.ask(what, async move {
            let answer = apps.adopt(&caller, &body).await?;
            Ok(Heard::Adopted(Box::new(answer)))
        })
    }

    fn make_by_hand(&mut self) -> Result<()> {
        let node = self.some_node();
        if !self.is_in_order(node) {
            return Ok(());
        }
        let vmid = self.free_number(node)?;
        let number = vmid.to_string();
        let host = format!("hand-{}-{vmid}", self.nodes[node].name);
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
        if !self.nodes[node].by_hand("pct", &words)? {
            return Ok(());
        }
        let content = self.draw_proof();
        let path = self.nodes[node].proof(vmid)?;
        fs::create_dir_all(path.parent().context("a file in a folder")?)?;
        fs::write(&path, &content)?;
        if self.dice.chance(700) {
            self.nodes[node].by_hand("pct", &["start", &number])?;
        }
        let conf = fs::read_to_string(self.nodes[node].layout()?.conf_path(vmid))?;
        self.strangers.containers.push((node, vmid, conf));
        self.strangers.adoptable.push((node, vmid, content));
        self.note(format!(
            "somebody makes container {vmid} on {} by hand",
            self.nodes[node].name
        ));
        Ok(())
    }

    fn adopted(&mut self, what: &str, answer: &AdoptAnswer) -> Result<()> {
        let app = self.ledger.created(&answer.id);
        let at = self
            .strangers
            .adoptable
            .iter()
            .position(|(node, vmid, _)| *vmid == answer.vmid && self.nodes[*node].name == answer.node)
            .context("a container was adopted that nobody made")?;
        let (node, vmid, content) = self.strangers.adoptable[at].clone();
        self.ledger.apps[app].proof = Some(Proof { node, vmid, content });
        self.accepted(
            &answer.operation_id,
            "adopt",
            app,
            format!("{what}, which becomes app {app}"),
        );
        Ok(())
    }

    /// Other cores, memory, disk or values.
    pub(super) fn change(&mut self, rows: &[ListedApp]) -> Result<()> {
        let suits = |app: &ListedApp| !app.app.adopted && matches!(app.app.status, Status::Running | Status::Stopped);
        let Some(row) = self.suited(rows, suits) else {
            return Ok(());
        };
        let id = row.app.id.as_str();
        let app = self.ledger.app(id).context("an app that nobody created")?;
        let (what, number) = self.dice.throw(|dice| (dice.range(1..=7), dice.range(1..=4)));
        let mut config = serde_json::Map::new();
        if what & 1 != 0 {
            config.insert("memory_mb".into(), json!(192 + 64 * number));
            config.insert("cpu_cores".into(), json!(number));
        }
        if what & 2 != 0 {
            config.insert("disk_gb".into(), json!(row.app.resources.disk_gb + 1));
        }
        let environment = (what & 4 != 0).then(|| {
            let greeting = (number > 1).then(|| format!("hello {number}"));
            [("GREETING".to_owned(), greeting)].into()
        });
        let body = ChangeApp {
            config: (!config.is_empty()).then_some(config),
            environment,
            ..ChangeApp::default()
        };
        let coordinator = self.coordinator()?;
        match coordinator.run(coordinator.apps.change(&coordinator.caller, id, &body))? {
            Ok(changed) if changed.started => {
                let operation = changed.app.operation_id.context("a change without an operation")?;
                let words = format!("a user changes app {app} ({what})");
                self.accepted(&operation, "configure", app, words);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => self.refused(error),
        }
    }

    /// An operator empties a node, or lets it take apps again.
    pub(super) fn drain(&mut self) -> Result<()> {
        if !self.drained.is_empty() {
            return self.undrain();
        }
        let node = self.some_node();
        self.drained.insert(node);
        let coordinator = self.coordinator()?;
        let (nodes, apps) = (coordinator.nodes.clone(), coordinator.apps.clone());
        let (caller, id) = (coordinator.caller.clone(), self.ids[node].to_string());
        let what = format!("an operator empties {}", self.nodes[node].name);
        self.ask(what, async move {
            let drained = drain::drain(&nodes, &apps, &caller, &id).await?;
            Ok(Heard::Drained(drained.apps))
        })
    }

    /// Every emptied node takes apps again.
    pub(super) fn undrain(&mut self) -> Result<()> {
        for node in std::mem::take(&mut self.drained) {
            let id = self.ids[node].to_string();
            let coordinator = self.coordinator()?;
            let undrained = coordinator.run(coordinator.nodes.undrain(&coordinator.caller, &id))?;
            undrained.map(drop).or_else(|error| self.refused(error))?;
            self.note(format!("{} takes apps again", self.nodes[node].name));
        }
        Ok(())
    }

    /// Somebody cancels what is under way, or lets what is stuck go on.
    pub(super) fn turn_one_around(&mut self) -> Result<()> {
        let concerned: Vec<usize> = (0..self.ledger.operations.len())
            .filter(|at| {
                let operation = &self.ledger.operations[*at];
                !operation.ended() || operation.state == "stuck"
            })
            .collect();
        if concerned.is_empty() {
            return Ok(());
        }
        let at = concerned[self.dice.throw(|dice| dice.below(concerned.len()))];
        let (id, stuck) = (
            self.ledger.operations[at].id.clone(),
            self.ledger.operations[at].state == "stuck",
        );
        let coordinator = self.coordinator()?;
        let answer = if stuck {
            coordinator.run(coordinator.rescue.retry(&coordinator.caller, &id))?
        } else {
            coordinator.run(coordinator.operations.cancel(&coordinator.caller, &id))?
        };
        match answer {
            Ok(_) => {
                let name = self.ledger.name(&id);
                self.note(format!("somebody {} {name}", if stuck { "retries" } else { "cancels" }));
                Ok(())
            }
            Err(error) => self.refused(error),
        }
    }
}
