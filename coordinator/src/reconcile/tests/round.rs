//! Rounds over all nodes: what counts, what does not, and what the report says.

use super::{reconciler, rounds, running};
use crate::{
    clock::Clock,
    domain::{
        app_state::Status,
        operation_state::OperationState,
        settings::DriftPolicy,
        upkeep::{Cause, Round, RoundState},
    },
    operations::tests::world::{World, app_row},
    reconcile::{
        leftovers::GRACE_MS,
        report::{Done, Report, Told},
    },
    store::{apps, operations, reports, reservations},
};
use proximity_protocol::ids::{AppId, Generation, Owner};
use std::time::Duration;

const APP: &str = "nginx-00000001";

async fn round(world: &World) -> Report {
    reconciler(world).round(Cause::Timer).await.unwrap()
}

/// Everything that a round could change.
async fn everything(world: &World) -> (String, i64, usize) {
    let mut conn = world.store.read().await.unwrap();
    let apps = apps::on_host(&mut conn, 1).await.unwrap();
    let operations = operations::unfinished(&mut conn).await.unwrap().len();
    drop(conn);
    (format!("{apps:?}"), world.reservation_count().await, operations)
}

/// A reservation that nobody has a use for, and old enough to be looked at.
async fn stray_reservation(world: &World) {
    let now = world.clock.now_ms();
    let mut tx = world.store.begin().await.unwrap();
    reservations::take_vmid(&mut tx, now, 1, 500, "ghost-00000001", 1)
        .await
        .unwrap();
    reservations::take_port(&mut tx, now, 1, 8500, "ghost-00000001")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    world
        .clock
        .advance(Duration::from_millis(u64::try_from(GRACE_MS).unwrap() + 1));
}

/// The container is gone, a reservation is left over: everything that could be changed is there. A node that is cut off, not quorate, or cannot read
/// everything changes nothing, and the report says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_told_changes_nothing_and_the_report_says_why() {
    for told in [Told::NotConnected, Told::NotQuorate, Told::Incomplete] {
        let world = running().await;
        stray_reservation(&world).await;
        let node = world.node();
        world.nodes.model(node, |m| m.containers.clear());
        match told {
            Told::NotConnected => world.nodes.set_online(node, false),
            Told::NotQuorate => world.nodes.model(node, |m| m.no_quorum = true),
            _ => world
                .nodes
                .model(node, |m| m.unreadable = vec!["/etc/pve/.vmlist cannot be read".into()]),
        }
        let before = everything(&world).await;
        let report = round(&world).await;
        assert_eq!(everything(&world).await, before, "{told:?}");
        let look = &report.nodes[0];
        assert_eq!((look.node.as_str(), look.told, look.apps), ("pve1", told, 1));
        let why = look.why.clone().unwrap();
        let expected = match told {
            Told::NotConnected => "not connected",
            Told::NotQuorate => "no quorum",
            _ => ".vmlist",
        };
        assert!(why.contains(expected), "{why}");
        assert_eq!((report.written(), report.freed.len()), (0, 0), "{report:?}");
        assert_eq!(report.kept.len(), 2, "{report:?}");
        assert!(report.kept[0].contains("pve1 has not told everything"), "{report:?}");
        // The same round with the same world, but told: then it counts.
        world.nodes.set_online(node, true);
        world.nodes.model(node, |m| {
            m.no_quorum = false;
            m.unreadable.clear();
        });
        let report = round(&world).await;
        assert_eq!(report.nodes[0].told, Told::Complete);
        assert_eq!(report.findings[0].finding, "missing", "{report:?}");
        assert_eq!(report.findings[0].done, Done::Reported);
        assert_eq!(
            report.freed,
            ["VMID 500 of ghost-00000001", "port 8500 of ghost-00000001"]
        );
        assert_eq!(world.app(APP).await.unwrap().status, Status::Error);
    }
}

/// Of two nodes of a host one is away: what the other tells about its own containers counts, and no reservation of the host is freed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_that_is_away_keeps_the_reservations_of_its_host() {
    let world = World::new(2, true).await;
    world.queued("deploy").await;
    world.run_to_the_end(1).await;
    stray_reservation(&world).await;
    world.nodes.set_online(world.ids[1], false);
    world.nodes.model(world.node(), |m| m.containers.clear());
    let report = round(&world).await;
    assert_eq!(
        report.nodes.iter().map(|n| n.told).collect::<Vec<_>>(),
        [Told::Complete, Told::NotConnected]
    );
    assert_eq!(report.written(), 1);
    assert!(
        report.freed.is_empty() && report.kept[0].contains("pve2 has not told everything"),
        "{report:?}"
    );
    world.nodes.set_online(world.ids[1], true);
    assert_eq!(round(&world).await.freed.len(), 2);
}

