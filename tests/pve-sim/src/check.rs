//! Value checks with the words of PVE::JSONSchema, driven by the type column of the option table.
//!
//! A reason that ends in a newline is meant: the real tool prints the empty line as well.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::conf::{Properties, numbered};

/// Checks one value; the error is the text after `name: `.
pub(crate) fn check_value(name: &str, kind: &str, value: &str) -> Result<(), String> {
    if matches!(name, "vmid" | "newid") && kind.starts_with("<integer>") {
        check_type("integer", value)?;
        let ok = value.parse::<u32>().is_ok_and(|id| (100..=999_999_999).contains(&id));
        return if ok {
            Ok(())
        } else {
            Err("invalid format - value does not look like a valid VM ID\n".to_owned())
        };
    }
    if kind.starts_with("<integer>") || kind.starts_with("<number>") || kind == "<N>" {
        let type_name = if kind.starts_with("<number>") {
            "number"
        } else {
            "integer"
        };
        check_type(type_name, value)?;
        return check_range(kind, value);
    }
    if let Some(words) = kind
        .strip_prefix('<')
        .and_then(|rest| rest.split('>').next())
        .filter(|words| words.contains(" | "))
    {
        let allowed: Vec<&str> = words.split(" | ").collect();
        if allowed.contains(&value) {
            return Ok(());
        }
        return Err(format!(
            "value '{value}' does not have a value in the enumeration '{}'",
            allowed.join(", ")
        ));
    }
    if kind.starts_with("<storage ID>") {
        return check_storage_id(value);
    }
    if kind.starts_with("<password>") {
        return if value.chars().count() >= 5 {
            Ok(())
        } else {
            Err("value must be at least 5 characters long".to_owned())
        };
    }
    if kind.contains(",") && (kind.contains('=') || kind.contains("[,")) {
        return check_properties(name, kind, value);
    }
    match name {
        "hostname" if !is_dns_name(value) => {
            Err("invalid format - value does not look like a valid DNS name\n".to_owned())
        }
        "searchdomain" if !list_items(value).all(is_dns_name) => {
            Err("invalid format - value does not look like a valid DNS name\n".to_owned())
        }
        "nameserver" if !list_items(value).all(|item| item.parse::<IpAddr>().is_ok() || item == "host") => {
            Err("invalid format - value does not look like a valid IP address\n".to_owned())
        }
        "tags" => match list_items(value).find(|tag| !is_tag(tag)) {
            Some(_) => Err("invalid format - invalid characters in tag\n".to_owned()),
            None => Ok(()),
        },
        "snapname" if !is_config_id(value) => Err(format!("invalid format - invalid configuration ID '{value}'\n")),
        "size" if kind.starts_with("\\+?") && !is_size_change(value) => {
            Err("value does not match the regex pattern".to_owned())
        }
        "digest" if value.len() > 40 => Err("value may only be 40 characters long".to_owned()),
        _ => Ok(()),
    }
}

fn check_type(type_name: &str, value: &str) -> Result<(), String> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let ok = match type_name {
        "integer" => !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()),
        _ => value.parse::<f64>().is_ok_and(f64::is_finite),
    };
    if ok {
        Ok(())
    } else {
        Err(format!("type check ('{type_name}') failed - got '{value}'"))
    }
}

fn check_range(kind: &str, value: &str) -> Result<(), String> {
    let Some((low, high)) = kind
        .split_once('(')
        .and_then(|(_, rest)| rest.split(')').next())
        .and_then(|range| range.split_once(" - "))
    else {
        return Ok(());
    };
    let number: f64 = value.parse().unwrap_or(0.0);
    if low.parse::<f64>().is_ok_and(|low| number < low) {
        return Err(format!("value must have a minimum value of {low}"));
    }
    if high.parse::<f64>().is_ok_and(|high| number > high) {
        return Err(format!("value must have a maximum value of {high}"));
    }
    Ok(())
}

fn check_storage_id(value: &str) -> Result<(), String> {
    let ok = value.starts_with(|c: char| c.is_ascii_alphabetic())
        && value.ends_with(|c: char| c.is_ascii_alphanumeric())
        && value.len() > 1
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if ok {
        Ok(())
    } else {
        Err(format!(
            "invalid format - storage ID '{value}' contains illegal characters\n"
        ))
    }
}

