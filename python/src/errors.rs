//! The engine's errors as Python's exceptions, which lorb_engine/_errors.py declares: the text stays.

use lorb_engine::Error;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::intern;
use pyo3::prelude::*;

/// The exception for `error`.
pub fn exception(py: Python<'_>, error: Error) -> PyErr {
    let class = match &error {
        Error::Usage(_) => "UsageError",
        Error::List { .. } | Error::Tensor { .. } | Error::File { .. } => "InputError",
        Error::Io { .. } => "FileError",
        Error::NotFinite(_) => "NotFiniteError",
        Error::Device(_) => "DeviceError",
        Error::Interrupted(_) => return PyKeyboardInterrupt::new_err(error.to_string()),
        _ => "LorbError",
    };
    named(py, class, error).unwrap_or_else(|failed| failed)
}

/// A [`Error::Usage`] as its exception.
pub fn usage(py: Python<'_>, text: impl Into<String>) -> PyErr {
    exception(py, Error::Usage(text.into()))
}

/// Warns by Python's means, of the line that called the package.
pub fn warn(py: Python<'_>, text: &str) -> PyResult<()> {
    let (default, stack_level) = (py.None(), 2);
    py.import(intern!(py, "warnings"))?.call_method1("warn", (text, default, stack_level))?;
    Ok(())
}

/// What was caught where the engine panicked, which it never should.
pub fn panicked(py: Python<'_>) -> PyErr {
    let text = "the engine failed, for the reason on the standard error: this is a defect of it";
    named(py, "LorbError", text).unwrap_or_else(|failed| failed)
}

fn named(py: Python<'_>, class: &str, error: impl Into<Cause>) -> PyResult<PyErr> {
    let cause = error.into();
    let class = py.import(intern!(py, "lorb_engine._errors"))?.getattr(class)?;
    let exception = class.call1((cause.text,))?;
    if let Some(number) = cause.errno {
        exception.setattr("errno", number)?;
    }
    Ok(PyErr::from_value(exception))
}

struct Cause {
    text: String,
    errno: Option<i32>,
}

impl From<Error> for Cause {
    fn from(error: Error) -> Cause {
        let errno = match &error {
            Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        };
        Cause { text: error.to_string(), errno }
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Cause {
        Cause { text: text.into(), errno: None }
    }
}
