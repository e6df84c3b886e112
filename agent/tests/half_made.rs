//! What an interrupted creation of ours leaves is recognised and removed by the next try, under the same number.
#![allow(clippy::unwrap_used)]

mod machine;

use machine::{Machine, again, command, run, target};
use proximity_protocol::{
    command::{Command, Verb},
    fault::FaultKind,
    spec::{AddressSpec, ContainerSpec, NetworkSpec},
};
use std::fs;

/// `create` and `destroy` break off in their middle while `break-create` and `break-destroy` are there, as when they are killed: with their marks in the
/// configuration and a task without an end.
const PCT: &str = r#"
conf="$root/etc/pve/nodes/pve1/lxc/100.conf"
case "$1" in
create)
    [ -e "$conf" ] && { echo "CT 100 already exists on node 'pve1'" >&2; exit 255; }
    mkdir -p "$root/log/tasks/0"
    start=$(printf '%08X' "$(($(date +%s) / 16 * 16 + 16))")
    task="$root/log/tasks/0/UPID:pve1:7FFFFFF0:7FFFFFFF:$start:vzcreate:100:root@pam:"
    echo 'lock: create' > "$conf"
    echo '{"version":3,"ids":{"100":{"node":"pve1","type":"lxc","version":1}}}' > "$root/etc/pve/.vmlist"
    if [ -e "$root/break-create" ]; then rm "$root/break-create"; echo formatting > "$task"; exit 255; fi
    echo 'TASK OK' > "$task"
    printf 'hostname: web\nrootfs: local:100/vm-100-disk-0.raw,size=1G\ntags: proximity\n' > "$conf";;
unlock) sed -i '/^lock/d' "$conf";;
destroy)
    grep -q '^lock' "$conf" && { echo 'CT is locked' >&2; exit 255; }
    if [ -e "$root/break-destroy" ]; then rm "$root/break-destroy"; echo 'lock: destroyed' > "$conf"; exit 255; fi
    rm "$conf"
    echo '{"version":3,"ids":{}}' > "$root/etc/pve/.vmlist";;
esac
"#;

fn machine() -> Machine {
    let machine = Machine::new(PCT);
    fs::remove_file(machine.path("etc/pve/nodes/pve1/lxc/100.conf")).unwrap();
    fs::remove_file(machine.path("etc/pve/priv/proximity/100")).unwrap();
    machine.list(false);
    machine.put(
        "etc/pve/storage.cfg",
        "dir: local\n\tpath /var/lib/vz\n\tcontent rootdir,vztmpl\n",
    );
    fs::create_dir_all(machine.path("sys/vmbr0/bridge")).unwrap();
    machine
}

fn create() -> Command {
    let spec = ContainerSpec {
        vmid: target().vmid,
        owner: target().owner,
        hostname: "web".parse().unwrap(),
        template: "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst".parse().unwrap(),
        storage: "local".parse().unwrap(),
        disk_gb: 1,
        cpu_cores: 1,
        memory_mb: 64,
        swap_mb: 0,
        network: NetworkSpec {
            bridge: "vmbr0".parse().unwrap(),
            vlan: None,
            address: AddressSpec::Dhcp,
            dns: vec![],
            mac: None,
        },
        volumes: vec![],
        keyctl: false,
    };
    command("create", Verb::EnsureCreated(spec))
}

/// The tool that removes it may be killed in its turn. What then is left looks like a destruction and not like a creation, and is still ours.
#[tokio::test]
async fn a_broken_off_removal_of_what_was_half_made_is_still_ours() {
    let machine = machine();
    machine.put("break-create", "");
    machine.put("break-destroy", "");
    let first = create();
    let fault = run(machine.node(), first.clone()).await.unwrap_err();
    assert!(fault.kind.retryable() && fault.kind != FaultKind::VmidTaken, "{fault}");
    let second = again(&first);
    let fault = run(machine.node(), second.clone()).await.unwrap_err();
    assert!(fault.kind.retryable() && fault.kind != FaultKind::VmidTaken, "{fault}");
    let left = fs::read_to_string(machine.path("etc/pve/nodes/pve1/lxc/100.conf")).unwrap();
    assert_eq!(left, "lock: destroyed\n");
    run(machine.node(), again(&second)).await.unwrap();
    let made = fs::read_to_string(machine.path("etc/pve/nodes/pve1/lxc/100.conf")).unwrap();
    assert!(made.contains("hostname: web"), "{made}");
    assert_eq!((machine.calls("create"), machine.calls("destroy")), (2, 2));
}

/// Somebody else's that is broken off under a number that a record of ours names, made before that record, is not touched.
#[tokio::test]
async fn a_broken_off_destruction_of_somebody_elses_is_left_alone() {
    let machine = machine();
    machine.put("etc/pve/nodes/pve1/lxc/100.conf", "lock: destroyed\n");
    machine.list(true);
    let record = r#"{"version":1,"app":"nginx-a1b2c3d4","generation":1,"operation":"00000000-0000-0000-0000-000000000007","began_unix_s":1}"#;
    machine.put("etc/pve/priv/proximity/100", record);
    let fault = run(machine.node(), create()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::VmidTaken, "{fault}");
    assert_eq!(machine.calls(""), 0);
}
