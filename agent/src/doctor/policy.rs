//! The node's own policy.

use super::Finding;
use crate::policy::Policy;
use std::path::Path;

const CHECK: &str = "policy";

pub(super) fn check(path: &Path) -> Vec<Finding> {
    vec![match Policy::load(path) {
        Ok(policy) => {
            let from = if path.exists() {
                path.display().to_string()
            } else {
                format!("{} is not there, so the defaults hold", path.display())
            };
            Finding::ok(CHECK, format!("{from}: {}", policy.in_words().join("; ")))
        }
        Err(fault) => Finding::fail(
            CHECK,
            fault.message,
            "correct the file; `proximity-agent policy check` says when it is right",
        ),
    }]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_broken_policy_fails_and_a_missing_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        assert!(check(&path)[0].says.contains("defaults"));
        std::fs::write(&path, "vmid = [5000, 5999]\n").unwrap();
        assert!(check(&path)[0].says.contains("5000 to 5999"));
        std::fs::write(&path, "\nvmid = 7\n").unwrap();
        let finding = &check(&path)[0];
        assert!(
            finding.level == Level::Fail && finding.says.contains("line 2"),
            "{finding:?}"
        );
    }
}
