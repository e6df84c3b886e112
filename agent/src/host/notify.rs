//! What the service manager is told (`sd_notify(3)`): ready, alive, stopping, and one line of status. Without `NOTIFY_SOCKET` nobody listens, and nothing is
//! said. Of our own, since the usual crate knows no abstract sockets, which systemd may choose.

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

/// The service manager that started us.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// `None`: nobody listens.
    pub(crate) fn from_environment() -> Option<Self> {
        let name = env::var_os("NOTIFY_SOCKET")?;
        let number = |key: &str| env::var(key).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|us| ours && *us > 0);
        match Self::at(&name, watchdog.map(Duration::from_micros)) {
            Ok(manager) => Some(manager),
            Err(error) => {
                tracing::warn!(%error, socket = ?name, "the service manager cannot be told anything");
                None
            }
        }
    }

    fn at(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A full queue must not hold the agent.
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address,
            watchdog,
        })
    }

    /// Says lines as sd_notify(3) has them.
    pub(crate) fn say(&self, words: &str) {
        if let Err(error) = self.socket.send_to_addr(words.as_bytes(), &self.address) {
            tracing::debug!(%error, words, "the service manager did not hear it");
        }
    }

    /// Says that we live, twice in the time that the watchdog gives, and what `status` says when it changes. It must be polled by the task whose life it
    /// tells.
    pub(crate) async fn attend(&self, status: impl Fn() -> String) -> Infallible {
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
            let manager = ServiceManager::at(&name, Some(Duration::from_millis(20))).unwrap();
            manager.say("READY=1");
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
        ServiceManager::at(gone.as_os_str(), None).unwrap().say("READY=1");
        assert!(!gone.exists());
    }
}
