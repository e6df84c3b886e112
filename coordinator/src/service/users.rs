//! Rules for accounts, and what an admin does with them on the machine.

use super::{FieldError, ServiceError};
use crate::{
    auth::{passwords, passwords::Passwords, setup_code::SetupCode},
    clock::{SharedClock, UnixMs},
    domain::role::Role,
    store::{self, AuditEntry, Connection, Store, StoreError, users::UserRow},
};
use proximity_protocol::secret::SecretText;
use serde_json::{Map, Value};

const USERNAME_RULE: &str = "1 to 150 of letters a-z, digits, '.', '-', '_' and '+', starting with a letter or digit";
const EMAIL_RULE: &str = "an e-mail address of at most 254 characters, such as name@example.org";

fn username_fits(name: &str) -> bool {
    (1..=150).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(&b))
}

fn email_fits(email: &str) -> bool {
    email.len() <= 254
        && !email.chars().any(|c| c.is_whitespace() || c.is_control())
        && email
            .rsplit_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !local.contains('@') && !domain.is_empty())
}

/// Everything that is wrong with a new account.
pub(super) fn check_new(username: &str, email: Option<&str>, password: &SecretText) -> Vec<FieldError> {
    let mut wrong = Vec::new();
    if !username_fits(username) {
        wrong.push(FieldError::body("username", format!("has to be {USERNAME_RULE}")));
    }
    if email.is_some_and(|e| !email_fits(e)) {
        wrong.push(FieldError::body("email", format!("has to be {EMAIL_RULE}")));
    }
    if let Err(rule) = passwords::check_new(password.expose()) {
        wrong.push(FieldError::body("password", rule));
    }
    wrong
}

/// A name or an e-mail that somebody else has, in words.
pub(super) fn taken(error: StoreError) -> ServiceError {
    match error {
        StoreError::Taken(what) if what.contains("email") => {
            ServiceError::Conflict("this e-mail address belongs to another account; give another one".into())
        }
        StoreError::Taken(_) => ServiceError::Conflict("this user name is taken; choose another one".into()),
        other => other.into(),
    }
}

/// Inserts a user, in the caller's transaction.
pub(super) async fn insert(
    tx: &mut Connection,
    at: UnixMs,
    username: &str,
    email: Option<&str>,
    password_hash: &str,
    role: Role,
) -> Result<UserRow, ServiceError> {
    let new = store::users::NewUser {
        username,
        email,
        password_hash,
        role,
    };
    store::users::insert(tx, at, &new).await.map_err(taken)
}

/// The account with a change of what its owner may change, or everything that is wrong with the change.
pub(super) fn with_profile(mut user: UserRow, change: &Map<String, Value>) -> Result<UserRow, Vec<FieldError>> {
    let mut wrong = Vec::new();
    for (key, value) in change {
        let text = match value {
            Value::Null => None,
            Value::String(s) => Some(s.trim().to_owned()),
            _ => {
                wrong.push(FieldError::body(key, "has to be a text or null"));
                continue;
            }
        };
        let max = if key == "bio" { 2000 } else { 254 };
        if text.as_ref().is_some_and(|t| t.chars().count() > max) {
            wrong.push(FieldError::body(key, format!("at most {max} characters")));
            continue;
        }
        match (key.as_str(), text) {
            ("email", text) => match text.filter(|t| !t.is_empty()) {
                Some(email) if !email_fits(&email) => {
                    wrong.push(FieldError::body("email", format!("has to be {EMAIL_RULE}")));
                }
                email => user.email = email,
            },
            ("avatar", text) => user.avatar = text.filter(|t| !t.is_empty()),
            ("first_name", text) => user.first_name = text.unwrap_or_default(),
            ("last_name", text) => user.last_name = text.unwrap_or_default(),
            ("bio", text) => user.bio = text.unwrap_or_default(),
            ("preferred_theme", Some(theme)) if !theme.is_empty() => user.preferred_theme = theme,
            ("preferred_theme", _) => wrong.push(FieldError::body("preferred_theme", "cannot be empty")),
            ("username" | "role" | "is_active" | "id", _) => {
                wrong.push(FieldError::body(key, "cannot be changed by the user"));
            }
            _ => wrong.push(FieldError::body(
                key,
                "is not known; known here: email, first_name, last_name, bio, avatar, preferred_theme",
            )),
        }
    }
    if wrong.is_empty() { Ok(user) } else { Err(wrong) }
}

/// Accounts as whoever has the machine manages them.
#[derive(Clone)]
pub struct UserService {
    store: Store,
    clock: SharedClock,
    passwords: Passwords,
    setup: SetupCode,
}

impl std::fmt::Debug for UserService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserService(…)")
    }
}

impl UserService {
    /// Puts the use cases together.
    pub fn new(store: Store, clock: SharedClock, passwords: Passwords, setup: SetupCode) -> Self {
        Self {
            store,
            clock,
            passwords,
            setup,
        }
    }

    async fn audited(&self, mut tx: store::Tx, action: &str, target: &str) -> Result<(), ServiceError> {
        let entry = AuditEntry {
            actor: "command line".into(),
            action: action.into(),
            target: Some(target.into()),
            outcome: "ok".into(),
            ..AuditEntry::default()
        };
        store::audit(&mut tx, self.clock.now_ms(), &entry).await?;
        Ok(tx.commit().await.map_err(StoreError::from)?)
    }

    /// Makes a user from the command line; its id.
    pub async fn create(&self, username: &str, password: SecretText, role: Role) -> Result<i64, ServiceError> {
        let wrong = check_new(username, None, &password);
        if !wrong.is_empty() {
            return Err(ServiceError::Invalid(wrong));
        }
        let hash = self.passwords.hash(password).await?;
        let mut tx = self.store.begin().await?;
        let user = insert(&mut tx, self.clock.now_ms(), username, None, &hash, role).await?;
        self.audited(tx, "user.create", username).await?;
        // There is a user: nobody becomes admin by the code any more.
        self.setup.remove()?;
        Ok(user.id)
    }

    /// Another password from the command line; every session of the user ends, and it may log in again.
    pub async fn set_password(&self, username: &str, password: SecretText) -> Result<(), ServiceError> {
        if let Err(rule) = passwords::check_new(password.expose()) {
            return Err(ServiceError::Invalid(vec![FieldError::body("password", rule)]));
        }
        let hash = self.passwords.hash(password).await?;
        let mut tx = self.store.begin().await?;
        let Some(user) = store::users::by_login(&mut tx, username).await? else {
            return Err(ServiceError::NotFound(format!(
                "there is no user {username:?}; make one with: proximity-coordinator user create"
            )));
        };
        store::users::set_password(&mut tx, user.id, &hash).await?;
        store::users::set_active(&mut tx, user.id, true).await?;
        store::sessions::end_all(&mut tx, self.clock.now_ms(), user.id, None).await?;
        self.audited(tx, "user.password", &user.username).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_addresses_cannot_be_mistaken_for_each_other() {
        for good in ["admin", "a", "a.b-c_d+e", "0"] {
            assert!(username_fits(good), "{good}");
            assert!(!email_fits(good), "{good}");
        }
        for bad in ["", "a b", "a@b", "-a", "ä", "a\n", &"a".repeat(151)] {
            assert!(!username_fits(bad), "{bad}");
        }
        for bad in ["@", "a@", "@b", "a@b@c", "a b@c", ""] {
            assert!(!email_fits(bad), "{bad}");
        }
        assert!(email_fits("admin@example.org"));
    }
}
