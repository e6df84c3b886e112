//! Login, registration, sessions, and what users do with their own account.

use super::{Caller, FieldError, ServiceError, users};
use crate::{
    auth::{
        AuthError,
        passwords::{self, Passwords, Turn},
        rate_limit::RateLimit,
        sessions::{Refreshed, Sessions, Tokens},
        setup_code::SetupCode,
    },
    clock::{SharedClock, UnixMs, rfc3339},
    domain::{role::Role, settings::FeatureSettings},
    store::{self, AuditEntry, Store, StoreError, users::UserRow},
};
use proximity_protocol::secret::SecretText;
use serde::Serialize;
use serde_json::{Map, Value};
use std::{net::IpAddr, sync::Arc};

pub use crate::domain::network::IpNet;

impl From<AuthError> for ServiceError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Store(error) => Self::Store(error),
            other => Self::Internal(other.to_string()),
        }
    }
}

/// Where a request comes from, before it is known who asks.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The client's address.
    pub remote: Option<IpAddr>,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
}

/// A caller with a session.
#[derive(Debug, Clone)]
pub struct Session {
    /// Who.
    pub caller: Caller,
    /// The session's id.
    pub sid: String,
    /// When the access token ends.
    pub expires_at: UnixMs,
}

/// A user as a login answers it.
#[derive(Debug, Clone, Serialize)]
pub struct UserSummary {
    id: i64,
    username: String,
    email: Option<String>,
    preferred_theme: String,
    role: Role,
}

/// The answer to a login.
#[derive(Debug, Clone, Serialize)]
pub struct LoggedIn {
    /// For requests.
    pub access_token: String,
    /// For new tokens.
    pub refresh_token: String,
    /// Who.
    pub user: UserSummary,
}

/// A user with everything that is shown.
#[derive(Debug, Clone, Serialize)]
pub struct UserView {
    id: i64,
    username: String,
    email: Option<String>,
    first_name: String,
    last_name: String,
    bio: String,
    avatar: Option<String>,
    preferred_theme: String,
    role: Role,
    is_active: bool,
    is_staff: bool,
    last_login: Option<String>,
    date_joined: String,
    max_apps: Option<u32>,
    max_cpu_cores: Option<u32>,
    max_memory_mb: Option<u32>,
    max_disk_gb: Option<u32>,
    max_backups: Option<u32>,
}

impl From<&UserRow> for UserView {
    fn from(u: &UserRow) -> Self {
        Self {
            id: u.id,
            username: u.username.clone(),
            email: u.email.clone(),
            first_name: u.first_name.clone(),
            last_name: u.last_name.clone(),
            bio: u.bio.clone(),
            avatar: u.avatar.clone(),
            preferred_theme: u.preferred_theme.clone(),
            role: u.role,
            is_active: u.is_active,
            is_staff: u.role == Role::Admin,
            last_login: u.last_login.map(rfc3339),
            date_joined: rfc3339(u.date_joined),
            max_apps: u.quotas.max_apps,
            max_cpu_cores: u.quotas.max_cpu_cores,
            max_memory_mb: u.quotas.max_memory_mb,
            max_disk_gb: u.quotas.max_disk_gb,
            max_backups: u.quotas.max_backups,
        }
    }
}

/// What a registration brings.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The wished name.
    pub username: String,
    /// Also taken at login.
    pub email: Option<String>,
    /// The wished password.
    pub password: SecretText,
    /// Of the first user.
    pub setup_code: Option<String>,
}

/// The use cases of authentication.
#[derive(Clone)]
pub struct AuthService {
    store: Store,
    clock: SharedClock,
    passwords: Passwords,
    sessions: Sessions,
    limit: Arc<RateLimit>,
    setup: SetupCode,
}

impl std::fmt::Debug for AuthService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthService(…)")
    }
}

fn bad_credentials() -> ServiceError {
    ServiceError::Unauthenticated("user name or password is wrong".into())
}