/// The node was reinstalled: it is empty, and all its apps are missing. Rows and reservations are kept, and there is one alarm, not one for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_empty_is_one_alarm_and_loses_no_row() {
    let world = World::new(1, true).await;
    let mut tx = world.store.begin().await.unwrap();
    for n in 0..20_u16 {
        let mut app = app_row(&format!("nginx-{n:08x}"), world.node(), Status::Running);
        (app.vmid, app.public_port) = (Some(200 + u32::from(n)), Some(8000 + n));
        apps::insert(&mut tx, &app).await.unwrap();
        reservations::take_vmid(&mut tx, 0, 1, 200 + u32::from(n), app.id.as_str(), 1)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    let mut events = world.bus.subscribe();
    let report = round(&world).await;
    assert_eq!(report.written(), 20);
    assert_eq!(report.alarms.len(), 1, "{:?}", report.alarms);
    assert!(report.alarms[0].contains("20 of 20 apps of pve1 are missing at once"));
    let (mut alarms, mut changed) = (0, 0);
    while let Ok(event) = events.try_recv() {
        match event.kind.as_str() {
            "alarm" => {
                alarms += 1;
                assert_eq!(event.data["apps"].as_array().unwrap().len(), 20);
            }
            _ => changed += 1,
        }
    }
    assert_eq!((alarms, changed), (1, 20));
    let apps = apps::on_host(&mut world.store.read().await.unwrap(), 1).await.unwrap();
    assert!(apps.len() == 20 && apps.iter().all(|a| a.status == Status::Error && a.vmid.is_some()));
    assert_eq!(world.reservation_count().await, 20);
    let report = round(&world).await;
    assert_eq!(
        (report.written(), report.alarms.len(), report.freed.len()),
        (0, 0, 0),
        "said once"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_by_hand_is_reported_or_corrected_as_the_policy_says() {
    for (setting, label, corrects) in [
        (DriftPolicy::Report, None, false),
        (DriftPolicy::Correct, None, true),
        (DriftPolicy::Report, Some("drift:correct"), true),
        (DriftPolicy::Correct, Some("drift:report"), false),
    ] {
        let world = running().await;
        world.set(|s| s.drift_policy = setting).await;
        if let Some(label) = label {
            let mut tx = world.store.begin().await.unwrap();
            sqlx::query("UPDATE apps SET labels = $1")
                .bind(serde_json::json!([label]).to_string())
                .execute(&mut *tx)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
        let by_hand = |running: bool| {
            world.nodes.model(world.node(), |m| {
                m.containers.values_mut().for_each(|c| c.running = running)
            });
        };
        let now_runs = || world.nodes.model(world.node(), |m| m.containers[&100].running);
        by_hand(false);
        let reconciler = reconciler(&world);
        let report = reconciler.round(Cause::Timer).await.unwrap();
        let done = if corrects { Done::Correcting } else { Done::Reported };
        assert_eq!(
            (report.findings[0].finding.as_str(), report.findings[0].done),
            ("stands", done)
        );
        world.settle(&reconciler.engine).await;
        let app = world.app(APP).await.unwrap();
        let expected = if corrects { Status::Running } else { Status::Stopped };
        assert_eq!((app.status, now_runs()), (expected, corrects), "{setting:?} {label:?}");
        if corrects {
            assert_eq!(
                world.nodes.model(world.node(), |m| m.published.len()),
                1,
                "it serves again"
            );
        }
    }
}

/// The reconciler has looked, and before it writes an operation of the app begins, or has begun and ended: nothing is written over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_writes_over_the_other() {
    // Under way.
    let world = running().await;
    world.nodes.model(world.node(), |m| m.containers.clear());
    let delete = world.delete(APP).await;
    let report = round(&world).await;
    assert_eq!(report.written(), 0);
    world.run_to_the_end(2).await;
    assert_eq!(world.operation(delete).await.state, OperationState::Done);

    // Between the look and the writing: the row that was read is not the row that is.
    let world = running().await;
    let reconciler = reconciler(&world);
    let seen = world.app(APP).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    let stop = world.queue_again("stop", APP).await;
    world.run_to_the_end(2).await;
    assert_eq!(world.operation(stop).await.state, OperationState::Done);
    let nodes = crate::store::fleet::nodes(&mut world.store.read().await.unwrap())
        .await
        .unwrap();
    let settings = crate::domain::settings::OperationSettings::default();
    let occasion = crate::reconcile::write::Occasion {
        node: &nodes[0],
        nodes: &nodes,
        settings: &settings,
        quietly: false,
    };
    let late = crate::reconcile::drift::Finding::Missing;
    let (line, alarm) = reconciler.write(&seen, &late, &occasion).await.unwrap();
    assert_eq!((line.done, alarm), (Done::Changed, None), "it is looked at again");
    assert_eq!(world.app(APP).await.unwrap().status, Status::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_tells_of_what_is_nobodys() {
    let world = running().await;
    let ghost = Owner {
        app: AppId::new("ghost-00000001").unwrap(),
        generation: Generation(1),
    };
    world.nodes.model(world.node(), |m| {
        m.adoptable.insert(300);
        m.stray_records.insert(301, ghost);
    });
    let report = round(&world).await;
    let unknown: Vec<u32> = report.unknown_containers.iter().map(|c| c.vmid).collect();
    assert_eq!(unknown, [300]);
    assert_eq!(report.strays.len(), 1, "{report:?}");
    let stray = &report.strays[0];
    assert_eq!(
        (stray.kind.as_str(), stray.number, stray.app_id.as_str()),
        ("record", 301, "ghost-00000001")
    );
    assert!(
        stray.message.contains("rm /etc/pve/priv/proximity/301"),
        "{}",
        stray.message
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_run_keeps_a_report_and_one_serves_all_who_asked() {
    let world = running().await;
    let reconciler = reconciler(&world);
    let asked = |who: &'static str| {
        let store = world.store.clone();
        async move {
            let mut tx = store.begin().await.unwrap();
            let id = reports::ask(&mut tx, 1, Round::Reconcile, Cause::Request, Some(who))
                .await
                .unwrap();
            tx.commit().await.unwrap();
            id
        }
    };
    let (first, second) = (asked("ada").await, asked("bob").await);
    reconciler.round(Cause::Request).await.unwrap();
    reconciler.round(Cause::Timer).await.unwrap();
    let mut conn = world.store.read().await.unwrap();
    let (rows, total) = reports::page(&mut conn, Round::Reconcile, 10, 0).await.unwrap();
    drop(conn);
    assert_eq!(total, 3);
    let causes: Vec<_> = rows.iter().map(|r| (r.cause, r.requested_by.as_deref())).collect();
    assert_eq!(
        causes,
        [
            (Cause::Timer, None),
            (Cause::Request, Some("bob")),
            (Cause::Request, Some("ada"))
        ]
    );
    assert_eq!((rows[2].id, rows[1].id), (first, second));
    for row in &rows {
        assert_eq!(row.state, RoundState::Done);
        let report: Report = serde_json::from_value(row.report.clone()).unwrap();
        assert_eq!(report.nodes[0].told, Told::Complete);
    }
    // A coordinator that is killed in the middle: the run is broken off, and what was asked and not begun is made by the next.
    let third = asked("eve").await;
    let mut tx = world.store.begin().await.unwrap();
    reports::begin(&mut tx, 2, &[third]).await.unwrap();
    tx.commit().await.unwrap();
    let fourth = asked("eve").await;
    assert!(
        rounds(&world).recover(Round::Reconcile).await.unwrap(),
        "something is asked for"
    );
    let mut conn = world.store.read().await.unwrap();
    let state = |row: Option<reports::ReportRow>| row.unwrap().state;
    assert_eq!(
        state(reports::by_id(&mut conn, Round::Reconcile, third).await.unwrap()),
        RoundState::Broken
    );
    assert_eq!(
        state(reports::by_id(&mut conn, Round::Reconcile, fourth).await.unwrap()),
        RoundState::Asked
    );
}

/// An abandoned deployment: its container may be there, so everything is kept; when it is proven gone, VMID, port and address are free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_abandoned_is_freed_once_it_is_proven_gone() {
    let world = running().await;
    let mut tx = world.store.begin().await.unwrap();
    sqlx::query("UPDATE operations SET state = 'stuck', abandoned_at = 1, abandoned_by = 'root'")
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query("UPDATE apps SET status = 'error'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    world
        .clock
        .advance(Duration::from_millis(u64::try_from(GRACE_MS).unwrap() + 1));
    let report = round(&world).await;
    assert!(report.freed.is_empty(), "{report:?}");
    assert!(
        report
            .kept
            .iter()
            .any(|kept| kept.contains("an ownership record of container 100 names it")),
        "{report:?}"
    );
    world.nodes.model(world.node(), |m| {
        m.containers.clear();
        m.published.clear();
    });
    let report = round(&world).await;
    assert_eq!(report.freed.len(), 3, "{report:?}");
    assert_eq!(world.reservation_count().await, 0);
    let app = world.app(APP).await.unwrap();
    assert_eq!(
        (app.status, app.vmid, app.public_port, app.ip_address),
        (Status::Error, None, None, None)
    );
}
