//! `pvesh`: the part of the API that is simulated, as JSON.
//!
//! `get`: `/version`, `/cluster/nextid`, `/nodes`, `/nodes/<n>/status`, `/nodes/<n>/lxc`, `…/lxc/<id>/config`,
//! `…/lxc/<id>/status/current`, `…/lxc/<id>/snapshot`, `/nodes/<n>/storage`, `…/storage/<s>/content`,
//! `/nodes/<n>/tasks/<upid>/{status,log}`. `create`: `…/lxc/<id>/status/{start,stop,shutdown,reboot}`.

use std::fs;

use serde_json::{Map, Value, json};

use crate::call::{Call, Stop};
use crate::clock::now_s;
use crate::cluster::Cluster;
use crate::conf::CtConfig;
use crate::ha;
use crate::options::Arguments;
use crate::pct::{power, show};
use crate::pmxcfs;
use crate::script::At;
use crate::storage;

pub(crate) fn run(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    let sub = argv.first().map(String::as_str).unwrap_or_default().to_owned();
    call.sub.clone_from(&sub);
    let mut path = String::new();
    let mut words = argv.iter().skip(1);
    let mut args = Arguments::default();
    while let Some(word) = words.next() {
        if let Some(option) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => (option.to_owned(), words.next().cloned().unwrap_or_default()),
            };
            args.values.insert(name, value);
        } else {
            path.clone_from(word);
        }
    }
    call.args = args;
    let parts: Vec<String> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect();
    if let ["nodes", _, "lxc", vmid, ..] = parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        call.vmid = vmid.parse().ok();
    }
    call.around(|call| {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let value = match sub.as_str() {
            "get" => {
                call.point(At::Middle)?;
                get(call, &parts, &path)?
            }
            "create" => create(call, &parts, &path)?,
            _ => return Err(Stop::NotSimulated(format!("pvesh {sub}"))),
        };
        show_value(call, &value)
    })
}

fn show_value(call: &mut Call<'_>, value: &Value) -> Result<(), Stop> {
    match (call.args.get("output-format").unwrap_or("text"), value) {
        ("json", value) => call.say(&value.to_string()),
        ("json-pretty", value) => {
            let mut text = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
            serde::Serialize::serialize(value, &mut serializer).map_err(|error| Stop::die(error.to_string()))?;
            // JSON::XS puts a space before the colon as well.
            let pretty = String::from_utf8_lossy(&text).replace("\": ", "\" : ");
            call.say(&pretty)
        }
        ("text", Value::String(text)) => call.say(text),
        ("text", Value::Number(number)) => call.say(&number.to_string()),
        (format, _) => Err(Stop::NotSimulated(format!(
            "pvesh --output-format {format} of a table; ask for json"
        ))),
    }
}

fn no_handler(verb: &str, path: &str) -> Stop {
    Stop::die(format!("No '{verb}' handler defined for '{path}'"))
}

fn own_node(call: &Call<'_>, node: &str) -> Result<(), Stop> {
    let in_cluster = || Some(Cluster::of(call.layout())?.info().ok()?.member(node).is_some());
    if node == call.layout().info().name || node == "localhost" {
        Ok(())
    } else if in_cluster() == Some(true) {
        Err(Stop::NotSimulated(format!(
            "pvesh to another node ('{node}'): call it there"
        )))
    } else {
        Err(Stop::die(format!("no such cluster node '{node}'")))
    }
}

