//! Real containers by Debian's `lxc`: unprivileged, systemd inside, disks as ext4 images, limits by cgroups. Needs root and the
//! programs that [`crate::lab::Lab::requirements`] asks for; without a lab the caller's own network namespace is the node's.
//!
//! | file | what it holds |
//! |---|---|
//! | `<root>/var/lib/lxc/<id>/config` | LXC's configuration, written at each start |
//! | `<root>/var/lib/lxc/<id>/rootfs` | the disks, mounted together from start to stop |
//! | `<root>/var/lib/lxc/<id>/lxc.log` | what LXC said at the last start |
//!
//! A container's command socket is `@<root>/var/lib/lxc/<id>/command` in the node's `/proc/net/unix`, so the node's root must be
//! short (the name holds 107 bytes); its cgroup is `<hierarchy>/<cgroup_parent>/<id>`, its processes below `ns` there.

mod archive;
mod backup;
mod child;
mod config;
mod guest_files;
mod limits;
mod settings;
mod volumes;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio as Pipe};
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use self::settings::{NO_PATH, Settings, tool};
use super::{Body, BodyError, Ct, Figures, FileOwner, Packing, Shutdown, Stdio, Unpacked, io_at};
use crate::conf::Section;
use crate::lab::cgroups;
use crate::layout::{BodyKind, Layout};
use crate::pmxcfs;

/// How long cgroups of a stopped container may take to empty.
const ENDING: Duration = Duration::from_secs(10);
/// Longest name of an abstract socket: `sun_path` without its leading zero byte.
const SOCKET_NAME_MAX: usize = 107;

/// Real containers by Debian's `lxc`.
#[derive(Debug, Default)]
pub struct LxcBody {}

impl Body for LxcBody {
    fn kind(&self) -> BodyKind {
        BodyKind::Lxc
    }

    fn unpack(&self, ct: &Ct<'_>, archive: &Path, _: &mut dyn Write) -> Result<Unpacked, BodyError> {
        let unpacked = volumes::mount(ct, |_| true).and_then(|root| archive::unpack(archive, &root, ct.interrupted));
        let released = volumes::release(ct);
        match (unpacked, released) {
            (Ok(unpacked), Ok(())) => Ok(unpacked),
            (Ok(_), Err(error)) => Err(error),
            (Err(error), _) => {
                self.destroy(ct)?;
                Err(error)
            }
        }
    }

    fn copy_from(&self, ct: &Ct<'_>, from: u32, snapshot: Option<&str>) -> Result<(), BodyError> {
        let source = pmxcfs::load(ct.layout, from)
            .map_err(|stop| BodyError::Failed(stop.text()))?
            .current;
        let volume = root_volume(ct.layout, &source)?;
        let original = Ct {
            vmid: from,
            conf: &source,
            root_volume: &volume,
            ..*ct
        };
        let copied = (|| {
            let from = match snapshot {
                Some(name) => volumes::mount_beside(&original, &volumes::kept(&original, name)?)?,
                None => volumes::mount(&original, |_| true)?,
            };
            let to = volumes::mount(ct, |_| true)?;
            let mut copy = Command::new("cp");
            copy.args(["-a", "--sparse=auto", "-T"])
                .arg(&from)
                .arg(&to)
                .stdin(Pipe::null())
                .stdout(Pipe::null())
                .stderr(Pipe::piped());
            let copying = copy
                .spawn()
                .map_err(|error| BodyError::Failed(format!("command 'cp' failed: {error}")))?;
            child::wait_all(vec![("cp".to_owned(), copying)], ct.interrupted)
        })();
        let released = match snapshot {
            Some(_) => volumes::release_beside(&original),
            None => volumes::release(&original),
        };
        let released = released.and(volumes::release(ct));
        if copied.is_err() {
            self.destroy(ct)?;
        }
        copied.map(drop).and(released)
    }

    fn pack(&self, ct: &Ct<'_>, archive: &Path, packing: &Packing<'_>) -> Result<u64, BodyError> {
        backup::pack(self, ct, archive, packing)
    }

    fn saved_config(&self, archive: &Path) -> Result<String, BodyError> {
        archive::config(archive)
    }

    fn snapshot(&self, ct: &Ct<'_>, name: &str) -> Result<(), BodyError> {
        volumes::keep(ct, name)
    }

