//! The recipe's files are inside the container, for root only, and `install` has succeeded.
//!
//! Values reach the container as files of mode 0600, one for each, by way of files of mode 0600 in the agent's own folder that are removed after every
//! push. Nothing is interpolated into a script, and no value is in an argument.
//!
//! `run`, a script of our own, runs `install` and leaves a file inside that says how it ended: so that is known also when the tool that ran it was lost.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    standing,
};
use crate::{
    facts::processes,
    host::{files, tool::ToolEnd},
    pve::argv,
};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
    ids::Vmid,
    spec::{RECIPE_DIR, Recipe},
};
use std::{path::PathBuf, time::Duration};

/// How long one push may take.
const BOUND: Duration = Duration::from_secs(120);
/// The name of the installation's run.
const INSTALL: &str = "install";
/// Between two looks at an installation that goes on without a tool.
const LOOK: Duration = Duration::from_secs(1);
/// Runs `install` and keeps its exit code under the name of the run, which is its argument.
const RUN: &str = "#!/bin/sh
folder=/var/lib/proximity/recipe
rm -f \"$folder/end\"
/bin/sh \"$folder/install\"
code=$?
echo \"$1 $code\" > \"$folder/end.new\" && sync \"$folder/end.new\"
mv \"$folder/end.new\" \"$folder/end\"
exit $code
";

pub(super) async fn run(act: &Act<'_>, target: &Target, recipe: &Recipe) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    act.check_idle(vmid)?;
    standing::require_running(act.node, target)?;
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
    let name = format!("{}-{}", act.operation, act.step);
    let argv = argv::run_script_with(vmid, &format!("{RECIPE_DIR}/run"), &name);
    let silence = Duration::from_secs(recipe.install_timeout_s.into());
    let end = act
        .tool(INSTALL, &argv, Some(vmid), Bound::Wait(silence), &secrets)
        .await;
    let end = match end {
        Err(fault) if fault.kind == FaultKind::InDoubt => lost(act, target, &name, silence, fault).await?,
        other => other?,
    };
    if end.success() {
        return Ok(Outcome::Done);
    }
    if !standing::is_running(act.node, vmid)? {
        return Err(Fault::new(
            FaultKind::ContainerStopped,
            format!("container {vmid} stopped while its app was being installed"),
        ));
    }
    let text = format!("{}\n{}", end.stdout, end.stderr);
    let code = end
        .code
        .map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    Err(Fault::new(
        FaultKind::RecipeFailed,
        format!("the app's installation failed with {code}: {}", last_line(&text)),
    )
    .with_detail(&text))
}

/// How an installation ended whose tool left no result: it may go on inside the container, and leaves a file there at its end.
async fn lost(act: &Act<'_>, target: &Target, name: &str, silence: Duration, fault: Fault) -> Result<ToolEnd, Fault> {
    let vmid = target.vmid;
    standing::require_running(act.node, target)?;
    let tools = act.node.tools();
    let (mut told, mut since) = (act.told(INSTALL)?, tools.uptime());
    while processes::any_with_word(act.node, vmid, name) {
        let now = act.told(INSTALL)?;
        if now != told {
            (told, since) = (now, tools.uptime());
        } else if tools.uptime().saturating_sub(since) > silence {
            return Err(Fault::new(
                FaultKind::DeadlineExceeded,
                format!(
                    "the app's installation in container {vmid} has told nothing for {} s; it goes on",
                    silence.as_secs()
                ),
            ));
        }
        tools.sleep(LOOK).await;
    }
    let argv = argv::show_file(vmid, &format!("{RECIPE_DIR}/end"));
    let end = act.repeatable("installed", &argv, None, Bound::Wait(BOUND)).await?;
    let code = end
        .success()
        .then(|| end.stdout.trim().strip_prefix(name)?.trim().parse::<i32>().ok())
        .flatten();
    match code {
        Some(code) => Ok(ToolEnd {
            code: Some(code),
            stdout: act.told(INSTALL)?,
            stderr: String::new(),
        }),
        None => Err(did_not_happen(Fault {
            message: format!(
                "the app's installation was interrupted before its end: {}",
                fault.message
            ),
            ..fault
        })),
    }
}

fn last_line(text: &str) -> &str {
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("it said nothing")
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

async fn push(act: &Act<'_>, vmid: Vmid, n: usize, name: &str, content: Vec<u8>) -> Result<(), Fault> {
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
