//! Matrix products on the CPU: C = bias + L1 R1 (+ L2 R2) (+ addend), then GELU where asked.
//!
//! Two terms in one pass are what fuses a low-rank update with its base product: the accumulators run over
//! the base's inner dimension, then over the rank, and are written once. The right matrix is walked in
//! panels of as many columns as a tile holds (packed once where it never changes), the left one row by row;
//! each element of C is summed in the order of the inner dimension, in parts that depend on its length alone,
//! whatever the shape of the tile that holds it, so a row of C depends on that row of the left matrix alone.
//!
//! The right matrix of the first term may be packed as bf16 or int8. Where the CPU multiplies those, the left matrix is rounded
//! to the same type on its way to the tiles, int8 with a scale and a zero for each row and part; elsewhere the right one becomes f32 again, panel
//! by panel. Sums are f32; of int8, whole numbers until the part's end. The second term is f32.

mod kernel;
pub(super) mod packed;
pub mod store;
pub(super) mod words;

use std::cell::RefCell;

use super::buffer::Buffer;
use super::isa::{Isa, Set};
use super::simd::Vector;
use crate::device::Dtype;
use kernel::{Call, RawChannels, RawTerm, SCRATCH, dispatch};
pub use packed::Packed;
use packed::depth;
pub(crate) use packed::even_parts;

/// The right matrix of a product.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    Packed(&'a Packed),
    /// Row-major, `stride` floats from row to row.
    Rows {
        data: &'a [f32],
        stride: usize,
    },
}

/// One product L R: element (i, k) of L is `left[i * row_stride + k * k_stride]`.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    pub left: &'a [f32],
    pub row_stride: usize,
    pub k_stride: usize,
    pub k: usize,
    pub right: Right<'a>,
}

impl<'a> Term<'a> {
    /// L row-major with `row_stride` floats from row to row.
    pub fn new(left: &'a [f32], row_stride: usize, k: usize, right: Right<'a>) -> Self {
        Term { left, row_stride, k_stride: 1, k, right }
    }

    /// L given transposed: `left` holds L^T row-major with `stride` floats from row to row.
    pub fn transposed(left: &'a [f32], stride: usize, k: usize, right: Right<'a>) -> Self {
        Term { left, row_stride: 1, k_stride: stride, k, right }
    }
}

/// What is added to the products.
#[derive(Clone, Copy)]
pub enum Addend<'a> {
    Nothing,
    /// What C holds already.
    Itself,
    /// Row-major, `stride` floats from row to row.
    Rows {
        data: &'a [f32],
        stride: usize,
    },
}

/// What happens to an element when its sum is complete.
pub enum Activation<'a> {
    Identity,
    /// GELU(x) = x Phi(x), with the exact Phi (BERT's "gelu").
    Gelu,
    /// GELU, and its derivative Phi(x) + x phi(x) written to `slope`, laid out as C.
    GeluWithSlope {
        slope: &'a mut [f32],
    },
}

/// One call of [`gemm`]: C is [m, n], row-major, `stride` floats from row to row.
pub struct Gemm<'a> {
    pub m: usize,
    pub n: usize,
    pub terms: &'a [Term<'a>],
    pub bias: Option<&'a [f32]>,
    pub addend: Addend<'a>,
    pub activation: Activation<'a>,
}

impl<'a> Gemm<'a> {
    /// C = the sum of `terms`, nothing else.
    pub fn plain(m: usize, n: usize, terms: &'a [Term<'a>]) -> Self {
        Gemm { m, n, terms, bias: None, addend: Addend::Nothing, activation: Activation::Identity }
    }
}

