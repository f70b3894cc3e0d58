//! A right matrix that never changes, laid out as the tiles read it.

use std::ops::Range;

use half::bf16;

use super::shape;
use super::store::Words;
use crate::device::Dtype;
use crate::device::cpu::buffer::Buffer;
use crate::device::cpu::isa::Isa;

/// A right matrix [k, n] stored as the panels that the tiles stream: panel p holds columns
/// p * width .. (p + 1) * width, row after row; the last panel is narrower, rounded up to whole vectors
/// and filled with zeros.
///
/// An element of such a row is a word of 32 bits: one f32, or two bf16 or four int8 that follow each other in the
/// inner dimension, the first in the lowest bits. What [`multiplies`](super::super::Isa::multiplies) does not multiply as
/// it is becomes f32 again on its way to the tiles.
#[derive(Debug)]
pub struct Packed {
    /// Whose tiles read it.
    pub(super) isa: Isa,
    pub(super) words: Words,
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) dtype: Dtype,
    pub(super) channels: Channels,
}

/// What int8 adds for each column, with zeros behind the last; empty for other types.
#[derive(Debug, Default)]
pub(super) struct Channels {
    /// An element is its int8 times this.
    pub scales: Vec<f32>,
    /// The sums of the column's int8 over each of its parts, all columns of a part before the next part. Activations are
    /// stored too high by their row's zero, which counts once for each of these.
    pub sums: Vec<f32>,
}

/// Words of the inner dimension over which a row of activations shares its int8's scale and zero: a hidden size of 384 is
/// two parts, one of 768 three. With 128 words, and 384 in one part, the error of MiniLM's scores is half as large again.
pub(super) const PART: usize = 64;

/// 0..total in parts of nearly equal length, at most `most`; one part where there is nothing.
#[inline(always)]
pub(crate) fn even_parts(total: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = total.div_ceil(most).max(1);
    let (each, longer) = (total / parts, total % parts);
    let mut end = 0;
    (0..parts).map(move |i| {
        let start = end;
        end += each + usize::from(i < longer);
        start..end
    })
}

/// Floats of a packed matrix: of its words, of the channels' scales and of their sums.
pub(super) fn lengths(isa: Isa, dtype: Dtype, k: usize, n: usize) -> [usize; 3] {
    let (padded, rows) = (n.next_multiple_of(shape(isa).0), k.div_ceil(depth(dtype)));
    match dtype {
        Dtype::Int8 => [padded * rows, padded, padded * even_parts(rows, PART).count()],
        _ => [padded * rows, 0, 0],
    }
}

impl Packed {
    /// Packs the matrix whose element (k, j) is `at(k, j)`. bf16 rounds to nearest, int8 to the nearest of
    /// [`int8_max`](Isa::int8_max) equal steps to its column's largest magnitude.
    pub fn new(isa: Isa, dtype: Dtype, k: usize, n: usize, at: impl Fn(usize, usize) -> f32) -> Packed {
        Packed::fill(isa, dtype, k, n, Buffer::lasting, at)
    }

    /// A matrix of an adapter, as f32, in memory that goes with it.
    pub fn of_adapter(isa: Isa, k: usize, n: usize, at: impl Fn(usize, usize) -> f32) -> Packed {
        Packed::fill(isa, Dtype::F32, k, n, Buffer::zeroed, at)
    }

