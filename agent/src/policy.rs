//! The node's own policy, `/etc/proximity/policy.toml`: what this node allows, whatever a coordinator asks. Read by the agent alone, before every
//! command, so that a change takes effect at once.
//!
//! ```toml
//! deny_verbs = ["ensure_destroyed"]   # verbs by name; default: none
//! vmid = [100, 999999999]             # first and last VMID that may be made or touched
//! storages = ["local-lvm"]            # default: all
//! bridges = ["vmbr0"]                 # default: all
//! ports = [1024, 65535]               # first and last port that may be published
//! adoption = "none"                   # "none", "any", or a list of VMIDs
//! destroy_adopted = false
//! ```
//!
//! Without the file these defaults hold. A file that cannot be read or is not valid denies every verb that changes something.

mod parse;
mod permission;
mod words;

pub use parse::Mistake;
pub(crate) use permission::permission;

use proximity_protocol::{
    backup::{ArchivesToDelete, BackupQuestion, RestoredNetwork},
    command::Verb,
    fault::{Fault, FaultKind},
    ids::{BridgeName, StorageId, Vmid},
    observed::PolicyFact,
};
use serde::Deserialize;
use std::{io, path::Path};

/// Verbs that only look. A broken policy file denies all the others.
const LOOKING: [&str; 5] = ["inventory", "confirm", "records", "examine", "backup_facts"];

/// Names of all verbs that change something.
fn changing() -> impl Iterator<Item = &'static str> {
    Verb::NAMES.into_iter().filter(|name| !LOOKING.contains(name))
}

/// Which containers that were not made by Proximity may be adopted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Adoption {
    /// `"none"` or `"any"`.
    Word(AdoptionWord),
    /// Only these.
    Listed(Vec<Vmid>),
}

/// See [`Adoption`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdoptionWord {
    /// None.
    None,
    /// All.
    Any,
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Verbs that are switched off, by name.
    pub deny_verbs: Vec<String>,
    /// First and last VMID.
    pub vmid: (u32, u32),
    /// Allowed storages; empty means all.
    pub storages: Vec<StorageId>,
    /// Allowed bridges; empty means all.
    pub bridges: Vec<BridgeName>,
    /// First and last port that may be published.
    pub ports: (u16, u16),
    /// What may be adopted.
    pub adoption: Adoption,
    /// Whether an adopted container may be destroyed.
    pub destroy_adopted: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            deny_verbs: vec![],
            vmid: (Vmid::MIN, Vmid::MAX),
            storages: vec![],
            bridges: vec![],
            ports: (1024, u16::MAX),
            adoption: Adoption::Word(AdoptionWord::None),
            destroy_adopted: false,
        }
    }
}

fn denied(message: String) -> Fault {
    Fault::new(FaultKind::PolicyDenied, message)
}

