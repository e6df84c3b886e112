//! Published ports: whether packets are forwarded, and whether the kernel's table is as wanted.

use super::{Finding, packet_filter};
use crate::{
    config::Config,
    host::{NodeContext, short},
    publish,
};
use proximity_protocol::observed::PublishedObserved;
use serde_json::Value;
use std::{path::Path, time::Duration};

const CHECK: &str = "published_ports";
const FORWARD: &str = "ip_forward";
const BOUND: Duration = Duration::from_secs(9);

pub(super) async fn check(config: &Config, node: Option<&NodeContext>) -> Vec<Finding> {
    let Some(node) = node else {
        return vec![Finding::fail(
            CHECK,
            "not looked at, because /etc/pve cannot be read",
            "see the check `cluster`",
        )];
    };
    let wanted = match publish::observed(node) {
        Ok(wanted) => wanted,
        Err(fault) => {
            return vec![Finding::fail(
                CHECK,
                fault.message,
                "run this as root; if the file is damaged, move it away: the coordinator has the ports set again",
            )];
        }
    };
    let forward = std::fs::read_to_string(node.proc("sys/net/ipv4/ip_forward")).ok();
    let mut findings = vec![forwarding(forward.as_deref(), wanted.len())];
    match ruleset(&config.host.nft).await {
        Ok(ruleset) => {
            findings.push(version(&ruleset));
            findings.push(table(&ruleset, &wanted));
            findings.extend(packet_filter::check(node, &ruleset));
        }
        Err(why) => findings.push(Finding::fail(
            CHECK,
            format!("the ruleset cannot be listed: {why}"),
            "run this as root; is the package nftables installed? `nft list ruleset`",
        )),
    }
    findings
}

/// The listing says which nft made it.
fn version(ruleset: &Value) -> Finding {
    const NFT: &str = "nft_version";
    let told = objects(ruleset, "metainfo").find_map(|info| info["version"].as_str());
    let numbers = told.map(|text| {
        text.split('.')
            .map_while(|part| part.parse::<u32>().ok())
            .collect::<Vec<_>>()
    });
    match (told, numbers.as_deref()) {
        (Some(told), Some([0, minor, patch, ..])) if (*minor, *patch) < (9, 3) => Finding::warn(
            NFT,
            format!("nftables {told} is older than what this agent was made for (0.9.3)"),
            "update the package nftables",
        ),
        (Some(told), Some([_, _, ..])) => Finding::ok(NFT, format!("nftables {told}")),
        _ => Finding::warn(NFT, "nft does not say which version it is", "look at `nft --version`"),
    }
}

async fn ruleset(nft: &Path) -> Result<Value, String> {
    let words = ["-j", "list", "ruleset"].map(Into::into);
    let end = short::run(nft, &words, None, BOUND)
        .await
        .map_err(|error| error.to_string())?;
    if !end.success {
        return Err(end.stderr.trim().to_owned());
    }
    serde_json::from_str(&end.stdout).map_err(|error| error.to_string())
}

fn forwarding(text: Option<&str>, wanted: usize) -> Finding {
    match text.map(str::trim) {
        Some("1") => Finding::ok(FORWARD, "on"),
        Some(_) if wanted == 0 => Finding::ok(FORWARD, "off; the agent turns it on with the first published port"),
        Some(_) => Finding::fail(
            FORWARD,
            format!("off, although {wanted} ports are published: nothing gets through to them"),
            "sysctl -w net.ipv4.ip_forward=1, and look below /etc/sysctl.d for what turned it off",
        ),
        None => Finding::warn(FORWARD, "cannot be read", "run this as root"),
    }
}

pub(super) fn objects<'a>(ruleset: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    let items = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(move |item| item.get(kind))
}

pub(super) fn is_ours(object: &Value) -> bool {
    object["family"] == "inet" && object["table"] == "proximity"
}

fn leads(rule: &Value, port: &PublishedObserved) -> bool {
    let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let to = parts
        .iter()
        .any(|part| part["dnat"]["addr"] == port.address.to_string() && part["dnat"]["port"] == port.port);
    to && parts
        .iter()
        .any(|part| part["match"]["left"]["payload"]["field"] == "dport" && part["match"]["right"] == port.public_port)
}

fn table(ruleset: &Value, wanted: &[PublishedObserved]) -> Finding {
    let missing: Vec<String> = wanted
        .iter()
        .filter(|port| {
            ["prerouting", "output"].iter().any(|chain| {
                !objects(ruleset, "rule").any(|rule| is_ours(rule) && rule["chain"] == *chain && leads(rule, port))
            })
        })
        .map(|port| port.public_port.to_string())
        .collect();
    if missing.is_empty() {
        return Finding::ok(CHECK, format!("{} are wanted, and all stand", wanted.len()));
    }
    Finding::fail(
        CHECK,
        format!(
            "of {} wanted ports these are not in the table `inet proximity`: {}",
            wanted.len(),
            missing.join(", ")
        ),
        "a running agent sets them again within 10 s: start it, and look for what flushes the ruleset",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::Level;
    use proximity_protocol::ids::{Generation, Owner, Vmid};
    use serde_json::json;

    fn port() -> PublishedObserved {
        PublishedObserved {
            public_port: 8001,
            owner: Owner {
                app: "nginx-a1b2c3d4".parse().unwrap(),
                generation: Generation(1),
            },
            vmid: Vmid::new(100).unwrap(),
            address: [10, 0, 0, 5].into(),
            port: 80,
        }
    }

    fn rule(table: &str, chain: &str) -> Value {
        json!({"rule": {"family": "inet", "table": table, "chain": chain, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 8001}},
            {"dnat": {"family": "ip", "addr": "10.0.0.5", "port": 80}}]}})
    }

    #[test]
    fn every_wanted_port_must_stand_in_both_chains() {
        let listing = |rules: &[Value]| json!({ "nftables": rules });
        let whole = listing(&[rule("proximity", "prerouting"), rule("proximity", "output")]);
        assert_eq!(table(&whole, &[port()]).level, Level::Ok);
        assert_eq!(table(&listing(&[]), &[]).level, Level::Ok);
        for broken in [
            listing(&[]),
            listing(&[rule("proximity", "prerouting")]),
            listing(&[rule("other", "prerouting"), rule("other", "output")]),
        ] {
            let finding = table(&broken, &[port()]);
            assert_eq!(finding.level, Level::Fail);
            assert!(finding.says.contains("8001"));
        }
    }

    #[test]
    fn the_version_is_judged() {
        let level = |version: &str| version_of(json!({"metainfo": {"version": version}}));
        fn version_of(info: Value) -> Level {
            version(&json!({"nftables": [info]})).level
        }
        assert_eq!(
            [
                level("1.0.6"),
                level("1.1"),
                level("0.9.3"),
                level("0.9.0"),
                level("x"),
                version_of(json!({}))
            ],
            [Level::Ok, Level::Ok, Level::Ok, Level::Warn, Level::Warn, Level::Warn]
        );
    }

    #[test]
    fn forwarding_matters_once_a_port_is_published() {
        let level = |text, wanted| forwarding(text, wanted).level;
        assert_eq!((level(Some("1\n"), 1), level(Some("0\n"), 0)), (Level::Ok, Level::Ok));
        assert_eq!((level(Some("0\n"), 2), level(None, 0)), (Level::Fail, Level::Warn));
    }
}
