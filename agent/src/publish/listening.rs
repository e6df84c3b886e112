//! Who listens on the node: `/proc/net/tcp` and `tcp6`.

use crate::host::{NodeContext, sockets};
use proximity_protocol::fault::{Fault, FaultKind};
use std::{fs, io, net::TcpListener, path::Path};

/// Whether something listens on the port, on any address.
pub(super) fn is_taken(node: &NodeContext, port: u16) -> Result<bool, Fault> {
    let mut read = false;
    for name in ["net/tcp", "net/tcp6"] {
        let path = node.proc(name);
        match fs::read_to_string(&path) {
            Ok(text) if listens(&text, port) => return Ok(true),
            Ok(_) => read = true,
            // No IPv6; or a machine of files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Fault::new(
                    FaultKind::Internal,
                    format!("{} cannot be read: {error}", path.display()),
                ));
            }
        }
    }
    if read && node.host().proc == Path::new("/proc") {
        return Ok(false);
    }
    // Where procfs is not the kernel's own it does not show everything: ask by binding, which ends before anybody could connect.
    match TcpListener::bind((node.address(), port)) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(true),
        Err(error) => Err(Fault::new(
            FaultKind::Internal,
            format!("port {port} of {} cannot be checked: {error}", node.address()),
        )),
    }
}

fn listens(text: &str, port: u16) -> bool {
    sockets::listening(text).any(|(_, found)| found == port)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    #[test]
    fn only_listening_sockets_count() {
        let text = "  sl  local_address rem_address   st tx_queue\n   0: 00000000:1F41 00000000:0000 0A 00000000:00000000\n   1: 0100007F:1F42 0100007F:9999 01 0:0\n";
        assert!(listens(text, 8001));
        assert!(!listens(text, 8002));
        assert!(!listens(text, 0x9999));
    }

    #[test]
    fn a_listener_is_found_on_a_machine_of_files_too() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_taken(&node, port).unwrap());
        drop(listener);
        assert!(!is_taken(&node, port).unwrap());
    }
}
