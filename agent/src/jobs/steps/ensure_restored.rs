//! A container is made of a backup, under a number of its own: what it replaces stays as it is. It does not start with its node, has the network that is asked
//! for, and is looked at before it is ever started: unprivileged, nothing of the node in it, and every volume that the archive holds.

use super::{
    act::{Act, Bound, failure},
    leftover,
    making::{self, CREATE, Found, Making, interfaces},
    standing::{self, Standing},
    test_archive::missing,
};
use crate::{
    archives,
    facts::backups,
    ownership::OwnershipRecord,
    policy::Policy,
    pve::{
        argv::{self, TAG},
        conf::Conf,
        restore_argv::{self, Override},
        volumes,
    },
};
use proximity_protocol::{
    backup::{RestoreSpec, RestoredNetwork},
    command::Outcome,
    fault::{Fault, FaultKind},
};
use std::time::Duration;

const GIB: u64 = 1 << 30;
/// Unpacking a big archive on a slow disk tells nothing for long; after this it is told to roll back.
const BOUND: Duration = Duration::from_secs(3_600);
/// How long `pct resize` may take: it checks the file system first.
const GROW_BOUND: Duration = Duration::from_secs(1_800);
/// How long `pct set` may take: it waits 10 s for the configuration's lock.
const SET_BOUND: Duration = Duration::from_secs(120);

pub(super) async fn run(act: &Act<'_>, spec: &RestoreSpec) -> Result<Outcome, Fault> {
    let vmid = spec.vmid;
    act.check_idle(vmid)?;
    let making = Making {
        act,
        vmid,
        owner: &spec.owner,
        of_adopted: spec.of_adopted,
    };
    if !act.has_called(CREATE) {
        match making.find()? {
            Found::Whole(conf, record) => return settle(act, spec, &making, *conf, record).await,
            Found::Half => leftover::remove(act, vmid).await?,
            Found::Nothing => {}
        }
    }
    let archive = &spec.archive.archive;
    if backups::find(act.node, archive, spec.archive.vmid).await?.is_none() {
        return Err(missing(&spec.archive));
    }
    archives::require(act.node, &spec.archive)?;
    let saved = Conf::parse(&backups::saved_config(act.node, archive).await?);
    let overrides = overrides(act, spec, &saved)?;
    if !act.has_called(CREATE) {
        check_place(act, spec, &saved, &overrides)?;
        making.begin()?;
        act.say(&format!("making container {vmid} of {archive}"));
    }
    let argv = restore_argv::restore(spec, &overrides);
    let end = act.tool(CREATE, &argv, Some(vmid), Bound::Terminate(BOUND), &[]).await;
    let fault = match end {
        Ok(end) if end.success() => None,
        Ok(end) => Some(failure(&argv, &end)),
        Err(fault) => Some(fault),
    };
    let (conf, record) = making.made(fault, "pct restore")?;
    settle(act, spec, &making, *conf, record).await
}

/// What is not as the archive says.
fn overrides(act: &Act<'_>, spec: &RestoreSpec, saved: &Conf) -> Result<Vec<Override>, Fault> {
    let mut tags: Vec<&str> = saved
        .get("tags")
        .unwrap_or_default()
        .split([';', ',', ' '])
        .filter(|tag| !tag.is_empty() && *tag != TAG)
        .collect();
    tags.push(TAG);
    let mut all = vec![("tags".to_owned(), tags.join(";"))];
    if let Some(hostname) = &spec.hostname {
        all.push(("hostname".to_owned(), hostname.to_string()));
    }
    for (key, value) in [
        ("cores", spec.settings.cpu_cores),
        ("memory", spec.settings.memory_mb),
        ("swap", spec.settings.swap_mb),
    ] {
        all.extend(value.map(|value| (key.to_owned(), value.to_string())));
    }
    match &spec.network {
        RestoredNetwork::AsSaved | RestoredNetwork::Cut => {}
        RestoredNetwork::Replaced(network) => all.push(("net0".to_owned(), argv::net0(network))),
        RestoredNetwork::Of(target) => {
            // The very line of the container that it takes the place of, which an operator may have written.
            if let Standing::Ours(container) = standing::look(act.node, target)?
                && let Some(line) = container.conf.get("net0")
            {
                all.push(("net0".to_owned(), line.to_owned()));
            }
        }
    }
    Ok(all)
}

