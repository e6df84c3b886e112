//! Worker tasks: UPIDs, their logs, and the lists `active` and `index` beside them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use crate::call::{Call, Stop};
use crate::clock::now_s;
use crate::layout::{Layout, write_atomically};
use crate::locks::try_lock;
use crate::node::Node;

/// The log of the running task.
#[derive(Debug)]
pub(crate) struct TaskLog {
    upid: String,
    file: File,
}

impl TaskLog {
    pub(crate) fn write(&mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())
    }
}

/// Runs `act` as a worker of type `kind`: its output goes into the task log too, and its end is written there.
/// Answers the UPID with the result.
pub(crate) fn worker<T>(
    call: &mut Call<'_>,
    kind: &str,
    id: &str,
    act: impl FnOnce(&mut Call<'_>) -> Result<T, Stop>,
) -> Result<(String, T), Stop> {
    let failed = |error: io::Error| Stop::die(format!("unable to create task log: {error}"));
    let log = begin(call.node, kind, id).map_err(failed)?;
    let upid = log.upid.clone();
    call.task = Some(log);
    let result = act(call);
    let log = call.task.take();
    let status = match &result {
        // A fault that claims success has it in the log as well.
        Ok(_) | Err(Stop::Exit(0)) => "OK".to_owned(),
        Err(Stop::Killed) => return Err(Stop::Killed),
        Err(stop) => stop.text().lines().last().unwrap_or_default().to_owned(),
    };
    let last = if status == "OK" {
        "TASK OK".to_owned()
    } else {
        format!(
            "TASK ERROR: {}",
            result.as_ref().err().map(Stop::text).unwrap_or_default()
        )
    };
    if let Some(mut log) = log {
        log.write(&last).map_err(failed)?;
    }
    finish(&call.node.layout, &upid, now_s(call.node.clock.as_ref()), &status).map_err(failed)?;
    result.map(|value| (upid, value))
}

/// `UPID:node:PID:PSTART:START:type:id:user@realm:`
fn begin(node: &Node, kind: &str, id: &str) -> io::Result<TaskLog> {
    let layout = &node.layout;
    let folder = layout.tasks();
    std::fs::create_dir_all(&folder)?;
    let (pid, ticks) = node.process.unwrap_or_else(|| (std::process::id(), process_start()));
    let mut start = now_s(node.clock.as_ref());
    loop {
        let upid = format!(
            "UPID:{}:{pid:08X}:{ticks:08X}:{start:08X}:{kind}:{id}:root@pam:",
            layout.info().name,
        );
        let place = folder.join(format!("{:X}", start & 0xf));
        std::fs::create_dir_all(&place)?;
        match OpenOptions::new().append(true).create_new(true).open(place.join(&upid)) {
            Ok(file) => {
                change_active(layout, |lines| lines.push(format!("{upid} 0")))?;
                return Ok(TaskLog { upid, file });
            }
            // Two of a kind in one second, only possible in-process: the id must still be unique.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => start += 1,
            Err(error) => return Err(error),
        }
    }
}

fn finish(layout: &Layout, upid: &str, end_s: u64, status: &str) -> io::Result<()> {
    change_active(layout, |lines| {
        lines.retain(|line| !line.starts_with(upid));
        lines.push(format!("{upid} 1 {end_s:08X} {status}"));
        let surplus = lines.len().saturating_sub(25);
        lines.drain(..surplus);
    })?;
    let mut index = OpenOptions::new()
        .append(true)
        .create(true)
        .open(layout.tasks().join("index"))?;
    writeln!(index, "{upid} {end_s:08X} {status}")
}

fn change_active(layout: &Layout, change: impl FnOnce(&mut Vec<String>)) -> io::Result<()> {
    let lock = layout.tasks().join(".active.lock");
    // Held only for the moment of a rewrite.
    let _held = loop {
        if let Some(file) = try_lock(&lock)? {
            break file;
        }
        std::thread::yield_now();
    };
    let path = layout.tasks().join("active");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    change(&mut lines);
    write_atomically(&path, format!("{}\n", lines.join("\n")).as_bytes())
}

/// Start of this process in clock ticks since boot (field 22 of `/proc/self/stat`).
fn process_start() -> u64 {
    std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok())
        .unwrap_or(1)
}
