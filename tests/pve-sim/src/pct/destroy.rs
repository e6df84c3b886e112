//! `pct destroy`. What HA has in its configuration is destroyed only with `--purge`, which takes it out there; the pool of the container, and its rights,
//! go in any case (PVE::API2::LXC, PVE::AccessControl::remove_vm_access).

use crate::call::{Call, Stop};
use crate::ha;
use crate::locks::{CONFIG_LOCK_TIMEOUT, config_lock};
use crate::pmxcfs;
use crate::script::At;
use crate::storage;
use crate::tasks::worker;
use crate::users;

pub(super) fn destroy(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let config = pmxcfs::load(call.layout(), vmid)?;
    pmxcfs::check_lock(&config)?;
    if config.current.flag("protection") {
        return Err(Stop::die(format!("can't remove CT {vmid} - protection mode enabled")));
    }
    let purge = call.args.flag("purge");
    let refuse_ha = move |call: &Call<'_>| {
        let configured = ha::is_configured(call.layout(), vmid)?;
        if configured && !purge {
            return Err(Stop::die(format!(
                "unable to remove CT {vmid} - used in HA resources and purge parameter not set."
            )));
        }
        Ok(configured)
    };
    refuse_ha(call)?;
    let force = call.args.flag("force");
    let refuse_running = |call: &Call<'_>| {
        if call.node.is_running(vmid) && !force {
            return Err(Stop::die(format!("unable to destroy CT {vmid} - container is running")));
        }
        Ok(())
    };
    refuse_running(call)?;
    worker(call, "vzdestroy", &vmid.to_string(), |call| {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        let mut config = pmxcfs::load(call.layout(), vmid)?;
        pmxcfs::check_lock(&config)?;
        let in_ha = refuse_ha(call)?;
        refuse_running(call)?;
        if call.node.is_running(vmid) {
            call.with_ct(vmid, &config.current, |body, ct| body.stop(ct))?;
        }
        config.current.set("lock", "destroyed");
        pmxcfs::save(call.layout(), vmid, &config)?;
        call.point(At::Middle)?;
        call.with_ct(vmid, &config.current, |body, ct| body.destroy(ct))?;
        let mut volumes = config.current.volumes();
        for section in config.snapshots.values() {
            volumes.extend(section.volumes());
        }
        for (_, volume) in volumes.iter().filter(|(_, volume)| volume.contains(':')) {
            storage::free(call.layout(), volume)?;
        }
        if call.args.flag("destroy-unreferenced-disks") {
            for storage in storage::all(call.layout())? {
                let held = storage
                    .volumes(call.layout())
                    .map_err(|error| Stop::die(format!("{}: {error}", storage.id)))?;
                for volume in held
                    .iter()
                    .filter(|volume| volume.vmid == Some(vmid) && volume.content == "rootdir")
                {
                    storage::free(call.layout(), &volume.volid)?;
                }
            }
        }
        users::forget_guest(call.layout(), vmid)?;
        if purge {
            call.say(&format!("purging CT {vmid} from related configurations.."))?;
            if in_ha {
                ha::forget(call.layout(), &ha::sid(vmid))?;
                call.say(&format!("NOTE: removed CT {vmid} from HA resource configuration."))?;
            }
        }
        pmxcfs::remove(call.layout(), vmid)
    })
    .map(drop)
}
