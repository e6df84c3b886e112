//! A wire that can be cut: UDP between one agent and the coordinator, without root.

use anyhow::{Context, Result};
use std::{
    collections::{HashMap, hash_map::Entry},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{net::UdpSocket, task::JoinHandle};

/// The largest datagram.
const DATAGRAM_MAX: usize = 65_536;

/// One wire.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Wire {
    /// Leads to `coordinator`.
    pub async fn to(coordinator: SocketAddr) -> Result<Self> {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        let address = socket.local_addr()?;
        let cut = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(carry(socket, coordinator, cut.clone()));
        Ok(Self { address, cut, task })
    }

    /// Nothing passes any more, or everything again.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    /// The agent with that state folder finds its coordinator here from its next start on.
    pub fn lead(&self, state: &Path) -> Result<()> {
        let path = state.join("identity/identity.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut identity: serde_json::Value = serde_json::from_str(&text)?;
        identity["addresses"] = serde_json::json!([self.address.to_string()]);
        Ok(std::fs::write(&path, identity.to_string())?)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(socket: Arc<UdpSocket>, coordinator: SocketAddr, cut: Arc<AtomicBool>) {
    let mut ways: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut datagram = vec![0; DATAGRAM_MAX];
    loop {
        // An answer that a closed port refuses is no reason to end.
        let Ok((length, from)) = socket.recv_from(&mut datagram).await else {
            continue;
        };
        if let Entry::Vacant(new) = ways.entry(from) {
            match way(&socket, from, coordinator, &cut).await {
                Ok(way) => drop(new.insert_entry(way)),
                Err(error) => {
                    eprintln!("a wire cannot lead on: {error:#}");
                    continue;
                }
            }
        }
        if !cut.load(Ordering::SeqCst)
            && let Some((onward, _)) = ways.get(&from)
        {
            // Lost, as datagrams are.
            let _ = onward.send(&datagram[..length]).await;
        }
    }
}

/// One agent's socket has one of its own on the other side.
async fn way(
    socket: &Arc<UdpSocket>,
    agent: SocketAddr,
    coordinator: SocketAddr,
    cut: &Arc<AtomicBool>,
) -> Result<(Arc<UdpSocket>, JoinHandle<()>)> {
    let onward = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    onward.connect(coordinator).await?;
    let (back, from, cut) = (socket.clone(), onward.clone(), cut.clone());
    let task = tokio::spawn(async move {
        let mut datagram = vec![0; DATAGRAM_MAX];
        loop {
            match from.recv(&mut datagram).await {
                Ok(length) if !cut.load(Ordering::SeqCst) => {
                    let _ = back.send_to(&datagram[..length], agent).await;
                }
                Ok(_) => {}
                // The coordinator is down: its port refuses.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    Ok((onward, task))
}