    fn drop_snapshot(&self, ct: &Ct<'_>, name: &str) -> Result<(), BodyError> {
        volumes::forget(ct, name)
    }

    fn roll_back(&self, ct: &Ct<'_>, name: &str) -> Result<(), BodyError> {
        volumes::release(ct)?;
        volumes::roll_back(ct, name)
    }

    fn grow(&self, ct: &Ct<'_>, image: &Path) -> Result<(), BodyError> {
        volumes::grow(image, self.is_running(ct.layout, ct.vmid))
    }

    fn start(&self, ct: &Ct<'_>) -> Result<u32, BodyError> {
        let settings = Settings::of(ct.layout)?;
        refuse_privileged(ct.conf)?;
        let socket = settings::lxc_path(ct.layout).join(format!("{}/command", ct.vmid));
        if socket.as_os_str().len() > SOCKET_NAME_MAX {
            return Err(BodyError::Failed(format!(
                "pve-sim: the path {} is too long for LXC: put the node's root into a shorter folder",
                socket.display()
            )));
        }
        self.tidy(ct, &settings)?;
        let root = volumes::mount(ct, |_| true)?;
        guest_files::write(ct, &settings, &root)?;
        config::write(ct, &settings)?;
        let log = ct.layout.lxc_dir(ct.vmid).join("lxc.log");
        File::create(&log).map_err(io_at(&log))?;
        let mut start = tool(&settings, ct.layout, ct.vmid, "lxc-start");
        start
            .arg("-d")
            .arg("-o")
            .arg(&log)
            .args(["-l", "WARN"])
            .env_clear()
            .env("PATH", NO_PATH);
        if let Err(error) = child::run(start) {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let reasons: Vec<&str> = said
                .lines()
                .filter(|line| line.contains(" ERROR "))
                .filter_map(|line| line.split_once(" - "))
                .map(|(_, rest)| rest)
                .collect();
            // What was mounted is of no use now; the first error is the one to tell.
            let _ = self.tidy(ct, &settings);
            let why = if reasons.is_empty() {
                error.to_string()
            } else {
                reasons.join("\n")
            };
            return Err(BodyError::Failed(format!(
                "{why}\nstartup for container '{}' failed",
                ct.vmid
            )));
        }
        init_pid(&settings, ct.layout, ct.vmid)
            .ok_or_else(|| BodyError::Failed(format!("startup for container '{}' failed: it ended at once", ct.vmid)))
    }

    fn stop(&self, ct: &Ct<'_>) -> Result<(), BodyError> {
        let settings = Settings::of(ct.layout)?;
        let mut stop = tool(&settings, ct.layout, ct.vmid, "lxc-stop");
        stop.arg("-k");
        let stopped = child::run(stop);
        if self.is_running(ct.layout, ct.vmid) {
            return stopped.map(drop);
        }
        self.tidy(ct, &settings)
    }

    fn shutdown(&self, ct: &Ct<'_>, timeout: Duration) -> Result<Shutdown, BodyError> {
        let settings = Settings::of(ct.layout)?;
        let mut stop = tool(&settings, ct.layout, ct.vmid, "lxc-stop");
        stop.args(["--nokill", "--timeout", &timeout.as_secs().to_string()]);
        // It fails when the time is up; whether it stopped is what counts.
        let asked = child::run(stop);
        if self.is_running(ct.layout, ct.vmid) {
            return match asked {
                Err(BodyError::Failed(_)) | Ok(_) => Ok(Shutdown::StillRunning),
                Err(other) => Err(other),
            };
        }
        self.tidy(ct, &settings)?;
        Ok(Shutdown::Stopped)
    }

    fn is_running(&self, layout: &Layout, vmid: u32) -> bool {
        let socket = format!("@{}/{vmid}/command", settings::lxc_path(layout).display());
        Settings::of(layout).is_ok_and(|settings| settings.sockets().lines().any(|line| line.ends_with(&socket)))
    }

    fn figures(&self, ct: &Ct<'_>) -> Option<Figures> {
        let settings = Settings::of(ct.layout).ok()?;
        let pid = init_pid(&settings, ct.layout, ct.vmid)?;
        let (netin_bytes, netout_bytes) = traffic(pid);
        Some(Figures {
            init_pid: pid,
            memory_bytes: memory(&settings.cgroup(ct.vmid)).unwrap_or(0),
            netin_bytes,
            netout_bytes,
            disk_bytes: statvfs(&PathBuf::from(format!("/proc/{pid}/root")))
                .map(|disk| (disk.blocks() - disk.blocks_free()) * disk.fragment_size())
                .unwrap_or(0),
            uptime_s: uptime_s(pid).unwrap_or(0),
        })
    }

