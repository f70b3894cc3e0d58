use super::{Correlation, EPSILON};
use crate::device::cpu::Cpu;
use crate::device::cpu::gemm::{Gemm, Right, Term, gemm};

/// The loss of the features `z` [n, d], row-major.
///
/// With M = Y^T Y (d x d) or, where that is smaller, the Gram matrix G = Y Y^T (n x n), which has the same
/// Frobenius norm: L = (||M||^2 - sum_j M_jj^2) / (n^2 d) and
/// dL/dY = 4 (Y M - Y diag(M)) / (n^2 d), where Y M = G Y.
pub fn correlation(cpu: &Cpu, z: &[f32], n: usize, d: usize) -> Correlation {
    assert_eq!(z.len(), n * d, "Z is [n, d]");
    if n < 2 {
        return Correlation { loss: 0.0, d_features: vec![0.0; n * d] };
    }
    let isa = cpu.isa();
    let mut mean = vec![0.0f64; d];
    let mut variance = vec![0.0f64; d];
    for row in z.chunks_exact(d) {
        mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x) / n as f64);
    }
    for row in z.chunks_exact(d) {
        for ((v, m), &x) in variance.iter_mut().zip(&mean).zip(row) {
            *v += (f64::from(x) - m).powi(2) / n as f64;
        }
    }
    let scale: Vec<f64> = variance.iter().map(|v| 1.0 / (v + f64::from(EPSILON)).sqrt()).collect();
    let mut y = vec![0.0f32; n * d];
    let mut diagonal = vec![0.0f64; d];
    for (row, z) in y.chunks_exact_mut(d).zip(z.chunks_exact(d)) {
        for (j, (y, &z)) in row.iter_mut().zip(z).enumerate() {
            let value = (f64::from(z) - mean[j]) * scale[j];
            *y = value as f32;
            diagonal[j] += value * value;
        }
    }

    let mut product = vec![0.0f32; n * d];
    let rows = Right::Rows { data: &y, stride: d };
    let norm: f64 = if n < d {
        let mut transposed = vec![0.0f32; d * n];
        for (i, row) in y.chunks_exact(d).enumerate() {
            row.iter().enumerate().for_each(|(j, &x)| transposed[j * n + i] = x);
        }
        let mut gram = vec![0.0f32; n * n];
        let terms = [Term::new(&y, d, d, Right::Rows { data: &transposed, stride: n })];
        gemm(isa, Gemm::plain(n, n, &terms), &mut gram, n);
        let terms = [Term::new(&gram, n, n, rows)];
        gemm(isa, Gemm::plain(n, d, &terms), &mut product, d);
        gram.iter().map(|&x| f64::from(x).powi(2)).sum()
    } else {
        let mut moment = vec![0.0f32; d * d];
        gemm(isa, Gemm::plain(d, d, &[Term::transposed(&y, d, n, rows)]), &mut moment, d);
        let terms = [Term::new(&y, d, d, Right::Rows { data: &moment, stride: d })];
        gemm(isa, Gemm::plain(n, d, &terms), &mut product, d);
        moment.iter().map(|&x| f64::from(x).powi(2)).sum()
    };
    let share = 1.0 / ((n * n) as f64 * d as f64);
    let loss = (norm - diagonal.iter().map(|x| x * x).sum::<f64>()) * share;

    // dL/dY, then through the standardisation: dz = scale (dy - mean(dy) - y mean(dy y)), per dimension.
    let mut dy = vec![0.0f64; n * d];
    let (mut mean_dy, mut mean_dyy) = (vec![0.0f64; d], vec![0.0f64; d]);
    for ((row, p), y) in dy.chunks_exact_mut(d).zip(product.chunks_exact(d)).zip(y.chunks_exact(d)) {
        for j in 0..d {
            row[j] = 4.0 * share * (f64::from(p[j]) - f64::from(y[j]) * diagonal[j]);
            mean_dy[j] += row[j] / n as f64;
            mean_dyy[j] += row[j] * f64::from(y[j]) / n as f64;
        }
    }
    let mut d_features = vec![0.0f32; n * d];
    for ((out, dy), y) in d_features.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(y.chunks_exact(d)) {
        for j in 0..d {
            out[j] = (scale[j] * (dy[j] - mean_dy[j] - f64::from(y[j]) * mean_dyy[j])) as f32;
        }
    }
    Correlation { loss, d_features }
}
