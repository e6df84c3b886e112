//! Listening TCP sockets, as `/proc/net/tcp` and `tcp6` of a network namespace list them (proc_net(5)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// State 0A of a socket (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// Address and port of each socket that listens. Lines that are none are skipped.
pub(crate) fn listening(text: &str) -> impl Iterator<Item = (IpAddr, u16)> {
    text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (state == LISTEN).then_some((address_of(address)?, port))
    })
}

/// Words of 32 bits in the machine's byte order, one for IPv4 and four for IPv6.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for part in 0..4 {
                bytes[part * 4..part * 4 + 4].copy_from_slice(&word(part * 8)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_listening_sockets_count_and_their_addresses_are_read() {
        let four = "  sl  local_address rem_address   st tx_queue\n   0: 00000000:1F41 00000000:0000 0A 00000000:00000000\n   1: 0100007F:1F42 0100007F:9999 01 0:0\n   2: 0100007F:1F43 00000000:0000 0A 0:0\n";
        assert_eq!(
            listening(four).collect::<Vec<_>>(),
            [
                (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8001),
                (IpAddr::V4(Ipv4Addr::LOCALHOST), 8003)
            ]
        );
        let six = "  sl  local_address                         remote_address                        st\n   0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0\n   1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0\n   2: 0000000000000000FFFF00000100007F:0051 00000000000000000000000000000000:0000 0A 0:0\n";
        assert_eq!(
            listening(six).collect::<Vec<_>>(),
            [
                (IpAddr::V6(Ipv6Addr::LOCALHOST), 22),
                (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 80),
                (IpAddr::V4(Ipv4Addr::LOCALHOST), 81)
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>(), tail in "([0-9A-F]{0,33}|:| |0A|\n|é){0,40}") {
            let _ = listening(&format!("head\n{text}\n{tail}")).count();
        }
    }
}
