//! The text form, as far as it is understood: `table F N { … }` blocks, `add|create|delete|destroy|flush` lines, maps and
//! sets with elements, base chains, and rules. Of a rule `tcp dport P`, `dnat [ip] to A[:P]` and `dnat [ip] to tcp dport map
//! @M` become expressions; all other words are kept as `{"words": "…"}`, so that listing shows them again.

use serde_json::{Value, json};

struct Reader {
    tokens: Vec<String>,
    at: usize,
}

/// Commands in JSON form, or what the real tool would complain.
pub(super) fn parse(input: &str) -> Result<Vec<Value>, String> {
    let mut reader = Reader {
        tokens: tokens(input),
        at: 0,
    };
    let mut commands = Vec::new();
    while reader.at < reader.tokens.len() {
        if matches!(reader.peek(), ";" | "\n") {
            reader.at += 1;
            continue;
        }
        reader.command(&mut commands)?;
    }
    Ok(commands)
}

fn tokens(input: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    for line in input.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut word = String::new();
        let mut quoted = false;
        for character in line.chars() {
            match character {
                '"' => quoted = !quoted,
                ' ' | '\t' if !quoted => tokens.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
                '{' | '}' | ';' | ',' | '=' if !quoted => {
                    tokens.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
                    tokens.push(character.to_string());
                }
                other => word.push(other),
            }
        }
        tokens.extend(Some(word).filter(|word| !word.is_empty()));
        tokens.push("\n".to_owned());
    }
    tokens
}

