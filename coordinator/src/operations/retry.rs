//! What a fault leads to: wait, try again, choose again, follow the container, turn back, or give up.

use proximity_protocol::fault::FaultKind;
use std::time::Duration;

/// How patient the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// How many commands that load a node it gets at a time.
    pub per_node: usize,
    /// How many commands that only wait inside its containers a node gets at a time, besides.
    pub inside_per_node: usize,
    /// How many operations of a node may be under way or queued; more are refused, except for deletions.
    pub queue_per_node: usize,
    /// How often a step is tried in all.
    pub tries: u32,
    /// How often an undo, or a step of an operation that has no way back, is tried in all.
    pub undo_tries: u32,
    /// Pause before the second try; it doubles with each.
    pub first_retry: Duration,
    /// The longest pause.
    pub max_retry: Duration,
    /// How often to look whether somebody else's lock is gone.
    pub poll: Duration,
    /// Pause before a lost connection's command is sent again.
    pub ask_again: Duration,
    /// How often another VMID, port or address is chosen in one operation.
    pub choices: u32,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            per_node: 4,
            inside_per_node: 16,
            queue_per_node: 500,
            tries: 3,
            undo_tries: 10,
            first_retry: Duration::from_secs(60),
            max_retry: Duration::from_secs(900),
            poll: Duration::from_secs(15),
            ask_again: Duration::from_secs(1),
            choices: 10,
        }
    }
}

impl EngineSettings {
    /// The pause after `tries` tries: 60·2ⁿ s, at most 900 s, unless set otherwise.
    pub fn pause(&self, tries: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(tries.saturating_sub(1));
        self.first_retry.saturating_mul(doubled).min(self.max_retry)
    }
}

/// In which direction, and what is known about the step that failed.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    /// The fault.
    pub kind: FaultKind,
    /// Tries so far that count, this one included.
    pub tries: u32,
    /// Whether it was the way back.
    pub undo: bool,
    /// Whether the operation has no way back.
    pub forward_only: bool,
    /// Faults after which this step chooses again.
    pub chooses: &'a [FaultKind],
    /// Faults after which this step is not tried again.
    pub ends: &'a [FaultKind],
    /// How often was chosen before.
    pub choices: u32,
    /// Faults that mean that it is so already.
    pub already: &'a [FaultKind],
    /// Whether the operation has started the container before.
    pub started: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is so already.
    Already,
    /// The cause goes away by itself or by an operator: look again then; no try was spent.
    Wait(Duration),
    /// Try again then.
    Retry(Duration),
    /// Reserve another VMID, port or address.
    ChooseAgain,
    /// The container is on another node: go on there, or wait until that can be. No try was spent.
    Follow,
    /// The container that the operation had started does not run any more: start it again then, and go on from there.
    StartAgain(Duration),
    /// Take back what was done.
    TurnBack,
    /// Tell the operator.
    GiveUp,
}

/// Whether a fault of this kind spends a try: not what only waits.
pub fn spends(kind: FaultKind) -> bool {
    !(kind.waits() || matches!(kind, FaultKind::OldEpoch | FaultKind::MovedToOtherNode))
}

