//! Why a compose file cannot become a container of this system, read from the file.

use serde_json::Value;

/// Capabilities that an unprivileged container does not have over its node.
const HOST_CAPABILITIES: &[&str] = &["NET_ADMIN", "SYS_MODULE", "SYS_ADMIN", "SYS_RAWIO", "SYS_TIME", "ALL"];

/// In words: what stands in the way. What would stand in the way of any version comes first.
pub(super) fn because(compose: &Value) -> String {
    let mut reasons = Vec::new();
    if let Some(services) = compose.get("services").and_then(Value::as_object) {
        for (name, service) in services {
            service_reasons(name, service, &mut reasons);
        }
    }
    if reasons.is_empty() {
        "it is a compose app; this version deploys native entries only".to_owned()
    } else {
        reasons.join("; ")
    }
}

fn texts(value: Option<&Value>) -> Vec<&str> {
    value
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

fn service_reasons(name: &str, service: &Value, reasons: &mut Vec<String>) {
    if service.get("privileged").and_then(Value::as_bool) == Some(true) {
        reasons.push(format!("service {name} is privileged"));
    }
    for mount in texts(service.get("volumes")) {
        let source = mount.split(':').next().unwrap_or_default();
        if source.starts_with('/') && mount.contains(':') {
            reasons.push(format!("service {name} mounts {source} of the machine it runs on"));
        }
    }
    if !texts(service.get("devices")).is_empty() {
        reasons.push(format!("service {name} needs devices of the machine it runs on"));
    }
    let caps: Vec<&str> = texts(service.get("cap_add"))
        .into_iter()
        .filter(|c| HOST_CAPABILITIES.contains(&c.trim_start_matches("CAP_")))
        .collect();
    if !caps.is_empty() {
        reasons.push(format!(
            "service {name} needs {}, which an unprivileged container does not have",
            caps.join(", ")
        ));
    }
}
