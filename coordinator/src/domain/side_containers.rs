//! Containers of an app besides the one that serves.

use super::app_state::{UnknownWord, words};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

words!(
    /// What a container of an app is for that is not the one that serves.
    SideRole {
        /// It is being made to take the place of the one that serves.
        Replacement = "replacement",
        /// It served before, and is kept.
        Previous = "previous",
        /// A backup is tried out in it.
        Trial = "trial",
    }
);

/// How long the container that was replaced is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepPrevious {
    /// Until the new one has been running and healthy for the time that the settings say.
    #[default]
    ForAWhile,
    /// Until somebody asks.
    UntilAsked,
    /// Until the new one is healthy.
    No,
}

impl KeepPrevious {
    /// As it stands in a request.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "for_a_while" => Some(Self::ForAWhile),
            "until_asked" => Some(Self::UntilAsked),
            "no" => Some(Self::No),
            _ => None,
        }
    }
}
