//! The matrix product at the shapes of MiniLM and BERT-base, on every instruction set of this CPU, one core.
//! Criterion's "elements" are multiply-adds counted twice: Gelem/s read as GFLOP/s.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lorb_engine::device::Dtype;
use lorb_engine::device::cpu::Isa;
use lorb_engine::device::cpu::gemm::{Gemm, Packed, Right, Term, gemm};

/// Rows, inner dimension, columns.
const SHAPES: [(usize, usize, usize); 5] =
    [(384, 384, 384), (384, 384, 1536), (384, 1536, 384), (50, 384, 1536), (384, 768, 3072)];

fn product(c: &mut Criterion) {
    for &isa in Isa::available() {
        let mut group = c.benchmark_group(format!("gemm {}", isa.name()));
        for (m, k, n) in SHAPES {
            // Values without structure; their size does not matter to the hardware.
            let value = |i: usize| (i.wrapping_mul(2_654_435_761) >> 16 & 0xffff) as f32 / 65536.0 - 0.5;
            let left: Vec<f32> = (0..m * k).map(value).collect();
            let right = Packed::new(isa, Dtype::F32, k, n, |i, j| value(i * n + j));
            let mut out = vec![0.0; m * n];
            group.throughput(Throughput::Elements((2 * m * k * n) as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{m}x{k}x{n}")), |b| {
                b.iter(|| {
                    let terms = [Term::new(&left, k, k, Right::Packed(&right))];
                    gemm(isa, Gemm::plain(m, n, &terms), &mut out, n);
                });
            });
        }
    }
}

criterion_group!(benches, product);
criterion_main!(benches);
