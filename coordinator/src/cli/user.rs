//! `user`: accounts, for whoever has the machine.

use super::{exit::Failure, owner::become_owner, password};
use crate::{
    auth::{passwords::Passwords, setup_code::SetupCode},
    clock::SystemClock,
    config::Config,
    service::{Role, users::UserService},
    store::Store,
};
use std::{path::PathBuf, sync::Arc};

/// Accounts.
#[derive(Debug, clap::Subcommand)]
pub(super) enum User {
    /// Make a user; the password comes from the terminal, standard input or a file
    Create {
        /// The name to log in with
        name: String,
        /// An admin, who may do everything
        #[arg(long, conflicts_with = "role")]
        admin: bool,
        /// admin, operator, user or viewer
        #[arg(long, default_value = "user")]
        role: Role,
        /// File whose first line is the password
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Give a user another password, let it log in again, and end all its sessions
    Password {
        /// The user's name
        name: String,
        /// File whose first line is the password
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

impl User {
    pub(super) async fn execute(self, config: &Config) -> Result<(), Failure> {
        config.ensure_state()?;
        // Asked before the registry is opened: a person may take their time.
        let (name, password) = match &self {
            Self::Create {
                name, password_file, ..
            }
            | Self::Password { name, password_file } => (
                name.clone(),
                password::read(password::PASSWORD, password_file.as_deref())?,
            ),
        };
        become_owner(&config.state)?;
        let store = Store::open(&config.registry()).await?;
        let users = UserService::new(
            store.clone(),
            Arc::new(SystemClock),
            Passwords::default(),
            SetupCode::new(&config.state),
        );
        let done = match self {
            Self::Create { admin, role, .. } => {
                let role = if admin { Role::Admin } else { role };
                users
                    .create(&name, password, role)
                    .await
                    .map(|id| format!("made user {name} (id {id}, role {role})"))
            }
            Self::Password { .. } => users
                .set_password(&name, password)
                .await
                .map(|()| format!("{name} has another password; every session of it has ended")),
        };
        store.close().await;
        let done = done.map_err(|error| {
            let failure = Failure::from(error);
            Failure::new(failure.code, format!("user {name}: {}", failure.message))
        })?;
        eprintln!("{done}");
        Ok(())
    }
}
