//! Cores and memory are as wanted: in force, or waiting for the container's next start. `pct set` ends with zero for both, and may end with an error after it
//! has put a value in the queue, so the configuration is read again and decides.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    standing,
};
use crate::pve::{argv, conf::Conf};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
    spec::Settings,
};
use std::time::Duration;

/// How long `pct set` may take: it waits 10 s for the configuration's lock.
const BOUND: Duration = Duration::from_secs(120);

pub(super) async fn run(act: &Act<'_>, target: &Target, settings: &Settings) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    act.check_idle(vmid)?;
    let container = standing::require(act.node, target)?;
    container.check_made("its configuration is not changed")?;
    let missing = missing(&container.conf, settings);
    if missing.is_empty() {
        return Ok(configured(container.conf));
    }
    container.check_unlocked()?;
    let words: Vec<String> = missing.iter().map(|(key, value)| format!("{key} {value}")).collect();
    act.say(&format!("setting {} of container {vmid}", words.join(", ")));
    let argv = argv::set(vmid, &missing);
    let end = act.tool("set", &argv, Some(vmid), Bound::Wait(BOUND), &[]).await;
    let after = standing::require(act.node, target)?;
    if self::missing(&after.conf, settings).is_empty() {
        return Ok(configured(after.conf));
    }
    Err(match end {
        Ok(end) if end.success() => Fault::new(
            FaultKind::ToolFailed,
            format!(
                "pct set {vmid} reported success, but its configuration is not as asked: see `pct pending {vmid}` on the node"
            ),
        ),
        Ok(end) => failure(&argv, &end),
        Err(fault) => did_not_happen(fault),
    })
}

fn configured(conf: Conf) -> Outcome {
    Outcome::Configured {
        pending: conf.pending.into_keys().collect(),
    }
}

/// What is neither in force nor on its way.
fn missing(conf: &Conf, settings: &Settings) -> Vec<(&'static str, u32)> {
    let memory_mb = u32::try_from(conf.memory_mb()).ok();
    let swap_mb = u32::try_from(conf.swap_mb()).ok();
    [
        ("cores", settings.cpu_cores, conf.cores()),
        ("memory", settings.memory_mb, memory_mb),
        ("swap", settings.swap_mb, swap_mb),
    ]
    .into_iter()
    .filter_map(|(key, wanted, current)| {
        let next = match conf.pending.get(key) {
            Some(value) => value.as_deref().and_then(|value| value.parse().ok()),
            None => current,
        };
        wanted
            .filter(|wanted| next != Some(*wanted))
            .map(|wanted| (key, wanted))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_counts_as_set_and_what_waits_otherwise_does_not() {
        let conf = Conf::parse("cores: 2\nmemory: 512\n\n[pve:pending]\nmemory: 1024\ndelete: cores\n");
        let settings = |cpu_cores, memory_mb, swap_mb| Settings {
            cpu_cores,
            memory_mb,
            swap_mb,
        };
        assert!(missing(&conf, &settings(None, Some(1024), Some(512))).is_empty());
        assert_eq!(
            missing(&conf, &settings(Some(2), Some(512), Some(0))),
            [("cores", 2), ("memory", 512), ("swap", 0)]
        );
        assert!(missing(&conf, &Settings::default()).is_empty());
    }
}
