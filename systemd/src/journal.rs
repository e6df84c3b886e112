//! The log as the journal takes it: the text that people read, and beside it each field of the event and of the spans around it under a name of its own, so
//! that `journalctl -u proximity-agent OPERATION_ID=…` shows one operation. The format is that of `systemd.journal-fields(7)` and of "Native Journal
//! Protocol" in systemd's documentation.

use std::{
    env,
    fmt::{self, Write as _},
    fs::File,
    io,
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, net::UnixDatagram},
    },
    path::Path,
    time::Duration,
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// A datagram holds some 200 KiB; what is longer than this is cut.
const VALUE_LEN_MAX: usize = 16 * 1024;
/// Names that say something else in the journal.
const RESERVED: [&str; 4] = ["message", "priority", "message_id", "syslog_identifier"];
/// How long a journal that does not read may hold us; the line goes to stderr then.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// A [`Layer`] that writes to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    identifier: &'static str,
}

/// The journal, if that is where stderr leads (`JOURNAL_STREAM`, systemd.exec(5)). Otherwise, and if it cannot be reached, `None`: log to stderr.
/// `identifier` is the program's name, as `journalctl -t` takes it.
pub fn if_stderr_leads_there(identifier: &'static str) -> Option<Journal> {
    let stream = env::var("JOURNAL_STREAM").ok()?;
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?)
        .metadata()
        .ok()?;
    if stream != format!("{}:{}", stderr.dev(), stderr.ino()) {
        return None;
    }
    match Journal::open(Path::new(SOCKET), identifier) {
        Ok(journal) => Some(journal),
        Err(error) => {
            eprintln!("{identifier}: the log has no fields, as {SOCKET} cannot be reached: {error}");
            None
        }
    }
}

impl Journal {
    fn open(path: &Path, identifier: &'static str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self { socket, identifier })
    }
}

/// Fields of an event or a span, each with its value as text.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    named: Vec<(&'static str, String)>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => match self.named.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => self.named.push((name, value)),
            },
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.to_owned());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.named {
                    // What is nearer to the event says it better.
                    if !fields.named.iter().any(|(known, _)| known == name) {
                        fields.named.push((name, value.clone()));
                    }
                }
            }
        }
        let text = text(&fields);
        let metadata = event.metadata();
        let mut entry = Vec::with_capacity(512);
        put(&mut entry, "MESSAGE", &text);
        put(&mut entry, "PRIORITY", priority(*metadata.level()));
        put(&mut entry, "SYSLOG_IDENTIFIER", self.identifier);
        put(&mut entry, "TARGET", metadata.target());
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            put(&mut entry, "CODE_FILE", file);
            put(&mut entry, "CODE_LINE", &line.to_string());
        }
        for (name, value) in &fields.named {
            if let Some(name) = journal_name(name) {
                put(&mut entry, &name, value);
            }
        }
        if self.socket.send(&entry).is_err() {
            // The journal reads that too, if it reads at all.
            eprintln!("{} {text}", metadata.level());
        }
    }
}

/// The line for people: what happened, then every field.
fn text(fields: &Fields) -> String {
    let mut text = fields.message.clone();
    for (name, value) in &fields.named {
        if !text.is_empty() {
            text.push(' ');
        }
        let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
        // Writing to a String does not fail.
        let _ = if plain {
            write!(text, "{name}={value}")
        } else {
            write!(text, "{name}={value:?}")
        };
    }
    text
}

/// syslog(3): 3 error, 4 warning, 6 informational, 7 debug.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// Upper case, digits and underscores, at most 64, beginning with a letter; `None`: the journal has no place for it.
fn journal_name(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if RESERVED.contains(&name) || name.len() > 64 || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    Some(
        name.chars()
            .map(|c| if fits(c) { c.to_ascii_uppercase() } else { '_' })
            .collect(),
    )
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value[..value.floor_char_boundary(VALUE_LEN_MAX)];
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// What is logged in `act`, one datagram each.
    fn entries(count: usize, act: impl FnOnce()) -> Vec<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let journal = Journal::open(&path, "program").unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), act);
        let mut buffer = vec![0; 1 << 20];
        (0..count)
            .map(|_| {
                let length = listener.recv(&mut buffer).unwrap();
                buffer[..length].to_vec()
            })
            .collect()
    }

    #[test]
    fn fields_of_the_event_and_of_its_spans_are_found_by_name_and_read_by_people() {
        let one = entries(1, || {
            let _job = tracing::info_span!(
                "job",
                operation_id = "o1",
                step = "outer",
                node_id = tracing::field::Empty
            )
            .entered();
            tracing::Span::current().record("node_id", "n1");
            tracing::warn!(step = "create", count = 3, why = "no way", "a step failed");
        });
        let text = String::from_utf8(one[0].clone()).unwrap();
        let has = |line: &str| text.lines().any(|found| found == line);
        assert!(
            has("MESSAGE=a step failed step=create count=3 why=\"no way\" operation_id=o1 node_id=n1"),
            "{text}"
        );
        for line in [
            "PRIORITY=4",
            "SYSLOG_IDENTIFIER=program",
            "OPERATION_ID=o1",
            "STEP=create",
            "COUNT=3",
            "WHY=no way",
            "NODE_ID=n1",
        ] {
            assert!(has(line), "{line} in {text}");
        }
        assert_eq!(text.matches("\nSTEP=").count(), 1);
    }

    #[test]
    fn a_value_of_several_lines_cannot_make_fields() {
        let one = entries(1, || tracing::info!(output = "a\nPRIORITY=0", priority = 0, "said"));
        let at = one[0].windows(7).position(|found| found == b"OUTPUT\n").unwrap() + 7;
        assert_eq!(one[0][at..at + 8], 12_u64.to_le_bytes());
        assert_eq!(&one[0][at + 8..at + 20], b"a\nPRIORITY=0");
        assert!(one[0].windows(11).any(|found| found == b"\nPRIORITY=6"));
        // In the text for people the line stays one line.
        assert!(one[0].starts_with(b"MESSAGE=said output=\"a\\nPRIORITY=0\" priority=0\n"));
    }

    #[test]
    fn what_is_too_long_is_cut_and_still_arrives() {
        let long = "é".repeat(VALUE_LEN_MAX);
        let one = entries(1, || tracing::error!(output = long, "much"));
        assert!(one[0].len() < 3 * VALUE_LEN_MAX);
        assert!(String::from_utf8(one[0].clone()).is_ok());
    }

    #[test]
    fn names_that_the_journal_does_not_take_are_left_out() {
        assert_eq!(journal_name("operation_id").unwrap(), "OPERATION_ID");
        assert_eq!(journal_name("http.status").unwrap(), "HTTP_STATUS");
        for name in ["_pid", "message", "priority", "9lives", ""] {
            assert_eq!(journal_name(name), None, "{name}");
        }
    }
}
