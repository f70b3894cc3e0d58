//! The CPU device: plain memory, SIMD kernels, one worker's share of a batch at a time.
//!
//! An operation runs on the thread that calls it. Parallelism lies above: a batch is cut into chunks of
//! whole sequences small enough for a core's cache, and each worker takes chunks through the whole network
//! (see [`crate::bert::batch::chunks`]). So no operation waits for another thread, and results do not depend on
//! how many there are.

pub mod bandwidth;
pub mod buffer;
pub mod gemm;
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

/// The CPU, with the instruction set that its kernels use and the memory that they recycle.
#[derive(Debug, Clone)]
pub struct Cpu {
    isa: Isa,
    dtype: Dtype,
    pool: Arc<Pool>,
    recorder: Recorder,
}

impl Cpu {
    pub fn new(isa: Isa) -> Cpu {
        Cpu { isa, dtype: Dtype::F32, pool: Arc::new(Pool::new(false)), recorder: Recorder::default() }
    }

    /// For tests: every new matrix starts as NaN, so that an element left unwritten shows.
    pub fn poisoned(isa: Isa) -> Cpu {
        Cpu { pool: Arc::new(Pool::new(true)), ..Cpu::new(isa) }
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