/// Decides.
pub fn after(settings: &EngineSettings, failed: &Failed<'_>) -> Verdict {
    if failed.already.contains(&failed.kind) {
        return Verdict::Already;
    }
    // An old epoch means that another coordinator has taken over: this one changes nothing more, and the rows wait for whoever runs them next.
    if failed.kind.waits() || failed.kind == FaultKind::OldEpoch {
        return Verdict::Wait(settings.poll);
    }
    if failed.kind == FaultKind::MovedToOtherNode {
        return Verdict::Follow;
    }
    if failed.undo || failed.forward_only {
        // Also what does not go away by itself: an operator may put it right meanwhile, and giving up leaves something behind.
        return if failed.tries < settings.undo_tries {
            Verdict::Retry(settings.pause(failed.tries))
        } else {
            Verdict::GiveUp
        };
    }
    if failed.chooses.contains(&failed.kind) && failed.choices < settings.choices {
        return Verdict::ChooseAgain;
    }
    // It was migrated or moved by HA in the middle, or it crashed.
    if failed.kind == FaultKind::ContainerStopped && failed.started && failed.tries < settings.tries {
        return Verdict::StartAgain(settings.pause(failed.tries));
    }
    if failed.kind.retryable() && !failed.ends.contains(&failed.kind) && failed.tries < settings.tries {
        return Verdict::Retry(settings.pause(failed.tries));
    }
    Verdict::TurnBack
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Failed<'static> = Failed {
        kind: FaultKind::ToolFailed,
        tries: 1,
        undo: false,
        forward_only: false,
        chooses: &[FaultKind::PortTaken],
        ends: &[FaultKind::DeadlineExceeded],
        choices: 0,
        already: &[FaultKind::ContainerMissing],
        started: false,
    };

    #[test]
    fn pauses_double_up_to_a_quarter_of_an_hour() {
        let settings = EngineSettings::default();
        let seconds: Vec<u64> = (1..=7).map(|tries| settings.pause(tries).as_secs()).collect();
        assert_eq!(seconds, [60, 120, 240, 480, 900, 900, 900]);
        assert_eq!(settings.pause(u32::MAX).as_secs(), 900);
    }

    #[test]
    fn each_fault_leads_somewhere() {
        let settings = EngineSettings::default();
        let minute = Duration::from_secs(60);
        let verdict = |failed| after(&settings, &failed);
        assert_eq!(verdict(STEP), Verdict::Retry(minute));
        assert_eq!(verdict(Failed { tries: 3, ..STEP }), Verdict::TurnBack);
        assert_eq!(
            verdict(Failed {
                tries: 3,
                undo: true,
                ..STEP
            }),
            Verdict::Retry(Duration::from_secs(240))
        );
        assert_eq!(
            verdict(Failed {
                tries: 10,
                undo: true,
                ..STEP
            }),
            Verdict::GiveUp
        );
        assert_eq!(
            verdict(Failed {
                tries: 10,
                forward_only: true,
                ..STEP
            }),
            Verdict::GiveUp
        );
        for (undo, forward_only) in [(false, false), (true, false), (false, true)] {
            let moved = Failed {
                kind: FaultKind::MovedToOtherNode,
                tries: 99,
                undo,
                forward_only,
                ..STEP
            };
            assert_eq!(verdict(moved), Verdict::Follow);
        }
        assert_eq!(
            verdict(Failed {
                kind: FaultKind::ContainerMissing,
                ..STEP
            }),
            Verdict::Already
        );
        assert_eq!(
            verdict(Failed {
                kind: FaultKind::Locked,
                tries: 99,
                ..STEP
            }),
            Verdict::Wait(settings.poll)
        );
        assert_eq!(
            verdict(Failed {
                kind: FaultKind::OldEpoch,
                undo: true,
                ..STEP
            }),
            Verdict::Wait(settings.poll)
        );
        assert_eq!(
            verdict(Failed {
                kind: FaultKind::PortTaken,
                ..STEP
            }),
            Verdict::ChooseAgain
        );
        assert_eq!(
            verdict(Failed {
                kind: FaultKind::PortTaken,
                choices: 10,
                ..STEP
            }),
            Verdict::TurnBack
        );
        assert_eq!(
            verdict(Failed {
                kind: FaultKind::DeadlineExceeded,
                ..STEP
            }),
            Verdict::TurnBack
        );
        assert_eq!(
            verdict(Failed {
                kind: FaultKind::VmidTaken,
                ..STEP
            }),
            Verdict::TurnBack
        );
        let stopped = Failed {
            kind: FaultKind::ContainerStopped,
            ..STEP
        };
        assert_eq!(verdict(stopped), Verdict::TurnBack);
        let started = Failed {
            started: true,
            ..stopped
        };
        assert_eq!(verdict(started), Verdict::StartAgain(minute));
        assert_eq!(verdict(Failed { tries: 3, ..started }), Verdict::TurnBack);
        assert_eq!(
            verdict(Failed {
                kind: FaultKind::PolicyDenied,
                ..STEP
            }),
            Verdict::TurnBack
        );
    }
}
