use super::{
    super::{
        journal::Journal,
        machine::{Jobs, Submission},
        running::News,
    },
    Scripted, command, install, jobs, start, target, within,
};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use proximity_protocol::{
    command::{Command, Outcome, Verb},
    event::Notice,
    fault::{Fault, FaultKind},
    ids::Epoch,
};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Submits and waits for the end.
async fn end(jobs: &Jobs, command: Command) -> super::JobResult {
    let mut watch = match jobs.submit(command).await {
        Submission::Answer(result) => return result,
        Submission::Watch(watch) => watch,
    };
    loop {
        match within(watch.next()).await {
            News::Progress(_) => {}
            News::Finished(result) => return result,
            News::Abandoned => panic!("abandoned"),
        }
    }
}

fn kind(result: super::JobResult) -> FaultKind {
    result.expect_err("a fault").kind
}

#[tokio::test]
async fn a_repeat_attaches_and_then_gets_the_recorded_result() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Scripted::done(false);
    let jobs = jobs(folder.path(), steps.clone());
    let Submission::Watch(mut first) = jobs.submit(start(1, 100)).await else {
        panic!("runs")
    };
    let Submission::Watch(mut second) = jobs.submit(start(1, 100)).await else {
        panic!("runs")
    };
    assert_eq!(within(first.accepted()).await, Ok(true));
    assert_eq!(within(second.accepted()).await, Ok(true));
    assert!(!jobs.open_jobs()[0].finished);
    steps.until_inside(1).await;
    steps.open.send_replace(true);
    for watch in [&mut first, &mut second] {
        assert!(
            matches!(within(watch.next()).await, News::Progress(_)),
            "progress comes before the end"
        );
        assert_eq!(within(watch.next()).await, News::Finished(Ok(Outcome::Done)));
    }
    assert!(matches!(
        jobs.submit(start(1, 100)).await,
        Submission::Answer(Ok(Outcome::Done))
    ));
    assert_eq!(steps.times(), 1);
    assert!(jobs.open_jobs()[0].finished);
}

#[tokio::test]
async fn a_committed_result_is_forgotten_and_its_leftovers_too() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Scripted::done(true);
    let jobs = jobs(folder.path(), steps.clone());
    end(&jobs, start(1, 100)).await.unwrap();
    end(
        &jobs,
        command(
            1,
            "stop",
            Verb::EnsureStopped {
                target: target(100),
                timeout_s: 1,
            },
        ),
    )
    .await
    .unwrap();
    let operation = start(1, 100).operation;
    jobs.on_notice(&Notice::Committed {
        operation,
        step: Some(start(1, 100).step),
    })
    .await
    .unwrap();
    assert_eq!(jobs.open_jobs().len(), 1);
    assert!(
        steps.forgotten.lock().unwrap().is_empty(),
        "another act of it is not committed"
    );
    jobs.on_notice(&Notice::Committed { operation, step: None })
        .await
        .unwrap();
    assert!(jobs.open_jobs().is_empty());
    assert_eq!(*steps.forgotten.lock().unwrap(), [operation]);
}

#[tokio::test]
async fn a_job_that_is_committed_while_it_runs_leaves_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Scripted::done(false);
    let jobs = jobs(folder.path(), steps.clone());
    let Submission::Watch(mut watch) = jobs.submit(start(1, 100)).await else {
        panic!("runs")
    };
    steps.until_inside(1).await;
    jobs.on_notice(&Notice::Committed {
        operation: start(1, 100).operation,
        step: None,
    })
    .await
    .unwrap();
    steps.open.send_replace(true);
    while !matches!(within(watch.next()).await, News::Finished(_)) {}
    assert!(jobs.open_jobs().is_empty());
    let leftovers = steps.forgotten.lock().unwrap().clone();
    assert_eq!(leftovers, [start(1, 100).operation], "what its tools left goes with it");
}

