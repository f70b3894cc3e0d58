//! The CUDA device: kernels written by hand, over a driver that may be real or emulated.
//!
//! Everything runs on one stream, in order. The first failure is kept: nothing is launched after it, results
//! are unspecified, and [`Cuda::check`] (and every read) tells of it. So operations need no `Result` each.

mod add;
pub mod driver;
pub mod first_use;
pub mod images;
pub mod kernels;
pub mod measure;
pub mod memory;
#[cfg(feature = "cuda")]
mod real;
mod segments;
pub mod selfcheck;
pub mod tensor;
pub mod tiles;
mod unavailable;
mod variants;

use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};
use half::bf16;

pub use driver::{Address, Boxes, Driver, Fetch, Graph, Launch, Properties, TensorMap};
#[cfg(feature = "cuda")]
pub use real::driver_version;
pub(crate) use segments::Room;
pub use segments::Segments;
pub use tensor::{Flat, Index, Precision, Rows, Tensor};
pub use unavailable::Unavailable;
pub use variants::{Level, Subject, Trial, Variants};

use super::{Device, Memory, Run};
use crate::bert::Config;
use crate::{Error, Result};
use kernels::Kernel;
use memory::{Block, Pool};
use tensor::Inverse;

/// The driver of the first GPU that CUDA_VISIBLE_DEVICES leaves, with all kernels loaded.
///
/// # Errors
/// What is missing.
pub fn open() -> Result<Arc<dyn Driver>, Unavailable> {
    #[cfg(feature = "cuda")]
    return Ok(Arc::new(real::Real::open()?));
    #[cfg(not(feature = "cuda"))]
    return Err(Unavailable::NotBuilt);
}

/// The version of CUDA that the installed driver is of, major and minor; none where there is no driver, or
/// this program was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn driver_version() -> Option<(u32, u32)> {
    None
}

/// A CUDA device with the precision of its activations. Clones share it.
#[derive(Clone)]
pub struct Cuda {
    driver: Arc<dyn Driver>,
    pool: Arc<Pool>,
    failure: Arc<Mutex<Option<Error>>>,
    precision: Precision,
    limits: Variants,
}

impl Cuda {
    /// With the best variant of each kernel, whether or not anybody has checked it on this GPU; what may be used
    /// of them there is what [`select`](crate::device::select) finds out.
    pub fn new(driver: Arc<dyn Driver>, precision: Precision) -> Cuda {
        let pool = Arc::new(Pool::new(driver.clone(), false));
        let limits = Variants::best(precision, driver.properties());
        Cuda { driver, pool, failure: Arc::default(), precision, limits }
    }

    /// The same device, which uses no variants above these.
    pub fn limited(self, limits: Variants) -> Cuda {
        Cuda { limits, ..self }
    }

    /// For tests: new memory holds NaN, so that an element left unwritten shows.
    pub fn poisoned(driver: Arc<dyn Driver>, precision: Precision) -> Cuda {
        let pool = Arc::new(Pool::new(driver.clone(), true));
        Cuda { pool, ..Cuda::new(driver, precision) }
    }

    /// The same device with memory of its own, which stays where it is, for what graphs keep.
    pub(crate) fn with_own_memory(&self) -> Cuda {
        let pool = Arc::new(Pool::new(self.driver.clone(), self.pool.poisons()).lasting());
        Cuda { pool, ..self.clone() }
    }

    /// The same device for another thread: what fails here does not fail there.
    pub(crate) fn with_own_failures(&self) -> Cuda {
        Cuda { failure: Arc::default(), ..self.clone() }
    }

    /// What `work` asks of the device, to be run later; nothing of it runs now.
    ///
    /// # Errors
    /// Whatever failed on the device up to now.
    pub(crate) fn capture<T>(&self, work: impl FnOnce() -> T) -> Result<(T, Box<dyn Graph>)> {
        self.check()?;
        self.driver.begin_capture()?;
        let result = work();
        let graph = self.driver.end_capture();
        // What failed in between says more than that nothing could be captured.
        self.check()?;
        Ok((result, graph?))
    }

    /// Refuses a model that the kernels are not made for.
    ///
    /// # Errors
    /// [`Error::Usage`] with what is too large.
    pub fn accept(&self, config: &Config) -> Result<()> {
        let limits = [
            ("hidden size", config.hidden, tiles::LAYER_NORM_WIDTH),
            ("head size", config.head_size(), tiles::ATTENTION_HEAD_SIZE),
        ];
        for (what, found, most) in limits {
            if found > most as usize {
                return Err(Error::Usage(format!(
                    "the model's {what} is {found}; the CUDA kernels take at most {most}: use --device cpu"
                )));
            }
        }
        Ok(())
    }

    pub fn properties(&self) -> &Properties {
        self.driver.properties()
    }

    /// Bytes of device memory that the driver gave for tensors, in use and free; not those of graphs.
    pub fn allocated(&self) -> usize {
        self.pool.allocated()
    }

    /// The type of activations and base weights.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The best variants that it uses.
    pub fn limits(&self) -> Variants {
        self.limits
    }

