//! A log record as a value: its message, its source location, and the fields of the spans around it.
//!
//! [`Collect`] creates a record from each event and passes it on; [`Line`] formats the same fields as text
//! for people. In both, an error includes the whole chain of its sources, and a field without a value is
//! absent.

use std::error::Error;
use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Most bytes of one text: an error chain that quotes the end of an output still fits, and a full queue of
/// such records uses little of the host's memory.
const MAX_TEXT: usize = 8 << 10;

/// For programs only: it names the catalog entry that explains a record.
pub(super) const MESSAGE_ID: &str = "message_id";

/// One record, owned.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) place: Place,
    /// Message, fields.
    pub(super) content: Content,
}

/// The source location of a record, and its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) level: Level,
    pub(super) target: &'static str,
    pub(super) file: Option<&'static str>,
    pub(super) line: Option<u32>,
}

impl From<&'static Metadata<'static>> for Place {
    fn from(metadata: &'static Metadata<'static>) -> Place {
        Place {
            level: *metadata.level(),
            target: metadata.target(),
            file: metadata.file(),
            line: metadata.line(),
        }
    }
}

/// A message and its fields; each field name occurs once.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, String)>,
}

impl Content {
    /// The value of a field.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &'static str, value: String) {
        if name == "message" {
            self.message = value;
            return;
        }
        // A value from an inner span or from the event itself is more specific.
        self.fields.retain(|(known, _)| *known != name);
        if !value.is_empty() {
            self.fields.push((name, value));
        }
    }
}

impl Visit for Content {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), bounded(format_args!("{value}")));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut chain = bounded(format_args!("{value}"));
        let mut cause = value.source();
        while let Some(error) = cause {
            let text = bounded(format_args!("{error}"));
            // Some errors already quote their source in their own message.
            if !chain.ends_with(&text) && chain.len() < MAX_TEXT {
                chain = bounded(format_args!("{chain}: {text}"));
            }
            cause = error.source();
        }
        self.set(field.name(), chain);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field.name(), bounded(format_args!("{value:?}")));
    }
}

/// The text, cut after [`MAX_TEXT`].
fn bounded(text: fmt::Arguments<'_>) -> String {
    struct Bounded(String);
    impl Write for Bounded {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = MAX_TEXT - self.0.len();
            if text.len() <= room {
                self.0.push_str(text);
                return Ok(());
            }
            let mark = '…';
            let mut fits = room.min(text.len());
            while !text.is_char_boundary(fits) || fits + mark.len_utf8() > room && fits > 0 {
                fits -= 1;
            }
            self.0.push_str(&text[..fits]);
            self.0.push(mark);
            // Text behind the limit is not even formatted.
            Err(fmt::Error)
        }
    }
    let mut to = Bounded(String::new());
    let _ = to.write_fmt(text);
    to.0
}

/// The fields of a span, kept beside it.
struct OfSpan(Content);

/// Passes each record on. It must not block: it runs in the thread that logs the record.
pub(super) struct Collect<F>(pub(super) F);

impl<S, F> Layer<S> for Collect<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    F: Fn(Record) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut content = Content::default();
        attributes.record(&mut content);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(OfSpan(content));
        }
    }

    fn on_record(&self, id: &Id, values: &Values<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(OfSpan(content)) = span.extensions_mut().get_mut()
        {
            values.record(content);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut content = Content::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(OfSpan(outer)) = span.extensions().get() {
                for (name, value) in &outer.fields {
                    content.set(name, value.clone());
                }
            }
        }
        event.record(&mut content);
        (self.0)(Record {
            place: event.metadata().into(),
            content,
        });
    }
}

/// Formats message and fields as one line of text.
#[derive(Debug)]
pub(super) struct Line;

