//! The stored ruleset and what commands do to it.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

/// What the real tool says of something that is not there.
const NO_SUCH: &str = "Error: Could not process rule: No such file or directory";
const EXISTS: &str = "Error: Could not process rule: File exists";
/// Kinds of objects, as their JSON keys.
const KINDS: [&str; 7] = ["table", "chain", "rule", "map", "set", "element", "counter"];

/// Objects in the order of `nft -j list ruleset`: each `{"table": {…}}`, `{"chain": {…}}`, `{"map": {…}}`, `{"rule": {…}}`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ruleset {
    pub(crate) objects: Vec<Value>,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Kind and content of an object.
pub(super) fn parts(object: &Value) -> Option<(&str, &Value)> {
    object
        .as_object()?
        .iter()
        .next()
        .map(|(kind, content)| (kind.as_str(), content))
}

fn same_table(content: &Value, family: &str, table: &str) -> bool {
    text(content, "family") == family && text(content, "table") == table
}

impl Ruleset {
    /// Reads it; a node that has none yet has an empty one.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => {
                let document: Value = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
                Ok(Self {
                    objects: document
                        .get("nftables")
                        .and_then(Value::as_array)
                        .cloned()
                        .unwrap_or_default(),
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn position(&self, kind: &str, family: &str, table: &str, name: &str) -> Option<usize> {
        self.objects.iter().position(|object| match object.get(kind) {
            Some(content) if kind == "table" => text(content, "family") == family && text(content, "name") == table,
            Some(content) => same_table(content, family, table) && text(content, "name") == name,
            None => false,
        })
    }

    /// A table with everything in it.
    pub(crate) fn of_table(&self, family: &str, table: &str) -> Option<Vec<Value>> {
        let at = self.position("table", family, table, "")?;
        let mut found = vec![self.objects[at].clone()];
        found.extend(
            self.objects
                .iter()
                .filter(|object| {
                    parts(object).is_some_and(|(kind, content)| kind != "table" && same_table(content, family, table))
                })
                .cloned(),
        );
        Some(found)
    }

    /// One chain with its rules, or one map or set.
    pub(crate) fn of_name(&self, family: &str, table: &str, kind: &str, name: &str) -> Option<Vec<Value>> {
        let at = self.position(kind, family, table, name)?;
        let mut found = vec![self.objects[at].clone()];
        if kind == "chain" {
            found.extend(
                self.objects
                    .iter()
                    .filter(|object| {
                        object
                            .get("rule")
                            .is_some_and(|rule| same_table(rule, family, table) && text(rule, "chain") == name)
                    })
                    .cloned(),
            );
        }
        Some(found)
    }

    fn next_handle(&self) -> u64 {
        self.objects
            .iter()
            .filter_map(|object| parts(object)?.1.get("handle")?.as_u64())
            .max()
            .unwrap_or(0)
            + 1
    }

    /// One command, `{"add": {"table": {…}}}`; an object without a verb is added.
    pub(crate) fn apply(&mut self, command: &Value) -> Result<(), String> {
        let Some((verb, object)) = parts(command) else {
            return Err("Error: Invalid command".to_owned());
        };
        if verb == "metainfo" {
            return Ok(());
        }
        if KINDS.contains(&verb) {
            return self.add(command, false);
        }
        match verb {
            "add" | "create" | "insert" => self.add(object, verb == "create"),
            "flush" => self.flush(object),
            "delete" => self.delete(object, false),
            "destroy" => self.delete(object, true),
            "reset" | "list" | "replace" | "rename" => Err(format!("pve-sim: not simulated: nft {verb} inside a file")),
            other => Err(format!("Error: Unknown command '{other}'")),
        }
    }

    fn add(&mut self, object: &Value, must_be_new: bool) -> Result<(), String> {
        let Some((kind, content)) = parts(object) else {
            return Err("Error: Invalid object".to_owned());
        };
        let (family, table, name) = names(kind, content);
        if kind != "table" && self.position("table", &family, &table, "").is_none() {
            return Err(NO_SUCH.to_owned());
        }
        match kind {
            "element" => return self.add_elements(content, &family, &table, &name),
            "rule" => {
                let chain = text(content, "chain");
                if self.position("chain", &family, &table, chain).is_none() {
                    return Err(NO_SUCH.to_owned());
                }
            }
            _ => {
                if let Some(at) = self.position(kind, &family, &table, &name) {
                    if must_be_new {
                        return Err(EXISTS.to_owned());
                    }
                    // A set or map that is named again only gets more elements.
                    let more = content.get("elem").cloned();
                    if let (Some(more), "map" | "set") = (more, kind) {
                        return merge(&mut self.objects[at][kind], &more);
                    }
                    return Ok(());
                }
            }
        }
        let mut content = content.clone();
        content["handle"] = json!(self.next_handle());
        self.objects.push(json!({ kind: content }));
        Ok(())
    }

    fn add_elements(&mut self, content: &Value, family: &str, table: &str, name: &str) -> Result<(), String> {
        for kind in ["map", "set"] {
            if let Some(at) = self.position(kind, family, table, name) {
                return merge(&mut self.objects[at][kind], content.get("elem").unwrap_or(&Value::Null));
            }
        }
        Err(NO_SUCH.to_owned())
    }

    fn flush(&mut self, object: &Value) -> Result<(), String> {
        let Some((kind, content)) = parts(object) else {
            return Err("Error: Invalid object".to_owned());
        };
        let (family, table, name) = names(kind, content);
        match kind {
            "ruleset" => self.objects.clear(),
            "table" => {
                self.position("table", &family, &table, "").ok_or(NO_SUCH)?;
                self.objects
                    .retain(|object| !object.get("rule").is_some_and(|rule| same_table(rule, &family, &table)));
            }
            "chain" => {
                self.position("chain", &family, &table, &name).ok_or(NO_SUCH)?;
                self.objects.retain(|object| {
                    !object
                        .get("rule")
                        .is_some_and(|rule| same_table(rule, &family, &table) && text(rule, "chain") == name)
                });
            }
            "map" | "set" => {
                let at = self.position(kind, &family, &table, &name).ok_or(NO_SUCH)?;
                self.objects[at][kind]["elem"] = json!([]);
            }
            other => return Err(format!("Error: cannot flush {other}")),
        }
        Ok(())
    }

    fn delete(&mut self, object: &Value, may_be_missing: bool) -> Result<(), String> {
        let Some((kind, content)) = parts(object) else {
            return Err("Error: Invalid object".to_owned());
        };
        let (family, table, name) = names(kind, content);
        let missing = if may_be_missing {
            Ok(())
        } else {
            Err(NO_SUCH.to_owned())
        };
        if kind == "element" {
            return self.delete_elements(content, &family, &table, &name, missing);
        }
        if kind == "rule" {
            let handle = content.get("handle").and_then(Value::as_u64);
            let before = self.objects.len();
            self.objects.retain(|object| {
                !object.get("rule").is_some_and(|rule| {
                    same_table(rule, &family, &table) && rule.get("handle").and_then(Value::as_u64) == handle
                })
            });
            return if self.objects.len() < before { Ok(()) } else { missing };
        }
        if self.position(kind, &family, &table, &name).is_none() {
            return missing;
        }
        self.objects.retain(|object| {
            let Some((held_kind, held)) = parts(object) else {
                return true;
            };
            match kind {
                "table" => {
                    let itself = held_kind == "table" && text(held, "family") == family && text(held, "name") == table;
                    !(itself || held_kind != "table" && same_table(held, &family, &table))
                }
                _ => {
                    let of_chain = kind == "chain" && held_kind == "rule" && text(held, "chain") == name;
                    let itself = held_kind == kind && text(held, "name") == name;
                    !(same_table(held, &family, &table) && (itself || of_chain))
                }
            }
        });
        Ok(())
    }

    fn delete_elements(
        &mut self,
        content: &Value,
        family: &str,
        table: &str,
        name: &str,
        missing: Result<(), String>,
    ) -> Result<(), String> {
        for kind in ["map", "set"] {
            let Some(at) = self.position(kind, family, table, name) else {
                continue;
            };
            let gone: Vec<Value> = items(content.get("elem").unwrap_or(&Value::Null))
                .into_iter()
                .map(|item| key_of(&item))
                .collect();
            let held = items(self.objects[at][kind].get("elem").unwrap_or(&Value::Null));
            if gone.iter().any(|key| !held.iter().any(|item| key_of(item) == *key)) {
                return missing;
            }
            let kept: Vec<Value> = held.into_iter().filter(|item| !gone.contains(&key_of(item))).collect();
            self.objects[at][kind]["elem"] = Value::Array(kept);
            return Ok(());
        }
        missing
    }
}

/// Family, table, and name of what an object stands for.
fn names(kind: &str, content: &Value) -> (String, String, String) {
    let family = content.get("family").and_then(Value::as_str).unwrap_or("ip").to_owned();
    if kind == "table" {
        (family, text(content, "name").to_owned(), String::new())
    } else {
        (
            family,
            text(content, "table").to_owned(),
            text(content, "name").to_owned(),
        )
    }
}

/// Elements as a list: one may stand alone.
pub(super) fn items(elements: &Value) -> Vec<Value> {
    match elements {
        Value::Null => Vec::new(),
        Value::Array(items) => items.clone(),
        Value::Object(object) if object.contains_key("set") => items(&object["set"]),
        other => vec![other.clone()],
    }
}

/// The key of a map's element `[key, value]`, or a set's element itself.
fn key_of(item: &Value) -> Value {
    item.as_array().and_then(|pair| pair.first()).unwrap_or(item).clone()
}

/// Adds elements; the same key with another value is refused, as in the kernel.
fn merge(holder: &mut Value, more: &Value) -> Result<(), String> {
    let mut held = items(holder.get("elem").unwrap_or(&Value::Null));
    for item in items(more) {
        match held.iter().find(|old| key_of(old) == key_of(&item)) {
            Some(old) if *old == item => {}
            Some(_) => return Err(EXISTS.to_owned()),
            None => held.push(item),
        }
    }
    holder["elem"] = Value::Array(held);
    Ok(())
}
