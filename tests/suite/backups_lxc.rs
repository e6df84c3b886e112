//! Backups, restores and trials of real containers: PostgreSQL with its data on a volume of its own. Needs root and what `cargo demo --check-lxc` asks for; the
//! packages come from Debian's archive. `.ci/run` runs the first one where it can run. The other is a measurement:
//! `cargo test -p proximity-tests --test backups_lxc -- --ignored --nocapture beside_plain_vzdump` (`PROXIMITY_BENCH_MB` says another size).

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    fleet::{Fleet, FleetSpec, Settings, SimNode},
    process::until,
    programs::workspace,
};
use pve_sim::{At, Fault, Rule, Script, layout::BodyKind};
use serde_json::{Value, json};
use std::{
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Installing packages, and reading archives, takes minutes.
const PATIENCE: Duration = Duration::from_secs(900);

/// PostgreSQL as in the catalog, but for the time that it may take to be healthy.
fn catalog(folder: &Path) {
    let text = std::fs::read_to_string(workspace().join("catalog_data/postgresql.json")).unwrap();
    let mut entry: Value = serde_json::from_str(&text).unwrap();
    entry["deploy"]["health_timeout_s"] = json!(40);
    std::fs::write(folder.join("postgresql.json"), entry.to_string()).unwrap();
}

async fn fleet(catalog: &Path) -> Fleet {
    let spec = FleetSpec {
        body: BodyKind::Lxc,
        settings: Settings {
            catalog: catalog.to_owned(),
            ..Settings::default()
        },
        ..FleetSpec::hollow(1)
    };
    Fleet::start(&spec, |line| eprintln!("{line}")).await.unwrap()
}

fn inside(node: &SimNode, vmid: u64, script: &str) -> String {
    node.tool("pct", &["exec", &vmid.to_string(), "--", "sh", "-c", script])
        .unwrap()
        .trim()
        .to_owned()
}

fn sql(node: &SimNode, vmid: u64, text: &str) -> String {
    inside(
        node,
        vmid,
        &format!(
            "cd / && runuser -u postgres -- psql -X -A -t -q -v ON_ERROR_STOP=1 -h /var/run/postgresql -d postgres -c \"{text}\""
        ),
    )
}

fn conf(node: &SimNode, vmid: u64) -> Option<String> {
    std::fs::read_to_string(node.root().join(format!("etc/pve/lxc/{vmid}.conf"))).ok()
}

fn line(conf: &str, key: &str) -> String {
    let found = conf.lines().find(|line| line.starts_with(&format!("{key}:")));
    found.unwrap_or_else(|| panic!("no {key} in {conf}")).to_owned()
}

async fn end(fleet: &Fleet, started: &Value) -> Value {
    let operation = started["operation_id"].as_str().unwrap();
    fleet.client.operation_end(operation, PATIENCE).await.unwrap()
}

async fn done(fleet: &Fleet, started: &Value) -> Value {
    let operation = end(fleet, started).await;
    assert_eq!(operation["state"], "done", "{operation:#}\n{}", fleet.logs());
    operation
}

async fn post(fleet: &Fleet, path: &str, body: Value, code: u16) -> Value {
    fleet.client.post(path, &body).await.unwrap().expect(code).unwrap()
}

async fn get(fleet: &Fleet, path: &str) -> Value {
    fleet.client.get(path).await.unwrap().expect(200).unwrap()
}

/// Something takes connections at the app's published port.
async fn serves(fleet: &Fleet, path: &str) {
    // After a way back it is reconciliation that publishes, once the container has its address.
    until("the published port answers", PATIENCE, async || {
        let app = fleet.client.get(path).await?.expect(200)?;
        let Some(url) = app["url"].as_str() else {
            return Ok(None);
        };
        let address = url.rsplit("//").next().unwrap().trim_end_matches('/').to_owned();
        Ok(TcpStream::connect(&address).ok().map(drop))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "real containers: root and the packages of `cargo demo --check-lxc`"]
async fn real_rows_come_back_and_the_old_container_serves_when_they_do_not() {
    let folder = tempfile::tempdir().unwrap();
    catalog(folder.path());
    let fleet = fleet(folder.path()).await;
    let node = &fleet.nodes[0];
    let created = post(
        &fleet,
        "/api/apps",
        json!({"catalog_id": "postgresql", "hostname": "data"}),
        201,
    )
    .await;
    done(&fleet, &created).await;
    let path = format!("/api/apps/{}", created["id"].as_str().unwrap());
    let app = get(&fleet, &path).await;
    let first = app["lxc_id"].as_u64().unwrap();
    serves(&fleet, &path).await;
    sql(
        node,
        first,
        "CREATE TABLE kept AS SELECT n, md5(n::text) AS word FROM generate_series(1, 5000) AS n",
    );
    let sum = "SELECT count(*) || ' ' || md5(string_agg(word, '' ORDER BY n)) FROM kept";
    let before = sql(node, first, sum);
    assert!(before.starts_with("5000 "), "{before}");

    // In each mode that the storage has; the one that it has not is said before.
    let mut made = Vec::new();
    for (asked, mode) in [("snapshot", "suspend"), ("suspend", "suspend"), ("stop", "stop")] {
        let started = post(&fleet, &format!("{path}/backups"), json!({"backup_type": asked}), 202).await;
        assert_eq!(
            (&started["mode"], started["fallback"].is_string()),
            (&json!(mode), asked != mode)
        );
        assert_eq!(started["left_out"], json!([]), "the volume of the data is in it");
        done(&fleet, &started).await;
        let backup = get(&fleet, &format!("{path}/backups/{}", started["id"])).await;
        assert!(
            backup["checksum"].is_string() && backup["size_mb"].as_f64().unwrap() > 1.0,
            "{backup:#}"
        );
        made.push(backup["id"].clone());
        serves(&fleet, &path).await;
    }

    // A trial: nothing of the app is touched, and nothing is left.
    let trial = post(&fleet, &format!("{path}/backups/{}/verify", made[1]), json!({}), 202).await;
    done(&fleet, &trial).await;
    assert!(get(&fleet, &format!("{path}/backups/{}", made[1])).await["verified_at"].is_string());
    assert_eq!(get(&fleet, &path).await["lxc_id"], json!(first));
    assert_eq!(sql(node, first, sum), before);

    let (mut now, mut number) = (app.clone(), first);
    for backup in &made[1..] {
        // Damaged beyond what the database can mend.
        sql(node, number, "DROP TABLE kept");
        let was = conf(node, number).unwrap();
        let started = post(&fleet, &format!("{path}/backups/{backup}/restore"), json!({}), 202).await;
        done(&fleet, &started).await;
        now = get(&fleet, &path).await;
        let old = std::mem::replace(&mut number, now["lxc_id"].as_u64().unwrap());
        assert_ne!(number, old);
        assert_eq!(sql(node, number, sum), before);
        for field in ["id", "hostname", "status", "url", "public_port", "ip_address"] {
            assert_eq!(now[field], app[field], "{field}");
        }
        serves(&fleet, &path).await;
        let is = conf(node, number).unwrap();
        assert_eq!(
            line(&is, "net0"),
            line(&was, "net0"),
            "the same address and Ethernet address"
        );
        // The old one is kept, then gone.
        assert_eq!(line(&conf(node, old).unwrap(), "onboot"), "onboot: 0");
        assert_eq!(
            node.tool("pct", &["status", &old.to_string()]).unwrap().trim(),
            "status: stopped"
        );
        let kept = get(&fleet, &format!("{path}/previous")).await;
        assert_eq!(kept["previous"][0]["lxc_id"], json!(old));
        let gone = fleet
            .client
            .delete(&format!("{path}/previous/{old}"))
            .await
            .unwrap()
            .expect(202)
            .unwrap();
        done(&fleet, &gone).await;
        assert_eq!(conf(node, old), None);
    }

    // The new one never gets healthy: the old one serves again, with what was written since.
    sql(node, number, "CREATE TABLE since AS SELECT 1 AS n");
    let unhealthy = Fault::Fail {
        exit: 1,
        stderr: "not well".into(),
        stdout: String::new(),
    };
    let rule = Rule::on("pct", unhealthy).subcommand("exec").at(At::Before);
    node.script(&Script::new().rule(rule)).unwrap();
    let started = post(&fleet, &format!("{path}/backups/{}/restore", made[2]), json!({}), 202).await;
    let operation = end(&fleet, &started).await;
    assert_eq!(operation["state"], "undone", "{operation:#}\n{}", fleet.logs());
    assert!(
        operation["reason"].as_str().unwrap().contains("not healthy"),
        "{operation:#}"
    );
    node.script(&Script::new()).unwrap();
    let again = get(&fleet, &path).await;
    assert_eq!(
        (&again["lxc_id"], &again["status"]),
        (&now["lxc_id"], &json!("running"))
    );
    serves(&fleet, &path).await;
    until("the database answers", PATIENCE, async || {
        let asked = node.tool(
            "pct",
            &[
                "exec",
                &number.to_string(),
                "--",
                "sh",
                "-c",
                "pg_isready -q -h /var/run/postgresql",
            ],
        );
        Ok(asked.ok().map(drop))
    })
    .await
    .unwrap();
    assert_eq!(
        (sql(node, number, "SELECT n FROM since"), sql(node, number, sum)),
        ("1".to_owned(), before)
    );
    assert_eq!(line(&conf(node, number).unwrap(), "onboot"), "onboot: 1");
    let containers: Vec<u32> = node.files().read().unwrap().containers.into_iter().collect();
    assert_eq!(containers, [u32::try_from(number).unwrap()], "the new one is gone");
    fleet.assert_promises().await.unwrap();
    let deleted = fleet.client.delete(&path).await.unwrap().expect(202).unwrap();
    done(&fleet, &deleted).await;
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

/// One file, and no packages.
const FILLED: &str = "#!/bin/sh\nset -eu\ntrue\n";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement on real containers: minutes long"]
async fn beside_plain_vzdump() {
    let megabytes: u64 = std::env::var("PROXIMITY_BENCH_MB").map_or(5 * 1024, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let entry = json!({
        "id": "filled", "name": "Filled", "description": "A large file", "version": "1", "category": "Test",
        "ports": {"none": 8080}, "min_memory": 64, "min_disk": 1, "env_vars": {},
        "deploy": {
            "kind": "native", "template": "debian-12-standard", "install": FILLED.lines().collect::<Vec<_>>(),
            "health": ["#!/bin/sh", "true"], "files": {}, "install_timeout_s": 120, "health_timeout_s": 60
        }
    });
    std::fs::write(folder.path().join("filled.json"), entry.to_string()).unwrap();
    let fleet = fleet(folder.path()).await;
    let node = &fleet.nodes[0];
    let disk_gb = megabytes / 1024 + 2;
    let body = json!({"catalog_id": "filled", "hostname": "filled", "config": {"memory_mb": 256, "disk_gb": disk_gb, "cpu_cores": 1}});
    let created = post(&fleet, "/api/apps", body, 201).await;
    done(&fleet, &created).await;
    let path = format!("/api/apps/{}", created["id"].as_str().unwrap());
    let vmid = get(&fleet, &path).await["lxc_id"].as_u64().unwrap();
    inside(
        node,
        vmid,
        &format!("head -c {megabytes}M /dev/urandom >/srv/filled && sync"),
    );

    let (mut plain, mut ours) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let begun = Instant::now();
        let number = vmid.to_string();
        node.tool(
            "vzdump",
            &[
                &number,
                "--storage",
                "local",
                "--mode",
                "stop",
                "--compress",
                "zstd",
                "--remove",
                "0",
            ],
        )
        .unwrap();
        plain.push(begun.elapsed().as_secs_f64());
        for name in std::fs::read_dir(node.root().join("var/lib/vz/dump")).unwrap() {
            std::fs::remove_file(name.unwrap().path()).unwrap();
        }
        let begun = Instant::now();
        let started = post(&fleet, &format!("{path}/backups"), json!({"backup_type": "stop"}), 202).await;
        let operation = done(&fleet, &started).await;
        let all = begun.elapsed().as_secs_f64();
        let step = |name: &str| {
            let steps = operation["steps"].as_array().unwrap();
            let step = steps.iter().find(|step| step["name"] == name).unwrap();
            let at = |field: &str| OffsetDateTime::parse(step[field].as_str().unwrap(), &Rfc3339).unwrap();
            (at("finished_at") - at("started_at")).as_seconds_f64()
        };
        let (made, tested) = (step("back_up"), step("test"));
        println!(
            "round {round}: plain vzdump {:.1} s; back_up {made:.1} s, test {tested:.1} s, operation {all:.1} s",
            plain[round]
        );
        ours.push(made);
        let one = format!("{path}/backups/{}", started["id"]);
        let deleted = fleet.client.delete(&one).await.unwrap().expect(202).unwrap();
        done(&fleet, &deleted).await;
    }
    // Of three the least: the machine does other things too.
    let least = |all: &[f64]| all.iter().copied().fold(f64::INFINITY, f64::min);
    let (plain, ours) = (least(&plain), least(&ours));
    println!(
        "{megabytes} MiB: plain vzdump {plain:.2} s, through Proximity {ours:.2} s: {:+.2} s, {:+.1} %",
        ours - plain,
        (ours / plain - 1.0) * 100.0
    );
    assert!(ours - plain < 1.0 || ours / plain < 1.02, "overhead");
    fleet.stop().await.unwrap();
}
