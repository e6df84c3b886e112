//! The way to the coordinator: reachability, the size of packets, the clocks, the certificate.

use super::{Report, doctor, examine};
use proximity_protocol::ids::NodeId;
use proximity_tests::{
    authority::{Authority, Dates},
    fleet::LoneNode,
    impostor::{Impostor, hospitable},
    wire::Wire,
    wrong_clock::WrongClock,
};
use std::{process::Command, sync::Arc};
use time::{Duration, OffsetDateTime};

/// Joins a node to a coordinator, and leaves that at the door for whoever looks.
fn join(lone: &LoneNode, impostor: Impostor, wire: Option<&Wire>) -> Arc<Impostor> {
    let (impostor, _serving) = hospitable(impostor);
    let file = lone.node.root().join("join.token");
    std::fs::write(&file, impostor.token().unwrap()).unwrap();
    let mut command = lone.node.agent_cli(&["join", "--token-file"]);
    command.arg(file);
    let mut command = wire.map_or(command, |wire| {
        let mut plain = lone.node.agent_cli(&["join", "--token-file"]);
        plain.arg(lone.node.root().join("join.token"));
        wire.here(&plain)
    });
    let output = tokio::task::block_in_place(|| command.output()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    impostor
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_is_measured_and_what_is_in_it_is_told() {
    let Some(wire) = Wire::new("doctor on a way with trouble").unwrap() else {
        return;
    };
    let lone = LoneNode::create().unwrap();
    let socket = wire.socket_there(4433).unwrap();
    let node = NodeId(uuid::Uuid::new_v4());
    let impostor = Impostor::listen_on(socket, Authority::new().unwrap(), node).unwrap();
    let _impostor = join(&lone, impostor, Some(&wire));
    let look = || -> Report { examine(wire.here(&doctor(&lone.node))) };

    look().has(
        "coordinator",
        "ok",
        &["192.0.2.2:4433", "answered within", "datagrams of 1452 bytes"],
    );
    wire.mtu(1280).unwrap();
    look().has("coordinator", "warn", &["only datagrams of 12", "MTU", "ping -M do"]);
    wire.mtu(1500).unwrap();
    wire.filter_there("input", "udp dport 4433 drop").unwrap();
    look().has("coordinator", "fail", &["the machine is there", "in both directions"]);
    wire.filter_there("input", "meta l4proto { tcp, udp } drop").unwrap();
    look().has("coordinator", "fail", &["nothing at all comes back", "ping 192.0.2.2"]);
    wire.filter_there("input", "udp dport 4433 reject").unwrap();
    look().has(
        "coordinator",
        "fail",
        &["nothing takes UDP", "systemctl status proximity-coordinator"],
    );
    wire.filter_there("input", "accept").unwrap();
    wire.filter_here("output", "udp dport 4433 drop").unwrap();
    look().has("coordinator", "fail", &["own packet filter", "nft list ruleset"]);
    wire.filter_here("output", "accept").unwrap();
    look().well("coordinator");
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_and_a_certificate_that_ends() {
    let lone = LoneNode::create().unwrap();
    let impostor = join(&lone, Impostor::listen().unwrap(), None);
    let look = || examine(doctor(&lone.node));
    look().has("clock", "ok", &["ms from the coordinator's"]);
    for (ahead, level, words) in [
        (Duration::minutes(5), "warn", &["from the coordinator's", "chronyc"][..]),
        (
            Duration::days(1),
            "fail",
            &["behind by a day", "the coordinator's says", "timedatectl"],
        ),
        (-Duration::days(1), "fail", &["ahead by a day", "timedatectl"]),
    ] {
        impostor.set_clock(ahead).unwrap();
        look().has("clock", level, words);
    }
    impostor.set_clock(Duration::ZERO).unwrap();
    look().well("clock");

    let now = OffsetDateTime::now_utc();
    let dates = |from: i64, until: i64| Dates {
        from: now + Duration::days(from),
        until: now + Duration::days(until),
    };
    let state = lone.node.state();
    impostor.age(&state, dates(-87, 3)).unwrap();
    look().has("certificate", "warn", &["has not been renewed", "see the checks"]);
    impostor.age(&state, dates(-100, -10)).unwrap();
    look().has("certificate", "fail", &["ended on", "--take-over"]);
    impostor.age(&state, dates(2, 90)).unwrap();
    look().has("clock", "fail", &["before this node's certificate begins", "set it"]);
    impostor.age(&state, dates(-1, 89)).unwrap();
    look().well("certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_own_clock_is_set_wrong() {
    let Some(wrong) = WrongClock::new("doctor with a clock that is set wrong") else {
        return;
    };
    let lone = LoneNode::create().unwrap();
    let _impostor = join(&lone, Impostor::listen().unwrap(), None);
    for (offset, words) in [("+1d", "ahead by a day"), ("-1d", "behind by a day")] {
        let mut command: Command = doctor(&lone.node);
        wrong.set(&mut command, offset);
        examine(command).has("clock", "fail", &[words]);
    }
}
