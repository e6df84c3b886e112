//! Bringing the table into the kernel and reading it back.

use super::{desired::PublishedPort, ruleset};
use crate::host::{NodeContext, Short, ShortEnd, TableLastSeen};
use proximity_protocol::fault::{Fault, FaultKind};
use serde_json::Value;
use std::{fs, io, path::Path, time::Duration};

/// How long `nft` may take.
const BOUND: Duration = Duration::from_secs(20);

async fn nft(node: &NodeContext, words: &[&str], stdin: Option<&[u8]>) -> Result<ShortEnd, Fault> {
    let words: Vec<_> = words.iter().map(Into::into).collect();
    let command = Short {
        program: &node.host().nft,
        arguments: &words,
        stdin,
        bound: BOUND,
    };
    node.tools().short(command).await.map_err(|error| {
        Fault::new(
            FaultKind::ToolFailed,
            format!("nft could not be run ({error}): is the package nftables installed?"),
        )
    })
}

fn failed(what: &str, end: &ShortEnd) -> Fault {
    Fault::new(FaultKind::ToolFailed, format!("nft could not {what}")).with_detail(&end.stderr)
}

/// Replaces the table, and remembers how it looks then. While that has not succeeded, whatever stands is not what is wanted.
pub(super) async fn apply(node: &NodeContext, ports: &[PublishedPort], last: &mut TableLastSeen) -> Result<(), Fault> {
    *last = Some(Value::Null);
    let end = nft(
        node,
        &["-j", "-f", "-"],
        Some(ruleset::replace(ports).to_string().as_bytes()),
    )
    .await?;
    if !end.success {
        return Err(failed("set the table of published ports", &end));
    }
    let listed = list(node).await?;
    *last = listed;
    Ok(())
}

/// Whether the table is as it was after it was last set.
pub(super) async fn stands(node: &NodeContext, last: &TableLastSeen) -> Result<bool, Fault> {
    Ok(last.is_some() && list(node).await? == *last)
}

/// Whether there is a table of ours at all.
pub(super) async fn is_there(node: &NodeContext) -> Result<bool, Fault> {
    Ok(list(node).await?.is_some())
}

/// `None`: there is no such table.
async fn list(node: &NodeContext) -> Result<Option<Value>, Fault> {
    let end = nft(node, &["-j", "list", "table", ruleset::FAMILY, ruleset::TABLE], None).await?;
    if !end.success {
        return if end.stderr.contains("No such file or directory") {
            Ok(None)
        } else {
            Err(failed("list the table of published ports", &end))
        };
    }
    let listing = serde_json::from_str(&end.stdout)
        .map_err(|error| Fault::new(FaultKind::ToolFailed, format!("nft's listing cannot be read: {error}")))?;
    Ok(Some(ruleset::normalise(&listing)))
}

/// The table of another tool that leads this port elsewhere.
pub(super) async fn other_table_with(node: &NodeContext, port: u16) -> Result<Option<String>, Fault> {
    let end = nft(node, &["-j", "list", "ruleset"], None).await?;
    if !end.success {
        return Err(failed("list the ruleset", &end));
    }
    let listing: Value = serde_json::from_str(&end.stdout)
        .map_err(|error| Fault::new(FaultKind::ToolFailed, format!("nft's listing cannot be read: {error}")))?;
    Ok(ruleset::other_table_with(&listing, port))
}

/// Without this the kernel drops what a published port leads to.
pub(super) fn forward_packets(node: &NodeContext) -> Result<(), Fault> {
    let path = node.proc("sys/net/ipv4/ip_forward");
    let set = match fs::read_to_string(&path) {
        Ok(text) if text.trim() == "1" => return Ok(()),
        Ok(_) => fs::write(&path, "1\n"),
        // A machine of files has no kernel to ask.
        Err(error) if error.kind() == io::ErrorKind::NotFound && node.host().proc != Path::new("/proc") => {
            return Ok(());
        }
        Err(error) => Err(error),
    };
    set.map_err(|error| {
        Fault::new(
            FaultKind::ToolFailed,
            format!(
                "{} cannot be set ({error}): published ports need net.ipv4.ip_forward=1 on the node",
                path.display()
            ),
        )
    })
}
