//! The CUDA kernels of lorb-engine as C++ on the CPU, for tests.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

unsafe extern "C" {
    fn lorb_emulate_launch(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        shared_bytes: u32,
        parameters: *const c_void,
        parameter_bytes: u32,
        error: *mut c_char,
        error_size: usize,
    ) -> c_int;
}

/// Runs a kernel to its end.
///
/// # Errors
/// What the emulator found wrong.
///
/// # Safety
/// `parameters` are those of the kernel, and the addresses in them those of memory that it may use as it does.
pub unsafe fn launch(
    kernel: &str,
    grid: [u32; 3],
    threads: u32,
    shared_bytes: u32,
    parameters: &[u8],
) -> Result<(), String> {
    let name = CString::new(kernel).map_err(|e| e.to_string())?;
    let mut error = [0 as c_char; 512];
    // SAFETY: the name ends in 0, the sizes are those of the slices; the rest is the caller's promise.
    let code = unsafe {
        lorb_emulate_launch(
            name.as_ptr(),
            grid.as_ptr(),
            threads,
            shared_bytes,
            parameters.as_ptr().cast(),
            parameters.len() as u32,
            error.as_mut_ptr(),
            error.len(),
        )
    };
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the callee ended the text with 0 within the array.
    Err(unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned())
}
