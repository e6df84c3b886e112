//! The use cases over a registry, an engine and fake nodes.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    domain::{
        app_state::Status,
        backups::BackupStatus,
        catalog::{Catalog, SharedCatalog},
    },
    live::Live,
    operations::tests::{
        node::Wrong,
        world::{World, app_row},
    },
    service::{Role, apps::Apps},
    store::{apps, operations as operation_rows},
};
use proximity_protocol::fault::FaultKind;

mod restores;

const APP: &str = "nginx-00000001";

pub(super) fn caller(user_id: i64, username: &str, role: Role) -> Caller {
    Caller {
        user_id,
        username: username.into(),
        role,
        remote: None,
        request_id: None,
    }
}

pub(super) fn ada() -> Caller {
    caller(1, "ada", Role::User)
}

pub(super) fn status(error: &ServiceError) -> u16 {
    match error {
        ServiceError::Forbidden(_) => 403,
        ServiceError::NotFound(_) => 404,
        ServiceError::Conflict(_) => 409,
        ServiceError::Invalid(_) => 422,
        ServiceError::Unavailable { .. } => 503,
        other => panic!("{other:?}"),
    }
}

/// A running app, and the use cases.
pub(super) async fn stage() -> (World, Backups) {
    let world = World::new(2, true).await;
    world.standing_app(Status::Running).await;
    let apps = Apps::new(AppsDeps {
        store: world.store.clone(),
        engine: world.engine(1),
        queries: world.queries(),
        live: Live::default(),
        inventories: world.inventories.clone(),
        catalog: SharedCatalog::new(Catalog::parse([]).unwrap()),
        clock: Arc::new(world.clock.clone()),
        bus: world.bus.clone(),
        secrets: world.secrets.clone(),
    });
    (world, apps.backups())
}

fn wants(backup_type: &str) -> CreateBackup {
    CreateBackup {
        backup_type: Some(backup_type.into()),
        ..CreateBackup::default()
    }
}

