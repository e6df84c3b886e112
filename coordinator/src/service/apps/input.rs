//! What callers send, checked.

use super::{Caller, Role, ServiceError};
use crate::{
    domain::app_state::Status,
    service::FieldError,
    store::apps::{AppFilter, AppOrder},
};
use proximity_protocol::ids::{EnvName, Hostname, StorageId};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Body of `POST /api/apps`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateApp {
    /// Which catalog entry.
    pub catalog_id: String,
    /// A DNS label of 3 to 63 characters, lower case.
    pub hostname: String,
    /// `cpu_cores, memory_mb, disk_gb, swap_mb, storage`.
    #[serde(default)]
    pub config: Option<Map<String, Value>>,
    /// Inputs of the recipe.
    #[serde(default)]
    pub environment: Option<BTreeMap<String, String>>,
    /// A node's name; chosen if it is absent.
    #[serde(default)]
    pub node: Option<String>,
    /// A host; any if it is absent.
    #[serde(default)]
    pub host_id: Option<i64>,
    /// In the owner's words.
    #[serde(default)]
    pub description: Option<String>,
    /// The owner's.
    #[serde(default)]
    pub labels: Option<Vec<String>>,
}

/// Query of `GET /api/apps`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListApps {
    /// From 1.
    pub page: i64,
    /// 1 to 200.
    pub per_page: i64,
    /// One of the statuses.
    pub status: Option<String>,
    /// Part of host name, name, id or description.
    pub search: Option<String>,
    /// A node's name.
    pub node: Option<String>,
    /// A catalog entry's id.
    pub catalog_id: Option<String>,
    /// `-created_at` (default), `created_at`, `hostname`, `-hostname`, `name`, `status`, `-updated_at`.
    pub sort: Option<String>,
}

impl Default for ListApps {
    fn default() -> Self {
        Self {
            page: 1,
            per_page: 20,
            status: None,
            search: None,
            node: None,
            catalog_id: None,
            sort: None,
        }
    }
}

fn query_error(field: &str, msg: impl Into<String>) -> FieldError {
    FieldError {
        loc: vec!["query".into(), field.into()],
        msg: msg.into(),
    }
}

/// Bounds of every list: `page` from 1, `per_page` from 1 to 200.
pub(crate) fn check_page(page: i64, per_page: i64) -> Result<(), ServiceError> {
    let mut wrong = Vec::new();
    if !(1..=1_000_000_000).contains(&page) {
        wrong.push(query_error("page", "is a number from 1"));
    }
    if !(1..=200).contains(&per_page) {
        wrong.push(query_error("per_page", "is a number from 1 to 200"));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(ServiceError::Invalid(wrong))
    }
}

impl ListApps {
    pub(super) fn checked(&self, caller: &Caller) -> Result<(AppFilter, i64, i64), ServiceError> {
        check_page(self.page, self.per_page)?;
        let status = match self.status.as_deref().map(str::parse::<Status>).transpose() {
            Ok(status) => status,
            Err(e) => return Err(ServiceError::Invalid(vec![query_error("status", e.to_string())])),
        };
        let order = match self.sort.as_deref() {
            None | Some("-created_at" | "newest") => AppOrder::Newest,
            Some("created_at") => AppOrder::Oldest,
            Some("hostname") => AppOrder::Hostname,
            Some("-hostname") => AppOrder::HostnameDescending,
            Some("name") => AppOrder::Name,
            Some("status") => AppOrder::Status,
            Some("-updated_at") => AppOrder::Updated,
            Some(_) => {
                let known = "is one of -created_at, created_at, hostname, -hostname, name, status, -updated_at";
                return Err(ServiceError::Invalid(vec![query_error("sort", known)]));
            }
        };
        let filter = AppFilter {
            owner_id: (caller.role < Role::Operator).then_some(caller.user_id),
            id: None,
            status,
            search: self.search.clone(),
            node: self.node.clone(),
            catalog_id: self.catalog_id.clone(),
            order,
        };
        Ok((filter, self.page, self.per_page))
    }
}

/// `config`, checked as far as that goes without its catalog entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) cpu_cores: Option<u32>,
    pub(super) memory_mb: Option<u32>,
    pub(super) disk_gb: Option<u32>,
    pub(super) swap_mb: Option<u32>,
    pub(super) storage: Option<StorageId>,
    pub(super) image: bool,
}

/// A body whose fields are well-formed.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) hostname: Hostname,
    pub(super) config: Config,
}

const CONFIG_KEYS: &str = "cpu_cores, memory_mb, disk_gb, swap_mb, storage";