/// A property string against its specification, e.g. `name=<string> [,bridge=<bridge>] [,tag=<integer>]`.
fn check_properties(name: &str, kind: &str, value: &str) -> Result<(), String> {
    struct Property<'a> {
        name: &'a str,
        kind: &'a str,
        optional: bool,
    }
    let mut default_key = "";
    let mut properties: Vec<Property<'_>> = Vec::new();
    // Parts: `[volume=]<volume>`, `,mp=<Path>`, `[,acl=<1|0>]`, `[[order=]\d+]`.
    for part in kind.split(' ').filter(|part| part.contains('=')) {
        // `[volume=]<volume>` is required and may stand without its name; other brackets make optional.
        let optional =
            part.starts_with("[,") || part.starts_with("[[") || part.starts_with('[') && !part.contains("=]");
        let part = part
            .trim_start_matches("[[")
            .trim_start_matches("[,")
            .trim_start_matches([',', '['])
            .trim_end_matches(']');
        let Some((key, kind)) = part.split_once('=') else {
            continue;
        };
        if let Some(bare) = kind.strip_prefix(']') {
            default_key = key;
            properties.push(Property {
                name: key,
                kind: bare,
                optional,
            });
        } else {
            properties.push(Property {
                name: key,
                kind,
                optional,
            });
        }
    }
    let given = Properties::parse(value, default_key);
    let mut problems: Vec<(String, String)> = Vec::new();
    for (key, value) in given.pairs() {
        match properties.iter().find(|property| property.name == key) {
            None => problems.push((
                key.clone(),
                "property is not defined in schema and the schema does not allow additional properties".to_owned(),
            )),
            Some(property) => {
                if let Err(reason) = check_property(key, property.kind, value) {
                    problems.push((key.clone(), reason));
                }
            }
        }
    }
    for property in properties
        .iter()
        .filter(|property| !property.optional && given.get(property.name).is_none())
    {
        problems.push((
            property.name.to_owned(),
            "property is missing and it is not optional".to_owned(),
        ));
    }
    if problems.is_empty() {
        return Ok(());
    }
    problems.sort();
    let lines: String = problems
        .iter()
        .map(|(key, reason)| format!("{name}.{key}: {reason}\n"))
        .collect();
    Err(format!("invalid format - format error\n{lines}"))
}

fn check_property(key: &str, kind: &str, value: &str) -> Result<(), String> {
    let bad = |what: &str| Err(format!("invalid format - value does not look like a valid {what}\n"));
    match key {
        "ip" if !matches!(value, "dhcp" | "manual") && !is_cidr4(value) => bad("ipv4 network configuration"),
        "ip6" if !matches!(value, "auto" | "dhcp" | "manual") && !is_cidr6(value) => bad("ipv6 network configuration"),
        "gw" if value.parse::<Ipv4Addr>().is_err() => bad("ipv4 address"),
        "gw6" if value.parse::<Ipv6Addr>().is_err() => bad("ipv6 address"),
        "hwaddr" if !is_mac(value) => bad("unicast MAC address"),
        "tag" => {
            check_type("integer", value)?;
            check_range("(1 - 4094)", value)
        }
        "mtu" => {
            check_type("integer", value)?;
            check_range("(64 - 65535)", value)
        }
        _ if kind.starts_with("<1|0>")
            && !matches!(value, "0" | "1" | "yes" | "no" | "on" | "off" | "true" | "false") =>
        {
            Err(format!("type check ('boolean') failed - got '{value}'"))
        }
        _ if kind.starts_with("<integer>") => check_type("integer", value),
        _ => Ok(()),
    }
}

fn list_items(value: &str) -> impl Iterator<Item = &str> {
    value.split([',', ';', ' ', '\0']).filter(|item| !item.is_empty())
}

fn is_dns_name(value: &str) -> bool {
    !value.is_empty()
        && value.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn is_tag(value: &str) -> bool {
    value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "_-+.".contains(c))
}

fn is_config_id(value: &str) -> bool {
    value.len() > 1
        && value.starts_with(|c: char| c.is_ascii_alphabetic())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
}

fn is_size_change(value: &str) -> bool {
    let value = value.strip_prefix('+').unwrap_or(value);
    let number = value.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or(value);
    number.parse::<f64>().is_ok() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn is_cidr4(value: &str) -> bool {
    value.split_once('/').is_some_and(|(ip, bits)| {
        ip.parse::<Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| (8..=32).contains(&bits))
    })
}

fn is_cidr6(value: &str) -> bool {
    value.split_once('/').is_some_and(|(ip, bits)| {
        ip.parse::<Ipv6Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| (8..=128).contains(&bits))
    })
}

fn is_mac(value: &str) -> bool {
    let parts: Vec<&str> = value.split(':').collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok())
        && u8::from_str_radix(parts[0], 16).is_ok_and(|first| first & 1 == 0)
}

/// Keys that a container's configuration may hold, for `set --delete`.
pub(crate) fn is_config_key(key: &str) -> bool {
    let known = crate::options::option_kind("pct", "set", key).is_some();
    let command_only = matches!(key, "delete" | "digest" | "revert");
    known && !command_only || numbered(key, "unused").is_some()
}
