//! Figures by second and name, as a page plots them: one column of numbers for each name, one
//! number for each second. What was not measured is null there, never 0.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Runs are shorter than this, in seconds: a line whose second lies farther away is wrong.
pub(super) const LONGEST_S: u64 = 7 * 86_400;

/// More columns than any run has: beyond that a file makes names up.
const MOST_COLUMNS: usize = 4096;

/// A column in two figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    /// The sum over all seconds.
    pub(crate) total: f64,
    /// The last second that is whole and was measured, if it is no more than [`LATER_S`] old.
    pub(crate) last: Option<f64>,
}

/// How many seconds later than counters a figure may come: a second's histograms are written when
/// the answers to its requests are in.
const LATER_S: usize = 4;

/// Columns by name, all of the same seconds.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// The second of the first row; `None` while there is none.
    first: Option<u64>,
    length: usize,
    by_name: BTreeMap<String, Vec<f64>>,
}

impl Columns {
    /// The first second, and the exclusive end; `None` without any.
    pub(super) fn span(&self) -> Option<(u64, u64)> {
        self.first.map(|first| (first, first + self.length as u64))
    }

    /// The cell of a second; `None` when the second cannot be one of this run.
    fn cell(&mut self, t: u64, name: &str) -> Option<&mut f64> {
        let first = *self.first.get_or_insert(t);
        if t.abs_diff(first) > LONGEST_S {
            return None;
        }
        if t < first {
            let more = (first - t) as usize;
            for column in self.by_name.values_mut() {
                column.splice(0..0, std::iter::repeat_n(f64::NAN, more));
            }
            self.first = Some(t);
            self.length += more;
        }
        let place = (t - self.first.unwrap_or(t)) as usize;
        self.length = self.length.max(place + 1);
        if !self.by_name.contains_key(name) {
            if self.by_name.len() >= MOST_COLUMNS {
                return None;
            }
            self.by_name.insert(name.to_owned(), Vec::new());
        }
        let column = self.by_name.get_mut(name)?;
        if column.len() <= place {
            column.resize(place + 1, f64::NAN);
        }
        column.get_mut(place)
    }

    /// Adds to a cell.
    pub(super) fn add(&mut self, t: u64, name: &str, value: f64) {
        if let Some(cell) = self.cell(t, name) {
            *cell = if cell.is_nan() { value } else { *cell + value };
        }
    }

    /// Sets a cell.
    pub(super) fn set(&mut self, t: u64, name: &str, value: f64) {
        if let Some(cell) = self.cell(t, name) {
            *cell = value;
        }
    }

    /// A cell, if it was measured.
    #[cfg(test)]
    pub(super) fn get(&self, t: u64, name: &str) -> Option<f64> {
        let place = t.checked_sub(self.first?)?;
        let value = *self.by_name.get(name)?.get(place as usize)?;
        (!value.is_nan()).then_some(value)
    }

    /// Whether there is such a column.
    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Each column's name, with its sum and its last value.
    pub(super) fn cells(&self) -> impl Iterator<Item = (&str, Cell)> {
        // Some shards may have reported the last second, others not: the one before it counts.
        let whole = self.length.saturating_sub(2);
        self.by_name.iter().map(move |(name, column)| {
            let total = column.iter().filter(|value| !value.is_nan()).sum();
            let mut seconds = (whole.saturating_sub(LATER_S)..=whole).rev();
            let last = seconds.find_map(|at| column.get(at).filter(|value| !value.is_nan()));
            (name.as_str(), Cell { total, last: last.copied() })
        })
    }

    /// Makes 0 of what is missing of the columns that begin like this, in the seconds in which the
    /// column `seen` has a value.
    pub(super) fn fill(&mut self, beginning: &str, seen: &str) {
        let Some(seen) = self.by_name.get(seen).cloned() else { return };
        for (_, column) in self.by_name.iter_mut().filter(|(name, _)| name.starts_with(beginning)) {
            column.resize(seen.len().max(column.len()), f64::NAN);
            for (value, seen) in column.iter_mut().zip(&seen) {
                if value.is_nan() && !seen.is_nan() {
                    *value = 0.0;
                }
            }
        }
    }

    /// All columns from a second on as a JSON object of arrays.
    pub(super) fn to_json(&self, from: u64) -> String {
        let skip = from.saturating_sub(self.first.unwrap_or(from)) as usize;
        let mut out = String::from("{");
        for (name, column) in &self.by_name {
            if out.len() > 1 {
                out.push(',');
            }
            // Strings and numbers always become JSON.
            let _ = write!(out, "{}:[", serde_json::Value::from(name.as_str()));
            for (place, value) in column.iter().enumerate().skip(skip) {
                if place > skip {
                    out.push(',');
                }
                number(&mut out, *value);
            }
            out.push(']');
        }
        out.push('}');
        out
    }
}

/// Writes a number as short as it can be read: whole, or with four digits that count.
pub(super) fn number(out: &mut String, value: f64) {
    let size = value.abs();
    // Writing to a string does not fail.
    let _ = if !value.is_finite() {
        out.write_str("null")
    } else if value.fract() == 0.0 && size < 1e15 {
        write!(out, "{}", value as i64)
    } else if size >= 1000.0 {
        write!(out, "{}", value.round() as i64)
    } else {
        let digits = match size {
            s if s >= 100.0 => 1,
            s if s >= 10.0 => 2,
            s if s >= 1.0 => 3,
            s if s >= 0.1 => 4,
            _ => 6,
        };
        let text = format!("{value:.digits$}");
        out.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_null() {
        let mut columns = Columns::default();
        columns.add(12, "a", 1.0);
        columns.add(12, "a", 2.5);
        columns.set(14, "b", 7.0);
        columns.set(10, "b", 0.0);
        assert_eq!(columns.span(), Some((10, 15)));
        assert_eq!(columns.to_json(0), r#"{"a":[null,null,3.5],"b":[0,null,null,null,7]}"#);
        assert_eq!(columns.to_json(12), r#"{"a":[3.5],"b":[null,null,7]}"#);
        assert_eq!((columns.get(12, "a"), columns.get(13, "a")), (Some(3.5), None));
        columns.fill("a", "b");
        assert_eq!(columns.to_json(12), r#"{"a":[3.5,null,0],"b":[null,null,7]}"#);
    }

    #[test]
    fn a_figure_that_comes_later_is_the_last_one_for_a_while() {
        let mut columns = Columns::default();
        let last = |columns: &Columns| {
            let mut cells = columns.cells();
            cells.find(|(name, _)| *name == "later").and_then(|(_, cell)| cell.last)
        };
        columns.set(10, "later", 7.0);
        for t in 10..16 {
            columns.set(t, "now", 1.0);
            assert_eq!(last(&columns), Some(7.0), "{t}");
        }
        columns.set(16, "now", 1.0);
        assert_eq!(last(&columns), None, "it is too old");
    }

    #[test]
    fn a_second_of_another_age_is_refused() {
        let mut columns = Columns::default();
        columns.add(1_000_000, "a", 1.0);
        columns.add(0, "a", 1.0);
        columns.add(u64::MAX, "a", 1.0);
        assert_eq!(columns.span(), Some((1_000_000, 1_000_001)));
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (60_000.0, "60000"),
            (1234.56, "1235"),
            (123.456, "123.5"),
            (12.3456, "12.35"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (0.000_4, "0.0004"),
            (f64::NAN, "null"),
        ] {
            let mut out = String::new();
            number(&mut out, value);
            assert_eq!(out, text);
        }
    }
}
