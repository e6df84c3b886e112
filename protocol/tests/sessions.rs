//! The two sides of the control stream against each other, and each against any order of frames.
#![allow(clippy::unwrap_used)]

mod samples;

use proptest::{collection::vec, prelude::*};
use proximity_protocol::{
    VERSION_MAX, VERSION_MIN, close,
    codec::{self, CodecError},
    event::{Event, Notice},
    fault::{Fault, FaultKind},
    hello::{Hello, HelloReply, VersionRange, Welcome},
    ids::{BootId, NodeId, ProcessId},
    session::{AgentSession, Answer, CoordinatorSession, Violation},
};
use uuid::Uuid;

fn hello(versions: VersionRange) -> Hello {
    Hello {
        versions,
        agent_version: "0".into(),
        capabilities: vec![],
        boot: BootId(Uuid::nil()),
        process: ProcessId(Uuid::nil()),
        epoch: samples::EPOCH,
        facts: samples::facts(),
        open_jobs: vec![],
    }
}

fn welcome(version: u16) -> HelloReply {
    HelloReply::Welcome(Welcome {
        version,
        node: NodeId(Uuid::nil()),
        epoch: samples::EPOCH,
        coordinator_version: "0".into(),
        metrics_interval_ms: 1_000,
        notices: vec![],
    })
}

fn refused() -> HelloReply {
    HelloReply::Refused(Fault::new(FaultKind::PolicyDenied, "no"))
}

/// Over the codec, as on the wire.
fn sent<M: codec::Message>(message: &M) -> M {
    codec::decode(&codec::encode(1, message).unwrap()).unwrap()
}

#[test]
fn the_two_sides_agree() {
    let mut agent = AgentSession::start(VersionRange::OURS);
    let mut coordinator = CoordinatorSession::default();
    let version = coordinator.on_hello(&sent(&hello(VersionRange::OURS))).unwrap();
    assert_eq!(version, VERSION_MAX);
    assert!(coordinator.on_event(Event::Stopping).is_err(), "not before Welcome");
    assert_eq!(coordinator.admit(), Ok(version));
    assert!(
        agent.on_notice(Notice::Refresh).is_err() && agent.on_command().is_err(),
        "not before Welcome"
    );
    assert!(matches!(
        agent.on_reply(sent(&welcome(version))),
        Ok(Answer::Connected(_))
    ));
    assert!(agent.is_open());
    assert_eq!(agent.on_notice(sent(&Notice::Refresh)), Ok(Notice::Refresh));
    assert_eq!(agent.on_command(), Ok(()));
    assert_eq!(coordinator.on_event(sent(&Event::Stopping)), Ok(Event::Stopping));
    assert_eq!(coordinator.on_metrics(), Ok(()));
}

#[test]
fn a_refusal_ends_it_for_both() {
    let mut agent = AgentSession::start(VersionRange::OURS);
    let mut coordinator = CoordinatorSession::default();
    coordinator.on_hello(&hello(VersionRange::OURS)).unwrap();
    coordinator.refuse();
    assert!(matches!(agent.on_reply(sent(&refused())), Ok(Answer::Refused(_))));
    assert!(!agent.is_open() && coordinator.admit().is_err());
    assert!(agent.on_reply(welcome(VERSION_MAX)).is_err(), "no second thought");
}

#[test]
fn without_a_common_version_the_older_side_is_named() {
    let (older, newer) = (
        VersionRange { min: 0, max: 0 },
        VersionRange {
            min: VERSION_MAX + 1,
            max: VERSION_MAX + 3,
        },
    );
    let refusal = |versions| {
        CoordinatorSession::default()
            .on_hello(&hello(versions))
            .unwrap_err()
            .message
    };
    assert!(refusal(older).contains("update the agent"), "{}", refusal(older));
    assert!(refusal(newer).contains("update the coordinator"), "{}", refusal(newer));
    // N and N-1 talk.
    let next = VersionRange {
        min: VERSION_MIN,
        max: VERSION_MAX + 1,
    };
    assert_eq!(CoordinatorSession::default().on_hello(&hello(next)), Ok(VERSION_MAX));
}

