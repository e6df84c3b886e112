//! `pveversion`.

use crate::call::{Call, Stop};

pub(crate) fn run(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    call.around(|call| {
        let version = &call.layout().info().pve_version;
        match argv.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => {
                let line = format!("pve-manager/{version}/2606ac85b1a4 (running kernel: 6.8.12-9-pve)");
                call.say(&line)
            }
            ["--verbose" | "-verbose" | "-v"] => {
                let release = version.split('.').next().unwrap_or("8");
                let line = format!(
                    "proxmox-ve: {release}.0.0 (running kernel: 6.8.12-9-pve)\npve-manager: {version} (running version: {version}/2606ac85b1a4)"
                );
                call.say(&line)
            }
            _ => Err(Stop::die("400 unable to parse option\npveversion  [OPTIONS]")),
        }
    })
}