    fn apply(&self, ct: &Ct<'_>) -> Result<(), BodyError> {
        let settings = Settings::of(ct.layout)?;
        limits::apply(ct, &settings.cgroup(ct.vmid))?;
        let name = guest_files::hostname(ct);
        let Some(pid) = init_pid(&settings, ct.layout, ct.vmid) else {
            return Ok(());
        };
        let mut inside = tool(&settings, ct.layout, ct.vmid, "lxc-attach");
        inside.args([
            "--clear-env",
            "--",
            "/bin/sh",
            "-c",
            "printf '%s\\n' \"$1\" > /etc/hostname",
            "sh",
            &name,
        ]);
        child::run(inside)?;
        // /proc/sys is read-only inside.
        let mut kernel = Command::new("nsenter");
        kernel.args([&format!("--uts=/proc/{pid}/ns/uts"), "--", "hostname", &name]);
        child::run(kernel).map(drop)
    }

    fn exec(&self, ct: &Ct<'_>, argv: &[String], keep_env: bool, stdio: Stdio<'_>) -> Result<i32, BodyError> {
        let settings = Settings::of(ct.layout)?;
        let mut attach = tool(&settings, ct.layout, ct.vmid, "lxc-attach");
        attach
            .arg(if keep_env { "--keep-env" } else { "--clear-env" })
            .arg("--")
            .args(argv);
        let failed = |error: std::io::Error| BodyError::Failed(format!("command 'lxc-attach' failed: {error}"));
        if stdio.inherit {
            return Ok(code(attach.status().map_err(failed)?));
        }
        let mut input = Vec::new();
        stdio.stdin.read_to_end(&mut input).map_err(failed)?;
        let mut child = attach
            .stdin(Pipe::piped())
            .stdout(Pipe::piped())
            .stderr(Pipe::piped())
            .spawn()
            .map_err(failed)?;
        let pipe = child.stdin.take();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Some(mut pipe) = pipe {
                    // The command need not read all of it.
                    let _ = pipe.write_all(&input);
                }
            });
            child.wait_with_output()
        })
        .map_err(failed)?;
        stdio.out.write_all(&output.stdout).map_err(|_| BodyError::BrokenPipe)?;
        stdio.err.write_all(&output.stderr).map_err(failed)?;
        Ok(code(output.status))
    }

    fn push(&self, ct: &Ct<'_>, from: &Path, to: &str, owner: &FileOwner) -> Result<(), BodyError> {
        let file = File::open(from)
            .map_err(|_| BodyError::Failed(format!("failed to open {} for reading", from.display())))?;
        let settings = Settings::of(ct.layout)?;
        let mut attach = tool(&settings, ct.layout, ct.vmid, "lxc-attach");
        // In the container's own namespaces, so that no link in it leads out; closed to all others until the mode is set.
        let script = r#"umask 077 && cat > "$1" && chown "$2:$3" "$1" && chmod "$4" "$1""#;
        attach.args([
            "--clear-env",
            "--",
            "/bin/sh",
            "-c",
            script,
            "sh",
            to,
            &owner.user,
            &owner.group,
            &format!("{:o}", owner.mode),
        ]);
        let output = attach
            .stdin(file)
            .output()
            .map_err(|error| BodyError::Failed(format!("command 'lxc-attach' failed: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let reason = said.rsplit(": ").next().unwrap_or_default();
        let reason = if reason.is_empty() || reason.ends_with("Directory nonexistent") {
            "No such file or directory"
        } else {
            reason
        };
        Err(BodyError::Failed(format!("failed to create file: {to}: {reason}")))
    }

    fn pull(&self, ct: &Ct<'_>, from: &str, to: &Path, owner: &FileOwner) -> Result<(), BodyError> {
        let settings = Settings::of(ct.layout)?;
        let mut attach = tool(&settings, ct.layout, ct.vmid, "lxc-attach");
        attach
            .args(["--clear-env", "--", "/bin/cat", "--", from])
            .stdin(Pipe::null());
        let output = attach
            .output()
            .map_err(|error| BodyError::Failed(format!("command 'lxc-attach' failed: {error}")))?;
        if !output.status.success() {
            return Err(BodyError::Failed(format!(
                "failed to open {from}: No such file or directory"
            )));
        }
        fs::write(to, &output.stdout)
            .map_err(|error| BodyError::Failed(format!("failed to create file: {}: {error}", to.display())))?;
        fs::set_permissions(to, fs::Permissions::from_mode(owner.mode)).map_err(io_at(to))
    }

    fn destroy(&self, ct: &Ct<'_>) -> Result<(), BodyError> {
        let settings = Settings::of(ct.layout)?;
        self.tidy(ct, &settings)?;
        let folder = ct.layout.lxc_dir(ct.vmid);
        remove(&folder)?;
        let locks = settings::lxc_path(ct.layout).join(format!(".{}", ct.vmid));
        let lock = Path::new("/run/lxc/lock").join(locks.strip_prefix("/").unwrap_or(&locks));
        match fs::remove_file(&lock) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_at(&lock)(error)),
            _ => Ok(()),
        }
    }

    fn rootfs(&self, ct: &Ct<'_>) -> Option<PathBuf> {
        Some(volumes::tree(ct))
    }
}

