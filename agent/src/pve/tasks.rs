//! Task ids: `UPID:node:PID:PSTART:START:type:id:user@realm:` (PVE::Tools::upid_decode).

use proximity_protocol::ids::Vmid;

/// The parts of a task id that we need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskId {
    pub(crate) node: String,
    /// Its worker's process.
    pub(crate) pid: i32,
    /// When that began, clock ticks since boot.
    pub(crate) pid_started_ticks: u64,
    /// Seconds since 1970.
    pub(crate) started_unix_s: i64,
    pub(crate) kind: String,
    pub(crate) subject: String,
}

impl TaskId {
    /// `None`: not a task id.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.strip_prefix("UPID:")?.split(':').collect();
        let [node, pid, pstart, start, kind, subject, user, ..] = parts.as_slice() else {
            return None;
        };
        if node.is_empty() || kind.is_empty() || !user.contains('@') {
            return None;
        }
        Some(Self {
            node: (*node).to_owned(),
            pid: i32::from_str_radix(pid, 16).ok()?,
            pid_started_ticks: u64::from_str_radix(pstart, 16).ok()?,
            started_unix_s: u32::from_str_radix(start, 16).ok()?.into(),
            kind: (*kind).to_owned(),
            subject: (*subject).to_owned(),
        })
    }

    /// Whether it did that to this container.
    pub(crate) fn is(&self, kind: &str, vmid: Vmid) -> bool {
        self.kind == kind && self.subject == vmid.to_string()
    }
}

/// How a task ended, by the last line of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TaskEnd {
    /// `TASK OK`, or with warnings.
    Ok,
    /// `TASK ERROR: …`.
    Failed(String),
}

/// `None`: it has not ended, or its worker was killed.
pub(crate) fn end(log: &str) -> Option<TaskEnd> {
    let last = log.lines().rev().find(|line| !line.trim().is_empty())?.trim();
    if last == "TASK OK" || last.starts_with("TASK WARNINGS: ") {
        return Some(TaskEnd::Ok);
    }
    last.strip_prefix("TASK ERROR: ")
        .map(|error| TaskEnd::Failed(error.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_recorded_id_is_understood() {
        let task = TaskId::parse("UPID:pve1:00000834:00056718:6B035DF6:vzcreate:120:root@pam:").unwrap();
        assert_eq!((task.node.as_str(), task.started_unix_s), ("pve1", 0x6B03_5DF6));
        assert_eq!((task.pid, task.pid_started_ticks), (0x834, 0x5_6718));
        let (ours, other) = (Vmid::new(120).unwrap(), Vmid::new(121).unwrap());
        assert!(task.is("vzcreate", ours) && !task.is("vzcreate", other) && !task.is("vzdestroy", ours));
        assert_eq!(
            TaskId::parse("UPID:pve1:zz:00056718:6B035DF6:vzcreate:120:root@pam:"),
            None
        );
    }

    #[test]
    fn the_last_line_tells_the_end() {
        for (log, ended) in [
            ("starting\nTASK OK", Some(TaskEnd::Ok)),
            ("TASK WARNINGS: 2\n", Some(TaskEnd::Ok)),
            (
                "x\nTASK ERROR: unable to create CT 100 - got timeout\n\n",
                Some(TaskEnd::Failed("unable to create CT 100 - got timeout".into())),
            ),
            ("extracting archive\n", None),
            ("", None),
        ] {
            assert_eq!(end(log), ended, "{log:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = (TaskId::parse(&text), TaskId::parse(&format!("UPID:{text}")));
        }
    }
}