fn check_place(act: &Act<'_>, spec: &RestoreSpec, saved: &Conf, overrides: &[Override]) -> Result<(), Fault> {
    if let Some(why) = volumes::refused(saved) {
        return Err(Fault::new(
            FaultKind::NotPossible,
            format!("no container is made of backup {}: {why}", spec.archive.archive),
        ));
    }
    making::check_storage(act, &spec.storage)?;
    if spec.network == RestoredNetwork::Cut {
        return Ok(());
    }
    let text: String = saved
        .iter()
        .chain(overrides.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        .map(|(key, value)| format!("{key}: {value}\n"))
        .collect();
    let policy = Policy::load(&act.node.config().paths.policy)?;
    making::bridges_of(&Conf::parse(&text)).iter().try_for_each(|bridge| {
        policy.check_bridge(bridge)?;
        making::check_bridge(act, bridge)
    })
}

/// Brings it to what is asked besides, looks whether it is whole, and completes the record.
async fn settle(
    act: &Act<'_>,
    spec: &RestoreSpec,
    making: &Making<'_>,
    conf: Conf,
    record: OwnershipRecord,
) -> Result<Outcome, Fault> {
    // Its marks, while it has all of them; a lock ends it here.
    let outcome = making.finish(&conf, record)?;
    let vmid = Some(spec.vmid);
    let interfaces = interfaces(&conf);
    let cut = spec.network == RestoredNetwork::Cut && !interfaces.is_empty();
    if cut {
        let argv = restore_argv::cut(spec.vmid, &interfaces);
        act.must("cut", &argv, vmid, Bound::Wait(SET_BOUND)).await?;
    }
    // A volume without a size of its own has what its storage gives.
    let smaller = |gb: &u32| conf.root_size_bytes().is_some_and(|bytes| bytes < u64::from(*gb) * GIB);
    let grown = spec.disk_gb.filter(smaller);
    if let Some(disk_gb) = grown {
        act.say(&format!("growing the disk of container {} to {disk_gb} GB", spec.vmid));
        let argv = argv::resize(spec.vmid, disk_gb);
        act.must("grow", &argv, vmid, Bound::Wait(GROW_BOUND)).await?;
    }
    if !cut && grown.is_none() {
        check_whole(act, spec, &conf).await?;
        return Ok(outcome);
    }
    let Found::Whole(conf, record) = making.find()? else {
        return Err(Fault::new(
            FaultKind::ToolFailed,
            format!("container {} is not there any more after it was changed", spec.vmid),
        ));
    };
    check_whole(act, spec, &conf).await?;
    making.finish(&conf, record)
}

/// Looks at it before it is ever started.
async fn check_whole(act: &Act<'_>, spec: &RestoreSpec, conf: &Conf) -> Result<(), Fault> {
    let refused = |why: String| {
        Err(Fault::new(
            FaultKind::NotPossible,
            format!(
                "container {}, made of {}, is not started: {why}",
                spec.vmid, spec.archive.archive
            ),
        ))
    };
    if let Some(why) = volumes::refused(conf) {
        return refused(why);
    }
    if spec.network == RestoredNetwork::Cut && !interfaces(conf).is_empty() {
        return refused("it still has a network interface".into());
    }
    let saved = Conf::parse(&backups::saved_config(act.node, &spec.archive.archive).await?);
    let there = volumes::volumes(conf);
    for volume in volumes::volumes(&saved)
        .into_iter()
        .filter(|volume| volume.left_out().is_none())
    {
        if !there
            .iter()
            .any(|other| other.key == volume.key && other.path == volume.path)
        {
            return refused(format!("its {} ({}) was not brought back", volume.key, volume.path));
        }
    }
    Ok(())
}
