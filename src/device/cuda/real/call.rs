//! The driver's results as errors.

use std::ffi::{CStr, c_char};
use std::fmt::Display;

use cudarc::driver::sys::{self, CUresult};

use crate::{Error, Result};

/// What came of a call; `what` is the function, or more.
///
/// # Errors
/// [`Error::Device`] with the driver's name and text for anything but success.
pub fn check(what: impl Display, result: CUresult) -> Result<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        failure => Err(Error::Device(format!("{what}: {}", describe(failure)))),
    }
}

/// "CUDA_ERROR_OUT_OF_MEMORY, out of memory".
pub fn describe(failure: CUresult) -> String {
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: the driver sets the pointer to a text that it keeps, or says that it knows none.
    let known = unsafe { sys::cuGetErrorString(failure, &mut text) };
    if known != CUresult::CUDA_SUCCESS || text.is_null() {
        return format!("{failure:?}");
    }
    // SAFETY: as above; the text ends in 0.
    format!("{failure:?}, {}", unsafe { CStr::from_ptr(text) }.to_string_lossy())
}
