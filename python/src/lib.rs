//! The native part of the Python package `lorb_engine`: options come as dicts that the Python part made of its
//! keyword arguments, and what takes long runs without the interpreter's lock.

mod compute;
mod convert;
mod errors;
mod evaluate;
mod lists;
mod rescorer;
mod train;

use pyo3::prelude::*;

#[pymodule]
mod _engine {
    #[pymodule_export]
    use super::evaluate::evaluate;
    #[pymodule_export]
    use super::lists::Lists;
    #[pymodule_export]
    use super::rescorer::{Rescored, Rescorer};
    #[pymodule_export]
    use super::train::train;
}
