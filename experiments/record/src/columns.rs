//! The JSON lines of a run once more as Parquet, for the tools that people analyse with.
//!
//! Owns: what columns the lines come to, and how they are encoded. Nested objects become columns
//! with dotted names (`ledger.created.count`), arrays stay JSON text, and so does everything but
//! time, host, name and phase of an event: events differ too much to share columns. A row group
//! spans a minute at most. Must not know: what the columns mean.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use crate::error::FileError;
use crate::files::{EVENTS, NAMES, TRUTH};
use crate::lines::Lines;

/// Seconds of a row group at most.
const GROUP_S: f64 = 60.0;

/// Rows of a row group at most: they are kept in memory until the group is written. A minute of a
/// fleet of 20 hosts has about 100,000.
const GROUP_ROWS: usize = 1 << 20;

/// The column of what an event has beside the fields that all events share.
const DETAIL: &str = "detail";

/// Converts the JSON lines of a run. Files of an earlier conversion are replaced.
///
/// # Errors
/// [`FileError`]. The JSON lines are never touched.
pub fn convert(directory: &Path) -> Result<(), FileError> {
    let truth = directory.join(format!("{TRUTH}.jsonl")).exists().then_some(TRUTH);
    NAMES.into_iter().chain(truth).try_for_each(|name| {
        let file = directory.join(format!("{name}.parquet"));
        convert_file(directory, name)
            .map_err(|error| FileError::new(&file, "write", std::io::Error::other(error)))
    })
}

fn convert_file(directory: &Path, name: &str) -> Result<(), ParquetError> {
    let part = directory.join(format!("{name}.parquet.part"));
    let written = write_file(directory, name, &part);
    if written.is_err() {
        // What is there of it takes the room of something that is needed.
        let _ = std::fs::remove_file(&part);
    }
    written
}

fn write_file(directory: &Path, name: &str, part: &Path) -> Result<(), ParquetError> {
    let schema = Schema::of(directory, name)?;
    // The truth about faults is on the monotonic clock, in nanoseconds.
    let units_per_second = if name == TRUTH { 1e9 } else { 1.0 };
    let mut table = Table::create(part, schema, units_per_second)?;
    each_row(directory, name, |row| table.add(row))?;
    table.close()?;
    Ok(std::fs::rename(part, directory.join(format!("{name}.parquet")))?)
}

/// The columns of a file, in the order in which its lines name them first.
#[derive(Default)]
struct Schema {
    columns: Vec<(String, Kind)>,
    places: HashMap<String, usize>,
}

impl Schema {
    fn of(directory: &Path, name: &str) -> Result<Self, ParquetError> {
        let mut schema = Self::default();
        each_row(directory, name, |row| {
            for (column, value) in row {
                let place = schema.place(column);
                let kind = &mut schema.columns[place].1;
                *kind = kind.with(Kind::of(&value));
            }
            Ok(())
        })?;
        Ok(schema)
    }

    fn place(&mut self, column: String) -> usize {
        if let Some(place) = self.places.get(&column) {
            return *place;
        }
        let place = self.columns.len();
        self.columns.push((column.clone(), Kind::Nothing));
        self.places.insert(column, place);
        place
    }

    fn to_parquet(&self) -> Result<Type, ParquetError> {
        let field = |(name, kind): &(String, Kind)| {
            let (physical, logical) = kind.parquet_types();
            Type::primitive_type_builder(name, physical)
                .with_logical_type(logical)
                .with_repetition(Repetition::OPTIONAL)
                .build()
                .map(Arc::new)
        };
        let fields = self.columns.iter().map(field).collect::<Result<Vec<_>, _>>()?;
        Type::group_type_builder("schema").with_fields(fields).build()
    }
}

/// A Parquet file being written.
struct Table {
    writer: SerializedFileWriter<File>,
    columns: Vec<Column>,
    places: HashMap<String, usize>,
    /// The unit of the lines' `t`.
    units_per_second: f64,
    /// Rows of the row group being filled.
    rows: usize,
    /// The first instant of that row group, in seconds.
    group_start: Option<f64>,
}

impl Table {
    fn create(file: &Path, schema: Schema, units_per_second: f64) -> Result<Self, ParquetError> {
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let parquet = Arc::new(schema.to_parquet()?);
        let writer = SerializedFileWriter::new(File::create(file)?, parquet, Arc::new(properties))?;
        let columns = schema.columns.iter().map(|(_, kind)| Column::new(*kind)).collect();
        let places = schema.places;
        Ok(Self { writer, columns, places, units_per_second, rows: 0, group_start: None })
    }

    fn add(&mut self, row: Map<String, Value>) -> Result<(), ParquetError> {
        let t = row.get("t").and_then(Value::as_f64).unwrap_or(0.0) / self.units_per_second;
        // Lines are nearly in order: one that is a little older than the group starts no other.
        let is_over = self.group_start.is_some_and(|start| t >= start + GROUP_S);
        if is_over || self.rows == GROUP_ROWS {
            self.end_group()?;
        }
        self.group_start.get_or_insert(t);
        for (column, value) in row {
            if let Some(place) = self.places.get(&column) {
                self.columns[*place].set(self.rows, value);
            }
        }
        self.rows += 1;
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), ParquetError> {
        self.group_start = None;
        let rows = std::mem::take(&mut self.rows);
        if rows == 0 || self.columns.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column()? else { break };
            column.write(rows, &mut writer)?;
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }

    fn close(mut self) -> Result<(), ParquetError> {
        self.end_group()?;
        self.writer.close()?;
        Ok(())
    }
}

/// A column of the row group being filled.
struct Column {
    /// For each row 1, or 0 where there is no value. Rows at the end may be missing.
    levels: Vec<i16>,
    /// The values that there are.
    values: Values,
}

/// The values of a column, by its type.
enum Values {
    Truth(Vec<bool>),
    Whole(Vec<i64>),
    Number(Vec<f64>),
    Text(Vec<ByteArray>),
}

impl Column {
    fn new(kind: Kind) -> Self {
        let values = match kind {
            Kind::Truth => Values::Truth(Vec::new()),
            Kind::Whole => Values::Whole(Vec::new()),
            Kind::Nothing | Kind::Number => Values::Number(Vec::new()),
            Kind::Text => Values::Text(Vec::new()),
        };
        Self { levels: Vec::new(), values }
    }

    /// Sets the value of a row, the next or a later one.
    fn set(&mut self, row: usize, value: Value) {
        self.levels.resize(row, 0);
        let is_set = self.values.push(value);
        self.levels.push(i16::from(is_set));
    }

    /// Writes the values of so many rows, and forgets them.
    fn write(
        &mut self,
        rows: usize,
        writer: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), ParquetError> {
        self.levels.resize(rows, 0);
        let levels = Some(self.levels.as_slice());
        match &mut self.values {
            Values::Truth(values) => {
                writer.typed::<BoolType>().write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Whole(values) => {
                writer.typed::<Int64Type>().write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Number(values) => {
                writer.typed::<DoubleType>().write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Text(values) => {
                writer.typed::<ByteArrayType>().write_batch(values, levels, None)?;
                values.clear();
            }
        }
        self.levels.clear();
        Ok(())
    }
}

impl Values {
    /// Adds a value of a line; false when there is none.
    fn push(&mut self, value: Value) -> bool {
        fn add<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
            let is_some = value.is_some();
            values.extend(value);
            is_some
        }
        match self {
            Values::Truth(values) => add(values, value.as_bool()),
            Values::Whole(values) => add(values, value.as_i64()),
            Values::Number(values) => add(values, value.as_f64()),
            Values::Text(values) => {
                let text = match value {
                    Value::Null => None,
                    Value::String(text) => Some(text),
                    other => Some(other.to_string()),
                };
                add(values, text.map(|text| text.into_bytes().into()))
            }
        }
    }
}

/// Reads the lines of a file as rows. One that was cut off by a kill is left out.
fn each_row(
    directory: &Path,
    name: &str,
    mut take: impl FnMut(Map<String, Value>) -> Result<(), ParquetError>,
) -> Result<(), ParquetError> {
    let mut lines = Lines::open(&directory.join(format!("{name}.jsonl")))?;
    // What no run has written ends it: whoever reads the lines names that.
    while let Ok(Some((_, line))) = lines.next_line() {
        let Ok(Value::Object(line)) = serde_json::from_slice(line) else { continue };
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

    fn parquet_types(self) -> (PhysicalType, Option<LogicalType>) {
        match self {
            Kind::Truth => (PhysicalType::BOOLEAN, None),
            Kind::Whole => (PhysicalType::INT64, None),
            // A column that was never measured: nulls of the most useful kind.
            Kind::Nothing | Kind::Number => (PhysicalType::DOUBLE, None),
            Kind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
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

    /// What readers in other languages rely on.
    #[test]
    fn columns_have_types_may_be_null_and_are_compressed() {
        let (_directory, file) = written(concat!(
            r#"{"t":1,"whole":-3,"number":18446744073709551615,"truth":true,"text":"é","both":1}"#,
            "\n",
            r#"{"t":2,"whole":null,"text":"","both":"two","never":null}"#,
            "\n",
        ));
        let group = file.metadata().row_group(0);
        let columns = group.columns().iter().map(|column| {
            assert_eq!(column.compression(), Compression::SNAPPY);
            let descriptor = column.column_descr();
            assert_eq!(descriptor.max_def_level(), 1, "{} may be null", descriptor.name());
            let is_text = descriptor.logical_type_ref() == Some(&LogicalType::String);
            (descriptor.name().to_owned(), descriptor.physical_type(), is_text)
        });
        let expected = [
            ("t", PhysicalType::INT64, false),
            ("whole", PhysicalType::INT64, false),
            ("number", PhysicalType::DOUBLE, false),
            ("truth", PhysicalType::BOOLEAN, false),
            ("text", PhysicalType::BYTE_ARRAY, true),
            ("both", PhysicalType::BYTE_ARRAY, true),
            ("never", PhysicalType::DOUBLE, false),
        ];
        let expected = expected.map(|(name, physical, text)| (name.to_owned(), physical, text));
        assert_eq!(columns.collect::<Vec<_>>(), expected);
        let rows: Vec<_> =
            file.get_row_iter(None).expect("rows").map(|row| row.expect("a row")).collect();
        assert_eq!(rows[0].get_long(1).expect("whole"), -3);
        assert!(rows[0].get_bool(3).expect("a truth"));
        assert_eq!(rows[0].get_string(5).expect("text"), "1");
        assert!(rows[1].get_long(1).is_err(), "null");
        assert_eq!(rows[1].get_string(4).expect("empty, and not null"), "");
    }
}
