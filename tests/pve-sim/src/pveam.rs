//! `pveam`: appliance templates. The index lies where the real one does, in the real format (Debian control paragraphs);
//! a download copies from the folder `template_pool` of `node.json` instead of the network.

use std::fs;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha512};

use crate::call::{Call, Stop};
use crate::layout::{Layout, write_atomically};
use crate::options::command;
use crate::script::At;
use crate::storage;
use crate::tasks::worker;

const INDEX: &str = "/var/lib/pve-manager/apl-info/download.proxmox.com";
const TURNKEY: &str = "/var/lib/pve-manager/apl-info/releases.turnkeylinux.org";
/// An empty folder of a node's pool stands for "no network" when this file is in it.
const OFFLINE: &str = "offline";

/// What stands for a template that hollow containers never look into.
pub(crate) fn placeholder(name: &str) -> String {
    format!("pve-sim placeholder of {name}: hollow containers have no files of a template\n")
}

/// Writes the index of all templates in `pool`.
pub(crate) fn write_index(layout: &Layout, pool: &Path) -> io::Result<()> {
    let mut names: Vec<String> = match fs::read_dir(pool) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    names.retain(|name| name.contains(".tar."));
    names.sort();
    let mut text = String::new();
    for name in names {
        let mut parts = name.splitn(3, '_');
        let (package, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("1"));
        let os = package.rsplit_once('-').map_or(package, |(os, _)| os);
        let hash = data_encoding::HEXLOWER.encode(&Sha512::digest(fs::read(pool.join(&name))?));
        text.push_str(&format!(
            "Package: {package}\nVersion: {version}\nType: lxc\nOS: {os}\nSection: system\nLocation: system/{name}\nsha512sum: {hash}\nInfopage: https://pve.proxmox.com/wiki/Linux_Container\nArchitecture: amd64\nDescription: simulated\n\n"
        ));
    }
    write_atomically(&layout.host_path(INDEX), text.as_bytes())?;
    write_atomically(&layout.host_path(TURNKEY), b"")
}

pub(crate) fn run(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    let sub = argv.first().map(String::as_str).unwrap_or_default();
    sub.clone_into(&mut call.sub);
    let Some(spec) = command("pveam", sub).filter(|_| sub != "help") else {
        return Err(Stop::NotSimulated(format!("pveam {sub}")));
    };
    call.args = spec.parse("pveam", sub, &argv[1..])?;
    let usage = spec.usage("pveam", sub);
    call.around(|call| match sub {
        "available" => available(call),
        "update" => update(call),
        "list" => list(call),
        "download" => download(call, &usage),
        "remove" => remove(call),
        _ => Err(Stop::NotSimulated(format!("pveam {sub}"))),
    })
}

/// (section, file name) of the index; a missing one is said and is empty.
fn index(call: &mut Call<'_>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in [INDEX, TURNKEY] {
        match fs::read_to_string(call.layout().host_path(path)) {
            Ok(text) => {
                let mut section = String::new();
                for line in text.lines() {
                    if let Some(word) = line.strip_prefix("Section: ") {
                        word.clone_into(&mut section);
                    } else if let Some(location) = line.strip_prefix("Location: ") {
                        let name = location.rsplit('/').next().unwrap_or(location);
                        found.push((section.clone(), name.to_owned()));
                    }
                }
            }
            Err(_) => call.complain(&format!("unable to open file '{path}' - No such file or directory")),
        }
    }
    found.sort();
    found
}

fn available(call: &mut Call<'_>) -> Result<(), Stop> {
    call.point(At::Middle)?;
    let wanted = call.args.get("section").map(str::to_owned);
    for (section, name) in index(call) {
        if wanted.as_ref().is_none_or(|wanted| *wanted == section) {
            call.say(&format!("{section:<15} {name}"))?;
        }
    }
    Ok(())
}

/// Without network the real one fails and exits zero.
fn update(call: &mut Call<'_>) -> Result<(), Stop> {
    call.point(At::Middle)?;
    let pool = call
        .layout()
        .info()
        .template_pool
        .clone()
        .filter(|pool| pool.is_dir() && !pool.join(OFFLINE).exists());
    match pool {
        Some(pool) => {
            write_index(call.layout(), &pool).map_err(|error| Stop::die(error.to_string()))?;
            call.say("update successful")
        }
        None => {
            call.complain("update failed - see /var/log/pveam.log for details");
            Ok(())
        }
    }
}

#[expect(clippy::cast_precision_loss)]
fn megabytes(bytes: u64) -> String {
    format!("{:.2}MB", bytes as f64 / 1_048_576.0)
}

fn list(call: &mut Call<'_>) -> Result<(), Stop> {
    call.point(At::Middle)?;
    let storage = storage::find(call.layout(), call.args.required("storage"))?;
    let volumes = storage
        .volumes(call.layout())
        .map_err(|error| Stop::die(error.to_string()))?;
    let templates: Vec<_> = volumes
        .into_iter()
        .filter(|volume| volume.content == "vztmpl")
        .collect();
    if templates.is_empty() {
        return Ok(());
    }
    call.say(&format!("{:<60} {:<6}", "NAME", "SIZE"))?;
    for volume in templates {
        call.say(&format!("{:<60} {:<6}", volume.volid, megabytes(volume.size)))?;
    }
    Ok(())
}

fn download(call: &mut Call<'_>, usage: &str) -> Result<(), Stop> {
    let template = call.args.required("template").to_owned();
    if !index(call).iter().any(|(_, name)| *name == template) {
        return Err(Stop::parameters(
            &[("template".to_owned(), "no such template".to_owned())].into(),
            usage,
        ));
    }
    let storage = storage::find(call.layout(), call.args.required("storage"))?;
    let target = storage::path_of(call.layout(), &format!("{}:vztmpl/{template}", storage.id))?;
    let shown = call.layout().node_path(&target);
    worker(call, "download", "", |call| {
        let url = format!("http://download.proxmox.com/images/system/{template}");
        if target.exists() {
            call.say(&format!(
                "OK, got correct file already, no need to re-download '{shown}'"
            ))?;
            return Ok(());
        }
        call.say(&format!("downloading {url} to {shown}"))?;
        let temporary = target.with_extension(format!("tmp_dwnl.{}", std::process::id()));
        call.say(&format!("--2026-01-01 00:00:00--  {url}"))?;
        call.point(At::Middle)?;
        let pool = call
            .layout()
            .info()
            .template_pool
            .clone()
            .filter(|pool| !pool.join(OFFLINE).exists());
        let copied = pool.ok_or(io::ErrorKind::NotConnected.into()).and_then(|pool| {
            // Proxmox makes the folders of a storage when it activates it.
            temporary.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::copy(pool.join(&template), &temporary)
        });
        if copied.is_err() {
            // Nothing may be there to remove.
            let _ = fs::remove_file(&temporary);
            call.complain("failed: Temporary failure in name resolution.");
            return Err(Stop::die(format!(
                "command '/usr/bin/wget --progress=dot:giga -O {shown}.tmp {url}' failed: exit code 4"
            )));
        }
        fs::rename(&temporary, &target).map_err(|error| Stop::die(format!("unable to save file: {error}")))?;
        call.say(&format!("download of '{url}' to '{shown}' finished"))
    })
    .map(drop)
}

fn remove(call: &mut Call<'_>) -> Result<(), Stop> {
    call.point(At::Middle)?;
    let volume = call.args.required("template_path").to_owned();
    let path = storage::path_of(call.layout(), &volume)?;
    if !path.exists() {
        return Err(Stop::die(format!("volume '{volume}' does not exist")));
    }
    storage::free(call.layout(), &volume)
}
