//! What comes next, from the rows alone. The same decision drives an operation on an ordinary day and after a crash: whatever was committed last is where it
//! goes on. A step that was `running` has perhaps been carried out; its command is sent again with the same key and the agent answers what it has recorded.

use crate::{
    domain::operation_state::{OperationState, StepState},
    store::operations::{OperationRow, StepRow},
};

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Carry out the step at this place.
    Forward(usize),
    /// Take the step at this place back.
    Back(usize),
    /// Somebody asked to stop, and no command is in flight: turn around.
    TurnBack,
    /// Every step is done.
    FinishDone,
    /// Everything is taken back.
    FinishUndone,
    /// It has ended.
    Over,
}

/// Decides. `forward_only` operations do not turn around.
pub fn next(operation: &OperationRow, steps: &[StepRow], forward_only: bool) -> Next {
    match operation.state {
        OperationState::Done | OperationState::Undone | OperationState::Stuck => Next::Over,
        OperationState::Undoing => match steps.iter().rposition(|s| s.state.touched()) {
            Some(place) => Next::Back(place),
            None => Next::FinishUndone,
        },
        OperationState::Queued | OperationState::Running | OperationState::Waiting => {
            match steps.iter().position(|s| !s.state.passed()) {
                None => Next::FinishDone,
                // A command in flight is not abandoned: first its answer, then the way back.
                Some(place)
                    if operation.cancel_requested && !forward_only && steps[place].state != StepState::Running =>
                {
                    Next::TurnBack
                }
                Some(place) => Next::Forward(place),
            }
        }
    }
}

/// How a stuck operation goes on once an operator has put right what stood in its way: its state, and the step that is tried again.
pub fn reopened(operation: &OperationRow, steps: &[StepRow], forward_only: bool) -> (OperationState, Option<usize>) {
    let turned = |s: &StepRow| matches!(s.state, StepState::Failed | StepState::Undoing | StepState::Undone);
    let cause = operation.error.is_some() || operation.cancel_requested;
    if !forward_only && cause && steps.iter().any(turned) {
        (OperationState::Undoing, steps.iter().rposition(|s| s.state.touched()))
    } else {
        (OperationState::Running, steps.iter().position(|s| !s.state.passed()))
    }
}

/// Whether the step's latest command may have reached the node without an answer being recorded, so that the same key is sent again.
pub fn in_flight(step: &StepRow, undo: bool) -> bool {
    if undo {
        step.state == StepState::Undoing && step.retry_at.is_none()
    } else {
        step.state == StepState::Running
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use proximity_protocol::ids::OperationId;
    use serde_json::json;

    fn operation(state: OperationState, cancel_requested: bool) -> OperationRow {
        OperationRow {
            id: OperationId(uuid::Uuid::from_u128(1)),
            kind: "deploy".into(),
            app_id: "x-00000000".into(),
            hostname: "xxx".into(),
            node_id: None,
            owner_id: 1,
            state,
            reason: None,
            action: None,
            error: None,
            params: json!({}),
            data: json!({}),
            requested_by: "x".into(),
            request_id: None,
            cancel_requested,
            created_at: 0,
            started_at: None,
            updated_at: 0,
            finished_at: None,
            quiet_since: None,
            abandoned_at: None,
            abandoned_by: None,
        }
    }

    fn steps(states: &[StepState]) -> Vec<StepRow> {
        (0..)
            .zip(states)
            .map(|(position, state)| StepRow {
                position,
                name: format!("s{position}"),
                title: String::new(),
                state: *state,
                attempt: 1,
                undo_attempt: 0,
                tries: 0,
                retry_at: None,
                reason: None,
                error: None,
                started_at: None,
                finished_at: None,
            })
            .collect()
    }

    fn any_state() -> impl Strategy<Value = StepState> {
        proptest::sample::select(StepState::ALL)
    }

    proptest! {
        #[test]
        fn every_row_has_a_next(op in proptest::sample::select(OperationState::ALL), cancel: bool, forward_only: bool, states in proptest::collection::vec(any_state(), 0..8)) {
            let rows = steps(&states);
            match next(&operation(op, cancel), &rows, forward_only) {
                Next::Forward(i) => prop_assert!(!op.ended() && op != OperationState::Undoing && !states[i].passed() && states[..i].iter().all(|s| s.passed())),
                Next::Back(i) => prop_assert!(op == OperationState::Undoing && states[i].touched() && !states[i + 1..].iter().any(|s| s.touched())),
                Next::TurnBack => prop_assert!(cancel && !forward_only && !op.ended()),
                Next::FinishDone => prop_assert!(states.iter().all(|s| s.passed())),
                Next::FinishUndone => prop_assert!(op == OperationState::Undoing && !states.iter().any(|s| s.touched())),
                Next::Over => prop_assert!(op.ended()),
            }
        }
    }

    #[test]
    fn a_command_in_flight_is_asked_again_before_anything_else() {
        use StepState::*;
        let rows = steps(&[Done, Running, Pending]);
        for state in [OperationState::Running, OperationState::Waiting] {
            assert_eq!(next(&operation(state, true), &rows, false), Next::Forward(1));
        }
        assert!(in_flight(&rows[1], false));
        let waiting = steps(&[Done, Waiting, Pending]);
        assert_eq!(
            next(&operation(OperationState::Waiting, true), &waiting, false),
            Next::TurnBack
        );
        assert_eq!(
            next(&operation(OperationState::Waiting, true), &waiting, true),
            Next::Forward(1)
        );
    }

    #[test]
    fn what_was_never_begun_is_not_taken_back() {
        use StepState::*;
        let rows = steps(&[Done, Skipped, Failed, Pending]);
        assert_eq!(
            next(&operation(OperationState::Undoing, false), &rows, false),
            Next::Back(2)
        );
        let rows = steps(&[Undone, Skipped, Undone, Pending]);
        assert_eq!(
            next(&operation(OperationState::Undoing, false), &rows, false),
            Next::FinishUndone
        );
    }
}
