//! The recipe's files are inside the container, for root only, and `install` has succeeded.
//!
//! Values reach the container as files of mode 0600, one for each, by way of files of mode 0600 in the agent's own folder that are removed after every
//! push. Nothing is interpolated into a script, and no value is in an argument.

use super::{
    act::{Act, Bound, failure},
    recipe_script::{self, RUN, Script},
    standing,
};
use crate::{host::files, pve::argv};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
    ids::Vmid,
    spec::{RECIPE_DIR, Recipe},
};
use std::{path::PathBuf, time::Duration};

/// How long one push may take.
const BOUND: Duration = Duration::from_secs(120);
pub(super) async fn run(act: &Act<'_>, target: &Target, recipe: &Recipe) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    act.check_idle(vmid)?;
    standing::require_running(act.node, target)?.check_made("nothing is installed in it")?;
    act.say(&format!("copying the recipe into container {vmid}"));
    let folders = [
        String::from("/var/lib/proximity"),
        RECIPE_DIR.into(),
        format!("{RECIPE_DIR}/env"),
        format!("{RECIPE_DIR}/files"),
    ];
    act.must(
        "folders",
        &argv::make_folders(vmid, &folders),
        Some(vmid),
        Bound::Wait(BOUND),
    )
    .await?;
    for (n, (name, content)) in contents(recipe).into_iter().enumerate() {
        push(act, vmid, n, &name, content).await?;
    }
    act.say("installing; this may take some minutes");
    let secrets: Vec<&str> = recipe.env.iter().map(|(_, value)| value.expose()).collect();
    let script = Script {
        tool: "install",
        path: "install",
        what: "installation",
        silence: Duration::from_secs(recipe.install_timeout_s.into()),
    };
    recipe_script::run(act, target, &script, &secrets).await?;
    Ok(Outcome::Done)
}

/// Names below the recipe's folder, and what is in them.
fn contents(recipe: &Recipe) -> Vec<(String, Vec<u8>)> {
    let mut all = vec![
        ("run".to_owned(), RUN.as_bytes().to_vec()),
        ("install".to_owned(), recipe.install.clone().into_bytes()),
        ("health".to_owned(), recipe.health.clone().into_bytes()),
        ("port".to_owned(), format!("{}\n", recipe.port).into_bytes()),
    ];
    all.extend(
        recipe
            .env
            .iter()
            .map(|(name, value)| (format!("env/{name}"), value.expose().as_bytes().to_vec())),
    );
    all.extend(
        recipe
            .files
            .iter()
            .map(|file| (format!("files/{}", file.name.as_str()), file.content.clone())),
    );
    all
}

/// A file of the agent's own that is gone when this is.
struct Temporary(PathBuf);
impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = files::remove_if_there(&self.0) {
            tracing::error!(path = %self.0.display(), %error, "a temporary file with an app's values could not be removed: remove it by hand");
        }
    }
}

pub(super) async fn push(act: &Act<'_>, vmid: Vmid, n: usize, name: &str, content: Vec<u8>) -> Result<(), Fault> {
    let content = zeroize::Zeroizing::new(content);
    let temporary = Temporary(
        act.node
            .state("tmp")
            .join(format!("{}-{}-{n}", act.operation, act.step)),
    );
    files::write_private(&temporary.0, &content).map_err(|error| {
        Fault::new(
            FaultKind::Internal,
            format!("{} cannot be written: {error}", temporary.0.display()),
        )
    })?;
    let argv = argv::push(vmid, &temporary.0, &format!("{RECIPE_DIR}/{name}"));
    let run = format!("push_{n}");
    let end = act.repeatable(&run, &argv, Some(vmid), Bound::Wait(BOUND)).await?;
    // It ends with zero also when it could not copy; only its words tell.
    if !end.success() || end.stderr.contains("failed to") {
        let fault = failure(&argv, &end);
        return Err(Fault {
            message: format!("{name} could not be copied into container {vmid}: {}", fault.message),
            ..fault
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proximity_protocol::{ids::EnvName, secret::SecretText};

    #[test]
    fn every_part_has_its_file() {
        let recipe = Recipe {
            install: "a".into(),
            health: "b".into(),
            files: vec![proximity_protocol::spec::RecipeFile {
                name: "x.conf".to_owned().try_into().unwrap(),
                content: vec![1],
            }],
            env: vec![(EnvName::new("DB").unwrap(), SecretText::new("s3cret"))],
            port: 80,
            install_timeout_s: 5,
        };
        let names: Vec<String> = contents(&recipe).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["run", "install", "health", "port", "env/DB", "files/x.conf"]);
    }
}
