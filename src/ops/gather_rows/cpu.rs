use std::sync::Arc;

use super::GatherRows;
use crate::device::cpu::{Cpu, Matrix};

impl GatherRows for Cpu {
    fn gather_rows(&self, x: &Matrix, index: &Arc<[u32]>) -> Matrix {
        let columns = x.columns();
        self.fill(index.len(), columns, |out| {
            for (row, &i) in out.chunks_exact_mut(columns).zip(&**index) {
                row.copy_from_slice(x.row(i as usize));
            }
        })
    }

    fn scatter_rows(&self, dy: &Matrix, index: &Arc<[u32]>, rows: usize, dx: Option<Matrix>) -> Matrix {
        let columns = dy.columns();
        self.fill(rows, columns, |out| {
            match dx {
                Some(dx) => {
                    for (i, row) in out.chunks_exact_mut(columns).enumerate() {
                        row.copy_from_slice(dx.row(i));
                    }
                }
                None => out.fill(0.0),
            }
            for (i, &to) in index.iter().enumerate() {
                let row = &mut out[to as usize * columns..][..columns];
                for (x, y) in row.iter_mut().zip(dy.row(i)) {
                    *x += y;
                }
            }
        })
    }
}