    fn fill(
        isa: Isa,
        dtype: Dtype,
        k: usize,
        n: usize,
        zeroed: fn(usize) -> Buffer,
        at: impl Fn(usize, usize) -> f32,
    ) -> Packed {
        let (lanes, width) = shape(isa);
        let [length, padded, _] = lengths(isa, dtype, k, n);
        let mut channels = Channels::default();
        if dtype == Dtype::Int8 {
            channels = Channels::of(isa.int8_max(), k, n, padded, &at);
        }
        let element = |i: usize, j: usize| if i < k { at(i, j) } else { 0.0 };
        let word = |i: usize, j: usize| match dtype {
            Dtype::F32 => element(i, j).to_bits(),
            Dtype::Bf16 => {
                let half = |d| u32::from(bf16::from_f32(element(2 * i + d, j)).to_bits());
                half(0) | half(1) << 16
            }
            Dtype::Int8 => {
                let byte = |d| quantised(element(4 * i + d, j), channels.scales[j]) as u8;
                u32::from_le_bytes([0, 1, 2, 3].map(byte))
            }
        };
        let rows = k.div_ceil(depth(dtype));
        let mut words = zeroed(length);
        let mut panel = &mut words[..];
        for first in (0..n).step_by(width) {
            let columns = width.min(n - first);
            let padded = columns.next_multiple_of(lanes);
            let (this, rest) = panel.split_at_mut(padded * rows);
            for (i, row) in this.chunks_exact_mut(padded).enumerate() {
                for (j, x) in row[..columns].iter_mut().enumerate() {
                    *x = f32::from_bits(word(i, first + j));
                }
            }
            panel = rest;
        }
        Packed { isa, words: Words::Own(words), k, n, dtype, channels }
    }

    /// The number of bytes that the panels take, shared with other processes or not.
    pub fn bytes(&self) -> usize {
        let channels = self.channels.scales.len() + self.channels.sums.len();
        (self.words.len() + channels) * size_of::<f32>()
    }
}

impl Channels {
    fn of(most: f32, k: usize, n: usize, padded: usize, at: impl Fn(usize, usize) -> f32) -> Channels {
        let mut scales = vec![0.0; padded];
        for (j, scale) in scales[..n].iter_mut().enumerate() {
            *scale = (0..k).fold(0.0f32, |largest, i| largest.max(at(i, j).abs())) / most;
        }
        let depth = depth(Dtype::Int8);
        let mut sums = Vec::new();
        for part in even_parts(k.div_ceil(depth), PART) {
            let elements = part.start * depth..(part.end * depth).min(k);
            let sum = |j: usize| -> i32 {
                elements.clone().map(|i| i32::from(quantised(at(i, j), scales[j]))).sum()
            };
            sums.extend((0..n).map(|j| sum(j) as f32));
            sums.resize(sums.len().next_multiple_of(padded.max(1)), 0.0);
        }
        Channels { scales, sums }
    }
}

/// Elements of the inner dimension in a word.
pub(in crate::device::cpu) fn depth(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 1,
        Dtype::Bf16 => 2,
        Dtype::Int8 => 4,
    }
}

fn quantised(x: f32, scale: f32) -> i8 {
    if scale == 0.0 { 0 } else { (x / scale).round_ties_even() as i8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_keeps_each_column_to_half_a_step_of_its_own() {
        for &isa in Isa::available() {
            each_column_is_kept(isa);
        }
    }

    fn each_column_is_kept(isa: Isa) {
        let at = |i: usize, j: usize| (i as f32 - 2.3) * 10f32.powi(j as i32 - 1);
        let packed = Packed::new(isa, Dtype::Int8, 7, 3, at);
        let (lanes, _) = shape(isa);
        for j in 0..3 {
            let scale = packed.channels.scales[j];
            assert_eq!(
                scale,
                3.7f32.max(at(6, j).abs() / at(6, j).abs() * 3.7) * 10f32.powi(j as i32 - 1) / isa.int8_max()
            );
            let mut sum = 0;
            for i in 0..8 {
                let byte = packed.words[i / 4 * lanes + j].to_bits().to_le_bytes()[i % 4] as i8;
                let expected = if i < 7 { at(i, j) } else { 0.0 };
                assert!((f32::from(byte) * scale - expected).abs() <= 0.501 * scale, "{i} {j}");
                sum += i32::from(byte);
            }
            assert_eq!(packed.channels.sums[j], sum as f32);
        }
    }
}
