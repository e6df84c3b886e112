//! The campaign's depth in real time: the product's own executables as processes, on nodes of files, with real sockets, signals and disks. What happens in which
//! order is the seed's ([`plan`]); when exactly it meets what is under way is not, which is the point: a kill lands between any two instructions.

pub mod plan;
pub mod wire;

mod ask;
mod play;

pub use play::real_run;
