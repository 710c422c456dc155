//! A table for people and for programs.

use crate::file::replace;
use crate::{Error, Result};
use std::path::Path;

/// One field of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Not measured, or not a number.
    Empty,
    /// Words.
    Text(String),
    /// A number, which people read with `digits` decimals and programs read whole.
    Number {
        /// Finite or infinite.
        value: f64,
        /// Decimals in [`Table::to_text`].
        digits: usize,
    },
}

impl Cell {
    /// A number that people read with this many decimals; empty for none and for what is not a number.
    pub fn number(value: impl Into<Option<f64>>, digits: usize) -> Self {
        match value.into() {
            Some(value) if !value.is_nan() => Self::Number { value, digits },
            _ => Self::Empty,
        }
    }

    /// How many there are of something, exact up to 2^53.
    pub fn count(value: usize) -> Self {
        Self::Number { value: value as f64, digits: 0 }
    }

    fn to_csv(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Text(text) => quoted(text),
            Self::Number { value, .. } => value.to_string(),
        }
    }

    fn to_text(&self) -> String {
        match self {
            Self::Empty => "-".into(),
            Self::Text(text) => visible(text),
            Self::Number { value, digits } => format!("{value:.digits$}"),
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// Rows under named columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl IntoIterator<Item: Into<String>>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; an error unless it has as many cells as the table has columns.
    pub fn push(&mut self, row: Vec<Cell>) -> Result<()> {
        if row.len() != self.columns.len() {
            let what = format!("the number of cells in row {}", self.rows.len() + 1);
            let limit = format!("the table has {} columns", self.columns.len());
            return Err(Error::argument(what, row.len(), limit));
        }
        self.rows.push(row);
        Ok(())
    }

    /// The table as RFC 4180 has it; numbers read back exactly.
    pub fn to_csv(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|name| quoted(name)).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(Cell::to_csv).collect());
        let lines = std::iter::once(names).chain(rows);
        lines.map(|fields: Vec<String>| fields.join(",") + "\r\n").collect()
    }

    /// Writes [`Table::to_csv`] to a file, in place of one that may be there.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        replace(path, self.to_csv().as_bytes())
    }

    /// Aligned columns for a terminal: numbers to the right, words to the left, `-` for what is empty.
    pub fn to_text(&self) -> String {
        let mut lines = vec![String::new(); 1 + self.rows.len()];
        for (column, name) in self.columns.iter().enumerate() {
            let cells = || self.rows.iter().map(|row| &row[column]);
            let is_words = cells().any(|cell| matches!(cell, Cell::Text(_)));
            let fields: Vec<String> =
                std::iter::once(visible(name)).chain(cells().map(Cell::to_text)).collect();
            let width = fields.iter().map(|field| field.chars().count()).max().unwrap_or(0);
            for (line, field) in lines.iter_mut().zip(fields) {
                let gap = if column == 0 { "" } else { "  " };
                *line += &match is_words {
                    true => format!("{gap}{field:width$}"),
                    false => format!("{gap}{field:>width$}"),
                };
            }
        }
        lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// A field in quotes where its content would otherwise end it.
fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

/// Text that stays in its place: what comes from files cannot break the line or command the terminal.
fn visible(text: &str) -> String {
    let shown = |symbol: char| if symbol.is_control() { '\u{fffd}' } else { symbol };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["method", "context", "difference"]);
        let rows = [("dense", 512, None), ("two-level, 25%", 16384, Some(-0.1 - 0.2))];
        for (method, context, difference) in rows {
            table
                .push(vec![method.into(), Cell::count(context), Cell::number(difference, 2)])
                .unwrap();
        }
        table
    }

    #[test]
    fn text_is_aligned_and_rounded() {
        let expected = "\
method          context  difference
dense               512           -
two-level, 25%    16384       -0.30
";
        assert_eq!(sample().to_text(), expected);
    }

    #[test]
    fn csv_is_exact_and_replaces_the_file() {
        let expected = "method,context,difference\r\ndense,512,\r\n\"two-level, 25%\",16384,-0.30000000000000004\r\n";
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.csv");
        std::fs::write(&path, "something longer than the table ".repeat(9)).unwrap();
        sample().write_csv(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn fields_are_quoted_as_rfc_4180_has_it() {
        for (text, field) in [
            ("plain text", "plain text"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"so\"", "\"say \"\"so\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("a\rb", "\"a\rb\""),
        ] {
            let mut table = Table::new([text]);
            table.push(vec![text.into()]).unwrap();
            assert_eq!(table.to_csv(), format!("{field}\r\n{field}\r\n"));
        }
    }

    #[test]
    fn control_characters_stay_in_their_cell() {
        let mut table = Table::new(["a\nb"]);
        table.push(vec!["\u{1b}[31m".into()]).unwrap();
        assert_eq!(table.to_text(), "a\u{fffd}b\n\u{fffd}[31m\n");
    }

    #[test]
    fn what_is_not_a_number_is_empty() {
        assert_eq!(Cell::number(f64::NAN, 1), Cell::Empty);
        assert_eq!(Cell::number(None, 1), Cell::Empty);
        assert_eq!(Cell::number(f64::INFINITY, 1).to_csv(), "inf");
    }

    #[test]
    fn a_row_of_another_length_is_refused() {
        let mut table = sample();
        let error = table.push(vec!["dense".into()]).unwrap_err().to_string();
        assert_eq!(error, "the number of cells in row 3 is 1, but the table has 3 columns");
        assert_eq!(table, sample());
    }
}
