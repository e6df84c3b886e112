//! The catalog's recipes in real containers, put in as the agent does. Run as root:
//! `cargo test -p pve-sim --lib lab:: -- --ignored --test-threads 1`.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::tests::Bench;
use super::{Lab, tool};

/// A value that would do harm if it were interpolated anywhere.
const AWKWARD: &str = "a'b\"c$(touch /pwned)`id`\\d;%s & <ü>";

fn entry(id: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../catalog_data/{id}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn script(value: &Value) -> String {
    let lines: Vec<&str> = value
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    lines.join("\n") + "\n"
}

impl Bench {
    fn put(&self, vmid: &str, name: &str, content: &str) {
        let file = self.node.layout().root().join("pushed");
        std::fs::write(&file, content).unwrap();
        self.run(&[
            "pct",
            "push",
            vmid,
            &file.to_string_lossy(),
            &format!("/var/lib/proximity/recipe/{name}"),
            "--perms",
            "0600",
        ]);
    }

    fn put_recipe(&self, vmid: &str, entry: &Value, port: u16, env: &[(&str, &str)]) {
        self.run(&[
            "pct",
            "exec",
            vmid,
            "--",
            "mkdir",
            "-p",
            "-m",
            "0700",
            "/var/lib/proximity",
            "/var/lib/proximity/recipe",
            "/var/lib/proximity/recipe/env",
        ]);
        self.put(vmid, "install", &script(&entry["deploy"]["install"]));
        self.put(vmid, "health", &script(&entry["deploy"]["health"]));
        self.put(vmid, "port", &format!("{port}\n"));
        for (name, value) in env {
            self.put(vmid, &format!("env/{name}"), value);
        }
    }

    fn recipe(&self, vmid: &str, name: &str) -> (i32, String) {
        let (code, out, err) = self.try_run(&[
            "pct",
            "exec",
            vmid,
            "--",
            "/bin/sh",
            &format!("/var/lib/proximity/recipe/{name}"),
        ]);
        (code, format!("{out}{err}"))
    }
}

/// The table that the agent writes, in the node's namespace.
fn publish(netns: &str, public: u16, to: Ipv4Addr, port: u16) {
    let text = format!(
        "table inet proximity {{
            chain prerouting {{ type nat hook prerouting priority dstnat; fib daddr type local tcp dport {public} dnat ip to {to}:{port}; }}
            chain output {{ type nat hook output priority -100; fib daddr type local tcp dport {public} dnat ip to {to}:{port}; }}
            chain postrouting {{ type nat hook postrouting priority srcnat; ct status dnat ip daddr {to} tcp dport {port} masquerade; }}
        }}"
    );
    let mut nft = std::process::Command::new("nsenter");
    nft.args([&format!("--net=/run/netns/{netns}"), "--", "nft", "-f", "-"]);
    tool::finish(nft, Some(&text)).unwrap();
    tool::run_in(netns, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).unwrap();
}

fn get(address: Ipv4Addr, port: u16) -> String {
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(5)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\nHost: app\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
#[ignore = "needs root, lxc and Debian's archive"]
fn nginx_is_installed_twice_and_serves_through_a_published_port() {
    let lab = Lab::up("t", 1).unwrap();
    let place = lab.node(0);
    let bench = Bench::new(&lab, 0);
    bench.create(
        "100",
        &format!("{}/24", place.pool_first),
        &place.gateway.to_string(),
        &[],
    );
    bench.run(&["pct", "start", "100"]);
    bench.until("100", "ip -4 route show default", |out| out.contains("default"));
    bench.put_recipe("100", &entry("nginx"), 80, &[("SITE_TITLE", AWKWARD)]);
    let (code, said) = bench.recipe("100", "health");
    assert!(code != 0 && said.contains("nginx does not answer on port 80"), "{said}");
    for _ in 0..2 {
        let (code, said) = bench.recipe("100", "install");
        assert_eq!(code, 0, "{said}");
        let (code, said) = bench.recipe("100", "health");
        assert_eq!(code, 0, "{said}");
    }
    assert_ne!(
        bench.try_run(&["pct", "exec", "100", "--", "test", "-e", "/pwned"]).0,
        0
    );
    publish(&place.netns, 8001, place.pool_first, 80);
    let page = get(place.address, 8001);
    assert!(
        page.starts_with("HTTP/1.1 200 ") && page.contains("<h1>a'b\"c$(touch /pwned)`id`\\d;%s &amp; &lt;ü&gt;</h1>"),
        "{page}"
    );
    let url = format!("http://{}:8001/", place.address);
    let inside = lab
        .command_in(0, "curl")
        .args(["-s", "-m", "5", &url])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&inside.stdout).contains("<h1>"), "{inside:?}");
    // A container reaches itself under its published address too.
    let own = format!(
        "exec 3<>/dev/tcp/{}/8001; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3",
        place.address
    );
    assert!(
        bench
            .run(&["pct", "exec", "100", "--", "timeout", "5", "bash", "-c", &own])
            .contains(" 200 ")
    );
    // It is there again after a reboot.
    bench.run(&["pct", "reboot", "100"]);
    bench.until("100", "sh /var/lib/proximity/recipe/health && echo healthy", |out| {
        out.contains("healthy")
    });
    assert!(get(place.address, 8001).starts_with("HTTP/1.1 200 "));
}

