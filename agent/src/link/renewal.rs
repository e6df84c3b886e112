//! Asks for the next certificate in time, if the coordinator has said that it renews.

use super::{Link, session::Ended};
use proximity_protocol::{
    event::{Event, Notice},
    renew::RenewRefusalReason,
};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long to wait at most before the date is looked at again: clocks are set, machines sleep.
const LOOK: Duration = Duration::from_secs(3600);
/// Between two requests of which the first brought nothing.
const RETRY: Duration = Duration::from_secs(3600);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// Runs for as long as the connection does, or until there is a new certificate to connect with.
pub(super) async fn run(link: &Link, events: &mpsc::Sender<Event>, mut told: mpsc::UnboundedReceiver<Notice>) -> Ended {
    loop {
        match told.recv().await {
            Some(Notice::MayRenew) => break,
            Some(_) => {}
            // The connection is about to end.
            None => return std::future::pending().await,
        }
    }
    let clock = link.keys.clock();
    loop {
        while let Some(left) = link.keys.due_in() {
            tokio::select! {
                () = clock.wait(left.min(LOOK)) => {}
                () = link.keys.look_again() => {}
            }
        }
        if ask(link, events, &mut told).await {
            return Ended::Renewed;
        }
        tokio::select! {
            () = clock.wait(RETRY) => {}
            () = link.keys.look_again() => {}
        }
    }
}

/// One request. Whether there is a new certificate.
async fn ask(link: &Link, events: &mpsc::Sender<Event>, told: &mut mpsc::UnboundedReceiver<Notice>) -> bool {
    let csr_der = match link.keys.request() {
        Ok(csr_der) => csr_der,
        Err(error) => {
            tracing::error!(%error, "the certificate cannot be renewed");
            return false;
        }
    };
    tracing::info!(dates = link.keys.dates(), "asks for the next certificate");
    if events.send(Event::Renew { csr_der }).await.is_err() {
        return false;
    }
    let answer = async {
        loop {
            match told.recv().await {
                Some(Notice::MayRenew) => {}
                answer => return answer,
            }
        }
    };
    let answer = tokio::select! {
        biased;
        answer = answer => answer,
        () = link.keys.clock().wait(ANSWER) => None,
    };
    let dropped = match answer {
        Some(Notice::Renewed(grant)) => match link.keys.renewed(*grant) {
            Ok(()) => return true,
            Err(error) => {
                tracing::error!(%error, "the new certificate cannot be used; the old one is kept");
                link.keys.drop_request()
            }
        },
        Some(Notice::NotRenewed(refusal)) => {
            tracing::warn!(reason = ?refusal.reason, %refusal, here = link.keys.today(), "the certificate is not renewed; the old one is kept");
            if refusal.reason == RenewRefusalReason::Malformed {
                link.keys.drop_request()
            } else {
                Ok(())
            }
        }
        _ => {
            tracing::warn!("no answer about the next certificate; asks again later with the same key");
            Ok(())
        }
    };
    if let Err(error) = dropped {
        tracing::warn!(%error, "the key of a request that was refused cannot be removed");
    }
    false
}
