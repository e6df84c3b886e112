//! The intention is in the journal, the result of its tool is lost: what happened is told from the node's own state.
#![allow(clippy::unwrap_used)]

mod machine;

use machine::{Machine, again, command, run, target};
use proximity_protocol::{
    command::{Command, Outcome, Verb},
    fault::FaultKind,
    spec::Recipe,
};
use std::fs;

/// How the result of a run gets lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Removed,
    Empty,
    Half,
    /// The whole folder of the run.
    Folder,
}

const EVERY: [Damage; 4] = [Damage::Removed, Damage::Empty, Damage::Half, Damage::Folder];

/// Runs the command to its end, damages what the tool left, and runs it again, as an agent does that was killed before it had written the result down.
async fn twice(machine: &Machine, command: &Command, tool: &str, damage: Damage) -> Result<Outcome, FaultKind> {
    let first = run(machine.node(), command.clone()).await;
    assert!(first.is_ok(), "{first:?}");
    let folder = machine.tool(command.step.name.as_str(), tool);
    let status = folder.join("status.json");
    assert!(status.exists(), "{}", status.display());
    match damage {
        Damage::Removed => fs::remove_file(status).unwrap(),
        Damage::Empty => fs::write(status, "").unwrap(),
        Damage::Half => fs::write(status, "{\"code\":").unwrap(),
        Damage::Folder => fs::remove_dir_all(folder).unwrap(),
    }
    run(machine.node(), command.clone()).await.map_err(|fault| fault.kind)
}

#[tokio::test]
async fn a_start_that_happened_is_told_by_the_container() {
    for damage in EVERY {
        let machine = Machine::new(r#"echo "0: 0 0 0 0 0 1 @/var/lib/lxc/100/command" >> "$root/proc/net/unix""#);
        let start = command("start", Verb::EnsureStarted(target()));
        assert_eq!(
            twice(&machine, &start, "start", damage).await,
            Ok(Outcome::Done),
            "{damage:?}"
        );
        assert_eq!(machine.calls("start"), 1, "{damage:?}");
    }
}

#[tokio::test]
async fn a_stop_that_happened_is_told_by_the_container() {
    for damage in EVERY {
        let machine = Machine::new(r#"echo Num > "$root/proc/net/unix""#);
        machine.runs();
        let verb = Verb::EnsureStopped {
            target: target(),
            timeout_s: 5,
        };
        let stop = command("stop", verb);
        assert_eq!(
            twice(&machine, &stop, "shutdown", damage).await,
            Ok(Outcome::Done),
            "{damage:?}"
        );
        assert_eq!((machine.calls("shutdown"), machine.calls("stop")), (1, 0), "{damage:?}");
    }
}

const DESTROY: &str = r#"
case "$1" in
destroy)
    if [ -e "$root/interrupt" ]; then
        rm "$root/interrupt"
        echo 'lock: destroyed' > "$root/etc/pve/nodes/pve1/lxc/100.conf"
        touch "$root/interrupted"
        while true; do sleep 0.05; done
    fi
    grep -q '^lock' "$root/etc/pve/nodes/pve1/lxc/100.conf" && { echo 'CT is locked (destroyed)' >&2; exit 255; }
    rm "$root/etc/pve/nodes/pve1/lxc/100.conf"
    echo '{"version":3,"ids":{}}' > "$root/etc/pve/.vmlist";;
unlock) sed -i '/^lock/d' "$root/etc/pve/nodes/pve1/lxc/100.conf";;
esac
"#;

#[tokio::test]
async fn a_destruction_that_happened_is_told_by_the_list_of_guests() {
    for damage in EVERY {
        let machine = Machine::new(DESTROY);
        let destroy = command("destroy", Verb::EnsureDestroyed(target()));
        assert_eq!(
            twice(&machine, &destroy, "destroy", damage).await,
            Ok(Outcome::Done),
            "{damage:?}"
        );
        assert_eq!(machine.calls("destroy"), 1, "{damage:?}");
        assert!(!machine.path("etc/pve/priv/proximity/100").exists());
    }
}

