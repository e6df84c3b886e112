//! The table as `nft -j` reads it (libnftables-json(5)), and what it lists back. Pure.
//!
//! ```text
//! table inet proximity {
//!   chain prerouting  { type nat hook prerouting  priority dstnat; fib daddr type local tcp dport 8001 dnat ip to 10.0.0.5:80 }
//!   chain output      { type nat hook output      priority dstnat; … the same, for clients on the node itself }
//!   chain postrouting { type nat hook postrouting priority srcnat; ct status dnat ip daddr 10.0.0.5 tcp dport 80 … masquerade }
//! }
//! ```
//! One rule per port instead of a map: a nat chain sees only the first packet of a flow, and every version of nft since the family `inet` can do nat
//! (kernel 5.2) reads these.

use super::desired::{PublishedPort, WayBack};
use serde_json::{Value, json};

/// The family of our table.
pub(super) const FAMILY: &str = "inet";
/// Its name.
pub(super) const TABLE: &str = "proximity";

fn local(direction: &str) -> Value {
    json!({"match": {"op": "==", "left": {"fib": {"result": "type", "flags": [direction]}}, "right": "local"}})
}

fn tcp_port(port: u16) -> Value {
    json!({"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": port}})
}

fn rule(chain: &str, port: &PublishedPort, expr: &[Value]) -> Value {
    let comment = format!("{} {} {}", port.vmid, port.owner.app, port.owner.generation);
    json!({"add": {"rule": {"family": FAMILY, "table": TABLE, "chain": chain, "comment": comment, "expr": expr}}})
}

fn chain(name: &str, priority: i32) -> Value {
    json!({"add": {"chain": {"family": FAMILY, "table": TABLE, "name": name, "type": "nat", "hook": name, "prio": priority, "policy": "accept"}}})
}

/// Replaces the whole table, in one transaction.
pub(super) fn replace(ports: &[PublishedPort]) -> Value {
    let table = json!({"family": FAMILY, "name": TABLE});
    let mut commands = vec![
        // Added first, so that flushing never fails for want of it.
        json!({"add": {"table": table}}),
        json!({"flush": {"table": table}}),
        chain("prerouting", -100),
        chain("output", -100),
        chain("postrouting", 100),
    ];
    for port in ports {
        let to = json!({"dnat": {"family": "ip", "addr": port.address, "port": port.port}});
        for chain in ["prerouting", "output"] {
            commands.push(rule(
                chain,
                port,
                &[local("daddr"), tcp_port(port.public_port), to.clone()],
            ));
        }
        let translated = json!({"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}});
        let container = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": port.address}});
        let masquerade = json!({"masquerade": null});
        let mut add = |condition: Option<Value>| {
            let mut expr = vec![translated.clone(), container.clone(), tcp_port(port.port)];
            expr.extend(condition);
            expr.push(masquerade.clone());
            commands.push(rule("postrouting", port, &expr));
        };
        match port.way_back {
            WayBack::Elsewhere => add(None),
            WayBack::ThroughNode { network, prefix } => {
                add(Some(local("saddr")));
                let neighbours = json!({"prefix": {"addr": network, "len": prefix}});
                add(Some(
                    json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": neighbours}}),
                ));
            }
        }
    }
    json!({"nftables": commands})
}

/// A listing without what changes by itself: handles and the version of nft. Two of these are equal if the tables are.
pub(super) fn normalise(listing: &Value) -> Value {
    match listing {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "handle" | "metainfo"))
            .map(|(name, value)| (name.clone(), normalise(value)))
            .collect(),
        Value::Array(items) => items
            .iter()
            .map(normalise)
            .filter(|item| item.as_object().is_none_or(|fields| !fields.is_empty()))
            .collect(),
        other => other.clone(),
    }
}

/// The table of somebody else that leads this TCP port elsewhere (`dnat` or `redirect`), if there is one in the whole ruleset.
pub(super) fn other_table_with(ruleset: &Value, port: u16) -> Option<String> {
    let rules = ruleset
        .get("nftables")?
        .as_array()?
        .iter()
        .filter_map(|item| item.get("rule"));
    rules
        .filter(|rule| rule["family"] != FAMILY || rule["table"] != TABLE)
        .find(|rule| {
            let expr = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
            let leads = expr
                .iter()
                .any(|part| part.get("dnat").is_some() || part.get("redirect").is_some());
            leads && expr.iter().any(|part| is_port_match(part, port))
        })
        .map(|rule| {
            format!(
                "{} {}",
                rule["family"].as_str().unwrap_or("?"),
                rule["table"].as_str().unwrap_or("?")
            )
        })
}

