//! Says in the log when the nodes' clocks and ours do not agree, and whose is wrong. The nodes' own views say the same (`nodes`).

use crate::{
    clock::SharedClock,
    domain::clocks::{self, Clocks},
    live::Live,
    store::{Store, StoreError, nodes},
};
use std::{collections::HashMap, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often the clocks are compared.
const LOOK: Duration = Duration::from_secs(30);

/// What the log says; `None`: nothing, they agree.
async fn words(store: &Store, found: &Clocks) -> Result<Option<String>, StoreError> {
    let mut read = store.read().await?;
    let names: HashMap<_, _> = nodes::list(&mut read, None)
        .await?
        .into_iter()
        .map(|row| (row.id, row.name))
        .collect();
    let name = |node| names.get(node).cloned().unwrap_or_default();
    Ok(match found {
        Clocks::Agree => None,
        Clocks::CoordinatorOff(by) => Some(format!(
            "this coordinator's clock is wrong: most nodes agree with each other, and their clocks are {} this one. Set this clock right",
            clocks::words(*by)
        )),
        Clocks::NodesOff(off) => {
            let each: Vec<String> = off
                .iter()
                .map(|(node, by)| format!("that of {} is {} this coordinator's", name(node), clocks::words(*by)))
                .collect();
            Some(format!(
                "clocks of nodes are wrong: {}. Set them right there: chrony or systemd-timesyncd keeps them so",
                each.join("; ")
            ))
        }
        Clocks::Either(node, by) => Some(format!(
            "the clock of {} is {} this coordinator's: one of the two is wrong. Compare `date -u` on both",
            name(node),
            clocks::words(*by)
        )),
    })
}

/// Compares until `stop`; speaks when something has changed.
pub async fn run(store: Store, live: Live, clock: SharedClock, stop: CancellationToken) {
    let mut said = Clocks::Agree;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = clock.wait(LOOK) => {}
        }
        let found = clocks::judge(&live.clocks());
        // By how much exactly is no news.
        if std::mem::discriminant(&found) == std::mem::discriminant(&said) {
            continue;
        }
        match words(&store, &found).await {
            Ok(Some(words)) => tracing::error!("{words}"),
            Ok(None) => tracing::info!("the clocks of all connected nodes agree with this coordinator's again"),
            Err(error) => {
                tracing::warn!(%error, "clocks differ, and the registry does not tell the nodes' names");
                continue;
            }
        }
        said = found;
    }
}
