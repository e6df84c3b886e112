//! The lifecycle of apps on real containers: deploy, change, stop, start, restart, delete; adoption of a container that was made by hand; and what was done behind
//! the system's back. Needs root and what `cargo demo --check-lxc` asks for; no container needs the internet. `.ci/run` runs it where it can run.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec, Settings, SimNode},
    process::{PATIENCE, until},
};
use pve_sim::layout::BodyKind;
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path};

const BY_HAND: u32 = 150;
const OTHERS: u32 = 151;

/// Serves one file as a page. Perl is in every Debian.
const SERVER: &str = r#"use strict; use IO::Socket::INET;
my ($port, $file) = @ARGV;
my $all = IO::Socket::INET->new(LocalPort => $port, Listen => 9, ReuseAddr => 1) or die $!;
while (my $one = $all->accept) {
    while (my $line = <$one>) { last if $line =~ /^\r?\n$/ }
    open my $in, '<', $file or die $!; my $text = join '', <$in>; close $in;
    print $one "HTTP/1.0 200 OK\r\nContent-Length: " . length($text) . "\r\n\r\n$text"; close $one;
}
"#;

const UNIT: &str = "[Unit]\nDescription=page\n[Service]\nExecStart=/usr/bin/perl /srv/page/server 8080 /srv/page/title\nRestart=always\n[Install]\nWantedBy=multi-user.target\n";

/// An app without packages: a page with a title, and a script for a changed title.
fn catalog(folder: &Path) {
    let entry = json!({
        "id": "page", "name": "Page", "description": "One page", "version": "1", "category": "Test",
        "ports": {"http": 8080}, "min_memory": 64, "min_disk": 1,
        "env_vars": {"TITLE": {"default": "first"}},
        "deploy": {
            "kind": "native", "template": "debian-12-standard",
            "install": [
                "#!/bin/sh", "set -eu", "recipe=/var/lib/proximity/recipe", "mkdir -p /srv/page",
                "cp \"$recipe/files/server\" /srv/page/server", "cp \"$recipe/files/page.service\" /etc/systemd/system/page.service",
                "cp \"$recipe/env/TITLE\" /srv/page/title", "echo installed >>/srv/page/ran",
                "systemctl daemon-reload", "systemctl enable --quiet page", "systemctl restart page"
            ],
            "configure": ["#!/bin/sh", "set -eu", "cp /var/lib/proximity/recipe/env/TITLE /srv/page/title", "echo configured >>/srv/page/ran"],
            // It is run by /bin/sh, which knows no /dev/tcp.
            "health": ["#!/bin/sh", "systemctl is-active --quiet page && bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080'"],
            "files": {"server": SERVER, "page.service": UNIT},
            "install_timeout_s": 120, "health_timeout_s": 60
        }
    });
    std::fs::write(folder.join("page.json"), entry.to_string()).unwrap();
}

fn inside(node: &SimNode, vmid: u64, script: &str) -> String {
    node.tool("pct", &["exec", &vmid.to_string(), "--", "sh", "-c", script])
        .unwrap()
        .trim()
        .to_owned()
}

/// A container of somebody else's that serves a page on port 8080, with a file that must stay as it is.
fn made_by_hand(node: &SimNode, vmid: u32, folder: &Path, title: &str) {
    let id = vmid.to_string();
    let template = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";
    node.tool(
        "pct",
        &[
            "create",
            &id,
            template,
            "--rootfs",
            "local:1",
            "--hostname",
            &format!("by-hand-{vmid}"),
            "--unprivileged",
            "1",
            "--features",
            "nesting=1",
            "--memory",
            "256",
            "--net0",
            "name=eth0,bridge=vmbr0,ip=dhcp",
        ],
    )
    .unwrap();
    node.tool("pct", &["start", &id]).unwrap();
    let push = |name: &str, text: &str, to: &str| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        node.tool("pct", &["push", &id, file.to_str().unwrap(), to]).unwrap();
    };
    inside(
        node,
        vmid.into(),
        "mkdir -p /srv/page && dd if=/dev/urandom of=/srv/precious bs=64k count=8 2>/dev/null",
    );
    push("server", SERVER, "/srv/page/server");
    push("title", title, "/srv/page/title");
    push("unit", UNIT, "/etc/systemd/system/page.service");
    inside(
        node,
        vmid.into(),
        "systemctl daemon-reload; systemctl enable --quiet --now page",
    );
}

