//! The configuration files that the packages bring say what the programs do.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Every key, switched off: an example in `/usr/share/doc`, and what the man pages of section 5 are made from.
fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging/reference")
        .join(name)
}

/// What lies in `/etc/proximity` after the first install.
fn installed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging/conf")
        .join(name)
}

/// dpkg stops and asks when such a file differs from the one that the last version brought and an operator has edited it; unattended upgrades then leave
/// the package aside for good. So these never change: what is new about a key goes to `packaging/reference`.
#[test]
fn a_file_that_operators_edit_is_the_same_in_every_version() {
    use sha2::{Digest as _, Sha256};
    let frozen = [
        (
            "agent.toml",
            "2b64a79f7a66bf8a4222c348013fa03619c64eacafde38d5cb76428b807c7cf8",
        ),
        (
            "coordinator.toml",
            "e988cd680c88466ca5a0a870fa38c2b0c143d57c2c99a60f6ebe2ae51aed17fb",
        ),
        (
            "policy.toml",
            "84e44215a53324054dabdbf452c82f6d906f7b230f8b9ff013c1b160ed920dbe",
        ),
    ];
    for (name, hash) in frozen {
        let text = fs::read_to_string(installed(name)).unwrap();
        assert!(text.lines().all(|line| line.starts_with("# ")), "{name} sets nothing");
        let found: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, hash, "{name} has changed");
    }
}

/// A line `#key = value`, or `#[section]`, is a setting switched off; prose has a space after the `#`.
fn switched_on(name: &str, dir: &Path) -> (PathBuf, String) {
    let text: String = fs::read_to_string(shipped(name))
        .unwrap()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with([' ', '#']) => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let path = dir.join(name);
    fs::write(&path, &text).unwrap();
    (path, text)
}

/// The keys that a file of unknown ones is told about, per section: they are the program's, not ours.
fn keys_expected(error: &str) -> BTreeSet<String> {
    let (_, list) = error.split_once("expected one of ").unwrap_or_else(|| {
        let at = error.find("expected ").expect("names what is expected");
        error.split_at(at)
    });
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn keys_of(text: &str, section: &str) -> BTreeSet<String> {
    let table: toml::Table = text.parse().unwrap();
    let table = if section.is_empty() {
        &table
    } else {
        table[section].as_table().unwrap()
    };
    table.keys().cloned().collect()
}

fn every_key_is_named(name: &str, sections: &[&str], refuse: impl Fn(&Path) -> String) {
    let dir = tempfile::tempdir().unwrap();
    let (_, text) = switched_on(name, dir.path());
    for section in sections {
        let probe = dir.path().join("probe.toml");
        let heading = if section.is_empty() {
            String::new()
        } else {
            format!("[{section}]\n")
        };
        fs::write(&probe, format!("{heading}no_such_key = 1\n")).unwrap();
        assert_eq!(
            keys_of(&text, section),
            keys_expected(&refuse(&probe)),
            "{name} [{section}]"
        );
    }
}

#[test]
fn the_agents_file_is_all_defaults() {
    use proximity_agent::config::{Config, Node};
    assert_eq!(Config::load(Some(&shipped("agent.toml"))).unwrap(), Config::default());
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = switched_on("agent.toml", dir.path());
    let mut all = Config::load(Some(&path)).unwrap();
    // These have no default: the file shows an example.
    assert!(all.node.address.is_some() && all.node.name.is_some());
    all.node = Node::default();
    assert_eq!(all, Config::default());
    every_key_is_named("agent.toml", &["", "paths", "host", "node"], |path| {
        Config::load(Some(path)).unwrap_err().to_string()
    });
}

#[test]
fn the_policy_is_all_defaults() {
    use proximity_agent::policy::Policy;
    assert_eq!(Policy::load(&shipped("policy.toml")).unwrap(), Policy::default());
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = switched_on("policy.toml", dir.path());
    assert_eq!(Policy::load(&path).unwrap(), Policy::default());
    every_key_is_named("policy.toml", &[""], |path| Policy::load(path).unwrap_err().message);
}

#[test]
fn the_coordinators_file_is_all_defaults() {
    use proximity_coordinator::config::{Config, Overrides};
    let load = |path: &Path| Config::load(Some(path), Overrides::default());
    assert_eq!(load(&shipped("coordinator.toml")).unwrap(), Config::default());
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = switched_on("coordinator.toml", dir.path());
    assert_eq!(load(&path).unwrap(), Config::default());
    every_key_is_named("coordinator.toml", &["", "operations"], |path| {
        load(path).unwrap_err().to_string()
    });
}

/// The service could not read it otherwise. Only root can act as another user.
#[test]
fn what_root_makes_on_the_command_line_belongs_to_the_service() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    const SERVICE: u32 = 64_433;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: it needs root");
        return;
    }
    let programs = proximity_tests::programs::Programs::build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&state, Some(SERVICE), Some(SERVICE)).unwrap();
    // Only root may read it.
    let password = dir.path().join("password");
    fs::write(&password, "correct-horse-battery").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(&programs.coordinator)
            .env("PROXIMITY_STATE", &state)
            .env("PROXIMITY_ADVERTISE", "192.0.2.1:4433")
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&[
        "user",
        "create",
        "--admin",
        "ada",
        "--password-file",
        password.to_str().unwrap(),
    ]);
    run(&["token", "create"]);
    let mut folders = vec![state.clone()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid()), (SERVICE, SERVICE), "{}", path.display());
            seen += 1;
            if found.is_dir() {
                folders.push(path);
            }
        }
    }
    assert!(seen > 2, "registry, certificate authority, keys");
}

/// Each page, as `packaging/build` makes it, says what every exit code means.
#[test]
fn the_man_pages_list_every_exit_code() {
    use proximity_agent::cli::exit::CODES;
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_manual"))
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(made.success());
    let pages: Vec<PathBuf> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("proximity-agent") && name.ends_with(".8")
        })
        .collect();
    assert!(
        pages.iter().any(|page| page.ends_with("proximity-agent-join.8")),
        "{pages:?}"
    );
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let (_, status) = text.split_once(".SH \"EXIT STATUS\"").unwrap();
        for (code, meaning) in CODES {
            let entry = format!(".TP\n\\fB{code}\\fR\n{meaning}\n");
            assert!(status.contains(&entry), "{}: {code} {meaning}", page.display());
        }
    }
}
