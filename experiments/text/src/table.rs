//! Tables: columns as wide as their widest cell, two blanks between them, no lines around.

use std::fmt;

/// The side of its column to which a cell keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// For words.
    Left,
    /// For figures.
    Right,
}

/// Between two columns.
const GAP: &str = "  ";

#[derive(Debug)]
enum Row {
    Cells(Vec<String>),
    /// Across all columns; it widens none of them.
    Line(String),
}

/// A table. Its [`fmt::Display`] ends every row with a line feed and leaves no blanks before it.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Row>,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new(columns: impl Into<Vec<Align>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row. Cells that are missing at its end are empty, those beyond the last column are
    /// left out.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(Row::Cells(cells.into_iter().map(Into::into).collect()));
    }

    /// Adds a line that is no row: it stands as it is, whatever the columns.
    pub fn line(&mut self, line: impl Into<String>) {
        self.rows.push(Row::Line(line.into()));
    }

    /// In characters, each of which is taken to be one place wide.
    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| match row {
            Row::Cells(cells) => cells.get(column),
            Row::Line(_) => None,
        });
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| self.width(column)).collect();
        for row in &self.rows {
            let cells = match row {
                Row::Cells(cells) => cells,
                Row::Line(line) => {
                    writeln!(f, "{line}")?;
                    continue;
                }
            };
            let padded: Vec<String> = cells
                .iter()
                .zip(&self.columns)
                .zip(&widths)
                .map(|((cell, align), &width)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                })
                .collect();
            writeln!(f, "{}", padded.join(GAP).trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([Align::Left, Align::Right, Align::Left]);
        table.row(["phase", "p50 µs", ""]);
        table.row(["connect", "1", "yes"]);
        table.line("a line across all columns");
        table.row(["shake"]);
        let expected = "phase    p50 µs\n\
                        connect       1  yes\n\
                        a line across all columns\n\
                        shake\n";
        assert_eq!(table.to_string(), expected);
    }
}
