//! The coordinator's process.

use super::{ADMIN, Ground};
use crate::{
    process::{PATIENCE, Process},
    programs::{Programs, workspace},
};
use anyhow::{Context, Result, bail};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

/// What tests set; everything else is as an operator gets it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// First wait before a retry, milliseconds; the longest is four times that. The product's defaults are 60 000 and 900 000.
    pub first_retry_ms: u64,
    /// Operations at once per node.
    pub operations_per_node: usize,
    /// The catalog's folder.
    pub catalog: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            first_retry_ms: 500,
            operations_per_node: 4,
            catalog: workspace().join("catalog_data"),
        }
    }
}

/// A running coordinator.
#[derive(Debug)]
pub struct CoordinatorProcess {
    process: Process,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where agents connect.
    pub quic: SocketAddr,
}

/// The state folder below the fleet's.
pub(super) fn state(folder: &Path) -> PathBuf {
    folder.join("coordinator")
}

/// Ports that an earlier run got, so that a restart is found at the same place.
fn ports_file(folder: &Path) -> PathBuf {
    folder.join("coordinator.ports")
}

fn write_config(folder: &Path, ground: &Ground, settings: &Settings) -> Result<PathBuf> {
    let (http, quic) = match std::fs::read_to_string(ports_file(folder)) {
        Ok(text) => text
            .split_once(' ')
            .map(|(h, q)| (h.to_owned(), q.to_owned()))
            .context("the file of ports is damaged")?,
        Err(_) => ("127.0.0.1:0".to_owned(), format!("{}:0", ground.coordinator_bind())),
    };
    let advertise = match quic.parse::<SocketAddr>()?.port() {
        0 => Vec::new(),
        port => ground
            .coordinator_addresses()
            .iter()
            .map(|a| format!("{a}:{port}"))
            .collect(),
    };
    let mut config = toml::Table::new();
    config.insert("state".into(), state(folder).display().to_string().into());
    config.insert("http_listen".into(), http.into());
    config.insert("quic_listen".into(), quic.into());
    config.insert("advertise".into(), advertise.into());
    config.insert("catalog".into(), settings.catalog.display().to_string().into());
    let mut operations = toml::Table::new();
    operations.insert("first_retry_ms".into(), i64::try_from(settings.first_retry_ms)?.into());
    operations.insert(
        "max_retry_ms".into(),
        i64::try_from(settings.first_retry_ms * 4)?.into(),
    );
    operations.insert("per_node".into(), i64::try_from(settings.operations_per_node)?.into());
    config.insert("operations".into(), operations.into());
    let path = folder.join("coordinator.toml");
    std::fs::write(&path, toml::to_string(&config)?)?;
    Ok(path)
}

impl CoordinatorProcess {
    /// Makes the first admin on the command line.
    pub(super) fn make_admin(
        programs: &Programs,
        folder: &Path,
        ground: &Ground,
        settings: &Settings,
        password: &str,
    ) -> Result<()> {
        let config = write_config(folder, ground, settings)?;
        let secret = folder.join("admin.password");
        std::fs::write(&secret, password)?;
        let output = Command::new(&programs.coordinator)
            .args(["--config".as_ref(), config.as_os_str()])
            .args(["user", "create", "--admin", ADMIN, "--password-file"])
            .arg(&secret)
            .output()?;
        if !output.status.success() {
            bail!("user create failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// A command of the coordinator's executable, on this fleet's files.
    pub(super) fn command_line(programs: &Programs, folder: &Path) -> Command {
        let mut command = Command::new(&programs.coordinator);
        command
            .arg("--config")
            .arg(folder.join("coordinator.toml"))
            .stdin(std::process::Stdio::null());
        command
    }

    /// Starts `serve` and waits for its ready line. The first start learns free ports; the addresses that join tokens carry need the port, so it is
    /// started once more with them.
    pub(super) async fn start(
        programs: &Programs,
        folder: &Path,
        ground: &Ground,
        settings: &Settings,
    ) -> Result<Self> {
        if !ports_file(folder).exists() {
            let first = Self::start_once(programs, folder, ground, settings).await?;
            std::fs::write(ports_file(folder), format!("{} {}", first.http, first.quic))?;
            if !first.stop().await?.success() {
                bail!("the coordinator did not stop in good order");
            }
        }
        Self::start_once(programs, folder, ground, settings).await
    }

    async fn start_once(programs: &Programs, folder: &Path, ground: &Ground, settings: &Settings) -> Result<Self> {
        let config = write_config(folder, ground, settings)?;
        let mut command = Command::new(&programs.coordinator);
        command.args(["--config".as_ref(), config.as_os_str()]).arg("serve");
        let mut process = Process::start("coordinator", &folder.join("logs"), command)?;
        let ready = process.line("ready ", PATIENCE).await?;
        let value = |name: &str| -> Result<SocketAddr> {
            let word = ready
                .split_whitespace()
                .find_map(|w| w.strip_prefix(name))
                .with_context(|| format!("no {name} in {ready:?}"))?;
            Ok(word.parse()?)
        };
        Ok(Self {
            http: value("http=")?,
            quic: value("quic=")?,
            process,
        })
    }

    /// `http://address:port`.
    pub fn base(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// SIGKILL.
    pub fn kill_9(self) -> Result<()> {
        self.process.kill_9()
    }

    /// SIGTERM.
    pub async fn stop(self) -> Result<ExitStatus> {
        self.process.stop().await
    }
}