impl Policy {
    /// Reads the file. The fault names it, and the line where it can.
    pub fn load(path: &Path) -> Result<Self, Fault> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(denied(format!(
                    "the node's policy {} cannot be read ({error}): nothing is changed until it can",
                    path.display()
                )));
            }
        };
        Self::parse(&text).map_err(|mistake| {
            denied(format!(
                "the node's policy {} is not valid: nothing is changed until it is corrected there. {mistake}",
                path.display()
            ))
        })
    }

    /// What the coordinator is told of it, so that it does not ask in vain.
    pub fn fact(loaded: &Result<Self, Fault>) -> PolicyFact {
        let policy = loaded.as_ref().ok().cloned().unwrap_or_default();
        PolicyFact {
            vmid_first: policy.vmid.0,
            vmid_last: policy.vmid.1,
            port_first: policy.ports.0,
            port_last: policy.ports.1,
            storages: policy.storages,
            bridges: policy.bridges,
            denied_verbs: match loaded {
                Ok(_) => policy.deny_verbs,
                Err(_) => changing().map(str::to_owned).collect(),
            },
        }
    }

    /// Whether the verb itself is switched off.
    pub(crate) fn check_name(&self, verb: &Verb) -> Result<(), Fault> {
        let name = verb.name();
        if self.deny_verbs.iter().any(|denied| denied == name) {
            return Err(denied(format!("this node's policy does not allow {name}")));
        }
        Ok(())
    }

    /// Whether the verb, and every number and name in it, is allowed here. Of adopted containers the steps themselves ask, once they have seen them.
    pub fn check(&self, verb: &Verb) -> Result<(), Fault> {
        self.check_name(verb)?;
        if let Some(vmid) = verb.vmid() {
            self.check_vmid(vmid)?;
        }
        match verb {
            Verb::EnsureTemplate { storage, .. } => self.check_storage(storage),
            Verb::EnsureCreated(spec) => {
                self.check_storage(&spec.storage)?;
                self.check_bridge(&spec.network.bridge)
            }
            Verb::Confirm(confirm) => {
                self.check_storage(&confirm.storage)?;
                self.check_bridge(&confirm.bridge)?;
                self.check_port(confirm.public_port)
            }
            Verb::EnsurePublished { public_port, .. } => self.check_port(*public_port),
            Verb::EnsureBackedUp(spec) => self.check_storage(&spec.storage),
            Verb::TestArchive { archive, .. } | Verb::EnsureArchivesDeleted(ArchivesToDelete::One(archive)) => {
                self.check_storage(&archive.archive.storage())
            }
            Verb::EnsureArchivesDeleted(ArchivesToDelete::OfThisOperation { storage, .. }) => {
                self.check_storage(storage)
            }
            Verb::EnsureRestored(spec) => {
                self.check_storage(&spec.storage)?;
                self.check_storage(&spec.archive.archive.storage())?;
                match &spec.network {
                    RestoredNetwork::Replaced(network) => self.check_bridge(&network.bridge),
                    // What an archive or another container of ours says is looked at by the step.
                    RestoredNetwork::AsSaved | RestoredNetwork::Of(_) | RestoredNetwork::Cut => Ok(()),
                }
            }
            Verb::BackupFacts(question) => self.check_question(question),
            _ => Ok(()),
        }
    }

    fn check_question(&self, question: &BackupQuestion) -> Result<(), Fault> {
        if let Some(storage) = &question.storage {
            self.check_storage(storage)?;
        }
        if let Some(archive) = &question.archive {
            self.check_storage(&archive.archive.storage())?;
        }
        let Some(place) = &question.place else { return Ok(()) };
        self.check_vmid(place.vmid)?;
        self.check_storage(&place.storage)?;
        place.bridge.as_ref().map_or(Ok(()), |bridge| self.check_bridge(bridge))
    }

    fn check_vmid(&self, vmid: Vmid) -> Result<(), Fault> {
        let (first, last) = self.vmid;
        if (first..=last).contains(&vmid.get()) {
            return Ok(());
        }
        Err(denied(format!(
            "VMID {vmid} is outside the range {first} to {last} of this node's policy"
        )))
    }

    fn check_storage(&self, storage: &StorageId) -> Result<(), Fault> {
        if self.storages.is_empty() || self.storages.contains(storage) {
            return Ok(());
        }
        Err(denied(format!(
            "storage {storage} is not among those that this node's policy allows"
        )))
    }

    /// Whether a container may be attached to it.
    pub(crate) fn check_bridge(&self, bridge: &BridgeName) -> Result<(), Fault> {
        if self.bridges.is_empty() || self.bridges.contains(bridge) {
            return Ok(());
        }
        Err(denied(format!(
            "bridge {bridge} is not among those that this node's policy allows"
        )))
    }

    fn check_port(&self, port: u16) -> Result<(), Fault> {
        let (first, last) = self.ports;
        if (first..=last).contains(&port) {
            return Ok(());
        }
        Err(denied(format!(
            "port {port} is outside the range {first} to {last} of this node's policy"
        )))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proximity_protocol::{
        command::Target,
        ids::{Generation, Owner},
    };

    fn destroy(vmid: u32) -> Verb {
        let owner = Owner {
            app: "nginx-a1b2c3d4".parse().unwrap(),
            generation: Generation(1),
        };
        Verb::EnsureDestroyed(Target {
            vmid: Vmid::new(vmid).unwrap(),
            owner,
        })
    }

    fn load(text: &str) -> Result<Policy, Fault> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        Policy::load(&path)
    }

    #[test]
    fn without_a_file_the_defaults_hold() {
        let policy = Policy::load(Path::new("/nonexistent/policy.toml")).unwrap();
        assert_eq!(policy, Policy::default());
        policy.check(&destroy(100)).unwrap();
    }

    #[test]
    fn what_the_file_forbids_is_denied() {
        let policy = load("deny_verbs = ['ensure_stopped']\nvmid = [5000, 5999]\nadoption = [200, 201]\n").unwrap();
        assert_eq!(policy.check(&destroy(100)).unwrap_err().kind, FaultKind::PolicyDenied);
        policy.check(&destroy(5999)).unwrap();
        let Verb::EnsureDestroyed(target) = destroy(5999) else {
            panic!()
        };
        assert!(policy.check(&Verb::EnsureStopped { target, timeout_s: 0 }).is_err());
        assert_eq!(
            policy.adoption,
            Adoption::Listed(vec![Vmid::new(200).unwrap(), Vmid::new(201).unwrap()])
        );
    }

    #[test]
    fn a_broken_file_denies_all_and_names_the_line() {
        for (text, line) in [
            ("\nvmid = 'x'\n", "line 2"),
            ("vmids = [1, 2]\n", "line 1"),
            ("\n\nports = [9, 8]\n", "line 3"),
            ("deny_verbs = ['rm']", "line 1"),
        ] {
            let loaded = load(text);
            let fault = loaded.clone().unwrap_err();
            assert_eq!(fault.kind, FaultKind::PolicyDenied);
            assert!(
                fault.message.contains("policy.toml") && fault.message.contains(line),
                "{}",
                fault.message
            );
            assert_eq!(
                Policy::fact(&loaded).denied_verbs.len(),
                Verb::NAMES.len() - LOOKING.len()
            );
        }
    }
}
