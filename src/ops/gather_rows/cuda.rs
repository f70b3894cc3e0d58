use bytemuck::{Pod, Zeroable};

use super::GatherRows;
use crate::device::cuda::kernels::{GATHER_ROWS, SCATTER_ROWS_BF16, SCATTER_ROWS_F32};
use crate::device::cuda::tensor::RowsParameter;
use crate::device::cuda::{Address, Bounds, Cuda, Index, Precision, Tensor, tiles};

/// `GatherRows` of kernels/gather_rows.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct GatherRowsParameters {
    x: Address,
    index: Address,
    y: Address,
    rows: RowsParameter,
    units: u32,
    stride: u32,
    wide: u32,
    unused: u32,
}

/// `ScatterRows` of kernels/gather_rows.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct ScatterRowsParameters {
    dy: Address,
    before: Address,
    starts: Address,
    places: Address,
    dx: Address,
    rows: RowsParameter,
    width: u32,
    dy_stride: u32,
    before_stride: u32,
    wide: u32,
}

const ROWS_A_BLOCK: u32 = tiles::GATHER_ROWS_THREADS / 32;

impl GatherRows for Cuda {
    fn gather_rows(&self, x: &Tensor, index: &Index) -> Tensor {
        let rows = index.rows();
        assert!(index.bounds().keep_to(Bounds::numbers_of(x.rows().capacity)), "no such row");
        let y = self.tensor(rows.clone(), x.columns(), x.precision());
        let wide = x.is_wide();
        let units = |elements: usize| (elements * x.precision().bytes() / if wide { 16 } else { 2 }) as u32;
        let parameters = GatherRowsParameters {
            x: x.address(),
            index: index.address(),
            y: y.address(),
            rows: rows.parameter(),
            units: units(x.columns()),
            stride: units(x.stride()),
            wide: wide.into(),
            unused: 0,
        };
        let grid = [(rows.capacity as u32).div_ceil(ROWS_A_BLOCK), 1, 1];
        // SAFETY: the index has `rows` numbers of rows of x; y has as many rows of as many columns, in new
        // memory, which is aligned as x is where that is wide.
        unsafe { self.launch(GATHER_ROWS, grid, 0, &parameters) };
        y
    }

    fn scatter_rows(&self, dy: &Tensor, index: &Index, rows: usize, before: Option<Tensor>) -> Tensor {
        let (starts, places, destinations) = index.inverse();
        let width = dy.columns();
        assert!(destinations.capacity == rows && dy.rows().capacity == index.rows().capacity);
        assert!(before.as_ref().is_none_or(|b| {
            b.columns() == width && b.rows().capacity == rows && b.precision() == dy.precision()
        }));
        let dx = self.tensor(destinations.clone(), width, dy.precision());
        let wide = dy.is_wide() && before.as_ref().is_none_or(Tensor::is_wide);
        let parameters = ScatterRowsParameters {
            dy: dy.address(),
            before: before.as_ref().map_or(Address::NULL, Tensor::address),
            starts,
            places,
            dx: dx.address(),
            rows: destinations.parameter(),
            width: width as u32,
            dy_stride: dy.stride() as u32,
            before_stride: before.as_ref().map_or(0, |b| b.stride() as u32),
            wide: wide.into(),
        };
        let kernel = match dy.precision() {
            Precision::F32 => SCATTER_ROWS_F32,
            Precision::Bf16 => SCATTER_ROWS_BF16,
        };
        let columns_a_warp = 32 * if wide { 16 / dy.precision().bytes() } else { 1 };
        let grid = [(rows as u32).div_ceil(ROWS_A_BLOCK), width.div_ceil(columns_a_warp) as u32, 1];
        // SAFETY: `starts` has a number more than there are destinations, and what lies between two of them
        // are places below the number of rows of dy; before and dx have a row of `width` for each
        // destination; dx is new memory; all is aligned to 16 bytes where it is wide.
        unsafe { self.launch(kernel, grid, 0, &parameters) };
        dx
    }
}
