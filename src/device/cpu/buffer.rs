//! Memory of the CPU device: aligned to cache lines, recycled between operations.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use super::pages::Piece;

/// A cache line, the unit of allocation.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([f32; 16]);

/// From so many lines on (64 KiB) a buffer lies in large pages: weights and activations do, but not adapters, which
/// come and go one by one.
const LARGE: usize = 1024;

/// A vector of `f32` aligned to 64 bytes.
#[derive(Debug, Default)]
pub struct Buffer {
    lines: Lines,
    len: usize,
}

#[derive(Debug)]
enum Lines {
    Small(Vec<Line>),
    Large(Piece),
}

impl Buffer {
    pub fn zeroed(len: usize) -> Buffer {
        let lines = len.div_ceil(16);
        let large = if lines >= LARGE { Piece::new(lines) } else { None };
        let lines = large.map_or_else(|| Lines::Small(vec![Line([0.0; 16]); lines]), Lines::Large);
        Buffer { lines, len }
    }
}

impl Default for Lines {
    fn default() -> Self {
        Lines::Small(Vec::new())
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        match self {
            Lines::Small(lines) => lines,
            Lines::Large(piece) => piece.lines(),
        }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        match self {
            Lines::Small(lines) => lines,
            Lines::Large(piece) => piece.lines_mut(),
        }
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

/// Buffers that wait for their next use, by capacity: a step allocates what the last one gave back. Batches differ in
/// size, so a larger buffer than was asked for will do, up to [`SLACK`] times.
#[derive(Debug)]
pub(super) struct Pool {
    free: Mutex<BTreeMap<usize, Vec<Buffer>>>,
    poison: bool,
}

impl Pool {
    pub fn new(poison: bool) -> Pool {
        Pool { free: Mutex::default(), poison }
    }

    /// A buffer of `len` floats of unspecified value (NaN where the pool poisons).
    pub fn take(self: &Arc<Self>, len: usize) -> Pooled {
        let class = size_class(len);
        let recycled = self.lock().range_mut(class..=SLACK * class).find_map(|(_, free)| free.pop());
        let mut buffer = recycled.unwrap_or_else(|| Buffer::zeroed(class));
        buffer.len = len;
        if self.poison {
            buffer.fill(f32::NAN);
        }
        Pooled { buffer, pool: self.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Vec<Buffer>>> {
        // A panic elsewhere leaves the free lists whole: they change by one push or pop.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much larger than what was asked for a recycled buffer may be.
const SLACK: usize = 2;

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
