//! What the policy says of containers that somebody else made; where it says no, with the command on the node that changes it.

use super::{Adoption, AdoptionWord, Policy, denied, parse::key_of};
use proximity_protocol::{examined::Permission, fault::Fault, ids::Vmid};
use std::{fs, path::Path};

impl Policy {
    /// Whether a container that somebody else made may be adopted. The fault names the command that would allow it.
    pub(crate) fn check_adoption(&self, vmid: Vmid, file: &Path, node: &str) -> Result<(), Fault> {
        self.check_vmid(vmid)?;
        let mut listed = match &self.adoption {
            Adoption::Word(AdoptionWord::Any) => return Ok(()),
            Adoption::Listed(listed) if listed.contains(&vmid) => return Ok(()),
            Adoption::Listed(listed) => listed.clone(),
            Adoption::Word(AdoptionWord::None) => Vec::new(),
        };
        listed.push(vmid);
        let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
        let change = change(file, "adoption", &format!("[{}]", listed.join(", ")));
        Err(denied(format!(
            "the policy of node {node} does not allow the adoption of container {vmid}; to allow it, {change}"
        )))
    }

    /// Whether an adopted container may be destroyed. The fault names the command that would allow it.
    pub(crate) fn check_destroying_adopted(&self, file: &Path, node: &str) -> Result<(), Fault> {
        if self.destroy_adopted {
            return Ok(());
        }
        Err(denied(format!(
            "the policy of node {node} does not allow destroying adopted containers; to allow it, {}",
            change(file, "destroy_adopted", "true")
        )))
    }
}

/// As it is told to the coordinator.
pub(crate) fn permission(allowed: Result<(), Fault>) -> Permission {
    match allowed {
        Ok(()) => Permission::Granted,
        Err(fault) => Permission::Denied { because: fault.message },
    }
}

/// What sets a key of the file, in words that end a sentence. The file is read again at each command, so nothing has to be restarted.
fn change(file: &Path, key: &str, value: &str) -> String {
    let path = file.display();
    let text = fs::read_to_string(file).unwrap_or_default();
    let set = text.lines().find(|line| key_of(line).as_deref() == Some(key));
    match set {
        None if text.is_empty() || text.ends_with('\n') => {
            let folder = match file.parent() {
                Some(folder) if !folder.exists() => format!("mkdir -p {} && ", folder.display()),
                _ => String::new(),
            };
            format!("run there: {folder}echo '{key} = {value}' >> {path}")
        }
        // A value that goes on in the next lines is not replaced with one line.
        Some(line) if toml::from_str::<toml::Table>(line).is_ok() => {
            format!("run there: sed -i 's/^ *{key} *=.*/{key} = {value}/' {path}")
        }
        _ => format!("set there in {path}: {key} = {value}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proximity_protocol::fault::FaultKind;

    /// Does what the message says.
    fn obey(message: &str) {
        let (_, command) = message.split_once("run there: ").unwrap();
        assert!(
            std::process::Command::new("sh")
                .args(["-c", command])
                .status()
                .unwrap()
                .success(),
            "{command}"
        );
    }

    #[test]
    fn the_named_command_allows_it() {
        let vmid = Vmid::new(105).unwrap();
        for before in [
            None,
            Some(""),
            Some("ports = [8000, 9000]\n"),
            Some("adoption = \"none\"\n"),
            Some("vmid = [100, 199]\n  adoption=[200, 201]  # ours\ndestroy_adopted = false\n"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("etc/policy.toml");
            if let Some(text) = before {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, text).unwrap();
            }
            let fault = Policy::load(&file)
                .unwrap()
                .check_adoption(vmid, &file, "pve1")
                .unwrap_err();
            assert_eq!(fault.kind, FaultKind::PolicyDenied);
            obey(&fault.message);
            let policy = Policy::load(&file).unwrap();
            policy.check_adoption(vmid, &file, "pve1").unwrap();
            let fault = policy.check_destroying_adopted(&file, "pve1").unwrap_err();
            obey(&fault.message);
            let policy = Policy::load(&file).unwrap();
            policy.check_destroying_adopted(&file, "pve1").unwrap();
            policy.check_adoption(vmid, &file, "pve1").unwrap();
            assert!(
                policy.check_adoption(Vmid::new(106).unwrap(), &file, "pve1").is_err(),
                "only the one that was named"
            );
        }
    }

    #[test]
    fn a_list_over_several_lines_is_changed_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.toml");
        fs::write(&file, "adoption = [\n  200,\n]\n").unwrap();
        let policy = Policy::load(&file).unwrap();
        let fault = policy
            .check_adoption(Vmid::new(105).unwrap(), &file, "pve1")
            .unwrap_err();
        assert!(
            fault.message.contains("set there in") && fault.message.ends_with("adoption = [200, 105]"),
            "{fault}"
        );
    }
}