/// Whether this machine lets its root resize a mounted file system (CAP_SYS_RESOURCE, bit 24). Where CI is itself a container it often does not.
fn resizes_mounted() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & (1 << 24) != 0
}

/// Grows an app's disk while it runs. Where the machine forbids that, what the node said is told, everything else is as it was, and the disk grows while the
/// app stands still.
async fn grow(fleet: &Fleet, app: &Value, disk_gb: u32) {
    let path = format!("/api/apps/{}", app["id"].as_str().unwrap());
    let asked = json!({"config": {"disk_gb": disk_gb, "memory_mb": 384}, "environment": {"TITLE": "grown"}});
    let changing = fleet.client.patch(&path, &asked).await.unwrap().expect(202).unwrap();
    if resizes_mounted() {
        fleet.done(&changing).await.unwrap();
        return serves(&app["url"], "grown").await;
    }
    let operation = changing["operation_id"].as_str().unwrap();
    let ended = fleet.client.operation_end(operation, PATIENCE).await.unwrap();
    assert_eq!(ended["state"], "undone", "{ended:#}");
    let why = ended["reason"].as_str().unwrap();
    assert!(why.contains("the file system on it has not followed"), "{why}");
    let vmid = app["lxc_id"].as_u64().unwrap();
    assert!(conf(&fleet.nodes[0], vmid).contains("memory: 320\n"));
    serves(&app["url"], "second").await;
    act(fleet, &app["id"], "stop").await;
    let more = json!({"config": {"disk_gb": disk_gb + 1, "memory_mb": 384}});
    let changing = fleet.client.patch(&path, &more).await.unwrap().expect(202).unwrap();
    fleet.done(&changing).await.unwrap();
    act(fleet, &app["id"], "start").await;
    serves(&app["url"], "second").await;
}

fn conf(node: &SimNode, vmid: u64) -> String {
    let path = format!("etc/pve/nodes/{}/lxc/{vmid}.conf", node.name);
    std::fs::read_to_string(node.root().join(path)).unwrap()
}

async fn act(fleet: &Fleet, id: &Value, action: &str) {
    let path = format!("/api/apps/{}/action", id.as_str().unwrap());
    let answer = fleet.client.post(&path, &json!({"action": action})).await.unwrap();
    fleet.done(&answer.expect(200).unwrap()).await.unwrap();
}

async fn status(fleet: &Fleet, id: &Value, wanted: &str) -> Value {
    fleet
        .client
        .app_status(id.as_str().unwrap(), &[wanted], PATIENCE)
        .await
        .unwrap()
}

async fn serves(url: &Value, title: &str) {
    let url = url.as_str().unwrap();
    until(&format!("{url} shows {title:?}"), PATIENCE, async || {
        Ok(page(url).await.filter(|text| text.contains(title)).map(drop))
    })
    .await
    .unwrap();
}

