//! Real containers by Debian's `lxc`. Not there yet: every call fails and says so.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Body, BodyError, Ct, Figures, FileOwner, Shutdown, Stdio, Unpacked};
use crate::layout::{BodyKind, Layout};

/// Real containers by Debian's `lxc`.
#[derive(Debug, Default)]
pub struct LxcBody {}

fn missing<T>() -> Result<T, BodyError> {
    Err(BodyError::Failed("pve-sim: not simulated: the lxc body".to_owned()))
}

impl Body for LxcBody {
    fn kind(&self) -> BodyKind {
        BodyKind::Lxc
    }
    fn unpack(&self, _: &Ct<'_>, _: &Path, _: &mut dyn Write) -> Result<Unpacked, BodyError> {
        missing()
    }
    fn copy_from(&self, _: &Ct<'_>, _: u32) -> Result<(), BodyError> {
        missing()
    }
    fn pack(&self, _: &Ct<'_>, _: &Path) -> Result<u64, BodyError> {
        missing()
    }
    fn start(&self, _: &Ct<'_>) -> Result<u32, BodyError> {
        missing()
    }
    fn stop(&self, _: &Ct<'_>) -> Result<(), BodyError> {
        missing()
    }
    fn shutdown(&self, _: &Ct<'_>, _: Duration) -> Result<Shutdown, BodyError> {
        missing()
    }
    fn is_running(&self, _: &Layout, _: u32) -> bool {
        false
    }
    fn figures(&self, _: &Ct<'_>) -> Option<Figures> {
        None
    }
    fn apply(&self, _: &Ct<'_>) -> Result<(), BodyError> {
        missing()
    }
    fn exec(&self, _: &Ct<'_>, _: &[String], _: bool, _: Stdio<'_>) -> Result<i32, BodyError> {
        missing()
    }
    fn push(&self, _: &Ct<'_>, _: &Path, _: &str, _: &FileOwner) -> Result<(), BodyError> {
        missing()
    }
    fn pull(&self, _: &Ct<'_>, _: &str, _: &Path, _: &FileOwner) -> Result<(), BodyError> {
        missing()
    }
    fn destroy(&self, _: &Ct<'_>) -> Result<(), BodyError> {
        missing()
    }
    fn rootfs(&self, _: &Ct<'_>) -> Option<PathBuf> {
        None
    }
}
