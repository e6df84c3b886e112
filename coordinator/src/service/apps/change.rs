//! `PATCH /api/apps/{id}`. Description and labels are the registry's and change at once; what concerns the container or what runs in it becomes an operation.

use super::{
    AppView, Apps, Caller, ServiceError, find,
    input::{Config, check_description, check_labels, config_error, env_error},
    may_change, no_such_app,
    place::largest,
    quota, sees,
};
use crate::{
    domain::{
        app_state::Status,
        catalog::{ChangedEnvironment, Entry},
    },
    operations::{
        configure::CONFIGURE,
        params::{ConfigureParams, DEFAULT_HEALTH_TIMEOUT_S, EnvironmentParams},
        record::app_event,
        submit::{self, Requester},
    },
    secrets,
    service::FieldError,
    store::{
        self, Connection, StoreError, Tx, app_secrets,
        apps::{self, AppRow, ListedApp},
        fleet::{self, FleetNode},
        operation_secrets, operations,
    },
};
use proximity_protocol::{ids::OperationId, secret::SecretText};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Body of `PATCH /api/apps/{id}`: what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeApp {
    /// `cpu_cores, memory_mb, swap_mb`, and `disk_gb`, which only grows.
    pub config: Option<Map<String, Value>>,
    /// Values by name; null brings back what the app would have got without one.
    pub environment: Option<BTreeMap<String, Option<String>>>,
    /// In the owner's words.
    pub description: Option<String>,
    /// The owner's.
    pub labels: Option<Vec<String>>,
}

/// The answer to a change.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The app.
    pub app: Box<AppView>,
    /// Whether an operation was started: 202 instead of 200.
    pub started: bool,
}

/// What an operation has to do.
#[derive(Default)]
struct Work {
    settings: Config,
    environment: Option<ChangedEnvironment>,
}

impl Work {
    fn is_none(&self) -> bool {
        self.settings == Config::default() && self.environment.is_none()
    }
}

impl Apps {
    /// Changes what is asked, all or nothing.
    pub async fn change(&self, caller: &Caller, id: &str, body: &ChangeApp) -> Result<Changed, ServiceError> {
        may_change(caller)?;
        let config = checked(body)?;
        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        let listed = find(&mut tx, id)
            .await?
            .filter(|a| sees(caller, a.app.owner_id))
            .ok_or_else(|| no_such_app(id))?;
        let mut app = listed.app.clone();
        let work = self.work(&mut tx, &listed, body, config).await?;
        if let Some(description) = &body.description {
            app.description.clone_from(description);
        }
        if let Some(labels) = &body.labels {
            app.labels.clone_from(labels);
        }
        apps::update_asked(&mut tx, now, &app).await?;
        let started = !work.is_none();
        if started {
            let operation = self.start(&mut tx, caller, &mut app, body, work).await?;
            tracing::info!(app_id = %app.id, operation_id = %operation, request_id = caller.request_id, "accepted a change");
        }
        let event = store::insert_event(&mut tx, now, app_event(&app, false)).await?;
        let shown = find(&mut tx, id).await?.ok_or_else(|| no_such_app(id))?;
        tx.commit().await.map_err(StoreError::from)?;
        self.deps().bus.publish(event);
        if started {
            self.deps().engine.wake();
        }
        Ok(Changed {
            app: Box::new(self.view(&shown)),
            started,
        })
    }

    /// What differs from how it is, checked against entry, node and state: 422 before 409.
    async fn work(
        &self,
        tx: &mut Tx,
        listed: &ListedApp,
        body: &ChangeApp,
        config: Config,
    ) -> Result<Work, ServiceError> {
        let app = &listed.app;
        let catalog = self.deps().catalog.current();
        let entry = catalog.get(&app.catalog_id);
        let nodes = fleet::nodes(&mut *tx).await?;
        let mut work = Work::default();
        let mut wrong = Vec::new();
        work.settings = settings(app, entry, &nodes, config, &mut wrong);
        let given = body.environment.as_ref().filter(|given| !given.is_empty());
        if let (Some(given), Some(entry)) = (given, entry) {
            let sealed = app_secrets::of_app(&mut *tx, app.id.as_str()).await?;
            let names: BTreeSet<String> = sealed.into_iter().map(|(name, _)| name).collect();
            match entry.change_environment(&app.environment, &names, given) {
                Ok(changed) => work.environment = Some(changed).filter(|c| differs(c, app)),
                Err(errors) => wrong.extend(errors.iter().map(|e| env_error(&e.name, &e.msg))),
            }
        }
        if !wrong.is_empty() {
            return Err(ServiceError::Invalid(wrong));
        }
        let asked = body.config.as_ref().is_some_and(|c| !c.is_empty()) || given.is_some();
        if app.adopted && asked {
            return Err(ServiceError::Conflict(format!(
                "{} was adopted: its container's configuration and what runs in it are not changed from here; change them on the node",
                app.hostname
            )));
        }
        if given.is_some() && entry.is_none() {
            return Err(ServiceError::Conflict(format!(
                "the catalog has no {} any more, so that nobody knows what its values mean",
                app.catalog_id
            )));
        }
        if work.is_none() {
            return Ok(work);
        }
        let conn: &mut Connection = tx;
        may_begin(conn, app, &work).await?;
        let asked = &work.settings;
        let more = quota::grows(&app.resources, asked.cpu_cores, asked.memory_mb, asked.disk_gb);
        quota::allows(conn, app.owner_id, &more).await?;
        fits(app, &nodes, &work.settings)?;
        Ok(work)
    }

