//! `deploy`: from reservations to a published port.

use super::{
    acts,
    params::{DeployParams, NetworkParams},
    step::{Act, Change, Kind, Step, Undo, View, internal, unexpected},
};
use crate::domain::app_state::Status;
use proximity_protocol::{
    command::{Confirm, Outcome, Verb},
    fault::{Fault, FaultKind},
    ids::{BridgeName, ContainerPath, Hostname},
    spec::{AddressSpec, ContainerSpec, NetworkSpec, Recipe, RecipeFile, VolumeSpec},
};

/// Makes an app's first container.
pub static DEPLOY: Kind = Kind {
    name: "deploy",
    forward_only: false,
    beside_app: false,
    done: |_| vec![Change::Status(Status::Running), Change::Reason(None)],
    undone: |_, why| {
        vec![
            Change::FreeReservations,
            Change::Status(Status::Error),
            Change::Reason(Some(why.to_owned())),
        ]
    },
    advice: |view| match view.app.vmid {
        Some(vmid) => format!(
            "On {node}, look at container {vmid} (`pct config {vmid}`, `pct status {vmid}`) and remove what stands in the way; then delete the app {id}: \
             that removes what is left and frees its VMID, port and address.",
            node = view.node,
            id = view.app.id
        ),
        None => format!("Delete the app {}.", view.app.id),
    },
    steps: &[
        Step {
            chooses: &[FaultKind::VmidTaken, FaultKind::PortTaken, FaultKind::AddressTaken],
            ..Step::plain("reserve", "Confirm VMID, port and address on the node", reserve)
        },
        Step {
            settle: template_settled,
            ..Step::waiting("template", "Have the template on the node", template)
        },
        Step {
            settle: created,
            chooses: &[FaultKind::VmidTaken],
            undo: Some(Undo {
                changes: |_, _| vec![Change::Destroyed],
                ..Undo::plain(acts::destroy, acts::GONE)
            }),
            ..Step::plain("create", "Create the container", create)
        },
        Step {
            undo: Some(Undo::plain(acts::stop_at_once, acts::GONE)),
            ..Step::plain("start", "Start the container", acts::start)
        },
        Step {
            settle: acts::network_settled,
            ..Step::waiting("network", "Wait for the network", acts::network)
        },
        Step {
            secrets: true,
            // The script goes on inside; a second one beside it would have to wait for it, perhaps for ever.
            ends: &[FaultKind::DeadlineExceeded],
            ..Step::waiting("install", "Install the app", install)
        },
        Step::waiting("healthy", "Wait until the app is healthy", healthy),
        Step {
            settle: acts::published,
            chooses: &[FaultKind::PortTaken],
            undo: Some(Undo {
                changes: |_, _| vec![Change::Published(None)],
                ..Undo::plain(acts::unpublish, acts::GONE)
            }),
            ..Step::plain("publish", "Publish the port", acts::publish)
        },
    ],
};

fn reserve(view: &View<'_>) -> Result<Act, Fault> {
    let params: DeployParams = view.params()?;
    confirm(view, params.network.bridge)
}

/// Asks the node whether what is reserved for the app holds there.
pub(super) fn confirm(view: &View<'_>, bridge: BridgeName) -> Result<Act, Fault> {
    let target = view.target()?;
    let public_port = view
        .app
        .public_port
        .ok_or_else(|| internal("the app has no reserved port"))?;
    // Once the container is there it answers at its own address: only the port is in question then.
    let address = if view.created { None } else { view.reserved_address };
    let says = match address {
        Some(address) => format!(
            "Confirming VMID {}, port {public_port} and address {address} on {}",
            target.vmid, view.node
        ),
        None => format!(
            "Confirming VMID {} and port {public_port} on {}",
            target.vmid, view.node
        ),
    };
    Act::send(
        Verb::Confirm(Confirm {
            owner: target.owner,
            vmid: target.vmid,
            public_port,
            address,
            bridge,
            storage: view.app.resources.storage.clone(),
        }),
        says,
    )
}

