//! What else on the node flushes the ruleset, or drops what belongs to published ports and to the link.
//!
//! Rules are judged as far as they can be read: a chain that drops whatever it does not name is said, unless a rule in it, or in a chain that it jumps to,
//! lets through what matters.

use super::{
    Finding,
    published::{is_ours, objects},
};
use crate::host::{NodeContext, files};
use serde_json::Value;

const CHECK: &str = "packet_filter";
/// Jumps that are followed.
const DEPTH: u32 = 4;

pub(super) fn check(node: &NodeContext, ruleset: &Value) -> Vec<Finding> {
    let mut findings = dropping(ruleset);
    findings.extend(legacy(node));
    findings.extend(flushing(node));
    findings.extend(proxmox_firewall(node));
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            "nothing else flushes the ruleset, or drops what is forwarded or the link",
        ));
    }
    findings
}

/// A chain as an operator names it.
struct Chain<'a> {
    family: &'a str,
    table: &'a str,
    name: &'a str,
}

impl<'a> Chain<'a> {
    fn of(chain: &'a Value) -> Option<Self> {
        Some(Self {
            family: chain["family"].as_str()?,
            table: chain["table"].as_str()?,
            name: chain["name"].as_str()?,
        })
    }

    fn words(&self) -> String {
        format!("{} {} {}", self.family, self.table, self.name)
    }

    fn rules<'b>(&'b self, ruleset: &'b Value, name: &'b str) -> impl Iterator<Item = &'b [Value]> {
        objects(ruleset, "rule")
            .filter(move |rule| rule["family"] == self.family && rule["table"] == self.table && rule["chain"] == name)
            .map(|rule| rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default())
    }

    /// Whether a rule of this chain, or of one that it leads to, accepts packets that `lets` recognises.
    fn accepts(&self, ruleset: &Value, lets: fn(&Value) -> bool) -> bool {
        self.accepts_in(ruleset, self.name, lets, DEPTH)
    }

    fn accepts_in(&self, ruleset: &Value, name: &str, lets: fn(&Value) -> bool, depth: u32) -> bool {
        self.rules(ruleset, name).any(|expr| {
            let accepts = expr.iter().any(|part| part.get("accept").is_some());
            let target = |kind: &str| expr.iter().find_map(|part| part[kind]["target"].as_str());
            let leads = target("jump").or_else(|| target("goto"));
            (accepts && expr.iter().any(lets))
                || leads.is_some_and(|next| depth > 0 && self.accepts_in(ruleset, next, lets, depth - 1))
        })
    }

    /// Whether its last rule drops whatever comes that far.
    fn ends_with_drop(&self, ruleset: &Value) -> bool {
        let Some(last) = self.rules(ruleset, self.name).last() else {
            return false;
        };
        let verdict = |part: &Value| part.get("drop").is_some() || part.get("reject").is_some();
        let passing = |part: &Value| verdict(part) || part.get("counter").is_some() || part.get("log").is_some();
        last.iter().any(verdict) && last.iter().all(passing)
    }

    fn has(&self, ruleset: &Value, name: &str) -> bool {
        objects(ruleset, "chain")
            .any(|chain| chain["family"] == self.family && chain["table"] == self.table && chain["name"] == name)
    }
}

fn names(part: &Value, key: &str, wanted: &str) -> bool {
    let right = &part["match"]["right"];
    let list = right.as_array().or_else(|| right["set"].as_array());
    part["match"]["left"]["ct"]["key"] == key
        && (right == wanted || list.is_some_and(|items| items.iter().any(|item| item == wanted)))
}

/// What was translated to a container.
fn translated(part: &Value) -> bool {
    names(part, "status", "dnat")
}

/// Answers to what this node has asked.
fn answers(part: &Value) -> bool {
    names(part, "state", "established")
}

fn dropping(ruleset: &Value) -> Vec<Finding> {
    objects(ruleset, "chain")
        .filter(|chain| !is_ours(chain) && matches!(chain["family"].as_str(), Some("ip" | "inet")))
        .filter_map(|base| {
            let chain = Chain::of(base)?;
            let drops = base["policy"] == "drop" || chain.ends_with_drop(ruleset);
            match base["hook"].as_str() {
                Some("forward") if drops && !chain.accepts(ruleset, translated) => Some(forward(ruleset, &chain)),
                Some("input") if drops && !chain.accepts(ruleset, answers) => Some(input(&chain)),
                Some("output") if drops => Some(output(&chain)),
                _ => None,
            }
        })
        .collect()
}

fn forward(ruleset: &Value, chain: &Chain<'_>) -> Finding {
    let words = chain.words();
    let says = format!("the chain {words} drops every forwarded packet that it does not name");
    if chain.has(ruleset, "DOCKER-USER") {
        return Finding::warn(
            CHECK,
            format!("{says}: Docker runs on this node, and sets that each time it starts"),
            "let what was translated through there: iptables -I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT, after each start of Docker",
        );
    }
    Finding::warn(
        CHECK,
        says,
        format!("let what was translated through there: nft insert rule {words} ct status dnat accept"),
    )
}

