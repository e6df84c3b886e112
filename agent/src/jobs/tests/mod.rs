//! Tests of the journal and the machine, with steps that do what a test tells them.
#![allow(clippy::unwrap_used)]

mod intake;
mod journal;
mod machine;
mod restart;

use super::{BoxFuture, JobResult, Steps, journal::Journal, machine::Jobs};
use proximity_protocol::{
    command::{Command, Outcome, Progress, Target, Verb},
    ids::{Epoch, Generation, OperationId, Owner, StepKey, StepName, Vmid},
    secret::SecretText,
    spec::{Recipe, Values},
};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// No wait in these tests is longer.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

pub(super) fn target(vmid: u32) -> Target {
    let owner = Owner {
        app: "nginx-a1b2c3d4".parse().unwrap(),
        generation: Generation(1),
    };
    Target {
        vmid: Vmid::new(vmid).unwrap(),
        owner,
    }
}

pub(super) fn command(operation: u128, step: &str, verb: Verb) -> Command {
    Command {
        operation: OperationId(Uuid::from_u128(operation)),
        step: StepKey {
            name: StepName::new(step).unwrap(),
            undo: false,
            attempt: 1,
        },
        epoch: Epoch(5),
        verb,
    }
}

pub(super) fn start(operation: u128, vmid: u32) -> Command {
    command(operation, "start", Verb::EnsureStarted(target(vmid)))
}

pub(super) fn install(operation: u128, secret: &str) -> Command {
    let recipe = Recipe {
        install: "#!/bin/sh\ntrue\n".into(),
        health: "#!/bin/sh\ntrue\n".into(),
        files: vec![],
        env: vec![("PASSWORD".parse().unwrap(), SecretText::new(secret))],
        port: 80,
        install_timeout_s: 60,
    };
    command(
        operation,
        "install",
        Verb::InstallRecipe {
            target: target(100),
            recipe,
        },
    )
}

pub(super) fn rewrite(operation: u128, secret: &str) -> Command {
    let values = Values {
        env: vec![("PASSWORD".parse().unwrap(), SecretText::new(secret))],
        forget: vec![],
        timeout_s: 60,
    };
    let target = target(100);
    command(operation, "values", Verb::RewriteValues { target, values })
}

type Script = dyn Fn(&Command) -> JobResult + Send + Sync;

/// Steps that count, wait at a gate, and answer by a script.
pub(super) struct Scripted {
    pub(super) begun: watch::Sender<Vec<Command>>,
    pub(super) inside: watch::Sender<usize>,
    pub(super) open: watch::Sender<bool>,
    pub(super) forgotten: Mutex<Vec<OperationId>>,
    script: Box<Script>,
}

impl Scripted {
    pub(super) fn new(open: bool, script: impl Fn(&Command) -> JobResult + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            begun: watch::Sender::new(vec![]),
            inside: watch::Sender::new(0),
            open: watch::Sender::new(open),
            forgotten: Mutex::default(),
            script: Box::new(script),
        })
    }

    pub(super) fn done(open: bool) -> Arc<Self> {
        Self::new(open, |_| Ok(Outcome::Done))
    }

    pub(super) fn times(&self) -> usize {
        self.begun.borrow().len()
    }

    pub(super) async fn until_inside(&self, count: usize) {
        within(self.inside.subscribe().wait_for(|inside| *inside == count))
            .await
            .unwrap();
    }
}

impl Steps for Scripted {
    fn execute<'a>(
        &'a self,
        command: &'a Command,
        progress: &'a mpsc::UnboundedSender<Progress>,
    ) -> BoxFuture<'a, JobResult> {
        Box::pin(async move {
            self.begun.send_modify(|begun| begun.push(command.clone()));
            self.inside.send_modify(|inside| *inside += 1);
            progress
                .send(Progress {
                    message: "works".into(),
                    percent: Some(50),
                })
                .unwrap_or(());
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
            self.inside.send_modify(|inside| *inside -= 1);
            (self.script)(command)
        })
    }

    fn forget(&self, operation: OperationId) {
        self.forgotten.lock().unwrap().push(operation);
    }
}

pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("not in time")
}

pub(super) fn jobs(state_dir: &Path, steps: Arc<Scripted>) -> Jobs {
    Jobs::resume(Journal::open(state_dir).unwrap(), "our coordinator".into(), steps).unwrap()
}
