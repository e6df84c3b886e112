//! A move that is broken off leaves no lock behind.
#![allow(clippy::unwrap_used)]

mod machine;

use machine::{Machine, again, command, run, target};
use proximity_protocol::{
    command::{Command, Outcome, Verb},
    fault::FaultKind,
};
use std::fs;

/// Killed in its middle while `break` is there: then its lock stays in the configuration, as that of the real one does.
const PCT: &str = r#"
conf="$root/etc/pve/nodes/pve1/lxc/100.conf"
case "$1" in
migrate)
    grep -q '^lock' "$conf" && { echo 'CT is locked (migrate)' >&2; exit 255; }
    if [ -e "$root/break" ]; then rm "$root/break"; echo 'lock: migrate' >> "$conf"; kill -9 $$; fi
    echo '{"version":3,"ids":{"100":{"node":"pve2","type":"lxc","version":1}}}' > "$root/etc/pve/.vmlist";;
unlock)
    if [ -e "$root/no-unlock" ]; then rm "$root/no-unlock"; echo 'got timeout' >&2; exit 255; fi
    sed -i '/^lock/d' "$conf";;
esac
"#;

/// In a cluster, where the next move will be broken off.
fn broken_off() -> Machine {
    let machine = Machine::new(PCT);
    machine.put(
        "etc/pve/.members",
        r#"{"nodename":"pve1","cluster":{"name":"c","quorate":1}}"#,
    );
    machine.put("break", "");
    machine
}

fn to(node: &str) -> Verb {
    Verb::EnsureMigrated {
        target: target(),
        to: node.parse().unwrap(),
    }
}

fn is_locked(machine: &Machine) -> bool {
    let conf = fs::read_to_string(machine.path("etc/pve/nodes/pve1/lxc/100.conf")).unwrap();
    conf.contains("lock: migrate")
}

#[tokio::test]
async fn the_lock_of_a_killed_migration_is_taken_away() {
    let machine = broken_off();
    let first = command("migrate", to("pve2"));
    let fault = run(machine.node(), first.clone()).await.unwrap_err();
    assert!(fault.kind.retryable(), "{fault}");
    assert!(!is_locked(&machine));
    assert_eq!(run(machine.node(), again(&first)).await, Ok(Outcome::Done));
}

/// If it cannot be taken away at once, the next try does it, and so does the way back, which has nothing to move.
#[tokio::test]
async fn a_lock_that_stayed_is_taken_away_by_the_next_try_and_by_the_way_back() {
    for there in ["pve2", "pve1"] {
        let machine = broken_off();
        machine.put("no-unlock", "");
        let first = command("migrate", to("pve2"));
        run(machine.node(), first.clone()).await.unwrap_err();
        assert!(is_locked(&machine));
        let next = Command {
            verb: to(there),
            ..again(&first)
        };
        assert_eq!(run(machine.node(), next).await, Ok(Outcome::Done));
        assert!(!is_locked(&machine));
    }
}

/// The lock of a move that is not ours stays, and is told.
#[tokio::test]
async fn a_lock_of_somebody_elses_stays() {
    let machine = broken_off();
    machine.put(
        "etc/pve/nodes/pve1/lxc/100.conf",
        "hostname: web\nrootfs: local:100/vm-100-disk-0.raw,size=1G\ntags: proximity\nlock: migrate\n",
    );
    let fault = run(machine.node(), command("migrate", to("pve2"))).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Locked, "{fault}");
    assert!(is_locked(&machine));
}
