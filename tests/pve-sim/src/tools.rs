//! From a tool's name to what simulates it.

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
        other => Err(Stop::NotSimulated(format!(
            "tool '{other}'; there are {}",
            TOOLS.join(", ")
        ))),
    }
}