fn get(call: &mut Call<'_>, parts: &[&str], path: &str) -> Result<Value, Stop> {
    if let ["nodes", node, ..] = parts {
        own_node(call, node)?;
    }
    match parts {
        ["version"] => {
            let version = call.layout().info().pve_version.clone();
            let release = version
                .rsplit_once('.')
                .map_or(version.as_str(), |(release, _)| release)
                .to_owned();
            Ok(json!({"release": release, "repoid": "2606ac85b1a4", "version": version}))
        }
        ["cluster", "nextid"] => next_id(call),
        ["nodes"] => nodes(call),
        ["nodes", _, "status"] => node_status(call),
        ["nodes", _, "lxc"] => {
            let mut list = Vec::new();
            for vmid in pmxcfs::containers(call)? {
                let config = pmxcfs::load(call.layout(), vmid)?;
                list.push(current(call, vmid, &config));
            }
            Ok(Value::Array(list))
        }
        ["nodes", _, "lxc", vmid, rest @ ..] => {
            let vmid: u32 = vmid.parse().map_err(|_| no_handler("get", path))?;
            let config = pmxcfs::load(call.layout(), vmid)?;
            match rest {
                ["config"] => Ok(config_json(call, vmid, &config)),
                ["status", "current"] => {
                    let mut value = current(call, vmid, &config);
                    let managed = ha::is_managed(call.layout(), vmid)?;
                    value["ha"] = json!({"managed": u8::from(managed)});
                    Ok(value)
                }
                ["snapshot"] => Ok(snapshots(call, vmid, &config)),
                _ => Err(Stop::NotSimulated(format!("pvesh get {path}"))),
            }
        }
        ["nodes", _, "storage"] => storages(call),
        ["nodes", _, "storage", id, "content"] => content(call, id),
        ["nodes", _, "tasks", upid, what @ ("status" | "log")] => task(call, upid, what),
        ["nodes", _, "qemu" | "tasks" | "network" | "services" | "disks", ..]
        | ["cluster" | "storage" | "access" | "pools", ..] => Err(Stop::NotSimulated(format!("pvesh get {path}"))),
        _ => Err(no_handler("get", path)),
    }
}

/// Every node of the cluster, or the only one.
fn nodes(call: &Call<'_>) -> Result<Value, Stop> {
    let own = &call.layout().info().name;
    let entry = |name: &str, online: bool| {
        let status = if online { "online" } else { "offline" };
        json!({"id": format!("node/{name}"), "node": name, "status": status, "type": "node"})
    };
    let Some(cluster) = Cluster::of(call.layout()) else {
        return Ok(json!([entry(own, true)]));
    };
    let info = cluster.info().map_err(|error| Stop::die(error.to_string()))?;
    let members = info.members.iter();
    Ok(members
        .map(|member| entry(&member.name, info.sees(own, &member.name)))
        .collect())
}

/// The lowest free one from 100, as without a `next-id` range in `datacenter.cfg`, which is kept to.
fn next_id(call: &Call<'_>) -> Result<Value, Stop> {
    let guests = pmxcfs::guests(call.layout()).map_err(|error| Stop::die(error.to_string()))?;
    if let Some(wanted) = call.args.get("vmid") {
        let vmid: u32 = wanted
            .parse()
            .map_err(|_| Stop::die("400 Parameter verification failed."))?;
        let problems = [("vmid".to_owned(), format!("VM {vmid} already exists"))].into();
        return if guests.contains_key(&vmid) {
            Err(Stop::parameters(&problems, ""))
        } else {
            Ok(json!(vmid))
        };
    }
    let text = fs::read_to_string(call.layout().pve().join("datacenter.cfg")).unwrap_or_default();
    let range = text
        .lines()
        .find_map(|line| line.strip_prefix("next-id:"))
        .unwrap_or_default();
    let bound = |name: &str| {
        range
            .split(',')
            .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')?.parse::<u32>().ok())
    };
    let (lower, upper) = (bound("lower").unwrap_or(100), bound("upper").unwrap_or(1_000_000));
    (lower..upper)
        .find(|vmid| !guests.contains_key(vmid))
        .map(|vmid| json!(vmid.to_string().parse::<u32>().unwrap_or(vmid)))
        .ok_or_else(|| Stop::die(format!("unable to get any free VMID in range [{lower}, {upper}]")))
}

