//! Users.

use super::{
    Connection, StoreError,
    row::{get, number_opt, parse},
};
use crate::{clock::UnixMs, domain::role::Role};
use sqlx::{Row, sqlite::SqliteRow};

/// A row of `users`.
#[derive(Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Its id.
    pub id: i64,
    /// The name to log in with.
    pub username: String,
    /// Also taken at login.
    pub email: Option<String>,
    /// argon2id, PHC string.
    pub password_hash: String,
    /// What the user may do.
    pub role: Role,
    /// An inactive user cannot log in, and its tokens are void.
    pub is_active: bool,
    /// Shown, else unused.
    pub first_name: String,
    /// Shown, else unused.
    pub last_name: String,
    /// Shown, else unused.
    pub bio: String,
    /// A URL.
    pub avatar: Option<String>,
    /// Name of a theme.
    pub preferred_theme: String,
    /// The latest login.
    pub last_login: Option<UnixMs>,
    /// When it was made.
    pub date_joined: UnixMs,
    /// Quotas; `None`: no bound.
    pub quotas: Quotas,
}

impl std::fmt::Debug for UserRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRow")
            .field("id", &self.id)
            .field("username", &self.username)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// What a user's apps may take together; `None`: no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quotas {
    /// Apps.
    pub max_apps: Option<u32>,
    /// CPU cores.
    pub max_cpu_cores: Option<u32>,
    /// MiB.
    pub max_memory_mb: Option<u32>,
    /// GiB.
    pub max_disk_gb: Option<u32>,
    /// Backups.
    pub max_backups: Option<u32>,
}

/// A user to insert.
pub struct NewUser<'a> {
    /// The name to log in with.
    pub username: &'a str,
    /// Also taken at login.
    pub email: Option<&'a str>,
    /// argon2id, PHC string.
    pub password_hash: &'a str,
    /// What the user may do.
    pub role: Role,
}

pub(super) fn user(row: &SqliteRow) -> Result<UserRow, StoreError> {
    Ok(UserRow {
        id: get(row, "id")?,
        username: get(row, "username")?,
        email: get(row, "email")?,
        password_hash: get(row, "password_hash")?,
        role: parse(row, "role")?,
        is_active: get(row, "is_active")?,
        first_name: get(row, "first_name")?,
        last_name: get(row, "last_name")?,
        bio: get(row, "bio")?,
        avatar: get(row, "avatar")?,
        preferred_theme: get(row, "preferred_theme")?,
        last_login: get(row, "last_login")?,
        date_joined: get(row, "date_joined")?,
        quotas: Quotas {
            max_apps: number_opt(row, "max_apps")?,
            max_cpu_cores: number_opt(row, "max_cpu_cores")?,
            max_memory_mb: number_opt(row, "max_memory_mb")?,
            max_disk_gb: number_opt(row, "max_disk_gb")?,
            max_backups: number_opt(row, "max_backups")?,
        },
    })
}

/// How many users there are.
pub async fn count(tx: &mut Connection) -> Result<i64, StoreError> {
    Ok(sqlx::query("SELECT COUNT(*) FROM users")
        .fetch_one(tx)
        .await?
        .try_get(0)?)
}

/// One user.
pub async fn by_id(tx: &mut Connection, id: i64) -> Result<Option<UserRow>, StoreError> {
    sqlx::query("SELECT * FROM users WHERE id = $1")
        .bind(id)
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(user)
        .transpose()
}

/// The user whose name or e-mail this is, whatever its case. A user name contains no `@`, so the two cannot be mistaken for each other.
pub async fn by_login(tx: &mut Connection, login: &str) -> Result<Option<UserRow>, StoreError> {
    sqlx::query("SELECT * FROM users WHERE LOWER(username) = LOWER($1) OR LOWER(email) = LOWER($1)")
        .bind(login)
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(user)
        .transpose()
}

/// Inserts an active user. `Taken` names the column that somebody else has.
pub async fn insert(tx: &mut Connection, at: UnixMs, new: &NewUser<'_>) -> Result<UserRow, StoreError> {
    for (column, value) in [("users.username", Some(new.username)), ("users.email", new.email)] {
        if let Some(value) = value
            && by_login(tx, value).await?.is_some()
        {
            return Err(StoreError::Taken(column.into()));
        }
    }
    let row = sqlx::query(
        "INSERT INTO users (username, email, password_hash, role, date_joined) VALUES ($1, $2, $3, $4, $5) RETURNING *",
    )
    .bind(new.username)
    .bind(new.email)
    .bind(new.password_hash)
    .bind(new.role.as_str())
    .bind(at)
    .fetch_one(tx)
    .await?;
    user(&row)
}

/// Writes what a user may change about itself.
pub async fn update_profile(tx: &mut Connection, u: &UserRow) -> Result<(), StoreError> {
    if let Some(email) = &u.email
        && by_login(tx, email).await?.is_some_and(|other| other.id != u.id)
    {
        return Err(StoreError::Taken("users.email".into()));
    }
    sqlx::query(
        "UPDATE users SET email = $2, first_name = $3, last_name = $4, bio = $5, avatar = $6, preferred_theme = $7 WHERE id = $1",
    )
    .bind(u.id)
    .bind(&u.email)
    .bind(&u.first_name)
    .bind(&u.last_name)
    .bind(&u.bio)
    .bind(&u.avatar)
    .bind(&u.preferred_theme)
    .execute(tx)
    .await?;
    Ok(())
}

/// Another password.
pub async fn set_password(tx: &mut Connection, id: i64, password_hash: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE users SET password_hash = $2 WHERE id = $1")
        .bind(id)
        .bind(password_hash)
        .execute(tx)
        .await?;
    Ok(())
}

/// Whether the user may log in and its tokens count.
pub async fn set_active(tx: &mut Connection, id: i64, active: bool) -> Result<(), StoreError> {
    sqlx::query("UPDATE users SET is_active = $2 WHERE id = $1")
        .bind(id)
        .bind(active)
        .execute(tx)
        .await?;
    Ok(())
}

/// The user logged in.
pub async fn set_last_login(tx: &mut Connection, id: i64, at: UnixMs) -> Result<(), StoreError> {
    sqlx::query("UPDATE users SET last_login = $2 WHERE id = $1")
        .bind(id)
        .bind(at)
        .execute(tx)
        .await?;
    Ok(())
}
