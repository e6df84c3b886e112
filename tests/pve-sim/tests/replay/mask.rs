//! What may differ between a real call and a simulated one.

/// Transcripts whose numbers are measurements: all digits and column widths are masked.
const NUMBERS: [&str; 8] = [
    "status-100-verbose-running",
    "pvesm-status",
    "pvesm-status-content",
    "pvesh-lxc-status",
    "pveam-list",
    "pvesh-create-start",
    "pvesh-create-stop",
    "resize-100",
];

/// `9` stands for a digit, `X` for a hexadecimal digit.
const SHAPES: [&str; 6] = [
    "XX:XX:XX:XX:XX:XX",
    "XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX",
    "9999-99-99 99:99:99",
    "9999_99_99-99_99_99",
    "99:99:99",
    "XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
];

/// Lines in which numbers are speeds, sizes or durations.
const MEASURED: [&str; 10] = [
    "Total bytes read:",
    "INFO: Total bytes written:",
    "INFO: archive file size:",
    "INFO: guest is online again",
    "INFO: first sync finished",
    "INFO: final sync finished",
    "INFO: starting first sync",
    "INFO: starting final sync",
    "snaptime:",
    "missing command at",
];

fn fits(shape: &str, text: &str) -> bool {
    let mut characters = text.chars();
    shape.chars().all(|wanted| match (wanted, characters.next()) {
        ('9', Some(found)) => found.is_ascii_digit(),
        ('X', Some(found)) => found.is_ascii_hexdigit(),
        (wanted, Some(found)) => wanted == found,
        (_, None) => false,
    })
}

fn shapes(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        match SHAPES.iter().find(|shape| fits(shape, rest)) {
            Some(shape) => {
                out.push_str("<masked>");
                rest = &rest[shape.len()..];
            }
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

fn digits(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if character.is_ascii_digit() || character == '.' {
            if !out.ends_with('#') {
                out.push('#');
            }
        } else {
            out.push(character);
        }
    }
    out
}

pub(crate) fn mask(name: &str, text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut line = shapes(line);
        if let Some(at) = line.find("UPID:") {
            let end = line[at..].find("root@pam:").map_or(line.len(), |end| at + end);
            line.replace_range(at..end, "UPID:…:");
        }
        // The real tool prints the options in the random order of a Perl hash.
        if line.starts_with("INFO: starting new backup job:") {
            let mut words: Vec<String> = line.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect();
            words.sort();
            line = words.join(" ");
        }
        if line.starts_with("missing command at") {
            "missing command at".clone_into(&mut line);
        }
        if NUMBERS.contains(&name) || MEASURED.iter().any(|start| line.starts_with(start)) {
            line = digits(&line).split_whitespace().collect::<Vec<_>>().join(" ");
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}
