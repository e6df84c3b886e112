//! A container that somebody else made is recorded as the app's. Nothing of the container itself is changed: no tag, no setting, nothing inside.

use super::{act::Act, standing};
use crate::{
    facts::cluster,
    ownership::{self, OwnershipRecord},
    policy::Policy,
    pve::{
        cluster::GuestKind,
        conf::{self, Conf},
    },
};
use proximity_protocol::{
    command::{Outcome, Target},
    examined::Adopted,
    fault::{Fault, FaultKind},
    ids::{MacAddress, Vmid},
};

pub(super) async fn run(act: &Act<'_>, target: &Target) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    let text = find(act, vmid)?;
    let conf = Conf::parse(&text);
    match ownership::read(act.node, vmid)? {
        Some(record) if record.owner != target.owner => {
            return Err(refused(
                vmid,
                &format!("it belongs to app {} already", record.owner.app),
            ));
        }
        Some(record) if !record.adopted || !record.is_of(&conf) => {
            return Err(refused(vmid, "this app had another container of that number before"));
        }
        Some(_) => {}
        None => {
            let file = &act.node.config().paths.policy;
            Policy::load(file)?.check_adoption(vmid, file, act.node.name().as_str())?;
            if conf.is_template() {
                return Err(refused(vmid, "it is a template, which never runs"));
            }
            standing::check_lock(vmid, &conf)?;
            if conf.is_half_made() {
                return Err(refused(vmid, "it is only half made: it has no root volume"));
            }
            act.say(&format!("taking over container {vmid}, which stays as it is"));
            let began_unix_s = act.node.tools().now_unix_ms() / 1000;
            let record = OwnershipRecord::adopt(target.owner.clone(), act.operation, began_unix_s, &conf);
            ownership::write(act.node, vmid, &record)?;
        }
    }
    Ok(Outcome::Adopted(Box::new(Adopted {
        mac: conf.mac().and_then(|mac| MacAddress::new(mac).ok()),
        running: standing::is_running(act.node, vmid)?,
        configuration: snapshot(&text),
    })))
}

fn refused(vmid: Vmid, why: &str) -> Fault {
    Fault::new(FaultKind::NotOurs, format!("container {vmid} cannot be adopted: {why}"))
}

/// The text of its configuration, if it is a container of this node.
fn find(act: &Act<'_>, vmid: Vmid) -> Result<String, Fault> {
    let guests = cluster::guests(act.node)?.guests;
    let Some(guest) = guests.get(&vmid) else {
        return Err(Fault::new(
            FaultKind::ContainerMissing,
            format!("there is no container {vmid} on node {}", act.node.name()),
        ));
    };
    if guest.kind == GuestKind::Machine {
        return Err(refused(vmid, "it is a virtual machine"));
    }
    if guest.node != act.node.name().as_str() {
        return Err(Fault::new(
            FaultKind::MovedToOtherNode,
            format!("container {vmid} is on node {} now", guest.node),
        ));
    }
    cluster::conf_text(act.node, vmid)?.ok_or_else(|| {
        Fault::new(
            FaultKind::Internal,
            format!("the configuration of container {vmid} changes just now; try again"),
        )
    })
}