fn logged_in(tokens: Tokens, user: &UserRow) -> LoggedIn {
    LoggedIn {
        access_token: tokens.access,
        refresh_token: tokens.refresh,
        user: UserSummary {
            id: user.id,
            username: user.username.clone(),
            email: user.email.clone(),
            preferred_theme: user.preferred_theme.clone(),
            role: user.role,
        },
    }
}

fn entry(actor: &str, action: &str, outcome: &str, origin: &Origin) -> AuditEntry {
    AuditEntry {
        actor: actor.chars().take(100).collect(),
        action: action.into(),
        remote: origin.remote.map(|a| a.to_string()),
        outcome: outcome.into(),
        request_id: origin.request_id.clone(),
        ..AuditEntry::default()
    }
}

impl AuthService {
    /// Puts the use cases together.
    pub fn new(store: Store, clock: SharedClock, passwords: Passwords, sessions: Sessions, setup: SetupCode) -> Self {
        Self {
            store,
            clock,
            passwords,
            sessions,
            limit: Arc::default(),
            setup,
        }
    }

    async fn audit(&self, entry: AuditEntry) -> Result<(), ServiceError> {
        let mut tx = self.store.begin().await?;
        store::audit(&mut tx, self.clock.now_ms(), &entry).await?;
        Ok(tx.commit().await.map_err(StoreError::from)?)
    }

    /// Waits for a turn to try a password, or refuses and says for how long. Checked when it is the caller's turn: by then those before it have failed.
    async fn turn(&self, account: &str, action: &str, origin: &Origin) -> Result<Turn, ServiceError> {
        let turn = self.passwords.turn().await?;
        match self.limit.check(account, origin.remote, self.clock.now_ms()) {
            Ok(()) => Ok(turn),
            Err(retry_after_s) => {
                drop(turn);
                let mut refused = entry(account, action, "refused", origin);
                refused.detail = Some("too many tries".into());
                self.audit(refused).await?;
                Err(ServiceError::TooMany {
                    message: format!("too many tries with a wrong password; try again in {retry_after_s} seconds"),
                    retry_after_s,
                })
            }
        }
    }

    /// A try has failed: counted, and written down.
    async fn failed(&self, account: &str, action: &str, origin: &Origin) -> Result<(), ServiceError> {
        self.limit.failed(account, origin.remote, self.clock.now_ms());
        self.audit(entry(account, action, "refused", origin)).await
    }

