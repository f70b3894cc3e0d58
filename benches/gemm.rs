//! The matrix product at the shapes of MiniLM and BERT-base, on every instruction set of this CPU, in every type of weights,
//! on one core and on all, each beside the rate of multiply-adds measured on as many.
//!
//!     cargo bench --bench gemm [-- FILTER]
//!
//! Criterion's "elements" are multiply-adds counted twice: Gelem/s read as GFLOP/s. Weights that the CPU does not multiply as
//! they are become f32, and are measured against f32's rate.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use lorb_engine::device::Dtype;
use lorb_engine::device::cpu::Isa;
use lorb_engine::device::cpu::gemm::{Gemm, Packed, Right, Term, gemm};
use lorb_engine::device::cpu::peak::fma_peak;
use rayon::ThreadPool;

/// Rows, inner dimension, columns.
const SHAPES: [(usize, usize, usize); 6] =
    [(384, 384, 384), (384, 384, 1536), (384, 1536, 384), (50, 384, 1536), (384, 768, 3072), (50, 768, 3072)];

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for &isa in Isa::available() {
        for threads in if cores > 1 { vec![1, cores] } else { vec![1] } {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
                products(&mut criterion, isa, dtype, &pool);
            }
        }
    }
    criterion.final_summary();
}

/// Every thread of the pool multiplies rows of its own by the same weights.
fn products(criterion: &mut Criterion, isa: Isa, dtype: Dtype, pool: &ThreadPool) {
    let threads = pool.current_num_threads();
    let peak = pool.install(|| fma_peak(isa, dtype, Duration::from_millis(300)));
    let name =
        format!("{} {} {threads} thread{}", isa.name(), dtype.name(), if threads > 1 { "s" } else { "" });
    for (m, k, n) in SHAPES {
        let left: Vec<f32> = (0..m * k).map(value).collect();
        let right = Packed::new(isa, dtype, k, n, |i, j| value(i * n + j));
        let flop = 2 * m * k * n * threads;
        let mut group = criterion.benchmark_group(&name);
        group.throughput(Throughput::Elements(flop as u64));
        let mut seconds = Vec::new();
        group.bench_function(format!("{m}x{k}x{n}"), |b| {
            b.iter_custom(|count| {
                let of_thread = |_: rayon::BroadcastContext<'_>| {
                    let mut out = vec![0.0; m * n];
                    let terms = [Term::new(&left, k, k, Right::Packed(&right))];
                    let start = Instant::now();
                    for _ in 0..count {
                        gemm(isa, Gemm::plain(m, n, &terms), &mut out, n);
                    }
                    start.elapsed()
                };
                let slowest = pool.broadcast(of_thread).into_iter().max().expect("a thread at least");
                seconds.push(slowest.as_secs_f64() / count as f64);
                slowest
            });
        });
        group.finish();
        seconds.sort_by(f64::total_cmp);
        // Nothing where it was filtered out.
        if let Some(median) = seconds.get(seconds.len() / 2) {
            let share = 100.0 * flop as f64 / median / peak;
            println!("{:24}{share:.0} % of the peak, {:.1} GFLOP/s\n", "", peak / 1e9);
        }
    }
}

/// Values without structure; their size does not matter to the hardware.
fn value(i: usize) -> f32 {
    (i.wrapping_mul(2_654_435_761) >> 16 & 0xffff) as f32 / 65536.0 - 0.5
}
