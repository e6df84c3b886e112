//! `vzdump`: backups of containers in the modes stop, suspend, snapshot, to directories and to a Proxmox Backup Server.
//!
//! A killed one leaves what the real one leaves: in stop mode the guest stopped, `.tar.dat` and `.tmp`, the lock gone; in suspend mode nothing. Mail would be
//! sent by what [`mail`] says; it lies in `<root>/var/mail/root` then, so that a test can see that there is none.

mod backup;
mod prune;
mod target;

use std::fs;
use std::io::{self, Write as _};
use std::time::Duration;

use crate::call::{Call, Stop};
use crate::clock::{human, now_s};
use crate::locks::try_lock;
use crate::options::command;
use crate::script::At;
use crate::tasks::worker;

pub(crate) use prune::companions;
use target::Target;

const LOCK: &str = "/var/run/vzdump.lock";

/// A logged line: `INFO: …` on stdout, unless `--quiet`.
fn log(call: &mut Call<'_>, level: &str, text: &str) -> Result<(), Stop> {
    plain(call, &format!("{level}: {text}"))
}

fn info(call: &mut Call<'_>, text: &str) -> Result<(), Stop> {
    log(call, "INFO", text)
}

/// A line of another program.
fn plain(call: &mut Call<'_>, text: &str) -> Result<(), Stop> {
    if call.args.flag("quiet") {
        Ok(())
    } else {
        call.say(text)
    }
}

pub(crate) fn run(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    let Some(spec) = command("vzdump", "") else {
        return Err(Stop::NotSimulated("vzdump".to_owned()));
    };
    call.args = spec.parse("vzdump", "", argv)?;
    if call.args.rest.is_empty() {
        if call.args.flag("all") || call.args.get("pool").is_some() {
            return Err(Stop::NotSimulated("vzdump --all and --pool".to_owned()));
        }
        let problems = [("vmid".to_owned(), "property is missing".to_owned())].into();
        return Err(Stop::parameters(&problems, "vzdump {<vmid>} [OPTIONS]"));
    }
    for option in ["script", "stdout", "job-id", "fleecing", "stop", "exclude-path"] {
        if call.args.get(option).is_some() {
            return Err(Stop::NotSimulated(format!("vzdump --{option}")));
        }
    }
    call.vmid = call.args.rest.first().and_then(|word| word.parse().ok());
    call.point(At::Before)?;
    let target = Target::of(call)?;
    let id = if call.args.rest.len() == 1 {
        call.args.rest[0].clone()
    } else {
        String::new()
    };
    let vmids = call.args.rest.clone();
    let shown: Vec<String> = argv.to_vec();
    let result = worker(call, "vzdump", &id, |call| {
        let _lock = global_lock(call)?;
        info(call, &format!("starting new backup job: vzdump {}", shown.join(" ")))?;
        let mut failed = false;
        for word in &vmids {
            match backup::guest(call, word, &target) {
                Ok(()) => {}
                Err(stop) if !stop.undoes() => return Err(stop),
                Err(stop) => {
                    failed = true;
                    let end = human(now_s(call.node.clock.as_ref()));
                    log(call, "ERROR", &format!("Backup of VM {word} failed - {}", stop.text()))?;
                    info(call, &format!("Failed at {end}"))?;
                }
            }
        }
        mail(call, failed)?;
        if failed {
            info(call, "Backup job finished with errors")?;
            return Err(Stop::die("job errors"));
        }
        info(call, "Backup job finished successfully")
    });
    result?;
    call.point(At::After)
}

/// Whether a notification goes out (PVE::VZDump::send_notification): by the notification system unless the mode is `legacy-sendmail`, or `auto` with an
/// address; of those that send mail themselves only to addresses, and only about failures if asked so.
fn mail(call: &Call<'_>, failed: bool) -> Result<(), Stop> {
    let addressed = call.args.get("mailto").is_some_and(|to| !to.is_empty());
    let legacy = match call.args.get("notification-mode").unwrap_or("auto") {
        "legacy-sendmail" => true,
        "auto" => addressed,
        _ => false,
    };
    let only_failures = call.args.get("mailnotification") == Some("failure");
    let sent = if legacy {
        addressed && (failed || !only_failures)
    } else {
        true
    };
    if !sent {
        return Ok(());
    }
    let path = call.layout().host_path("/var/mail/root");
    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(
            file,
            "vzdump backup status: {}",
            if failed { "backup failed" } else { "backup successful" }
        )
    };
    write().map_err(|error: io::Error| Stop::die(format!("{}: {error}", path.display())))
}

/// One vzdump per node; a second waits `--lockwait` minutes.
fn global_lock(call: &mut Call<'_>) -> Result<fs::File, Stop> {
    let path = call.layout().host_path(LOCK);
    let wait_min: u64 = call
        .args
        .get("lockwait")
        .and_then(|text| text.parse().ok())
        .unwrap_or(180);
    let failed = |error: io::Error| Stop::die(format!("can't open lock '{LOCK}': {error}"));
    if let Some(file) = try_lock(&path).map_err(failed)? {
        return Ok(file);
    }
    if wait_min == 0 {
        call.say(&format!("ERROR: can't acquire lock '{LOCK}' (wait = 0)"))?;
        return Err(Stop::die("got unexpected control message:  "));
    }
    call.say("INFO: trying to get global lock - waiting...")?;
    let until = call.node.clock.now_ms() + wait_min * 60_000;
    while call.node.clock.now_ms() < until {
        call.check_signals()?;
        call.node.clock.sleep(Duration::from_millis(200));
        if let Some(file) = try_lock(&path).map_err(failed)? {
            call.say("INFO: got global lock")?;
            return Ok(file);
        }
    }
    call.say(&format!("ERROR: can't acquire lock '{LOCK}' - got timeout"))?;
    Err(Stop::die("got unexpected control message:  "))
}