impl Reader {
    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        let token = self.peek().to_owned();
        self.at += 1;
        token
    }

    fn skip_breaks(&mut self) {
        while matches!(self.peek(), ";" | "\n") {
            self.at += 1;
        }
    }

    fn expect(&mut self, wanted: &str) -> Result<(), String> {
        if wanted == "{" || wanted == "}" {
            while self.peek() == "\n" {
                self.at += 1;
            }
        }
        let token = self.next();
        if token == wanted {
            Ok(())
        } else {
            Err(format!(
                "Error: syntax error, unexpected {token:?}, expecting {wanted:?}"
            ))
        }
    }

    fn family(&mut self) -> String {
        if matches!(self.peek(), "ip" | "ip6" | "inet" | "arp" | "bridge" | "netdev") {
            self.next()
        } else {
            "ip".to_owned()
        }
    }

    fn take_line(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.peek() {
                "\n" | ";" if depth == 0 => break,
                "}" if depth == 0 => break,
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            let word = self.next();
            if word != "\n" {
                words.push(word);
            }
        }
        words
    }

    fn command(&mut self, commands: &mut Vec<Value>) -> Result<(), String> {
        let verb = match self.peek() {
            "add" | "create" | "delete" | "destroy" | "flush" | "insert" => self.next(),
            _ => "add".to_owned(),
        };
        let kind = self.next();
        if kind == "ruleset" && verb == "flush" {
            commands.push(json!({"flush": {"ruleset": null}}));
            return Ok(());
        }
        let family = self.family();
        let table = self.next();
        match kind.as_str() {
            "table" => {
                commands.push(json!({ verb.as_str(): {"table": {"family": family, "name": table}} }));
                if self.peek() == "{" && verb != "delete" {
                    self.table_block(&family, &table, commands)?;
                }
                Ok(())
            }
            "chain" | "map" | "set" | "element" => {
                let name = self.next();
                let mut object = json!({"family": family, "table": table, "name": name});
                let mut rules = Vec::new();
                if self.peek() == "{" {
                    match kind.as_str() {
                        "chain" => rules = self.chain_block(&mut object)?,
                        "element" => {
                            self.expect("{")?;
                            object["elem"] = self.elements()?;
                        }
                        _ => self.set_block(&mut object)?,
                    }
                }
                commands.push(json!({ verb: { kind: object } }));
                push_rules(commands, &family, &table, &name, rules)
            }
            "rule" => {
                let chain = self.next();
                let words = self.take_line();
                let mut object = json!({"family": family, "table": table, "chain": chain});
                if let Some(handle) = words
                    .first()
                    .filter(|word| *word == "handle")
                    .and_then(|_| words.get(1)?.parse::<u64>().ok())
                {
                    object["handle"] = json!(handle);
                } else {
                    object["expr"] = expressions(&words)?;
                }
                commands.push(json!({ verb: { "rule": object } }));
                Ok(())
            }
            other => Err(format!("Error: syntax error, unexpected {other:?}")),
        }
    }

    fn table_block(&mut self, family: &str, table: &str, commands: &mut Vec<Value>) -> Result<(), String> {
        self.expect("{")?;
        loop {
            self.skip_breaks();
            let kind = self.next();
            match kind.as_str() {
                "}" => return Ok(()),
                "chain" | "map" | "set" => {
                    let name = self.next();
                    let mut object = json!({"family": family, "table": table, "name": name});
                    let rules = if kind == "chain" {
                        self.chain_block(&mut object)?
                    } else {
                        self.set_block(&mut object).map(|()| Vec::new())?
                    };
                    commands.push(json!({"add": { kind: object }}));
                    push_rules(commands, family, table, &name, rules)?;
                }
                "comment" => drop(self.take_line()),
                other => return Err(format!("Error: syntax error, unexpected {other:?}")),
            }
        }
    }

    /// Fills a base chain's fields and answers the rules, each as its words.
    fn chain_block(&mut self, object: &mut Value) -> Result<Vec<Vec<String>>, String> {
        self.expect("{")?;
        let mut rules = Vec::new();
        loop {
            self.skip_breaks();
            if self.peek() == "}" || self.peek().is_empty() {
                self.expect("}")?;
                return Ok(rules);
            }
            let words = self.take_line();
            let view: Vec<&str> = words.iter().map(String::as_str).collect();
            match view.as_slice() {
                ["type", kind, "hook", hook, rest @ ..] => {
                    object["type"] = json!(kind);
                    object["hook"] = json!(hook);
                    let priority = rest
                        .iter()
                        .skip_while(|word| **word != "priority")
                        .skip(1)
                        .copied()
                        .collect::<Vec<_>>()
                        .join(" ");
                    object["prio"] = json!(priority_number(&priority));
                }
                ["policy", policy] => object["policy"] = json!(policy),
                _ => rules.push(words),
            }
        }
    }

    fn set_block(&mut self, object: &mut Value) -> Result<(), String> {
        self.expect("{")?;
        loop {
            self.skip_breaks();
            let word = self.next();
            match word.as_str() {
                "}" => return Ok(()),
                "type" => {
                    let words = self.take_line();
                    let text = words.join(" ");
                    let (key, value) = text.split_once(" : ").unwrap_or((text.as_str(), ""));
                    object["type"] = joined(key);
                    if !value.is_empty() {
                        object["map"] = joined(value);
                    }
                }
                "elements" => {
                    self.expect("=")?;
                    self.expect("{")?;
                    object["elem"] = self.elements()?;
                }
                "flags" | "comment" | "timeout" | "size" => drop(self.take_line()),
                other => return Err(format!("Error: syntax error, unexpected {other:?}")),
            }
        }
    }

    /// `8080 : 10.0.0.2 . 80, …` up to the closing brace.
    fn elements(&mut self) -> Result<Value, String> {
        let mut elements = Vec::new();
        let mut words: Vec<String> = Vec::new();
        loop {
            let token = self.next();
            match token.as_str() {
                "" => return Err("Error: syntax error, unexpected end of file".to_owned()),
                "\n" => {}
                "," | "}" => {
                    if !words.is_empty() {
                        let text = std::mem::take(&mut words).join(" ");
                        elements.push(match text.split_once(" : ") {
                            Some((key, value)) => json!([scalar(key), tuple(value)]),
                            None => tuple(&text),
                        });
                    }
                    if token == "}" {
                        return Ok(Value::Array(elements));
                    }
                }
                word => words.push(word.to_owned()),
            }
        }
    }
}

fn push_rules(
    commands: &mut Vec<Value>,
    family: &str,
    table: &str,
    chain: &str,
    rules: Vec<Vec<String>>,
) -> Result<(), String> {
    for words in rules {
        commands.push(
            json!({"add": {"rule": {"family": family, "table": table, "chain": chain, "expr": expressions(&words)?}}}),
        );
    }
    Ok(())
}