    /// Opens a session. The answer to an unknown user is that to a wrong password, and takes as long.
    pub async fn login(&self, login: &str, password: SecretText, origin: &Origin) -> Result<LoggedIn, ServiceError> {
        let found = store::users::by_login(&mut *self.store.read().await?, login).await?;
        let account = found.as_ref().map_or(login, |u| u.username.as_str());
        let turn = self.turn(account, "auth.login", origin).await?;
        // Longer than any password: not worth a hash.
        let too_long = password.expose().len() > passwords::LENGTH_MAX * 4;
        let hash = found.as_ref().map(|u| u.password_hash.clone());
        let good = !too_long && turn.verify(password, hash).await?;
        let Some(user) = found.clone().filter(|u| good && u.is_active) else {
            self.failed(account, "auth.login", origin).await?;
            return Err(bad_credentials());
        };
        drop(turn);
        let mut tx = self.store.begin().await?;
        let now = self.clock.now_ms();
        store::users::set_last_login(&mut tx, user.id, now).await?;
        let tokens = self.sessions.open(&mut tx, &user).await?;
        store::audit(&mut tx, now, &entry(&user.username, "auth.login", "ok", origin)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(logged_in(tokens, &user))
    }

    /// Whether the next registration would be that of the first user.
    pub async fn awaits_first_user(&self) -> Result<bool, ServiceError> {
        Ok(store::users::count(&mut *self.store.read().await?).await? == 0)
    }

    /// The setup code and its file, as long as there is no user.
    pub async fn setup_code(&self) -> Result<Option<(String, std::path::PathBuf)>, ServiceError> {
        if self.awaits_first_user().await? {
            Ok(Some((self.setup.ensure()?, self.setup.path().to_owned())))
        } else {
            self.setup.remove()?;
            Ok(None)
        }
    }

    /// Refuses if nobody may register now.
    pub async fn registration_allowed(&self) -> Result<(), ServiceError> {
        let mut read = self.store.read().await?;
        if store::users::count(&mut read).await? == 0 {
            return Ok(());
        }
        let features: FeatureSettings = store::settings::get(&mut read, "features").await?.unwrap_or_default();
        if features.registration_open {
            Ok(())
        } else {
            Err(ServiceError::Forbidden(
                "registration is closed; ask an admin for an account".into(),
            ))
        }
    }

    /// Makes a user and logs it in. The first one becomes admin and shows the setup code; decided in the transaction that inserts it.
    pub async fn register(&self, new: Registration, origin: &Origin) -> Result<LoggedIn, ServiceError> {
        self.registration_allowed().await?;
        let username = new.username.trim();
        let email = new.email.as_deref().map(str::trim).filter(|e| !e.is_empty());
        let first = self.awaits_first_user().await?;
        let mut wrong = users::check_new(username, email, &new.password);
        if first && new.setup_code.is_none() {
            wrong.push(FieldError::body(
                "setup_code",
                "is required for the first user: the coordinator printed it when it started, and it stands in the file setup-code of its state folder",
            ));
        }
        if !wrong.is_empty() {
            return Err(ServiceError::Invalid(wrong));
        }
        if first && !self.setup.is(new.setup_code.as_deref().unwrap_or_default())? {
            self.audit(entry(username, "auth.register", "refused", origin)).await?;
            return Err(ServiceError::Forbidden(
                "the setup code is wrong; it stands in the file setup-code of the coordinator's state folder".into(),
            ));
        }
        let hash = self.passwords.hash(new.password).await?;
        let mut tx = self.store.begin().await?;
        let now = self.clock.now_ms();
        let role = match store::users::count(&mut tx).await? {
            0 if first => Role::Admin,
            0 => {
                return Err(ServiceError::Conflict(
                    "the first user has been removed; try again".into(),
                ));
            }
            _ if first => {
                // Somebody else was first at the same instant.
                drop(tx);
                self.audit(entry(username, "auth.register", "refused", origin)).await?;
                return Err(ServiceError::Forbidden(
                    "registration is closed: somebody else was first; ask that admin for an account".into(),
                ));
            }
            _ => Role::User,
        };
        let user = users::insert(&mut tx, now, username, email, &hash, role).await?;
        let tokens = self.sessions.open(&mut tx, &user).await?;
        store::users::set_last_login(&mut tx, user.id, now).await?;
        store::audit(&mut tx, now, &entry(username, "auth.register", "ok", origin)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        if role == Role::Admin {
            self.setup.remove()?;
        }
        Ok(logged_in(tokens, &user))
    }

    /// Spends a refresh token.
    pub async fn refresh(&self, token: &str, origin: &Origin) -> Result<LoggedIn, ServiceError> {
        match self.sessions.refresh(token).await? {
            Refreshed::Tokens(tokens, user) => Ok(logged_in(tokens, &user)),
            Refreshed::Reused { username } => {
                let mut refused = entry(&username, "auth.refresh", "refused", origin);
                refused.detail = Some("a spent refresh token was used again; its session has been ended".into());
                self.audit(refused).await?;
                Err(ServiceError::Unauthenticated(
                    "this refresh token was used before, so its session has been ended; log in again".into(),
                ))
            }
            Refreshed::Void => Err(ServiceError::Unauthenticated(
                "the refresh token is not valid any more; log in again".into(),
            )),
        }
    }

    /// Who shows this access token; `None` if it is worth nothing.
    pub async fn authenticate(&self, token: &str, origin: &Origin) -> Result<Option<Session>, ServiceError> {
        Ok(self.sessions.authenticate(token).await?.map(|found| Session {
            caller: Caller {
                user_id: found.user.id,
                username: found.user.username,
                role: found.user.role,
                remote: origin.remote.map(|a| a.to_string()),
                request_id: origin.request_id.clone(),
            },
            sid: found.sid,
            expires_at: found.expires_at,
        }))
    }

    /// Whether a session, which was good when a stream began, still is.
    pub async fn still_good(&self, session: &Session) -> Result<bool, ServiceError> {
        Ok(self.sessions.is_alive(&session.sid).await?)
    }

    /// Milliseconds until a moment, for streams that end with their token.
    pub fn ms_until(&self, at: UnixMs) -> u64 {
        u64::try_from(at - self.clock.now_ms()).unwrap_or(0)
    }

    /// Ends sessions: the one of the access token, the one of the refresh token. Ending what has ended is fine.
    pub async fn logout(&self, session: Option<&Session>, refresh_token: Option<&str>) -> Result<(), ServiceError> {
        let named = refresh_token.and_then(|t| self.sessions.session_of_refresh(t));
        let sids = session.map(|s| s.sid.clone()).into_iter().chain(named);
        let mut tx = self.store.begin().await?;
        for sid in sids {
            store::sessions::end(&mut tx, self.clock.now_ms(), &sid).await?;
        }
        Ok(tx.commit().await.map_err(StoreError::from)?)
    }

    async fn me(&self, caller: &Caller) -> Result<UserRow, ServiceError> {
        store::users::by_id(&mut *self.store.read().await?, caller.user_id)
            .await?
            .ok_or_else(|| ServiceError::Unauthenticated("this user does not exist any more".into()))
    }

    /// The caller's own account.
    pub async fn user(&self, caller: &Caller) -> Result<UserView, ServiceError> {
        Ok(UserView::from(&self.me(caller).await?))
    }

    /// Changes the caller's own account: all of the change, or nothing.
    pub async fn change_user(&self, caller: &Caller, change: &Map<String, Value>) -> Result<UserView, ServiceError> {
        let mut tx = self.store.begin().await?;
        let user = store::users::by_id(&mut tx, caller.user_id)
            .await?
            .ok_or_else(|| ServiceError::Unauthenticated("this user does not exist any more".into()))?;
        let changed = users::with_profile(user, change).map_err(ServiceError::Invalid)?;
        store::users::update_profile(&mut tx, &changed)
            .await
            .map_err(users::taken)?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(UserView::from(&changed))
    }

    /// Another password; every other session of the user ends.
    pub async fn change_password(
        &self,
        session: &Session,
        old: SecretText,
        new: SecretText,
        origin: &Origin,
    ) -> Result<(), ServiceError> {
        if let Err(rule) = passwords::check_new(new.expose()) {
            return Err(ServiceError::Invalid(vec![FieldError::body("new_password", rule)]));
        }
        let user = self.me(&session.caller).await?;
        let turn = self.turn(&user.username, "auth.password", origin).await?;
        if !turn.verify(old, Some(user.password_hash)).await? {
            self.failed(&user.username, "auth.password", origin).await?;
            return Err(ServiceError::Refused(
                "the old password is wrong; nothing was changed".into(),
            ));
        }
        drop(turn);
        let hash = self.passwords.hash(new).await?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        store::users::set_password(&mut tx, user.id, &hash).await?;
        store::sessions::end_all(&mut tx, now, user.id, Some(&session.sid)).await?;
        store::audit(&mut tx, now, &entry(&user.username, "auth.password", "ok", origin)).await?;
        Ok(tx.commit().await.map_err(StoreError::from)?)
    }
}
