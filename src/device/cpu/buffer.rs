//! Memory of the CPU device: aligned to cache lines. What operations make is recycled between them.

use std::ops::{Deref, DerefMut};

use super::heap::{Block, Heap};
use super::pages::Piece;

/// A cache line, the unit of allocation.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([f32; 16]);

/// From so many lines on (64 KiB) a buffer that lasts lies in large pages.
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
        Buffer { lines: Lines::Small(vec![Line([0.0; 16]); len.div_ceil(16)]), len }
    }

    /// The same in large pages, which others share and none gives back before the last of them: for a base's weights,
    /// not for adapters, which come and go one by one.
    pub fn lasting(len: usize) -> Buffer {
        let lines = len.div_ceil(16);
        let piece = if lines >= LARGE { Piece::new(lines) } else { None };
        piece.map_or_else(|| Buffer::zeroed(len), |piece| Buffer { lines: Lines::Large(piece), len })
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

/// The memory that operations share: a step takes what the last one gave back.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    heap: Heap,
    poison: bool,
}

impl Pool {
    pub fn new(poison: bool) -> Pool {
        Pool { heap: Heap::default(), poison }
    }

    /// Memory of `len` floats of unspecified value (NaN where the pool poisons).
    pub fn take(&self, len: usize) -> Pooled {
        let mut taken = Pooled { block: self.heap.take(len.div_ceil(16).max(1)), len };
        if self.poison {
            taken.fill(f32::NAN);
        }
        taken
    }
}

/// Memory that goes back to its pool when dropped.
#[derive(Debug)]
pub struct Pooled {
    block: Block,
    len: usize,
}

impl Deref for Pooled {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(self.block.lines())[..self.len]
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(self.block.lines_mut())[..self.len]
    }
}