async fn refused(backups: &Backups, who: &Caller, body: &CreateBackup, code: u16, words: &str) {
    let error = backups.create(who, APP, body).await.unwrap_err();
    assert_eq!(status(&error), code, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_made_shown_and_deleted() {
    let (world, backups) = stage().await;
    world
        .nodes
        .model(world.node(), |m| m.archives.left_out = vec!["mp1".into()]);
    let started = backups.create(&ada(), APP, &CreateBackup::default()).await.unwrap();
    assert_eq!((started.status, started.mode), (BackupStatus::Creating, "suspend"));
    assert!(
        started
            .message
            .starts_with("Backup creation started for host-00000001, in suspend mode: a snapshot is not possible")
    );
    assert!(
        started.message.contains("it leaves out mp1 (/srv/left)"),
        "{}",
        started.message
    );
    assert!(started.fallback.unwrap().contains("storage of kind dir"));
    let view = backups.get(&ada(), APP, started.id).await.unwrap();
    assert_eq!(
        (view.size, view.volid, view.checksum, view.file_name),
        (None, None, None, None)
    );
    assert!(view.is_in_progress && !view.is_completed);
    let sums = backups.stats(&ada(), APP).await.unwrap();
    assert_eq!(
        (sums.total_backups, sums.in_progress_backups, sums.completed_backups),
        (1, 1, 0)
    );

    world.settle(&backups.deps().engine).await;
    let view = backups.get(&ada(), APP, started.id).await.unwrap();
    assert_eq!(
        (view.status, view.size, view.backup_type.as_str()),
        (BackupStatus::Completed, Some(1000), "snapshot")
    );
    assert_eq!(
        view.file_name.as_deref(),
        Some("vzdump-lxc-100-2026_11_22-21_11_01.tar.zst")
    );
    assert!(view.log.unwrap().contains("Finished") && view.left_out.len() == 1);
    let page = backups.list(&ada(), APP, 1, 50).await.unwrap();
    assert_eq!(
        (page.total, page.backups[0].log.as_deref()),
        (1, None),
        "a list has no logs"
    );
    assert_eq!(world.app(APP).await.unwrap().status, Status::Running);

    let BackupDeleted::Plan(plan) = backups.delete(&ada(), APP, started.id, true).await.unwrap() else {
        panic!()
    };
    assert!(
        plan.loses.iter().any(|what| what.contains("only backup")),
        "{:?}",
        plan.loses
    );
    let BackupDeleted::Started(going) = backups.delete(&ada(), APP, started.id, false).await.unwrap() else {
        panic!()
    };
    assert_eq!(going.status, BackupStatus::Deleting);
    world.settle(&backups.deps().engine).await;
    assert_eq!(status(&backups.get(&ada(), APP, started.id).await.unwrap_err()), 404);
    assert_eq!(world.nodes.model(world.node(), |m| m.archives.all.len()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_said_and_nothing_is_begun() {
    let (world, backups) = stage().await;
    let all = CreateBackup {
        backup_type: Some("full".into()),
        compression: Some("rar".into()),
        storage: Some("no storage".into()),
    };
    match backups.create(&ada(), APP, &all).await.unwrap_err() {
        ServiceError::Invalid(errors) => assert_eq!(errors.len(), 3, "{errors:?}"),
        other => panic!("{other:?}"),
    }
    let eve = caller(3, "eve", Role::Viewer);
    refused(&backups, &eve, &wants("stop"), 403, "viewers").await;
    refused(&backups, &caller(2, "bob", Role::User), &wants("stop"), 404, "no app").await;
    let elsewhere = CreateBackup {
        storage: Some("tape".into()),
        ..wants("stop")
    };
    refused(&backups, &ada(), &elsewhere, 409, "there is no storage tape on pve1").await;
    world
        .nodes
        .model(world.node(), |m| m.archives.trouble = Some("it is away".into()));
    refused(&backups, &ada(), &wants("stop"), 409, "it is away").await;
    world.nodes.model(world.node(), |m| m.archives.trouble = None);
    world.nodes.set_online(world.node(), false);
    refused(&backups, &ada(), &wants("stop"), 503, "not connected").await;
    world.nodes.set_online(world.node(), true);
    let container = world.nodes.model(world.node(), |m| m.containers.remove(&100)).unwrap();
    refused(&backups, &ada(), &wants("stop"), 409, "is not on pve1 any more").await;
    world.nodes.model(world.node(), |m| m.containers.insert(100, container));
    let mut tx = world.store.begin().await.unwrap();
    sqlx::query("UPDATE users SET max_backups = 0 WHERE id = 1")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    refused(&backups, &ada(), &wants("stop"), 409, "max_backups").await;
    assert_eq!(backups.list(&ada(), APP, 1, 50).await.unwrap().total, 0);
    assert!(
        operation_rows::unfinished(&mut world.store.read().await.unwrap())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_and_none_while_the_app_is_on_its_way() {
    let (world, backups) = stage().await;
    let first = backups.create(&ada(), APP, &wants("stop")).await.unwrap();
    refused(&backups, &ada(), &wants("stop"), 409, &first.operation_id).await;
    let error = backups.delete(&ada(), APP, first.id, false).await.unwrap_err();
    assert!(
        status(&error) == 409 && error.to_string().contains("is being made"),
        "{error}"
    );
    world.settle(&backups.deps().engine).await;
    let mut app = world.app(APP).await.unwrap();
    app.status = Status::Starting;
    let mut tx = world.store.begin().await.unwrap();
    apps::update(&mut tx, 0, &app).await.unwrap();
    tx.commit().await.unwrap();
    refused(&backups, &ada(), &wants("stop"), 409, "is starting").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_fails_says_why_and_leaves_nothing() {
    let (world, backups) = stage().await;
    world
        .nodes
        .trap("test", false, Wrong::Fault(FaultKind::ArchiveDamaged, 9));
    let started = backups.create(&ada(), APP, &wants("suspend")).await.unwrap();
    world.settle(&backups.deps().engine).await;
    let view = backups.get(&ada(), APP, started.id).await.unwrap();
    assert_eq!((view.status, view.volid), (BackupStatus::Failed, None));
    assert!(view.error_message.unwrap().contains("ArchiveDamaged"));
    assert_eq!(world.nodes.model(world.node(), |m| m.archives.all.len()), 0);
    assert_eq!(world.app(APP).await.unwrap().status, Status::Running);
    // There is no archive: its row goes at once.
    assert_eq!(
        backups.delete(&ada(), APP, started.id, false).await.unwrap(),
        BackupDeleted::Gone
    );
    assert_eq!(backups.stats(&ada(), APP).await.unwrap().total_backups, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_outlive_their_app_and_keep_its_number() {
    let (world, backups) = stage().await;
    let started = backups.create(&ada(), APP, &wants("suspend")).await.unwrap();
    world.settle(&backups.deps().engine).await;
    world.delete(APP).await;
    world.settle(&backups.deps().engine).await;
    assert!(world.app(APP).await.is_none());
    assert_eq!(backups.list(&ada(), APP, 1, 50).await.unwrap().total, 1);
    let stranger = caller(2, "bob", Role::User);
    assert_eq!(status(&backups.list(&stranger, APP, 1, 50).await.unwrap_err()), 404);
    let error = backups.delete(&ada(), APP, started.id, false).await.unwrap_err();
    assert!(error.to_string().contains("pvesm free local:backup/"), "{error}");
    let mut conn = world.store.read().await.unwrap();
    let taken = crate::store::reservations::taken_vmids(&mut conn, 0, 1).await.unwrap();
    assert!(taken.contains(&100));
    assert_eq!(app_row(APP, world.node(), Status::Running).vmid, Some(100));
}
