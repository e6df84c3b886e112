//! `ha-manager`: `add`, `set`, `remove`, `config`, `status`, `migrate`, `relocate`, `crm-command`.

use super::resources::{Resource, Resources};
use super::{RESOURCES, check_error_state, command, forget, is_configured, request_state, resources, status};
use crate::call::{Call, Stop};
use crate::cluster::Cluster;
use crate::options;
use crate::pmxcfs;
use crate::script::At;

/// What `add` and `set` write into the configuration.
const PROPERTIES: [&str; 5] = ["state", "group", "max_restart", "max_relocate", "comment"];

pub(crate) fn run(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    let (sub, rest) = match argv.split_first() {
        Some((first, rest)) if first == "crm-command" => match rest.split_first() {
            Some((second, rest)) => (format!("crm-command {second}"), rest),
            None => (first.clone(), rest),
        },
        Some((first, rest)) => (first.clone(), rest),
        None => return Err(Stop::die("ERROR: no command specified")),
    };
    call.sub.clone_from(&sub);
    let Some(spec) = options::command("ha-manager", &sub) else {
        return Err(Stop::NotSimulated(format!("ha-manager {sub}")));
    };
    call.args = spec.parse("ha-manager", &sub, rest)?;
    call.around(|call| {
        call.point(At::Middle)?;
        match sub.as_str() {
            "status" => show_status(call),
            "config" => show_config(call),
            _ => {
                let sid = service(call)?;
                change(call, &sub, &sid)
            }
        }
    })
}

/// `100` stands for `ct:100` (`PVE::HA::Config::parse_sid`).
fn service(call: &mut Call<'_>) -> Result<String, Stop> {
    let written = call.args.required("sid").to_owned();
    let number = written.split(':').next_back().and_then(|id| id.parse::<u32>().ok());
    call.vmid = number;
    let Some(vmid) = number else {
        return Err(Stop::die(format!("unable to parse service id '{written}'")));
    };
    if written.contains(':') {
        return Ok(written);
    }
    let guests = pmxcfs::guests(call.layout()).map_err(|error| Stop::die(error.to_string()))?;
    match guests.get(&vmid) {
        Some((_, "lxc")) => Ok(format!("ct:{vmid}")),
        Some(_) => Ok(format!("vm:{vmid}")),
        None => Err(Stop::die(format!(
            "unable do add resource - VM/CT {vmid} does not exist"
        ))),
    }
}

fn given(call: &Call<'_>, resource: &mut Resource) {
    for name in PROPERTIES {
        if let Some(value) = call.args.get(name) {
            resource.set(name, value);
        }
    }
}

fn change(call: &mut Call<'_>, sub: &str, sid: &str) -> Result<(), Stop> {
    let vmid = call.vmid.unwrap_or_default();
    let layout = call.layout().clone();
    match sub {
        "add" => {
            pmxcfs::check_quorum(&layout)?;
            let guests = pmxcfs::guests(&layout).map_err(|error| Stop::die(error.to_string()))?;
            match guests.get(&vmid) {
                None => return Err(Stop::die(format!("resource '{sid}' does not exist in cluster"))),
                Some((_, "lxc")) if sid.starts_with("ct:") => {}
                Some(_) => return Err(Stop::NotSimulated(format!("ha-manager add {sid}"))),
            }
            pmxcfs::edit(&layout, RESOURCES, |text| {
                let mut resources = Resources::parse(text);
                if resources.0.contains_key(sid) {
                    return Err(Stop::die(format!(
                        "create resource failed: resource ID '{sid}' already defined"
                    )));
                }
                let mut resource = Resource::default();
                given(call, &mut resource);
                resources.0.insert(sid.to_owned(), resource);
                Ok(resources.render())
            })
        }
        "set" => {
            if let Some(state) = call.args.get("state") {
                request_state(&layout, sid, state)?;
            }
            pmxcfs::edit(&layout, RESOURCES, |text| {
                let mut resources = Resources::parse(text);
                let resource = resources
                    .0
                    .get_mut(sid)
                    .ok_or_else(|| Stop::die(format!("update resource failed: no such resource '{sid}'")))?;
                given(call, resource);
                Ok(resources.render())
            })
        }
        "remove" => {
            if !is_configured(&layout, vmid)? {
                return Err(Stop::die(format!("cannot delete service '{sid}', not HA managed!")));
            }
            pmxcfs::check_quorum(&layout)?;
            forget(&layout, sid)
        }
        "migrate" | "relocate" | "crm-command migrate" | "crm-command relocate" => {
            managed(call, sid)?;
            check_error_state(&layout, sid, None)?;
            let verb = sub.split(' ').next_back().unwrap_or(sub);
            command(&layout, &format!("{verb} {sid} {}", call.args.required("node")))
        }
        "crm-command stop" => {
            managed(call, sid)?;
            command(&layout, &format!("stop {sid} {}", call.args.required("timeout")))
        }
        other => Err(Stop::NotSimulated(format!("ha-manager {other}"))),
    }
}

fn managed(call: &Call<'_>, sid: &str) -> Result<(), Stop> {
    if is_configured(call.layout(), call.vmid.unwrap_or_default())? {
        Ok(())
    } else {
        Err(Stop::die(format!("resource '{sid}' is not HA managed")))
    }
}

fn show_config(call: &mut Call<'_>) -> Result<(), Stop> {
    for (sid, resource) in resources(call.layout())?.0 {
        call.say(&sid)?;
        for (key, value) in resource.pairs() {
            call.say(&format!("\t{key} {value}"))?;
        }
        call.say("")?;
    }
    Ok(())
}

fn show_status(call: &mut Call<'_>) -> Result<(), Stop> {
    let quorate = pmxcfs::is_quorate(call.layout()).map_err(|error| Stop::die(error.to_string()))?;
    call.say(if quorate {
        "quorum OK"
    } else {
        "quorum No quorum on node!"
    })?;
    let status = status(call.layout())?;
    if !status.master_node.is_empty() {
        call.say(&format!("master {} (active)", status.master_node))?;
    }
    if let Some(info) = Cluster::of(call.layout()).and_then(|cluster| cluster.info().ok()) {
        for member in &info.members {
            call.say(&format!("lrm {} (active)", member.name))?;
        }
    }
    for (sid, service) in &status.service_status {
        let word = serde_json::to_value(service.state).map_err(|error| Stop::die(error.to_string()))?;
        call.say(&format!(
            "service {sid} ({}, {})",
            service.node,
            word.as_str().unwrap_or_default()
        ))?;
    }
    Ok(())
}