#[test]
fn a_version_that_was_not_offered_is_not_spoken() {
    let mut agent = AgentSession::start(VersionRange::OURS);
    let violation = agent.on_reply(welcome(VERSION_MAX + 1)).unwrap_err();
    assert_eq!((violation.code, agent), (close::VERSION, AgentSession::Closed));
    assert_eq!(Violation::from(CodecError::Version(9)).code, close::VERSION);
    assert_eq!(Violation::from(CodecError::CutOff).code, close::PROTOCOL);
}

#[derive(Debug, Clone)]
enum ToAgent {
    Reply(HelloReply),
    Notice,
    Command,
}

fn to_agent() -> impl Strategy<Value = ToAgent> {
    prop_oneof![
        (0u16..4).prop_map(|version| ToAgent::Reply(welcome(version))),
        Just(ToAgent::Reply(refused())),
        Just(ToAgent::Notice),
        Just(ToAgent::Command),
    ]
}

#[derive(Debug, Clone)]
enum ToCoordinator {
    Hello(VersionRange),
    Admit,
    Refuse,
    Event,
    Metrics,
}

fn to_coordinator() -> impl Strategy<Value = ToCoordinator> {
    prop_oneof![
        (any::<u16>(), any::<u16>()).prop_map(|(min, max)| ToCoordinator::Hello(VersionRange { min, max })),
        Just(ToCoordinator::Hello(VersionRange::OURS)),
        Just(ToCoordinator::Admit),
        Just(ToCoordinator::Refuse),
        Just(ToCoordinator::Event),
        Just(ToCoordinator::Metrics),
    ]
}

proptest! {
    #[test]
    fn an_agent_obeys_only_between_welcome_and_the_end(frames in vec(to_agent(), 0..12)) {
        let mut session = AgentSession::start(VersionRange::OURS);
        let mut replies = 0;
        let mut open = false;
        for frame in frames {
            match frame {
                ToAgent::Reply(reply) => {
                    let good = matches!(&reply, HelloReply::Welcome(w) if (VERSION_MIN..=VERSION_MAX).contains(&w.version));
                    let first = replies == 0;
                    replies += 1;
                    let answer = session.on_reply(reply);
                    prop_assert_eq!(matches!(answer, Ok(Answer::Connected(_))), first && good);
                    open = first && good;
                }
                ToAgent::Notice => prop_assert_eq!(session.on_notice(Notice::Refresh).is_ok(), open),
                ToAgent::Command => prop_assert_eq!(session.on_command().is_ok(), open),
            }
            prop_assert_eq!(session.is_open(), open);
        }
    }

    #[test]
    fn a_coordinator_listens_only_after_it_has_admitted(frames in vec(to_coordinator(), 0..12)) {
        let mut session = CoordinatorSession::default();
        let (mut greeted, mut deciding, mut open) = (false, false, false);
        for frame in frames {
            match frame {
                ToCoordinator::Hello(versions) => {
                    let first = !greeted && session == CoordinatorSession::AwaitingHello;
                    let common = VersionRange::OURS.common(versions);
                    let answer = session.on_hello(&hello(versions));
                    prop_assert_eq!(answer.ok(), common.filter(|_| first));
                    greeted = true;
                    deciding = first && common.is_some();
                    open = false;
                }
                ToCoordinator::Admit => {
                    prop_assert_eq!(session.admit().is_ok(), deciding);
                    open |= deciding;
                    deciding = false;
                }
                ToCoordinator::Refuse => {
                    session.refuse();
                    (deciding, open) = (false, false);
                }
                ToCoordinator::Event => prop_assert_eq!(session.on_event(Event::Stopping).is_ok(), open),
                ToCoordinator::Metrics => prop_assert_eq!(session.on_metrics().is_ok(), open),
            }
        }
    }

    #[test]
    fn a_common_version_is_the_newest_that_both_know(a in any::<(u16, u16)>(), b in any::<(u16, u16)>()) {
        let (a, b) = (VersionRange { min: a.0, max: a.1 }, VersionRange { min: b.0, max: b.1 });
        prop_assert_eq!(a.common(b), b.common(a));
        let knows = |range: VersionRange, version: u16| (range.min..=range.max).contains(&version);
        if let Some(version) = a.common(b) {
            prop_assert!(knows(a, version) && knows(b, version));
            prop_assert!(version == a.max || version == b.max);
        } else {
            let newest_of_b_fits = b.min <= b.max && knows(a, b.max);
            let newest_of_a_fits = a.min <= a.max && knows(b, a.max);
            prop_assert!(!newest_of_a_fits && !newest_of_b_fits);
        }
    }
}
