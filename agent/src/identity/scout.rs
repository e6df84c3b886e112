//! Why nobody answers: as well as that can be told from here.
//!
//! QUIC's own handshake only says "no answer". A scout sends the same server a packet of a version that there is none of, which every QUIC server has to
//! answer in clear (RFC 9000, 5.2.2), from a connected socket, to which the kernel hands the errors that come back (ICMP); and it knocks on the same port by
//! TCP, which the coordinator does not listen on: an answer of whatever kind shows that the machine is there. Nothing secret is sent.

use nix::sys::socket::{setsockopt, sockopt};
use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout, timeout_at},
};

/// How long to look. The kernel takes three seconds until it says that a neighbour does not answer ARP.
const BOUND: Duration = Duration::from_millis(4_500);
/// Between two packets.
const AGAIN: Duration = Duration::from_millis(700);
/// What every QUIC packet that begins a connection has at least (RFC 9000, 14.1).
const PACKET_LEN: usize = 1_200;

/// What a scout saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// This machine has no way there.
    NoRoute(String),
    /// This machine's own packet filter does not let UDP out to there.
    ForbiddenHere,
    /// Packets of 1200 bytes do not fit the network that leads there.
    TooNarrow,
    /// The machine, or a firewall for it, says that nothing takes UDP on that port.
    Refused,
    /// A neighbour or a router says that there is no such machine, or that nobody may go there.
    NoHost(String),
    /// A QUIC server answers the scout, and yet the handshake does not come about.
    OnlyScout,
    /// Something else than QUIC answers.
    Stranger,
    /// The machine answers TCP, and UDP nothing.
    OnlyTcp,
    /// Nothing at all comes back.
    Silent,
}

impl Sight {
    /// Whether it is sure at once, so that there is nothing to wait for.
    pub fn is_plain(&self) -> bool {
        matches!(
            self,
            Self::NoRoute(_) | Self::ForbiddenHere | Self::TooNarrow | Self::Refused | Self::NoHost(_)
        )
    }
}

impl Sight {
    /// What to do about it.
    pub fn advice(&self, socket: &SocketAddr) -> String {
        let (address, port) = (socket.ip(), socket.port());
        match self {
            Self::NoRoute(_) => {
                format!("Look at `ip route get {address}`, and at the bridge and the default gateway of this machine")
            }
            Self::ForbiddenHere => format!(
                "Let UDP out to {address} port {port}: `nft list ruleset` shows the chains (hook output) that drop it"
            ),
            Self::TooNarrow | Self::OnlyScout => format!(
                "Packets of 1200 bytes have to pass in both directions: look for a tunnel or a wrong MTU on the way (`ping -M do -s 1172 {address}`)"
            ),
            Self::Refused => format!(
                "Is the coordinator running there (`systemctl status proximity-coordinator`), is {port} its port (`quic_listen`), and does a firewall there reject it?"
            ),
            Self::NoHost(_) | Self::Silent => format!(
                "Is that machine on, and is the address right? `ping {address}`; a firewall that drops everything looks the same from here"
            ),
            Self::Stranger => format!("See what listens on UDP port {port} of {address}"),
            Self::OnlyTcp => format!(
                "A firewall on the way, or on that machine, drops UDP: let UDP port {port} through in both directions; if it does, see whether the coordinator runs there"
            ),
        }
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute(why) => write!(f, "this machine has no network that leads there ({why})"),
            Self::ForbiddenHere => f.write_str("this machine's own packet filter lets no UDP out to it"),
            Self::TooNarrow => f.write_str("packets of 1200 bytes do not fit the network that leads there"),
            Self::Refused => f.write_str("it is answered that nothing takes UDP on that port"),
            Self::NoHost(why) => write!(
                f,
                "it is answered that there is no such machine, or no way to it ({why})"
            ),
            Self::OnlyScout => f.write_str("small packets are answered, but no connection comes about"),
            Self::Stranger => f.write_str("something else than a coordinator answers"),
            Self::OnlyTcp => f.write_str("the machine is there, but UDP to that port brings no answer"),
            Self::Silent => f.write_str("nothing at all comes back, neither by UDP nor by TCP"),
        }
    }
}