#[test]
#[ignore = "needs root, lxc and Debian's archive"]
fn postgresql_is_installed_twice_and_answers_only_with_its_password() {
    let lab = Lab::up("t", 1).unwrap();
    let place = lab.node(0);
    let bench = Bench::new(&lab, 0);
    let net = format!("{}/24", place.pool_first);
    bench.create(
        "100",
        &net,
        &place.gateway.to_string(),
        &["--mp0", "local:1,mp=/var/lib/postgresql,backup=1", "--memory", "512"],
    );
    bench.run(&["pct", "start", "100"]);
    bench.until("100", "ip -4 route show default", |out| out.contains("default"));
    bench.put_recipe(
        "100",
        &entry("postgresql"),
        5432,
        &[
            ("POSTGRES_USER", "app"),
            ("POSTGRES_DB", "store"),
            ("POSTGRES_PASSWORD", AWKWARD),
        ],
    );
    let (code, said) = bench.recipe("100", "health");
    assert!(code != 0 && said.contains("PostgreSQL is not installed yet."), "{said}");
    for _ in 0..2 {
        let (code, said) = bench.recipe("100", "install");
        assert_eq!(code, 0, "{said}");
        let (code, said) = bench.recipe("100", "health");
        assert_eq!(code, 0, "{said}");
    }
    assert_ne!(
        bench.try_run(&["pct", "exec", "100", "--", "test", "-e", "/pwned"]).0,
        0
    );
    // The password went nowhere else.
    let (code, _, _) = bench.try_run(&[
        "pct",
        "exec",
        "100",
        "--",
        "grep",
        "-rqF",
        "touch /pwned",
        "/etc",
        "/var/log",
        "/var/lib/postgresql",
        "/tmp",
    ]);
    assert_eq!(code, 1);
    // Another password is refused, over the network as well.
    bench.put("100", "env/POSTGRES_PASSWORD", "wrong");
    let (code, said) = bench.recipe("100", "health");
    assert!(code != 0 && said.contains("password authentication failed"), "{said}");
    // A new password is taken by the next install; data stays on its volume over a restart.
    bench.put("100", "env/POSTGRES_PASSWORD", "another");
    let query = |sql: &str| {
        let script = format!(
            "PGPASSWORD=another psql -X -A -t -h {} -U app -d store -c \"{sql}\"",
            place.pool_first
        );
        bench.run(&["pct", "exec", "100", "--", "sh", "-c", &script])
    };
    assert_eq!(bench.recipe("100", "install").0, 0);
    query("CREATE TABLE note (line text); INSERT INTO note VALUES ('kept')");
    bench.run(&["pct", "reboot", "100"]);
    bench.until("100", "sh /var/lib/proximity/recipe/health && echo healthy", |out| {
        out.contains("healthy")
    });
    assert_eq!(query("SELECT line FROM note"), "kept\n");
    assert!(
        bench
            .run(&[
                "pct",
                "exec",
                "100",
                "--",
                "findmnt",
                "-n",
                "-o",
                "TARGET",
                "/var/lib/postgresql"
            ])
            .contains("/var/lib/postgresql")
    );
    // Cut off in the middle: half unpacked packages are repaired.
    bench.run(&["pct", "exec", "100", "--", "sh", "-c", "sed -i '/^Package: postgresql$/,/^$/s/^Status: install ok installed/Status: install ok unpacked/' /var/lib/dpkg/status"]);
    let (code, said) = bench.recipe("100", "install");
    assert_eq!(code, 0, "{said}");
}
