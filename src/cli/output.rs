//! What commands print: JSON when asked for, else tables and lines for people.

use super::exit::{Exit, Failure};
use serde_json::{Map, Value};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Most columns of a table within a document; what has more is shown line by line.
const TABLE_COLUMNS_MAX: usize = 8;

/// Prints text as it is.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = Pipe(io::stdout().lock());
    Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush())?)
}

/// Standard output that takes everything once its reader has gone away (`| head`): that is no failure of ours.
struct Pipe<W>(W);

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        gone_is_fine(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        gone_is_fine(self.0.flush(), ())
    }
}

fn gone_is_fine<T>(result: io::Result<T>, instead: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(instead),
        other => other,
    }
}

/// Writes something large: to a new file (for its owner only, whole or not at all), or to standard output (`-` or none).
pub(super) fn write_out(
    to: Option<&Path>,
    write: &mut dyn FnMut(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Some(path) = to.filter(|path| *path != Path::new("-")) else {
        return write(&mut Pipe(io::stdout().lock()));
    };
    let failed = |exit, error: io::Error| Failure::new(exit, format!("{}: {error}", path.display()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| failed(Exit::CannotCreate, error))?;
    let written = write(&mut file).and_then(|()| file.sync_all().map_err(|error| failed(Exit::InputOutput, error)));
    if written.is_err() {
        // What is incomplete must not be taken for an export; the first error says why it is.
        let _removed = std::fs::remove_file(path);
    }
    written
}

/// The path as it is from anywhere.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// Prints a message on standard error, each line marked as ours.
pub(super) fn complain(message: &str) {
    let mut out = io::stderr().lock();
    for line in message.lines().filter(|line| !line.is_empty()) {
        // Nobody is left to tell if standard error is closed.
        let _closed = writeln!(out, "hotset: {line}");
    }
}

/// Prints a document: as JSON, or for people.
pub(super) fn show(document: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let text = serde_json::to_string_pretty(document).expect("a JSON value always has a text");
        return print(&format!("{text}\n"));
    }
    print(&readable(document))
}

/// Lists of objects become tables, objects become lines of names and values.
fn readable(document: &Value) -> String {
    match document {
        Value::Array(rows) if rows.is_empty() => "none\n".into(),
        Value::Array(rows) if rows.iter().all(Value::is_object) => records(rows),
        Value::Array(items) => items.iter().map(|item| cell(item) + "\n").collect(),
        Value::Object(fields) => lines(fields, 0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => cell(document) + "\n",
    }
}

/// One line per field; what has fields itself comes after them, indented.
fn lines(fields: &Map<String, Value>, depth: usize) -> String {
    let margin = "  ".repeat(depth);
    let plain = fields.iter().filter(|(_, value)| !is_nested(value));
    let mut text = table(&plain.map(|(name, value)| vec![format!("{margin}{name}"), cell(value)]).collect::<Vec<_>>());
    for (name, value) in fields.iter().filter(|(_, value)| is_nested(value)) {
        let inner = match value {
            Value::Object(fields) => lines(fields, depth + 1),
            Value::Array(rows) if depth > 0 || rows.iter().any(is_wide) => {
                let blocks = rows.iter().filter_map(Value::as_object).map(|fields| lines(fields, depth + 1));
                blocks.collect::<Vec<_>>().join("\n")
            }
            Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => readable(value),
        };
        let apart = if depth == 0 && !text.is_empty() { "\n" } else { "" };
        text = format!("{text}{apart}{margin}{name}\n{inner}");
    }
    text
}

fn is_nested(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| !fields.is_empty())
        || value.as_array().is_some_and(|rows| rows.iter().any(Value::is_object))
}

/// Whether a row has more than a table on a terminal could show.
fn is_wide(row: &Value) -> bool {
    row.as_object().is_some_and(|fields| fields.len() > TABLE_COLUMNS_MAX || fields.values().any(is_nested))
}

fn records(rows: &[Value]) -> String {
    let mut names: Vec<&String> = Vec::new();
    for name in rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let head = names.iter().map(|name| name.to_uppercase()).collect();
    let body = rows.iter().map(|row| names.iter().map(|name| cell(&row[name.as_str()])).collect());
    table(&std::iter::once(head).chain(body).collect::<Vec<_>>())
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Object(fields) if fields.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join("; "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Columns aligned, two spaces apart.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_become_aligned_tables() {
        let rows = json!([{"file": "a", "bytes": 1}, {"file": "longer", "bytes": 22, "kept": true}]);
        assert_eq!(readable(&rows), "FILE    BYTES  KEPT\na       1      -\nlonger  22     true\n");
        assert_eq!(readable(&json!([])), "none\n");
    }

    #[test]
    fn objects_become_lines_and_their_lists_tables() {
        let status = json!({"version": "1", "sessions": [{"name": "default"}], "read_only": false});
        assert_eq!(readable(&status), "version    1\nread_only  false\n\nsessions\nNAME\ndefault\n");
    }

    #[test]
    fn what_has_many_or_nested_fields_is_shown_line_by_line() {
        let status = json!({
            "version": "1",
            "readiness": {"ready": false, "reasons": ["full", "late"], "notes": []},
            "sessions": [
                {"name": "default", "last_save": {"at": "2026-01-12T12:00:00Z", "reasons": ["shutdown"]}},
                {"name": "b", "last_save": null},
            ],
        });
        assert_eq!(
            readable(&status),
            "version  1\n\nreadiness\n  ready    false\n  reasons  full; late\n  notes    none\n\nsessions\n  \
             name  default\n  last_save\n    at       2026-01-12T12:00:00Z\n    reasons  shutdown\n\n  \
             name       b\n  last_save  -\n"
        );
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert!(!readable(&json!({"name": "\u{1b}[2J\nx"})).contains('\u{1b}'));
    }
}
