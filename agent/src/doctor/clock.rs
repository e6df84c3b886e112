//! The clock: against the coordinator's, against our own certificate, and whether the kernel's is kept in time.

use super::Finding;
use crate::{
    config::Config,
    host::short,
    identity::{Identity, probe, their_clock},
};
use std::{path::Path, time::Duration};
use time::OffsetDateTime;

const CHECK: &str = "clock";
const BOUND: Duration = Duration::from_secs(5);
/// How long the coordinator is asked.
const ASKED: Duration = Duration::from_secs(9);
/// Clocks that are kept in time differ by less.
const APART_GOOD: time::Duration = time::Duration::minutes(1);

pub(super) async fn check(config: &Config, identity: Option<&Identity>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(identity) = identity {
        findings.extend(behind(identity.not_before, OffsetDateTime::now_utc()));
        let told = probe::their_time(identity, ASKED).await;
        findings.push(against(OffsetDateTime::now_utc(), told));
    }
    if config.host.proc == Path::new("/proc") {
        // systemd-timedated answers from the kernel's own adjtimex(2), whichever program keeps the time.
        let words = ["show", "--property=NTPSynchronized", "--value"].map(Into::into);
        let answer = short::run(Path::new("timedatectl"), &words, None, BOUND).await;
        let answer = answer.ok().filter(|end| end.success).map(|end| end.stdout);
        findings.push(synchronised(answer.as_deref()));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "fits the dates of this node's certificate"));
    }
    findings
}

fn behind(not_before: OffsetDateTime, now: OffsetDateTime) -> Option<Finding> {
    (now < not_before).then(|| {
        Finding::fail(
            CHECK,
            format!("it is {now} here, which is before this node's certificate begins ({not_before})"),
            "this clock is behind: set it, and let chrony or systemd-timesyncd keep it",
        )
    })
}

/// Against the coordinator's.
fn against(here: OffsetDateTime, told: Option<OffsetDateTime>) -> Finding {
    let todo =
        "set the clock that is wrong, and let chrony keep it: `timedatectl`, `chronyc tracking`, `chronyc makestep`";
    let Some(there) = told else {
        return Finding::warn(
            CHECK,
            "the coordinator does not say what time it is there: it is not reached, or older than the question",
            "see the check `coordinator`, or compare `date -u` on both machines",
        );
    };
    if let Err(differ) = their_clock::judge(here, Some(there), None) {
        return Finding::fail(CHECK, differ.to_string(), todo);
    }
    let apart = here - there;
    let says = format!("{} ms from the coordinator's", apart.whole_milliseconds());
    if apart.abs() > APART_GOOD {
        Finding::warn(CHECK, says, todo)
    } else {
        Finding::ok(CHECK, says)
    }
}

fn synchronised(answer: Option<&str>) -> Finding {
    match answer.map(str::trim) {
        Some("yes") => Finding::ok(CHECK, "kept in time, as the kernel says"),
        Some("no") => Finding::warn(
            CHECK,
            "the kernel says that nothing keeps the clock in time",
            "apt install chrony, or look at `chronyc tracking`",
        ),
        _ => Finding::warn(
            CHECK,
            "whether something keeps the clock in time cannot be told: timedatectl does not answer",
            "look at `timedatectl` and `chronyc tracking`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn the_clock_is_judged() {
        let epoch = OffsetDateTime::UNIX_EPOCH;
        assert!(behind(epoch, epoch).is_none());
        assert_eq!(
            behind(epoch, epoch - time::Duration::days(1)).map(|finding| finding.level),
            Some(Level::Fail)
        );
        let there = |seconds| against(epoch, Some(epoch + time::Duration::seconds(seconds)));
        assert_eq!(
            [
                there(1).level,
                there(-90).level,
                there(86_400).level,
                against(epoch, None).level
            ],
            [Level::Ok, Level::Warn, Level::Fail, Level::Warn]
        );
        assert!(there(86_400).says.contains("behind by a day"));
        let levels = [Some("yes\n"), Some("no\n"), None].map(|answer| synchronised(answer).level);
        assert_eq!(levels, [Level::Ok, Level::Warn, Level::Warn]);
    }
}
