//! Removing a lab, from its note.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::note::{self, NodeNote, Note};
use super::{LabError, cgroups, io_at, mounts, network, tool};

/// How long processes get to end after SIGKILL.
const ENDING: Duration = Duration::from_secs(15);

/// Removes everything that the lab of this name made; one that is not there is fine.
///
/// # Errors
/// When something stays; repeating it is safe.
pub fn clean(lab: &str) -> Result<(), LabError> {
    let _lock = note::machine_lock()?;
    clean_locked(lab)
}

/// Removes all labs whose process is gone; answers their names.
///
/// # Errors
/// As [`clean()`].
pub fn clean_dead() -> Result<Vec<String>, LabError> {
    let _lock = note::machine_lock()?;
    let mut cleaned = Vec::new();
    for name in Note::names()? {
        let dead = match Note::load(&name)? {
            Some(note) => !note.is_alive(),
            None => true,
        };
        if dead {
            clean_locked(&name)?;
            cleaned.push(name);
        }
    }
    Ok(cleaned)
}

fn clean_locked(lab: &str) -> Result<(), LabError> {
    if let Some(note) = Note::load(lab)? {
        for node in &note.nodes {
            clean_node(lab, node)?;
        }
        let table = note::table(lab);
        if tool::run("nft", ["list", "table", "ip", &table]).is_ok() {
            tool::run("nft", ["delete", "table", "ip", &table])?;
        }
    }
    let files = note::files(lab);
    mounts::release(&files).map_err(io_at(&files))?;
    remove(&files)?;
    // LXC keeps a lock file per container there, under the path of its folder.
    remove(&Path::new("/run/lxc/lock").join(files.strip_prefix("/").unwrap_or(&files)))?;
    let folder = note::folder(lab);
    mounts::release(&folder).map_err(io_at(&folder))?;
    remove(&folder)?;
    if Note::names()?.is_empty() {
        put_forwarding_back()?;
    }
    Ok(())
}

fn clean_node(lab: &str, node: &NodeNote) -> Result<(), LabError> {
    let left = |what: String| LabError::Left {
        lab: lab.to_owned(),
        what,
    };
    let cgroup = node.cgroup(lab);
    let ended = cgroups::end(&cgroup, ENDING).map_err(io_at(Path::new("/sys/fs/cgroup")))?;
    if !ended {
        return Err(left(format!("processes in the cgroup {cgroup}")));
    }
    let netns = node.netns(lab);
    if Path::new("/run/netns").join(&netns).exists() {
        end_processes_of(&netns).map_err(left)?;
        tool::run("ip", ["netns", "delete", &netns])?;
    }
    let pid_file = node.dnsmasq_pid(lab);
    if let Some(pid) = fs::read_to_string(&pid_file)
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok())
    {
        let ours = fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*pid_file.to_string_lossy()));
        if ours && !end_process(pid) {
            return Err(left(format!("dnsmasq, process {pid}")));
        }
    }
    // The wire goes with the namespace, unless it was never put in.
    if Path::new("/sys/class/net").join(node.wire()).exists() {
        // The kernel takes namespaces apart in the background, so it may vanish under our hands.
        let _ = tool::run("ip", ["link", "delete", &node.wire()]);
        if Path::new("/sys/class/net").join(node.wire()).exists() {
            return Err(left(format!("interface {}", node.wire())));
        }
    }
    Ok(())
}

/// Ends what still runs in the namespace: it was started for this node.
fn end_processes_of(netns: &str) -> Result<(), String> {
    let until = Instant::now() + ENDING;
    loop {
        let pids: Vec<i32> = tool::run("ip", ["netns", "pids", netns])
            .map_err(|error| error.to_string())?
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect();
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(format!("processes {pids:?} in the namespace {netns}"));
        }
        for pid in pids {
            // It may just have ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(cgroups::POLL);
    }
}

fn end_process(pid: i32) -> bool {
    let until = Instant::now() + ENDING;
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    while Path::new(&format!("/proc/{pid}")).exists() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(cgroups::POLL);
    }
    true
}

fn remove(folder: &Path) -> Result<(), LabError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_at(folder)(error)),
        _ => Ok(()),
    }
}

fn put_forwarding_back() -> Result<(), LabError> {
    let was = Path::new(network::FORWARD_WAS);
    if let Ok(value) = fs::read(was) {
        let switch = Path::new(network::FORWARD);
        fs::write(switch, value).map_err(io_at(switch))?;
        fs::remove_file(was).map_err(io_at(was))?;
    }
    Ok(())
}
