//! Who may import whom, as the README's architecture part states it. The sources are read token by token, so a path counts wherever it stands: in a `use`,
//! in an expression, in a type, or inside a macro call. Items under `#[cfg(test)]` are left out: fakes sit at the ports, in tests.

#![allow(clippy::unwrap_used)]

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Every path that a source names, split at `::`, with groups of `use` lines spread out.
fn paths_of(source: &str) -> BTreeSet<Vec<String>> {
    let tokens: TokenStream = source.parse().expect("the source is Rust");
    let mut found = BTreeSet::new();
    walk(tokens.into_iter().collect(), &[], &mut found);
    found
}

fn is_cfg_test(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Group(g) if g.delimiter() == Delimiter::Bracket && g.stream().to_string().replace(' ', "") == "cfg(test)")
}

fn punct(tree: Option<&TokenTree>, wanted: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(p)) if p.as_char() == wanted)
}

/// Skips the item that follows a `#[cfg(test)]` at `at`: up to its first brace group or semicolon.
fn end_of_item(trees: &[TokenTree], mut at: usize) -> usize {
    while at < trees.len() {
        let done = match &trees[at] {
            TokenTree::Group(g) => g.delimiter() == Delimiter::Brace,
            TokenTree::Punct(p) => p.as_char() == ';',
            _ => false,
        };
        at += 1;
        if done {
            break;
        }
    }
    at
}

fn walk(trees: Vec<TokenTree>, prefix: &[String], found: &mut BTreeSet<Vec<String>>) {
    let mut at = 0;
    while at < trees.len() {
        if punct(trees.get(at), '#') && trees.get(at + 1).is_some_and(is_cfg_test) {
            at = end_of_item(&trees, at + 2);
            continue;
        }
        match &trees[at] {
            // The new name of `use a::b as c` is no path.
            TokenTree::Ident(word) if word == "as" => at += 2,
            TokenTree::Ident(first) => {
                let mut path: Vec<String> = prefix.to_vec();
                path.push(first.to_string());
                at += 1;
                loop {
                    if !(punct(trees.get(at), ':') && punct(trees.get(at + 1), ':')) {
                        found.insert(path);
                        break;
                    }
                    match trees.get(at + 2) {
                        Some(TokenTree::Ident(next)) => {
                            path.push(next.to_string());
                            at += 3;
                        }
                        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                            walk(group.stream().into_iter().collect(), &path, found);
                            at += 3;
                            break;
                        }
                        Some(TokenTree::Punct(star)) if star.as_char() == '*' => {
                            path.push("*".into());
                            found.insert(path);
                            at += 3;
                            break;
                        }
                        _ => {
                            found.insert(path);
                            at += 2;
                            break;
                        }
                    }
                }
            }
            TokenTree::Group(group) => {
                // A group inside a `use` tree keeps its prefix only if the path led into it, which the arm above does.
                walk(group.stream().into_iter().collect(), &[], found);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// A source file with its place in the crate's module tree.
struct Source {
    file: PathBuf,
    module: Vec<String>,
    paths: BTreeSet<Vec<String>>,
}

fn sources(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().unwrap() != "tests" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs")
                && !path.file_stem().unwrap().to_str().unwrap().ends_with("tests")
            {
                let mut module: Vec<String> = path
                    .strip_prefix(root)
                    .unwrap()
                    .with_extension("")
                    .components()
                    .map(|c| c.as_os_str().to_str().unwrap().to_owned())
                    .collect();
                if module
                    .last()
                    .is_some_and(|m| m == "mod" || (module.len() == 1 && (m == "lib" || m == "main")))
                {
                    module.pop();
                }
                let paths = paths_of(&std::fs::read_to_string(&path).unwrap());
                found.push(Source {
                    file: path,
                    module,
                    paths,
                });
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {}", root.display());
    found
}

/// The path from the crate's root, for `crate::`, `self::` and `super::`; `None` for paths into other crates and local names.
fn within_crate(module: &[String], path: &[String], own_name: &str) -> Option<Vec<String>> {
    let mut base = match path.first()?.as_str() {
        "crate" => Vec::new(),
        name if name == own_name => Vec::new(),
        "self" => module.to_vec(),
        "super" => module[..module.len().saturating_sub(1)].to_vec(),
        _ => return None,
    };
    for part in &path[1..] {
        if part == "super" {
            base.pop();
        } else {
            base.push(part.clone());
        }
    }
    Some(base)
}

/// What a room may use of its own crate, and which outside crates only some rooms may use.
struct Rules {
    own_name: &'static str,
    /// Room, and the rooms that it may import besides itself. A room that is not listed may import everything.
    rooms: &'static [(&'static str, &'static [&'static str])],
    /// Path into another crate, and the rooms (prefixes of module paths) that may name it.
    outside: &'static [(&'static [&'static str], &'static [&'static [&'static str]])],
}

fn starts_with(path: &[String], prefix: &[&str]) -> bool {
    path.len() >= prefix.len() && path.iter().zip(prefix).all(|(a, b)| a == b)
}

fn violations(source: &Source, rules: &Rules) -> Vec<String> {
    let mut found = Vec::new();
    for path in &source.paths {
        for (outside, allowed) in rules.outside {
            if starts_with(path, outside) && !allowed.iter().any(|room| starts_with(&source.module, room)) {
                found.push(format!(
                    "{}: {} is not for this room",
                    source.file.display(),
                    path.join("::")
                ));
            }
        }
        let Some(room) = source.module.first() else { continue };
        let Some(inner) = within_crate(&source.module, path, rules.own_name) else {
            continue;
        };
        let Some(target) = inner.first() else { continue };
        if let Some((_, allowed)) = rules.rooms.iter().find(|(name, _)| name == room)
            && target != room
            && !allowed.contains(&target.as_str())
        {
            found.push(format!(
                "{}: {room} may not import {target} ({})",
                source.file.display(),
                path.join("::")
            ));
        }
    }
    found
}

