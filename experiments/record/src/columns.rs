//! The JSON lines of a run once more as Parquet, for the tools that people analyse with.
//!
//! Owns: what columns the lines come to. Nested objects become columns with dotted names
//! (`ledger.created.count`), arrays stay JSON text, and so does everything but time, host, name and
//! phase of an event: events differ too much to share columns. A row group spans a minute at most.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value};

use super::files::{EVENTS, FileError, NAMES, TRUTH};

/// Seconds of a row group at most.
const GROUP_S: f64 = 60.0;

/// Rows handed to Arrow at a time.
const ROWS: usize = 4096;

/// What keeps an event from being a row of simple columns.
const DETAIL: &str = "detail";

/// Converts the JSON lines of a run. Files of an earlier conversion are replaced.
///
/// # Errors
/// [`FileError`]. The JSON lines are never touched.
pub fn convert(directory: &Path) -> Result<(), FileError> {
    let truth = directory.join(format!("{TRUTH}.jsonl")).exists().then_some(TRUTH);
    NAMES.into_iter().chain(truth).try_for_each(|name| {
        let file = directory.join(format!("{name}.parquet"));
        convert_one(directory, name)
            .map_err(|error| FileError::new(&file, "write", std::io::Error::other(error)))
    })
}

/// Why a file was not converted.
#[derive(Debug, thiserror::Error)]
enum ConvertError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error(transparent)]
    Parquet(#[from] ParquetError),
}

fn convert_one(directory: &Path, name: &str) -> Result<(), ConvertError> {
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    each_row(directory, name, |row| {
        for (column, value) in &row {
            let kind = kinds.entry(column.clone()).or_insert_with(|| {
                order.push(column.clone());
                Kind::Nothing
            });
            *kind = kind.with(Kind::of(value));
        }
        Ok(())
    })?;
    let fields: Vec<Field> =
        order.iter().map(|name| Field::new(name, kinds[name].data_type(), true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let part = directory.join(format!("{name}.parquet.part"));
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let writer = ArrowWriter::try_new(File::create(&part)?, Arc::clone(&schema), Some(properties))?;
    let decoder = ReaderBuilder::new(schema).with_batch_size(ROWS).build_decoder()?;
    // The truth about faults is on the monotonic clock, in nanoseconds.
    let second = if name == TRUTH { 1e9 } else { 1.0 };
    let rows = Vec::with_capacity(ROWS);
    let mut table = Table { writer, decoder, rows, second, group: None };
    each_row(directory, name, |row| table.add(row, &kinds))?;
    table.flush()?;
    table.writer.close()?;
    Ok(std::fs::rename(&part, directory.join(format!("{name}.parquet")))?)
}

/// A Parquet file being written.
struct Table {
    writer: ArrowWriter<File>,
    decoder: Decoder,
    rows: Vec<Map<String, Value>>,
    /// A second in the unit of the lines' `t`.
    second: f64,
    /// The first instant of the row group being written.
    group: Option<f64>,
}

impl Table {
    fn add(
        &mut self,
        mut row: Map<String, Value>,
        kinds: &BTreeMap<String, Kind>,
    ) -> Result<(), ConvertError> {
        let t = row.get("t").and_then(Value::as_f64).unwrap_or(0.0) / self.second;
        // Lines are nearly in order: one that is a little older than the group starts no other.
        if self.group.is_some_and(|first| t >= first + GROUP_S) {
            self.flush()?;
            self.writer.flush()?;
            self.group = None;
        }
        self.group.get_or_insert(t);
        for (column, value) in &mut row {
            if kinds.get(column) == Some(&Kind::Text) && !value.is_string() && !value.is_null() {
                *value = Value::String(value.to_string());
            }
        }
        self.rows.push(row);
        if self.rows.len() == ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ConvertError> {
        self.decoder.serialize(&self.rows)?;
        self.rows.clear();
        if let Some(batch) = self.decoder.flush()? {
            self.writer.write(&batch)?;
        }
        Ok(())
    }
}

/// Reads the lines of a file as rows. One that was cut off by a kill is left out.
fn each_row(
    directory: &Path,
    name: &str,
    mut take: impl FnMut(Map<String, Value>) -> Result<(), ConvertError>,
) -> Result<(), ConvertError> {
    let file = BufReader::new(File::open(directory.join(format!("{name}.jsonl")))?);
    for line in file.lines() {
        let Ok(Value::Object(line)) = serde_json::from_str(&line?) else { continue };
        let row = if name == NAMES[EVENTS] { event(line) } else { flat(line) };
        take(row)?;
    }
    Ok(())
}

fn flat(line: Map<String, Value>) -> Map<String, Value> {
    fn put(row: &mut Map<String, Value>, name: String, value: Value) {
        match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    put(row, format!("{name}.{field}"), value);
                }
            }
            value => drop(row.insert(name, value)),
        }
    }
    let mut row = Map::new();
    for (name, value) in line {
        put(&mut row, name, value);
    }
    row
}

