//! Picks VMIDs, ports and addresses and takes them for an app, inside the transaction that needs them: the primary keys of the reservations decide.

use super::surroundings::Surroundings;
use crate::{
    clock::UnixMs,
    store::{Connection, StoreError, reservations},
};
use std::net::Ipv4Addr;

/// Takes the next free VMID; `None` if the range is full.
pub async fn vmid(
    tx: &mut Connection,
    now: UnixMs,
    around: &Surroundings,
    app: &str,
    generation: u32,
) -> Result<Option<u32>, StoreError> {
    let Some(range) = around.vmids else { return Ok(None) };
    let mut taken = reservations::taken_vmids(&mut *tx, now, around.host_id).await?;
    taken.extend(&around.seen.vmids);
    let Some(vmid) = range.next_free(&taken) else {
        return Ok(None);
    };
    reservations::take_vmid(tx, now, around.host_id, vmid.get(), app, generation).await?;
    Ok(Some(vmid.get()))
}

/// Takes the next free public port; `None` if the range is full.
pub async fn port(
    tx: &mut Connection,
    now: UnixMs,
    around: &Surroundings,
    app: &str,
) -> Result<Option<u16>, StoreError> {
    let Some(range) = around.ports else { return Ok(None) };
    let mut taken = reservations::taken_ports(&mut *tx, now, around.host_id).await?;
    taken.extend(&around.seen.ports);
    let Some(port) = range.next_free(&taken) else {
        return Ok(None);
    };
    reservations::take_port(tx, now, around.host_id, port, app).await?;
    Ok(Some(port))
}

/// Takes the next free address of a host with static ones; `None` if the range is full.
pub async fn address(
    tx: &mut Connection,
    now: UnixMs,
    around: &Surroundings,
    app: &str,
) -> Result<Option<Ipv4Addr>, StoreError> {
    let Some(pool) = &around.network.pool else {
        return Ok(None);
    };
    let mut taken = reservations::taken_addresses(&mut *tx, now, around.host_id).await?;
    taken.extend(&around.seen.addresses);
    let Some(address) = pool.next_free(&taken) else {
        return Ok(None);
    };
    reservations::take_address(tx, now, around.host_id, address, app).await?;
    Ok(Some(address))
}