    /// Queues the operation, its new secrets sealed beside it.
    async fn start(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        app: &mut AppRow,
        body: &ChangeApp,
        work: Work,
    ) -> Result<OperationId, ServiceError> {
        let now = self.deps().clock.now_ms();
        let node = fleet::node_by_id(&mut *tx, app.node_id).await?;
        let node = node.map_or_else(|| "its node".to_owned(), |node| node.name);
        self.check_room(&mut *tx, app.node_id, &node).await?;
        let catalog = self.deps().catalog.current();
        let native = catalog.get(&app.catalog_id).and_then(|entry| entry.native().ok());
        let mut config = app.config.as_object().cloned().unwrap_or_default();
        config.extend(body.config.clone().unwrap_or_default());
        let (environment, sealed) = match work.environment {
            Some(changed) => {
                let sealed = self.seal(app, &changed)?;
                let names = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>();
                let environment = EnvironmentParams {
                    plain: changed
                        .plain
                        .iter()
                        .map(|(name, value)| (name.to_string(), value.clone()))
                        .collect(),
                    secrets: names(&mut sealed.iter().map(|(name, _)| name.clone())),
                    forget_secrets: names(&mut changed.forget.iter().map(ToString::to_string)),
                    timeout_s: native.map_or(900, |n| n.install_timeout_s),
                };
                (Some(environment), sealed)
            }
            None => (None, Vec::new()),
        };
        let params = ConfigureParams {
            previous: app.status,
            cpu_cores: work.settings.cpu_cores,
            memory_mb: work.settings.memory_mb,
            swap_mb: work.settings.swap_mb,
            disk_gb: work.settings.disk_gb,
            environment,
            config: Value::Object(config),
            health_timeout_s: native.map_or(DEFAULT_HEALTH_TIMEOUT_S, |n| n.health_timeout_s),
        };
        let params = serde_json::to_value(params).map_err(StoreError::from)?;
        app.status = Status::Updating;
        app.status_reason = None;
        apps::update(&mut *tx, now, app).await?;
        let requester = Requester {
            name: caller.username.clone(),
            request_id: caller.request_id.clone(),
        };
        let operation = submit::queue(&mut *tx, now, &CONFIGURE, app, params, &requester).await?;
        for (name, sealed) in sealed {
            operation_secrets::put(&mut *tx, operation, app.id.as_str(), &name, &sealed).await?;
        }
        Ok(operation)
    }

    fn seal(&self, app: &AppRow, changed: &ChangedEnvironment) -> Result<Vec<(String, Vec<u8>)>, ServiceError> {
        let failed = |error: secrets::SecretError| ServiceError::Internal(error.to_string());
        let seal = |name: &str, secret: &SecretText| -> Result<(String, Vec<u8>), ServiceError> {
            let sealed = self
                .deps()
                .secrets
                .seal(app.id.as_str(), name, secret)
                .map_err(failed)?;
            Ok((name.to_owned(), sealed))
        };
        let mut all = Vec::new();
        for (name, secret) in &changed.secrets {
            all.push(seal(name.as_str(), secret)?);
        }
        for input in &changed.generated {
            let secret = secrets::generate(input.length).map_err(failed)?;
            all.push(seal(input.name.as_str(), &secret)?);
        }
        Ok(all)
    }
}

/// What can be checked from the body alone; every wrong field is named.
fn checked(body: &ChangeApp) -> Result<Config, ServiceError> {
    let mut wrong = Vec::new();
    check_description(body.description.as_deref(), &mut wrong);
    check_labels(body.labels.as_deref(), &mut wrong);
    let config = Config::parse(body.config.as_ref(), &mut wrong);
    if config.storage.is_some() {
        wrong.push(config_error(
            "storage",
            "cannot be changed: the container's disk lies there",
        ));
    }
    if config.image {
        wrong.push(config_error("image", "cannot be changed"));
    }
    if wrong.is_empty() {
        Ok(config)
    } else {
        Err(ServiceError::Invalid(wrong))
    }
}

