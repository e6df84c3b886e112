#![allow(clippy::unwrap_used)]
use super::*;
use proximity_protocol::ids::EnvName;
use serde_json::{Value, json};

fn native() -> Value {
    json!({
        "id": "db", "name": "Database", "description": "Keeps rows", "version": "15", "category": "Database", "tags": ["sql"],
        "ports": {"postgresql": 5432}, "min_memory": 512, "min_cpu": 1, "min_disk": 4,
        "volumes": [{"path": "/var/lib/postgresql", "size_gb": 8}],
        "env_vars": {
            "DB_NAME": {"description": "Name of the database", "default": "app", "pattern": "[a-z]{1,30}"},
            "DB_PASSWORD": {"description": "Password", "generated": true},
            "DB_OWNER": {"required": true, "description": "Who owns it"},
            "DB_KEY": {"secret": true}
        },
        "deploy": {
            "kind": "native", "template": "debian-12-standard", "install": ["apt-get update", "apt-get install -y postgresql"], "health": "pg_isready",
            "files": {"pg.conf": "a = 1\n"}, "install_timeout_s": 600, "health_timeout_s": 60
        }
    })
}

fn one(value: &Value) -> Result<Catalog, Vec<Problem>> {
    Catalog::parse([("x.json", value.to_string().as_bytes())])
}

fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_native_entry_is_read_whole() {
    let catalog = one(&native()).unwrap();
    let entry = catalog.get("db").unwrap();
    let recipe = entry.native().unwrap();
    assert_eq!(recipe.install, "apt-get update\napt-get install -y postgresql\n");
    assert_eq!((recipe.install_timeout_s, recipe.health_timeout_s), (600, 60));
    assert_eq!(
        (entry.main_port, entry.min_memory_mb, entry.volumes[0].size_gb),
        (5432, 512, 8)
    );
    assert_eq!(entry.to_json()["deployable"], true);
}

#[test]
fn every_broken_kind_names_file_field_and_reason() {
    let broken: Vec<(&str, Value, &str)> = vec![
        ("/id", json!("A b"), "id"),
        ("/id", json!(""), "id"),
        ("/id", json!(7), "id"),
        ("/name", Value::Null, "name"),
        ("/description", json!(["x"]), "description"),
        ("/version", json!(15), "version"),
        ("/category", json!(" "), "category"),
        ("/tags", json!("sql"), "tags"),
        ("/tags", json!([1]), "tags[0]"),
        ("/ports", json!({}), "ports"),
        ("/ports", json!({"postgresql": 0}), "ports.postgresql"),
        ("/ports", json!({"postgresql": 70_000}), "ports.postgresql"),
        ("/ports", json!({"a": 1, "b": 1}), "ports.b"),
        ("/ports", json!({"a": 1, "b": 2}), "main_port"),
        ("/ports", json!("80"), "ports"),
        ("/main_port", json!("web"), "main_port"),
        ("/min_memory", json!("512m"), "min_memory"),
        ("/min_memory", json!(1), "min_memory"),
        ("/min_disk", json!(-1), "min_disk"),
        ("/homepage", json!("example.org"), "homepage"),
        ("/volumes", json!(["data"]), "volumes[0]"),
        ("/volumes", json!([{"path": "../etc"}]), "volumes[0].path"),
        ("/volumes", json!([{"path": "/a"}, {"path": "/a"}]), "volumes[1].path"),
        ("/volumes", json!([{"path": "/a", "size": 1}]), "volumes[0].size"),
        ("/env_vars", json!({"db-name": {}}), "env_vars.db-name"),
        ("/env_vars", json!({"A": {"pattern": "("}}), "env_vars.A.pattern"),
        (
            "/env_vars",
            json!({"A": {"pattern": "[a-z]", "default": "7"}}),
            "env_vars.A.default",
        ),
        (
            "/env_vars",
            json!({"A": {"secret": true, "default": "changeme"}}),
            "env_vars.A.default",
        ),
        (
            "/env_vars",
            json!({"A": {"generated": true, "pattern": "x"}}),
            "env_vars.A.pattern",
        ),
        ("/env_vars", json!({"A": {"length": 20}}), "env_vars.A.length"),
        (
            "/env_vars",
            json!({"A": {"generated": true, "length": 4}}),
            "env_vars.A.length",
        ),
        ("/env_vars", json!({"A": {"required": "yes"}}), "env_vars.A.required"),
        ("/env_vars", json!({"A": {"defualt": "x"}}), "env_vars.A.defualt"),
        ("/env_vars", json!({"A": ["x"]}), "env_vars.A"),
        ("/deploy", json!("native"), "deploy"),
        ("/deploy", Value::Null, "deploy"),
        ("/deploy/kind", json!("oci"), "deploy.kind"),
        ("/deploy/template", json!("../x"), "deploy.template"),
        ("/deploy/install", json!(""), "deploy.install"),
        ("/deploy/install", json!([1]), "deploy.install"),
        ("/deploy/health", Value::Null, "deploy.health"),
        ("/deploy/files", json!({"../x": "a"}), "deploy.files.../x"),
        ("/deploy/files", json!({"x": 7}), "deploy.files.x"),
        ("/deploy/install_timeout_s", json!(0), "deploy.install_timeout_s"),
        ("/deploy/install_timeout_s", json!(7201), "deploy.install_timeout_s"),
        ("/deploy/install", json!("x".repeat(400 * 1024)), "deploy.install"),
        ("/maintainer", json!("x"), "maintainer"),
    ];
    for (pointer, value, field) in broken {
        let mut file = native();
        match file.pointer_mut(pointer) {
            Some(slot) => *slot = value.clone(),
            None => drop(
                file.as_object_mut()
                    .unwrap()
                    .insert(pointer[1..].to_owned(), value.clone()),
            ),
        }
        let problems = one(&file).unwrap_err();
        assert_eq!(problems.len(), 1, "{pointer} = {value}: {problems:?}");
        assert_eq!(
            (problems[0].file.as_str(), problems[0].field.as_str()),
            ("x.json", field),
            "{problems:?}"
        );
        assert!(problems[0].reason.len() > 8, "{problems:?}");
    }
    for text in ["", "{", "[]", "7", "{\"id\": \"x\"} trailing", "\u{feff}{}"] {
        let problems = Catalog::parse([("x.json", text.as_bytes())]).unwrap_err();
        assert_eq!(problems[0].file, "x.json");
    }
}

