//! What has to be true when operations have ended.

use super::{
    node::Container,
    world::{SIDE, SOURCE, World},
};
use crate::{
    domain::{app_state::Status, backups::BackupStatus, operation_state::OperationState},
    store::{
        adopted_configurations, app_secrets,
        apps::AppRow,
        backups::{self, BackupRow},
        operations::OperationRow,
        side_containers::{self, SideRow},
    },
};
use proximity_protocol::{ids::ArchiveId, spec::Settings};
use std::net::Ipv4Addr;

impl World {
    async fn count(&self, table: &'static str) -> i64 {
        let sql = match table {
            "vmid" => {
                "SELECT COUNT(*) FROM vmid_reservations r WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id AND a.vmid = r.vmid)
                 AND NOT EXISTS (SELECT 1 FROM side_containers s WHERE s.app_id = r.app_id AND s.vmid = r.vmid)"
            }
            "port" => {
                "SELECT COUNT(*) FROM port_reservations r WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id AND a.public_port = r.port)"
            }
            "address" => {
                "SELECT COUNT(*) FROM address_reservations r WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id)"
            }
            "unreserved" => {
                "SELECT COUNT(*) FROM apps a WHERE a.vmid IS NOT NULL AND NOT EXISTS (SELECT 1 FROM vmid_reservations r WHERE r.app_id = a.id AND r.vmid = a.vmid)"
            }
            "side" => {
                "SELECT COUNT(*) FROM side_containers s WHERE NOT EXISTS (SELECT 1 FROM vmid_reservations r WHERE r.app_id = s.app_id AND r.vmid = s.vmid)
                 OR NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = s.app_id)"
            }
            "secret" => {
                "SELECT COUNT(*) FROM app_secrets s WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = s.app_id)"
            }
            "new secret" => {
                "SELECT COUNT(*) FROM operation_secrets s WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = s.app_id)
                 OR EXISTS (SELECT 1 FROM operations o WHERE o.id = s.operation_id AND o.state IN ('done', 'undone'))"
            }
            "kept configuration" => {
                "SELECT COUNT(*) FROM adopted_configurations c WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = c.app_id)"
            }
            "reservations" => {
                "SELECT (SELECT COUNT(*) FROM vmid_reservations) + (SELECT COUNT(*) FROM port_reservations) + (SELECT COUNT(*) FROM address_reservations)"
            }
            other => panic!("{other}"),
        };
        let (count,): (i64,) = sqlx::query_as(sql)
            .fetch_one(&mut *self.store.read().await.unwrap())
            .await
            .unwrap();
        count
    }

    pub(crate) async fn reservation_count(&self) -> i64 {
        self.count("reservations").await
    }

    /// What holds after every end: no reservation without owner, nothing on a node without an app, no double owner.
    pub(crate) async fn assert_nothing_stray(&self, context: &str) {
        for table in [
            "vmid",
            "port",
            "address",
            "unreserved",
            "side",
            "secret",
            "new secret",
            "kept configuration",
        ] {
            assert_eq!(self.count(table).await, 0, "{context}: stray {table}");
        }
        for node in &self.ids {
            let (containers, published) = self.nodes.model(*node, |m| (m.containers.clone(), m.published.clone()));
            for (vmid, container) in &containers {
                let Some(owner) = &container.owner else {
                    // Somebody else's.
                    continue;
                };
                if owner.app.as_str() == SOURCE {
                    assert!(container.running, "{context}: what is cloned was stopped");
                    continue;
                }
                let app = self.app(owner.app.as_str()).await;
                let app = app.unwrap_or_else(|| panic!("{context}: container {vmid} without an app"));
                let mut conn = self.store.read().await.unwrap();
                let beside = side_containers::of_app(&mut conn, owner.app.as_str()).await.unwrap();
                let known = app.vmid == Some(*vmid) || beside.iter().any(|side| side.vmid.get() == *vmid);
                assert!(known, "{context}: container {vmid} is not its app's");
            }
            for (port, target) in &published {
                assert!(
                    containers.contains_key(&target.vmid.get()),
                    "{context}: port {port} leads nowhere"
                );
            }
        }
    }

    /// What holds after an operation of that kind has ended in that state.
    pub(crate) async fn assert_ended(&self, kind_name: &str, operation: &OperationRow, context: &str) {
        self.assert_nothing_stray(context).await;
        let app = self.app("nginx-00000001").await;
        let (container, published) = self.nodes.model(self.node(), |m| {
            (
                app.as_ref()
                    .and_then(|a| a.vmid)
                    .and_then(|v| m.containers.get(&v).cloned()),
                m.published.len(),
            )
        });
        let left = self.nodes.model(self.node(), |m| {
            let of_source = |c: &&Container| c.owner.as_ref().is_some_and(|owner| owner.app.as_str() == SOURCE);
            m.containers.values().filter(|c| !of_source(c)).count() + m.published.len()
        });
        if kind_name == "clone" && matches!(operation.state, OperationState::Done | OperationState::Undone) {
            let (_, archives) = self.backup().await;
            assert!(archives.is_empty(), "{context}: the copy is left: {archives:?}");
        }
        let by_hand = self.nodes.model(self.node(), |m| m.containers.get(&100).cloned());
        let serves = container.as_ref().is_some_and(|c| c.running) && published == 1;
        let status = app.as_ref().map(|a| a.status);
        match (kind_name, operation.state) {
            ("deploy" | "clone" | "start" | "restart" | "publish", OperationState::Done) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
                assert!(app.unwrap().published.is_some(), "{context}");
            }
            ("deploy" | "clone", OperationState::Undone) => {
                assert_eq!(status, Some(Status::Error), "{context}");
                let reason = app.unwrap().status_reason.unwrap_or_default();
                assert!(!reason.is_empty(), "{context}: no reason");
                assert_eq!(left, 0, "{context}: something is left on the node");
                assert_eq!(self.reservation_count().await, 0, "{context}");
            }
            // It is published or not, whatever the failed command did; a person has to look.
            ("publish", OperationState::Undone) => assert_eq!(status, Some(Status::Error), "{context}"),
            ("start", OperationState::Undone) => {
                // A node that could not be looked at says nothing of the app.
                let looked = operation.error.as_ref().is_some_and(|error| error["step"] != "look");
                let expected = if looked { Status::Error } else { Status::Stopped };
                assert_eq!(status, Some(expected), "{context}");
                assert!(!container.unwrap().running && published == 0, "{context}");
            }
            ("restart", OperationState::Undone) => match status {
                // It could not be brought down, or did not come up again.
                Some(Status::Running) => assert!(serves, "{context}: running but does not serve"),
                Some(Status::Error) => assert!(!container.unwrap().running && published == 0, "{context}"),
                other => panic!("{context}: {other:?}"),
            },
            ("stop", OperationState::Done) => {
                assert_eq!(status, Some(Status::Stopped), "{context}");
                assert!(!container.unwrap().running && published == 0, "{context}");
            }
            ("stop", OperationState::Undone) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
            }
            ("delete", OperationState::Done) => {
                assert_eq!(status, None, "{context}");
                assert_eq!(left, 0, "{context}");
                assert_eq!(self.reservation_count().await, 0, "{context}");
            }
            ("adopt", OperationState::Done) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
                let mut conn = self.store.read().await.unwrap();
                let kept = adopted_configurations::of_app(&mut conn, "nginx-00000001")
                    .await
                    .unwrap();
                assert_eq!(kept.unwrap().text, "hostname: by-hand\n", "{context}");
            }
            ("adopt", OperationState::Undone) => {
                assert_eq!(status, Some(Status::Error), "{context}");
                let untouched = Container::new(None, true, Some(Ipv4Addr::new(10, 1, 0, 10)));
                assert_eq!((by_hand, published), (Some(untouched), 0), "{context}");
                assert_eq!(self.reservation_count().await, 0, "{context}");
            }
            ("forget", OperationState::Done) => {
                assert_eq!((status, published), (None, 0), "{context}");
                assert!(
                    by_hand.is_none_or(|c| c.owner.is_none() && !c.adopted),
                    "{context}: the record stayed"
                );
                assert_eq!(self.reservation_count().await, 0, "{context}");
            }
            ("configure", OperationState::Done | OperationState::Undone) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
                let done = operation.state == OperationState::Done;
                self.assert_configured(&app.unwrap(), &container.unwrap(), done, context)
                    .await;
            }
            ("migrate", OperationState::Done | OperationState::Undone) => {
                let done = operation.state == OperationState::Done;
                let (here, away) = if done { (1, 0) } else { (0, 1) };
                let count = |node: usize| {
                    self.nodes
                        .model(self.ids[node], |m| (m.containers.len(), m.published.len()))
                };
                assert_eq!((count(here), count(away)), ((1, 1), (0, 0)), "{context}");
                assert_eq!(
                    (status, operation.node_id),
                    (Some(Status::Running), Some(self.ids[here])),
                    "{context}"
                );
                let app = app.unwrap();
                assert_eq!(
                    (app.node_id, app.published.is_some()),
                    (self.ids[here], true),
                    "{context}"
                );
                let runs = self.nodes.model(self.ids[here], |m| m.containers[&100].running);
                assert!(runs, "{context}: published and does not run");
            }
            ("restore", OperationState::Done | OperationState::Undone) => {
                let done = operation.state == OperationState::Done;
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
                let app = app.unwrap();
                let (vmid, generation) = if done { (SIDE, 2) } else { (100, 1) };
                assert_eq!((app.vmid, app.generation), (Some(vmid), generation), "{context}");
                assert!(app.published.is_some() && container.unwrap().onboot, "{context}");
                assert_eq!(app.ip_address, Some(Ipv4Addr::new(10, 1, 0, 10)), "{context}");
                let side = self.side().await;
                if done {
                    // The old one is kept, stands still, and does not come up with its node.
                    let side = side.expect("it is not kept");
                    assert_eq!((side.vmid.get(), side.generation), (100, 1), "{context}");
                    assert!(side.keep_until.is_some(), "{context}");
                    let old = by_hand.unwrap();
                    assert!(!old.running && !old.onboot, "{context}: {old:?}");
                } else {
                    assert_eq!(side, None, "{context}");
                    let left = self.nodes.model(self.node(), |m| m.containers.len());
                    assert_eq!(left, 1, "{context}: the new one was not taken away");
                }
                let (backup, archives) = self.backup().await;
                let backup = backup.unwrap();
                assert_eq!(backup.status, BackupStatus::Completed, "{context}");
                assert_eq!(archives, [backup.volid.unwrap()], "{context}: the backup is gone");
                assert_eq!(backup.verified_at.is_some(), done, "{context}");
                assert_eq!(backup.error_message.is_some(), !done, "{context}");
            }
            ("verify", OperationState::Done | OperationState::Undone) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
                assert_eq!(self.side().await, None, "{context}");
                let left = self.nodes.model(self.node(), |m| m.containers.len());
                assert_eq!(left, 1, "{context}: the trial is left");
                let (backup, archives) = self.backup().await;
                let backup = backup.unwrap();
                assert_eq!(archives, [backup.volid.unwrap()], "{context}");
                let done = operation.state == OperationState::Done;
                assert_eq!(
                    (backup.verified_at.is_some(), backup.error_message.is_some()),
                    (done, !done),
                    "{context}"
                );
            }
            ("verify", OperationState::Stuck) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves && self.side().await.is_some(), "{context}");
            }
            ("discard", OperationState::Done | OperationState::Undone) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
                let side = self.side().await;
                assert_eq!(side.is_none(), operation.state == OperationState::Done, "{context}");
                if let Some(side) = side {
                    assert!(
                        side.note.is_some() && side.keep_until > Some(operation.created_at),
                        "{context}"
                    );
                }
            }
            ("discard", OperationState::Stuck) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves && self.side().await.is_some(), "{context}");
            }
            ("backup" | "backup_delete", OperationState::Stuck) => {
                assert!(
                    operation.action.as_ref().is_some_and(|a| a.contains("pve")),
                    "{context}: {operation:?}"
                );
                // The app goes on.
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
                let (backup, _) = self.backup().await;
                let backup = backup.unwrap();
                assert!(!backup.status.in_progress(), "{context}: {backup:?}");
                assert!(
                    backup.error_message.is_some_and(|why| why.contains("pve")),
                    "{context}: nothing is told"
                );
            }
            ("backup", OperationState::Done | OperationState::Undone) => {
                assert_eq!(status, Some(Status::Running), "{context}");
                assert!(serves, "{context}: running but does not serve");
                let (backup, archives) = self.backup().await;
                let backup = backup.unwrap();
                if operation.state == OperationState::Done {
                    assert_eq!(backup.status, BackupStatus::Completed, "{context}");
                    assert_eq!(archives, [backup.volid.unwrap()], "{context}");
                    assert!(backup.checksum.unwrap().starts_with("sha256:ab"), "{context}");
                    assert!(
                        backup.log.contains("Finished") && backup.completed_at.is_some(),
                        "{context}"
                    );
                } else {
                    assert_eq!(backup.status, BackupStatus::Failed, "{context}");
                    assert!(archives.is_empty() && backup.volid.is_none(), "{context}: {archives:?}");
                    assert!(backup.error_message.is_some(), "{context}");
                }
            }
            ("backup_delete", OperationState::Done) => {
                let (backup, archives) = self.backup().await;
                assert!(backup.is_none() && archives.is_empty(), "{context}: {archives:?}");
            }
            (_, OperationState::Stuck) => {
                assert!(
                    operation.action.as_ref().is_some_and(|a| a.contains("pve")),
                    "{context}: {operation:?}"
                );
                assert_eq!(status, Some(Status::Error), "{context}");
            }
            other => panic!("{context}: ended as {other:?}"),
        }
    }
}

