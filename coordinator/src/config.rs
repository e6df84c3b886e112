//! `/etc/proximity/coordinator.toml`, overridden by `PROXIMITY_…` variables, those by flags. Read and checked whole before anything is opened or bound.

use crate::{api::TrustedProxies, operations::EngineSettings};
use serde::Deserialize;
use std::{
    fs, io,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/proximity/coordinator.toml";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says something else than it may.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A value is not allowed.
    #[error("{key}: {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong, what is allowed.
        problem: String,
    },
    /// The state folder.
    #[error("cannot {action} the state folder {path}: {source}")]
    State {
        /// `make`, `read`.
        action: &'static str,
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may look into the state folder.
    #[error("the state folder {path} is open to others (mode {mode:03o}); run: chmod 0700 {path}")]
    OpenState {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// The whole file. Every key is optional; unknown ones are refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Registry, keys, setup code; mode 0700.
    pub state: PathBuf,
    /// Where HTTP is served. Port 0 takes any free one.
    #[serde(deserialize_with = "listen_address")]
    pub http_listen: SocketAddr,
    /// Where agents connect (UDP). Port 0 takes any free one.
    #[serde(deserialize_with = "listen_address")]
    pub quic_listen: SocketAddr,
    /// Under which `host:port` agents reach us: what join tokens carry. Empty: the address of `quic_listen`, or, if that is every address, the one that
    /// leads to the outside.
    pub advertise: Vec<String>,
    /// Folder of the catalog.
    pub catalog: PathBuf,
    /// Addresses and networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` count.
    pub trusted_proxies: Vec<String>,
    /// What is logged, as `tracing_subscriber`'s `EnvFilter` takes it.
    pub log: String,
    /// How patient operations are.
    pub operations: Operations,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state: "/var/lib/proximity-coordinator".into(),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 7080)),
            quic_listen: SocketAddr::from(([0, 0, 0, 0], 4433)),
            advertise: Vec::new(),
            catalog: "/usr/share/proximity/catalog".into(),
            trusted_proxies: Vec::new(),
            log: "info".into(),
            operations: Operations::default(),
        }
    }
}

/// How patient operations are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Operations {
    /// How many commands that load it a node gets at a time, 1 to 64.
    pub per_node: usize,
    /// How many commands that only wait inside its containers (installing, health) a node gets at a time, besides, 1 to 256.
    pub inside_per_node: usize,
    /// How many operations of a node may be under way or queued, 1 to 100000; more are refused.
    pub queue_per_node: usize,
    /// How often a step is tried in all, 1 to 100.
    pub tries: u32,
    /// Pause before the second try; it doubles with each. 1 ms to one hour.
    pub first_retry_ms: u64,
    /// The longest pause, at least `first_retry_ms`, at most one day.
    pub max_retry_ms: u64,
}

