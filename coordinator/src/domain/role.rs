//! What a user may do.

use super::app_state::{UnknownWord, words};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

words!(
    /// Roles, from the least to the most.
    Role {
        /// Reads own apps.
        Viewer = "viewer",
        /// Own apps.
        User = "user",
        /// All apps, no users or settings.
        Operator = "operator",
        /// Everything.
        Admin = "admin",
    }
);