async fn delete(fleet: &Fleet, id: &Value, query: &str) {
    let path = format!("/api/apps/{}{query}", id.as_str().unwrap());
    let deleted = fleet.client.delete(&path).await.unwrap().expect(202).unwrap();
    fleet.done(&deleted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "real containers: root and the packages of `cargo demo --check-lxc`"]
async fn real_containers_are_deployed_changed_adopted_and_let_go() {
    let folder = tempfile::tempdir().unwrap();
    catalog(folder.path());
    let settings = Settings {
        catalog: folder.path().to_owned(),
        ..Settings::default()
    };
    let spec = FleetSpec {
        body: BodyKind::Lxc,
        settings,
        ..FleetSpec::hollow(1)
    };
    let fleet = Fleet::start(&spec, |line| eprintln!("{line}")).await.unwrap();
    let node = &fleet.nodes[0];
    std::fs::create_dir_all(node.policy().parent().unwrap()).unwrap();
    std::fs::write(node.policy(), format!("adoption = [{BY_HAND}]\n")).unwrap();
    made_by_hand(node, BY_HAND, folder.path(), "made by hand");
    made_by_hand(node, OTHERS, folder.path(), "of others");
    let sums = |node: &SimNode| [BY_HAND, OTHERS].map(|vmid| inside(node, vmid.into(), "sha256sum /srv/precious"));
    let before = (sums(node), conf(node, BY_HAND.into()), conf(node, OTHERS.into()));

    // Found by what listens in its network namespace, and served without a change.
    let found = fleet
        .client
        .get("/api/apps/discover")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let one = &found[0];
    assert_eq!(
        (&one["vmid"], &one["listening_ports"]),
        (&json!(BY_HAND), &json!([8080])),
        "{found:#}"
    );
    assert!(
        one["disk_used"].as_u64().unwrap() > 50 << 20 && one["memory_used"].is_u64() && one["uptime"].is_u64(),
        "{one:#}"
    );
    assert!(!found[1]["adoptable"].as_bool().unwrap());
    let body = json!({"vmid": BY_HAND, "node_name": node.name});
    let accepted = fleet
        .client
        .post("/api/apps/adopt", &body)
        .await
        .unwrap()
        .expect(202)
        .unwrap();
    assert_eq!(accepted["port_detection"], "automatic");
    fleet.done(&accepted).await.unwrap();
    let adopted = status(&fleet, &accepted["id"], "running").await;
    serves(&adopted["url"], "made by hand").await;
    act(&fleet, &adopted["id"], "restart").await;
    serves(&adopted["url"], "made by hand").await;

    // An app of ours, changed while it runs: values, memory, a larger disk with a larger file system.
    let body =
        json!({"catalog_id": "page", "hostname": "page-1", "config": {"memory_mb": 256, "disk_gb": 1, "cpu_cores": 1}});
    let created = fleet
        .client
        .post("/api/apps", &body)
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    fleet.done(&created).await.unwrap();
    let app = status(&fleet, &created["id"], "running").await;
    serves(&app["url"], "first").await;
    let vmid = app["lxc_id"].as_u64().unwrap();
    let size = |node: &SimNode| {
        inside(node, vmid, "df --output=size -k / | tail -n 1")
            .parse::<u64>()
            .unwrap()
    };
    let small = size(node);
    let path = format!("/api/apps/{}", app["id"].as_str().unwrap());
    let asked = json!({"config": {"memory_mb": 320}, "environment": {"TITLE": "second"}});
    let changing = fleet.client.patch(&path, &asked).await.unwrap().expect(202).unwrap();
    fleet.done(&changing).await.unwrap();
    serves(&app["url"], "second").await;
    assert!(conf(node, vmid).contains("memory: 320\n"));
    assert_eq!(inside(node, vmid, "cat /srv/page/ran"), "installed\nconfigured");
    grow(&fleet, &app, 2).await;
    assert!(size(node) > small * 3 / 2, "{small} to {} KiB", size(node));
    let title = inside(node, vmid, "cat /srv/page/title");
    assert!(conf(node, vmid).contains("memory: 384\n"));
    for (action, then) in [("stop", "stopped"), ("start", "running"), ("restart", "running")] {
        act(&fleet, &app["id"], action).await;
        status(&fleet, &app["id"], then).await;
    }
    serves(&app["url"], &title).await;

    // Behind the system's back: stopped, started, removed. What happened is said.
    let id = vmid.to_string();
    node.tool("pct", &["stop", &id]).unwrap();
    status(&fleet, &app["id"], "stopped").await;
    node.tool("pct", &["start", &id]).unwrap();
    status(&fleet, &app["id"], "running").await;
    serves(&app["url"], &title).await;
    node.tool("pct", &["stop", &id]).unwrap();
    node.tool("pct", &["destroy", &id]).unwrap();
    let told = status(&fleet, &app["id"], "error").await;
    assert!(
        told["status_reason"].as_str().unwrap().contains("no longer on"),
        "{told:#}"
    );
    delete(&fleet, &app["id"], "").await;

    // Let go: it runs on, and is what it was. Nothing of others was touched.
    delete(&fleet, &adopted["id"], "").await;
    assert!(page(adopted["url"].as_str().unwrap()).await.is_none());
    assert!(
        page(adopted["direct_url"].as_str().unwrap())
            .await
            .is_some_and(|text| text.contains("made by hand"))
    );
    assert_eq!(
        (sums(node), conf(node, BY_HAND.into()), conf(node, OTHERS.into())),
        before
    );
    let strangers = BTreeSet::from([BY_HAND, OTHERS]);
    let broken = fleet.broken_promises_beside(&strangers).await.unwrap();
    assert!(broken.is_empty(), "{}\n{}", broken.join("\n"), fleet.logs());
    fleet.stop().await.unwrap();
}
