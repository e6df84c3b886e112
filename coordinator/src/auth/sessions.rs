//! Sessions: opened by a login, carried on by refresh tokens, looked up with every request.

use super::{
    AuthError,
    tokens::{ACCESS_LIFETIME_MS, Claims, REFRESH_LIFETIME_MS, Signer, TokenType},
};
use crate::{
    clock::{SharedClock, UnixMs},
    store::{self, Connection, Store, sessions::SessionRow, users::UserRow},
};
use uuid::Uuid;

/// A spent refresh token is answered once more for so long: two tabs wake at the same moment.
const GRACE_MS: UnixMs = 10_000;

/// The two tokens of a session.
#[derive(Clone)]
pub struct Tokens {
    /// For requests.
    pub access: String,
    /// For new tokens.
    pub refresh: String,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(…)")
    }
}

/// Who showed a good access token.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// The user, read now.
    pub user: UserRow,
    /// The session.
    pub sid: String,
    /// When the token ends.
    pub expires_at: UnixMs,
}

/// What a refresh token was worth.
#[derive(Debug)]
pub enum Refreshed {
    /// New tokens of the same session.
    Tokens(Tokens, Box<UserRow>),
    /// It was spent long ago: somebody copied it. The session has been ended.
    Reused {
        /// Whose session it was.
        username: String,
    },
    /// Not ours, ended, or of a user who may not log in.
    Void,
}

/// Opens, reads and ends sessions.
#[derive(Clone)]
pub struct Sessions {
    store: Store,
    clock: SharedClock,
    signer: Signer,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions(…)")
    }
}

impl Sessions {
    /// Sessions in this registry, signed with this key.
    pub fn new(store: Store, clock: SharedClock, signer: Signer) -> Self {
        Self { store, clock, signer }
    }

    fn now(&self) -> UnixMs {
        self.clock.now_ms()
    }

    fn sign(&self, user_id: i64, sid: &str, refresh_jti: &str, now: UnixMs) -> Result<Tokens, AuthError> {
        let claims = |token_type, jti: String, lifetime_ms: UnixMs| Claims {
            user_id,
            token_type,
            sid: sid.into(),
            jti,
            iat: now / 1000,
            exp: (now + lifetime_ms) / 1000,
        };
        Ok(Tokens {
            access: self.signer.sign(&claims(
                TokenType::Access,
                Uuid::new_v4().to_string(),
                ACCESS_LIFETIME_MS,
            ))?,
            refresh: self
                .signer
                .sign(&claims(TokenType::Refresh, refresh_jti.into(), REFRESH_LIFETIME_MS))?,
        })
    }

    /// Opens a session for a user, in the caller's transaction.
    pub async fn open(&self, tx: &mut Connection, user: &UserRow) -> Result<Tokens, AuthError> {
        let now = self.now();
        let row = SessionRow {
            id: Uuid::new_v4().to_string(),
            user_id: user.id,
            expires_at: now + REFRESH_LIFETIME_MS,
            ended_at: None,
            refresh_jti: Uuid::new_v4().to_string(),
            previous_refresh_jti: None,
            rotated_at: None,
        };
        store::sessions::insert(tx, now, &row).await?;
        self.sign(user.id, &row.id, &row.refresh_jti, now)
    }

    /// Who shows this access token; `None` if it is worth nothing.
    pub async fn authenticate(&self, token: &str) -> Result<Option<Authenticated>, AuthError> {
        let now = self.now();
        let Some(claims) = self.signer.read(token, TokenType::Access, now) else {
            return Ok(None);
        };
        let found = store::sessions::with_user(&mut *self.store.read().await?, &claims.sid).await?;
        Ok(found.and_then(|(session, user)| {
            let good = alive(&session, &user, now) && user.id == claims.user_id;
            good.then(|| Authenticated {
                user,
                sid: session.id,
                expires_at: claims.exp.saturating_mul(1000),
            })
        }))
    }

    /// Whether a session is good and its user active.
    pub async fn is_alive(&self, sid: &str) -> Result<bool, AuthError> {
        let found = store::sessions::with_user(&mut *self.store.read().await?, sid).await?;
        Ok(found.is_some_and(|(session, user)| alive(&session, &user, self.now())))
    }

    /// Spends a refresh token.
    pub async fn refresh(&self, token: &str) -> Result<Refreshed, AuthError> {
        let now = self.now();
        let Some(claims) = self.signer.read(token, TokenType::Refresh, now) else {
            return Ok(Refreshed::Void);
        };
        let mut tx = self.store.begin().await?;
        let Some((session, user)) = store::sessions::with_user(&mut tx, &claims.sid).await? else {
            return Ok(Refreshed::Void);
        };
        if !alive(&session, &user, now) || user.id != claims.user_id {
            return Ok(Refreshed::Void);
        }
        let just_spent = session.previous_refresh_jti.as_deref() == Some(claims.jti.as_str())
            && session.rotated_at.is_some_and(|at| now - at <= GRACE_MS);
        let tokens = if session.refresh_jti == claims.jti {
            let next = Uuid::new_v4().to_string();
            store::sessions::rotate(&mut tx, now, &session.id, &next, now + REFRESH_LIFETIME_MS).await?;
            self.sign(user.id, &session.id, &next, now)?
        } else if just_spent {
            // The other tab has rotated it: both go on with the same one.
            self.sign(user.id, &session.id, &session.refresh_jti, now)?
        } else {
            store::sessions::end(&mut tx, now, &session.id).await?;
            tx.commit().await.map_err(store::StoreError::from)?;
            return Ok(Refreshed::Reused {
                username: user.username,
            });
        };
        tx.commit().await.map_err(store::StoreError::from)?;
        Ok(Refreshed::Tokens(tokens, Box::new(user)))
    }

    /// The session that a refresh token names, whether or not it is still good for more.
    pub fn session_of_refresh(&self, token: &str) -> Option<String> {
        self.signer
            .read(token, TokenType::Refresh, self.now())
            .map(|claims| claims.sid)
    }
}

fn alive(session: &SessionRow, user: &UserRow, now: UnixMs) -> bool {
    session.ended_at.is_none() && session.expires_at > now && user.is_active
}
