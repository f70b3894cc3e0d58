//! The CPU's tensor: rows of `f32`, shared and never changed once a kernel has filled them.

use std::ops::Range;
use std::sync::Arc;

use super::buffer::Pooled;

/// A row-major matrix, or a range of the rows and columns of one. Clones share the memory.
#[derive(Debug, Clone)]
pub struct Matrix {
    data: Arc<Pooled>,
    offset: usize,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl Matrix {
    pub(crate) fn new(data: Pooled, rows: usize, columns: usize) -> Matrix {
        assert!(data.len() >= rows * columns, "the buffer is too short");
        Matrix { data: Arc::new(data), offset: 0, rows, columns, stride: columns }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Floats from one row to the next in [`data`](Self::data).
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// From the first element to the last one, with other columns of a shared matrix in between.
    pub fn data(&self) -> &[f32] {
        if self.rows == 0 {
            return &[];
        }
        &self.data[self.offset..self.offset + (self.rows - 1) * self.stride + self.columns]
    }

    pub fn row(&self, i: usize) -> &[f32] {
        &self.data()[i * self.stride..i * self.stride + self.columns]
    }

    /// All values, row-major without gaps.
    pub fn values(&self) -> Vec<f32> {
        (0..self.rows).flat_map(|i| self.row(i)).copied().collect()
    }

    /// A view of some of the rows.
    pub fn slice_rows(&self, range: Range<usize>) -> Matrix {
        assert!(range.end <= self.rows, "no such rows");
        let offset = self.offset + range.start * self.stride;
        Matrix { data: self.data.clone(), offset, rows: range.len(), ..*self }
    }

    /// A view of some of the columns.
    pub fn slice_columns(&self, range: Range<usize>) -> Matrix {
        assert!(range.end <= self.columns, "no such columns");
        Matrix { data: self.data.clone(), offset: self.offset + range.start, columns: range.len(), ..*self }
    }
}
