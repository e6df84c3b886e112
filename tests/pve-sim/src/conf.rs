//! The configuration file of a container, `/etc/pve/lxc/<id>.conf`: parse, change, write back as pmxcfs shows it.
//!
//! Leading `#` lines are the description; then sorted `key: value`; then raw `lxc.*` lines; then `[pve:pending]`;
//! then one section per snapshot (`[s1]`), sorted by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One section of the file: the current configuration, or a snapshot's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// Decoded description; each line ends in a newline, as the real tools keep it. Empty: there is none.
    pub description: String,
    /// All `key: value` lines, without the raw `lxc.*` ones.
    pub values: BTreeMap<String, String>,
    /// Raw `lxc.*` lines in the order of the file.
    pub raw_lxc: Vec<(String, String)>,
}

/// What waits for the next start: the section `[pve:pending]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pending {
    /// Values that will be set.
    pub values: BTreeMap<String, String>,
    /// Keys that will be deleted.
    pub delete: Vec<String>,
}

/// A whole configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CtConfig {
    /// What is in force.
    pub current: Section,
    /// What waits for the next start.
    pub pending: Pending,
    /// Snapshots by name; each holds `snaptime` and perhaps `parent`.
    pub snapshots: BTreeMap<String, Section>,
}

impl Section {
    /// The value of `key`, if it is set.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Sets `key`.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.values.insert(key.to_owned(), value.into());
    }

    /// Removes `key`; tells whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.values.remove(key).is_some()
    }

    /// True when `key` is set to `1`.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key) == Some("1")
    }

    /// Sets the description as the tools do: every line ends in a newline; empty removes it.
    pub fn set_description(&mut self, text: &str) {
        self.description = if text.is_empty() {
            String::new()
        } else {
            format!("{}\n", text.trim_end_matches('\n'))
        };
    }

    /// Volumes of this section with their keys, in the order rootfs, mp0…, unused0….
    pub fn volumes(&self) -> Vec<(String, String)> {
        let mut found: Vec<(u8, usize, String, String)> = Vec::new();
        for (key, value) in &self.values {
            let (class, number) = if key == "rootfs" {
                (0, 0)
            } else if let Some(number) = numbered(key, "mp") {
                (1, number)
            } else if let Some(number) = numbered(key, "unused") {
                (2, number)
            } else {
                continue;
            };
            let properties = Properties::parse(value, "volume");
            let volume = properties.get("volume").unwrap_or_default().to_owned();
            found.push((class, number, key.clone(), volume));
        }
        found.sort();
        found.into_iter().map(|(_, _, key, volume)| (key, volume)).collect()
    }

    /// Network interfaces `netN` in order of N.
    pub fn networks(&self) -> Vec<(usize, Properties)> {
        let mut found: Vec<(usize, Properties)> = self
            .values
            .iter()
            .filter_map(|(key, value)| numbered(key, "net").map(|number| (number, Properties::parse(value, "name"))))
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found
    }

    fn render(&self, out: &mut String) {
        for line in self.description.lines() {
            let _ = writeln!(out, "#{}", encode_comment(line));
        }
        for (key, value) in &self.values {
            let _ = writeln!(out, "{key}: {value}");
        }
        for (key, value) in &self.raw_lxc {
            let _ = writeln!(out, "{key}: {value}");
        }
    }

    fn take_line(&mut self, line: &str) {
        if let Some(comment) = line.strip_prefix('#') {
            self.description.push_str(&percent_decode(comment));
            self.description.push('\n');
        } else if let Some((key, value)) = line.split_once(':') {
            let (key, value) = (key.trim(), value.trim());
            if key.starts_with("lxc.") {
                self.raw_lxc.push((key.to_owned(), value.to_owned()));
            } else {
                self.values.insert(key.to_owned(), value.to_owned());
            }
        }
    }
}

impl CtConfig {
    /// Reads a configuration file. Lines that are no `key: value` are skipped, as the real parser does with a warning.
    pub fn parse(text: &str) -> Self {
        enum At {
            Current,
            Pending,
            Snapshot(String),
        }
        let mut config = Self::default();
        let mut at = At::Current;
        for line in text.lines() {
            let line = line.trim_end();
            if line.is_empty() {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                at = if name == "pve:pending" {
                    At::Pending
                } else {
                    config.snapshots.entry(name.to_owned()).or_default();
                    At::Snapshot(name.to_owned())
                };
                continue;
            }
            match &at {
                At::Current => config.current.take_line(line),
                At::Snapshot(name) => config.snapshots.entry(name.clone()).or_default().take_line(line),
                At::Pending => match line.split_once(':') {
                    Some(("delete", keys)) => {
                        config.pending.delete = keys
                            .split(',')
                            .map(|key| key.trim().to_owned())
                            .filter(|key| !key.is_empty())
                            .collect();
                    }
                    Some((key, value)) => {
                        config
                            .pending
                            .values
                            .insert(key.trim().to_owned(), value.trim().to_owned());
                    }
                    None => {}
                },
            }
        }
        config
    }