fn event(mut line: Map<String, Value>) -> Map<String, Value> {
    let mut row = Map::new();
    for name in ["t", "host", "event", "phase"] {
        row.insert(name.to_owned(), line.shift_remove(name).unwrap_or(Value::Null));
    }
    row.insert(DETAIL.to_owned(), Value::Object(line).to_string().into());
    row
}

/// What values a column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Truth,
    Whole,
    Number,
    Text,
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Kind::Nothing,
            Value::Bool(_) => Kind::Truth,
            Value::Number(number) if number.is_i64() => Kind::Whole,
            Value::Number(_) => Kind::Number,
            Value::String(_) | Value::Array(_) | Value::Object(_) => Kind::Text,
        }
    }

    fn with(self, other: Self) -> Self {
        match (self, other) {
            (Kind::Nothing, kind) | (kind, Kind::Nothing) => kind,
            (one, other) if one == other => one,
            (Kind::Whole | Kind::Number, Kind::Whole | Kind::Number) => Kind::Number,
            _ => Kind::Text,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Kind::Truth => DataType::Boolean,
            Kind::Whole => DataType::Int64,
            // A column that was never measured: nulls of the most useful kind.
            Kind::Nothing | Kind::Number => DataType::Float64,
            Kind::Text => DataType::Utf8,
        }
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    use super::*;

    fn written(lines: &str) -> (tempfile::TempDir, SerializedFileReader<File>) {
        let directory = tempfile::tempdir().expect("a directory");
        for name in NAMES {
            std::fs::write(directory.path().join(format!("{name}.jsonl")), "").expect("written");
        }
        std::fs::write(directory.path().join("samples.jsonl"), lines).expect("written");
        convert(directory.path()).expect("converted");
        let file = File::open(directory.path().join("samples.parquet")).expect("there");
        (directory, SerializedFileReader::new(file).expect("a Parquet file"))
    }

    #[test]
    fn lines_of_all_kinds_become_rows() {
        let (_directory, file) = written(concat!(
            r#"{"t":10,"source":"server","ledger":{"created":{"count":7}},"ratio":1,"never":null}"#,
            "\n",
            r#"{"t":10,"source":"client","ratio":0.5,"client":3,"list":[1,2]}"#,
            "\n",
            r#"{"t":11,"source":"cl"#,
        ));
        let rows: Vec<_> =
            file.get_row_iter(None).expect("rows").map(|r| r.expect("a row")).collect();
        assert_eq!(rows.len(), 2, "the line that was cut off is left out");
        let names: Vec<&str> = rows[0].get_column_iter().map(|(name, _)| name.as_str()).collect();
        let expected = ["t", "source", "ledger.created.count", "ratio", "never", "client", "list"];
        assert_eq!(names, expected);
        assert_eq!(rows[0].get_long(2).expect("whole"), 7);
        assert_eq!(rows[0].get_double(3).expect("widened"), 1.0);
        assert!(rows[0].get_double(4).is_err(), "null stays null");
        assert!(rows[1].get_long(2).is_err(), "what a line has not is null");
        assert_eq!(rows[1].get_string(6).expect("text"), "[1,2]");
    }

    #[test]
    fn a_row_group_spans_a_minute_at_most() {
        let lines: String = (0..150).map(|t| format!("{{\"t\":{t}}}\n")).collect();
        let (_directory, file) = written(&lines);
        let groups = file.metadata().row_groups().iter();
        let rows: Vec<i64> = groups.map(|group| group.num_rows()).collect();
        assert_eq!(rows, [60, 60, 30]);
    }
}
