//! What a shim does around a tool, step by step: claim the folder, say which process the tool is, and write down how it ended.

use super::{
    files,
    liveness::ProcessStamp,
    tool_dir::{Request, Status, ToolDir},
};
use std::{fs::File, io, path::Path};

/// A run that is claimed by this shim.
#[derive(Debug)]
pub struct Shim(ToolDir);

impl Shim {
    /// Claims the run in that folder for the process `own`; `None`: another has it.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn claim(folder: &Path, own: &ProcessStamp) -> io::Result<Option<Self>> {
        let dir = ToolDir(folder.to_owned());
        Ok(dir.claim(own)?.then_some(Self(dir)))
    }

    /// What to run.
    ///
    /// # Errors
    /// When the agent has not written it, or it cannot be read.
    pub fn request(&self) -> io::Result<Request> {
        self.0
            .request()?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no request.json"))
    }

    /// Where stdout and stderr of the tool go, empty.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn outputs(&self) -> io::Result<(File, File)> {
        Ok((
            files::private_file(&self.0.file("stdout"))?,
            files::private_file(&self.0.file("stderr"))?,
        ))
    }

    /// The tool runs as that process.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn began(&self, tool: &ProcessStamp) -> io::Result<()> {
        self.0.write("child.json", tool)
    }

    /// The tool has ended so.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn ended(&self, status: &Status) -> io::Result<()> {
        self.0.write("status.json", status)
    }
}
