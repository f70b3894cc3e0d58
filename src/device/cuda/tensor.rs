//! The CUDA device's tensors, and what kernels are told of them.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::driver::Address;
use super::memory::Block;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    F32,
    Bf16,
}

impl Precision {
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        }
    }
}

/// A count of rows: the room, and where the device finds how many are in use, if that is not all.
#[derive(Clone)]
pub struct Rows {
    pub capacity: usize,
    live: Option<(Arc<Block>, usize)>,
}

impl Rows {
    /// All of them.
    pub fn all(capacity: usize) -> Rows {
        Rows { capacity, live: None }
    }

    /// As many as the u32 at byte `offset` of `counts` says, when a kernel runs.
    pub fn live(capacity: usize, counts: Arc<Block>, offset: usize) -> Rows {
        Rows { capacity, live: Some((counts, offset)) }
    }

    pub fn parameter(&self) -> RowsParameter {
        let live = self.live.as_ref().map_or(Address::NULL, |(b, offset)| b.address().offset(*offset));
        RowsParameter { live, capacity: self.capacity as u32, unused: 0 }
    }
}

/// `Rows` of kernels/common/launch.cuh.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct RowsParameter {
    live: Address,
    capacity: u32,
    unused: u32,
}

/// A row-major matrix on the device, or a range of the columns of one. Clones share the memory.
#[derive(Clone)]
pub struct Tensor {
    pub(super) block: Arc<Block>,
    /// In bytes.
    pub(super) offset: usize,
    rows: Rows,
    columns: usize,
    /// Elements from row to row.
    stride: usize,
    precision: Precision,
}

impl Tensor {
    pub(super) fn new(block: Block, rows: Rows, columns: usize, precision: Precision) -> Tensor {
        Tensor { block: Arc::new(block), offset: 0, rows, columns, stride: columns, precision }
    }

    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub fn address(&self) -> Address {
        self.block.address().offset(self.offset)
    }

    /// The same memory, of which as many rows are in use.
    ///
    /// # Panics
    /// Where there is less room than `rows` asks for.
    pub fn with_rows(&self, rows: Rows) -> Tensor {
        assert!(rows.capacity <= self.rows.capacity, "no room for so many rows");
        Tensor { rows, ..self.clone() }
    }

    /// Whether rows can be read and written by 16 bytes: their ends and distances are multiples of them.
    pub(crate) fn is_wide(&self) -> bool {
        let bytes = self.precision.bytes();
        let places = [self.address().0 as usize, self.columns * bytes, self.stride * bytes];
        places.iter().all(|place| place.is_multiple_of(16))
    }

    /// A view of some of the columns.
    pub fn slice_columns(&self, range: Range<usize>) -> Tensor {
        assert!(range.end <= self.columns, "no such columns");
        let offset = self.offset + range.start * self.precision.bytes();
        Tensor { offset, columns: range.len(), ..self.clone() }
    }
}

/// A flat vector of f32 on the device.
#[derive(Clone)]
pub struct Flat {
    pub(super) block: Arc<Block>,
    pub(super) len: usize,
}

impl Flat {
    pub fn address(&self) -> Address {
        self.block.address()
    }

    /// Where the element `at` lies.
    pub fn at(&self, at: usize) -> Address {
        self.block.address().offset(at * size_of::<f32>())
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
