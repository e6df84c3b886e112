//! What a container that somebody else made may be, and which of its ports is worth publishing: guesses, from its name and from what listens in it.

use super::catalog::Catalog;
use proximity_protocol::examined::Listening;

/// The type of a container about which nothing is known.
pub const CUSTOM: &str = "custom";
/// Ports of web pages, the likeliest first. Many apps share them, so they say nothing of which app it is.
const WEB: [u16; 11] = [80, 443, 8080, 8443, 8000, 8888, 3000, 5000, 9000, 8081, 81];
/// Ports of the system, which are not what a container is there for: ssh, mail, DNS, portmapper, LLMNR, CUPS.
const SYSTEM: [u16; 6] = [22, 25, 53, 111, 5355, 631];

fn outside(listening: &[Listening]) -> impl Iterator<Item = u16> {
    listening.iter().filter(|l| l.outside).map(|l| l.port)
}

/// The catalog entry that the container is most likely an app of, or [`CUSTOM`].
pub fn suggest<'c>(catalog: &'c Catalog, hostname: Option<&str>, listening: &[Listening]) -> &'c str {
    let hostname = hostname.unwrap_or_default().to_ascii_lowercase();
    let named = catalog
        .entries()
        .filter(|entry| holds_word(&hostname, &entry.id))
        .max_by_key(|entry| entry.id.len());
    let by_port = || {
        let telling = |port: &u16| !WEB.contains(port) && !SYSTEM.contains(port);
        let mut fitting = outside(listening)
            .filter(telling)
            .flat_map(|port| catalog.entries().filter(move |entry| entry.main_port == port));
        // Two that fit are none.
        fitting.next().filter(|_| fitting.next().is_none())
    };
    named.or_else(by_port).map_or(CUSTOM, |entry| &entry.id)
}

/// Whether `id` stands in a host name between its ends, dashes, dots or digits: `nginx` in `my-nginx01`, not in `enginx`.
fn holds_word(hostname: &str, id: &str) -> bool {
    hostname.match_indices(id).any(|(at, _)| {
        let before = hostname[..at].chars().next_back();
        let after = hostname[at + id.len()..].chars().next();
        !before.is_some_and(char::is_alphabetic) && !after.is_some_and(char::is_alphabetic)
    })
}

/// The port to publish: the one of the app's type if something listens there, else one of a web page, else the lowest that is not the system's.
pub fn port(preferred: Option<u16>, listening: &[Listening]) -> Option<u16> {
    let open: Vec<u16> = outside(listening).collect();
    preferred
        .into_iter()
        .chain(WEB)
        .find(|port| open.contains(port))
        .or_else(|| open.into_iter().filter(|port| !SYSTEM.contains(port)).min())
}

/// A host name for the app that is a DNS label of at least three characters, made from what the container calls itself.
pub fn hostname(of_container: Option<&str>, vmid: u32) -> String {
    let label: String = of_container
        .unwrap_or_default()
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(50)
        .collect();
    let label = label.trim_matches('-');
    if label.len() >= 3 {
        label.to_owned()
    } else {
        format!("ct-{vmid}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use proximity_protocol::ids::Hostname;
    use serde_json::json;

    fn catalog() -> Catalog {
        let file = |id: &str, port: u16| {
            json!({
                "id": id, "name": id, "description": "x", "version": "1", "category": "x", "ports": {"p": port},
                "deploy": {"kind": "native", "template": "debian-12", "install": "true", "health": "true"}
            })
            .to_string()
        };
        let files = [
            ("a.json", file("nginx", 80)),
            ("b.json", file("postgresql", 5432)),
            ("c.json", file("gitea", 3000)),
            ("d.json", file("one", 7000)),
            ("e.json", file("other", 7000)),
        ];
        Catalog::parse(files.iter().map(|(name, text)| (*name, text.as_bytes()))).unwrap()
    }

    fn open(ports: &[u16]) -> Vec<Listening> {
        let open = |port: &u16| Listening {
            port: *port,
            outside: true,
        };
        ports.iter().map(open).collect()
    }

    #[test]
    fn a_name_says_more_than_a_port_and_a_shared_port_says_nothing() {
        let catalog = catalog();
        for (hostname, ports, expected) in [
            (Some("my-nginx01"), &[5432][..], "nginx"),
            (Some("enginx"), &[], CUSTOM),
            (Some("DB.example.org"), &[22, 5432], "postgresql"),
            (None, &[80, 3000], CUSTOM),
            (None, &[7000], CUSTOM),
            (None, &[], CUSTOM),
        ] {
            assert_eq!(
                suggest(&catalog, hostname, &open(ports)),
                expected,
                "{hostname:?} {ports:?}"
            );
        }
        let inside = [Listening {
            port: 5432,
            outside: false,
        }];
        assert_eq!(suggest(&catalog, None, &inside), CUSTOM);
    }

    #[test]
    fn the_port_is_the_apps_own_then_a_web_page_then_the_lowest() {
        assert_eq!(port(Some(5432), &open(&[22, 80, 5432])), Some(5432));
        assert_eq!(port(Some(5432), &open(&[22, 443, 80])), Some(80));
        assert_eq!(port(None, &open(&[22, 9999, 6379])), Some(6379));
        assert_eq!(port(None, &open(&[22, 111])), None);
        let loopback = [Listening {
            port: 80,
            outside: false,
        }];
        assert_eq!(port(Some(80), &loopback), None);
    }

    proptest! {
        #[test]
        fn any_name_becomes_a_host_name(name in any::<Option<String>>(), dashes in "[-.a-zA-Z0-9_]{0,70}", vmid in 100_u32..999_999_999) {
            prop_assert!(Hostname::new(hostname(name.as_deref(), vmid)).is_ok());
            prop_assert!(Hostname::new(hostname(Some(&dashes), vmid)).is_ok());
        }
    }
}