fn input(chain: &Chain<'_>) -> Finding {
    let words = chain.words();
    Finding::warn(
        CHECK,
        format!(
            "the chain {words} drops every packet to this node that it does not name, the coordinator's answers too"
        ),
        format!("let answers in: nft insert rule {words} ct state established,related accept"),
    )
}

fn output(chain: &Chain<'_>) -> Finding {
    let words = chain.words();
    Finding::warn(
        CHECK,
        format!("the chain {words} drops every packet of this node's own that it does not name"),
        format!("see that UDP to the coordinator is let out there: `nft list chain {words}`"),
    )
}

/// Rules of the legacy iptables stand beside nftables, and no listing of nft shows them.
fn legacy(node: &NodeContext) -> Option<Finding> {
    let text = std::fs::read_to_string(node.proc("net/ip_tables_names")).ok()?;
    let tables: Vec<&str> = text.split_whitespace().collect();
    (!tables.is_empty()).then(|| {
        Finding::warn(
            CHECK,
            format!(
                "legacy iptables has tables of its own ({}), which nft does not show",
                tables.join(", ")
            ),
            "look at them: `iptables-legacy-save`; what drops in FORWARD there drops published ports too",
        )
    })
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
            CHECK,
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
            CHECK,
            "the Proxmox firewall is enabled for the datacenter: it may drop what published ports lead to",
            "allow the app's port for its container (Firewall, Add, in), or leave `firewall` off at its network device",
        )),
        Ok(_) => None,
        Err(error) => Some(Finding::warn(
            CHECK,
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
    use serde_json::json;

    fn base(family: &str, hook: &str, policy: &str) -> Value {
        json!({"chain": {"family": family, "table": "filter", "name": "base", "hook": hook, "policy": policy}})
    }

    fn rule(chain: &str, expr: Value) -> Value {
        json!({"rule": {"family": "inet", "table": "filter", "chain": chain, "expr": expr}})
    }

    fn says(objects: &[Value]) -> Vec<String> {
        dropping(&json!({ "nftables": objects }))
            .into_iter()
            .map(|finding| finding.says)
            .collect()
    }

    fn status_dnat() -> Value {
        json!({"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}})
    }

    #[test]
    fn what_drops_is_named_and_what_is_let_through_is_not() {
        let forward = base("inet", "forward", "drop");
        assert!(says(std::slice::from_ref(&forward))[0].contains("inet filter base"));
        assert!(says(&[base("ip6", "forward", "drop")]).is_empty());
        assert!(says(&[base("ip", "forward", "accept")]).is_empty());
        let lets = rule("base", json!([status_dnat(), {"accept": null}]));
        assert!(says(&[forward.clone(), lets]).is_empty());
        let only_counts = rule("base", json!([status_dnat(), {"counter": {"packets": 0, "bytes": 0}}]));
        assert_eq!(says(&[forward.clone(), only_counts]).len(), 1);
        let jump = rule("base", json!([{"jump": {"target": "more"}}]));
        let there = rule("more", json!([status_dnat(), {"accept": null}]));
        assert!(says(&[forward.clone(), jump.clone(), there]).is_empty());
        let round = rule("more", json!([{"jump": {"target": "base"}}]));
        assert_eq!(says(&[forward, jump, round]).len(), 1, "a loop ends");
    }

    #[test]
    fn a_last_rule_that_takes_no_condition_counts_as_a_policy() {
        let open = base("inet", "forward", "accept");
        let all = rule("base", json!([{"counter": {"packets": 1, "bytes": 1}}, {"drop": null}]));
        assert_eq!(says(&[open.clone(), all]).len(), 1);
        let some = rule("base", json!([status_dnat(), {"drop": null}]));
        assert!(says(&[open, some]).is_empty());
    }

    #[test]
    fn docker_and_the_link_have_advice_of_their_own() {
        let docker = json!({"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}});
        let todo = |objects: &[Value]| {
            let findings = dropping(&json!({ "nftables": objects }));
            findings[0].todo.clone().unwrap()
        };
        assert!(todo(&[base("ip", "forward", "drop"), docker]).contains("iptables -I DOCKER-USER"));
        assert!(todo(&[base("inet", "input", "drop")]).contains("ct state established"));
        assert!(todo(&[base("inet", "output", "drop")]).contains("UDP to the coordinator"));
        let state = json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": {"set": ["established", "related"]}}});
        let lets = rule("base", json!([state, {"accept": null}]));
        assert!(says(&[base("inet", "input", "drop"), lets]).is_empty());
    }

    #[test]
    fn legacy_iptables_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        assert_eq!(legacy(&node), None);
        testing::put(dir.path(), "proc/net/ip_tables_names", "");
        assert_eq!(legacy(&node), None);
        testing::put(dir.path(), "proc/net/ip_tables_names", "nat\nfilter\n");
        assert!(legacy(&node).unwrap().says.contains("nat, filter"));
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
