//! `user.cfg`: the lines of pools, `pool:<id>:<comment>:<guests>:<storages>:`, and of rights, `acl:<propagate>:<path>:<who>:<roles>:` (PVE::AccessControl).

use crate::call::Stop;
use crate::layout::Layout;
use crate::pmxcfs;

/// A guest that is destroyed leaves its pool, and the rights on it go.
pub(crate) fn forget_guest(layout: &Layout, vmid: u32) -> Result<(), Stop> {
    if !layout.pve_files().join("user.cfg").exists() {
        return Ok(());
    }
    pmxcfs::edit(layout, "user.cfg", |text| Ok(without(text, vmid)))
}

fn without(text: &str, vmid: u32) -> String {
    let guest = vmid.to_string();
    let path = format!("/vms/{guest}");
    text.lines()
        .filter(|line| !(line.starts_with("acl:") && line.split(':').nth(2) == Some(path.as_str())))
        .map(|line| {
            let mut parts: Vec<String> = line.split(':').map(str::to_owned).collect();
            if parts.first().is_some_and(|kind| kind == "pool")
                && let Some(guests) = parts.get_mut(3)
            {
                let kept: Vec<&str> = guests.split(',').filter(|other| *other != guest).collect();
                *guests = kept.join(",");
            }
            format!("{}\n", parts.join(":"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_that_guest_goes() {
        let text = "user:root@pam:1:0:::a@b.c:::\npool:apps:of Proximity:100,101,1000:local:\nacl:1:/vms/100:x@pve:PVEVMAdmin:\nacl:1:/:x@pve:PVEAuditor:\n";
        assert_eq!(
            without(text, 100),
            "user:root@pam:1:0:::a@b.c:::\npool:apps:of Proximity:101,1000:local:\nacl:1:/:x@pve:PVEAuditor:\n"
        );
        assert_eq!(without(text, 7), text);
    }
}
