//! What becomes of operations on a node that was revoked.
//!
//! A node that is away is waited for: it comes back. One that was thrown out does not come back by itself, and an operation that waits for it would wait for ever.
//! So it ends `stuck` at once, whatever it was doing, and names what frees it: to let the machine, or the one that replaces it, in again. It then has the same
//! node and takes the record over, so that the operation can be let go on, and the app be deleted, started or stopped there as before. Nothing is freed before:
//! the container may still be there, with its VMID, its port and its address.
//!
//! A container that another node of the cluster has meanwhile is followed there, as from a node that is away.

use super::{
    drive::{Advance, At, Drive, Moment},
    finish::given_up,
    record::Draft,
};
use crate::events::Event;

/// Whether the event says that a node is thrown out, or has left.
pub(super) fn is_revocation(event: &Event) -> bool {
    event.kind == "node" && matches!(event.data["change"].as_str(), Some("revoked" | "left"))
}

impl Drive<'_> {
    /// Ends the operation.
    pub(super) async fn revoked(&self, mut moment: Moment, at: At) -> Advance {
        let (app, node) = (&moment.app, &moment.node);
        let then = match at.kind.name {
            "deploy" => format!("delete the app {} and create it again", app.id),
            "delete" => format!("delete the app {} again", app.id),
            other => format!("ask for the {other} of {} again", app.hostname),
        };
        let advice = format!(
            "Let {node} in again, or the machine that replaces it: make a join token for its host and run `proximity-agent join --take-over` there; then \
             `proximity-coordinator operations retry {id}` goes on with this, or {then}. If the machine is gone for good, `proximity-coordinator operations \
             abandon {id}` ends it and says what it leaves.",
            id = self.id
        );
        let why = format!(
            "{node} was revoked {}",
            if at.undo {
                "while this was being taken back"
            } else {
                "before this was done"
            }
        );
        let changes = given_up(at.kind, &moment.view(&[]), &why, &advice);
        let row = &mut moment.steps[at.place];
        // Nothing went wrong with the step itself: let go on, it goes on in its direction, and a command that may have been carried out is sent again under its
        // own key.
        row.reason = Some(why.clone());
        let row = row.clone();
        let mut draft = Draft::of(moment.operation);
        draft.steps.push(row);
        self.stuck(&mut draft, changes, why, advice);
        self.write(draft).await
    }
}