#[test]
fn all_problems_of_all_files_come_at_once_and_nothing_is_half_taken() {
    let mut bad = native();
    bad["name"] = json!(1);
    bad["min_cpu"] = json!(0);
    let (good, bad) = (native().to_string(), bad.to_string());
    let files = [
        ("a.json", good.as_bytes()),
        ("b.json", bad.as_bytes()),
        ("c.json", b"{"),
        ("d.json", good.as_bytes()),
    ];
    let problems = Catalog::parse(files).unwrap_err();
    let named: Vec<_> = problems.iter().map(|p| (p.file.as_str(), p.field.as_str())).collect();
    assert_eq!(
        named,
        [
            ("b.json", "name"),
            ("b.json", "min_cpu"),
            ("c.json", ""),
            ("d.json", "id")
        ]
    );
}

#[test]
fn the_original_format_is_listed_and_says_why_it_is_not_deployed() {
    let file = json!({
        "id": "vpn", "name": "VPN", "description": "x", "version": "latest", "category": "Security", "ports": [51820, 51821], "volumes": ["config"],
        "environment": {"TZ": "UTC"}, "website": "https://example.org", "author": "Somebody",
        "docker_compose": {"version": "3.8", "services": {"vpn": {"image": "vpn:1", "cap_add": ["NET_ADMIN"], "volumes": ["config:/c", "/lib/modules:/lib/modules"]}}}
    });
    let catalog = one(&file).unwrap();
    let entry = catalog.get("vpn").unwrap();
    assert_eq!(
        entry.ports,
        BTreeMap::from([("port".to_owned(), 51820), ("port2".to_owned(), 51821)])
    );
    let because = entry.native().unwrap_err();
    assert!(
        because.contains("/lib/modules") && because.contains("NET_ADMIN") && !because.contains("/c "),
        "{because}"
    );
    let shown = entry.to_json();
    assert_eq!(
        (shown["deployable"].as_bool(), shown["homepage"].as_str()),
        (Some(false), Some("https://example.org"))
    );
    let mut plain = file.clone();
    plain["docker_compose"]["services"]["vpn"] = json!({"image": "vpn:1"});
    assert!(
        one(&plain)
            .unwrap()
            .get("vpn")
            .unwrap()
            .native()
            .unwrap_err()
            .contains("compose")
    );
    plain["docker_compose"] = json!({"services": {}});
    assert_eq!(one(&plain).unwrap_err()[0].field, "docker_compose");
}

