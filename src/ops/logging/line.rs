//! What one log line looks like: time, level, message, then the fields.

use crate::ops::clock;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Most bytes of one field or message; a client must not be able to fill the log with one name.
const TEXT_BYTES_MAX: usize = 4096;

/// `2026-01-31T12:00:00.000Z  INFO Auto-save enabled (interval: 120s) session=default`.
#[derive(Debug)]
pub(super) struct TextLine {
    /// Whether the level is coloured.
    pub(super) colours: bool,
}

/// `{"ts":"…","level":"INFO","msg":"Auto-save enabled (interval: 120s)","target":"hotset::live","session":"default"}`.
#[derive(Debug)]
pub(super) struct JsonLine;

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let level = *event.metadata().level();
        match colour(level).filter(|_| self.colours) {
            Some(colour) => write!(out, "\x1b[2m{}\x1b[0m {colour}{level:>5}\x1b[0m ", now())?,
            None => write!(out, "{} {level:>5} ", now())?,
        }
        out.write_str(&escaped(&parts.message))?;
        for (name, value) in &parts.fields {
            match value {
                Value::String(text) if plain(text) => write!(out, " {name}={text}")?,
                Value::String(text) => write!(out, " {name}=\"{}\"", escaped(text).replace('"', "\\\""))?,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    write!(out, " {name}={value}")?;
                }
            }
        }
        out.write_char('\n')
    }
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("ts".into(), now().into());
        line.insert("level".into(), metadata.level().as_str().into());
        line.insert("msg".into(), parts.message.into());
        line.insert("target".into(), metadata.target().into());
        for (name, value) in parts.fields {
            line.entry(name).or_insert(value);
        }
        writeln!(out, "{}", Value::Object(line))
    }
}

fn now() -> String {
    let now = DateTime::<Utc>::from_timestamp_millis(clock::now_ms()).unwrap_or_default();
    now.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn colour(level: Level) -> Option<&'static str> {
    match level {
        Level::ERROR => Some("\x1b[31m"),
        Level::WARN => Some("\x1b[33m"),
        Level::INFO => Some("\x1b[32m"),
        Level::DEBUG => Some("\x1b[34m"),
        Level::TRACE => None,
    }
}

fn plain(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"' || c == '=')
}

/// Control characters (colours, line ends, changes of writing direction) as escapes: a name must not be able to forge a
/// line or to steer the terminal.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The message and the other fields of one event.
#[derive(Default)]
struct Parts {
    message: String,
    fields: Vec<(String, Value)>,
}

impl Parts {
    fn put(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name().to_owned(), value));
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = cut(format!("{value:?}"));
        if field.name() == "message" {
            self.message = text;
        } else {
            self.put(field, Value::String(text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = cut(value.to_owned());
        if field.name() == "message" {
            self.message = text;
        } else {
            self.put(field, Value::String(text));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Page {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn written<F>(format: F, log: impl FnOnce()) -> String
    where
        F: FormatEvent<tracing_subscriber::Registry, tracing_subscriber::fmt::format::DefaultFields>
            + Send
            + Sync
            + 'static,
    {
        let page = Page::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(page.clone()).event_format(format);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_message_is_the_same_in_both_formats() {
        let say = || tracing::info!(session = "default", seq = 7, "Auto-save enabled (interval: {}s)", 120);
        let text = written(TextLine { colours: false }, say);
        assert!(text.ends_with(" INFO Auto-save enabled (interval: 120s) session=default seq=7\n"), "{text}");
        let line: Value = serde_json::from_str(&written(JsonLine, say)).unwrap();
        assert_eq!(line["msg"], "Auto-save enabled (interval: 120s)");
        assert_eq!((&line["level"], &line["session"], &line["seq"]), (&json!("INFO"), &json!("default"), &json!(7)));
    }

    #[test]
    fn a_name_cannot_forge_a_line_or_steer_the_terminal() {
        let say = || tracing::info!(user = "a\nb\x1b[2J", "Session saved to disk (reason: {})", "x\r\nFAKE \u{202e}");
        for line in [written(TextLine { colours: false }, say), written(JsonLine, say)] {
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn a_message_field_of_the_caller_cannot_replace_ours() {
        let line: Value = serde_json::from_str(&written(JsonLine, || tracing::info!(level = "NONE", "hello"))).unwrap();
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn long_texts_are_cut() {
        let name = "ä".repeat(5_000);
        let text = written(TextLine { colours: false }, || tracing::info!(%name, "joined"));
        assert!(text.len() < 5_000);
    }
}
