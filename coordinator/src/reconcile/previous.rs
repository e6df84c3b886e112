//! Containers that were kept when a restore replaced them go when their time is over, if the app has been running for as long: a new one that does not run proves
//! nothing, and the old one is what one would go back to.

use super::{ReconcileError, Reconciler};
use crate::{
    domain::{
        app_state::Status,
        settings::{Group as _, OperationSettings},
    },
    operations::{discard, submit::Requester},
    store::{StoreError, apps, operations, settings, side_containers},
};

impl Reconciler {
    /// Queues the removal of what is due. Each removal sees first that the app is healthy.
    pub(super) async fn discard_due(&self) -> Result<(), ReconcileError> {
        let now = self.clock.now_ms();
        let due = side_containers::due(&mut *self.store.read().await?, now).await?;
        for side in due {
            let mut tx = self.store.begin().await?;
            let settings: OperationSettings = settings::get(&mut tx, OperationSettings::NAME)
                .await?
                .unwrap_or_default();
            let Some(app) = apps::by_id(&mut tx, side.app_id.as_str()).await? else {
                continue;
            };
            let for_s = (now - app.state_changed_at) / 1000;
            let runs = app.status == Status::Running && for_s >= i64::from(settings.keep_previous_s);
            if !runs || !operations::unfinished_of(&mut tx, app.id.as_str()).await?.is_empty() {
                continue;
            }
            let by = Requester {
                name: "coordinator".into(),
                request_id: None,
            };
            let vmid = side.vmid;
            let operation = discard::queue(&mut tx, now, &app, side, true, &by).await?;
            tx.commit().await.map_err(StoreError::from)?;
            self.engine.wake();
            tracing::info!(app_id = %app.id, operation_id = %operation, %vmid, "the container that was kept goes");
        }
        Ok(())
    }
}