/// What the registry keeps of it.
fn snapshot(text: &str) -> String {
    let mut text = conf::without_environment(text);
    if text.len() > Adopted::CONFIGURATION_MAX {
        let mut end = Adopted::CONFIGURATION_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{facts::testing, jobs::steps::ensure_released};
    use proximity_protocol::ids::{Generation, OperationId, Owner, StepKey, StepName};
    use std::path::Path;

    const CONF: &str = "hostname: mine\nnet0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:85:80:3C,ip=dhcp\nrootfs: local:105/vm-105-disk-0.raw,size=1G\n";

    fn target(app: &str) -> Target {
        Target {
            vmid: Vmid::new(105).unwrap(),
            owner: Owner {
                app: app.parse().unwrap(),
                generation: Generation(1),
            },
        }
    }

    async fn on(root: &Path, app: &str, release: bool) -> Result<Outcome, Fault> {
        let node = testing::node_as_it_is(root);
        let step = StepKey {
            name: StepName::new("adopt").unwrap(),
            undo: release,
            attempt: 1,
        };
        let (progress, _listen) = tokio::sync::mpsc::unbounded_channel();
        let act = Act {
            node: &node,
            operation: OperationId(uuid::Uuid::from_u128(1)),
            step: &step,
            progress: &progress,
        };
        if release {
            ensure_released::run(&act, &target(app)).await
        } else {
            run(&act, &target(app)).await
        }
    }

    fn list(root: &Path, node: &str, kind: &str) {
        let text = format!(r#"{{"version":2,"ids":{{"105":{{"node":"{node}","type":"{kind}","version":1}}}}}}"#);
        testing::put(root, "etc/pve/.vmlist", &text);
    }

    async fn kind_of(root: &Path, app: &str, release: bool) -> FaultKind {
        let fault = on(root, app, release).await.unwrap_err();
        assert!(fault.message.contains("105"), "{fault}");
        fault.kind
    }

    #[tokio::test]
    async fn only_what_the_policy_names_is_adopted_and_nothing_of_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        testing::node(root);
        let conf = root.join("etc/pve/nodes/pve1/lxc/105.conf");
        let (ours, others) = ("web-0a1b2c3d", "db-0a1b2c3d");
        assert_eq!(kind_of(root, ours, false).await, FaultKind::ContainerMissing);
        list(root, "pve1", "lxc");
        testing::put(root, "etc/pve/nodes/pve1/lxc/105.conf", CONF);
        testing::put(root, "proc/net/unix", "Num\n");
        // No table stands.
        testing::put(
            root,
            "usr/bin/nft",
            "#!/bin/sh\necho 'Error: No such file or directory' >&2\nexit 1\n",
        );
        let nft = root.join("usr/bin/nft");
        std::fs::set_permissions(nft, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(kind_of(root, ours, false).await, FaultKind::PolicyDenied);
        testing::put(root, "etc/proximity/policy.toml", "adoption = [104, 105]\n");
        for (text, kind) in [
            (format!("{CONF}template: 1\n"), FaultKind::NotOurs),
            (format!("{CONF}lock: backup\n"), FaultKind::Locked),
            ("lock: create\n".to_owned(), FaultKind::Locked),
            ("hostname: x\n".to_owned(), FaultKind::NotOurs),
        ] {
            std::fs::write(&conf, &text).unwrap();
            assert_eq!(kind_of(root, ours, false).await, kind, "{text}");
        }
        std::fs::write(&conf, CONF).unwrap();
        list(root, "pve1", "qemu");
        assert_eq!(kind_of(root, ours, false).await, FaultKind::NotOurs);
        list(root, "pve2", "lxc");
        assert_eq!(kind_of(root, ours, false).await, FaultKind::MovedToOtherNode);
        assert!(
            !root.join("etc/pve/priv/proximity/105").exists(),
            "nothing was recorded"
        );

        list(root, "pve1", "lxc");
        let adopted = on(root, ours, false).await.unwrap();
        let Outcome::Adopted(found) = &adopted else {
            panic!("{adopted:?}")
        };
        assert_eq!(
            (
                found.mac.as_ref().unwrap().as_str(),
                found.running,
                found.configuration.as_str()
            ),
            ("BC:24:11:85:80:3C", false, CONF)
        );
        // Once it is recorded, it is so already: a policy that was narrowed afterwards, or a lock, changes nothing.
        testing::put(root, "etc/proximity/policy.toml", "");
        assert_eq!(on(root, ours, false).await.unwrap(), adopted);
        assert_eq!(kind_of(root, others, false).await, FaultKind::NotOurs);
        assert_eq!(kind_of(root, others, true).await, FaultKind::NotOurs);
        assert_eq!(std::fs::read_to_string(&conf).unwrap(), CONF);

        on(root, ours, true).await.unwrap();
        on(root, ours, true).await.unwrap();
        assert!(!root.join("etc/pve/priv/proximity/105").exists());
        assert_eq!(std::fs::read_to_string(&conf).unwrap(), CONF);
    }

    #[tokio::test]
    async fn what_we_made_is_not_released() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let node = testing::node(root);
        let operation = OperationId(uuid::Uuid::from_u128(1));
        let record = OwnershipRecord::begin(target("web-0a1b2c3d").owner, operation, 0);
        ownership::write(&node, target("web-0a1b2c3d").vmid, &record).unwrap();
        assert_eq!(kind_of(root, "web-0a1b2c3d", true).await, FaultKind::PolicyDenied);
        assert!(root.join("etc/pve/priv/proximity/105").exists());
    }
}
