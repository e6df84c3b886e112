//! What the next run of the agent finds.

use super::{
    super::{journal::Journal, machine::Jobs, machine::Submission, running::News},
    Scripted, command, jobs, start, target, within,
};
use proximity_protocol::{
    command::{Outcome, Verb},
    ids::Epoch,
};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Runs `work`, then drops every task at once, as a kill does.
fn life<F: Future<Output = ()>>(work: impl FnOnce() -> F) {
    let runtime = runtime();
    runtime.block_on(work());
    runtime.shutdown_background();
}

#[test]
fn an_open_job_is_taken_up_again_without_a_link() {
    let folder = tempfile::tempdir().unwrap();
    life(|| async {
        let steps = Scripted::done(false);
        let jobs = jobs(folder.path(), steps.clone());
        let Submission::Watch(mut watch) = jobs.submit(start(1, 100)).await else {
            panic!("runs")
        };
        assert_eq!(within(watch.accepted()).await, Ok(true));
        steps.until_inside(1).await;
    });
    life(|| async {
        let steps = Scripted::done(true);
        let jobs = jobs(folder.path(), steps.clone());
        let mut begun = steps.begun.subscribe();
        within(begun.wait_for(|begun| begun.len() == 1)).await.unwrap();
        while !jobs.open_jobs()[0].finished {
            tokio::task::yield_now().await;
        }
        assert!(matches!(
            jobs.submit(start(1, 100)).await,
            Submission::Answer(Ok(Outcome::Done))
        ));
        assert_eq!(steps.times(), 1);
    });
    life(|| async {
        let steps = Scripted::done(true);
        let jobs = jobs(folder.path(), steps.clone());
        assert!(matches!(
            jobs.submit(start(1, 100)).await,
            Submission::Answer(Ok(Outcome::Done))
        ));
        assert_eq!(steps.times(), 0, "the result was recorded");
    });
}

#[test]
fn a_repeat_after_a_restart_attaches_to_the_resumed_job() {
    let folder = tempfile::tempdir().unwrap();
    life(|| async {
        let steps = Scripted::done(false);
        let jobs = jobs(folder.path(), steps.clone());
        let Submission::Watch(mut watch) = jobs.submit(start(1, 100)).await else {
            panic!("runs")
        };
        assert_eq!(within(watch.accepted()).await, Ok(true));
        // It rests inside: a task that is just being polled while its runtime goes would see that, which nothing sees of a kill.
        steps.until_inside(1).await;
    });
    life(|| async {
        let steps = Scripted::done(false);
        let jobs = jobs(folder.path(), steps.clone());
        let Submission::Watch(mut watch) = jobs.submit(start(1, 100)).await else {
            panic!("runs")
        };
        assert_eq!(within(watch.accepted()).await, Ok(true));
        steps.open.send_replace(true);
        while !matches!(within(watch.next()).await, News::Finished(Ok(Outcome::Done))) {}
        assert_eq!(steps.times(), 1);
    });
}

#[test]
fn acts_on_one_container_resume_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let order = [
        start(9, 100),
        command(
            2,
            "stop",
            Verb::EnsureStopped {
                target: target(100),
                timeout_s: 1,
            },
        ),
        start(5, 100),
    ];
    life(|| async {
        let jobs = jobs(folder.path(), Scripted::done(false));
        for command in &order {
            let Submission::Watch(mut watch) = jobs.submit(command.clone()).await else {
                panic!("runs")
            };
            assert_eq!(within(watch.accepted()).await, Ok(true));
        }
    });
    life(|| async {
        let steps = Scripted::done(true);
        let _jobs = jobs(folder.path(), steps.clone());
        let mut begun = steps.begun.subscribe();
        let begun = within(begun.wait_for(|begun| begun.len() == 3)).await.unwrap();
        assert_eq!(*begun, order);
    });
}

#[test]
fn the_newest_epoch_outlives_the_agent_but_not_a_change_of_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    life(|| async {
        let jobs = jobs(folder.path(), Scripted::done(true));
        jobs.raise_epoch(Epoch(41)).await.unwrap();
    });
    life(|| async {
        assert_eq!(jobs(folder.path(), Scripted::done(true)).epoch(), Epoch(41));
        let journal = Journal::open(folder.path()).unwrap();
        let others = Jobs::resume(journal, "another coordinator".into(), Scripted::done(true)).unwrap();
        assert_eq!(others.epoch(), Epoch(0));
    });
}