    /// The file's text.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.current.render(&mut out);
        if !self.pending.values.is_empty() || !self.pending.delete.is_empty() {
            out.push_str("\n[pve:pending]\n");
            if !self.pending.delete.is_empty() {
                let _ = writeln!(out, "delete: {}", self.pending.delete.join(","));
            }
            for (key, value) in &self.pending.values {
                let _ = writeln!(out, "{key}: {value}");
            }
        }
        for (name, section) in &self.snapshots {
            let _ = write!(out, "\n[{name}]\n");
            section.render(&mut out);
        }
        out
    }
}

/// `net3` with prefix `net` is `Some(3)`.
pub(crate) fn numbered(key: &str, prefix: &str) -> Option<usize> {
    key.strip_prefix(prefix)
        .filter(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))?
        .parse()
        .ok()
}

/// A property string, `name=eth0,bridge=vmbr0`. One key may stand without its name (`local:8` is the volume).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    pairs: Vec<(String, String)>,
}

impl Properties {
    /// Reads a property string; a part without `=` is the value of `default_key`.
    pub fn parse(text: &str, default_key: &str) -> Self {
        let pairs = text
            .split(',')
            .filter(|part| !part.is_empty())
            .map(|part| match part.split_once('=') {
                Some((key, value)) => (key.trim().to_owned(), value.trim().to_owned()),
                None => (default_key.to_owned(), part.trim().to_owned()),
            })
            .collect();
        Self { pairs }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Sets `key`.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self.pairs.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((key.to_owned(), value)),
        }
    }

    /// All pairs in their order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// As the real tools write it: `first` keys in front (the default key `bare` without its name), the rest sorted.
    pub(crate) fn render(&self, bare: Option<&str>, first: &[&str]) -> String {
        let mut rest: Vec<&(String, String)> = self
            .pairs
            .iter()
            .filter(|(key, _)| bare != Some(key.as_str()) && !first.contains(&key.as_str()))
            .collect();
        rest.sort();
        let mut parts: Vec<String> = bare
            .and_then(|key| self.get(key))
            .map(str::to_owned)
            .into_iter()
            .collect();
        parts.extend(
            first
                .iter()
                .filter_map(|key| self.get(key).map(|value| format!("{key}={value}"))),
        );
        parts.extend(rest.into_iter().map(|(key, value)| format!("{key}={value}")));
        parts.join(",")
    }
}

/// How the description stands in the file: control characters, `%` and `:` escaped (PVE::Tools::encode_text).
fn encode_comment(line: &str) -> String {
    percent_encode(line)
}

/// PVE::Tools::encode_text: bytes below space, `%`, 0x7f and above, and `:` as `%XX`.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character < ' ' || matches!(character, '%' | ':' | '\x7f') {
            let _ = write!(out, "%{:02X}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    out
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_real_file_survives_a_round_trip() {
        for name in [
            "conf-file-102-pending",
            "conf-file-102-snap",
            "conf-file-100-mp",
            "conf-final-100",
        ] {
            let path = format!("{}/fixtures/transcripts/{name}.txt", env!("CARGO_MANIFEST_DIR"));
            let transcript = std::fs::read_to_string(path).unwrap();
            let text = transcript
                .split("--- stdout ---\n")
                .nth(1)
                .unwrap()
                .split("--- stderr ---")
                .next()
                .unwrap();
            assert_eq!(CtConfig::parse(text).render(), text, "{name}");
        }
    }

    #[test]
    fn a_description_is_escaped_line_by_line() {
        let mut config = CtConfig::default();
        config.current.set_description("50% a:b\nsecond");
        assert_eq!(config.render(), "#50%25 a%3Ab\n#second\n");
        assert_eq!(CtConfig::parse(&config.render()), config);
    }

    #[test]
    fn properties_keep_the_order_of_the_real_tool() {
        let net = Properties::parse("ip=10.0.0.2/24,type=veth,bridge=vmbr0,name=eth0,gw=10.0.0.1", "name");
        assert_eq!(
            net.render(None, &["name", "bridge"]),
            "name=eth0,bridge=vmbr0,gw=10.0.0.1,ip=10.0.0.2/24,type=veth"
        );
    }
}
