//! `POST /api/apps`.

use super::{
    AppView, Apps, CreateApp, Plan, PlanPort, ServiceError, find,
    input::{Checked, config_error, env_error},
    may_change,
    place::largest,
    quota,
    view::plan_steps,
};
use crate::{
    domain::{
        app_state::Status,
        catalog::{Entry, Native, Resolved},
        placement::{Demand, Fit, Ranking},
        settings::{Group as _, ResourceSettings},
    },
    operations::{
        deploy::DEPLOY,
        params::{DeployFile, DeployParams, DeployRecipe},
        record::app_event,
        reserve,
        submit::{self, Requester},
        surroundings::{self, Surroundings, SurroundingsError},
    },
    secrets,
    service::Caller,
    store::{
        self, Connection, StoreError, Tx, app_secrets,
        apps::{self, AppRow, AppVolume, Resources},
        deployment_logs::{self, LogLevel},
        fleet::{self, FleetNode},
        reservations, settings,
    },
};
use proximity_protocol::ids::AppId;
use serde_json::{Value, json};

/// The answer to a creation.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// 201.
    Accepted(Box<AppView>),
    /// 200, of a dry run.
    Plan(Box<Plan>),
}

/// What the app gets, before its node is known.
struct Wanted {
    cpu_cores: u32,
    memory_mb: u32,
    disk_gb: u32,
    swap_mb: u32,
    environment: Resolved,
}

fn secret_failure(error: &secrets::SecretError) -> ServiceError {
    ServiceError::Internal(error.to_string())
}

impl Apps {
    /// Accepts a new app: reserves, queues its deployment, and answers it in status `deploying`; a dry run answers the plan and changes nothing.
    pub async fn create(&self, caller: &Caller, body: &CreateApp, dry_run: bool) -> Result<Created, ServiceError> {
        may_change(caller)?;
        let checked = body.checked()?;
        let catalog = self.deps().catalog.current();
        let entry = catalog.get(&body.catalog_id).ok_or_else(|| {
            ServiceError::NotFound(format!(
                "there is no app {:?} in the catalog; GET /api/catalog lists them",
                body.catalog_id
            ))
        })?;
        let native = entry
            .native()
            .map_err(|because| ServiceError::Refused(format!("{} cannot be deployed: {because}", entry.id)))?;

        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        let nodes = fleet::nodes(&mut tx).await?;
        let wanted = self.wanted(&mut tx, body, &checked, entry, &nodes).await?;
        let meant = self.meant(&mut tx, body, &nodes).await?;
        let meant = self.with_room(&mut tx, meant).await?;
        let hostname = &checked.hostname;
        if apps::hostname_taken(&mut tx, hostname.as_str()).await? {
            return Err(ServiceError::Conflict(format!(
                "the host name {hostname} is taken; choose another"
            )));
        }
        let volumes: Vec<AppVolume> = entry
            .volumes
            .iter()
            .map(|v| AppVolume {
                path: v.path.to_string(),
                size_gb: v.size_gb,
                description: None,
            })
            .collect();
        let disk_gb = u64::from(wanted.disk_gb) + volumes.iter().map(|v| u64::from(v.size_gb)).sum::<u64>();
        let more = quota::More {
            apps: 1,
            cpu_cores: wanted.cpu_cores.into(),
            memory_mb: wanted.memory_mb.into(),
            disk_gb,
        };
        quota::allows(&mut tx, caller.user_id, &more).await?;
        self.refuse_closed(body, &meant)?;
        let demand = Demand {
            cpu_cores: wanted.cpu_cores,
            memory_mb: wanted.memory_mb.into(),
            disk_gb,
            storage: checked.config.storage.clone(),
        };
        let ranking = self.rank(&mut tx, &demand, &meant, &nodes).await?;
        if ranking.fits.is_empty() {
            return Err(ServiceError::Unavailable {
                message: format!("no node can take {hostname}: {}", ranking.why_none()),
                retry_after_s: 60,
            });
        }
        let id = self.new_id(&mut tx, &entry.id).await?;
        let (fit, node, around, row) = self
            .reserve(&mut tx, now, &ranking, &meant, &nodes, id, |fit, node, id| AppRow {
                id,
                catalog_id: entry.id.clone(),
                name: entry.name.clone(),
                hostname: hostname.to_string(),
                description: body.description.clone().unwrap_or_default(),
                status: Status::Deploying,
                status_reason: None,
                host_id: node.host_id,
                node_id: node.id,
                owner_id: caller.user_id,
                generation: 1,
                vmid: None,
                vmid_confirmed: false,
                public_port: None,
                internal_port: entry.main_port,
                ip_address: None,
                published: None,
                mac: None,
                adopted: false,
                config: Value::Object(body.config.clone().unwrap_or_default()),
                resources: Resources {
                    cpu_cores: wanted.cpu_cores,
                    memory_mb: wanted.memory_mb,
                    disk_gb: wanted.disk_gb,
                    swap_mb: wanted.swap_mb,
                    storage: fit.storage.clone(),
                },
                environment: wanted
                    .environment
                    .plain
                    .iter()
                    .map(|(n, v)| (n.to_string(), v.clone()))
                    .collect(),
                ports: entry.ports.clone(),
                volumes: volumes.clone(),
                labels: body.labels.clone().unwrap_or_default(),
                placement: Some(placement(fit, node, &ranking)),
                pending_restart: Vec::new(),
                created_at: now,
                updated_at: now,
                state_changed_at: now,
            })
            .await?;
        if dry_run {
            // Dropped without commit: nothing is left of it.
            return Ok(Created::Plan(Box::new(plan(&row, node))));
        }
        apps::insert(&mut tx, &row).await?;
        self.keep_secrets(&mut tx, &row, &wanted.environment).await?;
        let params = serde_json::to_value(DeployParams {
            recipe: recipe(entry, native),
            template_storage: fit.template_storage.clone(),
            network: around.network.params,
        })
        .map_err(StoreError::from)?;
        let requester = Requester {
            name: caller.username.clone(),
            request_id: caller.request_id.clone(),
        };
        let operation = submit::queue(&mut tx, now, &DEPLOY, &row, params, &requester).await?;
        let message = format!(
            "Accepted: {} on {}, {} MiB available there",
            row.hostname, node.name, fit.available_mb
        );
        deployment_logs::append(
            &mut tx,
            now,
            row.id.as_str(),
            Some(operation),
            LogLevel::Info,
            "accept",
            &message,
        )
        .await?;
        let event = store::insert_event(&mut tx, now, app_event(&row, false)).await?;
        let view = find(&mut tx, row.id.as_str())
            .await?
            .map(|listed| AppView::new(&listed, None))
            .ok_or_else(|| {
                StoreError::Corrupt(format!("app {} was not stored; is its owner in the registry?", row.id))
            })?;
        tx.commit().await.map_err(StoreError::from)?;
        self.deps().bus.publish(event);
        self.deps().engine.wake();
        tracing::info!(app_id = %row.id, operation_id = %operation, node_id = %row.node_id, request_id = caller.request_id, "accepted a deployment");
        Ok(Created::Accepted(Box::new(view)))
    }

