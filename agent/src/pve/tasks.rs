//! Task ids: `UPID:node:PID:PSTART:START:type:id:user@realm:` (PVE::Tools::upid_decode).

use proximity_protocol::ids::Vmid;

/// The parts of a task id that we need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskId {
    pub(crate) node: String,
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
        u32::from_str_radix(pid, 16).ok()?;
        u64::from_str_radix(pstart, 16).ok()?;
        if node.is_empty() || kind.is_empty() || !user.contains('@') {
            return None;
        }
        Some(Self {
            node: (*node).to_owned(),
            started_unix_s: u32::from_str_radix(start, 16).ok()?.into(),
            kind: (*kind).to_owned(),
            subject: (*subject).to_owned(),
        })
    }

    /// Whether it made this container.
    pub(crate) fn creates(&self, vmid: Vmid) -> bool {
        self.kind == "vzcreate" && self.subject == vmid.to_string()
    }
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
        assert!(task.creates(Vmid::new(120).unwrap()) && !task.creates(Vmid::new(121).unwrap()));
        assert_eq!(
            TaskId::parse("UPID:pve1:zz:00056718:6B035DF6:vzcreate:120:root@pam:"),
            None
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = (TaskId::parse(&text), TaskId::parse(&format!("UPID:{text}")));
        }
    }
}