/// Proxmox removes the volumes first, then leaves a configuration with nothing but `lock: destroyed`, then removes that. Broken off in between it would be
/// nobody's, and locked for ever.
#[tokio::test]
async fn a_destruction_that_was_broken_off_is_finished() {
    let machine = Machine::new(DESTROY);
    machine.put("interrupt", "");
    let destroy = command("destroy", Verb::EnsureDestroyed(target()));
    let first = tokio::spawn(run(machine.node(), destroy.clone()));
    machine
        .until("it is at work", |m| {
            m.path("interrupted").exists() && m.tool("destroy", "destroy").join("child.json").exists()
        })
        .await;
    // Nobody else takes it for a container that can be started.
    let start = command("start", Verb::EnsureStarted(target()));
    assert_eq!(
        run(machine.node(), start.clone()).await.unwrap_err().kind,
        FaultKind::Locked
    );
    machine.kill(&machine.tool("destroy", "destroy"));
    assert_eq!(first.await.unwrap(), Ok(Outcome::Done));
    assert!(!machine.path("etc/pve/nodes/pve1/lxc/100.conf").exists());
    assert!(!machine.path("etc/pve/priv/proximity/100").exists());
    assert_eq!(
        run(machine.node(), start).await.unwrap_err().kind,
        FaultKind::ContainerMissing
    );
}

#[tokio::test]
async fn somebody_elses_destruction_is_waited_for() {
    let machine = Machine::new(DESTROY);
    machine.put("etc/pve/nodes/pve1/lxc/100.conf", "lock: destroyed\n");
    let own = std::process::id();
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(19)
        .unwrap()
        .parse()
        .unwrap();
    let log = format!("log/tasks/0/UPID:pve1:{own:08X}:{ticks:08X}:6B035DF0:vzdestroy:100:root@pam:");
    machine.put(&log, "removing");
    let destroy = command("destroy", Verb::EnsureDestroyed(target()));
    let fault = run(machine.node(), destroy.clone()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Locked, "{fault}");
    assert_eq!(machine.calls(""), 0);
    // Its worker is killed: nobody finishes it but us. Whose disks of that number were is not known, so none is looked for.
    machine.put(&log.replace(&format!("{own:08X}"), "7FFFFFF0"), "removing");
    fs::remove_file(machine.path(&log)).unwrap();
    assert_eq!(run(machine.node(), destroy).await, Ok(Outcome::Done));
    assert_eq!(machine.calls("destroy 100 --purge 1 --destroy-unreferenced-disks"), 0);
    assert_eq!(machine.calls("destroy 100 --purge 1"), 1);
}

/// Somebody removed the ownership record by hand. The container is perhaps ours, so it is neither touched nor said to be gone.
#[tokio::test]
async fn a_container_that_has_lost_its_record_is_not_said_to_be_gone() {
    let machine = Machine::new(DESTROY);
    fs::remove_file(machine.path("etc/pve/priv/proximity/100")).unwrap();
    let destroy = command("destroy", Verb::EnsureDestroyed(target()));
    let fault = run(machine.node(), destroy.clone()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::InDoubt);
    assert!(
        fault.message.contains("pct destroy 100") && fault.message.contains("pct set 100"),
        "{fault}"
    );
    assert_eq!(machine.calls(""), 0);
    // The operator says that it is another one's.
    machine.put("etc/pve/nodes/pve1/lxc/100.conf", "rootfs: local:100/x\n");
    let fault = run(machine.node(), again(&destroy)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotOurs);
    // Or takes it away.
    machine.list(false);
    assert_eq!(run(machine.node(), again(&destroy)).await, Ok(Outcome::Done));
}

fn install() -> Command {
    let recipe = Recipe {
        install: "true".into(),
        health: "true".into(),
        files: vec![],
        env: vec![],
        port: 80,
        install_timeout_s: 60,
    };
    let verb = Verb::InstallRecipe {
        target: target(),
        recipe,
    };
    command("install", verb)
}

/// `run` keeps how the installation ended in a file inside the container, here `$root/end`, under the name of the run.
const INSTALL: &str = r#"
case "$*" in
exec*recipe/run*)
    echo installs
    echo "$6 $(cat "$root/code" 2>/dev/null || echo 0)" > "$root/end"
    touch "$root/ended"
    while [ -e "$root/hang" ]; do sleep 0.05; done
    exit "$(cat "$root/code" 2>/dev/null || echo 0)";;
