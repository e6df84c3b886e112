//! `pct`: containers. One file per group of commands; this one reads the arguments and hands on.

mod clone;
pub(crate) mod create;
mod destroy;
mod disk;
mod inside;
mod migrate;
pub(crate) mod power;
pub(crate) mod settings;
pub(crate) mod show;
pub(crate) mod snapshot;

use crate::call::{Call, Stop};
use crate::options::command;
use crate::script::At;

/// Commands that call the middle point themselves, where their act is half done.
const OWN_MIDDLE: [&str; 18] = [
    "create",
    "restore",
    "clone",
    "start",
    "stop",
    "shutdown",
    "reboot",
    "destroy",
    "set",
    "push",
    "pull",
    "exec",
    "snapshot",
    "delsnapshot",
    "rollback",
    "resize",
    "template",
    "migrate",
];

/// Runs `pct` with its arguments.
pub(crate) fn run(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    let Some(sub) = argv.first() else {
        return Err(usage("ERROR: no command specified"));
    };
    let resolved = resolve(sub).ok_or_else(|| usage(&format!("ERROR: unknown command 'pct {sub}'")))?;
    resolved.clone_into(&mut call.sub);
    let spec = command("pct", resolved).ok_or_else(|| Stop::NotSimulated(format!("pct {resolved}")))?;
    call.args = spec.parse("pct", resolved, &argv[1..])?;
    call.vmid = call.args.vmid();
    call.point(At::Before)?;
    if !OWN_MIDDLE.contains(&resolved) {
        call.point(At::Middle)?;
    }
    let vmid = call.vmid.unwrap_or_default();
    match resolved {
        "create" => create::create(call, vmid)?,
        "restore" => create::restore(call, vmid)?,
        "clone" => clone::clone(call, vmid)?,
        "start" => power::start(call, vmid).map(drop)?,
        "stop" => power::stop(call, vmid).map(drop)?,
        "shutdown" => power::shutdown(call, vmid).map(drop)?,
        "reboot" => power::reboot(call, vmid)?,
        "suspend" => power::suspend(call, vmid)?,
        "destroy" => destroy::destroy(call, vmid)?,
        "set" => settings::set(call, vmid)?,
        "config" => settings::config(call, vmid)?,
        "pending" => settings::pending(call, vmid)?,
        "unlock" => settings::unlock(call, vmid)?,
        "list" => show::list(call)?,
        "status" => show::status(call, vmid)?,
        "cpusets" => show::cpusets(call)?,
        "df" => show::df(call, vmid)?,
        "rescan" => call.say("rescan volumes...")?,
        "migrate" => migrate::migrate(call, vmid)?,
        "exec" => inside::exec(call, vmid)?,
        "push" => inside::push(call, vmid)?,
        "pull" => inside::pull(call, vmid)?,
        "snapshot" => snapshot::snapshot(call, vmid)?,
        "delsnapshot" => snapshot::delsnapshot(call, vmid)?,
        "rollback" => snapshot::rollback(call, vmid)?,
        "listsnapshot" => snapshot::listsnapshot(call, vmid)?,
        "resize" => disk::resize(call, vmid)?,
        "template" => disk::template(call, vmid)?,
        other => return Err(Stop::NotSimulated(format!("pct {other}"))),
    }
    call.point(At::After)
}

const COMMANDS: [&str; 36] = [
    "clone",
    "create",
    "destroy",
    "list",
    "migrate",
    "move-volume",
    "pending",
    "resize",
    "restore",
    "template",
    "config",
    "set",
    "delsnapshot",
    "listsnapshot",
    "rollback",
    "snapshot",
    "reboot",
    "resume",
    "shutdown",
    "start",
    "stop",
    "suspend",
    "console",
    "cpusets",
    "df",
    "enter",
    "exec",
    "fsck",
    "fstrim",
    "mount",
    "pull",
    "push",
    "remote-migrate",
    "rescan",
    "status",
    "unlock",
];

/// Commands may be abbreviated as long as they are unique (PVE::CLIHandler).
fn resolve(written: &str) -> Option<&'static str> {
    if written == "unmount" || written == "help" {
        return Some(if written == "help" { "help" } else { "unmount" });
    }
    if let Some(exact) = COMMANDS.iter().find(|name| **name == written) {
        return Some(exact);
    }
    let close: Vec<&&str> = COMMANDS.iter().filter(|name| name.starts_with(written)).collect();
    match close.as_slice() {
        [only] => Some(only),
        _ => None,
    }
}

fn usage(problem: &str) -> Stop {
    Stop::die(format!("{problem}\n{}", include_str!("usage.txt")))
}
