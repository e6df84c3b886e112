//! The pages of section 5: each from a file of `packaging/reference`, in which `#key = value` and `#[section]` are settings switched off, and a line that
//! begins with `# ` is prose about what follows it.

use anyhow::{Context as _, bail};
use std::{fmt::Write as _, fs, path::Path};

struct File {
    /// Below `packaging/reference` and below `/etc/proximity`.
    name: &'static str,
    page: &'static str,
    purpose: &'static str,
    package: &'static str,
    see_also: &'static str,
}

const FILES: [File; 3] = [
    File {
        name: "agent.toml",
        page: "proximity-agent.toml",
        purpose: "configuration of the Proximity agent",
        package: "proximity-agent",
        see_also: "proximity-agent(8), proximity-policy.toml(5)",
    },
    File {
        name: "policy.toml",
        page: "proximity-policy.toml",
        purpose: "what a Proxmox VE node allows its Proximity coordinator",
        package: "proximity-agent",
        see_also: "proximity-agent-policy(8), proximity-agent(8)",
    },
    File {
        name: "coordinator.toml",
        page: "proximity-coordinator.toml",
        purpose: "configuration of the Proximity coordinator",
        package: "proximity-coordinator",
        see_also: "proximity-coordinator(8)",
    },
];

/// Writes all of them.
pub(crate) fn pages(folder: &Path, version: &str) -> anyhow::Result<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/reference");
    for file in &FILES {
        let source = sources.join(file.name);
        let text = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
        let page = page(file, &text, version).with_context(|| format!("in {}", source.display()))?;
        let path = folder.join(format!("{}.5", file.page));
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn page(file: &File, text: &str, version: &str) -> anyhow::Result<String> {
    let (introduction, rest) = text
        .split_once("\n\n")
        .context("no empty line after the introduction")?;
    let mut page = format!(
        ".TH {} 5 \"\" \"Proximity {version}\" Proximity\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n\\fI/etc/proximity/{}\\fR\n.SH DESCRIPTION\n",
        roff(&file.page.to_uppercase()),
        roff(file.page),
        roff(file.purpose),
        file.name,
    );
    writeln!(page, "{}", roff(&prose(introduction)))?;
    writeln!(
        page,
        ".PP\nThe file is TOML. A file in which every key is switched off, to copy from, is\n\\fI/usr/share/doc/{}/examples/{}\\fR.\n.SH KEYS",
        roff(file.package),
        file.name
    )?;
    for block in rest.split("\n\n") {
        let (comments, settings): (Vec<&str>, Vec<&str>) = block
            .lines()
            .filter(|line| !line.is_empty())
            .partition(|line| line.starts_with("# "));
        match settings.as_slice() {
            [] if comments.is_empty() => {}
            [setting] => entry(&mut page, setting, &prose(&comments.join("\n")))?,
            other => bail!("{} settings in one block, where one is expected: {block}", other.len()),
        }
    }
    writeln!(page, ".SH \"SEE ALSO\"\n{}", roff(file.see_also))?;
    Ok(page)
}

fn entry(page: &mut String, setting: &str, about: &str) -> anyhow::Result<()> {
    let setting = setting.strip_prefix('#').context("a setting that is switched on")?;
    if setting.starts_with('[') {
        writeln!(page, ".SS {}", roff(setting))?;
    } else {
        let (key, value) = setting
            .split_once(" = ")
            .with_context(|| format!("no key: {setting}"))?;
        writeln!(page, ".TP\n\\fB{}\\fR = {}\n{}", roff(key), roff(value), roff(about))?;
    }
    Ok(())
}

fn prose(lines: &str) -> String {
    let words: Vec<&str> = lines.lines().map(|line| line.trim_start_matches('#').trim()).collect();
    words.join("\n")
}

/// Text as roff reads it: a line that begins with a dot or a quote would be a command.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines: Vec<String> = escaped
        .lines()
        .map(|line| {
            if line.starts_with(['.', '\'']) {
                format!("\\&{line}")
            } else {
                line.to_owned()
            }
        })
        .collect();
    lines.join("\n")
}
