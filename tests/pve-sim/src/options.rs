//! The option tables of the real tools (`data/options.tsv`, taken from their own usage texts; `options-source.tsv`, read from source) and a parser that reads
//! arguments as Perl's Getopt::Long and PVE::JSONSchema do.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::call::Stop;
use crate::check::check_value;

/// One option or positional of a command.
#[derive(Debug, Clone)]
pub(crate) struct OptionSpec {
    /// Without dashes; `net[n]` for numbered ones.
    pub(crate) name: String,
    /// The type column.
    pub(crate) kind: String,
}

/// One command of a tool.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommandSpec {
    required: Vec<String>,
    positionals: Vec<OptionSpec>,
    options: Vec<OptionSpec>,
}

/// Arguments as given, checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arguments {
    /// Named options and positionals by name.
    pub(crate) values: BTreeMap<String, String>,
    /// What follows `--`, or extra words (`pct exec`, `vzdump`).
    pub(crate) rest: Vec<String>,
}

impl Arguments {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    pub(crate) fn vmid(&self) -> Option<u32> {
        self.get("vmid")?.parse().ok()
    }

    /// A positional that the parser has made sure of.
    pub(crate) fn required(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }
}

static TABLE: OnceLock<BTreeMap<String, CommandSpec>> = OnceLock::new();

fn table() -> &'static BTreeMap<String, CommandSpec> {
    TABLE.get_or_init(|| {
        let mut table: BTreeMap<String, CommandSpec> = BTreeMap::new();
        for line in [
            include_str!("../data/options.tsv"),
            include_str!("../data/options-source.tsv"),
        ]
        .into_iter()
        .flat_map(str::lines)
        .filter(|line| !line.starts_with('#'))
        {
            let mut columns = line.splitn(3, '\t');
            let (Some(command), Some(name), kind) = (columns.next(), columns.next(), columns.next().unwrap_or(""))
            else {
                continue;
            };
            let command = command.split(" --").next().unwrap_or(command).replace(" {<vmid>}", "");
            let spec = table.entry(command).or_default();
            if name == "(positional)" {
                spec.required = kind
                    .split(' ')
                    .filter_map(|word| word.strip_prefix('<')?.strip_suffix('>'))
                    .map(str::to_owned)
                    .collect();
            } else if let Some(option) = name.strip_prefix("--") {
                spec.options.push(OptionSpec {
                    name: option.to_owned(),
                    kind: kind.to_owned(),
                });
            } else if let Some(positional) = name.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
                spec.positionals.push(OptionSpec {
                    name: positional.to_owned(),
                    kind: kind.to_owned(),
                });
            }
        }
        // Output options of every pvesh command, which its usage text shows only on request.
        for (command, spec) in &mut table {
            if command.starts_with("pvesh ") {
                spec.options.push(OptionSpec {
                    name: "output-format".to_owned(),
                    kind: "<json | json-pretty | text | yaml>".to_owned(),
                });
            }
        }
        table
    })
}

/// Commands of a tool, as the table knows them.
pub(crate) fn command(tool: &str, sub: &str) -> Option<&'static CommandSpec> {
    let key = if sub.is_empty() {
        tool.to_owned()
    } else {
        format!("{tool} {sub}")
    };
    table().get(&key)
}

/// The type of an option of a command, with numbered ones resolved.
pub(crate) fn option_kind(tool: &str, sub: &str, option: &str) -> Option<&'static str> {
    command(tool, sub)?.find_exact(option).map(|spec| spec.kind.as_str())
}

impl CommandSpec {
    /// The last line of every complaint about arguments.
    pub(crate) fn usage(&self, tool: &str, sub: &str) -> String {
        if tool == "vzdump" {
            return "vzdump {<vmid>} [OPTIONS]".to_owned();
        }
        let words: Vec<String> = self
            .positionals
            .iter()
            .map(|spec| {
                if self.required.contains(&spec.name) {
                    format!("<{}>", spec.name)
                } else {
                    format!("[<{}>]", spec.name)
                }
            })
            .collect();
        let options = if self.options.is_empty() { "" } else { " [OPTIONS]" };
        format!("{tool} {sub} {}{options}", words.join(" "))
    }

    fn find_exact(&self, name: &str) -> Option<&OptionSpec> {
        self.options.iter().find(|spec| match spec.name.strip_suffix("[n]") {
            Some(base) => crate::conf::numbered(name, base).is_some(),
            None => spec.name.eq_ignore_ascii_case(name),
        })
    }

    /// Resolves an option as written to its full name: exact, or a unique abbreviation.
    fn resolve(&self, written: &str) -> Result<(String, &OptionSpec), String> {
        if let Some(spec) = self.find_exact(written) {
            let name = if spec.name.ends_with("[n]") {
                written.to_owned()
            } else {
                spec.name.clone()
            };
            return Ok((name, spec));
        }
        let lower = written.to_ascii_lowercase();
        let close: Vec<&OptionSpec> = self
            .options
            .iter()
            .filter(|spec| spec.name.to_ascii_lowercase().starts_with(&lower))
            .collect();
        match close.as_slice() {
            [] => Err(format!("Unknown option: {lower}")),
            [only] if !only.name.ends_with("[n]") => Ok((only.name.clone(), only)),
            many => {
                let names: Vec<String> = many.iter().map(|spec| spec.name.replace("[n]", "0")).collect();
                Err(format!("Option {lower} is ambiguous ({})", names.join(", ")))
            }
        }
    }