fn is_port_match(part: &Value, port: u16) -> bool {
    let Some(test) = part.get("match") else { return false };
    let field = &test["left"]["payload"];
    field["field"] == "dport"
        && (field["protocol"] == "tcp" || field["protocol"] == "th")
        && test["op"] != "!="
        && holds(&test["right"], port)
}

fn holds(value: &Value, port: u16) -> bool {
    match value {
        Value::Number(number) => number.as_u64() == Some(port.into()),
        Value::Array(items) => items.iter().any(|item| holds(item, port)),
        Value::Object(fields) => match (
            fields.get("set"),
            fields.get("range").and_then(Value::as_array).map(Vec::as_slice),
        ) {
            (Some(set), _) => holds(set, port),
            (None, Some([first, last])) => {
                first.as_u64().is_some_and(|first| first <= port.into())
                    && last.as_u64().is_some_and(|last| last >= port.into())
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proximity_protocol::ids::{Generation, Owner, Vmid};

    fn port(way_back: WayBack) -> PublishedPort {
        PublishedPort {
            public_port: 8001,
            vmid: Vmid::new(100).unwrap(),
            owner: Owner {
                app: "nginx-a1b2c3d4".parse().unwrap(),
                generation: Generation(1),
            },
            address: [10, 0, 0, 5].into(),
            port: 80,
            way_back,
        }
    }

    fn rules(way_back: WayBack, chain: &str) -> Vec<Value> {
        let all = replace(&[port(way_back)]);
        all["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| c["add"].get("rule"))
            .filter(|rule| rule["chain"] == chain)
            .cloned()
            .collect()
    }

    #[test]
    fn a_port_leads_to_the_container_from_outside_and_from_the_node() {
        for chain in ["prerouting", "output"] {
            let rules = rules(WayBack::Elsewhere, chain);
            assert_eq!(rules.len(), 1);
            assert_eq!(rules[0]["expr"][1]["match"]["right"], 8001);
            assert_eq!(
                rules[0]["expr"][2],
                json!({"dnat": {"family": "ip", "addr": "10.0.0.5", "port": 80}})
            );
        }
    }

    #[test]
    fn only_flows_without_a_way_back_are_masqueraded() {
        assert_eq!(rules(WayBack::Elsewhere, "postrouting").len(), 1);
        let way_back = WayBack::ThroughNode {
            network: [10, 0, 0, 0].into(),
            prefix: 24,
        };
        let rules = rules(way_back, "postrouting");
        assert_eq!(rules.len(), 2, "from the node itself, and from neighbours");
        assert!(rules.iter().all(|rule| rule["expr"].as_array().unwrap().len() == 5));
    }

    #[test]
    fn handles_do_not_make_a_difference() {
        let listing = |handle: u32| json!({"nftables": [{"metainfo": {"version": "1.0.6"}}, {"rule": {"handle": handle, "expr": [{"masquerade": null}]}}]});
        assert_eq!(normalise(&listing(1)), normalise(&listing(2)));
        assert_ne!(normalise(&listing(1)), normalise(&json!({"nftables": []})));
    }

    #[test]
    fn a_port_in_somebody_elses_table_is_seen() {
        let ruleset = |table: &str, right: Value, act: &str| {
            json!({"nftables": [{"rule": {"family": "inet", "table": table, "chain": "c", "expr": [
                {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": right}}, {act: {"addr": "10.0.0.9"}}]}}]})
        };
        for right in [
            json!(8001),
            json!({"set": [22, 8001]}),
            json!({"range": [8000, 8009]}),
            json!({"set": [{"range": [8000, 8009]}]}),
        ] {
            assert_eq!(
                other_table_with(&ruleset("docker", right, "dnat"), 8001).as_deref(),
                Some("inet docker")
            );
        }
        assert_eq!(other_table_with(&ruleset("docker", json!(8002), "dnat"), 8001), None);
        assert_eq!(other_table_with(&ruleset("docker", json!(8001), "accept"), 8001), None);
        assert_eq!(other_table_with(&ruleset(TABLE, json!(8001), "dnat"), 8001), None);
        assert_eq!(other_table_with(&json!({}), 8001), None);
    }
}
