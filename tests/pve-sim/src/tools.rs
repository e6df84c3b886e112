//! From a tool's name to what simulates it.

use crate::archive::Squeezer;
use crate::call::{Call, Stop};

/// Names under which the executable answers.
pub const TOOLS: [&str; 8] = [
    "pct",
    "vzdump",
    "pvesh",
    "pvesm",
    "pveam",
    "pveversion",
    "ha-manager",
    "nft",
];

/// Programs of the machine that a hollow node brings along, so that its archives can be read wherever the tests run. Nodes with real containers use the real ones.
pub const DECOMPRESSORS: [&str; 3] = ["zstd", "gzip", "lzop"];

pub(crate) fn dispatch(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    match call.tool.as_str() {
        "pct" => crate::pct::run(call, argv),
        "pvesm" => crate::pvesm::run(call, argv),
        "pveam" => crate::pveam::run(call, argv),
        "pvesh" => crate::pvesh::run(call, argv),
        "vzdump" => crate::vzdump::run(call, argv),
        "ha-manager" => crate::ha::run(call, argv),
        "pveversion" => crate::pveversion::run(call, argv),
        "nft" if call.layout().info().body != crate::layout::BodyKind::Hollow => Err(Stop::NotSimulated(
            "nft of a node with real containers: use the real nft in its network namespace".to_owned(),
        )),
        "nft" => crate::nft::run(call, argv),
        "zstd" | "gzip" | "lzop" => decompress(call, argv),
        other => Err(Stop::NotSimulated(format!(
            "tool '{other}'; there are {}",
            TOOLS.join(", ")
        ))),
    }
}

/// `zstd -dc`: from stdin to stdout.
fn decompress(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    if argv != ["-dc"] {
        return Err(Stop::NotSimulated(format!("{} {}", call.tool, argv.join(" "))));
    }
    let failed = |error: std::io::Error| Stop::die(error.to_string());
    let mut bytes = Vec::new();
    call.streams.stdin.read_to_end(&mut bytes).map_err(failed)?;
    let content = Squeezer::of_bytes(&bytes).unsqueeze(&bytes).map_err(Stop::die)?;
    call.streams.out.write_all(&content).map_err(|_| Stop::BrokenPipe)
}