impl Default for Operations {
    fn default() -> Self {
        let engine = EngineSettings::default();
        Self {
            per_node: engine.per_node,
            inside_per_node: engine.inside_per_node,
            queue_per_node: engine.queue_per_node,
            tries: engine.tries,
            first_retry_ms: millis(engine.first_retry),
            max_retry_ms: millis(engine.max_retry),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What flags and variables say; they go before the file.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Options that go before the configuration file")]
pub struct Overrides {
    /// Folder of registry, keys and setup code
    #[arg(long, global = true, env = "PROXIMITY_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where HTTP is served; port 0 takes any free one
    #[arg(long, global = true, env = "PROXIMITY_HTTP_LISTEN", value_name = "ADDR:PORT", value_parser = parse_listen_address)]
    http_listen: Option<SocketAddr>,
    /// Where agents connect (UDP)
    #[arg(long, global = true, env = "PROXIMITY_QUIC_LISTEN", value_name = "ADDR:PORT", value_parser = parse_listen_address)]
    quic_listen: Option<SocketAddr>,
    /// Under which host:port agents reach the coordinator; may be repeated
    #[arg(
        long,
        global = true,
        env = "PROXIMITY_ADVERTISE",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    advertise: Vec<String>,
    /// Folder of the catalog
    #[arg(long, global = true, env = "PROXIMITY_CATALOG", value_name = "DIR")]
    catalog: Option<PathBuf>,
    /// Proxies whose forwarded addresses count; may be repeated
    #[arg(
        long,
        global = true,
        env = "PROXIMITY_TRUSTED_PROXIES",
        value_name = "ADDR|NET",
        value_delimiter = ','
    )]
    trusted_proxies: Vec<String>,
    /// What is logged, e.g. info or proximity_coordinator=debug
    #[arg(long, global = true, env = "PROXIMITY_LOG", value_name = "FILTER")]
    log: Option<String>,
}

impl Config {
    /// Reads the file (the default one may be missing), applies what goes before it, and checks the whole.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => String::new(),
            Err(source) => {
                return Err(ConfigError::Read {
                    path: file.to_owned(),
                    source,
                });
            }
        };
        let mut config: Self = toml::from_str(&text).map_err(|error| ConfigError::File {
            path: file.to_owned(),
            // Its own text has the line and a caret below it; one line is enough here.
            problem: format!(
                "{}{}",
                error.message().replace('\n', " "),
                error.span().map_or_else(String::new, |span| {
                    let line = text
                        .get(..span.start)
                        .map_or(1, |before| before.matches('\n').count() + 1);
                    let words = text.lines().nth(line - 1).unwrap_or_default().trim();
                    format!(" (line {line}: {words})")
                })
            ),
        })?;
        config.apply(overrides);
        config.check()?;
        Ok(config)
    }

    fn apply(&mut self, over: Overrides) {
        fn set<T>(slot: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *slot = value;
            }
        }
        set(&mut self.state, over.state);
        set(&mut self.http_listen, over.http_listen);
        set(&mut self.quic_listen, over.quic_listen);
        set(&mut self.catalog, over.catalog);
        set(&mut self.log, over.log);
        set(&mut self.advertise, Some(over.advertise).filter(|a| !a.is_empty()));
        set(
            &mut self.trusted_proxies,
            Some(over.trusted_proxies).filter(|a| !a.is_empty()),
        );
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| Err(ConfigError::Value { key, problem });
        if let Some(bad) = self.advertise.iter().find(|a| !is_host_and_port(a)) {
            return wrong(
                "advertise",
                format!("{bad:?} is not host:port, e.g. proximity.example.org:4433"),
            );
        }
        if self.advertise.len() > 8 {
            return wrong(
                "advertise",
                format!("at most 8 addresses, there are {}", self.advertise.len()),
            );
        }
        if let Err(problem) = self.trusted_proxies() {
            return wrong("trusted_proxies", problem);
        }
        if let Err(error) = self.log_filter() {
            return wrong("log", format!("{:?} is no filter ({error}); say e.g. info", self.log));
        }
        let o = &self.operations;
        if !(1..=64).contains(&o.per_node) {
            return wrong(
                "operations.per_node",
                format!("has to be from 1 to 64, not {}", o.per_node),
            );
        }
        if !(1..=256).contains(&o.inside_per_node) {
            return wrong(
                "operations.inside_per_node",
                format!("has to be from 1 to 256, not {}", o.inside_per_node),
            );
        }
        if !(1..=100_000).contains(&o.queue_per_node) {
            return wrong(
                "operations.queue_per_node",
                format!("has to be from 1 to 100000, not {}", o.queue_per_node),
            );
        }
        if !(1..=100).contains(&o.tries) {
            return wrong("operations.tries", format!("has to be from 1 to 100, not {}", o.tries));
        }
        if !(1..=3_600_000).contains(&o.first_retry_ms) {
            return wrong(
                "operations.first_retry_ms",
                format!("has to be from 1 to 3600000, not {}", o.first_retry_ms),
            );
        }
        if !(o.first_retry_ms.min(86_400_000)..=86_400_000).contains(&o.max_retry_ms) {
            return wrong(
                "operations.max_retry_ms",
                format!(
                    "has to be from {} (first_retry_ms) to 86400000, not {}",
                    o.first_retry_ms, o.max_retry_ms
                ),
            );
        }
        Ok(())
    }

    /// The proxies as networks.
    pub fn trusted_proxies(&self) -> Result<TrustedProxies, String> {
        TrustedProxies::parse(self.trusted_proxies.iter().map(String::as_str))
    }

    /// The log's filter.
    pub fn log_filter(&self) -> Result<tracing_subscriber::EnvFilter, tracing_subscriber::filter::ParseError> {
        tracing_subscriber::EnvFilter::builder().parse(&self.log)
    }

    /// How patient the engine is.
    pub fn engine_settings(&self) -> EngineSettings {
        EngineSettings {
            per_node: self.operations.per_node,
            inside_per_node: self.operations.inside_per_node,
            queue_per_node: self.operations.queue_per_node,
            tries: self.operations.tries,
            first_retry: Duration::from_millis(self.operations.first_retry_ms),
            max_retry: Duration::from_millis(self.operations.max_retry_ms),
            ..EngineSettings::default()
        }
    }

    /// The registry's file.
    pub fn registry(&self) -> PathBuf {
        self.state.join("registry.db")
    }

    /// Makes the state folder (0700), or refuses one that others may look into.
    pub fn ensure_state(&self) -> Result<(), ConfigError> {
        let at = |action| {
            move |source| ConfigError::State {
                action,
                path: self.state.clone(),
                source,
            }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.state)
            .map_err(at("make"))?;
        let mode = fs::metadata(&self.state).map_err(at("read"))?.permissions().mode() & 0o777;
        if mode & 0o077 == 0 {
            Ok(())
        } else {
            Err(ConfigError::OpenState {
                path: self.state.clone(),
                mode,
            })
        }
    }

    /// What join tokens carry: `advertise`, or what follows from where the listener really is.
    pub fn advertised(&self, quic: SocketAddr) -> Vec<String> {
        if !self.advertise.is_empty() {
            return self.advertise.clone();
        }
        let mut address = quic;
        if quic.ip().is_unspecified()
            && let Some(outward) = outward_address(quic)
        {
            address.set_ip(outward);
        }
        vec![address.to_string()]
    }
}

