//! A simulated Proxmox VE node.

pub mod body;
mod call;
mod check;
pub mod clock;
pub mod conf;
pub mod lab;
pub mod layout;
mod locks;
mod nft;
mod node;
mod options;
mod pct;
mod pmxcfs;
mod pveam;
mod pvesh;
mod pvesm;
mod pveversion;
mod script;
mod serve;
mod spec;
mod storage;
mod tasks;
mod tools;
mod vzdump;

pub use call::{EXIT_KILLED, EXIT_NOT_SIMULATED, Signals};
pub use clock::{Clock, SystemClock};
pub use layout::{BodyKind, Layout, NodeInfo};
pub use node::Node;
pub use script::{At, Fault, Hits, Rule, Script};
pub use serve::serve;
pub use spec::{NodeSpec, TEMPLATES};
pub use tools::TOOLS;
