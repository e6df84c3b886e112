//! Which containers run: those whose command socket is in `/proc/net/unix`. So decides `pct` itself (PVE::LXC::check_running).

use super::NodeContext;
use proximity_protocol::ids::Vmid;
use std::{collections::BTreeSet, fs, io};

/// Numbers of the containers that run.
pub(crate) fn running(node: &NodeContext) -> io::Result<BTreeSet<Vmid>> {
    let text = fs::read(node.proc("net/unix"))?;
    let text = String::from_utf8_lossy(&text);
    let lxc = node.host().lxc.to_string_lossy();
    Ok(parse(&text, lxc.trim_end_matches('/')))
}

/// Whether this one runs.
pub(crate) fn is_running(node: &NodeContext, vmid: Vmid) -> io::Result<bool> {
    Ok(running(node)?.contains(&vmid))
}

fn parse(text: &str, lxc: &str) -> BTreeSet<Vmid> {
    text.lines()
        .filter_map(|line| {
            let (_, path) = line.split_once('@')?;
            path.strip_prefix(lxc)?
                .strip_prefix('/')?
                .strip_suffix("/command")?
                .parse()
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_command_sockets_of_the_path_count() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 31 @/var/lib/lxc/102/command\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 32 @/other/lxc/103/command\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 33 /run/x.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 34\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 35 @/var/lib/lxc/102/command\n";
        assert_eq!(parse(text, "/var/lib/lxc"), BTreeSet::from([Vmid::new(102).unwrap()]));
    }
}
