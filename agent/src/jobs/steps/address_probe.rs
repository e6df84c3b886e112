//! Whether anybody answers at an address on a bridge: ARP probes as of RFC 5227 (sender address 0.0.0.0, so that no cache on the network changes).
//!
//! It needs CAP_NET_RAW, which the agent has as root. Without it, and without an interface of that name in the kernel (a machine of files), the probe is
//! left out with a warning: the configurations of all guests have been looked at already.

use crate::host::NodeContext;
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::BridgeName,
};
use std::{
    net::Ipv4Addr,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// Probes, and how long each is listened for.
const PROBES: u32 = 3;
const LISTEN: Duration = Duration::from_millis(500);

/// The Ethernet address of who answers.
pub(super) async fn probe(node: &NodeContext, bridge: &BridgeName, address: Ipv4Addr) -> Result<Option<String>, Fault> {
    let bridge = bridge.clone();
    let failed = |why: String| {
        Fault::new(
            FaultKind::Internal,
            format!("address {address} cannot be probed: {why}"),
        )
    };
    let link = getifaddrs()
        .map_err(|error| failed(error.to_string()))?
        .filter(|entry| entry.interface_name == bridge.as_str())
        .find_map(|entry| entry.address?.as_link_addr().copied());
    let Some(link) = link else {
        tracing::debug!(%bridge, node = %node.name(), "no such interface in the kernel: the address is not probed");
        return Ok(None);
    };
    match tokio::task::spawn_blocking(move || ask(&link, address)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Errno::EPERM | Errno::EACCES)) => {
            tracing::warn!(%bridge, %address, "the agent lacks CAP_NET_RAW: the address is not probed");
            Ok(None)
        }
        Ok(Err(Errno::ENETDOWN)) => Err(Fault::new(
            FaultKind::BridgeMissing,
            format!("bridge {bridge} is down: bring it up on the node"),
        )),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn ask(link: &LinkAddr, address: Ipv4Addr) -> nix::Result<Option<String>> {
    let own = link.addr().unwrap_or_default();
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    bind(socket.as_raw_fd(), link)?;
    let frame = frame(own, address);
    let mut buffer = [0_u8; 1600];
    for _ in 0..PROBES {
        send(socket.as_raw_fd(), &frame, MsgFlags::empty())?;
        let limit = Instant::now() + LISTEN;
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            setsockopt(
                &socket,
                ReceiveTimeout,
                &TimeVal::milliseconds(i64::try_from(left.as_millis()).unwrap_or(1).max(1)),
            )?;
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    if let Some(mac) = answer(&buffer[..length], own, address) {
                        return Ok(Some(mac));
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

/// A broadcast that asks who has the address.
fn frame(own: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(own);
    // Type ARP; Ethernet, IPv4, lengths 6 and 4, request.
    frame.extend([0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x01]);
    frame.extend(own);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame.resize(60, 0);
    frame
}

/// Whose frame this is, if it is an ARP packet (request or answer) that claims the address.
fn answer(frame: &[u8], own: [u8; 6], address: Ipv4Addr) -> Option<String> {
    let arp = frame.get(14..42)?;
    if frame[12..14] != [0x08, 0x06]
        || arp[0..6] != [0x00, 0x01, 0x08, 0x00, 6, 4]
        || arp[14..18] != address.octets()
        || arp[8..14] == own
    {
        return None;
    }
    let mac: Vec<String> = arp[8..14].iter().map(|byte| format!("{byte:02X}")).collect();
    Some(mac.join(":"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_told_from_our_own_question() {
        let (own, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let address = Ipv4Addr::new(10, 0, 0, 5);
        let question = frame(own, address);
        assert_eq!(question.len(), 60);
        assert_eq!(answer(&question, own, address), None);
        let mut reply = frame(other, [10, 0, 0, 9].into());
        reply[21] = 2;
        reply[28..32].copy_from_slice(&address.octets());
        assert_eq!(answer(&reply, own, address).as_deref(), Some("02:00:00:00:00:02"));
        assert_eq!(answer(&reply, own, [10, 0, 0, 6].into()), None);
        for length in 0..reply.len() {
            let _ = answer(&reply[..length], own, address);
        }
    }

    #[tokio::test]
    async fn a_bridge_that_the_kernel_does_not_know_is_not_probed() {
        let dir = tempfile::tempdir().unwrap();
        let node = crate::facts::testing::node(dir.path());
        assert_eq!(
            probe(&node, &BridgeName::new("nosuch9").unwrap(), [10, 0, 0, 5].into())
                .await
                .unwrap(),
            None
        );
    }
}
