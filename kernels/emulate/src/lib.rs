//! The CUDA kernels of lorb-engine as C++ on the CPU, for tests: an emulated device that checks what they do.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Mutex;

unsafe extern "C" {
    fn lorb_emulate_device_new() -> *mut c_void;
    fn lorb_emulate_device_free(device: *mut c_void);
    fn lorb_emulate_memory_add(device: *mut c_void, at: u64, bytes: usize);
    fn lorb_emulate_memory_written(device: *mut c_void, at: u64, bytes: usize);
    fn lorb_emulate_memory_remove(device: *mut c_void, at: u64);
    fn lorb_emulate_launch(
        device: *mut c_void,
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        shared_bytes: u32,
        parameters: *const c_void,
        parameter_bytes: u32,
        order: u32,
        seed: u64,
        error: *mut c_char,
        error_size: usize,
    ) -> c_int;
}

/// Matrices of bf16, one after the other, of which a kernel copies boxes.
#[derive(Debug, Clone, Copy)]
pub struct Boxes {
    pub address: u64,
    pub columns: u32,
    pub rows: u32,
    pub matrices: u32,
    /// Elements from row to row.
    pub stride: u32,
    /// Rows of a box. It has 64 columns.
    pub box_rows: u32,
}

impl Boxes {
    /// As `TensorMap` of shim/emulate.h.
    pub fn tensor_map(&self) -> [u64; 16] {
        const MAGIC: u64 = 0x6c6f_7262_2d62_6f78;
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let mut map = [0; 16];
        let words = [
            MAGIC,
            self.address,
            pair(self.columns, self.rows),
            pair(self.matrices, self.stride),
            pair(self.box_rows, 0),
        ];
        map[..words.len()].copy_from_slice(&words);
        map
    }
}

/// In which order blocks run, and the threads of a block, each until it waits for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The lowest thread that can run.
    Forward,
    /// The highest.
    Reverse,
    /// Any, by this seed.
    Random(u64),
}

/// One run of a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    pub kernel: &'a str,
    pub grid: [u32; 3],
    pub threads: u32,
    pub shared_bytes: u32,
    pub parameters: &'a [u8],
    pub order: Order,
}

/// An emulated device. It runs one kernel at a time.
pub struct Device(Mutex<NonNull<c_void>>);

// SAFETY: the device belongs to no thread, and the mutex lets one at a time use it.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    #[allow(clippy::new_without_default, reason = "a device is made, it has no value to start from")]
    pub fn new() -> Device {
        // SAFETY: takes nothing.
        let device = unsafe { lorb_emulate_device_new() };
        Device(Mutex::new(NonNull::new(device).expect("memory for a device")))
    }

    /// Lets kernels touch these bytes of the host's memory. They touch no other, but their own.
    pub fn add_memory(&self, at: u64, bytes: usize) {
        // SAFETY: the device lives; the bytes are only counted.
        unsafe { lorb_emulate_memory_add(self.lock().as_ptr(), at, bytes) };
    }

    /// Tells that something else than a kernel has written there: kernels may read it before they wait for one another.
    pub fn memory_written(&self, at: u64, bytes: usize) {
        // SAFETY: the device lives; the bytes are only counted.
        unsafe { lorb_emulate_memory_written(self.lock().as_ptr(), at, bytes) };
    }

    /// Takes back what [`add_memory`](Self::add_memory) gave.
    pub fn remove_memory(&self, at: u64) {
        // SAFETY: the device lives.
        unsafe { lorb_emulate_memory_remove(self.lock().as_ptr(), at) };
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// What the emulator found wrong, with the block and the threads. The launch ends there.
    ///
    /// # Safety
    /// What was added lives. (All else that a kernel might do wrong is an error.)
    pub unsafe fn launch(&self, launch: Launch<'_>) -> Result<(), String> {
        let name = CString::new(launch.kernel).map_err(|e| e.to_string())?;
        let (order, seed) = match launch.order {
            Order::Forward => (0, 0),
            Order::Reverse => (1, 0),
            Order::Random(seed) => (2, seed),
        };
        let mut error = [0 as c_char; 1024];
        let device = self.lock();
        // SAFETY: the device lives; the name ends in 0, the sizes are those of the slices; the rest is the
        // caller's promise.
        let code = unsafe {
            lorb_emulate_launch(
                device.as_ptr(),
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                launch.shared_bytes,
                launch.parameters.as_ptr().cast(),
                launch.parameters.len() as u32,
                order,
                seed,
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

    fn lock(&self) -> std::sync::MutexGuard<'_, NonNull<c_void>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: nobody else has the device any more.
        unsafe { lorb_emulate_device_free(self.lock().as_ptr()) };
    }
}