impl LxcBody {
    /// What a container that does not run leaves: mounts, cgroups. LXC refuses to start over leftover cgroups.
    fn tidy(&self, ct: &Ct<'_>, settings: &Settings) -> Result<(), BodyError> {
        let hierarchies = Path::new("/sys/fs/cgroup");
        for cgroup in [settings.cgroup(ct.vmid), settings.monitor_cgroup(ct.vmid)] {
            if !cgroups::remove_soon(&cgroup, ENDING).map_err(io_at(hierarchies))? {
                return Err(BodyError::Failed(format!("processes are left in the cgroup {cgroup}")));
            }
        }
        volumes::release(ct)
    }
}

/// This body maps every container's users; one without `unprivileged` would not be what it says.
fn refuse_privileged(conf: &Section) -> Result<(), BodyError> {
    if conf.flag("unprivileged") {
        return Ok(());
    }
    Err(BodyError::Failed(
        "pve-sim: not simulated: privileged containers with the lxc body; create it with --unprivileged 1".to_owned(),
    ))
}

fn root_volume(layout: &Layout, conf: &Section) -> Result<PathBuf, BodyError> {
    let volume = conf
        .volumes()
        .into_iter()
        .find(|(key, _)| key == "rootfs")
        .map(|(_, volume)| volume)
        .unwrap_or_default();
    crate::storage::path_of(layout, &volume).map_err(|stop| BodyError::Failed(stop.text()))
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn init_pid(settings: &Settings, layout: &Layout, vmid: u32) -> Option<u32> {
    let mut info = tool(settings, layout, vmid, "lxc-info");
    info.args(["-H", "-p"]);
    child::run(info).ok()?.0.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Without page cache, as Proxmox counts.
fn memory(cgroup: &str) -> Option<u64> {
    let (folder, version) = cgroups::controller("memory", cgroup)?;
    let (used, cache) = if version == 1 {
        ("memory.usage_in_bytes", "total_cache ")
    } else {
        ("memory.current", "file ")
    };
    let used: u64 = fs::read_to_string(folder.join(used)).ok()?.trim().parse().ok()?;
    let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
    let cache = stat
        .lines()
        .find_map(|line| line.strip_prefix(cache)?.trim().parse().ok())
        .unwrap_or(0);
    Some(used.saturating_sub(cache))
}

/// (received, sent) of all interfaces but loopback, as the container counts.
fn traffic(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() != "lo")
        .fold((0, 0), |(received, sent), (_, figures)| {
            let figures: Vec<u64> = figures
                .split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect();
            (
                received + figures.first().copied().unwrap_or(0),
                sent + figures.get(8).copied().unwrap_or(0),
            )
        })
}

/// Field 22 of `/proc/<pid>/stat`, in ticks of 1/100 s since boot.
fn uptime_s(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let started: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    let up = fs::read_to_string("/proc/uptime").ok()?;
    let up: u64 = up.split('.').next()?.parse().ok()?;
    Some(up.saturating_sub(started / 100))
}

fn remove(folder: &Path) -> Result<(), BodyError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_at(folder)(error)),
        _ => Ok(()),
    }
}