#[test]
fn an_environment_is_resolved_or_every_error_is_named() {
    let catalog = one(&native()).unwrap();
    let entry = catalog.get("db").unwrap();
    let resolved = entry
        .resolve_environment(&given(&[
            ("DB_OWNER", "ada"),
            ("EXTRA", "1"),
            ("DB_KEY", "k"),
            ("SMTP_PASSWORD", "p"),
        ]))
        .unwrap();
    let plain: Vec<_> = resolved.plain.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(plain, [("DB_NAME", "app"), ("DB_OWNER", "ada"), ("EXTRA", "1")]);
    let secrets: Vec<_> = resolved.secrets.keys().map(|k| k.as_str()).collect();
    // A name that says what it holds is kept secret although the entry does not know it.
    assert_eq!(secrets, ["DB_KEY", "SMTP_PASSWORD"]);
    assert_eq!(
        (resolved.generated[0].name.as_str(), resolved.generated[0].length),
        ("DB_PASSWORD", 32)
    );
    // Given is not generated.
    let own = entry
        .resolve_environment(&given(&[("DB_OWNER", "ada"), ("DB_PASSWORD", "mine")]))
        .unwrap();
    assert!(own.generated.is_empty() && own.secrets.len() == 1);
    let errors = entry
        .resolve_environment(&given(&[
            ("DB_NAME", "No!"),
            ("a b", "x"),
            ("EXTRA", "\0"),
            ("LONG", &"x".repeat(32 * 1024 + 1)),
        ]))
        .unwrap_err();
    let names: Vec<_> = errors.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["DB_NAME", "EXTRA", "LONG", "a b", "DB_OWNER"]);
    let empty = entry.resolve_environment(&given(&[("DB_OWNER", "")])).unwrap_err();
    assert_eq!(empty[0].name, "DB_OWNER");
    let many: BTreeMap<String, String> = (0..101).map(|i| (format!("V{i}"), String::new())).collect();
    assert!(entry.resolve_environment(&many).is_err());
    // The pattern is for the whole value, line by line tricks included.
    assert!(
        entry
            .resolve_environment(&given(&[("DB_OWNER", "a"), ("DB_NAME", "app\n; rm")]))
            .is_err()
    );
}

#[test]
fn the_search_ranks_names_before_tags_before_descriptions_and_forgives_typos() {
    let make = |id: &str, tags: &[&str], description: &str| {
        let mut file = native();
        file["id"] = json!(id);
        file["name"] = json!(id);
        file["tags"] = json!(tags);
        file["description"] = json!(description);
        file["category"] = json!("Other");
        file.to_string()
    };
    let texts = [
        ("a", make("alpha", &["web"], "an nginx in front")),
        ("b", make("beta", &["nginx"], "something")),
        ("c", make("nginx", &["web"], "a server")),
        ("d", make("nginx-extras", &["web"], "a server")),
    ];
    let catalog = Catalog::parse(texts.iter().map(|(f, t)| (*f, t.as_bytes()))).unwrap();
    let found = |query: &str| catalog.search(query).iter().map(|e| e.id.clone()).collect::<Vec<_>>();
    assert_eq!(found("nginx"), ["nginx", "nginx-extras", "beta", "alpha"]);
    assert_eq!(found("NGNIX")[0], "nginx");
    assert_eq!(found("ngi")[0], "nginx");
    assert_eq!(found("nginx web"), ["nginx", "nginx-extras", "alpha"]);
    assert!(found("postgres").is_empty());
    assert!(found("  ").is_empty());
    assert!(found(&"zz ".repeat(10_000)).is_empty());
}

#[test]
fn the_schema_names_what_the_parser_knows() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let keys = |pointer: &str| {
        let mut keys: Vec<String> = schema
            .pointer(pointer)
            .unwrap()
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        keys.sort();
        keys
    };
    let known = |list: &[&str]| {
        let mut list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
        list.sort();
        list
    };
    assert_eq!(keys("/properties"), known(parse::FIELDS));
    assert_eq!(keys("/properties/deploy/properties"), known(parse::DEPLOY_FIELDS));
    assert_eq!(keys("/$defs/input/properties"), known(parse::INPUT_FIELDS));
    assert_eq!(keys("/$defs/volume/properties"), known(parse::VOLUME_FIELDS));
    // What the schema demands, the parser demands.
    for field in schema["required"].as_array().unwrap() {
        let mut file = native();
        file.as_object_mut().unwrap().remove(field.as_str().unwrap());
        assert_eq!(one(&file).unwrap_err()[0].field, field.as_str().unwrap());
    }
}

