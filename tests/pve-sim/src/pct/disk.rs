//! `pct resize` and `pct template`.

use std::fs::OpenOptions;

use crate::call::{Call, Stop};
use crate::conf::Properties;
use crate::locks::{CONFIG_LOCK_TIMEOUT, config_lock};
use crate::pmxcfs;
use crate::script::At;
use crate::storage::{self, format_size};
use crate::tasks::worker;

pub(super) fn resize(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let disk = call.args.required("disk").to_owned();
    let change = call.args.required("size").to_owned();
    pmxcfs::load(call.layout(), vmid)?;
    worker(call, "resize", &vmid.to_string(), |call| {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        let mut config = pmxcfs::load(call.layout(), vmid)?;
        pmxcfs::check_lock(&config)?;
        let Some(value) = config.current.get(&disk).map(str::to_owned) else {
            let mount = if disk == "rootfs" {
                ""
            } else {
                "\nmp: property is missing and it is not optional"
            };
            return Err(Stop::die(format!(
                "format error\nvolume: property is missing and it is not optional{mount}"
            )));
        };
        let mut properties = Properties::parse(&value, "volume");
        let old = properties
            .get("size")
            .and_then(|size| storage::parse_size(size, 1))
            .unwrap_or(0);
        let amount =
            storage::parse_size(change.trim_start_matches('+'), 1).ok_or_else(|| Stop::die("invalid size string"))?;
        let new = if change.starts_with('+') { old + amount } else { amount };
        if new < old {
            return Err(Stop::die("unable to shrink disk size"));
        }
        if new == old {
            return Ok(());
        }
        call.point(At::Middle)?;
        let volume = properties.get("volume").unwrap_or_default().to_owned();
        let path = storage::path_of(call.layout(), &volume)?;
        let shown = call.layout().node_path(&path);
        let raw = path.is_file();
        if raw {
            OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_len(new))
                .map_err(|error| {
                    Stop::die(format!(
                        "command '/usr/bin/qemu-img resize -f raw {shown}' failed: {error}"
                    ))
                })?;
            call.say("Image resized.")?;
        }
        if raw && !call.node.is_running(vmid) {
            let blocks = new / 4096;
            call.say("e2fsck 1.47.0 (5-Feb-2023)")?;
            for (pass, what) in [
                (1, "inodes, blocks, and sizes"),
                (2, "directory structure"),
                (3, "directory connectivity"),
                (4, "reference counts"),
                (5, "group summary information"),
            ] {
                call.say(&format!("Pass {pass}: Checking {what}"))?;
            }
            call.say(&format!(
                "{shown}: 8492/{} files (0.1% non-contiguous), 57285/{} blocks",
                old / 16384,
                old / 4096
            ))?;
            call.say("resize2fs 1.47.0 (5-Feb-2023)")?;
            call.say(&format!("Resizing the filesystem on {shown} to {blocks} (4k) blocks."))?;
            call.say(&format!(
                "The filesystem on {shown} is now {blocks} (4k) blocks long.\n"
            ))?;
        }
        properties.set("size", format_size(new));
        config.current.set(&disk, properties.render(Some("volume"), &[]));
        pmxcfs::save(call.layout(), vmid, &config)?;
        if raw && let Err(error) = call.with_ct(vmid, &config.current, |body, ct| body.grow(ct, &path)) {
            // The volume and the configuration stay as they are now (PVE::API2::LXC).
            call.complain(&format!("Failed to update the container's filesystem: {error}\n"));
        }
        Ok(())
    })
    .map(drop)
}

/// Turns a stopped container into a template. The disk of a directory storage becomes a base image.
pub(super) fn template(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
    let mut config = pmxcfs::load(call.layout(), vmid)?;
    pmxcfs::check_lock(&config)?;
    if call.node.is_running(vmid) {
        return Err(Stop::die("you can't convert a CT to template if the CT is running"));
    }
    if config.current.flag("template") {
        return Err(Stop::die("you can't convert a template to a template"));
    }
    if !config.snapshots.is_empty() {
        return Err(Stop::die("you can't convert a CT to template if there are snapshots"));
    }
    call.point(At::Middle)?;
    config.current.set("template", "1");
    pmxcfs::save(call.layout(), vmid, &config)
}
