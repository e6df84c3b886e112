//! Settings: everybody who is logged in reads them, admins change them.

use super::{Caller, FieldError, Role, ServiceError};
use crate::{
    clock::SharedClock,
    domain::settings::Group,
    store::{self, AuditEntry, Connection, Store, StoreError},
};
use serde_json::{Map, Value};

pub use crate::domain::settings::Group as SettingsGroup;
pub use crate::domain::settings::{FeatureSettings, NetworkSettings, OperationSettings, ResourceSettings};

/// The use cases of settings.
#[derive(Clone)]
pub struct SettingsService {
    store: Store,
    clock: SharedClock,
}

impl std::fmt::Debug for SettingsService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SettingsService(…)")
    }
}

/// A group of settings in a transaction or on a reading connection; the defaults if nobody has changed it.
pub async fn read<G: Group>(tx: &mut Connection) -> Result<G, StoreError> {
    Ok(store::settings::get(tx, G::NAME).await?.unwrap_or_default())
}

/// Refuses everybody but admins.
pub fn only_admins(caller: &Caller) -> Result<(), ServiceError> {
    if caller.role == Role::Admin {
        Ok(())
    } else {
        Err(ServiceError::Forbidden("this is for admins; ask one".into()))
    }
}

impl SettingsService {
    /// Puts the use cases together.
    pub fn new(store: Store, clock: SharedClock) -> Self {
        Self { store, clock }
    }

    /// A group of settings.
    pub async fn get<G: Group>(&self) -> Result<G, ServiceError> {
        Ok(read(&mut *self.store.read().await?).await?)
    }

    /// Changes a group, all of the change or nothing, and answers the new settings. An empty change changes nothing.
    pub async fn change<G: Group>(&self, caller: &Caller, change: &Map<String, Value>) -> Result<G, ServiceError> {
        only_admins(caller)?;
        let mut tx = self.store.begin().await?;
        let old: G = read(&mut tx).await?;
        let new = old.changed(change).map_err(|wrong| {
            ServiceError::Invalid(
                wrong
                    .into_iter()
                    .map(|(field, msg)| FieldError::body(&field, msg))
                    .collect(),
            )
        })?;
        if !change.is_empty() {
            let now = self.clock.now_ms();
            store::settings::put(&mut tx, now, Some(caller.user_id), G::NAME, &new).await?;
            let entry = AuditEntry {
                actor: caller.username.clone(),
                action: "settings.change".into(),
                target: Some(G::NAME.into()),
                remote: caller.remote.clone(),
                outcome: "ok".into(),
                detail: Some(change.keys().cloned().collect::<Vec<_>>().join(", ")),
                request_id: caller.request_id.clone(),
            };
            store::audit(&mut tx, now, &entry).await?;
            tx.commit().await.map_err(StoreError::from)?;
        }
        Ok(new)
    }
}