/// Those of the settings that differ, within the bounds of the entry and of the largest node.
fn settings(
    app: &AppRow,
    entry: Option<&Entry>,
    nodes: &[FleetNode],
    asked: Config,
    wrong: &mut Vec<FieldError>,
) -> Config {
    let most = largest(nodes);
    let was = &app.resources;
    let mut choose = |key: &str, asked: Option<u32>, was: u32, least: Option<u32>, most: Option<u64>| {
        let value = asked.filter(|value| *value != was)?;
        if let Some(least) = least.filter(|least| value < *least) {
            wrong.push(config_error(key, format!("is at least {least} for {}", app.catalog_id)));
        }
        if let Some(most) = most.filter(|most| u64::from(value) > *most) {
            wrong.push(config_error(
                key,
                format!("is at most {most}, what the largest node has"),
            ));
        }
        Some(value)
    };
    let mut different = Config {
        cpu_cores: choose(
            "cpu_cores",
            asked.cpu_cores,
            was.cpu_cores,
            entry.map(|e| e.min_cpu),
            most.map(|m| m.cpu_cores),
        ),
        memory_mb: choose(
            "memory_mb",
            asked.memory_mb,
            was.memory_mb,
            entry.map(|e| e.min_memory_mb),
            most.map(|m| m.memory_mb),
        ),
        swap_mb: choose("swap_mb", asked.swap_mb, was.swap_mb, None, None),
        ..Config::default()
    };
    different.disk_gb = choose("disk_gb", asked.disk_gb, was.disk_gb, None, most.map(|m| m.disk_gb));
    if different.disk_gb.is_some_and(|disk_gb| disk_gb < was.disk_gb) {
        wrong.push(config_error(
            "disk_gb",
            format!("is at least {}, what it has: a disk is never made smaller", was.disk_gb),
        ));
    }
    different
}

/// Whether anything would be another than it is.
fn differs(changed: &ChangedEnvironment, app: &AppRow) -> bool {
    let plain: BTreeMap<String, String> = changed
        .plain
        .iter()
        .map(|(name, value)| (name.to_string(), value.clone()))
        .collect();
    plain != app.environment
        || !changed.secrets.is_empty()
        || !changed.generated.is_empty()
        || !changed.forget.is_empty()
}

/// Whether the app is in a state in which its container can be changed.
async fn may_begin(conn: &mut Connection, app: &AppRow, work: &Work) -> Result<(), ServiceError> {
    let conflict = |why: String| Err(ServiceError::Conflict(why));
    if let Some(other) = operations::unfinished_of(conn, app.id.as_str()).await?.first() {
        return conflict(format!(
            "{} of {} is under way (operation {}); wait until it has ended",
            other.kind, app.hostname, other.id
        ));
    }
    let hostname = &app.hostname;
    match app.status {
        Status::Running => Ok(()),
        Status::Stopped if work.environment.is_some() => conflict(format!(
            "{hostname} is stopped; start it first: values are written into the running container"
        )),
        Status::Stopped => Ok(()),
        status => conflict(format!(
            "{hostname} is {status}; config and environment can be changed while it is running or stopped"
        )),
    }
}

/// Whether the app's own node has it: 409.
fn fits(app: &AppRow, nodes: &[FleetNode], settings: &Config) -> Result<(), ServiceError> {
    let Some(node) = nodes.iter().find(|n| n.id == app.node_id) else {
        return Ok(());
    };
    let Some(facts) = &node.facts else { return Ok(()) };
    let conflict = |why: String| Err(ServiceError::Conflict(why));
    let name = &node.name;
    if let Some(cores) = settings.cpu_cores.filter(|cores| *cores > facts.cpu_count) {
        return conflict(format!("{name} has {} cores, not {cores}", facts.cpu_count));
    }
    let memory_mb = facts.memory_total_bytes >> 20;
    if let Some(memory) = settings.memory_mb.filter(|memory| u64::from(*memory) > memory_mb) {
        return conflict(format!("{name} has {memory_mb} MiB of memory, not {memory}"));
    }
    let Some(disk_gb) = settings.disk_gb else { return Ok(()) };
    let more_gb = u64::from(disk_gb.saturating_sub(app.resources.disk_gb));
    let storage = facts.storages.iter().find(|s| s.id == app.resources.storage);
    let free = storage.and_then(|s| Some(s.total_bytes?.saturating_sub(s.used_bytes?) >> 30));
    match free.filter(|free| *free < more_gb) {
        Some(free) => conflict(format!(
            "storage {} of {name} has {free} GB free, and {more_gb} GB more are asked for; free space there first",
            app.resources.storage
        )),
        None => Ok(()),
    }
}
