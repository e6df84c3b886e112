//! Running a tool that outlives the agent, or attaching to one that runs or ran already.

use super::{
    NodeContext, files,
    silence::Silence,
    tool_dir::{Phase, Request, Status, ToolDir},
};
use proximity_protocol::ids::{OperationId, StepKey, Vmid};
use std::{fs, io, path::PathBuf, time::Duration};

/// How often it looks whether the processes live, and for new output.
const CHECK: Duration = Duration::from_millis(1000);
/// How long a shim may take to claim its folder.
const CLAIM: Duration = Duration::from_secs(60);
/// How much output is read back.
const OUTPUT_MAX: u64 = 64 * 1024;

/// The name of one run: its folder, its systemd unit, and the fence against a second one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToolId<'a> {
    pub(crate) operation: OperationId,
    pub(crate) step: &'a StepKey,
    /// Which tool of the step: a step may call several.
    pub(crate) name: &'a str,
}

impl ToolId<'_> {
    /// `proximity-op-<operation>-<step>-<attempt>-<tool>`.
    pub(crate) fn unit(&self) -> String {
        format!("proximity-op-{}-{}-{}", self.operation, self.step, self.name)
    }
}

/// What to run and how long.
#[derive(Debug, Clone)]
pub(crate) struct ToolCall {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) vmid: Option<Vmid>,
    /// How long it may tell nothing.
    pub(crate) silence: Duration,
    /// Sends TERM then. Only for what rolls itself back then (`pct create`).
    pub(crate) terminate: bool,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToolEnd {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl ToolEnd {
    pub(crate) fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// Why there is no end to report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// Nobody wrote down how it ended.
    #[error("the tool was interrupted and left no result")]
    Lost,
    /// It runs on. Its folder keeps the result.
    #[error("the tool {unit} has told nothing for {bound_s} s and goes on")]
    Deadline {
        /// Its unit.
        unit: String,
        /// The bound.
        bound_s: u64,
    },
    /// It could not be started.
    #[error("the tool cannot be started: {0}")]
    Start(String),
    /// Its folder cannot be used.
    #[error("the folder of the tool's result cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// Runs it, or attaches to the run of that name. `output` gets the newest line from time to time.
pub(crate) async fn run(
    node: &NodeContext,
    id: ToolId<'_>,
    call: &ToolCall,
    output: &mut (dyn FnMut(&str) + Send),
) -> Result<ToolEnd, ToolError> {
    let dir = ToolDir(node.state("tools").join(id.unit()));
    let request = Request::now(node.tools(), call.program.clone(), call.arguments.clone(), call.vmid)?;
    dir.create(&request)?;
    wait(node, &id.unit(), &dir, call, output).await
}

/// Removes the result of a run that only looked, so that the same name can be used for the next look.
pub(crate) fn discard(node: &NodeContext, id: ToolId<'_>) -> io::Result<()> {
    match fs::remove_dir_all(node.state("tools").join(id.unit())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what the ended tools of a step left. A step that has to wait (for a lock, for quorum) spends no try, so it comes back under the same name and
/// must act anew then instead of finding the old refusal.
pub(crate) fn discard_ended(node: &NodeContext, operation: OperationId, step: &StepKey) -> io::Result<()> {
    let own = format!("proximity-op-{operation}-{step}-");
    for entry in fs::read_dir(node.state("tools"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&own)
            && matches!(
                ToolDir(entry.path()).phase(node.tools())?,
                Phase::Ended(_) | Phase::Lost
            )
        {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a tool of that name has run for this container in an operation, as far as its results are kept.
pub(crate) fn has_run(node: &NodeContext, operation: OperationId, name: &str, vmid: Vmid) -> io::Result<bool> {
    let (start, end) = (format!("proximity-op-{operation}-"), format!("-{name}"));
    for entry in fs::read_dir(node.state("tools"))? {
        let entry = entry?;
        let unit = entry.file_name().to_string_lossy().into_owned();
        let dir = ToolDir(entry.path());
        if unit.starts_with(&start)
            && unit.ends_with(&end)
            && dir.request()?.is_some_and(|request| request.vmid == Some(vmid))
            && dir.phase(node.tools())? != Phase::Unclaimed
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// For which containers a tool of that name has run in an operation, as far as its results are kept.
pub(crate) fn have_run(node: &NodeContext, operation: OperationId, name: &str) -> io::Result<Vec<Vmid>> {
    let (start, end) = (format!("proximity-op-{operation}-"), format!("-{name}"));
    let mut found = Vec::new();
    for entry in fs::read_dir(node.state("tools"))? {
        let entry = entry?;
        let unit = entry.file_name().to_string_lossy().into_owned();
        if !unit.starts_with(&start) || !unit.ends_with(&end) {
            continue;
        }
        let dir = ToolDir(entry.path());
        if let Some(vmid) = dir.request()?.and_then(|request| request.vmid)
            && dir.is_claimed()
        {
            found.push(vmid);
        }
    }
    Ok(found)
}

/// Whether this run was ever asked for.
pub(crate) fn was_asked(node: &NodeContext, id: ToolId<'_>) -> bool {
    node.state("tools").join(id.unit()).join("request.json").exists()
}

/// When a run was asked for, to find what Proxmox itself wrote of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Seconds since 1970.
    pub(crate) unix_s: i64,
    /// Milliseconds since boot; `None`: before the machine was started anew.
    pub(crate) boot_ms: Option<i64>,
}

/// When this run was asked for; `None` if that is not known.
pub(crate) fn asked(node: &NodeContext, id: ToolId<'_>) -> io::Result<Option<Asked>> {
    let request = ToolDir(node.state("tools").join(id.unit())).request()?;
    Ok(request.map(|request| Asked {
        unix_s: request.asked_unix_ms / 1000,
        boot_ms: request.asked_since_boot_ms(node.tools()),
    }))
}

/// What a run has told so far, or told before it was lost.
pub(crate) fn told(node: &NodeContext, id: ToolId<'_>) -> io::Result<String> {
    let dir = ToolDir(node.state("tools").join(id.unit()));
    let (out, err) = (dir.file("stdout"), dir.file("stderr"));
    Ok(files::tail(&out, OUTPUT_MAX)? + &files::tail(&err, OUTPUT_MAX)?)
}

/// Runs of that name in an operation, whichever step and try they were of, that have not ended: TERM is sent to each. Answers how many.
pub(crate) fn terminate_all(node: &NodeContext, operation: OperationId, name: &str) -> io::Result<usize> {
    let (start, end) = (format!("proximity-op-{operation}-"), format!("-{name}"));
    let mut running = 0;
    for entry in fs::read_dir(node.state("tools"))? {
        let entry = entry?;
        let unit = entry.file_name().to_string_lossy().into_owned();
        let dir = ToolDir(entry.path());
        if unit.starts_with(&start) && unit.ends_with(&end) && dir.phase(node.tools())? == Phase::Running {
            running += 1;
            terminate(node, &dir)?;
        }
    }
    Ok(running)
}

/// What runs of that name in an operation said, as far as it is kept, each with the time at which it was asked for, seconds since 1970.
pub(crate) fn said_by_all(node: &NodeContext, operation: OperationId, name: &str) -> io::Result<Vec<(String, i64)>> {
    let (start, end) = (format!("proximity-op-{operation}-"), format!("-{name}"));
    let mut all = Vec::new();
    for entry in fs::read_dir(node.state("tools"))? {
        let entry = entry?;
        let unit = entry.file_name().to_string_lossy().into_owned();
        let dir = ToolDir(entry.path());
        if unit.starts_with(&start)
            && unit.ends_with(&end)
            && let Some(request) = dir.request()?
        {
            all.push((
                files::tail(&dir.file("stdout"), OUTPUT_MAX)?,
                request.asked_unix_ms / 1000,
            ));
        }
    }
    Ok(all)
}

/// A tool of another step that still changes this container, by its unit. A retry must not run beside it. With `ends_inside` (whoever stops the container
/// ends what runs inside it), commands inside it do not count: a script that never ends must not keep its container for ever.
pub(crate) fn busy(
    node: &NodeContext,
    vmid: Vmid,
    operation: OperationId,
    step: &StepKey,
    ends_inside: bool,
) -> io::Result<Option<String>> {
    let own = format!("proximity-op-{operation}-{step}-");
    for entry in fs::read_dir(node.state("tools"))? {
        let entry = entry?;
        let unit = entry.file_name().to_string_lossy().into_owned();
        let dir = ToolDir(entry.path());
        if unit.starts_with(&own) || dir.has_ended() {
            continue;
        }
        let concerns = match dir.request()? {
            Some(request) => request.vmid == Some(vmid) && !(ends_inside && request.runs_inside()),
            // Of a run whose request is damaged it is not known what it changes.
            None => dir.is_claimed(),
        };
        if !concerns {
            continue;
        }
        if dir.phase(node.tools())? == Phase::Running {
            return Ok(Some(unit));
        }
    }
    Ok(None)
}

async fn wait(
    node: &NodeContext,
    unit: &str,
    dir: &ToolDir,
    call: &ToolCall,
    output: &mut (dyn FnMut(&str) + Send),
) -> Result<ToolEnd, ToolError> {
    let tools = node.tools();
    let mut silence = Silence::of(tools, dir, dir.request()?.as_ref())?;
    let bound_ms = i64::try_from(call.silence.as_millis()).unwrap_or(i64::MAX);
    let mut claimed_by = None;
    let mut terminated = false;
    loop {
        match dir.phase(tools)? {
            Phase::Ended(status) => return end(dir, status),
            Phase::Lost => return Err(ToolError::Lost),
            Phase::Running => report(dir, output)?,
            Phase::Unclaimed => match claimed_by {
                None => {
                    tools
                        .start(unit, &dir.0)
                        .await
                        .map_err(|error| ToolError::Start(error.to_string()))?;
                    claimed_by = Some(tools.uptime() + CLAIM);
                }
                Some(limit) if tools.uptime() > limit => {
                    return Err(ToolError::Start(format!(
                        "{unit} did not begin within {} s",
                        CLAIM.as_secs()
                    )));
                }
                Some(_) => {}
            },
        }
        if silence.look(tools, dir)? > bound_ms {
            if !call.terminate {
                return Err(ToolError::Deadline {
                    unit: unit.to_owned(),
                    bound_s: call.silence.as_secs(),
                });
            }
            if !terminated {
                terminated = terminate(node, dir)?;
            }
        }
        tools.news(&dir.0, CHECK).await;
    }
}

/// TERM to the tool itself, not to its shim, which stays to write down what came of it.
fn terminate(node: &NodeContext, dir: &ToolDir) -> io::Result<bool> {
    match dir.child()? {
        Some(child) if node.tools().lives(&child) => node.tools().terminate(&child).map(|()| true),
        _ => Ok(false),
    }
}

fn report(dir: &ToolDir, output: &mut (dyn FnMut(&str) + Send)) -> io::Result<()> {
    let text = files::tail(&dir.file("stdout"), 2048)?;
    if let Some(line) = text.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
        output(line);
    }
    Ok(())
}

fn end(dir: &ToolDir, status: Status) -> Result<ToolEnd, ToolError> {
    if let Some(error) = status.start_error {
        return Err(ToolError::Start(error));
    }
    Ok(ToolEnd {
        code: status.code,
        stdout: files::tail(&dir.file("stdout"), OUTPUT_MAX)?,
        stderr: files::tail(&dir.file("stderr"), OUTPUT_MAX)?,
    })
}
