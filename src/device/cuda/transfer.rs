//! The ways between host and device. A copy names the block that it goes to or comes from, which knows its
//! size.

use std::sync::Arc;

use bytemuck::Pod;
use half::bf16;

use super::memory::Block;
use super::{Address, Cuda, Fetch, Flat, Precision, Rows, Tensor};
use crate::{Error, Result};

impl Cuda {
    /// A vector of f32 with these values.
    pub fn upload_flat(&self, values: &[f32]) -> Flat {
        let flat = self.flat(values.len());
        self.write(&flat.block, values);
        flat
    }

    /// The values of a flat vector.
    ///
    /// # Errors
    /// Whatever failed on the device up to now.
    pub fn download_flat(&self, flat: &Flat) -> Result<Vec<f32>> {
        let mut values = vec![0.0f32; flat.len()];
        self.read(&flat.block, 0, &mut values)?;
        Ok(values)
    }

    /// Sets a flat vector to zero.
    pub(crate) fn clear(&self, flat: &Flat) {
        if self.failed() {
            return;
        }
        let bytes = flat.len() * size_of::<f32>();
        // SAFETY: the block has as many bytes.
        let clear = |at| unsafe { self.driver.fill(at, 0, bytes) };
        self.keep(place(&flat.block, 0, bytes).and_then(clear));
    }

    /// A tensor [rows, columns] of f32, whatever the device's precision, from row-major values.
    ///
    /// # Panics
    /// Where `data` has another length.
    pub fn upload_f32(&self, data: &[f32], rows: usize, columns: usize) -> Tensor {
        assert_eq!(data.len(), rows * columns, "a value for each element");
        let tensor = self.tensor(Rows::all(rows), columns, Precision::F32);
        self.write(&tensor.block, data);
        tensor
    }

    /// The same of the device's precision.
    ///
    /// # Panics
    /// As for [`upload_f32`](Self::upload_f32).
    pub(super) fn upload_activations(&self, data: &[f32], rows: usize, columns: usize) -> Tensor {
        assert_eq!(data.len(), rows * columns, "a value for each element");
        let tensor = self.activations(Rows::all(rows), columns);
        self.write_rounded(&tensor.block, data);
        tensor
    }

    /// The values of a tensor, row-major.
    ///
    /// # Errors
    /// Whatever failed on the device up to now.
    pub(super) fn download_tensor(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let (rows, columns, stride) = (tensor.rows().capacity, tensor.columns(), tensor.stride());
        if rows == 0 || columns == 0 {
            return self.check().map(|()| Vec::new());
        }
        let span = (rows - 1) * stride + columns;
        let values: Vec<f32> = match tensor.precision() {
            Precision::F32 => {
                let mut values = vec![0.0f32; span];
                self.read(&tensor.block, tensor.offset, &mut values)?;
                values
            }
            Precision::Bf16 => {
                let mut values = vec![bf16::ZERO; span];
                self.read(&tensor.block, tensor.offset, &mut values)?;
                values.into_iter().map(f32::from).collect()
            }
        };
        Ok((0..rows).flat_map(|i| values[i * stride..][..columns].iter().copied()).collect())
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
        let bytes = len * size_of::<f32>();
        let from = place(&tensor.block, tensor.offset, bytes)?;
        // SAFETY: the block has as many bytes there.
        let fetch = unsafe { self.driver.fetch(from, bytes)? };
        Ok(Fetched { fetch, len })
    }

    /// `data` as the device's precision keeps it, in memory of its own: base weights.
    pub(crate) fn upload_weights(&self, data: &[f32]) -> Arc<Block> {
        let block = self.block(data.len() * self.precision.bytes());
        self.write_rounded(&block, data);
        Arc::new(block)
    }

    /// Room for `capacity` rows, of which `live` are in use as far as kernels see.
    pub fn live_rows(&self, capacity: usize, live: u32) -> Rows {
        let count = self.block(size_of::<u32>());
        self.write(&count, &[live]);
        Rows::live(capacity, Arc::new(count), 0)
    }

    /// Copies `data` to the start of a block.
    ///
    /// # Panics
    /// Where the block has no room for it.
    pub(crate) fn write<T: Pod>(&self, to: &Block, data: &[T]) {
        if self.failed() || data.is_empty() {
            return;
        }
        // SAFETY: the block has room for the data.
        let write = |to| unsafe { self.driver.write(to, bytemuck::cast_slice(data)) };
        self.keep(place(to, 0, size_of_val(data)).and_then(write));
    }

    /// The same of `data` in the device's precision, rounded to nearest, ties to even.
    fn write_rounded(&self, to: &Block, data: &[f32]) {
        match self.precision {
            Precision::F32 => self.write(to, data),
            Precision::Bf16 => self.write(to, &data.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>()),
        }
    }

    /// Copies to `data` what lies in a block from byte `offset` on.
    ///
    /// # Errors
    /// Whatever failed on the device up to now.
    ///
    /// # Panics
    /// Where the block ends before.
    pub(crate) fn read<T: Pod>(&self, from: &Block, offset: usize, data: &mut [T]) -> Result<()> {
        self.check()?;
        if data.is_empty() {
            return Ok(());
        }
        let from = place(from, offset, size_of_val(data))?;
        // SAFETY: the block has as many bytes there.
        unsafe { self.driver.read(from, bytemuck::cast_slice_mut(data)) }
    }
}

/// Where `bytes` lie in a block, from byte `offset` on.
///
/// # Errors
/// [`Error::Device`] where the block was asked for when the device had failed: somebody else was told of
/// that.
///
/// # Panics
/// Where the block ends before.
fn place(block: &Block, offset: usize, bytes: usize) -> Result<Address> {
    if block.is_none() {
        return Err(Error::Device("there is no memory, since something failed before".into()));
    }
    let end = offset.checked_add(bytes);
    assert!(end.is_some_and(|end| end <= block.bytes()), "more than the memory holds");
    Ok(block.address().offset(offset))
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
