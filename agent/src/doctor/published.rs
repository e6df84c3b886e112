//! Published ports: whether the kernel's table is as wanted, and what else on the node flushes it or drops its packets.

use super::Finding;
use crate::{
    config::Config,
    host::{NodeContext, files, short},
    publish,
};
use proximity_protocol::observed::PublishedObserved;
use serde_json::Value;
use std::{path::Path, time::Duration};

const CHECK: &str = "published_ports";
const OTHERS: &str = "packet_filter";
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
            findings.push(table(&ruleset, &wanted));
            findings.extend(dropping(&ruleset));
        }
        Err(why) => findings.push(Finding::fail(
            CHECK,
            format!("the ruleset cannot be listed: {why}"),
            "run this as root; is the package nftables installed? `nft list ruleset`",
        )),
    }
    findings.extend(flushing(node));
    findings.extend(proxmox_firewall(node));
    if !findings.iter().any(|finding| finding.check == OTHERS) {
        findings.push(Finding::ok(
            OTHERS,
            "nothing else flushes the ruleset or drops what is forwarded",
        ));
    }
    findings
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

fn objects<'a>(ruleset: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    let items = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(move |item| item.get(kind))
}

fn is_ours(object: &Value) -> bool {
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

/// Chains of other tables that drop what they do not name, on the way that a published port's packets take.
fn dropping(ruleset: &Value) -> Vec<Finding> {
    objects(ruleset, "chain")
        .filter(|chain| !is_ours(chain) && chain["hook"] == "forward" && chain["policy"] == "drop")
        .filter(|chain| matches!(chain["family"].as_str(), Some("ip" | "inet")))
        .map(|chain| {
            let word = |key: &str| chain[key].as_str().unwrap_or("?").to_owned();
            let chain = format!("{} {} {}", word("family"), word("table"), word("name"));
            Finding::warn(
                OTHERS,
                format!("the chain {chain} drops every forwarded packet that it does not name"),
                format!("let what was translated through there: nft add rule {chain} ct status dnat accept"),
            )
        })
        .collect()
}

/// A reload of nftables.service empties the whole ruleset first, as Debian ships its file.
fn flushing(node: &NodeContext) -> Option<Finding> {
    let enabled = node.machine_path("/etc/systemd/system/sysinit.target.wants/nftables.service");
    std::fs::symlink_metadata(enabled).ok()?;
    let path = node.machine_path("/etc/nftables.conf");
    let text = std::fs::read_to_string(&path).ok()?;
    let flushes = text.lines().any(|line| line.trim().starts_with("flush ruleset"));
    flushes.then(|| {
        Finding::warn(
            OTHERS,
            format!(
                "nftables.service is enabled and {} begins with `flush ruleset`",
                path.display()
            ),
            "each reload of it interrupts published ports for up to 10 s: flush only that file's own tables there",
        )
    })
}

/// `[OPTIONS]` with `enable: 1`.
fn is_enabled(text: &str) -> bool {
    let mut options = false;
    text.lines().map(str::trim).fold(false, |enabled, line| {
        if line.starts_with('[') {
            options = line.eq_ignore_ascii_case("[options]");
        }
        match line.split_once(':') {
            Some((key, value)) if options && key.trim() == "enable" => !matches!(value.trim(), "0" | ""),
            _ => enabled,
        }
    })
}

fn proxmox_firewall(node: &NodeContext) -> Option<Finding> {
    let path = node.etc_pve("firewall/cluster.fw");
    match files::read_if_there(&path) {
        Ok(Some(text)) if is_enabled(&text) => Some(Finding::warn(
            OTHERS,
            "the Proxmox firewall is enabled for the datacenter: it may drop what published ports lead to",
            "allow the app's port for its container (Firewall, Add, in), or leave `firewall` off at its network device",
        )),
        Ok(_) => None,
        Err(error) => Some(Finding::warn(
            OTHERS,
            format!("{} cannot be read: {error}", path.display()),
            "run this as root",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{doctor::Level, facts::testing};
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
    fn what_drops_is_named() {
        let chain = |policy: &str, family: &str| json!({"nftables": [{"chain": {"family": family, "table": "filter", "name": "FORWARD", "hook": "forward", "policy": policy}}]});
        assert!(dropping(&chain("drop", "ip"))[0].says.contains("ip filter FORWARD"));
        assert!(dropping(&chain("accept", "ip")).is_empty() && dropping(&chain("drop", "ip6")).is_empty());
    }

    #[test]
    fn forwarding_matters_once_a_port_is_published() {
        let level = |text, wanted| forwarding(text, wanted).level;
        assert_eq!((level(Some("1\n"), 1), level(Some("0\n"), 0)), (Level::Ok, Level::Ok));
        assert_eq!((level(Some("0\n"), 2), level(None, 0)), (Level::Fail, Level::Warn));
    }

    #[test]
    fn firewall_and_flushing_service_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        assert_eq!((flushing(&node), proxmox_firewall(&node)), (None, None));
        testing::put(
            dir.path(),
            "etc/pve/firewall/cluster.fw",
            "[OPTIONS]\n\nenable: 1\n\n[RULES]\n",
        );
        assert_eq!(proxmox_firewall(&node).unwrap().level, Level::Warn);
        assert!(!is_enabled("[OPTIONS]\nenable: 0\n") && !is_enabled("[group x]\nenable: 1\n"));
        testing::put(dir.path(), "etc/nftables.conf", "#!/usr/sbin/nft -f\n\nflush ruleset\n");
        assert_eq!(flushing(&node), None, "not enabled");
        testing::put(
            dir.path(),
            "etc/systemd/system/sysinit.target.wants/nftables.service",
            "",
        );
        assert_eq!(flushing(&node).unwrap().level, Level::Warn);
    }
}
