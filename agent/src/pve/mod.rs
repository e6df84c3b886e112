//! Proxmox's tools and files: argv builder and parsers, pure.
