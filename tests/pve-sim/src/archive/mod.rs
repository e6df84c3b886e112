//! Archives of backups without any program: tar in memory (`tar`), squeezed so that the real `zstd`, `gzip` and `lzop` read it (`squeeze`). Hollow
//! containers are small, so nothing is really compressed.

pub(crate) mod squeeze;
pub(crate) mod tar;

pub use squeeze::Squeezer;

/// Where the configuration of the container lies in a backup, as `vzdump` puts it there.
pub(crate) const CONFIG: &str = "./etc/vzdump/pct.conf";
