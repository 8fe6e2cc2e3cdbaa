//! Reads `.env` files the way Compose does: quotes, `export`, comments; the last duplicate wins.
//!
//! Quoted values go through dotenvy. Unquoted ones are taken literally up to ` #`, because passwords with spaces,
//! backslashes or dollar signs must not change on their way; a `$` that Compose would expand is warned about.

use super::error::{ConfigError, Warning};
use std::path::Path;

/// One line that sets something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) line: usize,
}

/// All assignments of the file, in order.
pub(super) fn parse(text: &str, path: &Path, warnings: &mut Vec<Warning>) -> Result<Vec<Assignment>, ConfigError> {
    let mut assignments = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line_number = index + 1;
        let wrong =
            |message: &str| ConfigError::Syntax { path: path.into(), line: Some(line_number), message: message.into() };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("expected NAME=value"))?;
        let name = name.trim_end();
        if !is_name(name) {
            return Err(wrong("expected NAME=value, with a name of letters, digits and underscores"));
        }
        let (value, literal) = unquote(value.trim_start()).map_err(wrong)?;
        if !literal && value.contains('$') {
            warnings.push(Warning(format!(
                "{}:{line_number}: the $ in {name} is taken as it is; put the value in single quotes so that Compose \
                 does the same",
                path.display()
            )));
        }
        assignments.push(Assignment { name: name.into(), value, line: line_number });
    }
    Ok(assignments)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}

/// The value, and whether it was in single quotes.
fn unquote(raw: &str) -> Result<(String, bool), &'static str> {
    match raw.chars().next() {
        Some(quote @ ('"' | '\'')) => Ok((quoted(raw, quote)?, quote == '\'')),
        _ => Ok((without_comment(raw).trim_end().to_owned(), false)),
    }
}

fn quoted(raw: &str, quote: char) -> Result<String, &'static str> {
    const WRONG: &str =
        "the quoted value is not closed, has text behind it, or an escape other than \\n \\\\ \\\" \\' \\$";
    // dotenvy would expand variables, and a daemon that reads a password must not.
    let raw = if quote == '"' { raw.replace("\\$", "$").replace('$', "\\$") } else { raw.to_owned() };
    let line = format!("VALUE={raw}");
    let mut values = dotenvy::from_read_iter(line.as_bytes());
    match values.next() {
        Some(Ok((_, value))) => Ok(value),
        Some(Err(_)) | None => Err(WRONG),
    }
}

/// A comment begins with `#` behind a space; `a#b` is a value.
fn without_comment(raw: &str) -> &str {
    if raw.starts_with('#') {
        return "";
    }
    let comment = raw.char_indices().zip(raw.chars().skip(1)).find(|((_, c), next)| c.is_whitespace() && *next == '#');
    comment.map_or(raw, |((at, _), _)| &raw[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let parsed = parse(text, Path::new(".env"), &mut Vec::new()).unwrap();
        parsed.into_iter().map(|assignment| (assignment.name, assignment.value)).collect()
    }

    fn value(text: &str) -> String {
        read(&format!("A={text}")).remove(0).1
    }

    #[test]
    fn values_are_unquoted_as_compose_does() {
        for (text, expected) in [
            ("plain", "plain"),
            ("two words", "two words"),
            ("value # comment", "value"),
            ("a#b", "a#b"),
            ("# comment", ""),
            ("", ""),
            ("'single # $HOME \\n'", "single # $HOME \\n"),
            ("\"double # \\\"x\\\" \\\\\"", "double # \"x\" \\"),
            ("\"a b\" # comment", "a b"),
            ("p$ss${X}", "p$ss${X}"),
            ("\"p$ss${X}\"", "p$ss${X}"),
            ("\"p\\$ss\"", "p$ss"),
            ("back\\slash", "back\\slash"),
            ("  spaced  ", "spaced"),
            ("a=b=c", "a=b=c"),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn comments_blank_lines_export_and_carriage_returns_do_not_matter() {
        let text = "\u{feff}# head\r\n\r\nexport PORT=1\r\n  TIMEOUT = 2\r\n";
        assert_eq!(read(text), [("PORT".into(), "1".into()), ("TIMEOUT".into(), "2".into())]);
    }

    #[test]
    fn faults_name_their_line() {
        for text in ["PORT", "1A=2", "A B=2", "A=\"open", "A='open", "A='x' y", "A=\"\\q\"", "=1"] {
            let error = parse(&format!("# one\n{text}"), Path::new(".env"), &mut Vec::new()).unwrap_err().to_string();
            assert!(error.starts_with(".env:2: "), "{text}: {error}");
        }
    }

    #[test]
    fn a_dollar_that_compose_would_expand_is_warned_about() {
        let mut warnings = Vec::new();
        parse("A='$x'\nB=$x\nC=\"$x\"", Path::new(".env"), &mut warnings).unwrap();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].0.starts_with(".env:2: "));
    }
}
