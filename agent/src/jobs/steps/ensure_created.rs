//! The container exists, made as asked and recorded as ours.

use super::{
    act::{Act, Bound, failure},
    leftover,
    making::{self, CREATE, Found, Making},
};
use crate::pve::argv;
use proximity_protocol::{command::Outcome, fault::Fault, spec::ContainerSpec};
use std::time::Duration;

/// Unpacking a big template on a slow disk takes minutes; after this it is told to roll back.
const BOUND: Duration = Duration::from_secs(1_800);

pub(super) async fn run(act: &Act<'_>, spec: &ContainerSpec) -> Result<Outcome, Fault> {
    let vmid = spec.vmid;
    act.check_idle(vmid)?;
    let making = Making {
        act,
        vmid,
        owner: &spec.owner,
        of_adopted: false,
    };
    if !act.has_called(CREATE) {
        match making.find()? {
            Found::Whole(conf, record) => return making.finish(&conf, record),
            Found::Half => leftover::remove(act, vmid).await?,
            Found::Nothing => {}
        }
        making::check_storage(act, &spec.storage)?;
        making::check_bridge(act, &spec.network.bridge)?;
        making.begin()?;
        act.say(&format!("creating container {vmid} from {}", spec.template));
    }
    let argv = argv::create(spec);
    let end = act.tool(CREATE, &argv, Some(vmid), Bound::Terminate(BOUND), &[]).await;
    let fault = match end {
        Ok(end) if end.success() => None,
        Ok(end) => Some(failure(&argv, &end)),
        Err(fault) => Some(fault),
    };
    let (conf, record) = making.made(fault, "pct create")?;
    making.finish(&conf, record)
}
