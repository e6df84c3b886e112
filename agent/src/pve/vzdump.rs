//! What `vzdump` says: its log tells which archive it makes, what goes into it, and how far it got. It is also what is left of one that was killed.

use proximity_protocol::backup::BackupMode;

/// Where the archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Archive {
    /// A file: its path.
    File(String),
    /// A backup of a Proxmox Backup Server: `ct/100/2026-11-22T20:11:12Z`.
    OnServer(String),
}

/// A volume that the archive does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// `mp0`.
    pub(crate) key: String,
    /// `disabled`, `not a volume`.
    pub(crate) why: String,
}

/// The log of one backup of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VzdumpLog {
    /// It holds the container: from here on it changes things.
    pub(crate) began: bool,
    /// When that was, as file names have it: `2026_11_22-21_09_27`.
    pub(crate) began_at: Option<String>,
    /// Whether the container ran.
    pub(crate) was_running: Option<bool>,
    /// How it is done, after what it could not do.
    pub(crate) mode: Option<BackupMode>,
    /// What it makes.
    pub(crate) archive: Option<Archive>,
    /// What it leaves out.
    pub(crate) left_out: Vec<LeftOut>,
    /// The archive is complete, and how long that took, seconds.
    pub(crate) finished_s: Option<u64>,
    /// Why it failed.
    pub(crate) failed: Option<String>,
}

impl VzdumpLog {
    /// Any text is a log: lines that say nothing of this are skipped.
    pub(crate) fn parse(text: &str) -> Self {
        let mut log = Self::default();
        for line in text.lines() {
            if let Some(error) = line.strip_prefix("ERROR: ") {
                let reason = error
                    .strip_prefix("Backup of VM ")
                    .and_then(|rest| rest.split_once(" failed - "));
                log.failed = Some(reason.map_or(error, |(_, reason)| reason).to_owned());
            } else if let Some(words) = line.strip_prefix("INFO: ") {
                log.take(words);
            }
        }
        log
    }

    fn take(&mut self, words: &str) {
        if words.starts_with("Starting Backup of VM ") {
            self.began = true;
        } else if let Some(at) = words.strip_prefix("Backup started at ") {
            self.began_at = in_file_name(at);
        } else if let Some(status) = words.strip_prefix("status = ") {
            self.was_running = Some(status == "running");
        } else if let Some(mode) = words.strip_prefix("backup mode: ") {
            self.mode = match mode {
                "snapshot" => Some(BackupMode::Snapshot),
                "suspend" => Some(BackupMode::Suspend),
                "stop" => Some(BackupMode::Stop),
                _ => None,
            };
        } else if let Some(path) = quoted(words, "creating vzdump archive ") {
            self.archive = Some(Archive::File(path));
        } else if let Some(name) = quoted(words, "creating Proxmox Backup Server archive ") {
            self.archive = Some(Archive::OnServer(name));
        } else if let Some(left_out) = left_out(words)
            && !self.left_out.contains(&left_out)
        {
            self.left_out.push(left_out);
        } else if let Some(rest) = words.strip_prefix("Finished Backup of VM ") {
            self.finished_s = rest
                .split_once('(')
                .and_then(|(_, time)| seconds(time.strip_suffix(')')?));
        }
    }

    /// Names of the files that it works on begin so: `vzdump-lxc-100-2026_11_22-21_09_27`.
    pub(crate) fn stem(&self, vmid: proximity_protocol::ids::Vmid) -> Option<String> {
        Some(format!("vzdump-lxc-{vmid}-{}", self.began_at.as_ref()?))
    }
}

/// `2026-11-22 21:09:27` as `2026_11_22-21_09_27`.
fn in_file_name(at: &str) -> Option<String> {
    let fits = at.len() == 19
        && at.bytes().enumerate().all(|(place, byte)| match place {
            4 | 7 => byte == b'-',
            10 => byte == b' ',
            13 | 16 => byte == b':',
            _ => byte.is_ascii_digit(),
        });
    fits.then(|| {
        let (date, time) = at.split_at(10);
        format!("{}-{}", date.replace('-', "_"), time.trim_start().replace(':', "_"))
    })
}

