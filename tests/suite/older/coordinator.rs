//! Today's agent, and a coordinator of version 1.

use super::{known_to_version_1, of_the_future, recording};
use proximity_protocol::{
    codec,
    command::{Command, Outcome, Reply, Verb},
    event::{Event, Notice},
    fault::FaultKind,
    hello::HelloReply,
};
use proximity_tests::{
    authority::{Authority, Dates},
    fleet::LoneNode,
    impostor::{Impostor, Link},
    process::PATIENCE,
    recording::{Recording, Side, read_frame},
};
use std::{path::Path, sync::Arc};
use time::{Duration, OffsetDateTime};
use tokio::time::timeout;

async fn joined(recording: &Recording) -> (LoneNode, Arc<Impostor>) {
    let node = LoneNode::create().unwrap();
    let granted = recording.part("enrolment").unwrap().first(Side::Coordinator).unwrap();
    let proximity_protocol::enroll::EnrollReply::Granted(granted) = granted else {
        panic!("not granted")
    };
    let impostor = Arc::new(
        Impostor::listen_as(Authority::new().unwrap(), granted.node)
            .and_then(|impostor| impostor.of_before(Dates::default()))
            .unwrap(),
    );
    let token = impostor.token().unwrap();
    let enrolling = tokio::spawn({
        let impostor = Arc::clone(&impostor);
        async move { impostor.enrol().await }
    });
    tokio::task::block_in_place(|| node.node.join(&token)).unwrap();
    enrolling.await.unwrap().unwrap();
    (node, impostor)
}

async fn linked(node: &LoneNode, impostor: &Impostor, welcome: &[u8]) -> Link {
    let link = timeout(PATIENCE, impostor.link_saying(welcome)).await;
    let link = link
        .unwrap_or_else(|_| panic!("no link\n{}", node.node.agent_log()))
        .unwrap();
    known_to_version_1(&link.greeting);
    assert!(link.hello.versions.min <= 1 && link.hello.versions.max >= 1);
    link
}

/// The agent's words on the control stream until one is `wanted`.
async fn event(link: &mut Link, wanted: fn(&Event) -> bool) -> Event {
    let read = async {
        loop {
            let bytes = read_frame(&mut link.control().1).await.unwrap().unwrap();
            known_to_version_1(&bytes);
            let event = codec::decode(&bytes).unwrap();
            if wanted(&event) {
                return event;
            }
        }
    };
    timeout(PATIENCE, read).await.expect("the event did not come")
}

async fn ask(link: &Link, bytes: &[u8]) -> Result<Outcome, proximity_protocol::fault::Fault> {
    let frames = timeout(PATIENCE, link.frames(bytes)).await.expect("no answer").unwrap();
    frames.iter().for_each(|frame| known_to_version_1(frame));
    match codec::decode(frames.last().unwrap()).unwrap() {
        Reply::Finished(end) => end,
        other => panic!("the last word was {other:?}"),
    }
}

