//! The values that a recipe gets: what the app's row says, and its secrets, opened. An operation that changes them brings its own; until it is done, those of the
//! app are the old ones, which is what the way back needs.

use super::{
    configure::CONFIGURE,
    drive::{Drive, Moment},
    params::ConfigureParams,
    step::internal,
};
use crate::store::{StoreError, app_secrets, operation_secrets};
use proximity_protocol::{fault::Fault, ids::EnvName, secret::SecretText};
use std::collections::BTreeMap;

/// Names and values, or why they cannot be opened.
pub(super) type Environment = Result<Vec<(EnvName, SecretText)>, Fault>;

impl Drive<'_> {
    /// As it shall be, or for the way back as it was.
    pub(super) async fn environment(&self, moment: &Moment, undo: bool) -> Result<Environment, StoreError> {
        let app = moment.app.id.as_str();
        let changed = if moment.operation.kind == CONFIGURE.name && !undo {
            serde_json::from_value::<ConfigureParams>(moment.operation.params.clone())?.environment
        } else {
            None
        };
        let mut sealed: BTreeMap<String, Vec<u8>> = {
            let mut conn = self.engine.deps().store.read().await?;
            let mut sealed: BTreeMap<_, _> = app_secrets::of_app(&mut conn, app).await?.into_iter().collect();
            if let Some(changed) = &changed {
                sealed.retain(|name, _| !changed.forget_secrets.contains(name));
                sealed.extend(operation_secrets::of_operation(&mut conn, self.id).await?);
            }
            sealed
        };
        let plain = changed.map_or_else(|| moment.app.environment.clone(), |changed| changed.plain);
        let mut all: Vec<(String, SecretText)> = plain
            .into_iter()
            .map(|(name, value)| (name, SecretText::new(value)))
            .collect();
        while let Some((name, sealed)) = sealed.pop_first() {
            match self.engine.deps().secrets.unseal(app, &name, &sealed) {
                Ok(secret) => all.push((name, secret)),
                Err(error) => return Ok(Err(internal(error.to_string()))),
            }
        }
        Ok(all
            .into_iter()
            .map(|(name, value)| {
                EnvName::new(name)
                    .map(|name| (name, value))
                    .map_err(|e| internal(e.to_string()))
            })
            .collect())
    }
}
