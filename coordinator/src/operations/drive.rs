//! One operation, step by step: look at the rows, decide ([`recovery`]), send, record.

use super::{
    KINDS,
    engine::Engine,
    params::Data,
    recovery::{self, Next},
    send::only_looks_again,
    step::{Act, Kind, Step, View},
    turn::Held,
};
use crate::{
    clock::UnixMs,
    domain::{operation_state::OperationState, placement::Admission},
    store::{
        StoreError,
        apps::{self, AppRow},
        fleet,
        operations::{self, OperationRow, StepRow},
        reservations,
        side_containers::{self, SideRow},
    },
};
use proximity_protocol::{
    command::Target,
    ids::{EnvName, NodeId, OperationId},
    secret::SecretText,
};
use std::net::Ipv4Addr;
use tokio::sync::Notify;

/// Why an operation does not go on now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// It has ended.
    Ended,
    /// Another operation of the app is before it.
    Behind,
    /// The next try is due then.
    Until(UnixMs),
    /// Something is waited for that its node may tell of (somebody's lock, the quorum): the next look is due then, or when the node tells something.
    Look(UnixMs),
    /// The node is not connected.
    Offline(NodeId),
}

pub(super) struct Drive<'a> {
    pub(super) engine: &'a Engine,
    pub(super) id: OperationId,
    /// Somebody asks it to look at its row again.
    pub(super) kicked: &'a Notify,
    /// The container that it is about, if there is one.
    pub(super) target: Option<Target>,
    /// Its node.
    pub(super) at_node: Option<NodeId>,
    /// What is waited for is looked at now, whenever it would be due.
    pub(super) eager: bool,
    /// The turn of the step that is being sent.
    pub(super) held: Option<Held>,
}

/// The rows of one moment.
pub(super) struct Moment {
    pub(super) operation: OperationRow,
    pub(super) steps: Vec<StepRow>,
    pub(super) app: AppRow,
    pub(super) data: Data,
    pub(super) side: Vec<SideRow>,
    pub(super) node: String,
    reserved_address: Option<Ipv4Addr>,
}

/// Which step, and in which direction.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) kind: &'static Kind,
    pub(super) step: &'static Step,
    pub(super) place: usize,
    pub(super) undo: bool,
}

/// `None` means: go on with the next decision.
pub(super) type Advance = Result<Option<Pause>, StoreError>;

impl<'a> Drive<'a> {
    pub(super) fn new(engine: &'a Engine, id: OperationId, kicked: &'a Notify) -> Self {
        Self {
            engine,
            id,
            kicked,
            target: None,
            at_node: None,
            eager: false,
            held: None,
        }
    }

    /// Goes on until it ends or has to wait.
    pub(super) async fn advance(&mut self) -> Result<Pause, StoreError> {
        let pause = self.go_on().await;
        self.held = None;
        pause
    }

    async fn go_on(&mut self) -> Result<Pause, StoreError> {
        loop {
            let Some(moment) = self.look().await? else {
                return Ok(Pause::Ended);
            };
            self.target = moment.view(&[]).target_if_any().ok().flatten();
            self.at_node = moment.operation.node_id;
            let Some(kind) = KINDS.iter().find(|k| k.name == moment.operation.kind) else {
                let why = format!("this version knows no operation {:?}", moment.operation.kind);
                self.unknown(moment, why).await?;
                continue;
            };
            if moment.operation.state == OperationState::Queued && self.is_behind(&moment).await? {
                return Ok(Pause::Behind);
            }
            let pause = match recovery::next(&moment.operation, &moment.steps, kind.forward_only) {
                Next::Over => Some(Pause::Ended),
                Next::TurnBack => self.turn_back(moment).await?,
                Next::FinishDone => self.finish(moment, kind, true).await?,
                Next::FinishUndone => self.finish(moment, kind, false).await?,
                Next::Forward(place) => self.step(moment, kind, place, false).await?,
                Next::Back(place) => self.step(moment, kind, place, true).await?,
            };
            if let Some(pause) = pause {
                return Ok(pause);
            }
        }
    }

