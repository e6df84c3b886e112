//! Schedules over a registry, an engine, fake nodes and a clock that is turned by hand: months in milliseconds.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    assemble::scheduled::Scheduled,
    clock::{Clock as _, rfc3339},
    domain::{
        app_state::Status,
        backups::BackupStatus,
        catalog::{Catalog, SharedCatalog},
        coverage::Coverage,
        retention::{Mark, Retention},
        schedule::RunState,
    },
    live::Live,
    operations::tests::{node::Wrong, world::World},
    service::{
        Caller, Role, ServiceError,
        apps::{Apps, AppsDeps},
        backups::{Backups, ChangeBackup},
        schedules::{ScheduleBody, Schedules},
    },
    store::{backups::BackupRow, scheduled_backups},
};
use proximity_protocol::fault::FaultKind;

const APP: &str = "nginx-00000001";
const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

struct Stage {
    world: World,
    engine: crate::operations::Engine,
    backups: Backups,
    schedules: Schedules,
    scheduler: Scheduler,
}

fn ada() -> Caller {
    caller(1, "ada", Role::User)
}

fn caller(user_id: i64, username: &str, role: Role) -> Caller {
    Caller {
        user_id,
        username: username.into(),
        role,
        remote: None,
        request_id: None,
    }
}

fn daily() -> ScheduleBody {
    ScheduleBody {
        app_id: Some(APP.into()),
        calendar: Some("daily 02:30".into()),
        ..ScheduleBody::default()
    }
}

impl Stage {
    async fn new() -> Self {
        let world = World::new(1, true).await;
        world.standing_app(Status::Running).await;
        let engine = world.engine(1);
        let clock: SharedClock = Arc::new(world.clock.clone());
        let deps = AppsDeps {
            store: world.store.clone(),
            engine: engine.clone(),
            queries: world.queries(),
            live: Live::default(),
            inventories: world.inventories.clone(),
            catalog: SharedCatalog::new(Catalog::parse([]).unwrap()),
            clock: Arc::clone(&clock),
            bus: world.bus.clone(),
            secrets: world.secrets.clone(),
        };
        let backups = Apps::new(deps).backups();
        let bell = Arc::new(Notify::new());
        let scheduler = Scheduler {
            store: world.store.clone(),
            clock: Arc::clone(&clock),
            zone: TimeZone::UTC,
            bus: world.bus.clone(),
            work: Arc::new(Scheduled(backups.clone())),
            bell: Arc::clone(&bell),
        };
        Self {
            schedules: Schedules::new(world.store.clone(), clock, TimeZone::UTC, bell),
            world,
            engine,
            backups,
            scheduler,
        }
    }

    async fn made(&self, body: &ScheduleBody) -> i64 {
        self.schedules.create(&ada(), body).await.unwrap().id
    }

    /// Rounds, and what they begin, for so long; the clock goes from one moment at which something is due to the next.
    async fn live(&self, duration: Duration) {
        let end = self.world.clock.now_ms() + i64::try_from(duration.as_millis()).unwrap();
        while self.world.clock.now_ms() < end {
            self.scheduler.round().await.unwrap();
            self.world.settle(&self.engine).await;
            // What was begun has ended.
            let next = self.scheduler.round().await.unwrap();
            self.world.settle(&self.engine).await;
            let run = self.next_moment().await.unwrap_or(end);
            let now = self.world.clock.now_ms();
            let at = if next - now < LOOK_MS { next } else { run.max(next) };
            self.world
                .clock
                .advance(Duration::from_millis((at.min(end) - now).max(1).unsigned_abs()));
        }
    }

    /// When a run begins next, so that a month is not walked minute by minute.
    async fn next_moment(&self) -> Option<i64> {
        let all = self
            .schedules
            .list(&caller(4, "root", Role::Admin), 1, 200)
            .await
            .unwrap();
        let mut next = None;
        for schedule in all.schedules {
            let view = self.schedules.get(&ada(), schedule.id).await.unwrap();
            for at in view.runs.unwrap().into_iter().filter_map(|run| run.next_run_at) {
                let at = at.parse::<jiff::Timestamp>().unwrap().as_millisecond();
                next = Some(next.map_or(at, |least: i64| least.min(at)));
            }
        }
        next
    }

    async fn made_by(&self, schedule: i64) -> Vec<BackupRow> {
        let mut conn = self.world.store.read().await.unwrap();
        scheduled_backups::of_schedule(&mut conn, schedule, APP).await.unwrap()
    }

    async fn run_of(&self, schedule: i64) -> RunRow {
        let mut conn = self.world.store.read().await.unwrap();
        schedules::runs(&mut conn, Some(schedule)).await.unwrap().remove(0).run
    }

