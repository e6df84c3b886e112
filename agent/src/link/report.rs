//! Tells the coordinator what is: after Welcome, when asked, and when it has changed.

use super::Link;
use proximity_protocol::{event::Event, observed::Inventory};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::MissedTickBehavior,
};

/// How often the node is looked at for changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is asked whether guests have moved, started or stopped, or the cluster's quorum has changed: then it is looked at once. While a container that
/// moved is not told of, nobody publishes its port.
const PULSE_INTERVAL: Duration = Duration::from_secs(2);

/// Repairs of published ports, counted until they are told: they happen without a link too.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    untold: AtomicU32,
    wake: Notify,
}

impl Repairs {
    /// Ports were set again.
    pub(crate) fn add(&self, count: u32) {
        self.untold.fetch_add(count, Ordering::SeqCst);
        self.wake.notify_one();
    }

    async fn next(&self) -> u32 {
        loop {
            match self.untold.swap(0, Ordering::SeqCst) {
                0 => self.wake.notified().await,
                count => return count,
            }
        }
    }
}

/// Runs for as long as the connection does: it ends when nobody takes events any more.
pub(super) async fn run(link: &Link, events: &mpsc::Sender<Event>, refresh: &Notify) {
    tokio::select! {
        () = looks(link, events, refresh) => {}
        () = repairs(link, events) => {}
    }
}

async fn looks(link: &Link, events: &mpsc::Sender<Event>, refresh: &Notify) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Hello told the facts just now.
    let mut facts_told = link.node.facts().await.ok();
    let mut inventory_told: Option<Inventory> = None;
    let mut pulses = tokio::time::interval(PULSE_INTERVAL);
    pulses.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pulse = link.node.pulse().await;
    loop {
        let asked = tokio::select! {
            biased;
            () = refresh.notified() => true,
            _ = ticks.tick() => false,
            _ = pulses.tick() => {
                let now = link.node.pulse().await;
                if now == pulse {
                    continue;
                }
                pulse = now;
                false
            }
        };
        match link.node.facts().await {
            Ok(facts) if asked || facts_told.as_ref() != Some(&facts) => {
                facts_told = Some(facts.clone());
                if events.send(Event::Facts(Box::new(facts))).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(fault) => tracing::warn!(%fault, "the node's facts cannot be read"),
        }
        let inventory = link.node.inventory().await;
        link.status.published(&inventory.published);
        if asked || inventory_told.as_ref() != Some(&inventory) {
            inventory_told = Some(inventory.clone());
            if events.send(Event::Inventory(Box::new(inventory))).await.is_err() {
                return;
            }
        }
    }
}

async fn repairs(link: &Link, events: &mpsc::Sender<Event>) {
    loop {
        let count = link.repairs.next().await;
        if events.send(Event::PublishedRepaired { count }).await.is_err() {
            link.repairs.add(count);
            return;
        }
    }
}
