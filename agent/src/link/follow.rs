//! What the coordinator tells of its roots: taken as far as it can be believed, stored, and answered.

use super::Link;
use proximity_protocol::{event::Event, roots::Roots};
use tokio::sync::mpsc;

/// Runs for as long as the connection does: it ends when nobody takes events any more.
pub(super) async fn run(link: &Link, events: &mpsc::Sender<Event>, mut told: mpsc::UnboundedReceiver<Roots>) {
    while let Some(roots) = told.recv().await {
        match link.keys.follow(&roots) {
            Ok(pins) => {
                if events.send(Event::RootsStored { pins }).await.is_err() {
                    return;
                }
            }
            // The link was made with a root that is trusted, and stays so: nothing is lost but the way to the next one.
            Err(error) => {
                tracing::error!(%error, "the coordinator's roots are not followed; those of before stay trusted")
            }
        }
    }
    // The connection is about to end.
    std::future::pending().await
}
