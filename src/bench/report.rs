//! What a benchmark prints: one row per run, as a table for people or as JSON lines.

use super::machine::{self, Steal};
use serde_json::{Map, Value};
use std::io::{self, Write};

/// One line of a report: names and values in order.
pub(super) struct Row(Map<String, Value>);

impl Row {
    /// Begins a row of this benchmark.
    pub(super) fn new(bench: &str) -> Self {
        Self(Map::new()).with("bench", bench)
    }

    /// Adds a value. Names end in their unit.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a figure, rounded to what can be believed of it.
    pub(super) fn with_figure(self, name: &str, figure: f64) -> Self {
        self.with(name, rounded(figure))
    }
}

/// Where rows go.
pub(super) struct Report {
    json: bool,
    machine: String,
    steal: Steal,
    columns: Vec<String>,
}

impl Report {
    /// Begins a report on standard output.
    pub(super) fn begin(json: bool) -> io::Result<Self> {
        let machine = machine::description();
        if !json {
            let pinned = if machine::is_pinned() { "server on core 0, generator on core 1" } else { "nothing pinned" };
            writeln!(io::stdout().lock(), "machine: {machine}; {pinned}")?;
        }
        Ok(Self { json, machine, steal: Steal::begin(), columns: Vec::new() })
    }

    /// Prints one row, with the load and the stolen time since the row before.
    pub(super) fn print(&mut self, row: Row) -> io::Result<()> {
        let row = row.with_figure("load", machine::load()).with_figure("steal_percent", self.steal.percent());
        self.steal = Steal::begin();
        let mut out = io::stdout().lock();
        if self.json {
            let row = row.with("pinned", machine::is_pinned()).with("machine", self.machine.as_str());
            writeln!(out, "{}", Value::Object(row.0))?;
            return out.flush();
        }
        let columns: Vec<String> = row.0.keys().cloned().collect();
        if columns != self.columns {
            writeln!(out, "\n{}", columns.iter().map(|name| format!("{name:>9}")).collect::<Vec<_>>().join("  "))?;
            self.columns = columns;
        }
        let cell = |(name, value): (&String, &Value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{text:>width$}", width = name.len().max(9))
        };
        writeln!(out, "{}", row.0.iter().map(cell).collect::<Vec<_>>().join("  "))?;
        out.flush()
    }

    /// Prints a remark, for people only.
    pub(super) fn remark(&self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { writeln!(io::stdout().lock(), "{text}") }
    }
}

/// Four digits are more than any of these figures is good for.
fn rounded(figure: f64) -> Value {
    if !figure.is_finite() {
        return Value::Null;
    }
    if figure == 0.0 || figure.abs() >= 10_000.0 {
        return figure.round().into();
    }
    let digits = 3.0 - figure.abs().log10().floor();
    let scale = 10_f64.powf(digits.clamp(0.0, 9.0));
    ((figure * scale).round() / scale).into()
}

/// The middle of the figures, and the smallest and largest; `None` without figures.
pub(super) fn median(figures: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let middle = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    Some((middle, first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(median(&[5.0]), Some((5.0, 5.0, 5.0)));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn figures_keep_four_digits() {
        assert_eq!(rounded(0.123_456), 0.1235);
        assert_eq!(rounded(98_765.4), 98_765.0);
        assert_eq!(rounded(f64::NAN), Value::Null);
    }
}
