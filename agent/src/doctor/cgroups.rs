//! Control groups: limits of containers and their figures come from there.

use super::Finding;
use std::path::Path;

const CHECK: &str = "cgroups";

pub(super) fn check(root: &Path) -> Vec<Finding> {
    vec![of(root)]
}

fn of(root: &Path) -> Finding {
    let turn_on = "add `cgroup_enable=memory` to the kernel's command line and reboot";
    match std::fs::read_to_string(root.join("cgroup.controllers")) {
        Ok(controllers) if controllers.split_whitespace().any(|name| name == "memory") => {
            Finding::ok(CHECK, "version 2, with the memory controller")
        }
        Ok(_) => Finding::fail(
            CHECK,
            "version 2 without the memory controller: containers would have no memory limit",
            turn_on,
        ),
        Err(_) if root.join("memory").is_dir() => Finding::ok(CHECK, "version 1, with the memory controller"),
        Err(_) if root.join("cpuacct").is_dir() || root.join("unified").is_dir() => Finding::fail(
            CHECK,
            "version 1 without the memory controller: containers would have no memory limit",
            turn_on,
        ),
        Err(error) => Finding::fail(
            CHECK,
            format!("no control groups at {}: {error}", root.display()),
            "mount them, or set `cgroup` in [host] of the agent's configuration",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{doctor::Level, facts::testing::put};

    #[test]
    fn both_versions_are_told_apart() {
        let (none, one, two) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
        );
        assert_eq!(of(none.path()).level, Level::Fail);
        put(one.path(), "cpuacct/x", "");
        assert_eq!(of(one.path()).level, Level::Fail);
        put(one.path(), "memory/x", "");
        assert!(of(one.path()).says.contains("version 1"));
        put(two.path(), "cgroup.controllers", "cpu io\n");
        assert_eq!(of(two.path()).level, Level::Fail);
        put(two.path(), "cgroup.controllers", "cpu io memory pids\n");
        assert_eq!(
            of(two.path()),
            Finding::ok(CHECK, "version 2, with the memory controller")
        );
    }
}