fn current(call: &Call<'_>, vmid: u32, config: &CtConfig) -> Value {
    let status = show::status_of(call, vmid, config);
    let mut value = json!({"cpu": 0, "cpus": status.cpus, "disk": status.figures.disk_bytes, "diskread": 0, "diskwrite": 0,
        "maxdisk": status.max_disk, "maxmem": status.max_memory, "maxswap": status.max_swap, "mem": status.figures.memory_bytes,
        "name": show::name(config, vmid), "netin": status.figures.netin_bytes, "netout": status.figures.netout_bytes,
        "status": if status.running { "running" } else { "stopped" }, "swap": 0, "type": "lxc",
        "uptime": status.figures.uptime_s, "vmid": vmid});
    if status.running {
        value["pid"] = json!(status.figures.init_pid);
    }
    for key in ["lock", "tags"] {
        if let Some(text) = config.current.get(key) {
            value[key] = json!(text);
        }
    }
    if config.current.flag("template") {
        value["template"] = json!(1);
    }
    value
}

fn config_json(call: &Call<'_>, vmid: u32, config: &CtConfig) -> Value {
    let mut map = Map::new();
    map.insert("digest".to_owned(), json!(pmxcfs::digest(call.layout(), vmid)));
    for (key, text) in &config.current.values {
        let value = text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number));
        map.insert(key.clone(), value);
    }
    if !config.current.description.is_empty() {
        map.insert("description".to_owned(), json!(config.current.description));
    }
    if !config.current.raw_lxc.is_empty() {
        map.insert("lxc".to_owned(), json!(config.current.raw_lxc));
    }
    Value::Object(map)
}

fn snapshots(call: &Call<'_>, vmid: u32, config: &CtConfig) -> Value {
    let mut list = Vec::new();
    for (name, section) in &config.snapshots {
        let mut entry = json!({"description": section.description, "name": name,
            "snaptime": section.get("snaptime").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)});
        if let Some(parent) = section.get("parent") {
            entry["parent"] = json!(parent);
        }
        list.push(entry);
    }
    let mut entry = json!({"description": "You are here!", "digest": pmxcfs::digest(call.layout(), vmid), "name": "current",
        "running": u8::from(call.node.is_running(vmid))});
    if let Some(parent) = config.current.get("parent") {
        entry["parent"] = json!(parent);
    }
    list.push(entry);
    Value::Array(list)
}