    /// Resources and environment, checked against the entry and the fleet: 422.
    async fn wanted(
        &self,
        conn: &mut Connection,
        body: &CreateApp,
        checked: &Checked,
        entry: &Entry,
        nodes: &[FleetNode],
    ) -> Result<Wanted, ServiceError> {
        let mut wrong = Vec::new();
        let config = &checked.config;
        if config.image {
            wrong.push(config_error(
                "image",
                format!("is for compose apps; {} brings its own packages", entry.id),
            ));
        }
        let defaults: ResourceSettings = settings::get(conn, ResourceSettings::NAME).await?.unwrap_or_default();
        let most = largest(nodes);
        let mut choose = |key: &str, asked: Option<u32>, default: u32, least: u32, most: Option<u64>| {
            // A default that no node has would refuse every app on a small machine.
            let fitting = most.map_or(default, |m| default.min(u32::try_from(m).unwrap_or(u32::MAX)));
            let value = asked.unwrap_or_else(|| fitting.max(least));
            if value < least {
                wrong.push(config_error(key, format!("is at least {least} for {}", entry.id)));
            } else if asked.is_some()
                && let Some(most) = most
                && u64::from(value) > most
            {
                wrong.push(config_error(
                    key,
                    format!("is at most {most}, what the largest node has"),
                ));
            }
            value
        };
        let cpu_cores = choose(
            "cpu_cores",
            config.cpu_cores,
            defaults.default_cpu_cores,
            entry.min_cpu,
            most.map(|m| m.cpu_cores),
        );
        let memory_mb = choose(
            "memory_mb",
            config.memory_mb,
            defaults.default_memory_mb,
            entry.min_memory_mb,
            most.map(|m| m.memory_mb),
        );
        let disk_gb = choose(
            "disk_gb",
            config.disk_gb,
            defaults.default_disk_gb,
            entry.min_disk_gb,
            most.map(|m| m.disk_gb),
        );
        let swap_mb = config.swap_mb.unwrap_or(defaults.default_swap_mb);
        let given = body.environment.clone().unwrap_or_default();
        match entry.resolve_environment(&given) {
            Ok(environment) if wrong.is_empty() => Ok(Wanted {
                cpu_cores,
                memory_mb,
                disk_gb,
                swap_mb,
                environment,
            }),
            Ok(_) => Err(ServiceError::Invalid(wrong)),
            Err(errors) => {
                wrong.extend(errors.iter().map(|e| env_error(&e.name, &e.msg)));
                Err(ServiceError::Invalid(wrong))
            }
        }
    }

