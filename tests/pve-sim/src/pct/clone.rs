//! `pct clone`: full clones of stopped containers.

use crate::call::{Call, Stop};
use crate::conf::{CtConfig, Properties};
use crate::locks::{CONFIG_LOCK_TIMEOUT, config_lock};
use crate::pct::create;
use crate::pmxcfs;
use crate::script::At;
use crate::storage;
use crate::tasks::worker;

pub(super) fn clone(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let newid: u32 = call.args.required("newid").parse().unwrap_or_default();
    if call.args.get("target").is_some() || call.args.get("full") == Some("0") {
        return Err(Stop::NotSimulated("pct clone --target and linked clones".to_owned()));
    }
    let config = pmxcfs::load(call.layout(), vmid)?;
    pmxcfs::check_free(call.layout(), newid)?;
    pmxcfs::check_lock(&config)?;
    let source = match call.args.get("snapname") {
        Some(name) => config
            .snapshots
            .get(name)
            .cloned()
            .ok_or_else(|| Stop::die(format!("snapshot '{name}' does not exist")))?,
        None if call.node.is_running(vmid) => {
            return Err(Stop::die(
                "Cannot do full clones on a running container without snapshots",
            ));
        }
        None => config.current.clone(),
    };
    let snapshot = call.args.get("snapname").map(str::to_owned);
    let from_snapshot = snapshot.is_some();
    create::reserve(call, newid)?;
    worker(call, "vzclone", &vmid.to_string(), |call| {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        let mut made = Vec::new();
        let result = (|| {
            let mut section = source.clone();
            for key in ["parent", "snaptime", "template", "lock"] {
                section.remove(key);
            }
            for (key, volume) in source.volumes() {
                if key.starts_with("unused") {
                    section.remove(&key);
                    continue;
                }
                call.say(&format!("create full clone of mountpoint {key} ({volume})"))?;
                let mut properties = Properties::parse(source.get(&key).unwrap_or_default(), "volume");
                let origin = volume.split(':').next().unwrap_or_default().to_owned();
                let target = call.args.get("storage").map_or(origin.clone(), str::to_owned);
                let kind = storage::find(call.layout(), &origin)?.kind;
                if from_snapshot && kind == "btrfs" {
                    call.say(&format!(
                        "Specified filename /var/lib/lxc/{newid}/.copy-volume-1 does not exist."
                    ))?;
                    return Err(Stop::die(format!(
                        "cannot mount subvol snapshots for storage type '{kind}'"
                    )));
                }
                let size = properties
                    .get("size")
                    .and_then(|size| storage::parse_size(size, 1))
                    .unwrap_or(0);
                let copy = storage::allocate(call, &target, newid, size)?;
                made.push(copy.clone());
                properties.set("volume", copy);
                section.set(&key, properties.render(Some("volume"), &[]));
            }
            call.say("\nNumber of files: 8,485 (reg: 6,635, dir: 960, link: 890)")?;
            call.point(At::Middle)?;
            call.with_ct(newid, &section, |body, ct| {
                body.copy_from(ct, vmid, snapshot.as_deref())
            })?;
            for (number, mut net) in section.networks() {
                net.set("hwaddr", storage::random_mac());
                section.set(&format!("net{number}"), net.render(None, &["name", "bridge"]));
            }
            if let Some(hostname) = call.args.get("hostname") {
                section.set("hostname", hostname);
            }
            section.set_description(call.args.get("description").unwrap_or_default());
            pmxcfs::save(
                call.layout(),
                newid,
                &CtConfig {
                    current: section,
                    ..CtConfig::default()
                },
            )
        })();
        match result {
            Err(stop) if stop.undoes() => {
                create::undo(call, newid, &made);
                Err(Stop::die(format!("clone failed: {}", stop.text())))
            }
            other => other,
        }
    })
    .map(drop)
}
