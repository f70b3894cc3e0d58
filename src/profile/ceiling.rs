//! What one thread can do at most: the rates that an operation's floor is counted with.

use std::time::Duration;

use super::Total;
use crate::device::Dtype;
use crate::device::cpu::Isa;
use crate::device::cpu::bandwidth::read_bandwidth;
use crate::device::cpu::peak::fma_peak;

/// How long each rate is measured.
const PEAK: Duration = Duration::from_millis(300);
const READ: Duration = Duration::from_millis(20);

/// The rates of the pool's threads while all are busy, a thread's share of them.
pub struct Ceiling {
    isa: Isa,
    /// Multiply-adds, counted twice.
    flop_per_s: f64,
}

impl Ceiling {
    pub fn measure(isa: Isa) -> Ceiling {
        Ceiling { isa, flop_per_s: fma_peak(isa, Dtype::F32, PEAK) / threads() }
    }

    /// Of all threads together.
    pub fn flop_per_s(&self) -> f64 {
        self.flop_per_s * threads()
    }

    /// The least time that the work of `total` takes: that of its multiply-adds at the peak or that of its bytes,
    /// whichever is longer. The rate for bytes is that at which as many as one call has are read over and over, from
    /// the cache that holds them.
    pub fn floor(&self, total: &Total) -> Duration {
        let bytes_per_s = match total.work.bytes / total.calls as f64 * threads() {
            0.0 => f64::INFINITY,
            of_a_call => read_bandwidth(self.isa, of_a_call as usize, READ) / threads(),
        };
        Duration::from_secs_f64(total.work.seconds(self.flop_per_s, bytes_per_s))
    }
}

fn threads() -> f64 {
    rayon::current_num_threads() as f64
}
