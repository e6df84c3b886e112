//! TCP ports on which something listens inside a container: `/proc/<init>/net/tcp` and `tcp6` show its network namespace.
//!
//! How long these lists are is for whoever is root in the container to say. So neither is read without end, nor are more ports told than an answer about all
//! containers of a node has room for.

use super::NodeContext;
use crate::host::{files, sockets};
use proximity_protocol::examined::Listening;
use std::{collections::BTreeMap, io};

/// How much of a list is read, bytes: some 50 000 sockets. The kernel names those that listen first.
const READ_MAX: u64 = 8 << 20;
/// How many ports of a container are told.
const PORTS_MAX: usize = 256;

/// Each port once, in order; of very many those that are open to others, the lowest first.
pub(super) fn listening(node: &NodeContext, init_pid: u32) -> io::Result<Vec<Listening>> {
    let mut ports: BTreeMap<u16, bool> = BTreeMap::new();
    for name in ["tcp", "tcp6"] {
        let text = match files::head(&node.proc(&format!("{init_pid}/net/{name}")), READ_MAX) {
            Ok(text) => text,
            // A container may be without IPv6. Without the first file it has ended.
            Err(error) if name == "tcp6" && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for (address, port) in sockets::listening(&text) {
            *ports.entry(port).or_default() |= !address.is_loopback();
        }
    }
    let mut told: Vec<Listening> = ports
        .into_iter()
        .map(|(port, outside)| Listening { port, outside })
        .collect();
    if told.len() > PORTS_MAX {
        told.sort_by_key(|listening| !listening.outside);
        told.truncate(PORTS_MAX);
        told.sort_by_key(|listening| listening.port);
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    #[test]
    fn a_port_of_the_loopback_alone_is_not_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        assert!(listening(&node, 900).is_err(), "unknown is not none");
        let head = "  sl  local_address rem_address   st\n";
        let tcp = format!("{head}   0: 0100007F:0CEA 00000000:0000 0A 0:0\n   1: 00000000:0050 00000000:0000 0A 0:0\n");
        testing::put(dir.path(), "proc/900/net/tcp", &tcp);
        let port = |port, outside| Listening { port, outside };
        assert_eq!(listening(&node, 900).unwrap(), [port(80, true), port(3306, false)]);
        let tcp6 = format!("{head}   0: {}:0CEA {}:0000 0A 0:0\n", "0".repeat(32), "0".repeat(32));
        testing::put(dir.path(), "proc/900/net/tcp6", &tcp6);
        assert_eq!(listening(&node, 900).unwrap(), [port(80, true), port(3306, true)]);
    }

    #[test]
    fn a_container_that_listens_everywhere_does_not_fill_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let mut tcp = String::from("  sl  local_address rem_address   st\n");
        for port in 1..=u16::MAX {
            let address = if port < 1000 { "0100007F" } else { "00000000" };
            tcp.push_str(&format!("   0: {address}:{port:04X} 00000000:0000 0A 0:0\n"));
        }
        testing::put(dir.path(), "proc/900/net/tcp", &tcp);
        let told: Vec<u16> = listening(&node, 900).unwrap().iter().map(|l| l.port).collect();
        assert_eq!(told, (1000..1256).collect::<Vec<u16>>(), "those that others reach");
    }
}
