//! A simulated Proxmox VE node.

pub mod body;
pub mod clock;
pub mod conf;
pub mod lab;
pub mod layout;
