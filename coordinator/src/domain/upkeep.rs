//! The words of reconciliation and janitor: which of the two, why it ran, how far it is.

use super::app_state::{UnknownWord, words};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

words!(
    /// What looks after the registry by itself.
    Round {
        /// Compares it with what is on the nodes.
        Reconcile = "reconcile",
        /// Ends what is overdue and forgets what is old.
        Janitor = "janitor",
    }
);

words!(
    /// Why a run was made. It changes nothing of what the run does.
    Cause {
        /// It was due.
        Timer = "timer",
        /// The coordinator has started.
        Start = "start",
        /// A node has connected again.
        Reconnect = "reconnect",
        /// A node told that something has changed.
        Change = "change",
        /// Somebody asked for it.
        Request = "request",
    }
);

words!(
    /// How far a run is.
    RoundState {
        /// It begins soon.
        Asked = "asked",
        /// It is being made.
        Running = "running",
        /// It has ended.
        Done = "done",
        /// It was not made to its end: the coordinator was stopped in its middle, or the registry could not be read or written.
        Broken = "broken",
    }
);
