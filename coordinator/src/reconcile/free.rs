//! What is left on the hosts, looked for at the end of a round: told, and freed where it is proven to be nobody's.

use super::{
    ReconcileError, Reconciler,
    leftovers::{self, Freed, HostSeen, Known},
    look::{Looked, proves},
    report::{Report, Told},
};
use crate::{
    domain::placement::Admission,
    operations::record::app_event,
    store::{
        self, StoreError,
        apps::{self, AppRow},
        deployment_logs::{self, LogLevel},
        fleet::FleetNode,
        operations,
        reservations::{self, Reserved},
        side_containers,
    },
};
use std::collections::{BTreeMap, BTreeSet};

impl Reconciler {
    /// For each host: containers that are nobody's, what stands for apps that are no more, and reservations that are free again. `before`: the apps of
    /// each host from before the nodes were asked.
    pub(super) async fn look_for_leftovers(
        &self,
        nodes: &[FleetNode],
        looked: &[Looked],
        before: &BTreeMap<i64, BTreeSet<String>>,
        report: &mut Report,
    ) -> Result<(), ReconcileError> {
        let none = BTreeSet::new();
        let hosts: BTreeSet<i64> = nodes.iter().map(|n| n.host_id).collect();
        for host_id in hosts {
            let seen = self.host(host_id, nodes, looked).await;
            // Read after the nodes were asked: what was made since has a row. What was seen of an app that went since proves nothing.
            let known = self.known(host_id).await?;
            report.unknown_containers.extend(leftovers::unknown(&seen));
            report
                .strays
                .extend(leftovers::strays(&seen, &known, before.get(&host_id).unwrap_or(&none)));
            let (freed, kept) = leftovers::freed(&seen, &known, self.clock.now_ms());
            report.kept.extend(kept);
            for freed in freed {
                let app = known.apps.get(&freed.app_id);
                report.freed.extend(self.free(host_id, &freed, app).await?);
            }
        }
        for stray in &report.strays {
            tracing::warn!(place = stray.place, app_id = stray.app_id, "{}", stray.message);
        }
        Ok(())
    }

    async fn host(&self, host_id: i64, nodes: &[FleetNode], looked: &[Looked]) -> HostSeen {
        let of_host: Vec<&Looked> = looked.iter().filter(|l| l.host_id == host_id).collect();
        let asked = |id| of_host.iter().any(|l| l.node == id);
        let members: Vec<&FleetNode> = nodes.iter().filter(|n| n.host_id == host_id).collect();
        let mut unproven: Vec<String> = of_host
            .iter()
            .filter(|l| l.look.told != Told::Revoked)
            .filter_map(|l| proves(&l.look))
            .collect();
        unproven.extend(
            members
                .iter()
                .filter(|n| !asked(n.id) && n.admission != Admission::Revoked)
                .map(|n| format!("{} was not looked at", n.name)),
        );
        let complete = of_host.iter().find(|l| l.look.told == Told::Complete);
        if complete.is_none() && unproven.is_empty() {
            unproven.push("no node of the host has told anything".into());
        }
        let records = match complete {
            Some(looked) => self.records(looked.node).await,
            None => None,
        };
        HostSeen {
            host: members.first().map(|n| n.host_name.clone()).unwrap_or_default(),
            told: of_host
                .iter()
                .filter(|l| matches!(l.look.told, Told::Complete | Told::Incomplete))
                .filter_map(|l| Some((l.look.node.clone(), l.inventory.clone()?)))
                .collect(),
            unproven,
            records,
        }
    }

    async fn known(&self, host_id: i64) -> Result<Known, StoreError> {
        let mut conn = self.store.read().await?;
        Ok(Known {
            apps: apps::on_host(&mut conn, host_id)
                .await?
                .into_iter()
                .map(|app| (app.id.to_string(), app))
                .collect(),
            reservations: reservations::of_host(&mut conn, host_id).await?,
            side: side_containers::of_host(&mut conn, host_id)
                .await?
                .into_iter()
                .map(|side| side.vmid.get())
                .collect(),
            busy: operations::busy(&mut conn).await?,
            abandoned: operations::abandoned(&mut conn).await?,
        })
    }

    /// Frees what nobody has, unless the app has changed since, or an operation of it has begun.
    async fn free(&self, host_id: i64, freed: &Freed, seen: Option<&AppRow>) -> Result<Vec<String>, ReconcileError> {
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let app = apps::by_id(&mut tx, &freed.app_id).await?;
        if app.as_ref() != seen || !operations::lease_is_free(&mut tx, &freed.app_id).await? {
            return Ok(Vec::new());
        }
        for what in &freed.what {
            reservations::free(&mut tx, &freed.app_id, *what).await?;
        }
        let words: Vec<String> = freed
            .what
            .iter()
            .map(|what| format!("{what} of {}", freed.app_id))
            .collect();
        let mut event = None;
        if let Some(mut app) = app.filter(|_| freed.of_app) {
            for what in &freed.what {
                match what {
                    Reserved::Vmid { .. } => {
                        (app.vmid, app.vmid_confirmed, app.mac) = (None, false, None);
                    }
                    Reserved::Port(_) => app.public_port = None,
                    Reserved::Address(_) => app.ip_address = None,
                }
            }
            app.published = None;
            apps::update(&mut tx, now, &app).await?;
            let list: Vec<String> = freed.what.iter().map(ToString::to_string).collect();
            let text = format!(
                "Nothing of the app is left on any node: {} can be used by others again",
                list.join(", ")
            );
            deployment_logs::append(&mut tx, now, &freed.app_id, None, LogLevel::Info, "reconcile", &text).await?;
            event = Some(store::insert_event(&mut tx, now, app_event(&app, false)).await?);
        }
        tx.commit().await.map_err(StoreError::from)?;
        if let Some(event) = event {
            self.bus.publish(event);
        }
        tracing::info!(app_id = freed.app_id, host_id, freed = ?words, "nobody's any more");
        Ok(words)
    }
}
