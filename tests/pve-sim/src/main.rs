//! The executable: found as `pct`, `vzdump`, … through links in `<root>/usr/bin`, or run as `pve-sim <command>`.
//!
//! - `<root>/usr/bin/pct …`: the node is the nearest folder above the link that holds a `node.json`
//! - `pve-sim serve --root <root>`: answers on the ports of hollow containers, until it is told to end
//! - `pve-sim create --root <root> --name <name> --address <ip>`: lays a node out
//! - `pve-sim lab-clean [--name <lab>]`: removes what a lab that crashed has left; without a name, of all whose process is gone
//! - `pve-sim run --root <root> <tool> …`: one tool without a link

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};
use pve_sim::{DECOMPRESSORS, Node, NodeSpec, Signals, TOOLS};

fn main() -> std::process::ExitCode {
    match run() {
        Ok(code) => std::process::ExitCode::from(u8::try_from(code).unwrap_or(255)),
        Err(error) => {
            eprintln!("pve-sim: {error:#}");
            std::process::ExitCode::from(99)
        }
    }
}

fn run() -> anyhow::Result<i32> {
    let argv: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let program = PathBuf::from(argv.first().context("argv[0] is empty")?);
    let name = program
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    if TOOLS.contains(&name.as_str()) || DECOMPRESSORS.contains(&name.as_str()) {
        let root = root_above(&program)?;
        return tool(&root, &name, &argv[1..]);
    }
    let option = |wanted: &str| {
        argv.iter()
            .position(|word| word == wanted)
            .and_then(|at| argv.get(at + 1))
    };
    if argv.get(1).map(String::as_str) == Some("lab-clean") {
        let cleaned = match option("--name") {
            Some(lab) => pve_sim::lab::clean(lab).map(|()| vec![lab.clone()])?,
            None => pve_sim::lab::clean_dead()?,
        };
        cleaned.iter().for_each(|lab| println!("{lab}"));
        return Ok(0);
    }
    let root = PathBuf::from(option("--root").context("say which node: --root <folder>")?);
    match argv.get(1).map(String::as_str) {
        Some("serve") => {
            pve_sim::serve(&root)?;
            Ok(0)
        }
        Some("create") => {
            let name = option("--name").context("say how the node is called: --name <name>")?;
            let address =
                option("--address").context("say at which loopback address its ports answer: --address 127.41.0.1")?;
            let spec = NodeSpec::new(name, address.parse().context("--address")?).executable(&std::env::current_exe()?);
            println!("{}", Node::create(&root, &spec)?.describe());
            Ok(0)
        }
        Some("run") => {
            let at = argv.iter().position(|word| word == "--root").map_or(2, |at| at + 2);
            let name = argv.get(at).context("say which tool to run")?;
            tool(&root, name, &argv[at + 1..])
        }
        _ => bail!(
            "commands are serve, create, lab-clean, run; tools are {}",
            TOOLS.join(", ")
        ),
    }
}

/// Walks up from the link that was called, not from what it points to.
fn root_above(program: &Path) -> anyhow::Result<PathBuf> {
    let absolute = if program.is_absolute() {
        program.to_owned()
    } else {
        std::env::current_dir()?.join(program)
    };
    absolute
        .ancestors()
        .skip(1)
        .find(|folder| folder.join("node.json").is_file())
        .map(Path::to_owned)
        .with_context(|| {
            format!(
                "no folder above {} holds a node.json; call a tool by its path below a node's root",
                absolute.display()
            )
        })
}

fn tool(root: &Path, name: &str, argv: &[String]) -> anyhow::Result<i32> {
    let node = Node::open(root)?;
    match name {
        // These undo what they have begun.
        "pct"
            if argv
                .first()
                .is_some_and(|sub| matches!(sub.as_str(), "create" | "restore" | "clone")) =>
        {
            catch(node.signals())?;
        }
        // Goes on to its end.
        "vzdump" => ending_signals().thread_block()?,
        // The others may be ended by a signal as they are.
        _ => {}
    }
    Ok(node.run_as_process(
        name,
        argv,
        &mut std::io::stdin(),
        &mut std::io::stdout(),
        &mut std::io::stderr(),
    ))
}

fn ending_signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set
}

fn catch(signals: Signals) -> anyhow::Result<()> {
    let set = ending_signals();
    set.thread_block()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while set.wait().is_ok() {
            signals.raise();
        }
    })?;
    Ok(())
}
