//! `ha/resources.cfg`: sections `ct: 100` with indented `key value` lines (PVE::SectionConfig).

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resource(BTreeMap<String, String>);

impl Resource {
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.0.insert(key.to_owned(), value.to_owned());
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }

    /// The state that is asked for: `started`, `stopped`, `disabled`, `ignored`.
    pub(super) fn state(&self) -> &str {
        match self.get("state") {
            None | Some("enabled") => "started",
            Some(state) => state,
        }
    }

    /// How often it may be tried to start on another node.
    pub(super) fn max_relocate(&self) -> usize {
        self.number("max_relocate")
    }

    /// How often it may be tried again on the same node.
    pub(super) fn max_restart(&self) -> usize {
        self.number("max_restart")
    }

    fn number(&self, key: &str) -> usize {
        self.get(key).and_then(|text| text.parse().ok()).unwrap_or(1)
    }
}

/// All, by `ct:100`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resources(pub(super) BTreeMap<String, Resource>);

impl Resources {
    pub(super) fn parse(text: &str) -> Self {
        let mut resources = Self::default();
        let mut current: Option<String> = None;
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            if line.trim().is_empty() {
                current = None;
            } else if !line.starts_with([' ', '\t']) {
                current = line
                    .split_once(':')
                    .map(|(kind, name)| format!("{}:{}", kind.trim(), name.trim()));
                if let Some(sid) = &current {
                    resources.0.entry(sid.clone()).or_default();
                }
            } else if let Some(resource) = current.as_ref().and_then(|sid| resources.0.get_mut(sid)) {
                let (key, value) = line.trim().split_once([' ', '\t']).unwrap_or((line.trim(), ""));
                resource.set(key, value.trim());
            }
        }
        resources
    }

    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for (sid, resource) in &self.0 {
            let (kind, name) = sid.split_once(':').unwrap_or(("ct", sid));
            let _ = writeln!(text, "{kind}: {name}");
            for (key, value) in resource.pairs() {
                let _ = writeln!(text, "\t{key} {value}");
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_comes_back_as_it_was() {
        let text = "ct: 100\n\tmax_restart 2\n\tstate stopped\n\nvm: 105\n\n";
        let resources = Resources::parse(text);
        assert_eq!(resources.render(), text);
        assert_eq!(
            (resources.0["ct:100"].state(), resources.0["ct:100"].max_restart()),
            ("stopped", 2)
        );
        assert_eq!(
            (resources.0["vm:105"].state(), resources.0["vm:105"].max_relocate()),
            ("started", 1)
        );
    }
}