    /// What failed first, if anything did.
    ///
    /// # Errors
    /// [`Error::Device`]; it is given once.
    pub fn check(&self) -> Result<()> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Whether something failed that nobody has been told of: then nothing is launched.
    pub(crate) fn failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Keeps the first failure; what came of it otherwise.
    fn keep<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
                None
            }
        }
    }

    /// Memory of unspecified content.
    pub(crate) fn block(&self, bytes: usize) -> Block {
        if self.failed() {
            return Block::none();
        }
        self.keep(self.pool.take(bytes)).unwrap_or_else(Block::none)
    }

    /// A tensor of unspecified content, of the device's precision.
    pub(crate) fn activations(&self, rows: Rows, columns: usize) -> Tensor {
        self.tensor(rows, columns, self.precision)
    }

    /// A tensor of unspecified content.
    pub(crate) fn tensor(&self, rows: Rows, columns: usize, precision: Precision) -> Tensor {
        let block = self.block(rows.capacity * columns * precision.bytes());
        Tensor::new(block, rows, columns, precision)
    }

    /// A vector of f32 of unspecified content.
    pub(crate) fn flat(&self, len: usize) -> Flat {
        Flat { block: Arc::new(self.block(len * size_of::<f32>())), len }
    }

    /// A vector of f32 with these values.
    pub fn upload_flat(&self, values: &[f32]) -> Flat {
        let flat = self.flat(values.len());
        self.write(flat.address(), values);
        flat
    }

    /// A tensor of f32, whatever the device's precision.
    pub fn upload_f32(&self, data: &[f32], rows: usize, columns: usize) -> Tensor {
        let tensor = self.tensor(Rows::all(rows), columns, Precision::F32);
        self.write(tensor.address(), data);
        tensor
    }

    /// `data` as the device's precision keeps it, in memory of its own: base weights.
    pub(crate) fn upload_weights(&self, data: &[f32]) -> Arc<Block> {
        let block = self.block(data.len() * self.precision.bytes());
        self.write_rounded(block.address(), data);
        Arc::new(block)
    }

    /// The values of a flat vector.
    ///
    /// # Errors
    /// Whatever failed on the device up to now.
    pub fn download_flat(&self, flat: &Flat) -> Result<Vec<f32>> {
        let mut values = vec![0.0f32; flat.len()];
        self.read(flat.address(), &mut values)?;
        Ok(values)
    }

    /// Room for `capacity` rows, of which `live` are in use as far as kernels see.
    pub fn live_rows(&self, capacity: usize, live: u32) -> Rows {
        let count = self.block(size_of::<u32>());
        self.write(count.address(), &[live]);
        Rows::live(capacity, Arc::new(count), 0)
    }

    /// Numbers of `destinations`, with room for `sources` of them.
    ///
    /// # Panics
    /// Where there is no room, or no such destination.
    pub fn row_index_within(&self, values: &[u32], sources: Rows, destinations: Rows) -> Index {
        let (mut starts, mut places) = inverse(values, destinations.capacity);
        let mut padded = values.to_vec();
        assert!(values.len() <= sources.capacity, "no room for so many rows");
        // What no kernel may read is nothing that it could use.
        padded.resize(sources.capacity, u32::MAX);
        places.resize(sources.capacity, u32::MAX);
        let inverse = Inverse {
            starts: size_of_val(&padded[..]),
            places: size_of_val(&padded[..]) + size_of_val(&starts[..]),
            rows: destinations,
        };
        padded.append(&mut starts);
        padded.append(&mut places);
        let block = self.block(size_of_val(&padded[..]));
        self.write(block.address(), &padded);
        Index { block: Arc::new(block), offset: 0, rows: sources, inverse: Some(inverse) }
    }

    /// Sets a flat vector to zero.
    pub(crate) fn clear(&self, flat: &Flat) {
        if !self.failed() {
            // SAFETY: the vector has `len` floats.
            self.keep(unsafe { self.driver.fill(flat.address(), 0, flat.len() * size_of::<f32>()) });
        }
    }

    /// `data` must fit where it goes.
    pub(crate) fn write<T: Pod>(&self, to: Address, data: &[T]) {
        if !self.failed() && !data.is_empty() {
            // SAFETY: callers pass memory that they took for this data.
            self.keep(unsafe { self.driver.write(to, bytemuck::cast_slice(data)) });
        }
    }

    /// `data` in the device's precision, rounded to nearest, ties to even; it must fit where it goes.
    fn write_rounded(&self, to: Address, data: &[f32]) {
        match self.precision {
            Precision::F32 => self.write(to, data),
            Precision::Bf16 => {
                self.write(to, &data.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>());
            }
        }
    }

    /// `from` must hold as much as `data`.
    pub(crate) fn read<T: Pod>(&self, from: Address, data: &mut [T]) -> Result<()> {
        self.check()?;
        if data.is_empty() {
            return Ok(());
        }
        // SAFETY: callers pass memory that they took for this data.
        unsafe { self.driver.read(from, bytemuck::cast_slice_mut(data)) }
    }

    /// Starts to copy the first `rows` of an f32 tensor without gaps to the host, after everything before.
    ///
    /// # Errors
    /// Whatever failed on the device up to now.
    pub(crate) fn fetch(&self, tensor: &Tensor, rows: usize) -> Result<Fetched> {
        self.check()?;
        assert!(tensor.precision() == Precision::F32 && tensor.stride() == tensor.columns());
        assert!(rows <= tensor.rows().capacity);
        let len = rows * tensor.columns();
        // SAFETY: the tensor has as many floats.
        let fetch = unsafe { self.driver.fetch(tensor.address(), len * size_of::<f32>())? };
        Ok(Fetched { fetch, len })
    }

    /// Describes matrices to a kernel that copies boxes of them.
    pub(crate) fn tensor_map(&self, boxes: &Boxes) -> TensorMap {
        if self.failed() {
            return TensorMap::zeroed();
        }
        self.keep(self.driver.tensor_map(boxes)).unwrap_or_else(TensorMap::zeroed)
    }

    /// Runs a kernel, unless something failed before or there is nothing to do.
    ///
    /// # Safety
    /// The memory that the parameters name is as large as the kernel's contract says, and what it writes
    /// overlaps nothing that it reads but where the contract allows that.
    pub(crate) unsafe fn launch<P: Pod>(
        &self,
        kernel: Kernel<P>,
        grid: [u32; 3],
        shared_bytes: u32,
        parameters: &P,
    ) {
        if self.failed() || grid.contains(&0) {
            return;
        }
        let launch =
            Launch { kernel: kernel.id(), grid, shared_bytes, parameters: bytemuck::bytes_of(parameters) };
        // SAFETY: the type of the kernel says that these are its parameters; blocks of memory go back to the
        // pool in the order of the stream, so what they name lives until the kernel has run.
        self.keep(unsafe { self.driver.launch(launch) });
    }
}