    async fn alarms(&self) -> Vec<String> {
        let mut conn = self.world.store.read().await.unwrap();
        let all = sqlx::query_scalar::<_, String>("SELECT data FROM events WHERE kind = 'alarm' ORDER BY id");
        all.fetch_all(&mut *conn).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_of_nights_is_thirty_backups_of_which_retention_keeps_seven() {
    let stage = Stage::new().await;
    let id = stage
        .made(&ScheduleBody {
            jitter_s: Some(1800),
            retention: Some(Retention {
                keep_daily: 7,
                ..Retention::default()
            }),
            ..daily()
        })
        .await;
    stage.live(DAY * 30).await;
    let left = stage.made_by(id).await;
    assert_eq!(left.len(), 7, "{left:#?}");
    // The ids grow by one for each: thirty were made, whatever was removed since.
    assert_eq!(left[0].id, 30);
    let mut moments: Vec<String> = left
        .iter()
        .map(|row| rfc3339(row.created_at)[11..16].to_owned())
        .collect();
    assert!(
        moments.iter().all(|at| ("02:30"..="03:01").contains(&at.as_str())),
        "{moments:?}"
    );
    moments.dedup();
    assert!(moments.len() > 1, "each night is drawn anew: {moments:?}");
    assert!(
        left.iter()
            .all(|row| row.purpose == "schedule" && row.status == BackupStatus::Completed)
    );
    assert_eq!(stage.world.nodes.model(stage.world.node(), |m| m.archives.all.len()), 7);
    assert_eq!(stage.run_of(id).await.state, RunState::Done);
    assert_eq!(stage.alarms().await, Vec::<String>::new());
    let plan = stage.schedules.retention(&ada(), id).await.unwrap();
    assert_eq!(plan.remove_count, 0);
    assert!(plan.apps[0].backups.iter().all(|b| b.rule == Some("keep-daily")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_week_without_the_coordinator_is_made_up_for_by_one_backup_or_told() {
    for catch_up in [true, false] {
        let stage = Stage::new().await;
        let id = stage
            .made(&ScheduleBody {
                catch_up: Some(catch_up),
                ..daily()
            })
            .await;
        stage.scheduler.round().await.unwrap();
        stage.world.clock.advance(DAY * 7);
        for _ in 0..5 {
            stage.scheduler.round().await.unwrap();
            stage.world.settle(&stage.engine).await;
        }
        let (made, run) = (stage.made_by(id).await, stage.run_of(id).await);
        if catch_up {
            assert_eq!((made.len(), run.state), (1, RunState::Done));
            assert!(stage.alarms().await.is_empty());
        } else {
            assert_eq!((made.len(), run.state), (0, RunState::Missed));
            let alarms = stage.alarms().await;
            assert!(
                alarms.len() == 1 && alarms[0].contains("the coordinator did not run"),
                "{alarms:?}"
            );
        }
        stage.live(DAY).await;
        assert_eq!(stage.made_by(id).await.len(), made.len() + 1, "then it goes on as ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_begin_is_tried_until_the_next_occasion_and_then_told() {
    let stage = Stage::new().await;
    let id = stage.made(&daily()).await;
    stage.world.nodes.set_online(stage.world.node(), false);
    stage.live(DAY).await;
    let run = stage.run_of(id).await;
    assert_eq!(run.state, RunState::Trying);
    assert!(run.message.contains("not connected") && run.tries > 20, "{run:?}");
    assert_eq!(stage.made_by(id).await.len(), 0);
    stage.world.nodes.set_online(stage.world.node(), true);
    stage.live(HOUR).await;
    assert_eq!(stage.run_of(id).await.state, RunState::Done);
    assert_eq!((stage.made_by(id).await.len(), stage.alarms().await.len()), (1, 0));
    stage.world.nodes.set_online(stage.world.node(), false);
    stage.live(DAY * 2).await;
    let alarms = stage.alarms().await;
    assert!(
        alarms.len() == 1 && alarms[0].contains("did not begin before the next one"),
        "{alarms:?}"
    );
    assert_eq!(stage.made_by(id).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_was_accepted_before_a_kill_is_not_made_twice() {
    let stage = Stage::new().await;
    let id = stage.made(&daily()).await;
    stage.scheduler.round().await.unwrap();
    stage.world.clock.advance(DAY);
    // The run is due; the backup is accepted, and the word of it is lost.
    let row = schedules::by_id(&mut stage.world.store.read().await.unwrap(), id)
        .await
        .unwrap()
        .unwrap();
    stage.scheduler.work.back_up(&row, &APP.parse().unwrap()).await.unwrap();
    for _ in 0..5 {
        stage.scheduler.round().await.unwrap();
        stage.world.settle(&stage.engine).await;
    }
    assert_eq!(stage.made_by(id).await.len(), 1);
    assert_eq!(stage.run_of(id).await.state, RunState::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_fails_is_told_and_the_next_one_is_made() {
    let stage = Stage::new().await;
    let id = stage.made(&daily()).await;
    stage
        .world
        .nodes
        .trap("test", false, Wrong::Fault(FaultKind::ArchiveDamaged, 9));
    stage.live(DAY).await;
    let alarms = stage.alarms().await;
    assert!(
        alarms.len() == 1 && alarms[0].contains("could not be made"),
        "{alarms:?}"
    );
    assert_eq!(stage.run_of(id).await.state, RunState::Failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_removes_nothing_that_is_protected_asked_for_or_the_last_good_one() {
    let stage = Stage::new().await;
    let id = stage.made(&daily()).await;
    stage.live(DAY * 4).await;
    let asked_for = stage.backups.create(&ada(), APP, &Default::default()).await.unwrap().id;
    stage.world.settle(&stage.engine).await;
    let made: Vec<i64> = stage.made_by(id).await.iter().map(|row| row.id).collect();
    assert_eq!(made.len(), 4);
    let oldest = made[3];
    stage
        .backups
        .change(&ada(), APP, oldest, ChangeBackup { protected: true })
        .await
        .unwrap();
    let last = ScheduleBody {
        retention: Some(Retention {
            keep_last: 1,
            ..Retention::default()
        }),
        ..ScheduleBody::default()
    };
    stage.schedules.change(&ada(), id, &last).await.unwrap();
    let plan = stage.schedules.retention(&ada(), id).await.unwrap();
    let marks: Vec<Mark> = plan.apps[0].backups.iter().map(|b| b.mark).collect();
    assert_eq!(marks, [Mark::Keep, Mark::Remove, Mark::Remove, Mark::Protected]);
    for _ in 0..5 {
        stage.scheduler.round().await.unwrap();
        stage.world.settle(&stage.engine).await;
    }
    let left: Vec<i64> = stage.made_by(id).await.iter().map(|row| row.id).collect();
    assert_eq!(left, [made[0], oldest]);
    assert!(stage.backups.get(&ada(), APP, asked_for).await.is_ok());

    // Whatever a plan says, the transaction that accepts a removal looks again.
    let refused = stage.backups.prune(&ada(), APP, asked_for, id).await.unwrap_err();
    assert!(
        matches!(&refused, ServiceError::Refused(why) if why.contains("removes its own only")),
        "{refused}"
    );
    let refused = stage.backups.prune(&ada(), APP, oldest, id).await.unwrap_err();
    assert!(refused.to_string().contains("is protected"), "{refused}");
    stage
        .backups
        .change(&ada(), APP, oldest, ChangeBackup { protected: false })
        .await
        .unwrap();
    for other in [asked_for, oldest] {
        stage.backups.delete(&ada(), APP, other, false).await.unwrap();
        stage.world.settle(&stage.engine).await;
    }
    let refused = stage.backups.prune(&ada(), APP, made[0], id).await.unwrap_err();
    assert!(refused.to_string().contains("is the only one of"), "{refused}");
    assert_eq!(stage.made_by(id).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_backup_is_tried_out_when_the_last_proof_is_old() {
    let stage = Stage::new().await;
    let id = stage
        .made(&ScheduleBody {
            verify_every_days: Some(7),
            ..daily()
        })
        .await;
    stage.live(DAY * 14).await;
    let made = stage.made_by(id).await;
    let proven: Vec<i64> = made
        .iter()
        .filter(|row| row.verified_at.is_some())
        .map(|row| row.id)
        .collect();
    assert_eq!(made.len(), 14);
    assert_eq!(proven.len(), 2, "each week one: {proven:?}, {:?}", stage.alarms().await);
    let run = stage.run_of(id).await;
    assert_eq!((run.trial_backup_id, run.trial_operation), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_covers_those_that_bear_it_and_a_user_only_own_apps() {
    let stage = Stage::new().await;
    let by_label = ScheduleBody {
        label: Some("prod".into()),
        calendar: Some("daily 02:30".into()),
        ..ScheduleBody::default()
    };
    let bob = caller(2, "bob", Role::User);
    let root = caller(4, "root", Role::Admin);
    let of_bob = stage.schedules.create(&bob, &by_label).await.unwrap();
    let of_all = stage.schedules.create(&root, &by_label).await.unwrap();
    assert_eq!((of_bob.owner.as_deref(), of_all.owner), (Some("bob"), None));
    let error = stage.schedules.create(&bob, &daily()).await.unwrap_err();
    assert!(matches!(error, ServiceError::NotFound(_)), "{error}");
    assert!(stage.schedules.get(&ada(), of_bob.id).await.is_err());
    assert!(stage.schedules.get(&bob, of_all.id).await.is_err());
    assert_eq!(stage.schedules.list(&bob, 1, 50).await.unwrap().total, 1);
    let eve = caller(3, "eve", Role::Viewer);
    let error = stage.schedules.create(&eve, &by_label).await.unwrap_err();
    assert!(matches!(error, ServiceError::Forbidden(_)), "{error}");

    let mut tx = stage.world.store.begin().await.unwrap();
    sqlx::query("UPDATE apps SET labels = '[\"prod\"]'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    stage.scheduler.round().await.unwrap();
    let count = async |id| stage.schedules.get(&root, id).await.unwrap().app_count;
    assert_eq!((count(of_bob.id).await, count(of_all.id).await), (0, 1));
    let error = stage.schedules.run(&bob, of_bob.id).await.unwrap_err();
    assert!(error.to_string().contains("covers no app"), "{error}");
    assert_eq!(stage.schedules.run(&root, of_all.id).await.unwrap().apps, 1);
    for _ in 0..3 {
        stage.scheduler.round().await.unwrap();
        stage.world.settle(&stage.engine).await;
    }
    assert_eq!(stage.made_by(of_all.id).await.len(), 1);
    stage.schedules.delete(&root, of_all.id).await.unwrap();
    stage.scheduler.round().await.unwrap();
    assert_eq!(stage.made_by(of_all.id).await.len(), 1, "what it made stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_schedule_is_named_all_at_once() {
    let stage = Stage::new().await;
    let wrong = ScheduleBody {
        app_id: Some(APP.into()),
        label: Some("prod".into()),
        calendar: Some("*/5".into()),
        jitter_s: Some(90_000),
        backup_type: Some("full".into()),
        compression: Some("rar".into()),
        storage: Some(Some("no storage".into())),
        verify_every_days: Some(99_999),
        name: Some(" ".into()),
        ..ScheduleBody::default()
    };
    let fields = |error| match error {
        ServiceError::Invalid(wrong) => wrong.into_iter().map(|w| w.loc[1].clone()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let mut found = fields(stage.schedules.create(&ada(), &wrong).await.unwrap_err());
    found.sort();
    let all = [
        "app_id",
        "backup_type",
        "calendar",
        "compression",
        "jitter_s",
        "name",
        "storage",
        "verify_every_days",
    ];
    assert_eq!(found, all);
    let id = stage.made(&daily()).await;
    let change = ScheduleBody {
        calendar: Some("whenever".into()),
        label: Some("prod".into()),
        ..ScheduleBody::default()
    };
    let error = stage.schedules.change(&ada(), id, &change).await.unwrap_err();
    assert!(error.to_string().contains("write for example"), "{error}");
    assert_eq!(fields(error), ["label", "calendar"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coverage_tells_each_app_s_age_against_its_schedule() {
    let stage = Stage::new().await;
    stage
        .world
        .nodes
        .model(stage.world.node(), |m| m.archives.left_out = vec!["mp1".into()]);
    let state = async || {
        let page = stage.schedules.coverage(&ada(), 1, 50).await.unwrap();
        assert_eq!(page.total, 1);
        page.apps.into_iter().next().unwrap()
    };
    assert_eq!(state().await.state, Coverage::NoSchedule);
    let id = stage.made(&daily()).await;
    assert_eq!(state().await.state, Coverage::Never);
    stage.live(DAY * 2).await;
    let covered = state().await;
    assert_eq!(covered.state, Coverage::Covered, "{covered:?}");
    assert_eq!(covered.left_out.len(), 1);
    assert!(covered.last_good.unwrap().age_s <= 24 * 3600);
    stage.world.nodes.set_online(stage.world.node(), false);
    stage.live(DAY).await;
    let late = state().await;
    assert_eq!(late.state, Coverage::Late);
    assert!(late.message.contains("not connected"), "{}", late.message);
    let off = ScheduleBody {
        enabled: Some(false),
        ..ScheduleBody::default()
    };
    stage.schedules.change(&ada(), id, &off).await.unwrap();
    assert_eq!(state().await.state, Coverage::NoSchedule);
    let bob = caller(2, "bob", Role::User);
    assert_eq!(stage.schedules.coverage(&bob, 1, 50).await.unwrap().total, 0);
}

/// The loop itself: it waits by the clock, and ends when it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_driver_runs_by_the_clock() {
    let stage = Stage::new().await;
    let id = stage.made(&daily()).await;
    let stop = CancellationToken::new();
    let mut events = stage.world.bus.subscribe();
    let driver = tokio::spawn({
        let (scheduler, stop) = (stage.scheduler.clone(), stop.clone());
        async move { scheduler.run(stop).await }
    });
    let begun = tokio::time::timeout(Duration::from_secs(60), async {
        while stage.made_by(id).await.is_empty() {
            let _ = events.recv().await;
        }
    });
    begun.await.unwrap();
    stop.cancel();
    driver.await.unwrap();
}
