//! `configure`: other cores, memory, swap, values, a larger disk. What is asked stands in the operation; the app's row keeps what was before until all of it is
//! in force, and that is what the way back brings again. A disk never shrinks, so it comes last of what changes something: when it has grown, everything else has been
//! done. Its undo only looks how large it is, in case it grew although the step failed.

use super::{
    acts,
    params::ConfigureParams,
    start,
    step::{Act, Change, Kind, Step, Undo, View, unexpected},
    stop,
};
use crate::domain::app_state::Status;
use proximity_protocol::{
    command::{Outcome, Verb},
    fault::{Fault, FaultKind},
    ids::EnvName,
    spec::{Settings, Values},
};

/// Changes an app's container and values.
pub static CONFIGURE: Kind = Kind {
    name: "configure",
    forward_only: false,
    beside_app: false,
    done: |view| {
        let asked: Result<ConfigureParams, Fault> = view.params();
        let asked = asked.map(|params| Change::Configured(Box::new(params)));
        let mut changes = start::as_before(view);
        changes.extend(asked);
        changes
    },
    undone: |view, _| {
        let mut changes = start::as_before(view);
        changes.push(Change::NotConfigured);
        changes
    },
    advice: |view| {
        format!(
            "On {}, bring container {} into order (`pct status`, `pct config`, `pct pending`), then start, stop or delete the app {}.",
            view.node,
            view.app.vmid.unwrap_or_default(),
            view.app.id
        )
    },
    steps: &[
        Step {
            settle: configured,
            undo: Some(Undo {
                changes: |_, outcome| match outcome {
                    Outcome::Configured { pending } => vec![Change::Pending(pending.clone())],
                    _ => Vec::new(),
                },
                ..Undo::plain(settings_before, &[])
            }),
            ..Step::plain("settings", "Set cores and memory", settings)
        },
        Step {
            secrets: true,
            // The script goes on inside; a second one beside it would have to wait for it, perhaps for ever.
            ends: &[FaultKind::DeadlineExceeded],
            undo: Some(Undo {
                secrets: true,
                ..Undo::plain(values_before, &[])
            }),
            ..Step::waiting("values", "Give the app its values", values)
        },
        Step::waiting("healthy", "Wait until the app is healthy", healthy),
        Step {
            settle: grown,
            undo: Some(Undo {
                changes: |_, outcome| match outcome {
                    Outcome::Grown { disk_gb } => vec![Change::Disk(*disk_gb)],
                    _ => Vec::new(),
                },
                ..Undo::plain(disk_as_it_is, NOT_TOLD)
            }),
            ..Step::plain("disk", "Grow the disk", disk)
        },
        // Only where the container has moved to another node meanwhile.
        Step {
            settle: acts::published,
            already: stop::ANOTHER_ADDRESS,
            ..Step::plain(
                "publish",
                "See that the port leads to the container",
                publish_if_it_moved,
            )
        },
    ],
};

/// There is no container any more, or its volume has no size of its own: nothing to learn.
const NOT_TOLD: &[FaultKind] = &[
    FaultKind::ContainerMissing,
    FaultKind::NotOurs,
    FaultKind::StorageUnavailable,
];

fn set(view: &View<'_>, settings: Settings) -> Result<Act, Fault> {
    let target = view.target()?;
    let mut words = Vec::new();
    words.extend(settings.cpu_cores.map(|n| format!("{n} cores")));
    words.extend(settings.memory_mb.map(|n| format!("{n} MiB of memory")));
    words.extend(settings.swap_mb.map(|n| format!("{n} MiB of swap")));
    let says = format!("Giving container {} on {} {}", target.vmid, view.node, words.join(", "));
    Act::send(Verb::EnsureConfigured { target, settings }, says)
}

fn settings(view: &View<'_>) -> Result<Act, Fault> {
    let params: ConfigureParams = view.params()?;
    let settings = Settings {
        cpu_cores: params.cpu_cores,
        memory_mb: params.memory_mb,
        swap_mb: params.swap_mb,
    };
    if settings == Settings::default() {
        return Act::nothing("");
    }
    set(view, settings)
}

