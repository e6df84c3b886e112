//! What a user's apps may have in all, and whether more still fits in.

use super::ServiceError;
use crate::{
    operations::{configure::CONFIGURE, params::ConfigureParams},
    store::{
        Connection, StoreError,
        apps::{self, Resources},
        operations,
    },
};

/// What is asked for beyond what the user's apps have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct More {
    /// Apps.
    pub(super) apps: u64,
    /// Cores.
    pub(super) cpu_cores: u64,
    /// MiB.
    pub(super) memory_mb: u64,
    /// GiB.
    pub(super) disk_gb: u64,
}

/// What a change asks for beyond what its app has.
pub(super) fn grows(was: &Resources, cpu_cores: Option<u32>, memory_mb: Option<u32>, disk_gb: Option<u32>) -> More {
    let more = |asked: Option<u32>, was: u32| asked.map_or(0, |asked| asked.saturating_sub(was)).into();
    More {
        apps: 0,
        cpu_cores: more(cpu_cores, was.cpu_cores),
        memory_mb: more(memory_mb, was.memory_mb),
        disk_gb: more(disk_gb, was.disk_gb),
    }
}

/// Whether the owner may have that much more: 409. What changes that are under way have asked for counts as theirs already.
pub(super) async fn allows(conn: &mut Connection, owner_id: i64, more: &More) -> Result<(), ServiceError> {
    let quota = apps::quota(&mut *conn, owner_id).await?;
    let owned = apps::of_owner(&mut *conn, owner_id).await?;
    let mut used = More {
        apps: owned.len() as u64,
        ..More::default()
    };
    let volumes = owned.iter().flat_map(|(_, volumes)| volumes);
    used.disk_gb = volumes.map(|volume| u64::from(volume.size_gb)).sum();
    for (resources, _) in &owned {
        used.cpu_cores += u64::from(resources.cpu_cores);
        used.memory_mb += u64::from(resources.memory_mb);
        used.disk_gb += u64::from(resources.disk_gb);
    }
    for (params, was) in operations::under_way_of_owner(conn, owner_id, CONFIGURE.name).await? {
        let asked: ConfigureParams = serde_json::from_value(params).map_err(StoreError::from)?;
        let soon = grows(&was, asked.cpu_cores, asked.memory_mb, asked.disk_gb);
        used.cpu_cores += soon.cpu_cores;
        used.memory_mb += soon.memory_mb;
        used.disk_gb += soon.disk_gb;
    }
    for (name, limit, used, more) in [
        ("max_apps", quota.max_apps, used.apps, more.apps),
        ("max_cpu_cores", quota.max_cpu_cores, used.cpu_cores, more.cpu_cores),
        ("max_memory_mb", quota.max_memory_mb, used.memory_mb, more.memory_mb),
        ("max_disk_gb", quota.max_disk_gb, used.disk_gb, more.disk_gb),
    ] {
        // Who is above a limit that was lowered since may still take less.
        if let Some(limit) = limit
            && more > 0
            && used + more > limit
        {
            return Err(ServiceError::Conflict(format!(
                "the quota {name} is {limit}: {used} in use, {more} more asked for; delete an app or ask an admin for more"
            )));
        }
    }
    Ok(())
}
