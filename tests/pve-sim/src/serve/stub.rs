//! What answers on a port: a page or a line that says that it is simulated.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A client that says nothing for so long gets the plain line, as servers that speak first would send one.
const SILENCE: Duration = Duration::from_millis(300);

/// For whom a port answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stub {
    pub(super) vmid: u32,
    pub(super) hostname: String,
    /// The port inside the container.
    pub(super) port: u16,
}

impl Stub {
    fn line(&self) -> String {
        format!(
            "simulated by pve-sim (hollow body): container {} {}, port {}\n",
            self.vmid, self.hostname, self.port
        )
    }
}

/// An open port; closed when dropped.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) stub: Stub,
    address: SocketAddrV4,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(super) fn open(address: SocketAddrV4, stub: Stub) -> io::Result<Self> {
        let socket = TcpListener::bind(address)?;
        let closing = Arc::new(AtomicBool::new(false));
        let (seen, owner) = (closing.clone(), stub.clone());
        let thread = std::thread::Builder::new()
            .name(format!("port-{address}"))
            .spawn(move || {
                for connection in socket.incoming() {
                    if seen.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(connection) = connection else { continue };
                    let stub = owner.clone();
                    // A client that leaves early, or no thread left for it, concerns only itself.
                    let _ = std::thread::Builder::new().spawn(move || {
                        let _ = answer(connection, &stub);
                    });
                }
            })?;
        Ok(Self {
            stub,
            address,
            closing,
            thread: Some(thread),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes the thread out of accept; if nobody answers it has ended already.
        let _ = TcpStream::connect_timeout(&self.address.into(), Duration::from_secs(1));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut connection: TcpStream, stub: &Stub) -> io::Result<()> {
    connection.set_read_timeout(Some(SILENCE))?;
    connection.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    // Up to the end of an HTTP head, at most 64 KiB, or until it falls silent.
    while request.len() < 65_536 && !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match connection.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => request.extend_from_slice(&buffer[..count]),
        }
    }
    let is_http = [
        &b"GET "[..],
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
    ]
    .iter()
    .any(|verb| request.starts_with(verb));
    let line = stub.line();
    if !is_http {
        return connection.write_all(line.as_bytes());
    }
    let body = format!(
        "<!doctype html><title>{}</title><p>{}</p>\n",
        stub.hostname,
        line.trim_end()
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: pve-sim\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes())?;
    if request.starts_with(b"HEAD ") {
        Ok(())
    } else {
        connection.write_all(body.as_bytes())
    }
}
