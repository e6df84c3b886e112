//! Files that Proxmox writes into a container before each start: name, name servers, network (PVE::LXC::Setup::Debian).

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::Path;

use nix::libc::O_NOFOLLOW;

use super::settings::{ID_FIRST, Settings};
use super::volumes::make_folders;
use crate::body::{BodyError, Ct, io_at};

const BEGIN: &str = "# --- BEGIN PVE ---";
const END: &str = "# --- END PVE ---";

/// Writes them below `root`, the mounted tree of a container that does not run.
pub(super) fn write(ct: &Ct<'_>, settings: &Settings, root: &Path) -> Result<(), BodyError> {
    let hostname = hostname(ct);
    put(root, "etc", "hostname", &format!("{hostname}\n"))?;
    let address = ct
        .conf
        .networks()
        .iter()
        .find_map(|(_, net)| static_address(net.get("ip")?))
        .map_or(Ipv4Addr::new(127, 0, 1, 1), |(ip, _)| ip);
    let hosts = with_block(&get(root, "etc", "hosts")?, &format!("{address} {hostname}\n"));
    put(root, "etc", "hosts", &hosts)?;
    let servers = match ct.conf.get("nameserver") {
        Some(list) => list
            .split([' ', ',', ';'])
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect(),
        None => settings.name_servers(),
    };
    let mut resolv: String = ct
        .conf
        .get("searchdomain")
        .map(|domain| format!("search {domain}\n"))
        .unwrap_or_default();
    resolv.extend(servers.iter().map(|server| format!("nameserver {server}\n")));
    put(
        root,
        "etc",
        "resolv.conf",
        &with_block(&get(root, "etc", "resolv.conf")?, &resolv),
    )?;
    put(root, "etc/network", "interfaces", &interfaces(ct)?)
}

/// The name that the container gets.
pub(super) fn hostname(ct: &Ct<'_>) -> String {
    ct.conf
        .get("hostname")
        .map_or_else(|| format!("CT{}", ct.vmid), str::to_owned)
}

fn static_address(ip: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = ip.split_once('/')?;
    Some((
        address.parse().ok()?,
        prefix.parse().ok().filter(|prefix| *prefix <= 32)?,
    ))
}

fn interfaces(ct: &Ct<'_>) -> Result<String, BodyError> {
    let mut text = "auto lo\niface lo inet loopback\n".to_owned();
    for (number, net) in ct.conf.networks() {
        let name = net.get("name").unwrap_or("eth0");
        match net.get("ip") {
            None | Some("manual") => text.push_str(&format!("\nauto {name}\niface {name} inet manual\n")),
            Some("dhcp") => text.push_str(&format!("\nauto {name}\niface {name} inet dhcp\n")),
            Some(ip) => {
                let Some((address, prefix)) = static_address(ip) else {
                    return Err(BodyError::Failed(format!(
                        "net{number}: '{ip}' is no IPv4 address with a prefix"
                    )));
                };
                text.push_str(&format!(
                    "\nauto {name}\niface {name} inet static\n\taddress {address}/{prefix}\n"
                ));
                if let Some(gateway) = net.get("gw") {
                    text.push_str(&format!("\tgateway {gateway}\n"));
                }
            }
        }
    }
    Ok(text)
}

/// `text` with our block replaced, or put in front.
fn with_block(text: &str, block: &str) -> String {
    let block = format!("{BEGIN}\n{block}{END}\n");
    if let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) {
        let after = text[end..].split_once('\n').map_or("", |(_, rest)| rest);
        if begin < end {
            return format!("{}{block}{after}", &text[..begin]);
        }
    }
    format!("{block}{text}")
}

/// The text of a plain file; one that is missing or a link is empty.
fn get(root: &Path, folder: &str, name: &str) -> Result<String, BodyError> {
    let path = make_folders(root, Path::new(folder))?.join(name);
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return Ok(String::new());
    }
    let mut text = String::new();
    let mut file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW)
        .open(&path)
        .map_err(io_at(&path))?;
    file.read_to_string(&mut text).map_err(io_at(&path))?;
    Ok(text)
}

/// Writes a file anew, whatever was there: a link of the container is removed, not followed.
fn put(root: &Path, folder: &str, name: &str, text: &str) -> Result<(), BodyError> {
    let path = make_folders(root, Path::new(folder))?.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_at(&path)(error)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&path)
        .map_err(io_at(&path))?;
    file.write_all(text.as_bytes()).map_err(io_at(&path))?;
    chown(&path, Some(ID_FIRST), Some(ID_FIRST)).map_err(io_at(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_replaced_and_the_rest_stays() {
        let first = with_block("127.0.0.1 localhost\n", "10.0.0.2 a\n");
        assert_eq!(first, format!("{BEGIN}\n10.0.0.2 a\n{END}\n127.0.0.1 localhost\n"));
        assert_eq!(
            with_block(&first, "10.0.0.3 b\n"),
            format!("{BEGIN}\n10.0.0.3 b\n{END}\n127.0.0.1 localhost\n")
        );
    }

    #[test]
    fn an_address_needs_its_prefix() {
        assert_eq!(static_address("10.0.0.2/24"), Some((Ipv4Addr::new(10, 0, 0, 2), 24)));
        assert_eq!(static_address("10.0.0.2"), None);
        assert_eq!(static_address("10.0.0.2/33"), None);
    }
}