#[tokio::test]
async fn acts_on_one_container_come_one_by_one_and_on_others_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Scripted::done(false);
    let jobs = jobs(folder.path(), steps.clone());
    let mut watches = vec![];
    for (operation, vmid) in [(1, 100), (2, 100), (3, 100), (4, 101), (5, 102)] {
        let Submission::Watch(watch) = jobs.submit(start(operation, vmid)).await else {
            panic!("runs")
        };
        watches.push(watch);
    }
    steps.until_inside(3).await;
    let mut begun: Vec<u32> = steps
        .begun
        .borrow()
        .iter()
        .map(|c| c.verb.vmid().unwrap().get())
        .collect();
    begun.sort_unstable();
    assert_eq!(begun, [100, 101, 102]);
    steps.open.send_replace(true);
    for watch in &mut watches {
        while !matches!(within(watch.next()).await, News::Finished(_)) {}
    }
    let of_100: Vec<Command> = steps
        .begun
        .borrow()
        .iter()
        .filter(|c| c.verb.vmid().unwrap().get() == 100)
        .cloned()
        .collect();
    assert_eq!(
        of_100,
        [start(1, 100), start(2, 100), start(3, 100)],
        "in the order in which they came"
    );
}

#[tokio::test]
async fn no_more_than_eight_act_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Scripted::done(false);
    let jobs = jobs(folder.path(), steps.clone());
    let mut watches = vec![];
    for number in 0..20 {
        let Submission::Watch(watch) = jobs.submit(start(number.into(), 100 + number)).await else {
            panic!("runs")
        };
        watches.push(watch);
    }
    steps.until_inside(8).await;
    // One that only waits does not need one of the eight seats.
    let wait = Verb::AwaitHealthy {
        target: target(500),
        timeout_s: 5,
    };
    let Submission::Watch(_wait) = jobs.submit(command(99, "healthy", wait)).await else {
        panic!("runs")
    };
    steps.until_inside(9).await;
    assert_eq!(steps.times(), 9);
    // Nor does an installation, on a container of its own.
    let mut installs = install(98, "");
    if let Verb::InstallRecipe { target: on, .. } = &mut installs.verb {
        *on = target(501);
    }
    let Submission::Watch(_installs) = jobs.submit(installs).await else {
        panic!("runs")
    };
    steps.until_inside(10).await;
    steps.open.send_replace(true);
    for watch in &mut watches {
        while !matches!(within(watch.next()).await, News::Finished(_)) {}
    }
    assert_eq!(steps.times(), 22);
}

#[tokio::test]
async fn a_fault_that_only_waits_spends_no_try() {
    let folder = tempfile::tempdir().unwrap();
    let tries = AtomicUsize::new(0);
    let steps = Scripted::new(true, move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Err(Fault::new(FaultKind::Locked, "vzdump")),
        1 => Err(Fault::new(FaultKind::NotQuorate, "no quorum")),
        _ => Ok(Outcome::Done),
    });
    let jobs = jobs(folder.path(), steps.clone());
    assert_eq!(kind(end(&jobs, start(1, 100)).await), FaultKind::Locked);
    assert!(jobs.open_jobs().is_empty());
    assert_eq!(kind(end(&jobs, start(1, 100)).await), FaultKind::NotQuorate);
    assert_eq!(end(&jobs, start(1, 100)).await, Ok(Outcome::Done));
    assert_eq!(end(&jobs, start(1, 100)).await, Ok(Outcome::Done));
    assert_eq!(steps.times(), 3);
}

#[tokio::test]
async fn a_panic_in_a_step_is_a_recorded_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Scripted::new(true, |_| panic!("a fault of ours"));
    let jobs = jobs(folder.path(), steps.clone());
    assert_eq!(kind(end(&jobs, start(1, 100)).await), FaultKind::InDoubt);
    assert_eq!(kind(end(&jobs, start(1, 100)).await), FaultKind::InDoubt);
    assert_eq!(steps.times(), 1);
}

