//! `sd_notify(3)`: ready, alive, stopping, and one line of status. Without `NOTIFY_SOCKET` nobody listens, and nothing is said.

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
use tokio::time::{MissedTickBehavior, interval};

/// How often the status is looked at, where no watchdog asks for more.
const LOOK: Duration = Duration::from_secs(2);

/// The service manager, if one started us.
#[derive(Debug)]
pub struct ServiceManager {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names.
    pub fn from_environment() -> Self {
        let number = |key: &str| env::var(key).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|us| ours && *us > 0);
        let to = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            open(&name)
                .inspect_err(
                    |error| tracing::warn!(%error, socket = ?name, "the service manager cannot be told anything"),
                )
                .ok()
        });
        Self {
            to,
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// Published ports stand, listeners are bound: whoever waits for us may go on.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// We end in good order.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    fn say(&self, words: &str) {
        let Some((socket, address)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), address) {
            tracing::debug!(%error, words, "the service manager did not hear it");
        }
    }

    /// Says that we live, at least twice in the time that the watchdog gives, and what `status` says when it changes. It must be polled by the task whose
    /// life it tells.
    pub async fn attend(&self, status: impl Fn() -> String) -> Infallible {
        if self.to.is_none() {
            return std::future::pending().await;
        }
        let every = self.watchdog.map_or(LOOK, |bound| (bound / 2).min(LOOK));
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = String::new();
        loop {
            ticks.tick().await;
            if self.watchdog.is_some() {
                self.say("WATCHDOG=1");
            }
            let now = status().replace('\n', " ");
            if now != said {
                self.say(&format!("STATUS={now}"));
                said = now;
            }
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn hear(socket: &tokio::net::UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn paths_and_abstract_names_hear_life_and_status() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let unique = format!("proximity-test-{}", uuid::Uuid::new_v4());
        let abstract_address = SocketAddr::from_abstract_name(&unique).unwrap();
        let cases = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (
                format!("@{unique}").into(),
                UnixDatagram::bind_addr(&abstract_address).unwrap(),
            ),
        ];
        for (name, socket) in cases {
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::UnixDatagram::from_std(socket).unwrap();
            let manager = ServiceManager {
                to: Some(open(&name).unwrap()),
                watchdog: Some(Duration::from_millis(20)),
            };
            manager.ready();
            assert_eq!(hear(&socket).await, "READY=1");
            let heard = async { [hear(&socket).await, hear(&socket).await, hear(&socket).await] };
            let heard = tokio::select! {
                never = manager.attend(|| "linked\nto c".to_owned()) => match never {},
                heard = heard => heard,
            };
            assert_eq!(heard, ["WATCHDOG=1", "STATUS=linked to c", "WATCHDOG=1"]);
        }
    }

    #[test]
    fn a_manager_that_is_gone_harms_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let manager = ServiceManager {
            to: Some(open(gone.as_os_str()).unwrap()),
            watchdog: None,
        };
        manager.ready();
        assert!(!gone.exists());
    }
}
