//! `nft` of a hollow node. The ruleset lies in `<root>/run/nft/ruleset.json`, in the form that `nft -j list ruleset`
//! prints; `pve-sim serve` reads its DNAT rules ([`mod@published`]). A change is whole or not at all, as the real one.
//!
//! Understood: `nft [-j] -f -|<file>`, `nft [-j] list ruleset|table|tables|chain|map`, `nft add|create|delete|destroy|flush …`,
//! `-c` (check only), `-a`, `-n`, `-s`. Objects: tables, chains, rules, maps, sets, elements. Text is understood as far as
//! [`text`] says; every JSON expression is kept, whether serve understands it or not.

mod published;
mod render;
mod ruleset;
mod text;

use std::fs;

use serde_json::{Value, json};

use crate::call::{Call, Stop};
use crate::layout::write_atomically;
use crate::locks::try_lock;
use crate::script::At;

pub(crate) use published::published;
pub(crate) use ruleset::Ruleset;

/// Its exit code for every failure is 1.
fn fail(text: impl Into<String>) -> Stop {
    Stop::Fail {
        exit: 1,
        text: text.into(),
    }
}

struct Options {
    json: bool,
    check: bool,
    handles: bool,
    file: Option<String>,
    words: Vec<String>,
}

fn options(argv: &[String]) -> Result<Options, Stop> {
    let mut options = Options {
        json: false,
        check: false,
        handles: false,
        file: None,
        words: Vec::new(),
    };
    let mut words = argv.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => options.json = true,
            "--check" => options.check = true,
            "--handle" => options.handles = true,
            "--numeric" | "--stateless" | "--terse" => {}
            "--file" => options.file = words.next().cloned(),
            flags if flags.starts_with('-') && flags.len() > 1 && options.words.is_empty() => {
                for flag in flags.chars().skip(1) {
                    match flag {
                        'j' => options.json = true,
                        'c' => options.check = true,
                        'a' => options.handles = true,
                        'n' | 's' | 't' | 'y' | 'p' | 'S' => {}
                        'f' => options.file = words.next().cloned(),
                        other => return Err(Stop::NotSimulated(format!("nft -{other}"))),
                    }
                }
            }
            word => options.words.push(word.to_owned()),
        }
    }
    Ok(options)
}

pub(crate) fn run(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    let options = options(argv)?;
    call.sub = options.words.first().cloned().unwrap_or_else(|| "-f".to_owned());
    call.around(|call| {
        if call.sub == "list" {
            call.point(At::Middle)?;
            return list(call, &options);
        }
        let input = match options.file.as_deref() {
            Some("-" | "/dev/stdin") => {
                let mut text = String::new();
                call.streams
                    .stdin
                    .read_to_string(&mut text)
                    .map_err(|error| fail(format!("Error: stdin: {error}")))?;
                text
            }
            Some(path) => fs::read_to_string(path)
                .map_err(|error| fail(format!("Error: Could not open file \"{path}\": {error}")))?,
            None if options.words.is_empty() => return Err(fail("nft: no command specified")),
            None => options.words.join(" "),
        };
        let commands = if options.json && options.file.is_some() {
            from_json(&input)?
        } else {
            text::parse(&input).map_err(fail)?
        };
        change(call, &options, &commands)
    })
}

fn from_json(input: &str) -> Result<Vec<Value>, Stop> {
    let document: Value = serde_json::from_str(input)
        .map_err(|error| fail(format!("internal:0:0-0: Error: Parsing JSON failed: {error}")))?;
    match document.get("nftables").and_then(Value::as_array) {
        Some(commands) => Ok(commands.clone()),
        None => Err(fail("internal:0:0-0: Error: Invalid JSON root: no array 'nftables'")),
    }
}

fn change(call: &mut Call<'_>, options: &Options, commands: &[Value]) -> Result<(), Stop> {
    let path = call.layout().nft_ruleset();
    let lock = path.with_extension("lock");
    let _held = loop {
        match try_lock(&lock) {
            Ok(Some(file)) => break file,
            // The kernel's own transaction lock: held for the moment of a change.
            Ok(None) => std::thread::yield_now(),
            Err(error) => return Err(fail(format!("Error: {error}"))),
        }
    };
    let mut ruleset = read(call)?;
    for command in commands {
        ruleset.apply(command).map_err(fail)?;
    }
    call.point(At::Middle)?;
    if options.check {
        return Ok(());
    }
    let text =
        serde_json::to_vec_pretty(&json!({ "nftables": ruleset.objects })).map_err(|error| fail(error.to_string()))?;
    write_atomically(&path, &text).map_err(|error| fail(format!("Error: {error}")))?;
    crate::serve::nudge(call.layout(), call.node.clock.as_ref()).map_err(|error| fail(error.to_string()))
}

fn read(call: &Call<'_>) -> Result<Ruleset, Stop> {
    Ruleset::read(&call.layout().nft_ruleset()).map_err(|error| fail(format!("Error: {error}")))
}

fn list(call: &mut Call<'_>, options: &Options) -> Result<(), Stop> {
    let ruleset = read(call)?;
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    let (family, rest) = match words.get(2) {
        Some(family @ (&"ip" | &"ip6" | &"inet" | &"arp" | &"bridge" | &"netdev")) => (*family, &words[3..]),
        _ => ("ip", words.get(2..).unwrap_or_default()),
    };
    let missing = || fail(format!("Error: No such file or directory\n{}\n", words.join(" ")));
    let objects: Vec<Value> = match (words.get(1).copied(), rest) {
        (Some("ruleset"), _) => ruleset.objects.clone(),
        (Some("tables"), _) => ruleset
            .objects
            .iter()
            .filter(|object| object.get("table").is_some())
            .cloned()
            .collect(),
        (Some("table"), [table]) => ruleset.of_table(family, table).ok_or_else(missing)?,
        (Some("chain" | "map" | "set"), [table, name]) => {
            ruleset.of_name(family, table, words[1], name).ok_or_else(missing)?
        }
        _ => return Err(Stop::NotSimulated(format!("nft {}", words.join(" ")))),
    };
    if options.json {
        let mut all = vec![
            json!({"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}}),
        ];
        all.extend(objects);
        call.say(&json!({ "nftables": all }).to_string())
    } else {
        let text = render::text(&objects, options.handles);
        call.print(&text)
    }
}
