//! Writes a finding: the app's row, its log, events, and the operation that corrects it, in one transaction.
//!
//! That transaction takes the app's lease: it goes on only if no operation of the app is queued or under way, and since there is one writer, none can begin
//! before it has ended. An operation writes its own progress under the same rule, so neither writes over the other.

use super::{
    REQUESTER, ReconcileError, Reconciler,
    drift::{self, Finding},
    report::{Done, FindingLine},
};
use crate::{
    domain::{
        app_state::Status,
        settings::{DriftPolicy, OperationSettings},
    },
    events::NewEvent,
    operations::{
        follow::with_agent,
        params::{ActionParams, DEFAULT_HEALTH_TIMEOUT_S},
        publish::PUBLISH,
        record::app_event,
        start::START,
        step::Kind,
        stop::STOP,
        submit::{self, Requester},
    },
    store::{
        self, StoreError, Tx,
        apps::{self, AppRow},
        deployment_logs::{self, LogLevel},
        fleet::FleetNode,
        operations,
    },
};
use serde_json::json;

/// What all findings of one look share.
pub(super) struct Occasion<'a> {
    pub(super) node: &'a FleetNode,
    pub(super) nodes: &'a [FleetNode],
    pub(super) settings: &'a OperationSettings,
    /// So much is missing at once that it is told once, for the node.
    pub(super) quietly: bool,
}

/// What a finding changes.
struct Change {
    app: AppRow,
    message: String,
    queue: Option<&'static Kind>,
    done: Done,
}

impl Change {
    fn reported(app: AppRow, message: String) -> Self {
        Self {
            app,
            message,
            queue: None,
            done: Done::Reported,
        }
    }

    fn correcting(app: AppRow, message: String, kind: &'static Kind) -> Self {
        Self {
            app,
            message,
            queue: Some(kind),
            done: Done::Correcting,
        }
    }
}

fn in_error(mut app: AppRow, text: String) -> Change {
    (app.status, app.published) = (Status::Error, None);
    app.status_reason = Some(text.clone());
    Change::reported(app, text)
}

/// Decides, purely; `None`: it was said before.
fn change(mut app: AppRow, finding: &Finding, occasion: &Occasion<'_>) -> Option<Change> {
    let vmid = app.vmid.unwrap_or_default();
    let node = occasion.node.name.as_str();
    let corrects = drift::policy(&app.labels, occasion.settings.drift_policy) == DriftPolicy::Correct;
    Some(match finding {
        Finding::Missing => in_error(
            app,
            format!(
                "Container {vmid} is no longer on {node} (its complete list of guests does not have it). Bring it back there and start the app, or delete the app."
            ),
        ),
        Finding::NotOurs => in_error(
            app,
            format!(
                "Container {vmid} on {node} no longer belongs to this app. Delete the app; the container is left as it is."
            ),
        ),
        Finding::Runs if corrects && app.status == Status::Stopped => {
            app.status = Status::Stopping;
            let text = format!(
                "Container {vmid} was started on {node} without Proximity; stopping it, as the app's policy says"
            );
            Change::correcting(app, text, &STOP)
        }
        Finding::Stands if corrects && app.status == Status::Running => {
            app.status = Status::Starting;
            let text = format!(
                "Container {vmid} was stopped on {node} without Proximity; starting it, as the app's policy says"
            );
            Change::correcting(app, text, &START)
        }
        Finding::Runs => {
            (app.status, app.status_reason) = (Status::Running, None);
            // Whoever started it has put in force what waited for that.
            app.pending_restart.clear();
            let text = format!("Container {vmid} was started on {node} without Proximity");
            Change {
                queue: Some(&PUBLISH),
                ..Change::reported(app, text)
            }
        }
        Finding::Stands => {
            (app.status, app.status_reason) = (Status::Stopped, None);
            let text = format!("Container {vmid} was stopped on {node} without Proximity");
            Change::reported(app, text)
        }
        Finding::Unpublished => {
            let port = app.public_port.unwrap_or_default();
            let text = format!("Port {port} of {node} did not lead to the app any more; publishing it again");
            Change::correcting(app, text, &PUBLISH)
        }
        Finding::Moved(to) => moved(app, to, occasion)?,
        Finding::Arrived { running } => {
            let from = occasion.nodes.iter().find(|n| n.id == app.node_id);
            let from = from.map_or("another node", |n| n.name.as_str()).to_owned();
            (app.node_id, app.published) = (occasion.node.id, None);
            let mut queue = None;
            // An app in error keeps its error: it was there before.
            if app.status != Status::Error {
                app.status = if *running { Status::Running } else { Status::Stopped };
                app.status_reason = None;
                queue = running.then_some(&PUBLISH);
                // A container never moves while it runs: it was started there.
                if *running {
                    app.pending_restart.clear();
                }
            }
            let how = if *running { "" } else { ", where it does not run" };
            let text = format!("Container {vmid} moved from {from} to {node}{how}");
            Change {
                queue,
                ..Change::reported(app, text)
            }
        }
    })
}

