//! The states of an app, and which action may follow from which.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A word that is none of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not one of: {allowed}")]
pub struct UnknownWord {
    /// What was given.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }
        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// As it stands in the registry and in answers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|s| s.as_str() == text).ok_or_else(|| UnknownWord {
                    value: text.chars().take(80).collect(),
                    allowed: Self::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}
pub(crate) use words;

words!(
    /// What an app is doing.
    Status {
        /// Its first container is being made.
        Deploying = "deploying",
        /// It is being made from another app.
        Cloning = "cloning",
        /// A container that was there before is being taken over.
        Adopting = "adopting",
        /// It serves.
        Running = "running",
        /// It was stopped on request.
        Stopped = "stopped",
        /// On the way to running.
        Starting = "starting",
        /// On the way to stopped.
        Stopping = "stopping",
        /// Its container is being replaced by a newer one.
        Updating = "updating",
        /// It is being brought back from a backup.
        Restoring = "restoring",
        /// On the way out.
        Removing = "removing",
        /// It needs somebody; `status_reason` says why.
        Error = "error",
        /// What it does cannot be told.
        Unknown = "unknown",
    }
);

words!(
    /// What a user may ask of an app.
    Action {
        /// Run it.
        Start = "start",
        /// Shut it down.
        Stop = "stop",
        /// Stop and start.
        Restart = "restart",
        /// Remove it for good.
        Delete = "delete",
    }
);

impl Action {
    /// Whether it may follow from `status`.
    pub fn allowed_from(self, status: Status) -> bool {
        match self {
            Action::Start => matches!(status, Status::Stopped | Status::Error),
            Action::Stop => matches!(status, Status::Running | Status::Error | Status::Unknown),
            Action::Restart => status == Status::Running,
            Action::Delete => status != Status::Removing,
        }
    }

    /// The status while it is under way.
    pub fn in_progress(self) -> Status {
        match self {
            Action::Start | Action::Restart => Status::Starting,
            Action::Stop => Status::Stopping,
            Action::Delete => Status::Removing,
        }
    }

    /// What the answer says: `Starting my-app`.
    pub fn participle(self) -> &'static str {
        match self {
            Action::Start => "Starting",
            Action::Stop => "Stopping",
            Action::Restart => "Restarting",
            Action::Delete => "Deleting",
        }
    }

    /// Why it may not follow, naming what may.
    pub fn refusal(self, hostname: &str, status: Status) -> String {
        let allowed: Vec<&str> = Action::ALL
            .iter()
            .filter(|a| a.allowed_from(status))
            .map(|a| a.as_str())
            .collect();
        let from: Vec<&str> = Status::ALL
            .iter()
            .filter(|s| self.allowed_from(**s))
            .map(|s| s.as_str())
            .collect();
        let now = if allowed.is_empty() {
            "no action is possible until that is over".to_owned()
        } else {
            format!("possible now: {}", allowed.join(", "))
        };
        format!(
            "{hostname} is {status}; {self} is possible from {}; {now}",
            from.join(", ")
        )
    }
}

impl Status {
    /// Whether an operation is taking the app from one rest to another.
    pub fn in_transit(self) -> bool {
        !matches!(
            self,
            Status::Running | Status::Stopped | Status::Error | Status::Unknown
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_read_back() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse::<Status>().unwrap(), *status);
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        let error = "gone".parse::<Status>().unwrap_err().to_string();
        assert!(error.contains("running"), "{error}");
    }

    #[test]
    fn actions_follow_the_contract() {
        use Status::*;
        let table: &[(Action, &[Status])] = &[
            (Action::Start, &[Stopped, Error]),
            (Action::Stop, &[Running, Error, Unknown]),
            (Action::Restart, &[Running]),
        ];
        for (action, from) in table {
            for status in Status::ALL {
                assert_eq!(
                    action.allowed_from(*status),
                    from.contains(status),
                    "{action} from {status}"
                );
            }
        }
        for status in Status::ALL {
            assert_eq!(Action::Delete.allowed_from(*status), *status != Removing);
        }
    }

    #[test]
    fn a_refusal_says_what_is_possible() {
        let text = Action::Start.refusal("web", Status::Running);
        assert_eq!(
            text,
            "web is running; start is possible from stopped, error; possible now: stop, restart, delete"
        );
    }
}