impl World {
    /// The one container beside the app's.
    pub(crate) async fn side(&self) -> Option<SideRow> {
        let mut conn = self.store.read().await.unwrap();
        let mut all = side_containers::of_app(&mut conn, "nginx-00000001").await.unwrap();
        assert!(all.len() < 2, "{all:?}");
        all.pop()
    }

    /// The one backup, and every archive on the nodes.
    pub(crate) async fn backup(&self) -> (Option<BackupRow>, Vec<ArchiveId>) {
        let mut conn = self.store.read().await.unwrap();
        let (mut rows, _) = backups::of_app(&mut conn, "nginx-00000001", 2, 0).await.unwrap();
        assert!(rows.len() < 2, "{rows:?}");
        let mut archives = Vec::new();
        for node in &self.ids {
            self.nodes
                .model(*node, |m| archives.extend(m.archives.all.keys().cloned()));
        }
        (rows.pop(), archives)
    }

    /// What the container has, what the row says and what was asked agree; taken back, all is as before, but for a disk, which never shrinks.
    async fn assert_configured(&self, app: &AppRow, container: &Container, done: bool, context: &str) {
        let resources = &app.resources;
        let told = Settings {
            cpu_cores: Some(resources.cpu_cores),
            memory_mb: Some(resources.memory_mb),
            swap_mb: Some(resources.swap_mb),
        };
        assert_eq!(container.settings, told, "{context}");
        assert_eq!(container.disk_gb, resources.disk_gb, "{context}");
        assert_eq!(resources.memory_mb, if done { 256 } else { 128 }, "{context}");
        assert!(resources.disk_gb == 4 || !done, "{context}");
        let env = &container.recipe.as_ref().unwrap().env;
        let env: Vec<(&str, &str)> = env.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
        let (values, names) = if done {
            (
                vec![("PASSWORD", "newer secret"), ("SHAPE", "round"), ("TOKEN", "a token")],
                vec!["PASSWORD", "TOKEN"],
            )
        } else {
            (vec![("COLOR", "blue"), ("PASSWORD", "very secret")], vec!["PASSWORD"])
        };
        assert_eq!(env, values, "{context}");
        let plain: Vec<&String> = app.environment.keys().collect();
        assert_eq!(plain, [if done { "SHAPE" } else { "COLOR" }], "{context}");
        let mut conn = self.store.read().await.unwrap();
        let kept = app_secrets::of_app(&mut conn, app.id.as_str()).await.unwrap();
        assert_eq!(kept.iter().map(|(n, _)| n).collect::<Vec<_>>(), names, "{context}");
        for (name, sealed) in kept {
            let secret = self.secrets.unseal(app.id.as_str(), &name, &sealed).unwrap();
            assert!(
                values.contains(&(name.as_str(), secret.expose())),
                "{context}: {name} is another in the registry"
            );
        }
    }
}
