//! The recipe's values inside the container are these, and the recipe has been told: its file `configure` is run if it brought one, else `install` once more,
//! which may be repeated at any time. Both lie in the container since it was deployed, so that they fit what is installed there.

use super::{
    act::{Act, Bound, failure},
    install_recipe,
    recipe_script::{self, RUN, Script},
    standing,
};
use crate::pve::argv;
use proximity_protocol::{
    command::{Outcome, Target},
    fault::Fault,
    spec::{CONFIGURE_FILE, RECIPE_DIR, Values},
};
use std::time::Duration;

/// How long a look or a removal inside may take.
const BOUND: Duration = Duration::from_secs(120);

pub(super) async fn run(act: &Act<'_>, target: &Target, values: &Values) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    act.check_idle(vmid)?;
    standing::require_running(act.node, target)?.check_made("nothing is changed inside it")?;
    act.say(&format!("writing the app's values into container {vmid}"));
    for (n, (name, value)) in values.env.iter().enumerate() {
        let content = value.expose().as_bytes().to_vec();
        install_recipe::push(act, vmid, n, &format!("env/{name}"), content).await?;
    }
    if !values.forget.is_empty() {
        let files: Vec<String> = values
            .forget
            .iter()
            .map(|name| format!("{RECIPE_DIR}/env/{name}"))
            .collect();
        let argv = argv::remove_files(vmid, &files);
        act.must("forget", &argv, Some(vmid), Bound::Wait(BOUND)).await?;
    }
    // The container may have it from an older agent.
    install_recipe::push(act, vmid, values.env.len(), "run", RUN.as_bytes().to_vec()).await?;
    let configure = format!("files/{CONFIGURE_FILE}");
    let look = argv::is_file(vmid, &format!("{RECIPE_DIR}/{configure}"));
    let end = act.repeatable("look", &look, Some(vmid), Bound::Wait(BOUND)).await?;
    let path = match end.code {
        Some(0) => configure.as_str(),
        Some(1) => "install",
        _ => return Err(failure(&look, &end)),
    };
    act.say("telling the app its new values; this may take some minutes");
    let secrets: Vec<&str> = values.env.iter().map(|(_, value)| value.expose()).collect();
    let script = Script {
        tool: "configure",
        path,
        what: "change to its new values",
        silence: Duration::from_secs(values.timeout_s.into()),
    };
    recipe_script::run(act, target, &script, &secrets).await?;
    Ok(Outcome::Done)
}
