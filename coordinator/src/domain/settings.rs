//! Settings that an admin changes over HTTP: their defaults, bounds, and how a partial change is applied: all of it or nothing.

use super::network::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::Ipv4Addr;

/// A field that is wrong, and what is allowed.
pub type Wrong = (String, String);

/// What a new app gets unless it asks for something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceSettings {
    /// CPU cores, 1 to 128.
    pub default_cpu_cores: u32,
    /// MiB, 256 to 524288.
    pub default_memory_mb: u32,
    /// GiB, 1 to 10240.
    pub default_disk_gb: u32,
    /// MiB, 0 to 32768.
    pub default_swap_mb: u32,
}

impl Default for ResourceSettings {
    fn default() -> Self {
        Self {
            default_cpu_cores: 2,
            default_memory_mb: 2048,
            default_disk_gb: 20,
            default_swap_mb: 512,
        }
    }
}

/// The network of hosts that have no settings of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSettings {
    /// CIDR.
    pub default_subnet: String,
    /// Inside the subnet.
    pub default_gateway: Ipv4Addr,
    /// DNS server.
    pub default_dns_primary: Ipv4Addr,
    /// DNS server.
    pub default_dns_secondary: Ipv4Addr,
    /// A bridge on the nodes.
    pub default_bridge: String,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            default_subnet: "10.0.0.0/24".into(),
            default_gateway: Ipv4Addr::new(10, 0, 0, 1),
            default_dns_primary: Ipv4Addr::new(8, 8, 8, 8),
            default_dns_secondary: Ipv4Addr::new(8, 8, 4, 4),
            default_bridge: "vmbr0".into(),
        }
    }
}

/// Everything else: who may register, which ports are published, flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeatureSettings {
    /// Whether anybody may register (as a plain user).
    pub registration_open: bool,
    /// Whether the catalog is for all, not only for those who are logged in.
    pub public_catalog: bool,
    /// First of the public ports.
    pub public_port_first: u16,
    /// Last of the public ports.
    pub public_port_last: u16,
    /// Flag; this version has nothing behind it.
    pub enable_ai_agent: bool,
    /// Flag; this version has nothing behind it.
    pub enable_community_chat: bool,
    /// Flag: several hosts; always supported.
    pub enable_multi_host: bool,
    /// Folder of a local repository.
    pub git_repo_path: String,
    /// Whether changes become commits there.
    pub git_auto_commit: bool,
}

impl Default for FeatureSettings {
    fn default() -> Self {
        Self {
            registration_open: false,
            public_catalog: false,
            public_port_first: 8000,
            public_port_last: 9000,
            enable_ai_agent: false,
            enable_community_chat: false,
            enable_multi_host: true,
            git_repo_path: String::new(),
            git_auto_commit: false,
        }
    }
}

/// What happens when a container was started or stopped by hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftPolicy {
    /// The app's status says what is.
    #[default]
    Report,
    /// The container is brought back to what was asked of the app.
    Correct,
}

/// How operations, reconciliation and janitor work: intervals, deadlines, what is kept how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperationSettings {
    /// How often every node is compared with the registry, seconds, 60 to 86400.
    pub reconcile_interval_s: u32,
    /// How often the janitor cleans up, seconds, 300 to 604800.
    pub janitor_interval_s: u32,
    /// For apps without a label `drift:report` or `drift:correct`.
    pub drift_policy: DriftPolicy,
    /// More than so many percent of a node's apps missing at once are one alarm instead of one for each, 1 to 100.
    pub missing_alarm_percent: u32,
    /// A step that has told nothing for so long is told, seconds, 30 to 86400; 0: never.
    pub no_progress_alarm_s: u32,
    /// After so long without a word the command is sent again, in case its connection hangs, seconds, 60 to 604800; 0: never. A tool that works goes on.
    pub no_answer_s: u32,
    /// An operation that has not ended after so long is asked to turn around, seconds, 3600 to 2592000.
    pub operation_deadline_s: u32,
    /// How long a container may take to get its address, seconds, 1 to 600.
    pub network_timeout_s: u32,
    /// How long an app may take to shut down before it is stopped, seconds, 0 to 600.
    pub shutdown_timeout_s: u32,
    /// How long a container that a restore has replaced is kept while the new one runs, seconds, 0 to 7776000.
    pub keep_previous_s: u32,
    /// How many events are kept for streams that come back, 1000 to 1000000.
    pub keep_events: u32,
    /// How long operations that have ended are kept, days, 1 to 3650. The latest of each app is kept as long as the app.
    pub keep_operations_days: u32,
    /// How long lines of deployment logs are kept, days, 1 to 3650.
    pub keep_log_days: u32,
    /// How many lines are kept per app, 100 to 1000000.
    pub keep_log_lines: u32,
}