/// The address from which this machine reaches others. Nothing is sent: connecting a UDP socket only asks the routing table.
fn outward_address(quic: SocketAddr) -> Option<std::net::IpAddr> {
    let (any, outside) = if quic.is_ipv4() {
        ("0.0.0.0:0", "192.0.2.1:9")
    } else {
        ("[::]:0", "[2001:db8::1]:9")
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(outside).ok()?;
    socket
        .local_addr()
        .ok()
        .map(|a| a.ip())
        .filter(|ip| !ip.is_unspecified())
}

fn parse_listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an IP address and a port such as 127.0.0.1:7080, 0.0.0.0:4433 or [::]:4433")
    })
}

fn listen_address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    parse_listen_address(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn is_host_and_port(text: &str) -> bool {
    text.len() <= 255
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|p| p > 0)
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        fs::write(&path, text).unwrap();
        Config::load(Some(&path), Overrides::default())
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(load("").unwrap(), Config::default());
        assert_eq!(Config::default().engine_settings(), EngineSettings::default());
        // Published ports of apps are from 8000 to 9000.
        assert!(!(8000..=9000).contains(&Config::default().http_listen.port()));
    }

    #[test]
    fn what_is_wrong_is_named_in_one_line() {
        for (text, part) in [
            ("stat = 1", "stat"),
            ("\nhttp_listen = \"here\"", "line 2: http_listen"),
            ("quic_listen = \"localhost:4433\"", "such as 127.0.0.1:7080"),
            ("http_listen = 127.0.0.1", "line 1: http_listen = 127.0.0.1"),
            ("advertise = [\"host\"]", "advertise"),
            ("trusted_proxies = [\"10.0.0.0/40\"]", "trusted_proxies"),
            ("log = \"a=b=c\"", "log"),
            ("[operations]\nper_node = 0", "operations.per_node"),
            ("[operations]\ninside_per_node = 257", "operations.inside_per_node"),
            ("[operations]\nqueue_per_node = 0", "operations.queue_per_node"),
            ("[operations]\nfirst_retry_ms = 0", "operations.first_retry_ms"),
            ("[operations]\nmax_retry_ms = 5", "operations.max_retry_ms"),
            ("[operations]\nretries = 5", "retries"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
        }
        let missing = Config::load(Some(Path::new("/nonexistent/c.toml")), Overrides::default()).unwrap_err();
        assert!(matches!(missing, ConfigError::Read { .. }));
    }

    #[test]
    fn flags_go_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        fs::write(&path, "http_listen = \"127.0.0.1:1\"\nadvertise = [\"a:1\"]").unwrap();
        let over = Overrides {
            http_listen: Some("127.0.0.1:2".parse().unwrap()),
            ..Overrides::default()
        };
        let config = Config::load(Some(&path), over).unwrap();
        assert_eq!((config.http_listen.port(), config.advertise.len()), (2, 1));
    }

    #[test]
    fn the_state_folder_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            state: dir.path().join("a/state"),
            ..Config::default()
        };
        config.ensure_state().unwrap();
        config.ensure_state().unwrap();
        let mode = fs::metadata(&config.state).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        fs::set_permissions(&config.state, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(config.ensure_state(), Err(ConfigError::OpenState { .. })));
    }

    #[test]
    fn tokens_carry_where_the_listener_is() {
        let config = Config::default();
        let advertised = config.advertised("192.0.2.7:4433".parse().unwrap());
        assert_eq!(advertised, ["192.0.2.7:4433"]);
        assert!(config.advertised("0.0.0.0:4433".parse().unwrap())[0].ends_with(":4433"));
        let named = Config {
            advertise: vec!["p.example.org:443".into()],
            ..config
        };
        assert_eq!(named.advertised("0.0.0.0:1".parse().unwrap()), ["p.example.org:443"]);
    }
}