    /// Parses and checks arguments (without tool and command name).
    pub(crate) fn parse(&self, tool: &str, sub: &str, argv: &[String]) -> Result<Arguments, Stop> {
        let usage = self.usage(tool, sub);
        let mut words: Vec<String> = Vec::new();
        let mut given: BTreeMap<String, String> = BTreeMap::new();
        let mut complaints: Vec<String> = Vec::new();
        let mut after_dashes: Vec<String> = Vec::new();
        let mut at = 0;
        while at < argv.len() {
            let word = argv[at].as_str();
            at += 1;
            if word == "--" {
                after_dashes.extend_from_slice(&argv[at..]);
                break;
            }
            let Some(option) = word
                .strip_prefix("--")
                .or_else(|| word.strip_prefix('-'))
                .filter(|name| !name.is_empty())
            else {
                words.push(word.to_owned());
                continue;
            };
            let (written, inline) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            match self.resolve(written) {
                Err(complaint) => complaints.push(complaint),
                Ok((name, spec)) => {
                    let boolean = spec.kind.starts_with("<boolean>");
                    let next = argv
                        .get(at)
                        .filter(|next| !boolean || !next.starts_with('-') || next.as_str() == "-");
                    let value = match (inline, next) {
                        (Some(value), _) => Some(value),
                        (None, Some(next)) => {
                            at += 1;
                            Some(next.clone())
                        }
                        (None, None) if boolean => Some("1".to_owned()),
                        (None, None) => None,
                    };
                    match value {
                        // Of a repeated option the last wins; a list option collects.
                        Some(value) if spec.kind.starts_with("<array>") && given.contains_key(&name) => {
                            given.entry(name).and_modify(|old| *old = format!("{old}\0{value}"));
                        }
                        Some(value) => {
                            given.insert(name, value);
                        }
                        None => {
                            complaints.push(format!("Option {} requires an argument", written.to_ascii_lowercase()))
                        }
                    }
                }
            }
        }
        if !complaints.is_empty() {
            return Err(Stop::die(format!(
                "{}\n400 unable to parse option\n{usage}",
                complaints.join("\n")
            )));
        }
        let mut arguments = self.take_positionals(tool, &usage, words, after_dashes)?;
        let mut problems: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in given {
            let kind = self.find_exact(&name).map_or("<string>", |spec| spec.kind.as_str());
            if kind.starts_with("<boolean>") {
                let bit = match value.to_ascii_lowercase().as_str() {
                    "1" | "on" | "yes" | "true" => "1",
                    "0" | "off" | "no" | "false" => "0",
                    _ => return Err(Stop::die(format!("400 unable to parse boolean option\n{usage}"))),
                };
                arguments.values.insert(name, bit.to_owned());
                continue;
            }
            if let Err(reason) = check_value(&name, kind, &value) {
                problems.insert(name.clone(), reason);
            }
            arguments.values.insert(name, value);
        }
        for spec in &self.positionals {
            if let Some(value) = arguments.values.get(&spec.name)
                && let Err(reason) = check_value(&spec.name, &spec.kind, value)
            {
                problems.insert(spec.name.clone(), reason);
            }
        }
        if problems.is_empty() {
            Ok(arguments)
        } else {
            Err(Stop::parameters(&problems, &usage))
        }
    }

    fn take_positionals(
        &self,
        tool: &str,
        usage: &str,
        words: Vec<String>,
        after: Vec<String>,
    ) -> Result<Arguments, Stop> {
        let mut arguments = Arguments::default();
        let mut words: Vec<String> = words.into_iter().chain(after).collect();
        if tool == "vzdump" {
            arguments.rest = words;
            return Ok(arguments);
        }
        let takes_rest = self
            .positionals
            .last()
            .is_some_and(|spec| spec.kind.starts_with("<array>"));
        let named: Vec<&OptionSpec> = self
            .positionals
            .iter()
            .filter(|spec| !spec.kind.starts_with("<array>"))
            .collect();
        if words.len() < self.required.len() {
            return Err(Stop::die(format!("400 not enough arguments\n{usage}")));
        }
        if words.len() > named.len() && !takes_rest {
            return Err(Stop::die(format!("400 too many arguments\n{usage}")));
        }
        let rest = words.split_off(words.len().min(named.len()));
        for (spec, word) in named.iter().zip(words) {
            arguments.values.insert(spec.name.clone(), word);
        }
        arguments.rest = rest;
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, Stop> {
        let argv: Vec<String> = words[1..].iter().map(|word| (*word).to_owned()).collect();
        command("pct", words[0]).unwrap().parse("pct", words[0], &argv)
    }

    #[test]
    fn every_way_to_write_an_option() {
        for words in [
            &["set", "100", "--memory", "300"][..],
            &["set", "100", "--memory=300"],
            &["set", "100", "-memory", "300"],
            &["set", "--mem", "300", "100"],
            &["set", "100", "--memory", "200", "--memory", "300"],
        ] {
            let arguments = parse(words).unwrap();
            assert_eq!(
                (arguments.get("memory"), arguments.vmid()),
                (Some("300"), Some(100)),
                "{words:?}"
            );
        }
        assert!(parse(&["set", "100", "--onboot"]).unwrap().flag("onboot"));
        assert!(!parse(&["set", "100", "--onboot", "No"]).unwrap().flag("onboot"));
    }

    #[test]
    fn an_ambiguous_abbreviation_is_refused() {
        let stop = parse(&["set", "100", "--re", "x"]);
        assert!(stop.is_ok(), "--re is only --revert");
        assert!(parse(&["set", "100", "--ne", "x"]).is_err(), "--ne could be any --netN");
        assert!(parse(&["create", "100", "x", "--ti", "UTC"]).is_ok());
        assert!(parse(&["create", "100", "x", "--s", "1"]).is_err());
    }

    #[test]
    fn words_after_two_dashes_are_not_options() {
        let arguments = parse(&["exec", "100", "--", "ls", "-la"]).unwrap();
        assert_eq!(arguments.rest, ["ls", "-la"]);
    }
}
