//! Cells of Arrow's arrays as JSON.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, StructArray};
use arrow_schema::{DataType, Field};
use serde_json::{Number, Value};

type Object = serde_json::Map<String, Value>;

/// A column as it lies in a file: a field of a struct is one of its own.
pub struct Leaf {
    /// With the names of the structs that it is in.
    pub name: String,
    /// Its type where records cannot hold it.
    pub left_out: Option<String>,
}

/// The leaves of `field` in their order.
pub fn leaves(field: &Field) -> Vec<Leaf> {
    let mut found = Vec::new();
    collect(field.name(), field.data_type(), &mut found);
    found
}

fn collect(name: &str, data_type: &DataType, found: &mut Vec<Leaf>) {
    use DataType::*;
    match data_type {
        Struct(fields) => {
            fields.iter().for_each(|f| collect(&format!("{name}.{}", f.name()), f.data_type(), found));
        }
        List(item) => collect(name, item.data_type(), found),
        // A leaf of keys and one of values, at least.
        Map(entries, _) => {
            let leaf = |_| Leaf { name: name.into(), left_out: Some("Map".into()) };
            found.extend(leaves(entries).into_iter().map(leaf));
        }
        Null | Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float16
        | Float32 | Float64 | Utf8 => found.push(Leaf { name: name.into(), left_out: None }),
        other => found.push(Leaf { name: name.into(), left_out: Some(other.to_string()) }),
    }
}

/// A number that is infinite, which no score may be.
#[derive(Debug, PartialEq)]
pub struct Infinite {
    pub place: String,
    pub value: f64,
}

/// The fields of row `i` of a table; there is none where a cell is null.
pub fn fields(row: &StructArray, i: usize) -> Result<Object, Infinite> {
    let mut fields = Object::new();
    for (field, column) in row.fields().iter().zip(row.columns()) {
        let name = field.name();
        let value = value(column, i).map_err(|Infinite { place, value }| {
            let place = if place.starts_with('[') || place.is_empty() { place } else { format!(".{place}") };
            Infinite { place: format!("{name}{place}"), value }
        })?;
        if !value.is_null() {
            fields.insert(name.clone(), value);
        }
    }
    Ok(fields)
}

fn value(array: &dyn Array, i: usize) -> Result<Value, Infinite> {
    if array.is_null(i) {
        return Ok(Value::Null);
    }
    Ok(match array.data_type() {
        DataType::Boolean => array.as_boolean().value(i).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(i).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(i).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(i).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(i).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(i).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(i).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(i).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(i).into(),
        DataType::Float16 => number(array.as_primitive::<Float16Type>().value(i).into())?,
        DataType::Float32 => number(array.as_primitive::<Float32Type>().value(i).into())?,
        DataType::Float64 => number(array.as_primitive::<Float64Type>().value(i))?,
        DataType::Utf8 => array.as_string::<i32>().value(i).into(),
        DataType::Struct(_) => Value::Object(fields(array.as_struct(), i)?),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (start, end) = (list.value_offsets()[i] as usize, list.value_offsets()[i + 1] as usize);
            let item = |j| {
                value(list.values(), j).map_err(|Infinite { place, value }| {
                    let dot = if place.is_empty() { "" } else { "." };
                    Infinite { place: format!("[{}]{dot}{place}", j - start), value }
                })
            };
            Value::Array((start..end).map(item).collect::<Result<_, _>>()?)
        }
        // The others are left out where the file is opened; what is left is a column of nulls.
        _ => Value::Null,
    })
}

/// In tables NaN stands for a number that is missing.
fn number(number: f64) -> Result<Value, Infinite> {
    match number.is_infinite() {
        true => Err(Infinite { place: String::new(), value: number }),
        false => Ok(Number::from_f64(number).map_or(Value::Null, Value::Number)),
    }
}
