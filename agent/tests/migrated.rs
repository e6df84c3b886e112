//! A move that is broken off leaves no lock behind.
#![allow(clippy::unwrap_used)]

mod machine;

use machine::{Machine, again, command, run, target};
use proximity_protocol::command::{Outcome, Verb};
use std::fs;

/// Killed in its middle while `break` is there: then its lock stays in the configuration, as that of the real one does.
const PCT: &str = r#"
conf="$root/etc/pve/nodes/pve1/lxc/100.conf"
case "$1" in
migrate)
    grep -q '^lock' "$conf" && { echo 'CT is locked (migrate)' >&2; exit 255; }
    if [ -e "$root/break" ]; then rm "$root/break"; echo 'lock: migrate' >> "$conf"; kill -9 $$; fi
    echo '{"version":3,"ids":{"100":{"node":"pve2","type":"lxc","version":1}}}' > "$root/etc/pve/.vmlist";;
unlock) sed -i '/^lock/d' "$conf";;
esac
"#;

#[tokio::test]
async fn the_lock_of_a_killed_migration_is_taken_away() {
    let machine = Machine::new(PCT);
    machine.put(
        "etc/pve/.members",
        r#"{"nodename":"pve1","cluster":{"name":"c","quorate":1}}"#,
    );
    machine.put("break", "");
    let verb = Verb::EnsureMigrated {
        target: target(),
        to: "pve2".parse().unwrap(),
    };
    let first = command("migrate", verb);
    let fault = run(machine.node(), first.clone()).await.unwrap_err();
    assert!(fault.kind.retryable(), "{fault}");
    let conf = fs::read_to_string(machine.path("etc/pve/nodes/pve1/lxc/100.conf")).unwrap();
    assert!(!conf.contains("lock"), "{conf}");
    assert_eq!(run(machine.node(), again(&first)).await, Ok(Outcome::Done));
}