#[tokio::test]
async fn cancel_ends_what_waits_and_what_queues_but_not_what_acts() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Scripted::done(false);
    let jobs = jobs(folder.path(), steps.clone());
    let wait = Verb::AwaitHealthy {
        target: target(101),
        timeout_s: 5,
    };
    let (acts, queues, waits) = (
        start(1, 100),
        command(1, "next", Verb::EnsureStarted(target(100))),
        command(1, "wait", wait),
    );
    let mut watches = vec![];
    for command in [&acts, &queues, &waits] {
        let Submission::Watch(watch) = jobs.submit(command.clone()).await else {
            panic!("runs")
        };
        watches.push(watch);
    }
    steps.until_inside(2).await;
    jobs.on_notice(&Notice::Cancel {
        operation: acts.operation,
    })
    .await
    .unwrap();
    assert_eq!(kind(end(&jobs, queues).await), FaultKind::Cancelled);
    assert_eq!(kind(end(&jobs, waits).await), FaultKind::Cancelled);
    steps.open.send_replace(true);
    assert_eq!(end(&jobs, acts).await, Ok(Outcome::Done));
}

#[tokio::test]
async fn a_newer_run_of_the_coordinator_shuts_the_older_out() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(folder.path(), Scripted::done(true));
    end(&jobs, start(1, 100)).await.unwrap();
    jobs.raise_epoch(Epoch(6)).await.unwrap();
    assert_eq!(kind(end(&jobs, start(2, 100)).await), FaultKind::OldEpoch);
    let newer = Command {
        epoch: Epoch(7),
        ..command(3, "look", Verb::Inventory)
    };
    end(&jobs, newer).await.unwrap();
    assert_eq!(jobs.epoch(), Epoch(7));
    jobs.raise_epoch(Epoch(2)).await.unwrap();
    assert_eq!(jobs.epoch(), Epoch(7), "never lowered");
}

#[tokio::test]
async fn a_stopping_agent_refuses_new_work() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Scripted::done(true);
    let jobs = jobs(folder.path(), steps.clone());
    end(&jobs, start(1, 100)).await.unwrap();
    jobs.stop_intake();
    assert_eq!(kind(end(&jobs, start(2, 100)).await), FaultKind::ShuttingDown);
    assert_eq!(end(&jobs, start(1, 100)).await, Ok(Outcome::Done));
    assert_eq!(steps.times(), 1);
}

#[tokio::test]
async fn a_result_that_could_not_be_written_is_told_as_open_until_it_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Scripted::done(false);
    let disk = std::fs::File::from(memfd_create("journal", MFdFlags::MFD_ALLOW_SEALING).unwrap());
    let mut journal = Journal::open(folder.path()).unwrap();
    journal.redirect(disk.try_clone().unwrap());
    let jobs = Jobs::resume(journal, "our coordinator".into(), steps.clone()).unwrap();
    let Submission::Watch(mut watch) = jobs.submit(start(1, 100)).await else {
        panic!("runs")
    };
    steps.until_inside(1).await;
    // From now on the disk is full.
    fcntl(&disk, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
    steps.open.send_replace(true);
    let told = loop {
        if let News::Finished(told) = within(watch.next()).await {
            break told;
        }
    };
    assert_eq!(kind(told), FaultKind::Internal);
    // On the disk it is still intended: were it not told, the next run would carry it out although its operation has long ended.
    let committed = Notice::Committed {
        operation: start(1, 100).operation,
        step: None,
    };
    jobs.on_notice(&committed).await.unwrap_err();
    assert_eq!(jobs.open_jobs().len(), 1);
    assert!(jobs.open_jobs()[0].finished);
}

/// The connection that brings a notice may end while the journal is being written.
#[tokio::test]
async fn a_notice_that_is_dropped_half_way_is_carried_out_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Scripted::done(true);
    let jobs = jobs(folder.path(), steps.clone());
    assert_eq!(end(&jobs, start(1, 100)).await, Ok(Outcome::Done));
    let committed = Notice::Committed {
        operation: start(1, 100).operation,
        step: None,
    };
    {
        let mut heard = std::pin::pin!(jobs.on_notice(&committed));
        let waker = std::task::Waker::noop();
        let polled = std::future::Future::poll(heard.as_mut(), &mut std::task::Context::from_waker(waker));
        assert!(polled.is_pending());
    }
    within(async {
        while !jobs.open_jobs().is_empty() || steps.forgotten.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(*steps.forgotten.lock().unwrap(), [start(1, 100).operation]);
}