exec*cat*) cat "$root/end";;
esac
"#;

#[tokio::test]
async fn an_installation_that_happened_is_told_by_the_container() {
    for damage in [Damage::Removed, Damage::Empty, Damage::Half] {
        let machine = Machine::new(INSTALL);
        machine.runs();
        assert_eq!(
            twice(&machine, &install(), "install", damage).await,
            Ok(Outcome::Done),
            "{damage:?}"
        );
        assert_eq!(
            machine.calls("exec 100 -- /bin/sh"),
            1,
            "{damage:?}: the script is not run twice"
        );
    }
}

#[tokio::test]
async fn copies_of_the_recipe_that_left_no_result_are_made_again() {
    for tool in ["folders", "push_0", "push_3"] {
        let machine = Machine::new(INSTALL);
        machine.runs();
        assert_eq!(
            twice(&machine, &install(), tool, Damage::Removed).await,
            Ok(Outcome::Done),
            "{tool}"
        );
        assert_eq!(
            machine.calls("exec 100 -- /bin/sh"),
            1,
            "{tool}: the script is not run twice"
        );
    }
}

#[tokio::test]
async fn an_installation_that_failed_while_nobody_looked_failed() {
    let machine = Machine::new(INSTALL);
    machine.runs();
    machine.put("code", "3");
    machine.put("hang", "");
    let first = tokio::spawn(run(machine.node(), install()));
    let tool = machine.tool("install", "install");
    machine
        .until("it has ended inside", |m| {
            m.path("ended").exists() && tool.join("child.json").exists()
        })
        .await;
    machine.kill(&tool);
    let fault = first.await.unwrap().unwrap_err();
    assert_eq!(fault.kind, FaultKind::RecipeFailed, "{fault}");
    assert!(fault.message.contains("exit code 3: installs"), "{fault}");
}

#[tokio::test]
async fn an_installation_without_an_end_did_not_happen() {
    let machine = Machine::new(&INSTALL.replace("> \"$root/end\"", "> /dev/null"));
    machine.runs();
    machine.put("hang", "");
    // What an earlier run left is not taken for this one's.
    machine.put("end", "another-run 0\n");
    let first = tokio::spawn(run(machine.node(), install()));
    let tool = machine.tool("install", "install");
    machine
        .until("it is at work", |m| {
            m.path("ended").exists() && tool.join("child.json").exists()
        })
        .await;
    machine.kill(&tool);
    let fault = first.await.unwrap().unwrap_err();
    assert_eq!(fault.kind, FaultKind::ToolFailed, "{fault}");
    assert!(
        fault.kind.retryable() && fault.message.contains("interrupted"),
        "{fault}"
    );
}

/// The script goes on in the container although its tool was killed: it is waited for, and its end counts.
#[tokio::test]
async fn an_installation_that_goes_on_inside_is_waited_for() {
    let machine = Machine::new(&INSTALL.replace("> \"$root/end\"", "> \"$root/end.later\""));
    machine.runs();
    machine.put("hang", "");
    machine.put("cgroup/lxc/100/memory.current", "1");
    machine.put("cgroup/lxc/100/cgroup.procs", "4242\n");
    let first = tokio::spawn(run(machine.node(), install()));
    let tool = machine.tool("install", "install");
    machine
        .until("it is at work", |m| {
            m.path("ended").exists() && tool.join("child.json").exists()
        })
        .await;
    let later = fs::read_to_string(machine.path("end.later")).unwrap();
    let name = later.split_whitespace().next().unwrap();
    machine.put(
        "proc/4242/cmdline",
        &format!("/bin/sh\0/var/lib/proximity/recipe/run\0{name}\0"),
    );
    machine.kill(&tool);
    let waits = tokio::time::timeout(std::time::Duration::from_secs(3), async {
        while !first.is_finished() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waits.await.is_err(), "it does not wait");
    machine.put("end", &later);
    fs::remove_file(machine.path("proc/4242/cmdline")).unwrap();
    assert_eq!(first.await.unwrap(), Ok(Outcome::Done));
    assert_eq!(machine.calls("exec 100 -- /bin/sh"), 1);
}
