//! `nft list` in text form.

use std::fmt::Write as _;

use serde_json::Value;

use super::ruleset::{items, parts};

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(word).collect::<Vec<_>>().join(" . "),
        Value::Null => String::new(),
        other => match (other.get("concat"), other.get("set"), other.get("prefix")) {
            (Some(parts), _, _) => word(parts),
            (_, Some(set), _) => format!("{{ {} }}", items(set).iter().map(word).collect::<Vec<_>>().join(", ")),
            (_, _, Some(prefix)) => format!("{}/{}", word(&prefix["addr"]), prefix["len"]),
            _ => match (
                other.pointer("/payload/protocol"),
                other.pointer("/meta/key"),
                other.pointer("/map/key"),
            ) {
                (Some(protocol), _, _) => format!("{} {}", word(protocol), word(&other["payload"]["field"])),
                (_, Some(key), _) => word(key),
                (_, _, Some(key)) => format!("{} map {}", word(key), word(&other["map"]["data"])),
                _ => match other.get("ct") {
                    Some(ct) => format!("ct {}", word(&ct["key"])),
                    None => other.to_string(),
                },
            },
        },
    }
}

fn expression(value: &Value) -> String {
    let Some((kind, content)) = parts(value) else {
        return String::new();
    };
    match kind {
        "words" => word(content),
        "match" => {
            let op = content["op"]
                .as_str()
                .filter(|op| !matches!(*op, "==" | "in"))
                .map(|op| format!("{op} "))
                .unwrap_or_default();
            format!("{} {op}{}", word(&content["left"]), word(&content["right"]))
        }
        "dnat" | "snat" => {
            let port = content
                .get("port")
                .map(|port| format!(":{}", word(port)))
                .unwrap_or_default();
            let family = content
                .get("family")
                .map(|family| format!("{} ", word(family)))
                .unwrap_or_default();
            format!("{kind} {family}to {}{port}", word(&content["addr"]))
        }
        "counter" if content.is_object() => {
            format!("counter packets {} bytes {}", content["packets"], content["bytes"])
        }
        "mangle" => format!("{} set {}", word(&content["key"]), word(&content["value"])),
        other if content.is_null() => other.to_owned(),
        other => format!("{other} {}", word(content)),
    }
}

/// All objects as `nft list` shows them, one block per table.
pub(super) fn text(objects: &[Value], handles: bool) -> String {
    let mut out = String::new();
    let mark = |content: &Value| {
        if handles {
            format!(" # handle {}", content["handle"])
        } else {
            String::new()
        }
    };
    let tables: Vec<&Value> = objects.iter().filter_map(|object| object.get("table")).collect();
    for table in tables {
        let own = |content: &Value| content["family"] == table["family"] && content["table"] == table["name"];
        let _ = writeln!(
            out,
            "table {} {} {{{}",
            word(&table["family"]),
            word(&table["name"]),
            mark(table)
        );
        for object in objects {
            let Some((kind @ ("map" | "set"), content)) = parts(object) else {
                continue;
            };
            if !own(content) {
                continue;
            }
            let _ = writeln!(out, "\t{kind} {} {{{}", word(&content["name"]), mark(content));
            let value = content
                .get("map")
                .map(|map| format!(" : {}", word(map)))
                .unwrap_or_default();
            let _ = writeln!(out, "\t\ttype {}{value}", word(&content["type"]));
            let elements: Vec<String> = items(content.get("elem").unwrap_or(&Value::Null))
                .iter()
                .map(|item| match item.as_array().map(Vec::as_slice) {
                    Some([key, value]) => format!("{} : {}", word(key), word(value)),
                    _ => word(item),
                })
                .collect();
            if !elements.is_empty() {
                let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "));
            }
            out.push_str("\t}\n\n");
        }
        for chain in objects
            .iter()
            .filter_map(|object| object.get("chain"))
            .filter(|chain| own(chain))
        {
            let _ = writeln!(out, "\tchain {} {{{}", word(&chain["name"]), mark(chain));
            if let Some(hook) = chain.get("hook") {
                let policy = chain.get("policy").map_or("accept".to_owned(), word);
                let _ = writeln!(
                    out,
                    "\t\ttype {} hook {} priority {}; policy {policy};",
                    word(&chain["type"]),
                    word(hook),
                    chain["prio"]
                );
            }
            for rule in objects
                .iter()
                .filter_map(|object| object.get("rule"))
                .filter(|rule| own(rule) && rule["chain"] == chain["name"])
            {
                let words: Vec<String> = items(&rule["expr"]).iter().map(expression).collect();
                let comment = rule
                    .get("comment")
                    .map(|comment| format!(" comment \"{}\"", word(comment)))
                    .unwrap_or_default();
                let _ = writeln!(out, "\t\t{}{comment}{}", words.join(" "), mark(rule));
            }
            out.push_str("\t}\n");
        }
        out.push_str("}\n");
    }
    out
}
