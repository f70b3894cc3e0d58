//! Python's values as JSON's, and back.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use pyo3::{IntoPyObjectExt, intern};
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use crate::errors::usage;

/// As in serde_json: what is nested deeper is no list of hypotheses, and may be without end.
const DEPTH: usize = 128;

/// Why a value has no form in JSON: the problem, and what to do about it.
pub struct Unfit(pub String, pub &'static str);

/// The value in JSON.
pub fn to_json(value: &Bound<'_, PyAny>) -> Result<Value, Unfit> {
    json_of("a value", value, DEPTH)
}

/// `name` is what `value` is called where it is no good.
fn json_of(name: &str, value: &Bound<'_, PyAny>, depth: usize) -> Result<Value, Unfit> {
    let unfit = |what: String| Unfit(what, "give what JSON can hold");
    let below = || depth.checked_sub(1).ok_or_else(|| unfit(format!("{name} is nested too deeply")));
    if let Ok(text) = value.cast::<PyString>() {
        let text = text.to_str().map_err(|_| unfit(format!("{name} is not valid Unicode")))?;
        return Ok(text.into());
    }
    if let Ok(number) = value.cast::<PyFloat>() {
        return finite(name, number.value());
    }
    if let Ok(truth) = value.cast::<PyBool>() {
        return Ok(truth.is_true().into());
    }
    if let Ok(number) = value.cast::<PyInt>() {
        // Beyond 64 bits JSON's readers take a number as a float; so does this.
        if let Ok(number) = number.extract::<i64>() {
            return Ok(number.into());
        }
        return match number.extract::<u64>() {
            Ok(number) => Ok(number.into()),
            Err(_) => finite(name, number.extract().unwrap_or(f64::INFINITY)),
        };
    }
    if value.is_none() {
        return Ok(Value::Null);
    }
    if let Ok(dict) = value.cast::<PyDict>() {
        let depth = below()?;
        let mut map = Map::with_capacity(dict.len());
        for (key, value) in dict {
            let key =
                key.cast::<PyString>().map_err(|_| unfit(format!("{name} has a key that is no string")))?;
            let key =
                key.to_str().map_err(|_| unfit(format!("{name} has a key that is not valid Unicode")))?;
            map.insert(key.into(), json_of(&format!("{key:?}"), &value, depth)?);
        }
        return Ok(Value::Object(map));
    }
    if let Ok(list) = value.cast::<PyList>() {
        let depth = below()?;
        return list
            .iter()
            .map(|item| json_of(name, &item, depth))
            .collect::<Result<_, _>>()
            .map(Value::Array);
    }
    if let Ok(tuple) = value.cast::<PyTuple>() {
        let depth = below()?;
        return tuple
            .iter()
            .map(|item| json_of(name, &item, depth))
            .collect::<Result<_, _>>()
            .map(Value::Array);
    }
    // Scalars of NumPy and the like.
    let integer = value.hasattr(intern!(value.py(), "__index__")).unwrap_or(false);
    if integer && let Ok(number) = value.extract::<i64>() {
        return Ok(number.into());
    }
    match value.extract::<f64>() {
        Ok(number) => finite(name, number),
        Err(_) => Err(unfit(format!("{name} is of the type {}", value.get_type()))),
    }
}

fn finite(name: &str, number: f64) -> Result<Value, Unfit> {
    let shown = || match number {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    };
    Number::from_f64(number).map(Value::Number).ok_or_else(|| {
        let hint = "leave hypotheses without a finite score out of the list";
        Unfit(format!("{name} is {}, not a finite number", shown()), hint)
    })
}

/// The options in a dict.
pub fn options<T: DeserializeOwned>(dict: &Bound<'_, PyDict>) -> PyResult<T> {
    let value = to_json(dict).map_err(|Unfit(problem, _)| usage(dict.py(), problem))?;
    serde_path_to_error::deserialize(value).map_err(|e| {
        let (path, problem) = (e.path().to_string(), e.into_inner());
        usage(dict.py(), format!("{path}: {problem}"))
    })
}

/// The value in Python.
pub fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Null => Ok(py.None().into_bound(py)),
        Value::Bool(truth) => truth.into_bound_py_any(py),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into_bound_py_any(py),
            (_, Some(number)) => number.into_bound_py_any(py),
            _ => number.as_f64().into_bound_py_any(py),
        },
        Value::String(text) => text.into_bound_py_any(py),
        Value::Array(items) => {
            let items = items.iter().map(|item| to_python(py, item)).collect::<PyResult<Vec<_>>>()?;
            Ok(PyList::new(py, items)?.into_any())
        }
        Value::Object(map) => Ok(dict(py, map)?.into_any()),
    }
}

/// The object in Python.
pub fn dict<'py>(py: Python<'py>, map: &Map<String, Value>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (key, value) in map {
        // The keys of all utterances are the same few.
        dict.set_item(PyString::intern(py, key), to_python(py, value)?)?;
    }
    Ok(dict)
}
