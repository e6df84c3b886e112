//! What reaches into a container: `pct exec`, `push`, `pull`.

use std::path::PathBuf;

use crate::body::{FileOwner, Stdio};
use crate::call::{Call, Stop};
use crate::pmxcfs;
use crate::script::At;
use crate::tasks::worker;

pub(super) fn exec(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let config = pmxcfs::load(call.layout(), vmid)?;
    if call.args.rest.is_empty() {
        return Err(Stop::die(
            "missing command at /usr/share/perl5/PVE/CLI/pct.pm line 156.",
        ));
    }
    if !call.node.is_running(vmid) {
        return Err(Stop::die(format!("container '{vmid}' not running!")));
    }
    call.point(At::Middle)?;
    let keep_env = call.args.get("keep-env") != Some("0");
    let argv = call.args.rest.clone();
    let node = call.node;
    let volume = PathBuf::new();
    let ct = node.ct(vmid, &config.current, &volume, &call.signals);
    let streams = &mut call.streams;
    let stdio = Stdio {
        stdin: streams.stdin,
        out: streams.out,
        err: streams.err,
        inherit: streams.own,
    };
    match node.body.exec(&ct, &argv, keep_env, stdio)? {
        0 => Ok(()),
        code => {
            // A command that failed is still an exec that was done.
            call.point(At::After)?;
            Err(Stop::Exit(code))
        }
    }
}

fn owner(call: &Call<'_>) -> Result<FileOwner, Stop> {
    let mode = match call.args.get("perms") {
        None => 0o644,
        Some(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8)
            .map_err(|_| Stop::die(format!("invalid permissions: '{text}'")))?,
    };
    let word = |name: &str| call.args.get(name).unwrap_or("0").to_owned();
    Ok(FileOwner {
        mode,
        user: word("user"),
        group: word("group"),
    })
}

/// A failed copy is said on stderr and is no failure: exit 0.
fn forgive(call: &mut Call<'_>, result: Result<(String, ()), Stop>) -> Result<(), Stop> {
    match result {
        Err(Stop::Die(text)) => {
            call.complain(&text);
            Ok(())
        }
        other => other.map(drop),
    }
}

pub(super) fn push(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let config = pmxcfs::load(call.layout(), vmid)?;
    if !call.node.is_running(vmid) {
        return Err(Stop::die("can only push files to a running CT"));
    }
    let owner = owner(call)?;
    let from = PathBuf::from(call.args.required("file"));
    let to = call.args.required("destination").to_owned();
    let result = worker(call, "push_file", &vmid.to_string(), |call| {
        call.point(At::Middle)?;
        call.with_ct(vmid, &config.current, |body, ct| body.push(ct, &from, &to, &owner))?;
        Ok(())
    });
    forgive(call, result)
}

pub(super) fn pull(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let config = pmxcfs::load(call.layout(), vmid)?;
    if !call.node.is_running(vmid) {
        return Err(Stop::die("can only pull files from a running CT"));
    }
    let owner = owner(call)?;
    let from = call.args.required("path").to_owned();
    let to = PathBuf::from(call.args.required("destination"));
    let result = worker(call, "pull_file", &vmid.to_string(), |call| {
        call.point(At::Middle)?;
        call.with_ct(vmid, &config.current, |body, ct| body.pull(ct, &from, &to, &owner))?;
        Ok(())
    });
    forgive(call, result)
}