/// Values on their way to the host.
pub(crate) struct Fetched {
    fetch: Box<dyn Fetch>,
    len: usize,
}

impl Fetched {
    /// Waits for them.
    ///
    /// # Errors
    /// Whatever failed on the device up to the copy.
    pub fn wait(self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.len];
        self.fetch.wait(bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }
}

impl Device for Cuda {
    /// Two launches that gather, and in training one that scatters, take longer than the rows that they spare.
    const SHARES_PAIRS: bool = false;
}

impl Memory for Cuda {
    type Tensor = Tensor;
    type Index = Index;
    type Parameters = Flat;
    type Segments = Segments;

    fn index(&self, values: &[u32]) -> Index {
        let block = self.block(size_of_val(values));
        self.write(block.address(), values);
        Index { block: Arc::new(block), offset: 0, rows: Rows::all(values.len()), inverse: None }
    }

    fn row_index(&self, values: &[u32], rows: usize) -> Index {
        self.row_index_within(values, Rows::all(values.len()), Rows::all(rows))
    }

    fn segments(&self, runs: &[Run]) -> Segments {
        let room = Room { rows: runs.iter().map(|run| run.rows).sum(), runs: runs.len() };
        let mut numbers = vec![0; room.numbers()];
        room.write(runs, &mut numbers);
        let block = self.block(size_of_val(&numbers[..]));
        self.write(block.address(), &numbers);
        let adapters = runs.iter().map(|run| run.adapter + 1).max().unwrap_or(0);
        Segments::within(Arc::new(block), 0, room, adapters)
    }

    fn parameters(&self, values: &[f32]) -> Flat {
        self.upload_flat(values)
    }

    fn upload(&self, data: &[f32], rows: usize, columns: usize) -> Tensor {
        let tensor = self.activations(Rows::all(rows), columns);
        self.write_rounded(tensor.address(), data);
        tensor
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let (rows, columns, stride) = (tensor.rows().capacity, tensor.columns(), tensor.stride());
        if rows == 0 || columns == 0 {
            return self.check().map(|()| Vec::new());
        }
        let span = (rows - 1) * stride + columns;
        let values: Vec<f32> = match tensor.precision() {
            Precision::F32 => {
                let mut values = vec![0.0f32; span];
                self.read(tensor.address(), &mut values)?;
                values
            }
            Precision::Bf16 => {
                let mut values = vec![bf16::ZERO; span];
                self.read(tensor.address(), &mut values)?;
                values.into_iter().map(f32::from).collect()
            }
        };
        Ok((0..rows).flat_map(|i| values[i * stride..][..columns].iter().copied()).collect())
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Tensor {
        add::add(self, a, b)
    }
}

/// For each row below `rows`, where its places start, and all places by row, in order.
fn inverse(values: &[u32], rows: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; rows + 1];
    for &row in values {
        starts[row as usize + 1] += 1;
    }
    for row in 0..rows {
        starts[row + 1] += starts[row];
    }
    let mut next = starts.clone();
    let mut places = vec![0u32; values.len()];
    for (place, &row) in values.iter().enumerate() {
        places[next[row as usize] as usize] = place as u32;
        next[row as usize] += 1;
    }
    (starts, places)
}