/// Looks at one address.
pub(crate) async fn look(to: SocketAddr) -> Sight {
    let limit = Instant::now() + BOUND;
    let knocking = tokio::spawn(by_tcp(to));
    let sight = match timeout_at(limit, by_udp(to)).await {
        Ok(Ok(sight)) => Some(sight),
        Ok(Err(error)) => of_error(&error),
        Err(_) => None,
    };
    match sight {
        Some(sight) => {
            knocking.abort();
            sight
        }
        // What TCP brings counts only where UDP was silent for the whole time.
        None if knocking.await.unwrap_or(false) => Sight::OnlyTcp,
        None => Sight::Silent,
    }
}

/// What the kernel's word on a packet means.
fn of_error(error: &io::Error) -> Option<Sight> {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied};
    match error.kind() {
        ConnectionRefused => Some(Sight::Refused),
        HostUnreachable => Some(Sight::NoHost(error.to_string())),
        // Sent by a router it is rare, and means the same to whoever reads it.
        NetworkUnreachable => Some(Sight::NoRoute(error.to_string())),
        PermissionDenied => Some(Sight::ForbiddenHere),
        _ if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => Some(Sight::TooNarrow),
        _ => None,
    }
}

async fn by_udp(to: SocketAddr) -> io::Result<Sight> {
    let local: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    // Without it the kernel keeps "no such host" to itself.
    match to {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    }?;
    socket.connect(to).await.map_err(|error| match error.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            io::Error::new(io::ErrorKind::NetworkUnreachable, error.to_string())
        }
        _ => error,
    })?;
    let packet = packet();
    let mut answer = [0; PACKET_LEN];
    loop {
        socket.send(&packet).await?;
        if let Ok(received) = timeout(AGAIN, socket.recv(&mut answer)).await {
            let answer = &answer[..received?];
            return Ok(if is_version_negotiation(answer, &packet) {
                Sight::OnlyScout
            } else {
                Sight::Stranger
            });
        }
    }
}

/// A packet with a long header of a version that is reserved for asking for versions (RFC 9000, 15).
fn packet() -> [u8; PACKET_LEN] {
    let mut packet = [0; PACKET_LEN];
    packet[0] = 0xC0;
    packet[1..5].copy_from_slice(&[0x1A, 0x2A, 0x3A, 0x4A]);
    let ids = uuid::Uuid::new_v4().into_bytes();
    (packet[5], packet[14]) = (8, 8);
    packet[6..14].copy_from_slice(&ids[..8]);
    packet[15..23].copy_from_slice(&ids[8..]);
    packet
}

/// Version 0, and our own ids the other way round (RFC 9000, 17.2.1).
fn is_version_negotiation(answer: &[u8], asked: &[u8]) -> bool {
    answer.len() > 23
        && answer[0] & 0x80 != 0
        && answer[1..5] == [0; 4]
        && answer[5..14] == asked[14..23]
        && answer[14..23] == asked[5..14]
}

/// Whether the machine says anything by TCP.
async fn by_tcp(to: SocketAddr) -> bool {
    match timeout(Duration::from_secs(2), TcpStream::connect(to)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
        ),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tests::{Ca, listen};

    #[tokio::test]
    async fn a_quic_server_answers_the_scout_and_a_stranger_does_not_pass_for_one() {
        let endpoint = listen(&Ca::new());
        assert_eq!(look(endpoint.local_addr().unwrap()).await, Sight::OnlyScout);
        let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = echo.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut packet = [0; PACKET_LEN];
            let (length, from) = echo.recv_from(&mut packet).await.unwrap();
            echo.send_to(&packet[..length], from).await.unwrap();
        });
        assert_eq!(look(address).await, Sight::Stranger);
        answering.await.unwrap();
    }

    #[tokio::test]
    async fn a_closed_port_refuses_and_a_mute_one_is_told_from_an_absent_machine() {
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(look(closed).await, Sight::Refused);
        let mute = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(look(mute.local_addr().unwrap()).await, Sight::OnlyTcp);
    }
}
