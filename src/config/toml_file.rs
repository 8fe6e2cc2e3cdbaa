//! Reads one TOML file of settings: flat, one `name = value` per setting.

use super::error::ConfigError;
use config::{Config, File, FileFormat, Value, ValueKind};
use std::collections::BTreeMap;
use std::path::Path;

/// The values as text, by name, with the line where each seems to be.
pub(super) fn parse(text: &str, path: &Path) -> Result<BTreeMap<String, (String, Option<usize>)>, ConfigError> {
    let wrong = |line, message: String| ConfigError::Syntax { path: path.into(), line, message };
    let source = Config::builder().add_source(File::from_str(text, FileFormat::Toml)).build();
    let table = source.and_then(|config| config.cache.into_table());
    let table = table.map_err(|error| wrong(None, without_excerpt(&error.to_string())))?;
    let mut values = BTreeMap::new();
    for (name, value) in table {
        let line = line_of(text, &name);
        let value = as_text(value)
            .ok_or_else(|| wrong(line, format!("{name} must be a text, a number, true, false or a list of these")))?;
        values.insert(name, (value, line));
    }
    Ok(values)
}

/// The parser's message without the line of the file that it shows, which may hold a password.
fn without_excerpt(message: &str) -> String {
    let is_excerpt = |line: &&str| line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(" |");
    let is_margin = |line: &&str| line.trim_start().starts_with('|');
    let lines: Vec<&str> = message.lines().filter(|line| !is_excerpt(line) && !is_margin(line)).collect();
    lines.join(": ")
}

fn as_text(value: Value) -> Option<String> {
    match value.kind {
        ValueKind::Boolean(value) => Some(value.to_string()),
        ValueKind::I64(value) => Some(value.to_string()),
        ValueKind::I128(value) => Some(value.to_string()),
        ValueKind::U64(value) => Some(value.to_string()),
        ValueKind::U128(value) => Some(value.to_string()),
        ValueKind::String(value) => Some(value),
        ValueKind::Array(values) => {
            let items: Option<Vec<String>> = values.into_iter().map(as_text).collect();
            items.map(|items| items.join(","))
        }
        ValueKind::Nil | ValueKind::Float(_) | ValueKind::Table(_) => None,
    }
}

fn line_of(text: &str, name: &str) -> Option<usize> {
    let sets = |line: &str| {
        let line = line.trim_start().trim_start_matches(['[', '"', '\'']);
        let rest = line.to_ascii_lowercase().strip_prefix(&name.to_ascii_lowercase()).map(str::to_owned);
        rest.is_some_and(|rest| rest.trim_start_matches(['"', '\'']).trim_start().starts_with(['=', ']', '.']))
    };
    text.lines().position(sets).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, (String, Option<usize>)>, ConfigError> {
        parse(text, Path::new("x.toml"))
    }

    #[test]
    fn numbers_texts_switches_and_lists_are_read_with_their_lines() {
        let values =
            read("# head\nport = 1\nhistory = \"2h\"\n\ncreate_sessions = true\ndoors = [\"native\"]\n").unwrap();
        assert_eq!(values["port"], ("1".into(), Some(2)));
        assert_eq!(values["history"], ("2h".into(), Some(3)));
        assert_eq!(values["create_sessions"], ("true".into(), Some(5)));
        assert_eq!(values["doors"], ("native".into(), Some(6)));
    }

    #[test]
    fn a_fault_says_where_it_is_and_shows_nothing_of_the_line() {
        for text in
            ["server_password = \"hunter2", "a = 1\nserver_pass\\word = 'hunter2'", "port = 1 # hunter2\nport = 2"]
        {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("at line "), "{error}");
            assert!(!error.contains("hunter2") && !error.contains('|'), "{error}");
        }
    }

    #[test]
    fn broken_files_and_foreign_types_are_faults() {
        for text in
            ["port = ", "port 1", "port = 1\nport = 2", "port = 1.5", "[port]\na = 1", "port = 2024-01-01T00:00:00Z\nx"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