    async fn look(&self) -> Result<Option<Moment>, StoreError> {
        let mut conn = self.engine.deps().store.read().await?;
        let Some(operation) = operations::by_id(&mut conn, self.id).await? else {
            return Ok(None);
        };
        if operation.state.ended() {
            return Ok(None);
        }
        let steps = operations::steps(&mut conn, self.id).await?;
        let Some(app) = apps::by_id(&mut conn, &operation.app_id).await? else {
            drop(conn);
            self.without_app(operation).await?;
            return Ok(None);
        };
        let node = match operation.node_id {
            Some(node) => fleet::node_by_id(&mut conn, node).await?,
            None => None,
        };
        let reserved_address = reservations::address_of(&mut conn, app.id.as_str()).await?;
        let side = side_containers::of_app(&mut conn, app.id.as_str()).await?;
        let data = serde_json::from_value(operation.data.clone())?;
        Ok(Some(Moment {
            side,
            operation,
            steps,
            app,
            data,
            node: node.map_or_else(|| "a node that is no longer in the registry".into(), |node| node.name),
            reserved_address,
        }))
    }

    /// Whether somebody has asked to stop since the rows were read.
    pub(super) async fn is_cancelled(&self) -> Result<bool, StoreError> {
        let mut conn = self.engine.deps().store.read().await?;
        Ok(operations::by_id(&mut conn, self.id)
            .await?
            .is_some_and(|o| o.cancel_requested))
    }

    /// Whether the node has been thrown out by now. The rows may have been read before, and the kick that told of it been taken while an answer was waited for.
    pub(super) async fn is_revoked(&self, node: NodeId) -> Result<bool, StoreError> {
        let mut conn = self.engine.deps().store.read().await?;
        Ok(fleet::node_by_id(&mut conn, node)
            .await?
            .is_some_and(|node| node.admission == Admission::Revoked))
    }

    async fn is_behind(&self, moment: &Moment) -> Result<bool, StoreError> {
        let mut conn = self.engine.deps().store.read().await?;
        let others = operations::unfinished_of(&mut conn, &moment.operation.app_id).await?;
        Ok(others.first().is_some_and(|first| first.id != self.id))
    }

    async fn step(&mut self, mut moment: Moment, kind: &'static Kind, place: usize, undo: bool) -> Advance {
        let now = self.engine.deps().clock.now_ms();
        let row = &moment.steps[place];
        if let Some(due) = row.retry_at.filter(|due| *due > now) {
            match only_looks_again(row) {
                true if self.eager => {}
                true => return Ok(Some(Pause::Look(due))),
                false => return Ok(Some(Pause::Until(due))),
            }
        }
        let was_eager = std::mem::take(&mut self.eager);
        let Some(step) = kind.steps.iter().find(|s| s.name == row.name) else {
            let why = format!("this version knows no step {:?} of {}", row.name, kind.name);
            return self.unknown(moment, why).await;
        };
        let at = At {
            kind,
            step,
            place,
            undo,
        };
        let opens = if undo {
            step.undo.as_ref().is_some_and(|undo| undo.secrets)
        } else {
            step.secrets
        };
        let env = if opens {
            self.environment(&moment, undo).await?
        } else {
            Ok(Vec::new())
        };
        let act = match (&env, undo, &step.undo) {
            (Err(fault), _, _) => Err(fault.clone()),
            (Ok(env), false, _) => (step.act)(&moment.view(env)),
            (Ok(env), true, Some(undo)) => (undo.act)(&moment.view(env)),
            (Ok(_), true, None) => Act::nothing(""),
        };
        match act {
            Ok(Act::Nothing { because }) => self.pass(moment, at, because).await,
            Ok(Act::Send {
                verb,
                says,
                exclusive,
                at: elsewhere,
            }) => {
                let reachable = |node: &NodeId| self.engine.deps().commands.is_online(*node);
                let node = elsewhere.or(moment.operation.node_id);
                if let Some(node) = node.filter(reachable)
                    && !self.has_turn(&moment, at, node, exclusive).await?
                {
                    self.eager = was_eager;
                    return Ok(None);
                }
                let advance = self.send(moment, at, node, *verb, says).await;
                self.held = None;
                advance
            }
            // What cannot even be put into words is a fault of ours; it is recorded as a try, so that it ends somewhere.
            Err(fault) => {
                let row = &mut moment.steps[place];
                if undo {
                    row.undo_attempt += 1;
                } else {
                    row.attempt += 1;
                }
                self.failed(moment, at, fault, None).await
            }
        }
    }
}

impl Moment {
    pub(super) fn view<'v>(&'v self, env: &'v [(EnvName, SecretText)]) -> View<'v> {
        View {
            operation: &self.operation,
            app: &self.app,
            node: &self.node,
            data: &self.data,
            side: &self.side,
            reserved_address: self.reserved_address,
            created: self.app.vmid_confirmed,
            env,
        }
    }
}