impl<'writer> FormatFields<'writer> for Line {
    fn format_fields<R: RecordFields>(&self, mut to: Writer<'writer>, fields: R) -> fmt::Result {
        let mut content = Content::default();
        fields.record(&mut content);
        write!(to, "{}", one_line(&content.message))?;
        let mut gap = if content.message.is_empty() { "" } else { " " };
        for (name, value) in &content.fields {
            if *name != MESSAGE_ID {
                write!(to, "{gap}{}", pair(name, value))?;
                gap = " ";
            }
        }
        Ok(())
    }
}

/// `name=value`, quoted when the end of the value would be ambiguous.
pub(super) fn pair(name: &str, value: &str) -> String {
    if value.contains(|letter: char| letter.is_whitespace() || letter == '"') {
        format!("{name}={value:?}")
    } else {
        format!("{name}={}", one_line(value))
    }
}

/// Text that can neither start a new line nor control a terminal.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        // Includes characters that reverse the text direction, and Unicode line separators.
        if letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            line.extend(letter.escape_debug());
        } else {
            line.push(letter);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::prelude::*;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not flip the link of 'yarn'")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("the disk said no: {0}")]
    struct Middle(#[source] std::io::Error);

    fn error() -> Outer {
        Outer(Middle(std::io::Error::other("no\nroom")))
    }

    fn records(log: impl FnOnce()) -> Vec<Record> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let to = kept.clone();
        let collect = Collect(move |record| to.lock().unwrap().push(record));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(collect), log);
        std::mem::take(&mut kept.lock().unwrap())
    }

    fn text(log: impl FnOnce()) -> String {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let to = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || To(to.clone()))
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .fmt_fields(Line);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let kept = std::mem::take(&mut *kept.lock().unwrap());
        String::from_utf8(kept).unwrap()
    }

    struct To(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for To {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn log_example() {
        let error = error();
        let (none, empty, group) = (None::<i64>, "", "a group");
        let span = tracing::info_span!("request", mistry_request = "r1", mistry_job = "outer");
        span.record("mistry_request", "r2");
        let _in = span.enter();
        tracing::warn!(
            message_id = "abc",
            mistry_job = %"inner",
            mistry_group = group,
            attempt = 2,
            empty,
            exit_code = none,
            error = &error as &dyn Error,
            "it {} over",
            "is"
        );
    }

    #[test]
    fn a_record_has_the_fields_of_its_event_and_of_the_spans_around_it() {
        let records = records(log_example);
        assert_eq!(records.len(), 1);
        let record = &records[0];
        assert_eq!(record.place.level, Level::WARN);
        assert_eq!(record.place.file, Some(file!()));
        assert_eq!(record.content.message, "it is over");
        let mut fields = record.content.fields.clone();
        fields.sort();
        let chain = "could not flip the link of 'yarn': the disk said no: no\nroom";
        let expected = [
            ("attempt", "2"),
            ("error", chain),
            ("message_id", "abc"),
            ("mistry_group", "a group"),
            ("mistry_job", "inner"),
            ("mistry_request", "r2"),
        ];
        assert_eq!(fields, expected.map(|(name, value)| (name, value.into())));
    }

    #[test]
    fn a_record_is_one_line_without_fields_for_programs() {
        let line = text(log_example);
        assert!(
            line.ends_with(
                "it is over mistry_job=inner mistry_group=\"a group\" attempt=2 \
                 error=\"could not flip the link of 'yarn': the disk said no: no\\nroom\"\n"
            ),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1);
        assert!(!line.contains("message_id") && !line.contains("empty"));
        let line = text(|| tracing::info!(a = "\u{1b}[2J", "x\ny"));
        assert_eq!(line, " INFO x\\ny a=\\u{1b}[2J\n");
        assert_eq!(text(|| tracing::info!(a = "b")), " INFO a=b\n");
    }

    #[test]
    fn the_length_of_a_text_is_bounded() {
        let long = "é".repeat(MAX_TEXT);
        let records = records(|| tracing::info!(long, "{long}"));
        for text in [&records[0].content.message, &records[0].content.fields[0].1] {
            assert!(text.len() <= MAX_TEXT && text.ends_with("é…"));
        }
    }
}
