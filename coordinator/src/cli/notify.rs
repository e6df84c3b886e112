//! What the service manager is told (`sd_notify(3)`). Without `NOTIFY_SOCKET` nobody listens, and nothing is said. Of our own, since the usual crate knows
//! no abstract sockets, which systemd may choose.

use std::{
    convert::Infallible,
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// The service manager, if one started us.
#[derive(Debug)]
pub(super) struct ServiceManager {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A full queue must not hold us.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

impl ServiceManager {
    pub(super) fn from_environment() -> Self {
        let to = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            open(&name)
                .inspect_err(
                    |error| tracing::warn!(%error, socket = ?name, "the service manager cannot be told anything"),
                )
                .ok()
        });
        let number = |key: &str| env::var(key).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|us| ours && *us > 0);
        Self {
            to,
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// Says lines as sd_notify(3) has them.
    pub(super) fn say(&self, words: &str) {
        let Some((socket, address)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), address) {
            tracing::debug!(%error, words, "the service manager did not hear it");
        }
    }

    /// Says that we live, twice in the time that the watchdog gives. It must be polled by the task whose life it tells.
    pub(super) async fn attend(&self) -> Infallible {
        let Some(bound) = self.watchdog else {
            return std::future::pending().await;
        };
        let mut ticks = tokio::time::interval((bound / 2).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.say("WATCHDOG=1");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn readiness_and_life_are_heard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager {
            to: Some(open(path.as_os_str()).unwrap()),
            watchdog: Some(Duration::from_millis(20)),
        };
        manager.say("READY=1");
        let mut buffer = [0; 64];
        for expected in ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
            let heard = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut buffer));
            let length = tokio::select! {
                never = manager.attend() => match never {},
                heard = heard => heard.unwrap().unwrap(),
            };
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
    }
}
