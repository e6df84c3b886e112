//! What only looks: `pct list`, `status`, `cpusets`, `df`.

use crate::body::Figures;
use crate::call::{Call, Stop};
use crate::conf::{CtConfig, Properties};
use crate::pmxcfs;
use crate::storage;

pub(super) fn list(call: &mut Call<'_>) -> Result<(), Stop> {
    let vmids = pmxcfs::containers(call)?;
    if vmids.is_empty() {
        return Ok(());
    }
    call.say(&format!(
        "{:<10} {:<10} {:<12} {:<20}",
        "VMID", "Status", "Lock", "Name"
    ))?;
    for vmid in vmids {
        let config = pmxcfs::load(call.layout(), vmid)?;
        let status = if call.node.is_running(vmid) {
            "running"
        } else {
            "stopped"
        };
        let lock = config.current.get("lock").unwrap_or_default();
        call.say(&format!(
            "{vmid:<10} {status:<10} {lock:<12} {:<20}",
            name(&config, vmid)
        ))?;
    }
    Ok(())
}

/// The hostname, or `CT<id>`.
pub(crate) fn name(config: &CtConfig, vmid: u32) -> String {
    config
        .current
        .get("hostname")
        .map_or_else(|| format!("CT{vmid}"), str::to_owned)
}

/// Figures of a container as `status --verbose` and the API show them.
pub(crate) struct Status {
    pub(crate) running: bool,
    pub(crate) figures: Figures,
    pub(crate) cpus: u64,
    pub(crate) max_memory: u64,
    pub(crate) max_swap: u64,
    pub(crate) max_disk: u64,
}

pub(crate) fn status_of(call: &Call<'_>, vmid: u32, config: &CtConfig) -> Status {
    let number = |key: &str, default: u64| {
        config
            .current
            .get(key)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let max_disk = config
        .current
        .get("rootfs")
        .map(|rootfs| Properties::parse(rootfs, "volume"))
        .and_then(|rootfs| storage::parse_size(rootfs.get("size")?, 1))
        .unwrap_or(0);
    let figures = if call.node.is_running(vmid) {
        call.with_ct(vmid, &config.current, |body, ct| body.figures(ct))
    } else {
        None
    };
    Status {
        running: figures.is_some(),
        figures: figures.unwrap_or_default(),
        cpus: number("cores", u64::from(call.layout().info().cpus)),
        max_memory: number("memory", 512) << 20,
        max_swap: number("swap", 512) << 20,
        max_disk,
    }
}

pub(super) fn status(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let config = pmxcfs::load(call.layout(), vmid)?;
    let word = if call.node.is_running(vmid) {
        "running"
    } else {
        "stopped"
    };
    if !call.args.flag("verbose") {
        return call.say(&format!("status: {word}"));
    }
    let status = status_of(call, vmid, &config);
    let mut lines = vec![
        ("cpus", status.cpus.to_string()),
        ("disk", status.figures.disk_bytes.to_string()),
        ("diskread", "0".to_owned()),
        ("diskwrite", "0".to_owned()),
        ("maxdisk", status.max_disk.to_string()),
        ("maxmem", status.max_memory.to_string()),
        ("maxswap", status.max_swap.to_string()),
        ("mem", status.figures.memory_bytes.to_string()),
        ("name", name(&config, vmid)),
        ("netin", status.figures.netin_bytes.to_string()),
        ("netout", status.figures.netout_bytes.to_string()),
        ("status", word.to_owned()),
        ("swap", "0".to_owned()),
        ("type", "lxc".to_owned()),
        ("uptime", status.figures.uptime_s.to_string()),
        ("vmid", vmid.to_string()),
    ];
    if status.running {
        lines.push(("pid", status.figures.init_pid.to_string()));
    }
    for key in ["lock", "tags", "template"] {
        if let Some(value) = config.current.get(key) {
            lines.push((key, value.to_owned()));
        }
    }
    lines.sort();
    for (key, value) in lines {
        call.say(&format!("{key}: {value}"))?;
    }
    Ok(())
}

pub(super) fn cpusets(call: &mut Call<'_>) -> Result<(), Stop> {
    let cpus: Vec<String> = (0..call.layout().info().cpus).map(|cpu| cpu.to_string()).collect();
    let mut lines = Vec::new();
    for vmid in pmxcfs::containers(call)? {
        if call.node.is_running(vmid) {
            lines.push(format!("{vmid}:  {}", cpus.join(" ")));
        }
    }
    let width = lines.iter().map(String::len).max().unwrap_or(0);
    if width == 0 {
        return Ok(());
    }
    call.say(&"-".repeat(width))?;
    for line in &lines {
        call.say(line)?;
    }
    call.say(&"-".repeat(width))
}

pub(super) fn df(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    pmxcfs::load(call.layout(), vmid)?;
    Err(Stop::NotSimulated(
        "pct df: a simulated disk has no filling of its own".to_owned(),
    ))
}
