//! The crash campaign itself: a seed is a run, and a broken promise is found.

#![allow(clippy::unwrap_used)]

use clap::ValueEnum;
use proximity_tests::campaign::spoil::Spoil;
use std::process::{Command, Output};

fn campaign(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_campaign"))
        .args(["--depth", "virtual", "--jobs", "1", "--apps", "6", "--requests", "20"])
        .args(args)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_seed_is_a_run() {
    let lines = |seed: &str| {
        let output = campaign(&["--seed", seed, "--runs", "2", "--schedule"]);
        let text = text(&output);
        assert!(output.status.success(), "{text}");
        // All but how long it took.
        text.lines()
            .filter(|line| !line.contains(" a minute"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let first = lines("7");
    assert!(first.iter().any(|line| line.contains("seed 8 holds")), "{first:#?}");
    assert_eq!(first, lines("7"), "the same seed in another process, another run");
    assert_ne!(first, lines("9"), "another seed, the same run");
}

#[test]
fn runs_that_are_played_again_come_out_alike() {
    let output = campaign(&["--seed", "21", "--runs", "6", "--twice"]);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches(" holds: schedule ").count(), 6, "{text}");
}

#[test]
fn whatever_is_broken_is_found() {
    for spoil in Spoil::value_variants() {
        let name = spoil.to_possible_value().unwrap().get_name().to_owned();
        let output = campaign(&["--seed", "7", "--runs", "1", "--spoil", &name]);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        let found = text
            .lines()
            .any(|line| line.starts_with("BROKEN: ") && line.contains(spoil.words()));
        assert!(found, "{name} was not found: {text}");
        // A run that broke a promise is kept to be looked at; this one was broken on purpose.
        let kept = text
            .lines()
            .find_map(|line| line.strip_prefix("everything of it: ")?.split(" (").next())
            .unwrap();
        std::fs::remove_dir_all(kept).unwrap();
    }
}
