//! Texts to values: time spans, sizes, lists. `None` means that the text is not such a value.

use super::Doors;
use crate::ops::secret::Secret;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// The doors that `DOORS` may name.
pub(super) const DOOR_NAMES: &[&str] = &["native", "blender"];

/// Longest password.
pub(super) const SECRET_BYTES_MAX: usize = 512;

/// Most origins in the list.
const ORIGINS_MAX: usize = 64;

const SPAN_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

const BYTE_UNITS: &[(&str, u64)] = &[
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// A whole number; `_` may group its digits.
pub(super) fn count(text: &str) -> Option<u64> {
    let starts_with_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let allowed = text.chars().all(|c| c.is_ascii_digit() || c == '_');
    (starts_with_digit && allowed).then(|| text.replace('_', "").parse().ok())?
}

/// `120` (of `unit`), `2m`, `1h30m`, `500ms`.
pub(super) fn span(text: &str, unit: Duration) -> Option<Duration> {
    let text = text.trim().to_ascii_lowercase();
    if let Some(number) = count(&text) {
        let unit_ms = u64::try_from(unit.as_millis()).ok()?;
        return Some(Duration::from_millis(number.checked_mul(unit_ms)?));
    }
    let mut total_ms: u64 = 0;
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (number, unit_ms, after) = leading(rest, SPAN_UNITS)?;
        total_ms = total_ms.checked_add(number.checked_mul(unit_ms)?)?;
        rest = after.trim_start();
    }
    (!text.is_empty()).then_some(Duration::from_millis(total_ms))
}

/// `1048576`, `64MiB`, `2 GiB`, `10MB`; single letters count in 1024s.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    if let Some(number) = count(&text) {
        return Some(number);
    }
    let (number, unit, rest) = leading(&text, BYTE_UNITS)?;
    if rest.is_empty() { number.checked_mul(unit) } else { None }
}

/// Splits `<number><unit>` off the front.
fn leading<'t>(text: &'t str, units: &[(&str, u64)]) -> Option<(u64, u64, &'t str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let number = count(&text[..digits])?;
    let rest = text[digits..].trim_start();
    let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (name, after) = rest.split_at(letters);
    units.iter().find(|(unit, _)| *unit == name).map(|(_, size)| (number, *size, after))
}

/// Shows a span in the largest unit that needs no fraction.
pub(super) fn show_span(span: Duration) -> String {
    let ms = span.as_millis();
    let unit = SPAN_UNITS[..5].iter().rev().find(|(_, size)| ms != 0 && ms.is_multiple_of(u128::from(*size)));
    unit.map_or_else(|| "0".into(), |(name, size)| format!("{}{name}", ms / u128::from(*size)))
}

/// Shows a size in the largest binary unit that needs no fraction.
pub(super) fn show_bytes(bytes: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.iter().find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size));
    unit.map_or_else(|| format!("{bytes} bytes"), |(name, size)| format!("{}{name}", bytes / size))
}

/// `true`, `yes`, `on`, `1` and their opposites.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// An IP address, or `localhost`. Names are not looked up.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    match text.trim() {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        other => other.trim_start_matches('[').trim_end_matches(']').parse().ok(),
    }
}

/// A path that is not empty and has no NUL.
pub(super) fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
}

/// A text short enough to be hashed for every stranger, on one line.
pub(super) fn secret(text: &str) -> Option<Secret> {
    let good = text.len() <= SECRET_BYTES_MAX && !text.chars().any(char::is_control);
    good.then(|| Secret::new(text))
}

/// Names of doors, separated by commas or spaces, or `none`.
pub(super) fn doors(text: &str) -> Option<Doors> {
    let mut doors = Doors::default();
    if text.trim().is_empty() {
        return None;
    }
    if text.trim().eq_ignore_ascii_case("none") {
        return Some(doors);
    }
    for name in words(text) {
        match name.to_ascii_lowercase().as_str() {
            "native" => doors.native = true,
            "blender" => doors.blender = true,
            _ => return None,
        }
    }
    Some(doors)
}

/// Origins: scheme and host, with a port if it is not the scheme's own, and nothing behind it.
pub(super) fn origins(text: &str) -> Option<Vec<String>> {
    let origins: Vec<String> = words(text).map(origin).collect::<Option<_>>()?;
    (origins.len() <= ORIGINS_MAX).then_some(origins)
}

fn origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    (!host.is_empty() && host.chars().all(allowed)).then_some(text)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_spans_are_read_as_people_write_them() {
        for (text, ms) in [("120", 120_000), ("2m", 120_000), ("1h30m", 5_400_000), ("500ms", 500), ("1d", 86_400_000)]
        {
            assert_eq!(span(text, SECOND), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(span("10000", Duration::from_millis(1)), Some(Duration::from_secs(10)));
        assert_eq!(span("1 h 30 m", SECOND), Some(Duration::from_mins(90)));
    }

    #[test]
    fn what_is_no_time_span_is_refused() {
        for text in ["", "m", "-5", "1.5h", "2x", "5m5", "99999999999999999999", "18446744073709551615w", "1h-3m"] {
            assert_eq!(span(text, SECOND), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, expected) in [("64MiB", 64 << 20), ("2gib", 2 << 30), ("10MB", 10_000_000), ("4k", 4096), ("77", 77)]
        {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "MiB", "1.5GiB", "-1", "5 apples", "5MiB5", "99999999999TiB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn shown_spans_and_sizes_are_read_back_as_themselves() {
        for ms in [1, 999, 1_000, 60_000, 5_400_000, 86_400_000] {
            let value = Duration::from_millis(ms);
            assert_eq!(span(&show_span(value), SECOND), Some(value));
        }
        for size in [1 << 10, 3 << 20, 5 << 30] {
            assert_eq!(bytes(&show_bytes(size)), Some(size));
        }
    }

    #[test]
    fn origins_hold_nothing_but_scheme_host_and_port() {
        assert_eq!(
            origins("https://Example.org, http://localhost:3000"),
            Some(vec!["https://example.org".into(), "http://localhost:3000".into()])
        );
        assert_eq!(origins(""), Some(vec![]));
        for text in ["*", "example.org", "https://", "https://a/b", "ftp://a", "https://user@a"] {
            assert_eq!(origins(text), None, "{text}");
        }
    }

    #[test]
    fn passwords_hold_no_control_characters() {
        assert!(secret("pä$$ word'\"#").is_some());
        assert!(secret("").is_some());
        assert!(secret("two\nlines").is_none());
        assert!(secret(&"x".repeat(SECRET_BYTES_MAX + 1)).is_none());
    }
}
