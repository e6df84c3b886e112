//! TCP ports on which something listens inside a container: `/proc/<init>/net/tcp` and `tcp6` show its network namespace.

use super::NodeContext;
use crate::host::sockets;
use proximity_protocol::examined::Listening;
use std::{collections::BTreeMap, fs, io};

/// Each port once, in order.
pub(super) fn listening(node: &NodeContext, init_pid: u32) -> io::Result<Vec<Listening>> {
    let mut ports: BTreeMap<u16, bool> = BTreeMap::new();
    for name in ["tcp", "tcp6"] {
        let text = match fs::read_to_string(node.proc(&format!("{init_pid}/net/{name}"))) {
            Ok(text) => text,
            // A container may be without IPv6. Without the first file it has ended.
            Err(error) if name == "tcp6" && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for (address, port) in sockets::listening(&text) {
            *ports.entry(port).or_default() |= !address.is_loopback();
        }
    }
    Ok(ports
        .into_iter()
        .map(|(port, outside)| Listening { port, outside })
        .collect())
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
}