fn quoted(words: &str, before: &str) -> Option<String> {
    let text = words.strip_prefix(before)?.strip_prefix('\'')?.strip_suffix('\'')?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// `excluding volume mount point mp1 ('/srv') from backup (disabled)`, `excluding bind mount point mp0 ('/x') from backup (not a volume)`.
fn left_out(words: &str) -> Option<LeftOut> {
    let (_, rest) = words.strip_prefix("excluding ")?.split_once(" mount point ")?;
    let (key, rest) = rest.split_once(' ')?;
    let (_, why) = rest.rsplit_once(" from backup (")?;
    Some(LeftOut {
        key: key.to_owned(),
        why: why.strip_suffix(')')?.to_owned(),
    })
}

/// `00:01:08`.
fn seconds(time: &str) -> Option<u64> {
    let mut parts = time.split(':').map(str::parse::<u64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    if parts.next().is_some() {
        return None;
    }
    hours
        .checked_mul(3600)?
        .checked_add(minutes.checked_mul(60)?)?
        .checked_add(seconds)
}

/// The format of an archive by its file's name; `None`: it is none.
pub(crate) fn format_of(name: &str) -> Option<&'static str> {
    ["tar.zst", "tar.gz", "tar.lzo", "tar"]
        .into_iter()
        .find(|format| name.strip_suffix(format).is_some_and(|stem| stem.ends_with('.')))
}

/// The program that reads an archive, and its arguments; `None`: it is plain.
pub(crate) fn decompressor(format: &str) -> Option<&'static str> {
    match format {
        "tar.zst" => Some("zstd"),
        "tar.gz" => Some("gzip"),
        "tar.lzo" => Some("lzop"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use proximity_protocol::ids::Vmid;

    const FALLEN_BACK: &str = "INFO: starting new backup job: vzdump 100 --storage local --compress zstd --mode snapshot\nINFO: Starting Backup of VM 100 (lxc)\n\
        INFO: Backup started at 2026-11-22 21:09:27\nINFO: status = running\nINFO: CT Name: ct100\nINFO: including mount point rootfs ('/') in backup\n\
        INFO: excluding volume mount point mp1 ('/srv') from backup (disabled)\nINFO: mode failure - some volumes do not support snapshots\n\
        INFO: trying 'suspend' mode instead\nINFO: backup mode: suspend\nINFO: ionice priority: 7\nINFO: CT Name: ct100\n\
        INFO: including mount point rootfs ('/') in backup\nINFO: excluding volume mount point mp1 ('/srv') from backup (disabled)\n\
        INFO: excluding bind mount point mp2 ('/mnt/x') from backup (not a volume)\n\
        INFO: starting first sync /proc/16769/root/ to /var/lib/vz/dump/vzdump-lxc-100-2026_11_22-21_09_27.tmp\n\
        INFO: creating vzdump archive '/var/lib/vz/dump/vzdump-lxc-100-2026_11_22-21_09_27.tar.zst'\nINFO: archive file size: 54MB\n\
        INFO: Finished Backup of VM 100 (00:01:08)\nINFO: Backup finished at 2026-11-22 21:09:35\nINFO: Backup job finished successfully\n";

    #[test]
    fn a_recorded_log_is_understood() {
        let log = VzdumpLog::parse(FALLEN_BACK);
        assert!(log.began && log.was_running == Some(true) && log.failed.is_none());
        assert_eq!((log.mode, log.finished_s), (Some(BackupMode::Suspend), Some(68)));
        let stem = log.stem(Vmid::new(100).unwrap()).unwrap();
        assert_eq!(
            log.archive,
            Some(Archive::File(format!("/var/lib/vz/dump/{stem}.tar.zst")))
        );
        let left_out: Vec<(&str, &str)> = log.left_out.iter().map(|l| (l.key.as_str(), l.why.as_str())).collect();
        assert_eq!(left_out, [("mp1", "disabled"), ("mp2", "not a volume")]);
    }

    #[test]
    fn what_failed_says_why_and_what_was_killed_how_far_it_got() {
        let failed = VzdumpLog::parse(
            "INFO: Starting Backup of VM 102 (lxc)\nERROR: Backup of VM 102 failed - CT is locked (backup)\nINFO: Failed at 2026-11-22 21:10:59\n",
        );
        assert_eq!(failed.failed.as_deref(), Some("CT is locked (backup)"));
        let refused = VzdumpLog::parse("ERROR: can't acquire lock '/var/run/vzdump.lock' (wait = 0)\n");
        assert!(!refused.began && refused.failed.unwrap().contains("vzdump.lock"));
        let killed = &FALLEN_BACK[..FALLEN_BACK.find("INFO: Finished").unwrap()];
        let log = VzdumpLog::parse(killed);
        assert!(log.began && log.finished_s.is_none() && log.failed.is_none() && log.archive.is_some());
        let server = VzdumpLog::parse("INFO: creating Proxmox Backup Server archive 'ct/100/2026-11-22T20:11:12Z'\n");
        assert_eq!(
            server.archive,
            Some(Archive::OnServer("ct/100/2026-11-22T20:11:12Z".into()))
        );
    }

    #[test]
    fn formats_are_told_by_their_end() {
        for (name, format) in [
            ("vzdump-lxc-1-x.tar.zst", Some("tar.zst")),
            ("vzdump-lxc-1-x.tar", Some("tar")),
            ("vzdump-lxc-1-x.tar.dat", None),
            ("xtar", None),
        ] {
            assert_eq!(format_of(name), format, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>(), line in "(INFO: |ERROR: )?(Backup started at |excluding |Finished Backup of VM |creating vzdump archive |status = )?[ -~é]{0,40}") {
            let log = VzdumpLog::parse(&format!("{text}\n{line}"));
            let _ = (log.stem(Vmid::new(100).unwrap()), format_of(&text), seconds(&text), in_file_name(&text));
        }
    }
}
