//! A policy in words, for operators.

use super::{Adoption, AdoptionWord, Policy};
use proximity_protocol::command::Verb;
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
            format!("adoption of other containers: {}", self.adoptable()),
            format!(
                "destroying adopted containers: {}",
                if self.destroy_adopted { "yes" } else { "no" }
            ),
        ]
    }
}

/// What a verb does, and what of the policy bounds it.
fn meaning(verb: &str) -> Option<(&'static str, &'static [Bound])> {
    use Bound::{Adoptable, Adopted, Bridges, Ports, Storages, Vmids};
    Some(match verb {
        "inventory" => ("look at what is on the node", &[]),
        "records" => ("look at which containers are recorded as Proximity's", &[]),
        "confirm" => (
            "look whether a VMID, a port and an address are free",
            &[Vmids, Ports, Storages, Bridges],
        ),
        "ensure_template" => ("download a template", &[Storages]),
        "ensure_created" => ("make an unprivileged container", &[Vmids, Storages, Bridges]),
        "ensure_started" => ("start a container of Proximity's", &[Vmids]),
        "ensure_stopped" => ("stop a container of Proximity's", &[Vmids]),
        "await_network" => ("wait for a container's address", &[Vmids]),
        "install_recipe" => ("install an app inside a container of Proximity's", &[Vmids]),
        "await_healthy" => ("run the app's health check inside its container", &[Vmids]),
        "ensure_published" => (
            "lead a port of this node to a container of Proximity's",
            &[Vmids, Ports],
        ),
        "ensure_unpublished" => ("take such a port away", &[Vmids]),
        "ensure_destroyed" => ("destroy a container of Proximity's with its volumes", &[Vmids, Adopted]),
        "examine" => ("look at containers closely, whoever made them", &[]),
        "ensure_adopted" => (
            "record a container that somebody else made as an app's",
            &[Vmids, Adoptable],
        ),
        "ensure_released" => ("forget an adopted container, which stays as it is", &[Vmids]),
        "ensure_configured" => ("set cores and memory of a container that Proximity made", &[Vmids]),
        "ensure_grown" => ("grow the disk of a container that Proximity made", &[Vmids]),
        "rewrite_values" => (
            "give the app inside a container that Proximity made other values",
            &[Vmids],
        ),
        "ensure_migrated" => (
            "move a container that Proximity made to another node of the cluster while it does not run",
            &[Vmids],
        ),
        "backup_facts" => (
            "look how a backup, a restore or a clone would go",
            &[Vmids, Storages, Bridges],
        ),
        "ensure_backed_up" => ("back a container of an app up", &[Vmids, Storages]),
        "test_archive" => ("read a backup that Proximity made", &[Vmids, Storages]),
        "ensure_restored" => (
            "make an unprivileged container of a backup that Proximity made",
            &[Vmids, Storages, Bridges],
        ),
        "ensure_onboot" => ("set whether a container of an app starts with its node", &[Vmids]),
        "check_files" => (
            "look whether the files of a system are in a container of an app",
            &[Vmids],
        ),
        "ensure_archives_deleted" => ("remove backups that Proximity made", &[Vmids, Storages]),
        _ => return None,
    })
}

#[derive(Clone, Copy)]
enum Bound {
    Vmids,
    Storages,
    Bridges,
    Ports,
    /// Which containers may be adopted.
    Adoptable,
    /// Whether adopted ones count.
    Adopted,
}

impl Policy {
    /// Each verb with what it may do here.
    pub fn by_verb(&self) -> Vec<(&'static str, String)> {
        Verb::NAMES.into_iter().map(|verb| (verb, self.of_verb(verb))).collect()
    }

    fn of_verb(&self, verb: &str) -> String {
        if self.deny_verbs.iter().any(|denied| denied == verb) {
            return "denied".to_owned();
        }
        let Some((does, bounds)) = meaning(verb) else {
            return "allowed".to_owned();
        };
        let bounds: Vec<String> = bounds.iter().map(|bound| self.bound(*bound)).collect();
        if bounds.is_empty() {
            format!("may {does}")
        } else {
            format!("may {does}: {}", bounds.join(", "))
        }
    }

    fn adoptable(&self) -> String {
        match &self.adoption {
            Adoption::Word(AdoptionWord::None) => "none".to_owned(),
            Adoption::Word(AdoptionWord::Any) => "any".to_owned(),
            Adoption::Listed(listed) => format!("only {}", list(listed)),
        }
    }

    fn bound(&self, bound: Bound) -> String {
        match bound {
            Bound::Vmids => format!("VMID {} to {}", self.vmid.0, self.vmid.1),
            Bound::Storages => only("storages", &self.storages),
            Bound::Bridges => only("bridges", &self.bridges),
            Bound::Ports => format!("ports {} to {}", self.ports.0, self.ports.1),
            Bound::Adoptable => self.adoptable(),
            Bound::Adopted if self.destroy_adopted => "adopted ones too".to_owned(),
            Bound::Adopted => "no adopted ones".to_owned(),
        }
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

    #[test]
    fn every_verb_is_told_with_its_bounds() {
        for verb in Verb::NAMES {
            assert!(meaning(verb).is_some(), "{verb} has no words");
        }
        let policy =
            Policy::parse("deny_verbs = ['ensure_destroyed']\nvmid = [5000, 5999]\nstorages = ['a']\n").unwrap();
        let all: std::collections::BTreeMap<_, _> = policy.by_verb().into_iter().collect();
        assert_eq!(all["ensure_destroyed"], "denied");
        assert_eq!(all["inventory"], "may look at what is on the node");
        assert_eq!(
            all["ensure_created"],
            "may make an unprivileged container: VMID 5000 to 5999, storages: only a, bridges: all"
        );
        assert!(all["ensure_published"].ends_with("VMID 5000 to 5999, ports 1024 to 65535"));
    }
}
