//! Proxmox's tools and files: what to say to the tools (`argv`), what their words mean (`words`), and parsers of the files that tell the state
//! without a process. All pure: text in, values out, and never a panic, whatever the text.

pub(crate) mod argv;
pub(crate) mod backup_argv;
pub(crate) mod cluster;
pub(crate) mod conf;
pub(crate) mod ha;
pub(crate) mod restore_argv;
pub(crate) mod storage_cfg;
pub(crate) mod tar;
pub(crate) mod tasks;
pub(crate) mod volumes;
pub(crate) mod vzdump;
pub(crate) mod words;

pub use argv::TOOLS;