impl CreateApp {
    /// Checks what can be checked from the body alone; every wrong field is named.
    pub(super) fn checked(&self) -> Result<Checked, ServiceError> {
        let mut wrong = Vec::new();
        let hostname = Hostname::new(self.hostname.clone());
        if let Err(e) = &hostname {
            wrong.push(FieldError::body("hostname", format!("is {}", e.rule)));
        }
        if self.catalog_id.is_empty() || self.catalog_id.len() > 50 {
            wrong.push(FieldError::body(
                "catalog_id",
                "is the id of a catalog entry, 1 to 50 characters",
            ));
        }
        for name in self.environment.iter().flat_map(BTreeMap::keys) {
            if let Err(e) = EnvName::new(name.clone()) {
                wrong.push(env_error(name, &format!("a name is {}", e.rule)));
            }
        }
        check_description(self.description.as_deref(), &mut wrong);
        check_labels(self.labels.as_deref(), &mut wrong);
        let config = Config::parse(self.config.as_ref(), &mut wrong);
        match hostname {
            Ok(hostname) if wrong.is_empty() => Ok(Checked { hostname, config }),
            _ => Err(ServiceError::Invalid(wrong)),
        }
    }
}

pub(super) fn check_description(description: Option<&str>, wrong: &mut Vec<FieldError>) {
    if description.is_some_and(|d| d.chars().count() > 2000) {
        wrong.push(FieldError::body("description", "is at most 2000 characters"));
    }
}

pub(super) fn check_labels(labels: Option<&[String]>, wrong: &mut Vec<FieldError>) {
    let labels = labels.unwrap_or_default();
    if labels.len() > 32 || labels.iter().any(|l| l.is_empty() || l.chars().count() > 64) {
        wrong.push(FieldError::body("labels", "are at most 32 of 1 to 64 characters each"));
    }
}

/// An error in one environment variable.
pub(super) fn env_error(name: &str, msg: &str) -> FieldError {
    FieldError {
        loc: vec!["body".into(), "environment".into(), name.chars().take(80).collect()],
        msg: msg.to_owned(),
    }
}

/// An error in one field of `config`.
pub(super) fn config_error(key: &str, msg: impl Into<String>) -> FieldError {
    FieldError {
        loc: vec!["body".into(), "config".into(), key.chars().take(80).collect()],
        msg: msg.into(),
    }
}

impl Config {
    pub(super) fn parse(map: Option<&Map<String, Value>>, wrong: &mut Vec<FieldError>) -> Self {
        let mut config = Config::default();
        for (key, value) in map.into_iter().flatten() {
            let mut number = |min: u32, max: u32| {
                let found = value
                    .as_u64()
                    .and_then(|n| u32::try_from(n).ok())
                    .filter(|n| (min..=max).contains(n));
                if found.is_none() {
                    wrong.push(config_error(key, format!("is a number from {min} to {max}")));
                }
                found
            };
            // Bounds of the container's specification; those of the entry and the fleet come later.
            match key.as_str() {
                "cpu_cores" => config.cpu_cores = number(1, 128),
                "memory_mb" => config.memory_mb = number(16, 4_194_304),
                "disk_gb" => config.disk_gb = number(1, 10_240),
                "swap_mb" => config.swap_mb = number(0, 1_048_576),
                "storage" => match value.as_str().map(StorageId::new) {
                    Some(Ok(storage)) => config.storage = Some(storage),
                    _ => wrong.push(config_error(key, "is the id of a storage of the node, e.g. local")),
                },
                "image" => config.image = true,
                _ => wrong.push(config_error(key, format!("is not known; known are {CONFIG_KEYS}"))),
            }
        }
        config
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn body(value: Value) -> CreateApp {
        serde_json::from_value(value).unwrap()
    }

    fn fields(create: &CreateApp) -> Vec<String> {
        match create.checked() {
            Err(ServiceError::Invalid(wrong)) => wrong.iter().map(|w| w.loc[1..].join(".")).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let create = body(json!({
            "catalog_id": "", "hostname": "-x", "environment": {"lower": "1", "GOOD": "2"},
            "config": {"cpu_cores": 0, "memory_mb": "512", "disk_gb": 4, "nonsense": 1, "storage": "../x"}
        }));
        let mut found = fields(&create);
        found.sort();
        assert_eq!(
            found,
            [
                "catalog_id",
                "config.cpu_cores",
                "config.memory_mb",
                "config.nonsense",
                "config.storage",
                "environment.lower",
                "hostname"
            ]
        );
    }

    #[test]
    fn host_names_are_labels() {
        for good in ["abc", "my-app-1", &"a".repeat(63)] {
            assert!(
                body(json!({"catalog_id": "nginx", "hostname": good})).checked().is_ok(),
                "{good}"
            );
        }
        for bad in [
            "ab",
            "Abc",
            "a_b_c",
            "abc-",
            "-abc",
            "a.b.c",
            "a;b",
            "äöü",
            &"a".repeat(64),
            "",
        ] {
            assert_eq!(
                fields(&body(json!({"catalog_id": "nginx", "hostname": bad}))),
                ["hostname"],
                "{bad}"
            );
        }
    }

    #[test]
    fn pages_have_bounds() {
        assert!(check_page(1, 200).is_ok());
        for (page, per_page) in [(0, 20), (-1, 20), (1, 0), (1, 201), (i64::MAX, 200)] {
            assert!(check_page(page, per_page).is_err());
        }
    }
}
