//! The states of an operation and of its steps.

use super::app_state::{UnknownWord, words};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

words!(
    /// Where an operation stands.
    OperationState {
        /// Accepted, nothing done yet.
        Queued = "queued",
        /// On its way.
        Running = "running",
        /// On its way, held up by something that goes away by itself or by an operator; `reason` names it.
        Waiting = "waiting",
        /// Taking back what it did.
        Undoing = "undoing",
        /// Ended as asked.
        Done = "done",
        /// Ended with everything taken back.
        Undone = "undone",
        /// Ended by giving up; `action` names what frees it.
        Stuck = "stuck",
    }
);

impl OperationState {
    /// Whether nothing follows any more.
    pub fn ended(self) -> bool {
        matches!(self, Self::Done | Self::Undone | Self::Stuck)
    }
}

words!(
    /// Where a step stands.
    StepState {
        /// Not begun.
        Pending = "pending",
        /// Its command is on the way, was perhaps carried out; it is sent again with the same key until an answer comes.
        Running = "running",
        /// It failed and is tried again with a new key at `retry_at`.
        Waiting = "waiting",
        /// Done.
        Done = "done",
        /// It failed for good.
        Failed = "failed",
        /// Being taken back.
        Undoing = "undoing",
        /// Taken back.
        Undone = "undone",
        /// There was nothing to do.
        Skipped = "skipped",
    }
);

impl StepState {
    /// Whether something of it may exist, so that it has to be taken back.
    pub fn touched(self) -> bool {
        matches!(
            self,
            Self::Running | Self::Waiting | Self::Done | Self::Failed | Self::Undoing
        )
    }
    /// Whether nothing is left to do on the way forward.
    pub fn passed(self) -> bool {
        matches!(self, Self::Done | Self::Skipped)
    }
}
