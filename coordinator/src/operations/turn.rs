//! A step's turn to send its command: a seat of its node, and where only one may do a thing at a time, the lock for that.
//!
//! The lock comes first: who waits for somebody else's download must not keep a seat from others. What had to wait looks at its rows again before it goes on,
//! since somebody may have asked it to stop meanwhile.

use super::{
    deploy::DEPLOY,
    drive::{At, Drive, Moment},
    record::Draft,
    seats::{Claim, Load, Seat},
};
use crate::{domain::operation_state::OperationState, store::StoreError};
use proximity_protocol::ids::NodeId;
use std::pin::pin;
use tokio::sync::OwnedMutexGuard;

/// What a step holds while its command is on its way.
pub(super) struct Held {
    node: NodeId,
    load: Load,
    exclusive: Option<String>,
    _alone: Option<OwnedMutexGuard<()>>,
    _seat: Seat,
}

impl Drive<'_> {
    /// Whether the step has its turn. If not at once, this waits for it and answers `false`: look at the rows again, and ask again.
    pub(super) async fn has_turn(
        &mut self,
        moment: &Moment,
        at: At,
        node: NodeId,
        exclusive: Option<String>,
    ) -> Result<bool, StoreError> {
        let load = if at.undo { Load::Node } else { at.step.load };
        let held = self.held.take();
        if let Some(held) = held
            && (held.node, held.load, &held.exclusive) == (node, load, &exclusive)
        {
            self.held = Some(held);
            return Ok(true);
        }
        let mut waited = false;
        let alone = match &exclusive {
            None => None,
            Some(name) => {
                let lock = self.engine.exclusive(name);
                match lock.clone().try_lock_owned() {
                    Ok(alone) => Some(alone),
                    Err(_) => {
                        waited = true;
                        self.tell_waiting(moment, name).await?;
                        tokio::select! {
                            biased;
                            alone = lock.lock_owned() => Some(alone),
                            () = self.kicked.notified() => return Ok(false),
                        }
                    }
                }
            }
        };
        let claim = Claim {
            owner: moment.operation.owner_id,
            // What has begun, and what is no deployment: nobody waits for those behind others' new apps.
            first: moment.operation.started_at.is_some() || at.kind.name != DEPLOY.name,
        };
        let mut taking = pin!(self.engine.seats().take(node, load, claim));
        let at_once = tokio::select! {
            biased;
            seat = &mut taking => seat,
            () = std::future::ready(()) => None,
        };
        let seat = match at_once {
            Some(seat) => Some(seat),
            None => {
                waited = true;
                tokio::select! {
                    biased;
                    seat = &mut taking => seat,
                    () = self.kicked.notified() => return Ok(false),
                }
            }
        };
        let Some(seat) = seat else { return Ok(false) };
        self.held = Some(Held {
            node,
            load,
            exclusive,
            _alone: alone,
            _seat: seat,
        });
        Ok(!waited)
    }

    /// Another operation does what this one needs, and that may take long.
    async fn tell_waiting(&self, moment: &Moment, name: &str) -> Result<(), StoreError> {
        let mut draft = Draft::of(moment.operation.clone());
        draft.operation.state = OperationState::Waiting;
        draft.operation.reason = Some(format!("another operation is at it: {name}"));
        self.write(draft).await.map(drop)
    }
}