impl Default for OperationSettings {
    fn default() -> Self {
        Self {
            reconcile_interval_s: 3600,
            janitor_interval_s: 6 * 3600,
            drift_policy: DriftPolicy::Report,
            missing_alarm_percent: 50,
            no_progress_alarm_s: 600,
            no_answer_s: 7200,
            operation_deadline_s: 24 * 3600,
            network_timeout_s: 120,
            shutdown_timeout_s: 60,
            keep_previous_s: 24 * 3600,
            keep_events: 10_000,
            keep_operations_days: 90,
            keep_log_days: 90,
            keep_log_lines: 10_000,
        }
    }
}

/// A group of settings, stored as one JSON object under its name.
pub trait Group: Default + Clone + Serialize + for<'de> Deserialize<'de> + Send + Sync + 'static {
    /// Its name in the registry.
    const NAME: &'static str;
    /// Everything that is wrong.
    fn check(&self) -> Vec<Wrong>;

    /// Applies a partial change, or answers everything that is wrong with it.
    fn changed(&self, change: &Map<String, Value>) -> Result<Self, Vec<Wrong>> {
        let Ok(Value::Object(mut whole)) = serde_json::to_value(self) else {
            return Err(vec![(String::new(), "the settings cannot be read".into())]);
        };
        let mut wrong = Vec::new();
        for (key, value) in change {
            if !whole.contains_key(key) {
                let known: Vec<&str> = whole.keys().map(String::as_str).collect();
                wrong.push((
                    key.clone(),
                    format!("is not a setting; known here: {}", known.join(", ")),
                ));
                continue;
            }
            // One at a time, so that each wrong one is named.
            let mut trial = whole.clone();
            trial.insert(key.clone(), value.clone());
            match serde_json::from_value::<Self>(Value::Object(trial)) {
                Ok(_) => {
                    whole.insert(key.clone(), value.clone());
                }
                Err(error) => wrong.push((key.clone(), format!("cannot be {value}: {error}"))),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let whole: Self =
            serde_json::from_value(Value::Object(whole)).map_err(|error| vec![(String::new(), error.to_string())])?;
        match whole.check() {
            wrong if wrong.is_empty() => Ok(whole),
            wrong => Err(wrong),
        }
    }
}

fn within(wrong: &mut Vec<Wrong>, field: &str, value: u32, min: u32, max: u32) {
    if !(min..=max).contains(&value) {
        wrong.push((field.into(), format!("has to be from {min} to {max}, not {value}")));
    }
}

impl Group for ResourceSettings {
    const NAME: &'static str = "resources";
    fn check(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        within(&mut wrong, "default_cpu_cores", self.default_cpu_cores, 1, 128);
        within(&mut wrong, "default_memory_mb", self.default_memory_mb, 256, 524_288);
        within(&mut wrong, "default_disk_gb", self.default_disk_gb, 1, 10_240);
        within(&mut wrong, "default_swap_mb", self.default_swap_mb, 0, 32_768);
        wrong
    }
}

impl Group for NetworkSettings {
    const NAME: &'static str = "network";
    fn check(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        match self.default_subnet.parse::<Ipv4Net>() {
            Ok(net) if !net.is_host(self.default_gateway) => wrong.push((
                "default_gateway".into(),
                format!(
                    "{} has to be a host address inside {}",
                    self.default_gateway, self.default_subnet
                ),
            )),
            Ok(_) => {}
            Err(rule) => wrong.push(("default_subnet".into(), rule)),
        }
        if let Err(error) = proximity_protocol::ids::BridgeName::new(self.default_bridge.as_str()) {
            wrong.push(("default_bridge".into(), format!("has to be {}", error.rule)));
        }
        wrong
    }
}

impl Group for FeatureSettings {
    const NAME: &'static str = "features";
    fn check(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        within(
            &mut wrong,
            "public_port_first",
            self.public_port_first.into(),
            1024,
            65_535,
        );
        within(
            &mut wrong,
            "public_port_last",
            self.public_port_last.into(),
            1024,
            65_535,
        );
        if self.public_port_first > self.public_port_last {
            wrong.push((
                "public_port_first".into(),
                format!("has to be at most public_port_last, which is {}", self.public_port_last),
            ));
        }
        if self.git_repo_path.len() > 4096 {
            wrong.push(("git_repo_path".into(), "at most 4096 characters".into()));
        }
        wrong
    }
}

/// Zero switches it off.
fn within_or_off(wrong: &mut Vec<Wrong>, field: &str, value: u32, min: u32, max: u32) {
    if value != 0 && !(min..=max).contains(&value) {
        wrong.push((
            field.into(),
            format!("has to be 0 (never) or from {min} to {max}, not {value}"),
        ));
    }
}

impl Group for OperationSettings {
    const NAME: &'static str = "operations";
    fn check(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for (field, value, min, max) in [
            ("reconcile_interval_s", self.reconcile_interval_s, 60, 86_400),
            ("janitor_interval_s", self.janitor_interval_s, 300, 604_800),
            ("missing_alarm_percent", self.missing_alarm_percent, 1, 100),
            ("operation_deadline_s", self.operation_deadline_s, 3600, 2_592_000),
            ("network_timeout_s", self.network_timeout_s, 1, 600),
            ("shutdown_timeout_s", self.shutdown_timeout_s, 0, 600),
            ("keep_previous_s", self.keep_previous_s, 0, 7_776_000),
            ("keep_events", self.keep_events, 1000, 1_000_000),
            ("keep_operations_days", self.keep_operations_days, 1, 3650),
            ("keep_log_days", self.keep_log_days, 1, 3650),
            ("keep_log_lines", self.keep_log_lines, 100, 1_000_000),
        ] {
            within(&mut wrong, field, value, min, max);
        }
        within_or_off(&mut wrong, "no_progress_alarm_s", self.no_progress_alarm_s, 30, 86_400);
        within_or_off(&mut wrong, "no_answer_s", self.no_answer_s, 60, 604_800);
        wrong
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn change(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_change_is_all_or_nothing() {
        let old = ResourceSettings::default();
        let new = old.changed(&change(json!({"default_cpu_cores": 4}))).unwrap();
        assert_eq!((new.default_cpu_cores, new.default_memory_mb), (4, 2048));
        let wrong = old
            .changed(&change(json!({"default_cpu_cores": 0, "default_memory_mb": 100})))
            .unwrap_err();
        assert_eq!(wrong.len(), 2);
        let wrong = old
            .changed(&change(
                json!({"cpu": 1, "default_disk_gb": "much", "default_swap_mb": 1.5}),
            ))
            .unwrap_err();
        assert_eq!(
            wrong.iter().map(|w| w.0.as_str()).collect::<Vec<_>>(),
            ["cpu", "default_disk_gb", "default_swap_mb"]
        );
        assert_eq!(old.changed(&Map::new()).unwrap(), old);
    }

    #[test]
    fn what_can_be_switched_off_is_zero_and_the_rest_has_bounds() {
        let old = OperationSettings::default();
        assert_eq!(old.check(), []);
        let off = json!({"no_progress_alarm_s": 0, "no_answer_s": 0, "drift_policy": "correct"});
        let new = old.changed(&change(off)).unwrap();
        assert_eq!((new.no_progress_alarm_s, new.drift_policy), (0, DriftPolicy::Correct));
        for bad in [
            json!({"no_progress_alarm_s": 29}),
            json!({"reconcile_interval_s": 0}),
            json!({"keep_events": 0}),
            json!({"drift_policy": "ignore"}),
            json!({"missing_alarm_percent": 101}),
        ] {
            assert_eq!(old.changed(&change(bad.clone())).unwrap_err().len(), 1, "{bad}");
        }
    }

    #[test]
    fn the_gateway_stands_inside_the_subnet() {
        let old = NetworkSettings::default();
        for bad in [
            json!({"default_gateway": "10.0.1.1"}),
            json!({"default_gateway": "10.0.0.0"}),
            json!({"default_gateway": "10.0.0.255"}),
            json!({"default_subnet": "10.0.0.0"}),
            json!({"default_subnet": "10.0.0.0/33"}),
            json!({"default_bridge": "a b"}),
            json!({"default_dns_primary": "dns"}),
        ] {
            assert!(old.changed(&change(bad.clone())).is_err(), "{bad}");
        }
        let both = json!({"default_subnet": "192.168.7.0/24", "default_gateway": "192.168.7.254"});
        assert!(old.changed(&change(both)).is_ok());
    }

    #[test]
    fn the_port_range_is_a_range() {
        let old = FeatureSettings::default();
        assert!(old.changed(&change(json!({"public_port_first": 9001}))).is_err());
        assert!(old.changed(&change(json!({"public_port_first": 80}))).is_err());
        assert!(old.changed(&change(json!({"public_port_last": 70000}))).is_err());
        assert!(
            old.changed(&change(json!({"public_port_first": 8100, "public_port_last": 8100})))
                .is_ok()
        );
    }
}
