//! Fields of JSON as columns of Arrow.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow_schema::{DataType, Field};
use serde_json::{Map, Value};

/// A column of one type, nulls where a record lacks it.
pub struct Column {
    pub name: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Flag,
    Integer,
    Double,
}

impl Kind {
    fn of(value: &Value) -> Option<Kind> {
        match value {
            Value::String(_) => Some(Kind::Text),
            Value::Bool(_) => Some(Kind::Flag),
            Value::Number(number) if number.is_i64() => Some(Kind::Integer),
            Value::Number(_) => Some(Kind::Double),
            _ => None,
        }
    }
}

/// The columns for the fields of `records` that are not among `others`, of the type that is first in each.
pub fn columns<'a>(records: impl Iterator<Item = &'a Map<String, Value>>, others: &[&str]) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for (name, value) in records.flatten().filter(|(name, _)| !others.contains(&&name[..])) {
        let Some(kind) = Kind::of(value) else { continue };
        match columns.iter_mut().find(|column| column.name == *name) {
            Some(column) if (column.kind, kind) == (Kind::Integer, Kind::Double) => column.kind = kind,
            Some(_) => {}
            None => columns.push(Column { name: name.clone(), kind }),
        }
    }
    columns
}

impl Column {
    /// The same, with whole numbers as doubles: for scores, which only happen to be whole where they are first.
    pub fn of_scores(self) -> Column {
        let kind = if self.kind == Kind::Integer { Kind::Double } else { self.kind };
        Column { kind, ..self }
    }

    pub fn field(&self) -> Field {
        let data_type = match self.kind {
            Kind::Text => DataType::Utf8,
            Kind::Flag => DataType::Boolean,
            Kind::Integer => DataType::Int64,
            Kind::Double => DataType::Float64,
        };
        Field::new(&self.name, data_type, true)
    }

    /// Whether `value` can be in it as it is.
    pub fn holds(&self, value: &Value) -> bool {
        match self.kind {
            Kind::Text => value.is_string(),
            Kind::Flag => value.is_boolean(),
            Kind::Integer => value.is_i64(),
            Kind::Double => double(value).is_some(),
        }
    }

    pub fn array<'a>(&self, records: impl Iterator<Item = &'a Map<String, Value>>) -> ArrayRef {
        let values = records.map(|record| record.get(&self.name));
        match self.kind {
            Kind::Text => Arc::new(values.map(|v| v.and_then(Value::as_str)).collect::<StringArray>()),
            Kind::Flag => Arc::new(values.map(|v| v.and_then(Value::as_bool)).collect::<BooleanArray>()),
            Kind::Integer => Arc::new(values.map(|v| v.and_then(Value::as_i64)).collect::<Int64Array>()),
            Kind::Double => Arc::new(values.map(|v| v.and_then(double)).collect::<Float64Array>()),
        }
    }
}

/// A number, where a double is it to the last bit.
fn double(value: &Value) -> Option<f64> {
    let number = value.as_number()?;
    let double = number.as_f64()?;
    let whole = number.as_i128();
    whole.is_none_or(|whole| double as i128 == whole).then_some(double)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_value_decides() {
        let records = [
            json!({"id": 1, "n": 1, "s": null, "mixed": true, "list": [1], "x": 3}),
            json!({"s": "a", "mixed": "a", "x": 3.5}),
        ];
        let columns = columns(records.iter().map(|r| r.as_object().unwrap()), &["id"]);
        let found: Vec<(&str, Kind)> = columns.iter().map(|c| (c.name.as_str(), c.kind)).collect();
        let expected = [("n", Kind::Integer), ("mixed", Kind::Flag), ("x", Kind::Double), ("s", Kind::Text)];
        assert_eq!(found, expected);
    }

    #[test]
    fn only_what_stays_as_it_is_is_held() {
        let column = Column { name: "x".into(), kind: Kind::Double };
        for (value, held) in [
            (json!(-1), true),
            (json!(1u64 << 53), true),
            (json!((1u64 << 53) + 1), false),
            (json!(u64::MAX), false),
            (json!(1e300), true),
            (json!("1"), false),
        ] {
            assert_eq!(column.holds(&value), held, "{value}");
        }
    }
}