fn settings_before(view: &View<'_>) -> Result<Act, Fault> {
    let params: ConfigureParams = view.params()?;
    let was = &view.app.resources;
    set(
        view,
        Settings {
            cpu_cores: params.cpu_cores.map(|_| was.cpu_cores),
            memory_mb: params.memory_mb.map(|_| was.memory_mb),
            swap_mb: params.swap_mb.map(|_| was.swap_mb),
        },
    )
}

fn configured(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::Configured { pending } => Ok(vec![Change::Pending(pending.clone())]),
        other => Err(unexpected(other)),
    }
}

fn rewrite(view: &View<'_>, forget: Vec<EnvName>, timeout_s: u32, says: &str) -> Result<Act, Fault> {
    let values = Values {
        env: view.env.to_vec(),
        forget,
        timeout_s,
    };
    Act::send(
        Verb::RewriteValues {
            target: view.target()?,
            values,
        },
        format!("{says} (at most {timeout_s} s)"),
    )
}

/// Those of the names that are not among the values that are written.
fn without<'n>(view: &View<'_>, names: impl Iterator<Item = &'n String>) -> Result<Vec<EnvName>, Fault> {
    let written = |name: &EnvName| view.env.iter().any(|(written, _)| written == name);
    let parsed = names.map(|name| EnvName::new(name.as_str()));
    let mut gone: Vec<EnvName> = parsed
        .collect::<Result<_, _>>()
        .map_err(|e| super::step::internal(format!("the registry holds a bad value: {e}")))?;
    gone.retain(|name| !written(name));
    gone.sort();
    gone.dedup();
    Ok(gone)
}

fn values(view: &View<'_>) -> Result<Act, Fault> {
    let params: ConfigureParams = view.params()?;
    let Some(environment) = params.environment else {
        return Act::nothing("");
    };
    let before = view.app.environment.keys().chain(&environment.forget_secrets);
    let says = format!("Giving {} its new values", view.app.name);
    rewrite(view, without(view, before)?, environment.timeout_s, &says)
}

fn values_before(view: &View<'_>) -> Result<Act, Fault> {
    let params: ConfigureParams = view.params()?;
    let Some(environment) = params.environment else {
        return Act::nothing("");
    };
    let new = environment.plain.keys().chain(&environment.secrets);
    let says = format!("Giving {} its values from before", view.app.name);
    rewrite(view, without(view, new)?, environment.timeout_s, &says)
}

fn healthy(view: &View<'_>) -> Result<Act, Fault> {
    let params: ConfigureParams = view.params()?;
    if params.environment.is_none() {
        return Act::nothing("");
    }
    acts::healthy_within(view, params.health_timeout_s)
}

fn grow(view: &View<'_>, disk_gb: u32, says: String) -> Result<Act, Fault> {
    Act::send(
        Verb::EnsureGrown {
            target: view.target()?,
            disk_gb,
        },
        says,
    )
}

fn disk(view: &View<'_>) -> Result<Act, Fault> {
    let params: ConfigureParams = view.params()?;
    match params.disk_gb {
        Some(disk_gb) => grow(
            view,
            disk_gb,
            format!(
                "Growing the disk on {} to {disk_gb} GB; it cannot be made smaller again",
                view.app.resources.storage
            ),
        ),
        None => Act::nothing(""),
    }
}

fn disk_as_it_is(view: &View<'_>) -> Result<Act, Fault> {
    let says = "Looking how large the disk is; it cannot be made smaller again".to_owned();
    grow(view, view.app.resources.disk_gb, says)
}

fn publish_if_it_moved(view: &View<'_>) -> Result<Act, Fault> {
    let params: ConfigureParams = view.params()?;
    if params.previous == Status::Running && view.app.published.is_none() {
        acts::publish(view)
    } else {
        Act::nothing("")
    }
}

fn grown(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::Grown { disk_gb } => Ok(vec![Change::Disk(*disk_gb)]),
        other => Err(unexpected(other)),
    }
}
