//! The CPU device: plain memory, SIMD kernels, one worker's share of a batch at a time.
//!
//! An operation runs on the thread that calls it. Parallelism lies above: a batch is cut into chunks of
//! whole sequences small enough for a core's cache, and each worker takes chunks through the whole network
//! (see [`crate::bert::batch::chunks`]). So no operation waits for another thread, and results do not depend on
//! how many there are.

pub mod bandwidth;
pub mod buffer;
pub mod gemm;
mod heap;
pub mod isa;
pub mod matrix;
mod pages;
pub mod peak;
pub mod simd;

use std::ops::Range;
use std::sync::Arc;

pub use buffer::Buffer;
pub use isa::Isa;
pub use matrix::Matrix;

use super::{Device, Dtype, Memory, Run};
use crate::Result;
use crate::profile::{Recorder, Work};
use buffer::Pool;
use gemm::Packed;
use gemm::store::{Form, Store};

/// The CPU, with the instruction set that its kernels use and the memory that they recycle.
#[derive(Debug, Clone)]
pub struct Cpu {
    isa: Isa,
    dtype: Dtype,
    pool: Pool,
    /// Where packed weights are shared with other processes.
    store: Option<Arc<Store>>,
    recorder: Recorder,
}

impl Cpu {
    pub fn new(isa: Isa) -> Cpu {
        let pool = Pool::new(false);
        Cpu { isa, dtype: Dtype::F32, pool, store: None, recorder: Recorder::default() }
    }

    /// What the environment asks for: the instruction set of `LORB_ISA`, else the best, and packed weights in the folder
    /// of `LORB_PACKED`, if any.
    ///
    /// # Errors
    /// As for [`Isa::detect`] and [`Store::of_environment`].
    pub fn of_environment() -> Result<Cpu> {
        let store = Store::of_environment()?.map(Arc::new);
        Ok(Cpu { store, ..Cpu::new(Isa::detect()?) })
    }

    /// For tests: every new matrix starts as NaN, so that an element left unwritten shows.
    pub fn poisoned(isa: Isa) -> Cpu {
        Cpu { pool: Pool::new(true), ..Cpu::new(isa) }
    }

    /// The same, with the base's weights kept in `dtype` and, where the CPU can, multiplied in it.
    pub fn with_dtype(self, dtype: Dtype) -> Cpu {
        Cpu { dtype, ..self }
    }

    /// The same, noting what it does.
    pub fn recorded_by(self, recorder: Recorder) -> Cpu {
        Cpu { recorder, ..self }
    }

    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// What the base's weights are kept in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The matrix [k, n] whose rows `source` has one after the other, or its columns, as products read it; from the
    /// store where there is one.
    pub(crate) fn pack(&self, source: &[f32], k: usize, n: usize, by_columns: bool) -> Packed {
        let (isa, dtype) = (self.isa, self.dtype);
        let pack = || match by_columns {
            true => Packed::new(isa, dtype, k, n, |i, j| source[j * k + i]),
            false => Packed::new(isa, dtype, k, n, |i, j| source[i * n + j]),
        };
        match &self.store {
            Some(store) => store.packed(source, Form { isa, dtype, k, n, by_columns }, pack),
            None => pack(),
        }
    }

    /// A matrix of unspecified content, for a kernel to fill.
    pub(crate) fn fill(&self, rows: usize, columns: usize, fill: impl FnOnce(&mut [f32])) -> Matrix {
        let mut buffer = self.pool.take(rows * columns);
        fill(&mut buffer);
        Matrix::new(buffer, rows, columns)
    }

    /// Memory of unspecified content that a kernel uses while it runs.
    pub(crate) fn scratch(&self, len: usize) -> buffer::Pooled {
        self.pool.take(len)
    }
}

/// Runs of rows with the number of their adapter.
pub type Segments = Vec<(Range<usize>, usize)>;

impl Memory for Cpu {
    type Tensor = Matrix;
    type Index = Arc<[u32]>;
    type Parameters = Vec<f32>;
    type Segments = Segments;

    fn index(&self, values: &[u32]) -> Arc<[u32]> {
        values.into()
    }

    fn row_index(&self, values: &[u32], rows: usize) -> Arc<[u32]> {
        debug_assert!(values.iter().all(|&i| (i as usize) < rows));
        values.into()
    }

    fn segments(&self, runs: &[Run]) -> Segments {
        let mut end = 0;
        let segment = |run: &Run| {
            end += run.rows;
            (end - run.rows..end, run.adapter)
        };
        runs.iter().map(segment).collect()
    }

    fn parameters(&self, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }

    fn upload(&self, data: &[f32], rows: usize, columns: usize) -> Matrix {
        self.fill(rows, columns, |m| m.copy_from_slice(data))
    }

    fn download(&self, tensor: &Matrix) -> Result<Vec<f32>> {
        Ok(tensor.values())
    }

    fn add(&self, a: &Matrix, b: &Matrix) -> Matrix {
        self.fill(a.rows(), a.columns(), |out| {
            for (i, row) in out.chunks_exact_mut(a.columns()).enumerate() {
                for ((y, a), b) in row.iter_mut().zip(a.row(i)).zip(b.row(i)) {
                    *y = a + b;
                }
            }
        })
    }

    fn operation<T>(&self, name: &'static str, work: impl FnOnce(&T) -> Work, run: impl FnOnce() -> T) -> T {
        self.recorder.operation(name, work, run)
    }

    fn bytes(tensor: &Matrix) -> f64 {
        (size_of::<f32>() * tensor.rows() * tensor.columns()) as f64
    }
}

impl Device for Cpu {
    const SHARES_PAIRS: bool = true;
}

/// What the processor is called, where /proc/cpuinfo says so; else its architecture.
pub fn name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}
