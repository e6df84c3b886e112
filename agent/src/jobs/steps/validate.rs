//! Every number of a command again. Names cannot be wrong: they were checked when they were decoded.

use proximity_protocol::{
    command::Verb,
    fault::{Fault, FaultKind},
};

fn malformed(message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Malformed, message)
}

fn within(what: &str, value: u32, min: u32, max: u32) -> Result<(), Fault> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(malformed(format!("{what} is {value}, allowed is {min} to {max}")))
}

/// Refuses what no coordinator of ours would send.
pub(super) fn check(verb: &Verb) -> Result<(), Fault> {
    match verb {
        Verb::Inventory
        | Verb::Records
        | Verb::Examine { .. }
        | Verb::EnsureTemplate { .. }
        | Verb::EnsureStarted(_)
        | Verb::EnsureDestroyed(_)
        | Verb::BackupFacts(_)
        | Verb::EnsureBackedUp(_)
        | Verb::TestArchive { .. }
        | Verb::EnsureArchivesDeleted(_)
        | Verb::EnsureOnboot { .. }
        | Verb::EnsureAdopted(_)
        | Verb::EnsureReleased(_)
        | Verb::EnsureMigrated { .. } => Ok(()),
        Verb::EnsureRestored(spec) => spec.check().map_err(|error| malformed(error.to_string())),
        Verb::EnsureConfigured { settings, .. } => settings.check().map_err(|error| malformed(error.to_string())),
        Verb::EnsureGrown { disk_gb, .. } => within("disk_gb", *disk_gb, 1, 10_240),
        Verb::RewriteValues { values, .. } => values.check().map_err(|error| malformed(error.to_string())),
        Verb::Confirm(confirm) => within("public_port", confirm.public_port.into(), 1, 65_535),
        Verb::EnsureCreated(spec) => {
            spec.check().map_err(|error| malformed(error.to_string()))?;
            // Of a backup `pct create` would make a container with whatever the archive's configuration says.
            let is_template = spec.template.as_str().split_once(':').is_some_and(|(_, path)| {
                path.strip_prefix("vztmpl/")
                    .is_some_and(|name| !name.is_empty() && !name.contains('/'))
            });
            if !is_template {
                return Err(malformed(format!(
                    "{} is not a template (storage:vztmpl/name)",
                    spec.template
                )));
            }
            Ok(())
        }
        Verb::EnsureStopped { timeout_s, .. } => within("timeout_s", *timeout_s, 0, 600),
        Verb::AwaitNetwork { timeout_s, .. } => within("timeout_s", *timeout_s, 1, 600),
        Verb::InstallRecipe { recipe, .. } => recipe.check().map_err(|error| malformed(error.to_string())),
        Verb::AwaitHealthy { timeout_s, .. } | Verb::CheckFiles { timeout_s, .. } => {
            within("timeout_s", *timeout_s, 1, 3_600)
        }
        Verb::EnsurePublished {
            public_port,
            port,
            address,
            ..
        } => {
            within("public_port", (*public_port).into(), 1, 65_535)?;
            within("port", (*port).into(), 1, 65_535)?;
            if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
                return Err(malformed(format!("{address} is not an address of a container")));
            }
            Ok(())
        }
        Verb::EnsureUnpublished { public_port, .. } => within("public_port", (*public_port).into(), 1, 65_535),
    }
}
