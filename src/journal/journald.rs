//! The systemd journal, in its native protocol.
//!
//! Sending blocks when journald stalls, so only the thread of a [`super::relay`] may do it. Each record is
//! replayed to a private subscriber as an event of its original call site with this module's fields: so
//! `CODE_FILE` and `CODE_LINE` name that call site.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::callsite::Identifier;
use tracing::field::{Field, FieldSet, Value};
use tracing::metadata::Kind;
use tracing::subscriber::Interest;
use tracing::{Callsite, Dispatch, Event, Level, Metadata};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::prelude::*;

use super::record::{MESSAGE_ID, Place, Record, pair};

/// The socket of journald: sd_journal_sendv(3), and the same in `tracing-journald`.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The identifier for `journalctl -t`.
const IDENTIFIER: &str = "mistryd";

/// The error of a record, which the message repeats: `journalctl` shows only that.
const ERROR: &str = "error";

/// Fields of the journal, in capitals there. All others are appended to the message, so that no field name of
/// mistryd collides with one that journald reserves.
const FIELDS: [&str; 12] = [
    "message",
    MESSAGE_ID,
    "mistry_job",
    "mistry_project",
    "mistry_group",
    "mistry_event",
    "mistry_request",
    "attempt",
    "exit_code",
    ERROR,
    "container",
    "image",
];

/// Creates a record sink.
///
/// # Errors
/// journald cannot be reached.
pub(super) fn open() -> io::Result<impl FnMut(&Record) + Send + 'static> {
    // Connecting never blocks, but the layer sends as soon as it is created: the thread must do that.
    UnixDatagram::unbound()?.connect(SOCKET)?;
    let mut sink = None;
    Ok(move |record: &Record| {
        if sink.is_none() {
            sink = journald_sink().ok();
        }
        if let Some(sink) = &mut sink {
            sink(record);
        }
    })
}

/// Creates a sink for journald. Blocks while journald is stalled.
fn journald_sink() -> io::Result<impl FnMut(&Record) + Send + 'static> {
    let layer = tracing_journald::layer()?
        .with_field_prefix(None)
        .with_syslog_identifier(IDENTIFIER.to_owned())
        .with_priority_mappings(PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info: Priority::Informational,
            debug: Priority::Debug,
            trace: Priority::Debug,
        });
    Ok(replay(Dispatch::new(
        tracing_subscriber::registry().with(layer),
    )))
}

/// Replays records to `to`.
fn replay(to: Dispatch) -> impl FnMut(&Record) + Send + 'static {
    // tracing requires static metadata. There is one entry for each call site in the program that logs
    // something, so the leaked memory is bounded by the program's text.
    let mut places: HashMap<Place, &'static Metadata<'static>> = HashMap::new();
    move |record| {
        let metadata: &'static Metadata<'static> = places
            .entry(record.place)
            .or_insert_with(|| Box::leak(Box::new(metadata(record.place))));
        let message = message(record);
        let fields: [Field; FIELDS.len()] = {
            let mut known = metadata.fields().iter();
            // Never shorter than what it was made of; an event without fields has no content.
            let Some(first) = known.next() else { return };
            std::array::from_fn(|at| match at {
                0 => first.clone(),
                _ => known.next().unwrap_or_else(|| first.clone()),
            })
        };
        let texts: [Option<&str>; FIELDS.len()] = std::array::from_fn(|at| match FIELDS[at] {
            "message" => Some(message.as_str()),
            name => record.content.get(name),
        });
        let values: [(&Field, Option<&dyn Value>); FIELDS.len()] = std::array::from_fn(|at| {
            let text = texts[at].as_ref();
            (&fields[at], text.map(|text| text as &dyn Value))
        });
        to.event(&Event::new(metadata, &metadata.fields().value_set(&values)));
    }
}

/// The message, followed by the fields that the journal has no field for.
fn message(record: &Record) -> String {
    let mut message = record.content.message.clone();
    for (name, value) in &record.content.fields {
        if !FIELDS.contains(name) {
            message.push_str(if message.is_empty() { "" } else { " " });
            message.push_str(&pair(name, value));
        }
    }
    match record.content.get(ERROR) {
        Some(error) if message.is_empty() => error.to_owned(),
        Some(error) => format!("{message}: {error}"),
        None => message,
    }
}

/// A call site's metadata for tracing, with this module's fields.
fn metadata(place: Place) -> Metadata<'static> {
    Metadata::new(
        "record",
        place.target,
        place.level,
        place.file,
        place.line,
        None,
        FieldSet::new(&FIELDS, Identifier(&REPLAYED)),
        Kind::EVENT,
    )
}

/// The callsite of all field sets of this module. tracing never asks whether it is of interest.
struct Replayed(Metadata<'static>);

static REPLAYED: Replayed = Replayed(Metadata::new(
    "record",
    module_path!(),
    Level::INFO,
    None,
    None,
    None,
    FieldSet::new(&FIELDS, Identifier(&REPLAYED)),
    Kind::EVENT,
));

impl Callsite for Replayed {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Subscriber;
    use tracing_subscriber::layer::{Context, Layer};

    use super::*;
    use crate::journal::record::Content;

    type Seen = Arc<Mutex<Vec<(Place, Content)>>>;

    /// The fields that the layer received.
    struct Journal(Seen);

    impl<S: Subscriber> Layer<S> for Journal {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut content = Content::default();
            event.record(&mut content);
            let place = event.metadata().into();
            self.0.lock().unwrap().push((place, content));
        }
    }

    fn sent(records: &[Record]) -> Vec<(Place, Content)> {
        let seen = Seen::default();
        let journal = tracing_subscriber::registry().with(Journal(seen.clone()));
        let mut sink = replay(Dispatch::new(journal));
        records.iter().for_each(&mut sink);
        std::mem::take(&mut seen.lock().unwrap())
    }

    fn record(level: Level, message: &str, fields: &[(&'static str, &str)]) -> Record {
        Record {
            place: Place {
                level,
                target: "mistry::somewhere",
                file: Some("src/somewhere.rs"),
                line: Some(7),
            },
            content: Content {
                message: message.to_owned(),
                fields: fields
                    .iter()
                    .map(|(name, value)| (*name, (*value).to_owned()))
                    .collect(),
            },
        }
    }

    #[test]
    fn known_fields_are_fields_and_others_are_in_the_message() {
        let all: Vec<(&'static str, &str)> = FIELDS[1..].iter().map(|name| (*name, "x")).collect();
        let some = [("mistry_job", "3fa9"), ("colour", "dark red"), ("n", "2")];
        let records = [
            record(Level::WARN, "all", &all),
            record(Level::ERROR, "some", &some),
            record(Level::DEBUG, "", &[("error", "no room")]),
            record(Level::INFO, "many\nlines", &[]),
        ];
        let sent = sent(&records);
        for (record, (place, _)) in records.iter().zip(&sent) {
            assert_eq!(*place, record.place);
        }
        let said: Vec<&str> = sent
            .iter()
            .map(|(_, content)| content.message.as_str())
            .collect();
        assert_eq!(
            said,
            [
                "all: x",
                "some colour=\"dark red\" n=2",
                "no room",
                "many\nlines"
            ]
        );
        assert_eq!(sent[0].1.fields, records[0].content.fields);
        assert_eq!(sent[1].1.fields, [("mistry_job", "3fa9".to_owned())]);
        assert_eq!(sent[2].1.fields, [("error", "no room".to_owned())]);
        assert!(sent[3].1.fields.is_empty());
    }
}