fn kind_of(outcome: &Outcome) -> std::mem::Discriminant<Outcome> {
    std::mem::discriminant(outcome)
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_obeys_a_coordinator_of_version_1() {
    let recording = recording();
    let (mut node, impostor) = joined(&recording).await;
    let life = recording.part("life of an app").unwrap();
    let mut told = life.spoken(Side::Coordinator, "control");
    node.node.start_agent().unwrap();
    let mut link = linked(&node, &impostor, &told.next().unwrap().bytes).await;
    event(&mut link, |event| matches!(event, Event::Inventory(_))).await;

    // In the order of then; a notice that followed a command follows it now.
    let mut verbs = std::collections::BTreeSet::new();
    for frame in life.frames.iter().filter(|frame| frame.by == Side::Coordinator).skip(1) {
        if frame.stream == "control" {
            link.control().0.write_all(&frame.bytes).await.unwrap();
            if frame.as_message() == Some(Notice::Refresh) {
                event(&mut link, |event| matches!(event, Event::Facts(_))).await;
            }
            continue;
        }
        let command: Command = frame.decode().unwrap();
        let then = life.spoken(Side::Agent, &frame.stream).last().unwrap().as_message();
        let now = ask(&link, &frame.bytes).await;
        verbs.insert(command.verb.name());
        match (then, now) {
            (Some(Reply::Finished(Ok(then))), Ok(now)) => {
                assert_eq!(kind_of(&then), kind_of(&now), "{:?}", command.verb);
            }
            // The node of then had been told to fail, or to be slow enough to be cancelled.
            (Some(Reply::Finished(Err(_))), Ok(_)) => {}
            (then, now) => panic!("{:?}: then {then:?}, now {now:?}", command.verb),
        }
    }
    assert_eq!(verbs.len(), 12, "{verbs:?}");
    let mut figures = link.figures().await.unwrap();
    known_to_version_1(&read_frame(&mut figures).await.unwrap().unwrap());
    // What was then deleted is gone now too.
    let etc_pve = node.node.root().join("etc/pve");
    assert_eq!(entries(&etc_pve.join("priv/proximity")), 0);
    assert_eq!(entries(&etc_pve.join("nodes/pve1/lxc")), 0);

    // What a later coordinator may say.
    link.control().0.write_all(&of_the_future::<Notice>()).await.unwrap();
    let mut unknown = life.inventory_command();
    let at = unknown.len() - 4;
    unknown[at..].copy_from_slice(&4_000u32.to_le_bytes());
    let fault = ask(&link, &unknown).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Malformed);
    assert!(fault.message.contains("update the agent"), "{fault}");
    assert!(matches!(
        ask(&link, &life.inventory_command()).await,
        Ok(Outcome::Inventory(_))
    ));
    link.alive().unwrap();
    node.node.stop_agent().await.unwrap();
}

trait Commands {
    /// The command that ends with the number of its verb.
    fn inventory_command(&self) -> Vec<u8>;
}

impl Commands for proximity_tests::recording::Part {
    fn inventory_command(&self) -> Vec<u8> {
        let mut commands = self.frames.iter().filter(|frame| {
            frame
                .as_message()
                .is_some_and(|command: Command| command.verb == Verb::Inventory)
        });
        commands.next().unwrap().bytes.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_by_a_coordinator_of_version_1() {
    let recording = recording();
    let (mut node, impostor) = joined(&recording).await;
    let now = OffsetDateTime::now_utc();
    let old = Dates {
        from: now - Duration::days(80),
        until: now + Duration::days(10),
    };
    impostor.age(&node.node.state(), old).unwrap();
    // The renewed certificate of then is for another key, of another authority: the agent keeps the one that it has, and the link.
    for title in ["renewal refused", "renewed"] {
        let part = recording.part(title).unwrap();
        let mut told = part.spoken(Side::Coordinator, "control");
        let welcome = told.next().unwrap();
        assert!(matches!(welcome.as_message(), Some(HelloReply::Welcome(_))));
        node.node.start_agent().unwrap();
        let mut link = linked(&node, &impostor, &welcome.bytes).await;
        event(&mut link, |event| matches!(event, Event::Renew { .. })).await;
        let identity = node.node.state().join("identity/identity.json");
        let before = std::fs::read(&identity).unwrap();
        let answer = told.next().unwrap();
        assert!(matches!(
            answer.as_message(),
            Some(Notice::Renewed(_) | Notice::NotRenewed(_))
        ));
        link.control().0.write_all(&answer.bytes).await.unwrap();
        link.control()
            .0
            .write_all(&codec::encode(1, &Notice::Refresh).unwrap())
            .await
            .unwrap();
        event(&mut link, |event| matches!(event, Event::Facts(_))).await;
        link.alive().unwrap();
        assert_eq!(std::fs::read(&identity).unwrap(), before);
        node.node.stop_agent().await.unwrap();
    }
}
