//! One simulated node, and its in-process door.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use crate::body::{self, Body, Ct};
use crate::call::{Call, EXIT_KILLED, EXIT_NOT_SIMULATED, Signals, Stop, Streams};
use crate::clock::{Clock, SystemClock};
use crate::conf::{Properties, Section};
use crate::layout::Layout;
use crate::options::Arguments;
use crate::script::{At, Faults};

/// A node whose files lie under one root directory.
#[derive(Debug)]
pub struct Node {
    pub(crate) layout: Layout,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) body: Box<dyn Body>,
    /// HA itself calls the tools: they act at once and ask it nothing.
    pub(crate) by_ha: bool,
    pub(crate) faults: Option<Arc<dyn Faults>>,
    /// Number and start, in ticks since boot, of the process that tasks name.
    pub(crate) process: Option<(u32, u64)>,
    signals: Signals,
}

impl Node {
    /// Opens the node under `root`.
    ///
    /// # Errors
    /// When `node.json` is missing or not understood.
    pub fn open(root: &Path) -> io::Result<Self> {
        let layout = Layout::open(root)?;
        let body = body::of(layout.info().body);
        Ok(Self {
            layout,
            clock: Arc::new(SystemClock),
            body,
            by_ha: false,
            faults: None,
            process: None,
            signals: Signals::default(),
        })
    }

    /// With another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// As the node's local HA manager calls the tools.
    #[must_use]
    pub(crate) fn by_ha(mut self) -> Self {
        self.by_ha = true;
        self
    }

    /// With faults that a program decides, besides those of the script.
    #[must_use]
    pub fn with_faults(mut self, faults: Arc<dyn Faults>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// As a process of that number, begun so many clock ticks after boot: tasks name it as theirs. For whoever plays several processes in one.
    #[must_use]
    pub fn as_process(mut self, pid: u32, started_ticks: u64) -> Self {
        self.process = Some((pid, started_ticks));
        self
    }

    /// The node's files.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Raised, it is TERM to the tool that runs now and to all later ones.
    pub fn signals(&self) -> Signals {
        self.signals.clone()
    }

    /// Runs a tool in this process, without stdin: `run("pct", &["start", "100"], …)`. Answers its exit code. Where the
    /// executable would kill itself with SIGKILL, this answers 137 and leaves everything as it is at that moment.
    pub fn run(&self, tool: &str, argv: &[String], out: &mut dyn Write, err: &mut dyn Write) -> i32 {
        self.run_with_input(tool, argv, &mut io::empty(), out, err)
    }

    /// As [`Node::run`], with something to read.
    pub fn run_with_input(
        &self,
        tool: &str,
        argv: &[String],
        stdin: &mut dyn Read,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> i32 {
        self.run_with(
            tool,
            argv,
            Streams {
                stdin,
                out,
                err,
                own: false,
            },
        )
    }

    /// Runs a tool as the executable does: the streams are the process's own, SIGKILL is real.
    pub fn run_as_process(
        &self,
        tool: &str,
        argv: &[String],
        stdin: &mut dyn Read,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> i32 {
        self.run_with(
            tool,
            argv,
            Streams {
                stdin,
                out,
                err,
                own: true,
            },
        )
    }

    fn run_with(&self, tool: &str, argv: &[String], streams: Streams<'_>) -> i32 {
        let Streams { stdin, out, err, own } = streams;
        // Borrowed anew, so that all lifetimes are the shortest.
        let streams = Streams {
            stdin: &mut *stdin,
            out: &mut *out,
            err: &mut *err,
            own,
        };
        let mut call = Call {
            node: self,
            tool: tool.to_owned(),
            sub: String::new(),
            vmid: None,
            args: Arguments::default(),
            streams,
            signals: self.signals.clone(),
            task: None,
            answer_lost: false,
            at_death: None,
        };
        let result = crate::tools::dispatch(&mut call, argv);
        let code = match result {
            Ok(()) => 0,
            Err(Stop::Exit(code)) => code,
            Err(Stop::Killed) => EXIT_KILLED,
            Err(stop) => {
                let text = stop.text();
                call.complain(text.strip_suffix('\n').unwrap_or(&text));
                match stop {
                    Stop::NotSimulated(_) => EXIT_NOT_SIMULATED,
                    Stop::Fail { exit, .. } => exit,
                    _ => 255,
                }
            }
        };
        if call.answer_lost {
            // The act is done and nobody hears of it.
            call.kill_self();
            return EXIT_KILLED;
        }
        code
    }

    /// The container as the body wants to see it.
    pub(crate) fn ct<'a>(
        &'a self,
        vmid: u32,
        conf: &'a Section,
        root_volume: &'a Path,
        signals: &'a Signals,
    ) -> Ct<'a> {
        Ct {
            layout: &self.layout,
            clock: self.clock.as_ref(),
            vmid,
            conf,
            root_volume,
            interrupted: signals,
        }
    }

    pub(crate) fn is_running(&self, vmid: u32) -> bool {
        self.body.is_running(&self.layout, vmid)
    }
}

impl Call<'_> {
    /// Calls `act` with the body's view of a container.
    pub(crate) fn with_ct<T>(&self, vmid: u32, conf: &Section, act: impl FnOnce(&dyn Body, &Ct<'_>) -> T) -> T {
        let volume = conf.get("rootfs").map(|rootfs| Properties::parse(rootfs, "volume"));
        let path = volume
            .and_then(|volume| {
                crate::storage::path_of(&self.node.layout, volume.get("volume").unwrap_or_default()).ok()
            })
            .unwrap_or_default();
        act(self.node.body.as_ref(), &self.node.ct(vmid, conf, &path, &self.signals))
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.node.layout
    }

    /// The two points around a command whose act the caller does itself.
    pub(crate) fn around(&mut self, act: impl FnOnce(&mut Self) -> Result<(), Stop>) -> Result<(), Stop> {
        self.point(At::Before)?;
        act(self)?;
        self.point(At::After)
    }
}
