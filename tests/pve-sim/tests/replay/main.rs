//! Replays the recorded calls of the real tools and compares stdout, stderr and zero-or-not exit. What cannot stay the same
//! (times, ids, hardware addresses, UUIDs, digests, speeds) is masked on both sides. The scenarios are in `scenarios.rs`;
//! every transcript is either replayed there or listed with a reason.
#![allow(clippy::unwrap_used)]

mod mask;
mod scenarios;
mod transcript;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pve_sim::{Clock, Node, NodeSpec};
use scenarios::{SCENARIOS, Step, UNCLAIMED};
use transcript::Transcript;

/// 2026-11-22 21:10:00 UTC, when the transcripts were recorded.
const BEGIN_MS: u64 = 1_795_381_800_000;

/// A clock that goes only when somebody sleeps. It can let go of a lock when a moment has come.
#[derive(Debug)]
struct TestClock {
    now_ms: Mutex<u64>,
    held: Mutex<Option<(u64, std::fs::File)>>,
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        *self.now_ms.lock().unwrap()
    }
    fn sleep(&self, duration: Duration) {
        let mut now = self.now_ms.lock().unwrap();
        *now += u64::try_from(duration.as_millis()).unwrap();
        let mut held = self.held.lock().unwrap();
        if held.as_ref().is_some_and(|(until, _)| *until <= *now) {
            *held = None;
        }
    }
}

struct World {
    folder: tempfile::TempDir,
    node: Node,
    clock: Arc<TestClock>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock {
            now_ms: Mutex::new(BEGIN_MS),
            held: Mutex::new(None),
        });
        let mut spec = NodeSpec::new("pve1", "127.77.0.1".parse().unwrap());
        spec.cpus = 2;
        spec.templates = vec![("debian-12-lab_12.0-1_amd64.tar.zst".to_owned(), None)];
        spec.index = false;
        spec.template_pool = Some(folder.path().join("no-pool"));
        let root = folder.path().join("root");
        let node = Node::create_with_clock(&root, &spec, clock.clone()).unwrap();
        Self { folder, node, clock }
    }

    fn root(&self) -> &Path {
        self.node.layout().root()
    }

    fn run(&self, words: &[String]) -> (String, String, i32) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = self.node.run(&words[0], &words[1..], &mut out, &mut err);
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), code)
    }

    /// `cat` of the transcripts reads a file of the node.
    fn replay(&self, words: &[String]) -> (String, String, i32) {
        if words[0] == "cat" {
            return match std::fs::read_to_string(self.node.layout().host_path(&words[1])) {
                Ok(text) => (text, String::new(), 0),
                Err(error) => (String::new(), format!("cat: {}: {error}\n", words[1]), 1),
            };
        }
        self.run(words)
    }

    fn hold_lock(&self, path: PathBuf, for_ms: u64) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::create(path).unwrap();
        file.lock().unwrap();
        *self.clock.held.lock().unwrap() = Some((self.clock.now_ms() + for_ms, file));
    }
}

/// Lines of `a` that `b` has not; all if they only differ in order.
fn only(a: &str, b: &str) -> String {
    let found: String = a
        .lines()
        .filter(|line| !b.lines().any(|other| other == *line))
        .map(|line| format!("{line}\n"))
        .collect();
    if found.is_empty() { a.to_owned() } else { found }
}

fn words(line: &str) -> Vec<String> {
    transcript::shell_words(line)
}

#[test]
fn transcripts_replay() {
    let mut claimed = BTreeSet::new();
    let mut differences = Vec::new();
    for (scenario, steps) in SCENARIOS {
        let world = World::new();
        for step in *steps {
            let (name, replacements): (&str, &[(&str, &str)]) = match step {
                Step::Replay(name) => (name, &[]),
                Step::With(name, replacements) => (name, replacements),
                Step::Do(line) => {
                    let (out, err, code) = world.run(&words(
                        &line.replace("$FILES", &world.folder.path().display().to_string()),
                    ));
                    if code != 0 {
                        differences.push(format!("{scenario}: {line}: exit {code}: {out}{err}"));
                    }
                    continue;
                }
                Step::Conf(vmid, text) => {
                    std::fs::write(world.root().join(format!("etc/pve/nodes/pve1/lxc/{vmid}.conf")), text).unwrap();
                    continue;
                }
                Step::File(name, text) => {
                    std::fs::write(world.folder.path().join(name), text).unwrap();
                    continue;
                }
                Step::Deaf(vmid) => {
                    std::fs::write(world.root().join(format!("var/lib/lxc/{vmid}/deaf")), "").unwrap();
                    continue;
                }
                Step::Hold(path, for_ms) => {
                    world.hold_lock(world.root().join(path), *for_ms);
                    continue;
                }
                Step::LetGo => {
                    *world.clock.held.lock().unwrap() = None;
                    continue;
                }
                Step::At(seconds) => {
                    *world.clock.now_ms.lock().unwrap() = seconds * 1000;
                    continue;
                }
            };
            claimed.insert(name.to_owned());
            let transcript = Transcript::read(name);
            let mut argv = words(&transcript.command);
            for (from, to) in replacements {
                let word = argv
                    .iter_mut()
                    .find(|word| *word == from)
                    .unwrap_or_else(|| panic!("{name}: no word {from}"));
                *word = to.replace("$FILES", &world.folder.path().display().to_string());
            }
            let (out, err, code) = world.replay(&argv);
            for (what, real, ours) in [
                ("stdout", &transcript.stdout, &out),
                ("stderr", &transcript.stderr, &err),
            ] {
                let (real, ours) = (mask::mask(name, real), mask::mask(name, ours));
                if real != ours {
                    let (real, ours) = (only(&real, &ours), only(&ours, &real));
                    differences.push(format!(
                        "{scenario}/{name} {what}:\n--- real\n{real}--- simulated\n{ours}"
                    ));
                }
            }
            if (code == 0) != (transcript.exit == 0) {
                differences.push(format!(
                    "{scenario}/{name}: exit {code}, real {}\n{err}",
                    transcript.exit
                ));
            }
        }
    }
    let all = Transcript::all();
    let unclaimed: BTreeSet<String> = UNCLAIMED.iter().map(|(name, _)| (*name).to_owned()).collect();
    for name in &all {
        if !claimed.contains(name) && !unclaimed.contains(name) {
            differences.push(format!("{name} is neither replayed nor listed as unclaimed"));
        }
    }
    for name in &unclaimed {
        if claimed.contains(name) || !all.contains(name) {
            differences.push(format!(
                "{name} is listed as unclaimed, but it is replayed or does not exist"
            ));
        }
    }
    println!(
        "{} transcripts: {} replayed, {} not claimed",
        all.len(),
        claimed.len(),
        unclaimed.len()
    );
    for (name, reason) in UNCLAIMED {
        println!("  not claimed: {name}: {reason}");
    }
    assert!(
        differences.is_empty(),
        "{} differences\n\n{}",
        differences.len(),
        differences.join("\n")
    );
}
