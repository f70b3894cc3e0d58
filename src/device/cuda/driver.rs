//! What the CUDA device needs of a driver: the real one, or the emulator that the tests use.

use std::fmt;

use bytemuck::{Pod, Zeroable};

use super::kernels::Id;
use crate::Result;

/// A place in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Address(pub u64);

impl Address {
    /// What kernels take as "not given".
    pub const NULL: Address = Address(0);

    /// `bytes` further on.
    pub fn offset(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// Matrices of bf16 [rows, columns], one after the other, of which kernels copy boxes: 64 columns of `box_rows`
/// rows, with zeros where a box is outside.
#[derive(Debug, Clone, Copy)]
pub struct Boxes {
    /// A multiple of 16.
    pub address: Address,
    pub columns: u32,
    pub rows: u32,
    pub matrices: u32,
    /// Elements from row to row: a multiple of 8.
    pub stride: u32,
    /// At most 256.
    pub box_rows: u32,
}

impl Boxes {
    /// Columns of a box: the 128 bytes that are swizzled together.
    pub const COLUMNS: u32 = 64;
}

/// What kernels are told of [`Boxes`], in the driver's own form. It is good for as long as the memory stays where
/// it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(128))]
pub struct TensorMap(pub [u64; 16]);

/// What a device can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// As the vendor calls it.
    pub name: String,
    /// Which of those that are called so, or which part of one.
    pub uuid: String,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    pub multiprocessors: u32,
    /// The most shared memory that a block may ask for.
    pub shared_bytes: u32,
    /// Device memory in all.
    pub memory_bytes: u64,
}

/// One run of a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    pub kernel: Id,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The bytes of the kernel's parameter struct.
    pub parameters: &'a [u8],
}

/// For messages.
impl fmt::Display for Launch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Launch { kernel, grid: [x, y, z], shared_bytes, .. } = self;
        let entry = kernel.entry();
        let (name, threads) = (entry.name, entry.threads);
        write!(f, "{name}, grid {x} x {y} x {z}, {threads} threads, {shared_bytes} bytes of shared memory")
    }
}

/// Work that was captured, to be asked for as a whole.
pub trait Graph: Send + Sync {
    /// Runs all of it, after everything before.
    ///
    /// # Safety
    /// The memory that the work names is still there, and nobody counts on its content but for what the work
    /// itself leaves there. The driver is the one that captured it.
    ///
    /// # Errors
    /// As for [`Driver::write`].
    unsafe fn launch(&self) -> Result<()>;
}

/// A copy to the host that is under way.
pub trait Fetch: Send {
    /// Waits for it, and puts it into `data`.
    ///
    /// # Errors
    /// As for [`Driver::write`].
    ///
    /// # Panics
    /// Where `data` is not as long as what was asked for.
    fn wait(self: Box<Self>, data: &mut [u8]) -> Result<()>;
}

/// A device as a driver gives it. Everything happens in the order of the calls, on one stream.
pub trait Driver: Send + Sync {
    fn properties(&self) -> &Properties;

    /// Memory of unspecified content, aligned to 256 bytes.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where there is not enough.
    fn allocate(&self, bytes: usize) -> Result<Address>;

    /// Gives memory back, after everything that was asked for before.
    ///
    /// # Safety
    /// `at` came from [`allocate`](Self::allocate) with these `bytes` and is not used again.
    unsafe fn free(&self, at: Address, bytes: usize);

    /// Copies `data` to the device; it may be changed on return.
    ///
    /// # Safety
    /// `to` has room for it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the driver fails, now or in something asked for before.
    unsafe fn write(&self, to: Address, data: &[u8]) -> Result<()>;

    /// Waits for everything before, and copies from the device.
    ///
    /// # Safety
    /// `from` holds as many bytes as `data`.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    unsafe fn read(&self, from: Address, data: &mut [u8]) -> Result<()>;

    /// Copies from the device after everything before, and does not wait: what is asked for from here on may run
    /// while the host has other things to do.
    ///
    /// # Safety
    /// `from` holds as many bytes.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    unsafe fn fetch(&self, from: Address, bytes: usize) -> Result<Box<dyn Fetch>>;

    /// Copies within the device.
    ///
    /// # Safety
    /// Both places have as many bytes, and do not overlap.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()>;

    /// Sets bytes.
    ///
    /// # Safety
    /// `at` has room for `bytes`.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    unsafe fn fill(&self, at: Address, byte: u8, bytes: usize) -> Result<()>;

    /// Describes matrices to kernels that copy boxes of them, on devices of compute capability 9.0 and later.
    /// Nothing is read or asked of the device.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the driver refuses them: sizes of zero, or addresses and strides that are
    /// not multiples of 16 bytes.
    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap>;

    /// Runs a kernel.
    ///
    /// # Safety
    /// The parameters are those of the kernel; the memory that they name lives until the kernel has run, and
    /// is as large as the kernel's contract says.
    ///
    /// # Errors
    /// As for [`write`](Self::write), with the kernel's name and the launch's shape.
    unsafe fn launch(&self, launch: Launch<'_>) -> Result<()>;

    /// From here on, until [`end_capture`](Self::end_capture), writes, copies, fills and launches are recorded
    /// and not done. A write's data becomes a part of the graph: each run of it writes the same. Memory may be
    /// allocated, once for all runs, but not be freed, and nothing may be read.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the driver fails.
    fn begin_capture(&self) -> Result<()>;

    /// What was recorded; nothing of it has run.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the driver fails, or did while it recorded. The capture is over either way.
    fn end_capture(&self) -> Result<Box<dyn Graph>>;
}
