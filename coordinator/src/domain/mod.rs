//! Pure decisions: what may follow from which state, where an app goes, which VMID, port and address it gets. No clock, no registry, no node in here.

pub mod address_pool;
pub mod adoption;
pub mod app_state;
pub mod backups;
pub mod calendar;
pub mod catalog;
pub mod clocks;
pub mod coverage;
pub mod drain;
pub mod network;
pub mod operation_state;
pub mod placement;
pub mod port_pool;
pub mod retention;
pub mod role;
pub mod schedule;
pub mod settings;
pub mod side_containers;
pub mod upkeep;
pub mod vmid_pool;
