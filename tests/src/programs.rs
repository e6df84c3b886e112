//! The product's executables, built like `cargo build` builds them.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Where the executables are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `proximity-coordinator`.
    pub coordinator: PathBuf,
    /// `proximity-agent`.
    pub agent: PathBuf,
    /// `pve-sim`.
    pub pve_sim: PathBuf,
}

#[derive(Deserialize)]
struct Artifact {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests live in a folder of the workspace")
}

impl Programs {
    /// Builds what is out of date. Cargo serialises concurrent builds by itself; one process asks once.
    pub fn build() -> Result<&'static Self> {
        static BUILT: OnceLock<Result<Programs, String>> = OnceLock::new();
        let built = BUILT.get_or_init(|| Self::build_now().map_err(|error| format!("{error:#}")));
        built.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn build_now() -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args([
                "build",
                "--workspace",
                "--bins",
                "--message-format=json-render-diagnostics",
            ])
            .current_dir(workspace())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo build")?;
        if !output.status.success() {
            bail!("cargo build failed: the lines above say why");
        }
        let artifacts: Vec<Artifact> = output
            .stdout
            .split(|b| *b == b'\n')
            .filter_map(|line| serde_json::from_slice::<Artifact>(line).ok())
            .collect();
        let find = |name: &str| {
            artifacts
                .iter()
                .filter(|a| a.reason == "compiler-artifact" && a.target.as_ref().is_some_and(|t| t.name == name))
                .find_map(|a| a.executable.clone())
                .with_context(|| format!("cargo build made no executable {name}"))
        };
        Ok(Self {
            coordinator: find("proximity-coordinator")?,
            agent: find("proximity-agent")?,
            pve_sim: find("pve-sim")?,
        })
    }
}