/// Computes C into `out`.
///
/// # Panics
/// Where a slice is too short for its shape and strides: a fault of the caller, never of the user's data.
pub fn gemm(isa: Isa, g: Gemm<'_>, out: &mut [f32], stride: usize) {
    let Gemm { m, n, terms, bias, addend, activation } = g;
    if m == 0 || n == 0 {
        return;
    }
    let fits = |len: usize, rows: usize, stride: usize| stride >= n && reaches(len, (rows, stride), (n, 1));
    assert!(fits(out.len(), m, stride), "C is too short");
    assert!(terms.len() <= 2, "a product has at most two terms");
    let mut raw = [RawTerm::NONE; 2];
    let (mut dtype, mut channels, mut elements) = (Dtype::F32, RawChannels::NONE, 0);
    for (i, (raw, t)) in raw.iter_mut().zip(terms).enumerate() {
        if t.k == 0 {
            continue;
        }
        assert!(reaches(t.left.len(), (m, t.row_stride), (t.k, t.k_stride)), "L is too short");
        let (right, packed, right_stride) = match t.right {
            Right::Packed(p) => {
                assert!((p.k, p.n) == (t.k, n), "packed for another shape");
                assert!(p.isa == isa, "packed for another instruction set");
                let low = p.dtype != Dtype::F32;
                assert!(
                    !low || (i == 0 && t.k_stride == 1),
                    "only the first term has a dtype, over whole rows"
                );
                if low {
                    (dtype, channels) = (p.dtype, RawChannels::of(&p.channels));
                }
                (p.words.as_ptr(), true, 0)
            }
            Right::Rows { data, stride } => {
                assert!(fits(data.len(), t.k, stride), "R is too short");
                (data.as_ptr(), false, stride)
            }
        };
        *raw = RawTerm {
            left: t.left.as_ptr(),
            row_stride: t.row_stride,
            k_stride: t.k_stride,
            k: t.k.div_ceil(if i == 0 { depth(dtype) } else { 1 }),
            right,
            packed,
            right_stride,
        };
        if i == 0 {
            elements = t.k;
        }
    }
    let bias = bias.map_or(std::ptr::null(), |b| {
        assert!(b.len() >= n, "bias is too short");
        b.as_ptr()
    });
    let onto = matches!(addend, Addend::Itself);
    let (addend, addend_stride) = match addend {
        Addend::Nothing | Addend::Itself => (std::ptr::null(), 0),
        Addend::Rows { data, stride } => {
            assert!(fits(data.len(), m, stride), "the addend is too short");
            (data.as_ptr(), stride)
        }
    };
    let (gelu, slope) = match activation {
        Activation::Identity => (false, std::ptr::null_mut()),
        Activation::Gelu => (true, std::ptr::null_mut()),
        Activation::GeluWithSlope { slope } => {
            assert!(fits(slope.len(), m, stride), "the slope is too short");
            (true, slope.as_mut_ptr())
        }
    };
    let mut call = Call {
        m,
        n,
        terms: raw,
        dtype,
        channels,
        elements,
        scratch: std::ptr::null_mut(),
        bias,
        onto,
        addend,
        addend_stride,
        out: out.as_mut_ptr(),
        stride,
        gelu,
        slope,
    };
    SCRATCH_OF_THREAD.with_borrow_mut(|scratch| {
        if dtype != Dtype::F32 && scratch.is_empty() {
            *scratch = Buffer::zeroed(SCRATCH);
        }
        call.scratch = scratch.as_mut_ptr();
        // SAFETY: the assertions above establish what `dispatch` requires of the pointers, and borrows that `out`, `slope`
        // and the scratch overlap nothing; an `Isa` value exists only where the CPU has the set.
        unsafe { dispatch(isa, dtype, &call) }
    });
}

/// Whether `len` floats reach to the last of a matrix. Its rows and its columns, at least one each, are given
/// with their stride.
fn reaches(len: usize, rows: (usize, usize), columns: (usize, usize)) -> bool {
    let last = |(count, stride): (usize, usize)| (count - 1).checked_mul(stride);
    let last = last(rows).zip(last(columns)).and_then(|(row, column)| row.checked_add(column));
    last.is_some_and(|last| last < len)
}

thread_local! {
    /// [`SCRATCH`] floats, once a product of this thread needs them.
    static SCRATCH_OF_THREAD: RefCell<Buffer> = RefCell::default();
}

/// Lanes of a vector and columns of a full panel.
pub(crate) fn shape(isa: Isa) -> (usize, usize) {
    fn of<V: Vector>() -> (usize, usize) {
        (V::LANES, V::LANES * V::TILE_VECTORS)
    }
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => of::<super::simd::Avx512>(),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => of::<super::simd::Avx2>(),
        _ => of::<super::simd::Portable>(),
    }
}
