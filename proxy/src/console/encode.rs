//! Values to the wire, in text and binary. The text forms are Postgres' own, with ISO dates in
//! UTC.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use pgwire::api::Type;
use pgwire::api::results::{FieldFormat, FieldInfo};
use pgwire::messages::data::DataRow;

use super::answer::{Column, ColumnKind, Value};

/// 2000-01-01, Postgres' epoch, in seconds of Unix time.
const POSTGRES_EPOCH_S: i64 = 946_684_800;
const SECONDS_PER_DAY: i64 = 86_400;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// What the client is told of the columns.
pub(super) fn fields(columns: &[Column], format: impl Fn(usize) -> FieldFormat) -> Vec<FieldInfo> {
    let field = |(index, column): (usize, &Column)| {
        let kind = column.kind.type_on_the_wire();
        FieldInfo::new(column.name.clone(), None, None, kind, format(index))
            .with_type_size(column.kind.size())
    };
    columns.iter().enumerate().map(field).collect()
}

/// One row. A missing value is NULL, one too many is left out.
pub(super) fn row(fields: &[FieldInfo], values: &[Value]) -> DataRow {
    let mut data = BytesMut::new();
    for (index, field) in fields.iter().enumerate() {
        let value = values.get(index).unwrap_or(&Value::Null);
        match encode(value, field) {
            None => data.put_i32(-1),
            Some(bytes) => {
                let length = i32::try_from(bytes.len()).expect("an admin value is below 2 GiB");
                data.put_i32(length);
                data.put_slice(&bytes);
            }
        }
    }
    DataRow::new(data, i16::try_from(fields.len()).expect("an answer has few columns"))
}

fn encode(value: &Value, field: &FieldInfo) -> Option<Vec<u8>> {
    if field.format() == FieldFormat::Binary && field.datatype() == &value.type_on_the_wire()? {
        return binary(value);
    }
    text(value).map(String::into_bytes)
}

fn binary(value: &Value) -> Option<Vec<u8>> {
    Some(match value {
        Value::Null => return None,
        Value::Text(text) => text.clone().into_bytes(),
        Value::Int8(number) => number.to_be_bytes().to_vec(),
        Value::Bool(truth) => vec![u8::from(*truth)],
        Value::Float8(number) => number.to_be_bytes().to_vec(),
        Value::Timestamptz(time) => {
            let (seconds, micros) = unix_time(*time);
            let since = (seconds - POSTGRES_EPOCH_S) * MICROS_PER_SECOND + micros;
            since.to_be_bytes().to_vec()
        }
    })
}

fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Text(text) => text.clone(),
        Value::Int8(number) => number.to_string(),
        Value::Bool(truth) => if *truth { "t" } else { "f" }.to_owned(),
        Value::Float8(number) if number.is_infinite() => {
            if *number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
        }
        Value::Float8(number) => number.to_string(),
        Value::Timestamptz(time) => timestamp(*time),
    })
}

/// `2026-11-21 21:03:37.5+00`, as Postgres prints it: no trailing zeros in the fraction.
fn timestamp(time: SystemTime) -> String {
    let (seconds, micros) = unix_time(time);
    let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut out = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
    if micros > 0 {
        let fraction = format!("{micros:06}");
        write!(out, ".{}", fraction.trim_end_matches('0')).expect("a String takes every write");
    }
    out + "+00"
}

/// Whole seconds, rounded down, and microseconds since 1970.
fn unix_time(time: SystemTime) -> (i64, i64) {
    let parts = |duration: Duration| {
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / MICROS_PER_SECOND);
        (seconds, i64::from(duration.subsec_micros()))
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => parts(since),
        Err(before) => match parts(before.duration()) {
            (seconds, 0) => (-seconds, 0),
            (seconds, micros) => (-seconds - 1, MICROS_PER_SECOND - micros),
        },
    }
}

/// Days since 1970 to a date (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

impl ColumnKind {
    fn type_on_the_wire(self) -> Type {
        match self {
            Self::Text => Type::TEXT,
            Self::Int8 => Type::INT8,
            Self::Bool => Type::BOOL,
            Self::Float8 => Type::FLOAT8,
            Self::Timestamptz => Type::TIMESTAMPTZ,
        }
    }

    fn size(self) -> i16 {
        match self {
            Self::Text => -1,
            Self::Bool => 1,
            Self::Int8 | Self::Float8 | Self::Timestamptz => 8,
        }
    }
}

impl Value {
    fn type_on_the_wire(&self) -> Option<Type> {
        let kind = match self {
            Self::Null => return None,
            Self::Text(_) => ColumnKind::Text,
            Self::Int8(_) => ColumnKind::Int8,
            Self::Bool(_) => ColumnKind::Bool,
            Self::Float8(_) => ColumnKind::Float8,
            Self::Timestamptz(_) => ColumnKind::Timestamptz,
        };
        Some(kind.type_on_the_wire())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_as_postgres_prints_them() {
        let after = |seconds, nanos| timestamp(UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(after(0, 0), "1970-01-01 00:00:00+00");
        assert_eq!(after(951_782_399, 500_000_000), "2000-02-28 23:59:59.5+00");
        assert_eq!(after(1_709_164_800, 1_000), "2024-02-29 00:00:00.000001+00");
        let before = timestamp(UNIX_EPOCH - Duration::from_millis(250));
        assert_eq!(before, "1969-12-31 23:59:59.75+00");
    }

    #[test]
    fn numbers_as_postgres_prints_them() {
        let shown = |number| text(&Value::Float8(number)).unwrap();
        assert_eq!(
            [1.0, 0.25, f64::INFINITY, f64::NAN].map(shown),
            ["1", "0.25", "Infinity", "NaN"]
        );
        assert_eq!(text(&Value::Bool(true)).unwrap(), "t");
    }
}
