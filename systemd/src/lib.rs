//! What the agent and the coordinator say to systemd, where it started them: [`notify`] says that a program is ready, that it lives and how it is;
//! [`journal`] writes its log with fields that `journalctl OPERATION_ID=…` finds. Elsewhere the one says nothing, and the other leaves the log to stderr.
//!
//! Both are a few datagrams to a socket. Of our own: the usual crate for the first knows no abstract sockets, which systemd may choose, and that for the
//! second leaves the fields out of the text that people read.

pub mod journal;
pub mod notify;
