//! Which ports of the node lead where, by the DNAT rules of a ruleset.
//!
//! Understood in a rule's `expr`: a match of `tcp dport` with `==` against a number or a set of numbers, then `dnat` to an
//! address and port that are given or come from a map (named or written out) keyed by `tcp dport`, whose values are an
//! address, a port, or both joined (`{"concat": ["10.0.0.2", 80]}`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::ruleset::{Ruleset, items};

/// Where a public port leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Published {
    /// The container's address.
    pub(crate) address: Ipv4Addr,
    /// The container's port.
    pub(crate) port: u16,
}

/// Public port to target. The first rule that takes a port has it.
pub(crate) fn published(ruleset: &Ruleset) -> BTreeMap<u16, Published> {
    let mut found = BTreeMap::new();
    for rule in ruleset.objects.iter().filter_map(|object| object.get("rule")) {
        let expressions = rule
            .get("expr")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let Some(dnat) = expressions.iter().find_map(|expression| expression.get("dnat")) else {
            continue;
        };
        let maps = |name: &str| elements_of(ruleset, rule, name);
        let address = dnat.get("addr").unwrap_or(&Value::Null);
        let port = dnat.get("port").unwrap_or(&Value::Null);
        for public in candidates(expressions, &[address, port], &maps) {
            let target = resolve(address, public, &maps).and_then(|value| {
                let (mut to, mut at) = split(&value);
                if let Some(explicit) = resolve(port, public, &maps) {
                    at = number(&explicit);
                }
                Some(Published {
                    address: to.take()?,
                    port: at.unwrap_or(public),
                })
            });
            if let Some(target) = target {
                found.entry(public).or_insert(target);
            }
        }
    }
    found
}

fn elements_of(ruleset: &Ruleset, rule: &Value, name: &str) -> Vec<Value> {
    ruleset
        .objects
        .iter()
        .filter_map(|object| object.get("map"))
        .find(|map| {
            map.get("name").and_then(Value::as_str) == Some(name)
                && map.get("table") == rule.get("table")
                && map.get("family") == rule.get("family")
        })
        .map(|map| items(map.get("elem").unwrap_or(&Value::Null)))
        .unwrap_or_default()
}

/// Public ports that this rule could be about.
fn candidates(expressions: &[Value], targets: &[&Value], maps: &dyn Fn(&str) -> Vec<Value>) -> Vec<u16> {
    let mut ports = Vec::new();
    let mut matched = false;
    for expression in expressions {
        let Some(matching) = expression.get("match") else {
            continue;
        };
        let is_port = matching.pointer("/left/payload/field").and_then(Value::as_str) == Some("dport");
        if is_port
            && matching
                .get("op")
                .and_then(Value::as_str)
                .is_none_or(|op| op == "==" || op == "in")
        {
            let right = matching.get("right").unwrap_or(&Value::Null);
            if right.as_str().is_some_and(|name| name.starts_with('@')) {
                continue;
            }
            matched = true;
            ports.extend(items(right).iter().filter_map(number));
        }
    }
    if !matched {
        for target in targets {
            ports.extend(pairs(target, maps).iter().filter_map(|(key, _)| number(key)));
        }
    }
    ports
}

/// The pairs of a map expression; none for anything else.
fn pairs(value: &Value, maps: &dyn Fn(&str) -> Vec<Value>) -> Vec<(Value, Value)> {
    let Some(data) = value.pointer("/map/data") else {
        return Vec::new();
    };
    let elements = match data.as_str() {
        Some(name) => maps(name.trim_start_matches('@')),
        None => items(data),
    };
    elements
        .into_iter()
        .filter_map(|element| {
            let pair = element.as_array()?;
            let key = pair.first()?;
            // An element with a comment or timeout is wrapped.
            let key = key.pointer("/elem/val").unwrap_or(key);
            Some((key.clone(), pair.get(1)?.clone()))
        })
        .collect()
}

fn resolve(value: &Value, public: u16, maps: &dyn Fn(&str) -> Vec<Value>) -> Option<Value> {
    if value.get("map").is_some() {
        return pairs(value, maps)
            .into_iter()
            .find(|(key, _)| number(key) == Some(public))
            .map(|(_, value)| value);
    }
    (!value.is_null()).then(|| value.clone())
}

fn number(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|number| u16::try_from(number).ok())
        .or_else(|| value.as_str()?.parse().ok())
}

/// Address and port of `"10.0.0.2"` or `{"concat": ["10.0.0.2", 80]}`.
fn split(value: &Value) -> (Option<Ipv4Addr>, Option<u16>) {
    match value.get("concat").and_then(Value::as_array) {
        Some(parts) => (
            parts.first().and_then(|part| part.as_str()?.parse().ok()),
            parts.get(1).and_then(number),
        ),
        None => (value.as_str().and_then(|text| text.parse().ok()), None),
    }
}
