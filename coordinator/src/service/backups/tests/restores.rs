//! Restores, trials, what is kept, and clones.

use super::*;
use crate::{
    domain::side_containers::SideRole,
    service::apps::{CloneApp, Cloned},
    store::side_containers,
};

async fn backed_up(world: &World, backups: &Backups) -> i64 {
    let started = backups.create(&ada(), APP, &wants("suspend")).await.unwrap();
    world.settle(&backups.deps().engine).await;
    started.id
}

fn plain() -> RestoreBackup {
    RestoreBackup::default()
}

fn previous(word: &str) -> RestoreBackup {
    RestoreBackup {
        previous: Some(word.into()),
        ..plain()
    }
}

async fn begun(backups: &Backups, id: i64, body: &RestoreBackup) -> RestoreStarted {
    match backups.restore(&ada(), APP, id, body, false).await.unwrap() {
        BackupRestored::Started(started) => started,
        plan => panic!("{plan:?}"),
    }
}

async fn refusal(backups: &Backups, id: i64, body: &RestoreBackup) -> String {
    let error = backups.restore(&ada(), APP, id, body, false).await.unwrap_err();
    assert_eq!(status(&error), 409, "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_restore_at_a_time_and_the_old_container_is_kept_until_it_is_due() {
    let (world, backups) = stage().await;
    let id = backed_up(&world, &backups).await;
    let BackupRestored::Plan(plan) = backups.restore(&ada(), APP, id, &plain(), true).await.unwrap() else {
        panic!()
    };
    assert!(plan.loses[0].contains("only in container 100"), "{:?}", plan.loses);
    assert_eq!(world.app(APP).await.unwrap().status, Status::Running);

    let (ada, body) = (ada(), previous("until_asked"));
    let (one, two) = tokio::join!(
        backups.restore(&ada, APP, id, &body, false),
        backups.restore(&ada, APP, id, &body, false)
    );
    let refused: Vec<ServiceError> = [one, two].into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.iter().map(status).collect::<Vec<_>>(), [409], "{refused:?}");
    assert_eq!(world.app(APP).await.unwrap().status, Status::Restoring);
    let error = backups.create(&ada, APP, &wants("stop")).await.unwrap_err();
    assert_eq!(status(&error), 409, "{error}");
    world.settle(&backups.deps().engine).await;
    let app = world.app(APP).await.unwrap();
    assert_eq!((app.status, app.generation), (Status::Running, 2));
    let kept = backups.previous(&ada, APP).await.unwrap().previous;
    assert_eq!(
        (kept.len(), kept[0].lxc_id, kept[0].keep_until.as_ref()),
        (1, 100, None)
    );
    assert!(backups.get(&ada, APP, id).await.unwrap().verified_at.is_some());

    // A trial leaves nothing and changes nothing.
    backups.verify(&ada, APP, id).await.unwrap();
    world.settle(&backups.deps().engine).await;
    assert_eq!(world.app(APP).await.unwrap().vmid, app.vmid);
    world.assert_nothing_stray("after a trial").await;

    let error = backups.discard(&ada, APP, 999).await.unwrap_err();
    assert_eq!(status(&error), 404);
    backups.discard(&ada, APP, 100).await.unwrap();
    world.settle(&backups.deps().engine).await;
    assert!(backups.previous(&ada, APP).await.unwrap().previous.is_empty());
    assert!(world.nodes.model(world.node(), |m| !m.containers.contains_key(&100)));

    // At once, when the new one is healthy.
    begun(&backups, id, &previous("no")).await;
    world.settle(&backups.deps().engine).await;
    assert!(backups.previous(&ada, APP).await.unwrap().previous.is_empty());
    assert_eq!(world.nodes.model(world.node(), |m| m.containers.len()), 1);
    world.assert_nothing_stray("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_restored_is_said_before() {
    let (world, backups) = stage().await;
    let id = backed_up(&world, &backups).await;
    let elsewhere = RestoreBackup {
        storage: Some("tape".into()),
        ..plain()
    };
    assert!(refusal(&backups, id, &elsewhere).await.contains("no storage tape"));
    world
        .nodes
        .model(world.node(), |m| m.containers.get_mut(&100).unwrap().ha = true);
    assert!(
        refusal(&backups, id, &plain())
            .await
            .contains("ha-manager remove ct:100")
    );
    world
        .nodes
        .model(world.node(), |m| m.containers.get_mut(&100).unwrap().ha = false);
    world
        .nodes
        .model(world.node(), |m| m.archives.left_out = vec!["mp1".into()]);
    let why = refusal(&backups, id, &previous("no")).await;
    assert!(why.contains("mp1 (/srv/left)") && why.contains("until_asked"), "{why}");
    world.nodes.model(world.node(), |m| m.archives.left_out.clear());
    // On a node that does not reach it.
    let mut app = world.app(APP).await.unwrap();
    app.node_id = world.ids[1];
    let mut tx = world.store.begin().await.unwrap();
    apps::update(&mut tx, 0, &app).await.unwrap();
    tx.commit().await.unwrap();
    let why = refusal(&backups, id, &plain()).await;
    assert!(why.contains("which pve2 does not reach"), "{why}");
    app.node_id = world.node();
    let mut tx = world.store.begin().await.unwrap();
    apps::update(&mut tx, 0, &app).await.unwrap();
    tx.commit().await.unwrap();

    world.nodes.model(world.node(), |m| m.archives.all.clear());
    assert!(
        refusal(&backups, id, &plain())
            .await
            .contains("somebody else removed it")
    );
    assert_eq!(backups.get(&ada(), APP, id).await.unwrap().status, BackupStatus::Gone);
    assert!(refusal(&backups, id, &plain()).await.contains("restore another one"));
    assert_eq!(world.app(APP).await.unwrap().status, Status::Running);
    let mut conn = world.store.read().await.unwrap();
    assert!(side_containers::of_app(&mut conn, APP).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_told_and_what_is_damaged_is_not_listed_as_good() {
    let (world, backups) = stage().await;
    let id = backed_up(&world, &backups).await;
    world.nodes.model(world.node(), |m| {
        m.archives.all.values_mut().for_each(|a| a.damaged = true)
    });
    begun(&backups, id, &plain()).await;
    world.settle(&backups.deps().engine).await;
    let view = backups.get(&ada(), APP, id).await.unwrap();
    assert_eq!((view.status, view.is_completed), (BackupStatus::Failed, false));
    assert!(view.error_message.unwrap().contains("ArchiveDamaged") && view.volid.is_some());
    let app = world.app(APP).await.unwrap();
    assert_eq!((app.status, app.vmid), (Status::Running, Some(100)));
    world.assert_nothing_stray("damaged").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_a_stranger_takes_is_replaced() {
    let (world, backups) = stage().await;
    let id = backed_up(&world, &backups).await;
    begun(&backups, id, &plain()).await;
    world.nodes.model(world.node(), |m| m.stranger_vmids.insert(101));
    world.settle(&backups.deps().engine).await;
    let app = world.app(APP).await.unwrap();
    assert_eq!((app.status, app.vmid), (Status::Running, Some(102)));
    let mut conn = world.store.read().await.unwrap();
    let side = side_containers::of_app(&mut conn, APP).await.unwrap();
    assert_eq!(
        (side.len(), side[0].vmid.get(), side[0].role),
        (1, 100, SideRole::Previous)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_is_an_app_of_its_own() {
    let (world, backups) = stage().await;
    let apps = Apps::new(AppsDeps::clone(backups.deps()));
    let body = |hostname: &str, node: Option<&str>| CloneApp {
        new_hostname: hostname.into(),
        node: node.map(str::to_owned),
    };
    for (hostname, node, code) in [
        ("Not A Name", None, 422),
        ("host-00000001", None, 409),
        ("other", Some("nowhere"), 404),
        // They reach no common storage.
        ("other", Some("pve2"), 409),
    ] {
        let error = apps
            .clone_app(&ada(), APP, &body(hostname, node), false)
            .await
            .unwrap_err();
        assert_eq!(status(&error), code, "{error}");
    }
    let Cloned::Plan(plan) = apps.clone_app(&ada(), APP, &body("other", None), true).await.unwrap() else {
        panic!()
    };
    assert_eq!(plan.ports[0].public_port, Some(8001));
    let Cloned::Started(started) = apps.clone_app(&ada(), APP, &body("other", None), false).await.unwrap() else {
        panic!()
    };
    assert!(started.message.starts_with("Cloning host-00000001 to other...") && started.message.contains("suspended"));
    world.settle(&backups.deps().engine).await;
    let (source, clone) = (world.app(APP).await.unwrap(), world.app(&started.id).await.unwrap());
    assert_eq!(
        (source.status, clone.status),
        (Status::Running, Status::Running),
        "{clone:?}"
    );
    assert_ne!(source.vmid, clone.vmid);
    assert_ne!(source.ip_address, clone.ip_address);
    assert_eq!((clone.public_port, clone.environment), (Some(8001), source.environment));
    assert_eq!(
        world.nodes.model(world.node(), |m| m.archives.all.len()),
        0,
        "the copy is left"
    );
}

/// What would wait behind a full queue is refused before it is begun, and says when to ask again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_takes_no_backup_no_restore_and_no_trial() {
    let (world, backups) = stage().await;
    let id = backed_up(&world, &backups).await;
    world.fill_queue(world.node(), 500).await;
    for error in [
        backups.create(&ada(), APP, &wants("stop")).await.unwrap_err(),
        backups.restore(&ada(), APP, id, &plain(), false).await.unwrap_err(),
        backups.verify(&ada(), APP, id).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, ServiceError::Unavailable { retry_after_s: 60, .. }),
            "{error}"
        );
    }
    assert_eq!(world.app(APP).await.unwrap().status, Status::Running);
    assert_eq!(backups.stats(&ada(), APP).await.unwrap().total_backups, 1);
}
