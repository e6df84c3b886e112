//! Two machines' worth of network with one wire between them: namespaces, so that packets can be dropped, answered or cut without touching the machine.

use anyhow::{Context, Result, bail};
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Both ends. Dropped, the namespaces are gone.
#[derive(Debug)]
pub struct Wire {
    here: String,
    there: String,
}

fn run(words: &[&str]) -> Result<()> {
    let (program, arguments) = words.split_first().context("no program")?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{words:?}"))?;
    if !output.status.success() {
        bail!("{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A namespace with nothing but a loopback.
#[derive(Debug)]
pub struct Island(String);

impl Island {
    /// Makes it. `None`, with a line that says why, where this user may not.
    pub fn new(for_what: &str) -> Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: {for_what}: network namespaces need root");
            return Ok(None);
        }
        let name = name("island");
        run(&["ip", "netns", "add", &name])?;
        let island = Self(name);
        run(&["ip", "-n", &island.0, "link", "set", "lo", "up"])?;
        Ok(Some(island))
    }

    /// The command, run on it.
    pub fn on(&self, command: &Command) -> Command {
        within(&self.0, command)
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn name(what: &str) -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("proximity-{what}-{}-{number}", std::process::id())
}

fn remove(namespace: &str) {
    if let Err(error) = run(&["ip", "netns", "delete", namespace]) {
        eprintln!("{error:#}");
    }
}

fn within(namespace: &str, command: &Command) -> Command {
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", namespace]);
    inside.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(key, value),
            None => inside.env_remove(key),
        };
    }
    inside
}

impl Wire {
    /// The address of the end on which commands are run.
    pub const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// That of the other end.
    pub const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    /// An address of the same network that nobody has.
    pub const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

    /// Makes it. `None`, with a line that says why, where this user may not.
    pub fn new(for_what: &str) -> Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: {for_what}: network namespaces need root");
            return Ok(None);
        }
        let (here, there) = (name("here"), name("there"));
        run(&["ip", "netns", "add", &here])?;
        run(&["ip", "netns", "add", &there])?;
        let wire = Self { here, there };
        let (here, there) = (&wire.here, &wire.there);
        run(&[
            "ip", "-n", here, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", there,
        ])?;
        for (end, address) in [(here, Self::HERE), (there, Self::THERE)] {
            run(&[
                "ip",
                "-n",
                end,
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                "wire",
            ])?;
            run(&["ip", "-n", end, "link", "set", "lo", "up"])?;
            run(&["ip", "-n", end, "link", "set", "wire", "up"])?;
        }
        Ok(Some(wire))
    }

    /// The command, run here.
    pub fn here(&self, command: &Command) -> Command {
        within(&self.here, command)
    }

    /// A bridge of this end, with an address.
    pub fn bridge_here(&self, name: &str, address: &str) -> Result<()> {
        let here = &self.here;
        run(&["ip", "-n", here, "link", "add", name, "type", "bridge"])?;
        run(&["ip", "-n", here, "address", "add", address, "dev", name])?;
        run(&["ip", "-n", here, "link", "set", name, "up"])
    }

    /// How large a packet the wire takes.
    pub fn mtu(&self, bytes: u32) -> Result<()> {
        for end in [&self.here, &self.there] {
            run(&["ip", "-n", end, "link", "set", "wire", "mtu", &bytes.to_string()])?;
        }
        Ok(())
    }

    /// A packet filter at this end, in force of its own.
    pub fn filter_here(&self, chain: &str, rule: &str) -> Result<()> {
        filter(&self.here, chain, rule)
    }

    /// The same at the other end.
    pub fn filter_there(&self, chain: &str, rule: &str) -> Result<()> {
        filter(&self.there, chain, rule)
    }

    /// A socket of the other end's.
    pub fn socket_there(&self, port: u16) -> Result<UdpSocket> {
        let path = format!("/run/netns/{}", self.there);
        let opened = std::thread::spawn(move || -> Result<UdpSocket> {
            // A thread of its own: the namespace is a thread's, and this one ends here.
            let namespace = std::fs::File::open(&path).with_context(|| path.clone())?;
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(UdpSocket::bind(SocketAddr::from((Self::THERE, port)))?)
        });
        opened.join().ok().context("the thread panicked")?
    }
}

fn filter(namespace: &str, chain: &str, rule: &str) -> Result<()> {
    let (table, hook) = ("inet wire", format!("{{ type filter hook {chain} priority 0; }}"));
    for words in [
        vec!["add", "table", table],
        vec!["flush", "table", table],
        vec!["add", "chain", table, chain, &hook],
        vec!["add", "rule", table, chain, rule],
    ] {
        let text = words.join(" ");
        run(&["ip", "netns", "exec", namespace, "nft", &text])?;
    }
    Ok(())
}

impl Drop for Wire {
    fn drop(&mut self) {
        remove(&self.here);
        remove(&self.there);
    }
}
