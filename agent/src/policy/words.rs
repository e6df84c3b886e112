//! A policy in words, for operators.

use super::{Adoption, AdoptionWord, Policy};
use std::fmt::Display;

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn only<T: Display>(what: &str, items: &[T]) -> String {
    if items.is_empty() {
        format!("{what}: all")
    } else {
        format!("{what}: only {}", list(items))
    }
}

impl Policy {
    /// What it allows, one clause each.
    pub fn in_words(&self) -> Vec<String> {
        vec![
            if self.deny_verbs.is_empty() {
                "verbs: all".to_owned()
            } else {
                format!("verbs: all but {}", list(&self.deny_verbs))
            },
            format!("containers: VMID {} to {}", self.vmid.0, self.vmid.1),
            only("storages", &self.storages),
            only("bridges", &self.bridges),
            format!("published ports: {} to {}", self.ports.0, self.ports.1),
            match &self.adoption {
                Adoption::Word(AdoptionWord::None) => "adoption of other containers: none".to_owned(),
                Adoption::Word(AdoptionWord::Any) => "adoption of other containers: any".to_owned(),
                Adoption::Listed(listed) => format!("adoption of other containers: only {}", list(listed)),
            },
            format!(
                "destroying adopted containers: {}",
                if self.destroy_adopted { "yes" } else { "no" }
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_key_has_its_words() {
        let all = Policy::default().in_words().join("; ");
        assert!(all.contains("verbs: all;") && all.contains("storages: all") && all.contains("containers: none"));
        let policy = Policy::parse(
            "deny_verbs = ['ensure_destroyed']\nstorages = ['a', 'b']\nadoption = [200]\ndestroy_adopted = true\n",
        );
        let words = policy.unwrap().in_words().join("; ");
        for clause in [
            "all but ensure_destroyed",
            "only a, b",
            "containers: only 200",
            "adopted containers: yes",
        ] {
            assert!(words.contains(clause), "{clause:?} is not in {words}");
        }
    }
}