fn node_status(call: &Call<'_>) -> Result<Value, Stop> {
    let info = call.layout().info();
    let (total, used, available) = storage::find(call.layout(), "local")?.usage(call.layout());
    let meminfo = fs::read_to_string(call.layout().proc().join("meminfo")).unwrap_or_default();
    let kib = |key: &str| {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or_default();
        line.split_whitespace()
            .next()
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let (memory_total, memory_free) = (kib("MemTotal:") << 10, kib("MemAvailable:") << 10);
    Ok(
        json!({"cpu": 0, "cpuinfo": {"cores": info.cpus, "cpus": info.cpus, "model": "Simulated CPU", "sockets": 1, "user_hz": 100},
        "current-kernel": {"machine": "x86_64", "release": "6.8.12-9-pve", "sysname": "Linux", "version": "#1 SMP"},
        "idle": 0, "ksm": {"shared": 0}, "kversion": "Linux 6.8.12-9-pve #1 SMP", "loadavg": ["0.10", "0.08", "0.05"],
        "memory": {"free": memory_free, "total": memory_total, "used": memory_total - memory_free.min(memory_total)},
        "pveversion": format!("pve-manager/{}/2606ac85b1a4", info.pve_version),
        "rootfs": {"avail": available, "free": available, "total": total, "used": used}, "swap": {"free": 0, "total": 0, "used": 0},
        "uptime": now_s(call.node.clock.as_ref()).saturating_sub(info.booted_s), "wait": 0}),
    )
}

#[expect(clippy::cast_precision_loss)]
fn storages(call: &Call<'_>) -> Result<Value, Stop> {
    let list = storage::all(call.layout())?;
    Ok(list
        .into_iter()
        .map(|storage| {
            let (total, used, available) = storage.usage(call.layout());
            json!({"active": 1, "avail": available, "content": storage.content.join(","), "enabled": 1, "shared": 0,
                "storage": storage.id, "total": total, "type": storage.kind, "used": used,
                "used_fraction": used as f64 / total.max(1) as f64})
        })
        .collect())
}

fn content(call: &Call<'_>, id: &str) -> Result<Value, Stop> {
    let storage = storage::find(call.layout(), id)?;
    storage.activate(call.layout())?;
    let volumes = storage
        .volumes(call.layout())
        .map_err(|error| Stop::die(error.to_string()))?;
    let (wanted, vmid) = (call.args.get("content"), call.args.get("vmid").map(str::parse::<u32>));
    Ok(volumes
        .into_iter()
        .filter(|volume| wanted.is_none_or(|wanted| wanted == volume.content))
        .filter(|volume| vmid.as_ref().is_none_or(|vmid| vmid.as_ref().ok() == volume.vmid.as_ref()))
        .map(|volume| {
            let made = fs::metadata(&volume.path).and_then(|meta| meta.modified()).ok();
            let ctime = made.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs());
            let mut entry =
                json!({"content": volume.content, "ctime": ctime, "format": volume.format, "size": volume.size, "volid": volume.volid});
            if let Some(vmid) = volume.vmid {
                entry["vmid"] = json!(vmid);
            }
            if volume.content == "backup" {
                entry["subtype"] = json!("lxc");
                if let Ok(notes) = fs::read_to_string(storage::notes_file(&volume.path)) {
                    entry["notes"] = json!(notes.trim_end_matches('\n'));
                }
            }
            entry
        })
        .collect())
}

fn task(call: &Call<'_>, upid: &str, what: &str) -> Result<Value, Stop> {
    let fields: Vec<&str> = upid.split(':').collect();
    let (&[_, node, pid, start_ticks, start, kind, id, user, ..], Some(place)) =
        (fields.as_slice(), fields.get(4).and_then(|start| start.chars().last()))
    else {
        return Err(Stop::die(format!("unable to parse worker upid '{upid}'")));
    };
    let path = call.layout().tasks().join(place.to_string()).join(upid);
    let Ok(text) = fs::read_to_string(&path) else {
        return Err(Stop::die("no such task"));
    };
    if what == "log" {
        return Ok(text
            .lines()
            .enumerate()
            .map(|(index, line)| json!({"n": index + 1, "t": line}))
            .collect());
    }
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
    let mut value = json!({"id": id, "node": node, "pid": hex(pid), "pstart": hex(start_ticks), "starttime": hex(start), "type": kind,
        "upid": upid, "user": user});
    let last = text.lines().last().unwrap_or_default();
    let end = last
        .strip_prefix("TASK ERROR: ")
        .map(str::to_owned)
        .or_else(|| (last == "TASK OK").then(|| "OK".to_owned()));
    match end {
        Some(end) => {
            value["status"] = json!("stopped");
            value["exitstatus"] = json!(end);
        }
        None => {
            value["status"] = json!("running");
        }
    }
    Ok(value)
}

fn create(call: &mut Call<'_>, parts: &[&str], path: &str) -> Result<Value, Stop> {
    let ["nodes", node, "lxc", vmid, "status", verb] = parts else {
        return Err(Stop::NotSimulated(format!("pvesh create {path}")));
    };
    own_node(call, node)?;
    let vmid: u32 = vmid.parse().map_err(|_| no_handler("create", path))?;
    let upid = match *verb {
        "start" => power::start(call, vmid)?,
        "stop" => power::stop(call, vmid)?,
        "shutdown" => power::shutdown(call, vmid)?,
        _ => return Err(Stop::NotSimulated(format!("pvesh create {path}"))),
    };
    Ok(json!(upid))
}
