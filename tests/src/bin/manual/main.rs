//! Writes the man pages and shell completions of the agent and the coordinator, made from their command lines and from `packaging/reference`, to a
//! folder: `cargo run -p proximity-tests --bin manual -- FOLDER`. It lives here because only this package sees both programs, and so that neither
//! carries the generators.

mod reference;

use anyhow::Context as _;
use clap::Command;
use clap_complete::{Generator as _, Shell};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

/// What a command line does not say.
struct Program {
    command: Command,
    /// Path and purpose.
    files: &'static [(&'static str, &'static str)],
    see_also: &'static str,
}

fn programs() -> [Program; 2] {
    [
        Program {
            command: proximity_agent::cli::command(),
            files: &[
                ("/etc/proximity/agent.toml", "Configuration: proximity-agent.toml(5)."),
                (
                    "/etc/proximity/policy.toml",
                    "What this node allows, whatever a coordinator asks: proximity-policy.toml(5).",
                ),
                (
                    "/var/lib/proximity-agent",
                    "Identity, journal, published ports, results of tools. Mode 0700.",
                ),
                (
                    "/etc/pve/priv/proximity",
                    "One record per container that Proximity made; shared in a cluster.",
                ),
            ],
            see_also: "proximity-agent.toml(5), proximity-policy.toml(5), pct(1), nft(8), systemctl(1)",
        },
        Program {
            command: proximity_coordinator::cli::command(),
            files: &[
                (
                    "/etc/proximity/coordinator.toml",
                    "Configuration: proximity-coordinator.toml(5).",
                ),
                (
                    "/var/lib/proximity-coordinator",
                    "Registry, certificate authority, keys. Mode 0700; back it up as a whole.",
                ),
                ("/usr/share/proximity/catalog", "The catalog of apps."),
            ],
            see_also: "proximity-coordinator.toml(5), proximity-agent(8), systemctl(1)",
        },
    ]
}

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: manual FOLDER")?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for mut program in programs() {
        program.command = program.command.disable_help_subcommand(true);
        program.command.build();
        page(&program, &program.command, &folder, true)?;
        completions(&program.command, &folder)?;
    }
    let version = proximity_agent::cli::command()
        .get_version()
        .unwrap_or_default()
        .to_owned();
    reference::pages(&folder, &version)
}

/// One page for the command, and one for each that stands below it.
fn page(program: &Program, command: &Command, folder: &Path, top: bool) -> anyhow::Result<()> {
    // `proximity-agent join` is documented in proximity-agent-join(8).
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let man = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .section("8")
        .source(format!(
            "Proximity {}",
            program.command.get_version().unwrap_or_default()
        ))
        .manual("Proximity");
    let mut text: Vec<u8> = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(table) = program.command.get_after_help() {
        exit_status(&mut text, &table.to_string())?;
    }
    if top {
        writeln!(text, ".SH FILES")?;
        for (path, purpose) in program.files {
            writeln!(text, ".TP\n\\fI{}\\fR\n{purpose}", path.replace('-', "\\-"))?;
        }
        writeln!(text, ".SH \"SEE ALSO\"\n{}", program.see_also.replace('-', "\\-"))?;
    }
    let path = folder.join(format!("{name}.8"));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    for below in command.get_subcommands() {
        if !below.is_hide_set() {
            page(program, below, folder, false)?;
        }
    }
    Ok(())
}

/// The table that `--help` ends with, as a section of the page.
fn exit_status(text: &mut Vec<u8>, table: &str) -> anyhow::Result<()> {
    writeln!(text, ".SH \"EXIT STATUS\"")?;
    for line in table.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').context("a line without a meaning")?;
        writeln!(text, ".TP\n\\fB{code}\\fR\n{}", meaning.trim())?;
    }
    Ok(())
}

fn completions(command: &Command, folder: &Path) -> anyhow::Result<()> {
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        // The pages' command has been built, without `help`.
        let mut fresh = programs()
            .into_iter()
            .map(|program| program.command)
            .find(|fresh| fresh.get_name() == name)
            .context("the list names it")?;
        let path = match shell {
            // bash-completion finds the file by the command's name alone.
            Shell::Bash => folder.join("bash").join(&name),
            _ => folder.join(shell.file_name(&name)),
        };
        let mut text: Vec<u8> = Vec::new();
        clap_complete::generate(shell, &mut fresh, &name, &mut text);
        fs::create_dir_all(folder.join("bash"))
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