fn moved(mut app: AppRow, to: &str, occasion: &Occasion<'_>) -> Option<Change> {
    let (vmid, node) = (app.vmid.unwrap_or_default(), occasion.node.name.as_str());
    // Its agent is not connected: what it does there is told when it comes back.
    if let Some(target) = with_agent(occasion.nodes, app.host_id, to) {
        (app.node_id, app.published) = (target.id, None);
        return Some(Change::reported(
            app,
            format!("Container {vmid} moved from {node} to {to}"),
        ));
    }
    let text = format!(
        "Container {vmid} moved from {node} to {to}, which has no agent. Run `proximity-agent join` there, or migrate the container back to a node that has one."
    );
    if app.status_reason.as_ref() == Some(&text) {
        return None;
    }
    if app.status != Status::Error {
        app.status = Status::Unknown;
    }
    (app.published, app.status_reason) = (None, Some(text.clone()));
    Some(Change::reported(app, text))
}

impl Reconciler {
    /// Writes a finding, unless the app has changed since it was read, or an operation of it is under way. Answers what was done, and an alarm.
    pub(super) async fn write(
        &self,
        seen: &AppRow,
        finding: &Finding,
        occasion: &Occasion<'_>,
    ) -> Result<(FindingLine, Option<String>), ReconcileError> {
        let mut line = FindingLine {
            app_id: seen.id.to_string(),
            hostname: seen.hostname.clone(),
            node: occasion.node.name.clone(),
            finding: finding.word().to_owned(),
            message: "an operation of the app is under way; it is looked at again when that has ended".into(),
            done: Done::Left,
        };
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let same = apps::by_id(&mut tx, seen.id.as_str())
            .await?
            .is_some_and(|app| app == *seen);
        // Whoever waits for the end of an operation looks again then; whatever else has changed the row tells nobody.
        if !operations::lease_is_free(&mut tx, seen.id.as_str()).await? {
            return Ok((line, None));
        }
        if !same {
            line.message = "the app has changed meanwhile; it is looked at again".into();
            line.done = Done::Changed;
            return Ok((line, None));
        }
        let Some(change) = change(seen.clone(), finding, occasion) else {
            line.message = "it was said before".into();
            return Ok((line, None));
        };
        let Change {
            app,
            message,
            queue,
            done,
        } = change;
        apps::update(&mut tx, now, &app).await?;
        operations::move_queued(&mut tx, app.id.as_str(), app.node_id).await?;
        let alarms = app.status == Status::Error;
        let level = if alarms { LogLevel::Error } else { LogLevel::Warning };
        deployment_logs::append(&mut tx, now, app.id.as_str(), None, level, "reconcile", &message).await?;
        if let Some(kind) = queue {
            self.queue(&mut tx, seen, &app, kind).await?;
        }
        let mut events = vec![store::insert_event(&mut tx, now, app_event(&app, false)).await?];
        let alarm = (alarms && !occasion.quietly).then(|| format!("{}: {message}", app.hostname));
        if let Some(alarm) = &alarm {
            let event = alarm_event(alarm, occasion.node, Some(&app), &[app.id.to_string()]);
            events.push(store::insert_event(&mut tx, now, event).await?);
        }
        tx.commit().await.map_err(StoreError::from)?;
        events.into_iter().for_each(|event| self.bus.publish(event));
        if queue.is_some() {
            self.engine.wake();
        }
        if alarm.is_some() {
            tracing::error!(app_id = %app.id, node_id = %occasion.node.id, ?finding, "{message}");
        } else {
            tracing::warn!(app_id = %app.id, node_id = %occasion.node.id, ?finding, "{message}");
        }
        (line.message, line.done) = (message, done);
        Ok((line, alarm))
    }

    async fn queue(
        &self,
        tx: &mut Tx,
        before: &AppRow,
        app: &AppRow,
        kind: &'static Kind,
    ) -> Result<(), ReconcileError> {
        let previous = if kind.name == PUBLISH.name {
            app.status
        } else {
            // What it is brought back from, in case that fails: the container stands as it was found.
            before.status
        };
        let params = serde_json::to_value(ActionParams {
            previous,
            health_timeout_s: DEFAULT_HEALTH_TIMEOUT_S,
        })
        .map_err(StoreError::from)?;
        let requester = Requester {
            name: REQUESTER.into(),
            request_id: None,
        };
        submit::queue(tx, self.clock.now_ms(), kind, app, params, &requester).await?;
        Ok(())
    }

    /// Many apps of a node are missing at once: most likely the node was reinstalled, or its disks are not there. One alarm instead of one for each.
    pub(super) async fn many_missing(
        &self,
        node: &FleetNode,
        missing: &[&AppRow],
        of: usize,
    ) -> Result<String, ReconcileError> {
        let alarm = format!(
            "{} of {of} apps of {} are missing at once: was the node reinstalled, or is a disk of it away? Their rows and reservations are kept. Bring their \
             containers back from a backup and start the apps, or delete them.",
            missing.len(),
            node.name
        );
        tracing::error!(node_id = %node.id, missing = missing.len(), of, "{alarm}");
        let now = self.clock.now_ms();
        let ids: Vec<String> = missing.iter().map(|app| app.id.to_string()).collect();
        let mut tx = self.store.begin().await?;
        let event = store::insert_event(&mut tx, now, alarm_event(&alarm, node, None, &ids)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.bus.publish(event);
        Ok(alarm)
    }
}

/// What a person has to see.
fn alarm_event(message: &str, node: &FleetNode, app: Option<&AppRow>, apps: &[String]) -> NewEvent {
    NewEvent {
        kind: "alarm",
        app_id: app.map(|app| app.id.to_string()),
        operation_id: None,
        owner_id: app.map(|app| app.owner_id),
        data: json!({ "message": message, "node": node.name, "node_id": node.id, "apps": apps }),
    }
}
