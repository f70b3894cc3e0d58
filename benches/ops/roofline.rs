//! What an operation is measured against.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use lorb_engine::bert::Weights;
use lorb_engine::device::Dtype;
use lorb_engine::device::cpu::bandwidth::read_bandwidth;
use lorb_engine::device::cpu::peak::fma_peak;
use lorb_engine::device::cpu::{Cpu, Isa};

use crate::Model;

/// This CPU, and its rates on one core.
pub struct Machine {
    pub cpu: Cpu,
    flop_per_s: f64,
    /// Bytes a second, by the power of two above the bytes.
    bytes_per_s: Mutex<HashMap<usize, f64>>,
}

/// What an operation cannot avoid.
#[derive(Clone, Copy)]
pub struct Work {
    /// Multiply-adds counted twice.
    pub flop: usize,
    /// Read or written at least once.
    pub bytes: usize,
}

impl Work {
    /// Of f32 numbers that are read or written.
    pub fn new(flop: usize, floats: usize) -> Work {
        Work { flop, bytes: floats * size_of::<f32>() }
    }
}

impl Machine {
    pub fn measured() -> Machine {
        let isa = Isa::detect().unwrap_or_else(|e| panic!("{e}"));
        let flop_per_s = fma_peak(isa, Dtype::F32, Duration::from_millis(500));
        println!("{}, one core: {:.1} GFLOP/s", isa.name(), flop_per_s / 1e9);
        Machine { cpu: Cpu::new(isa), flop_per_s, bytes_per_s: Mutex::default() }
    }

    fn bytes_per_s(&self, bytes: usize) -> f64 {
        let size = bytes.next_power_of_two();
        let measure = || read_bandwidth(self.cpu.isa(), size, Duration::from_millis(50));
        *self.bytes_per_s.lock().expect("nothing panics").entry(size).or_insert_with(measure)
    }

    /// Measures an operation of `model` and prints how much of its roofline it reaches.
    pub fn bench<O>(
        &self,
        criterion: &mut Criterion,
        model: Model,
        name: &str,
        work: Work,
        mut operation: impl FnMut() -> O,
    ) {
        let (of_flop, of_bytes) =
            (work.flop as f64 / self.flop_per_s, work.bytes as f64 / self.bytes_per_s(work.bytes));
        let mut group = criterion.benchmark_group(model.name);
        let by_flop = of_flop >= of_bytes;
        group.throughput(match by_flop {
            true => Throughput::Elements(work.flop as u64),
            false => Throughput::Bytes(work.bytes as u64),
        });
        let mut seconds = Vec::new();
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let start = Instant::now();
                for _ in 0..count {
                    black_box(operation());
                }
                let taken = start.elapsed();
                seconds.push(taken.as_secs_f64() / count as f64);
                taken
            });
        });
        group.finish();
        seconds.sort_by(f64::total_cmp);
        // Nothing where it was filtered out.
        if let Some(median) = seconds.get(seconds.len() / 2) {
            let roof = match by_flop {
                true => format!("{:.1} GFLOP/s", self.flop_per_s / 1e9),
                false => format!("{:.1} GB/s", self.bytes_per_s(work.bytes) / 1e9),
            };
            println!("{:24}roofline: {:.0} % of {roof}\n", "", 100.0 * of_flop.max(of_bytes) / median);
        }
    }
}

/// Values without structure, in -0.5..0.5; their size does not matter to the hardware.
pub fn values(n: usize) -> Vec<f32> {
    let value = |i: usize| (i.wrapping_mul(2_654_435_761) >> 16 & 0xffff) as f32 / 65536.0 - 0.5;
    (0..n).map(value).collect()
}

/// The same, as a checkpoint gives them.
pub fn weights(n: usize) -> Weights {
    Weights::from(values(n))
}
