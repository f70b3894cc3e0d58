//! The CUDA device: kernels written by hand, over a driver that may be real or emulated.
//!
//! Everything runs on one stream, in order. The first failure is kept until [`Cuda::check`] (or a read) tells
//! of it: so long nothing is launched, and results are unspecified. So operations need no `Result` each.
//! Whoever is told uses nothing that was made since: there may be no memory behind it.

mod add;
pub mod driver;
pub mod first_use;
pub mod images;
mod index;
pub mod kernels;
pub mod measure;
pub mod memory;
#[cfg(feature = "cuda")]
mod real;
mod segments;
pub mod selfcheck;
pub mod tensor;
pub mod tiles;
mod transfer;
mod unavailable;
mod variants;

use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};

pub use driver::{Address, Boxes, Driver, Fetch, Graph, Launch, Properties, TensorMap};
pub(crate) use index::Bounds;
pub use index::Index;
#[cfg(feature = "cuda")]
pub use real::driver_version;
pub(crate) use segments::Room;
pub use segments::Segments;
pub use tensor::{Flat, Precision, Rows, Tensor};
pub(crate) use transfer::Fetched;
pub use unavailable::Unavailable;
pub use variants::{Level, Subject, Trial, Variants};

use super::{Device, Memory, Run};
use crate::bert::Config;
use crate::{Error, Result};
use kernels::Kernel;
use memory::{Block, Pool};

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
        Index::new(self, values)
    }

    fn row_index(&self, values: &[u32], rows: usize) -> Index {
        self.row_index_within(values, Rows::all(values.len()), Rows::all(rows))
    }

    fn segments(&self, runs: &[Run]) -> Segments {
        Segments::new(self, runs)
    }

    fn parameters(&self, values: &[f32]) -> Flat {
        self.upload_flat(values)
    }

    fn upload(&self, data: &[f32], rows: usize, columns: usize) -> Tensor {
        self.upload_activations(data, rows, columns)
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        self.download_tensor(tensor)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Tensor {
        add::add(self, a, b)
    }
}