fn changes(pairs: &[(&str, Option<&str>)]) -> BTreeMap<String, Option<String>> {
    let owned = |(name, value): &(&str, Option<&str>)| ((*name).to_owned(), value.map(str::to_owned));
    pairs.iter().map(owned).collect()
}

fn names(list: &[&str]) -> std::collections::BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn changed_values_are_joined_with_what_is_there() {
    let catalog = one(&native()).unwrap();
    let entry = catalog.get("db").unwrap();
    let plain = given(&[("DB_NAME", "rows"), ("DB_OWNER", "ada"), ("EXTRA", "1")]);
    let secrets = names(&["DB_PASSWORD", "DB_KEY", "API_TOKEN"]);
    let changed = entry
        .change_environment(
            &plain,
            &secrets,
            &changes(&[
                ("DB_NAME", None),
                ("DB_PASSWORD", None),
                ("DB_KEY", Some("new")),
                ("API_TOKEN", None),
                ("EXTRA", None),
                ("MORE", Some("2")),
            ]),
        )
        .unwrap();
    let shown: Vec<(&str, &str)> = changed.plain.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(shown, [("DB_NAME", "app"), ("DB_OWNER", "ada"), ("MORE", "2")]);
    let secret: Vec<(&str, &str)> = changed.secrets.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
    assert_eq!(secret, [("DB_KEY", "new")]);
    assert_eq!(
        changed.generated.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(),
        ["DB_PASSWORD"]
    );
    assert_eq!(
        changed.forget.iter().map(EnvName::as_str).collect::<Vec<_>>(),
        ["API_TOKEN"]
    );
}

/// What would not fit a command to an agent is refused when it is asked for, not when it fails.
#[test]
fn values_are_bounded_together() {
    let catalog = one(&native()).unwrap();
    let entry = catalog.get("db").unwrap();
    for (count, fits) in [(15, true), (17, false)] {
        let large: BTreeMap<String, String> = (0..count).map(|n| (format!("V{n}"), "x".repeat(32 * 1024))).collect();
        let mut asked = given(&[("DB_NAME", "app"), ("DB_OWNER", "ada")]);
        asked.extend(large.clone());
        let resolved = entry.resolve_environment(&asked);
        let changes = large.into_iter().map(|(name, value)| (name, Some(value))).collect();
        let changed = entry.change_environment(&given(&[("DB_NAME", "app")]), &names(&[]), &changes);
        for errors in [resolved.err(), changed.err()] {
            let told = errors.unwrap_or_default();
            assert_eq!(
                told.iter().any(|e| e.msg.contains("512 KiB of values in all")),
                !fits,
                "{told:?}"
            );
        }
    }
}

#[test]
fn every_wrong_change_is_named() {
    let mut file = native();
    file["env_vars"]["DB_NAME"]["fixed"] = json!(true);
    let catalog = one(&file).unwrap();
    let entry = catalog.get("db").unwrap();
    let plain = given(&[("DB_NAME", "app"), ("DB_OWNER", "ada")]);
    let errors = entry
        .change_environment(
            &plain,
            &names(&[]),
            &changes(&[
                ("DB_NAME", Some("other")),
                ("DB_OWNER", None),
                ("lower", Some("x")),
                ("NUL", Some("a\0b")),
            ]),
        )
        .unwrap_err();
    let mut found: Vec<&str> = errors.iter().map(|e| e.name.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, ["DB_NAME", "DB_OWNER", "NUL", "lower"]);
    let many = (0..ENVIRONMENT_MAX)
        .map(|n| (format!("V{n}"), Some(String::new())))
        .collect();
    assert!(entry.change_environment(&plain, &names(&[]), &many).is_err());
}

#[test]
fn what_configures_is_kept_beside_the_files() {
    let mut file = native();
    file["deploy"]["configure"] = json!(["#!/bin/sh", "true"]);
    let catalog = one(&file).unwrap();
    let files = &catalog.get("db").unwrap().native().unwrap().files;
    let kept = files.iter().find(|f| f.name.as_str() == "configure").unwrap();
    assert_eq!(kept.content, b"#!/bin/sh\ntrue\n");
    file["deploy"]["files"]["configure"] = json!("x");
    assert_eq!(one(&file).unwrap_err()[0].field, "deploy.files.configure");
}
