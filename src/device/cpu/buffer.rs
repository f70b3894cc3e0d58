//! Memory of the CPU device: aligned to cache lines, recycled between operations.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// A cache line, the unit of allocation.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A vector of `f32` aligned to 64 bytes.
#[derive(Debug, Default)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    pub fn zeroed(len: usize) -> Buffer {
        Buffer { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let len = self.len;
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..len]
    }
}

/// Buffers that wait for their next use, by capacity: a step allocates what the last one gave back.
#[derive(Debug)]
pub(super) struct Pool {
    free: Mutex<HashMap<usize, Vec<Buffer>>>,
    poison: bool,
}

impl Pool {
    pub fn new(poison: bool) -> Pool {
        Pool { free: Mutex::default(), poison }
    }

    /// A buffer of `len` floats of unspecified value (NaN where the pool poisons).
    pub fn take(self: &Arc<Self>, len: usize) -> Pooled {
        let class = size_class(len);
        let recycled = self.lock().get_mut(&class).and_then(Vec::pop);
        let mut buffer = recycled.unwrap_or_else(|| Buffer::zeroed(class));
        buffer.len = len;
        if self.poison {
            buffer.fill(f32::NAN);
        }
        Pooled { buffer, pool: self.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Vec<Buffer>>> {
        // A panic elsewhere leaves the free lists whole: they change by one push or pop.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `len` rounded up to one of eight sizes per power of two, so that at most an eighth is wasted while
/// batches of nearly the same size find each other's buffers.
fn size_class(len: usize) -> usize {
    let step = (len.max(128).next_power_of_two() / 16).max(16);
    len.next_multiple_of(step).max(16)
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct Pooled {
    buffer: Buffer,
    pool: Arc<Pool>,
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.len = buffer.lines.len() * 16;
        self.pool.lock().entry(buffer.len).or_default().push(buffer);
    }
}

impl Deref for Pooled {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer
    }
}
