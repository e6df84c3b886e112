//! One node: asks it, compares, and writes what differs.

use super::{
    ReconcileError, Reconciler,
    drift::{self, Finding},
    report::{Done, FindingLine, NodeLook, Report, Told},
    write::Occasion,
};
use crate::{
    domain::settings::{Group as _, OperationSettings},
    operations::follow::with_agent,
    store::{
        StoreError,
        apps::{self, AppRow},
        fleet::{self, FleetNode},
        settings,
    },
};
use proximity_protocol::{ids::NodeId, observed::Inventory};
use std::collections::BTreeSet;

/// What became of looking at a node.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) node: NodeId,
    pub(super) host_id: i64,
    pub(super) look: NodeLook,
    pub(super) inventory: Option<Inventory>,
    pub(super) findings: Vec<FindingLine>,
    pub(super) alarms: Vec<String>,
    /// Where containers have gone.
    pub(super) gone_to: BTreeSet<NodeId>,
}

impl Looked {
    /// Whether an app had changed before a finding about it could be written: it has to be looked at once more.
    pub(super) fn has_changed(&self) -> bool {
        self.findings.iter().any(|line| line.done == Done::Changed)
    }

    pub(super) fn tell(self, report: &mut Report) {
        report.nodes.push(self.look);
        report.findings.extend(self.findings);
        report.alarms.extend(self.alarms);
    }
}

impl Reconciler {
    /// Looks at one node, and at those of its cluster to which its containers have gone, and writes what it finds. `afresh`: also if what the node sent last
    /// shows no difference. `None`: nothing to say.
    pub(super) async fn look(&self, node: NodeId, afresh: bool) -> Result<Option<Report>, ReconcileError> {
        let Some(first) = self.look_at(node, afresh).await? else {
            return Ok(None);
        };
        let mut report = Report::default();
        let gone_to = first.gone_to.clone();
        first.tell(&mut report);
        for other in gone_to {
            if let Some(looked) = self.look_at(other, true).await? {
                looked.tell(&mut report);
            }
        }
        Ok(Some(report))
    }

    /// Looks at one node alone.
    pub(super) async fn look_at(&self, node: NodeId, afresh: bool) -> Result<Option<Looked>, ReconcileError> {
        let (apps, nodes, settings) = {
            let mut conn = self.store.read().await?;
            let settings: OperationSettings = settings::get(&mut conn, OperationSettings::NAME)
                .await?
                .unwrap_or_default();
            (
                apps::on_node(&mut conn, node).await?,
                fleet::nodes(&mut conn).await?,
                settings,
            )
        };
        let Some(this) = nodes.iter().find(|n| n.id == node) else {
            return Ok(None);
        };
        if !afresh
            && let Some((_, sent)) = self.inventories.get(node)
            && apps.iter().all(|app| drift::find(app, &sent).is_none())
            && self.newcomers(&apps, this, &sent).await?.is_empty()
        {
            return Ok(None);
        }
        let survey = self.survey(this).await;
        let mut looked = Looked {
            node,
            host_id: this.host_id,
            look: NodeLook {
                node: this.name.clone(),
                host: this.host_name.clone(),
                told: survey.told,
                why: survey.why,
                apps: apps.len(),
                containers: survey.inventory.as_ref().map_or(0, |i| i.containers.len()),
            },
            inventory: survey.inventory,
            findings: Vec::new(),
            alarms: Vec::new(),
            gone_to: BTreeSet::new(),
        };
        if let Some(inventory) = looked.inventory.clone() {
            self.compare(&mut looked, &inventory, &apps, this, &nodes, &settings)
                .await?;
        }
        Ok(Some(looked))
    }

    async fn compare(
        &self,
        looked: &mut Looked,
        inventory: &Inventory,
        apps: &[AppRow],
        this: &FleetNode,
        nodes: &[FleetNode],
        settings: &OperationSettings,
    ) -> Result<(), ReconcileError> {
        let newcomers = self.newcomers(apps, this, inventory).await?;
        let own = apps.iter().filter_map(|app| Some((app, drift::find(app, inventory)?)));
        let arrived = newcomers.iter().map(|(app, finding)| (app, finding.clone()));
        let found: Vec<(&AppRow, Finding)> = own.chain(arrived).collect();
        let missing: Vec<&AppRow> = found
            .iter()
            .filter(|(_, finding)| *finding == Finding::Missing)
            .map(|(app, _)| *app)
            .collect();
        let many = drift::so_many(missing.len(), apps.len(), settings.missing_alarm_percent);
        let occasion = Occasion {
            node: this,
            nodes,
            settings,
            quietly: many,
        };
        for (app, finding) in &found {
            if let Finding::Moved(name) = finding
                && let Some(to) = with_agent(nodes, this.host_id, name)
                && self.commands.is_online(to.id)
            {
                // That node tells more of it: whether it runs there.
                looked.gone_to.insert(to.id);
                continue;
            }
            let (line, alarm) = self.write(app, finding, &occasion).await?;
            looked.findings.push(line);
            looked.alarms.extend(alarm);
        }
        looked.gone_to.remove(&looked.node);
        if many {
            let alarm = self.many_missing(this, &missing, apps.len()).await?;
            looked.alarms.push(alarm);
        }
        Ok(())
    }

    /// Apps of other nodes of the host whose containers are on this one now.
    async fn newcomers(
        &self,
        own: &[AppRow],
        this: &FleetNode,
        inventory: &Inventory,
    ) -> Result<Vec<(AppRow, Finding)>, StoreError> {
        let mut newcomers = Vec::new();
        for owner in inventory.containers.iter().filter_map(|c| c.owner.as_ref()) {
            if own.iter().any(|app| app.id == owner.app) {
                continue;
            }
            let app = apps::by_id(&mut *self.store.read().await?, owner.app.as_str()).await?;
            if let Some(app) = app.filter(|app| app.host_id == this.host_id && app.node_id != this.id)
                && let Some(finding) = drift::arrived(&app, inventory)
            {
                newcomers.push((app, finding));
            }
        }
        Ok(newcomers)
    }
}

/// Whether a node told enough to conclude that what it did not tell does not exist.
pub(super) fn proves(look: &NodeLook) -> Option<String> {
    (look.told != Told::Complete).then(|| {
        format!(
            "{} has not told everything: {}",
            look.node,
            look.why.as_deref().unwrap_or("no reason was given")
        )
    })
}