fn template(view: &View<'_>) -> Result<Act, Fault> {
    let params: DeployParams = view.params()?;
    let (storage, prefix) = (params.template_storage, params.recipe.template);
    Ok(Act::Send {
        says: format!("Looking for template {prefix} on {storage} of {}", view.node),
        // Agents of a cluster share storages; one of them fetches, the others find it there.
        exclusive: Some(format!("template {prefix} on {storage} of host {}", view.app.host_id)),
        verb: Box::new(Verb::EnsureTemplate { storage, prefix }),
        at: None,
    })
}

fn template_settled(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::Template { volume } => Ok(vec![Change::Template(volume.clone())]),
        other => Err(unexpected(other)),
    }
}

fn create(view: &View<'_>) -> Result<Act, Fault> {
    let spec = container(view)?;
    let says = format!(
        "Creating container {} on {}: {} {}, {} MiB, {} GB on {}",
        spec.vmid,
        view.node,
        spec.cpu_cores,
        if spec.cpu_cores == 1 { "core" } else { "cores" },
        spec.memory_mb,
        spec.disk_gb,
        spec.storage
    );
    Act::send(Verb::EnsureCreated(spec), says)
}

fn container(view: &View<'_>) -> Result<ContainerSpec, Fault> {
    let params: DeployParams = view.params()?;
    let target = view.target()?;
    let resources = &view.app.resources;
    let bad = |e: proximity_protocol::ids::InvalidId| internal(format!("the registry holds a bad value: {e}"));
    Ok(ContainerSpec {
        vmid: target.vmid,
        owner: target.owner,
        hostname: Hostname::new(&view.app.hostname).map_err(bad)?,
        template: view
            .data
            .template
            .clone()
            .ok_or_else(|| internal("no template was found by the step before"))?,
        storage: resources.storage.clone(),
        disk_gb: resources.disk_gb,
        cpu_cores: resources.cpu_cores,
        memory_mb: resources.memory_mb,
        swap_mb: resources.swap_mb,
        network: network(view, params.network)?,
        volumes: view
            .app
            .volumes
            .iter()
            .map(|v| {
                Ok(VolumeSpec {
                    path: ContainerPath::new(&v.path).map_err(bad)?,
                    size_gb: v.size_gb,
                })
            })
            .collect::<Result<_, Fault>>()?,
        keyctl: params.recipe.keyctl,
    })
}

/// The interface of the app's container, with its reserved address.
pub(super) fn network(view: &View<'_>, params: NetworkParams) -> Result<NetworkSpec, Fault> {
    let address = match (&params.fixed, view.reserved_address) {
        (None, _) => AddressSpec::Dhcp,
        (Some(fixed), Some(address)) => AddressSpec::Static {
            address,
            prefix: fixed.prefix,
            gateway: fixed.gateway,
        },
        (Some(_), None) => return Err(internal("the app has no reserved address")),
    };
    Ok(NetworkSpec {
        bridge: params.bridge,
        vlan: params.vlan,
        address,
        dns: params.dns,
        mac: None,
    })
}

pub(super) fn created(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::Created { mac } => Ok(vec![Change::Created(mac.clone())]),
        other => Err(unexpected(other)),
    }
}

fn install(view: &View<'_>) -> Result<Act, Fault> {
    let recipe = view.params::<DeployParams>()?.recipe;
    let files = recipe
        .files
        .into_iter()
        .map(|f| match data_encoding::BASE64.decode(f.content.as_bytes()) {
            Ok(content) => Ok(RecipeFile { name: f.name, content }),
            Err(e) => Err(internal(format!("the registry holds a bad file of a recipe: {e}"))),
        })
        .collect::<Result<_, Fault>>()?;
    let says = format!(
        "Installing {} {} (given up when it tells nothing for {} s)",
        view.app.name, recipe.version, recipe.install_timeout_s
    );
    Act::send(
        Verb::InstallRecipe {
            target: view.target()?,
            recipe: Recipe {
                install: recipe.install,
                health: recipe.health,
                files,
                env: view.env.to_vec(),
                port: view.app.internal_port,
                install_timeout_s: recipe.install_timeout_s,
            },
        },
        says,
    )
}

fn healthy(view: &View<'_>) -> Result<Act, Fault> {
    let params: DeployParams = view.params()?;
    acts::healthy_within(view, params.recipe.health_timeout_s)
}