fn joined(text: &str) -> Value {
    let parts: Vec<&str> = text.split(" . ").map(str::trim).collect();
    if parts.len() == 1 {
        json!(parts[0])
    } else {
        json!(parts)
    }
}

fn scalar(text: &str) -> Value {
    text.trim()
        .parse::<u64>()
        .map_or_else(|_| json!(text.trim()), |number| json!(number))
}

fn tuple(text: &str) -> Value {
    let parts: Vec<Value> = text.split(" . ").map(scalar).collect();
    if parts.len() == 1 {
        parts[0].clone()
    } else {
        json!({ "concat": parts })
    }
}

fn priority_number(text: &str) -> i64 {
    let named = |name: &str| match name {
        "dstnat" => Some(-100),
        "srcnat" => Some(100),
        "filter" => Some(0),
        "raw" => Some(-300),
        "mangle" => Some(-150),
        _ => None,
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [base, sign @ ("+" | "-"), number] => {
            let number: i64 = number.parse().unwrap_or(0);
            named(base).unwrap_or(0) + if *sign == "+" { number } else { -number }
        }
        [word] => named(word).or_else(|| word.parse().ok()).unwrap_or(0),
        _ => 0,
    }
}

/// The words of a rule as expressions.
fn expressions(words: &[String]) -> Result<Value, String> {
    let dport = || json!({"payload": {"protocol": "tcp", "field": "dport"}});
    let mut expressions = Vec::new();
    let mut at = 0;
    let view: Vec<&str> = words.iter().map(String::as_str).collect();
    while at < view.len() {
        let rest = &view[at..];
        match rest {
            ["tcp", "dport", "{", ..] => {
                let end = rest.iter().position(|word| *word == "}").unwrap_or(rest.len());
                let ports: Vec<Value> = rest[3..end]
                    .iter()
                    .filter(|word| **word != ",")
                    .map(|word| scalar(word))
                    .collect();
                expressions.push(json!({"match": {"op": "==", "left": dport(), "right": {"set": ports}}}));
                at += end + 1;
            }
            ["tcp", "dport", port, ..] => {
                expressions.push(json!({"match": {"op": "==", "left": dport(), "right": scalar(port)}}));
                at += 3;
            }
            ["dnat", "ip", "to", target @ ..] | ["dnat", "to", target @ ..] => {
                let prefix = rest.len() - target.len();
                if let ["tcp", "dport", "map", name, ..] = target {
                    expressions
                        .push(json!({"dnat": {"family": "ip", "addr": {"map": {"key": dport(), "data": name}}}}));
                    at += prefix + 4;
                } else {
                    let text = target.first().copied().unwrap_or_default();
                    expressions.push(match text.split_once(':') {
                        Some((address, port)) => {
                            json!({"dnat": {"family": "ip", "addr": address, "port": scalar(port)}})
                        }
                        None => json!({"dnat": {"family": "ip", "addr": text}}),
                    });
                    at += prefix + 1;
                }
            }
            ["masquerade", ..] => {
                expressions.push(json!({"masquerade": null}));
                at += 1;
            }
            ["counter", ..] => {
                expressions.push(json!({"counter": {"packets": 0, "bytes": 0}}));
                at += 1;
            }
            ["accept" | "drop" | "return", ..] => {
                expressions.push(json!({ rest[0]: null }));
                at += 1;
            }
            [
                "fib" | "ct" | "ip" | "ip6" | "iifname" | "oifname" | "iif" | "oif" | "meta" | "comment" | "jump"
                | "log",
                ..,
            ] => {
                // Kept as they are up to the next word that is understood.
                let end = rest
                    .iter()
                    .enumerate()
                    .skip(1)
                    .find(|(_, word)| {
                        matches!(
                            **word,
                            "tcp" | "dnat" | "masquerade" | "counter" | "accept" | "drop" | "return"
                        )
                    })
                    .map_or(rest.len(), |(index, _)| index);
                expressions.push(json!({"words": rest[..end].join(" ")}));
                at += end;
            }
            _ => return Err(format!("Error: syntax error, unexpected {:?}", rest[0])),
        }
    }
    Ok(Value::Array(expressions))
}