const PROTOCOL: Rules = Rules {
    own_name: "proximity_protocol",
    rooms: &[],
    outside: &[
        (&["tokio"], &[]),
        (&["quinn"], &[]),
        (&["sqlx"], &[]),
        (&["std", "fs"], &[]),
        (&["std", "net", "TcpStream"], &[]),
        (&["std", "time", "SystemTime"], &[]),
    ],
};

const SYSTEMD: Rules = Rules {
    own_name: "proximity_systemd",
    rooms: &[],
    outside: &[
        (&["proximity_protocol"], &[]),
        (&["proximity_agent"], &[]),
        (&["proximity_coordinator"], &[]),
    ],
};

const SPAWN_ROOM: &[&[&str]] = &[&["host"]];

/// Everywhere else time comes from the port of `host`, so that it can be turned by hand.
const TIME_ROOMS: &[&[&str]] = &[&["assemble"], &["doctor"], &["host"], &["identity"], &["link"]];

const AGENT: Rules = Rules {
    own_name: "proximity_agent",
    rooms: &[
        ("pve", &[]),
        ("config", &[]),
        ("identity", &["config"]),
        ("link", &["identity", "jobs", "facts", "host", "config"]),
        ("host", &["config", "pve", "policy"]),
        ("policy", &["config"]),
        ("ownership", &["host", "pve"]),
        ("archives", &["host", "pve"]),
        ("publish", &["host", "pve", "ownership", "config"]),
        ("facts", &["host", "pve", "ownership", "policy", "publish", "config"]),
    ],
    outside: &[
        (&["proximity_coordinator"], &[]),
        (&["sqlx"], &[]),
        (&["quinn"], &[&["link"], &["identity"]]),
        (&["std", "process", "Command"], SPAWN_ROOM),
        (&["tokio", "process"], SPAWN_ROOM),
        (&["process", "Command"], SPAWN_ROOM),
        (&["nix", "unistd", "fork"], SPAWN_ROOM),
        (&["nix", "unistd", "execv"], SPAWN_ROOM),
        (&["tokio", "time"], TIME_ROOMS),
    ],
};

const COORDINATOR: Rules = Rules {
    own_name: "proximity_coordinator",
    rooms: &[
        ("api", &["service", "auth", "events"]),
        ("auth", &["store", "clock", "service"]),
        (
            "service",
            &[
                "domain",
                "store",
                "live",
                "events",
                "nodes",
                "operations",
                "clock",
                "pki",
                "auth",
                "secrets",
            ],
        ),
        (
            "operations",
            &["domain", "store", "events", "nodes", "clock", "secrets"],
        ),
        (
            "reconcile",
            &["domain", "store", "events", "nodes", "clock", "operations"],
        ),
        ("domain", &[]),
        ("store", &["domain", "events", "clock"]),
        ("live", &[]),
        ("events", &[]),
        ("clock", &[]),
        ("pki", &["clock"]),
        ("nodes", &["store", "live", "pki", "events", "clock", "service"]),
    ],
    outside: &[
        (&["proximity_agent"], &[]),
        (&["sqlx"], &[&["store"]]),
        (&["quinn"], &[&["nodes", "quic"]]),
        (&["std", "process", "Command"], &[]),
        (&["tokio", "process"], &[]),
        (&["axum"], &[&["api"], &["assemble"]]),
    ],
};

fn check(crate_folder: &str, rules: &Rules) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join(crate_folder)
        .join("src");
    let found: Vec<String> = sources(&root)
        .iter()
        .flat_map(|source| violations(source, rules))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn protocol_is_pure() {
    check("protocol", &PROTOCOL);
}

#[test]
fn what_is_said_to_systemd_knows_nothing_of_us() {
    check("systemd", &SYSTEMD);
}

#[test]
fn agent_rooms_keep_apart() {
    check("agent", &AGENT);
}

#[test]
fn coordinator_rooms_keep_apart() {
    check("coordinator", &COORDINATOR);
}

fn found_in(module: &[&str], text: &str, rules: &Rules) -> usize {
    let source = Source {
        file: "x.rs".into(),
        module: module.iter().map(|m| (*m).to_owned()).collect(),
        paths: paths_of(text),
    };
    violations(&source, rules).len()
}

#[test]
fn the_check_itself_finds_what_crosses() {
    let crossing = [
        "use crate::store::Store;",
        "use crate::{service::Caller, store::{Store, audit}};",
        "fn f() { crate::nodes::quic::dial() }",
        "fn f() { tracing::info!(x = crate::store::x()); }",
        "fn f(x: super::super::domain::Thing) {}",
        "fn f() { sqlx::query(\"\") }",
        "use quinn::Endpoint;",
        "#[cfg(test)] mod tests { use crate::service::X; } use crate::live::Live;",
    ];
    for text in crossing {
        assert!(found_in(&["api", "apps"], text, &COORDINATOR) > 0, "not found: {text}");
    }
    let fine = [
        "use crate::service::Caller;",
        "use crate::api::problem;",
        "#[cfg(test)] mod tests { use crate::store::Store; }",
        "// use crate::store::Store;",
    ];
    for text in fine {
        assert_eq!(found_in(&["api", "apps"], text, &COORDINATOR), 0, "{text}");
    }
    assert!(found_in(&["jobs", "machine"], "use tokio::process::Command;", &AGENT) > 0);
    assert_eq!(found_in(&["host", "tool"], "use tokio::process::Command;", &AGENT), 0);
}