    pub(super) async fn new_id(&self, conn: &mut Connection, catalog_id: &str) -> Result<AppId, ServiceError> {
        loop {
            let random = secrets::random_u32().map_err(|e| secret_failure(&e))?;
            let id = AppId::compose(catalog_id, random).map_err(|e| StoreError::Corrupt(e.to_string()))?;
            if !apps::id_taken(conn, id.as_str()).await? {
                return Ok(id);
            }
        }
    }

    /// Takes VMID, port and address on the best node that has all three.
    #[allow(clippy::too_many_arguments)]
    async fn reserve<'f>(
        &self,
        tx: &mut Tx,
        now: i64,
        ranking: &Ranking,
        meant: &[&'f FleetNode],
        all: &[FleetNode],
        id: AppId,
        row: impl Fn(&Fit, &FleetNode, AppId) -> AppRow,
    ) -> Result<(Fit, &'f FleetNode, Surroundings, AppRow), ServiceError> {
        let mut full: Vec<String> = Vec::new();
        for fit in &ranking.fits {
            let node = meant[fit.index];
            let Some(facts) = &node.facts else { continue };
            let around = match surroundings::of_node(&mut *tx, node, facts, all, &self.deps().inventories).await {
                Ok(around) => around,
                Err(SurroundingsError::Store(error)) => return Err(error.into()),
                Err(other) => {
                    full.push(other.to_string());
                    continue;
                }
            };
            let mut row = row(fit, node, id.clone());
            let app = row.id.to_string();
            row.vmid = reserve::vmid(&mut *tx, now, &around, &app, row.generation).await?;
            row.public_port = reserve::port(&mut *tx, now, &around, &app).await?;
            row.ip_address = reserve::address(&mut *tx, now, &around, &app).await?;
            let missing = if row.vmid.is_none() {
                Some("VMID")
            } else if row.public_port.is_none() {
                Some("public port")
            } else if row.ip_address.is_none() && around.network.pool.is_some() {
                Some("address")
            } else {
                None
            };
            match missing {
                None => return Ok((fit.clone(), node, around, row)),
                Some(what) => {
                    reservations::free_all(&mut *tx, &app).await?;
                    let why = format!("{} has no free {what}", node.name);
                    if !full.contains(&why) {
                        full.push(why);
                    }
                }
            }
        }
        Err(ServiceError::Conflict(format!(
            "{}; delete an app there or widen its range",
            full.join("; ")
        )))
    }

    async fn keep_secrets(&self, tx: &mut Tx, row: &AppRow, environment: &Resolved) -> Result<(), ServiceError> {
        let sealer = &self.deps().secrets;
        let app = row.id.as_str();
        let seal = |name: &str, secret: &proximity_protocol::secret::SecretText| {
            sealer.seal(app, name, secret).map_err(|e| secret_failure(&e))
        };
        for (name, secret) in &environment.secrets {
            app_secrets::put(&mut *tx, app, name.as_str(), &seal(name.as_str(), secret)?).await?;
        }
        for input in &environment.generated {
            let secret = secrets::generate(input.length).map_err(|e| secret_failure(&e))?;
            app_secrets::put(&mut *tx, app, input.name.as_str(), &seal(input.name.as_str(), &secret)?).await?;
        }
        Ok(())
    }
}

fn placement(fit: &Fit, node: &FleetNode, ranking: &Ranking) -> Value {
    let default = if node.host_default { " on the default host" } else { "" };
    json!({
        "node": node.name,
        "host_id": node.host_id,
        "host": node.host_name,
        "storage": fit.storage,
        "because": format!("most memory available of the nodes that fit{default}: {} MiB", fit.available_mb),
        "considered": ranking.considered,
    })
}

fn plan(row: &AppRow, node: &FleetNode) -> Plan {
    Plan {
        node: node.name.clone(),
        steps: plan_steps(&DEPLOY),
        ports: vec![PlanPort {
            public_port: row.public_port,
            internal_port: row.internal_port,
        }],
        loses: Vec::new(),
        placement: row.placement.clone(),
    }
}

fn recipe(entry: &Entry, native: &Native) -> DeployRecipe {
    DeployRecipe {
        version: entry.version.clone(),
        template: native.template.clone(),
        install: native.install.clone(),
        health: native.health.clone(),
        files: native
            .files
            .iter()
            .map(|f| DeployFile {
                name: f.name.clone(),
                content: data_encoding::BASE64.encode(&f.content),
            })
            .collect(),
        install_timeout_s: native.install_timeout_s,
        health_timeout_s: native.health_timeout_s,
        keyctl: false,
    }
}
