//! `pvesm`: status, list, path, alloc, free, extractconfig. Storages are not added or changed here: edit `storage.cfg`.

use std::fs;

use crate::call::{Call, Stop};
use crate::options::command;
use crate::script::At;
use crate::storage::{self, KIB, Storage};

pub(crate) fn run(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    let sub = argv.first().map(String::as_str).unwrap_or_default();
    sub.clone_into(&mut call.sub);
    let Some(spec) = command("pvesm", sub) else {
        return Err(Stop::NotSimulated(format!("pvesm {sub}")));
    };
    call.args = spec.parse("pvesm", sub, &argv[1..])?;
    call.vmid = call.args.vmid();
    let usage = spec.usage("pvesm", sub);
    call.around(|call| {
        call.point(At::Middle)?;
        match sub {
            "status" => status(call, &usage),
            "list" => list(call),
            "path" => {
                let path = storage::path_of(call.layout(), call.args.required("volume"))?;
                let shown = call.layout().node_path(&path);
                call.say(&shown)
            }
            "alloc" => alloc(call),
            "free" => free(call),
            "extractconfig" => extractconfig(call),
            _ => Err(Stop::NotSimulated(format!("pvesm {sub}"))),
        }
    })
}

#[expect(clippy::cast_precision_loss)]
fn status(call: &mut Call<'_>, usage: &str) -> Result<(), Stop> {
    let mut storages = storage::all(call.layout())?;
    storages.sort_by(|a, b| a.id.cmp(&b.id));
    if let Some(wanted) = call.args.get("storage") {
        storages.retain(|storage| storage.id == wanted);
        if storages.is_empty() {
            return Err(Stop::parameters(
                &[("storage".to_owned(), "No such storage.".to_owned())].into(),
                usage,
            ));
        }
    }
    if let Some(content) = call.args.get("content") {
        storages.retain(|storage| {
            content
                .split(',')
                .any(|wanted| storage.content.iter().any(|held| held == wanted))
        });
    }
    let width = storages
        .iter()
        .map(|storage| storage.id.len())
        .max()
        .unwrap_or(0)
        .max(4);
    call.say(&format!(
        "{:<width$} {:>10} {:>10} {:>15} {:>15} {:>15} {:>8}",
        "Name", "Type", "Status", "Total", "Used", "Available", "%"
    ))?;
    for storage in storages {
        let (total, used, available) = storage.usage(call.layout());
        let percent = used as f64 * 100.0 / total.max(1) as f64;
        call.say(&format!(
            "{:<width$} {:>10} {:>10} {:>15} {:>15} {:>15} {:>7.2}%",
            storage.id,
            storage.kind,
            "active",
            total / KIB,
            used / KIB,
            available / KIB,
            percent
        ))?;
    }
    Ok(())
}

fn list(call: &mut Call<'_>) -> Result<(), Stop> {
    let storage = storage::find(call.layout(), call.args.required("storage"))?;
    storage.activate(call.layout())?;
    let mut volumes = storage
        .volumes(call.layout())
        .map_err(|error| Stop::die(error.to_string()))?;
    if let Some(content) = call.args.get("content") {
        volumes.retain(|volume| volume.content == content);
    }
    if let Some(vmid) = call.args.vmid() {
        volumes.retain(|volume| volume.vmid == Some(vmid));
    }
    let volid = volumes
        .iter()
        .map(|volume| volume.volid.len())
        .max()
        .unwrap_or(0)
        .max(5);
    let format = volumes
        .iter()
        .map(|volume| volume.format.len())
        .max()
        .unwrap_or(0)
        .max(6);
    let content = volumes
        .iter()
        .map(|volume| volume.content.len())
        .max()
        .unwrap_or(0)
        .max(6);
    let size = volumes
        .iter()
        .map(|volume| volume.size.to_string().len())
        .max()
        .unwrap_or(0)
        .max(10);
    call.say(&format!(
        "{:<volid$} {:<format$} {:<content$} {:>size$} VMID",
        "Volid", "Format", "Type", "Size"
    ))?;
    for volume in volumes {
        let vmid = volume.vmid.map(|vmid| format!(" {vmid}")).unwrap_or_default();
        call.say(&format!(
            "{:<volid$} {:<format$} {:<content$} {:>size$}{vmid}",
            volume.volid, volume.format, volume.content, volume.size
        ))?;
    }
    Ok(())
}

fn alloc(call: &mut Call<'_>) -> Result<(), Stop> {
    let storage: Storage = storage::find(call.layout(), call.args.required("storage"))?;
    let name = call.args.required("filename").to_owned();
    let Some(size) = storage::parse_size(call.args.required("size"), KIB) else {
        return Err(Stop::die("unable to parse size"));
    };
    let volid = format!("{}:{}/{name}", storage.id, call.vmid.unwrap_or_default());
    let path = storage::path_of(call.layout(), &volid)?;
    if path.exists() {
        return Err(Stop::die(format!(
            "disk image '{}' already exists",
            call.layout().node_path(&path)
        )));
    }
    storage::allocate_raw(call, &storage, &path, size)?;
    call.say(&format!("successfully created '{volid}'"))
}

fn free(call: &mut Call<'_>) -> Result<(), Stop> {
    let volume = call.args.required("volume").to_owned();
    let path = storage::active_path_of(call.layout(), &volume)?;
    if path
        .with_file_name(format!(
            "{}.protected",
            path.file_name().unwrap_or_default().to_string_lossy()
        ))
        .exists()
    {
        return Err(Stop::die(format!("can't remove volume '{volume}' - protected")));
    }
    if !path.exists() {
        let shown = call.layout().node_path(&path);
        call.say(&format!("disk image '{shown}' does not exist"))?;
    }
    storage::free(call.layout(), &volume)?;
    for companion in crate::vzdump::companions(&path) {
        // Companions of a backup may be missing.
        let _ = fs::remove_file(companion);
    }
    call.say(&format!("Removed volume '{volume}'"))
}

fn extractconfig(call: &mut Call<'_>) -> Result<(), Stop> {
    let volume = call.args.required("volume").to_owned();
    let path = storage::active_path_of(call.layout(), &volume)?;
    if !path.exists() {
        return Err(Stop::die(format!("volume '{volume}' does not exist")));
    }
    let text = call.node.body.saved_config(&storage::archive_file(&path))?;
    call.print(&format!("{text}\n"))
}
