//! The hollow body: no root and no process per container.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Body, BodyError, Ct, Figures, FileOwner, Shutdown, Stdio, Unpacked};
use crate::layout::{BodyKind, Layout};

/// Containers that are files only.
#[derive(Debug, Default)]
pub struct HollowBody;

fn missing<T>() -> Result<T, BodyError> {
    Err(BodyError::Failed("pve-sim: not simulated yet".to_owned()))
}

impl Body for HollowBody {
    fn kind(&self) -> BodyKind {
        BodyKind::Hollow
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
