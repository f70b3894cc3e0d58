//! What one thread can do at most: the rates that an operation's floor is counted with.

use std::time::Duration;

use super::Total;
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
        Ceiling { isa, flop_per_s: fma_peak(isa, PEAK) / threads() }
    }

    /// Of all threads together.
    pub fn flop_per_s(&self) -> f64 {
        self.flop_per_s * threads()
    }

    /// The least time that the work of `total` takes: that of its multiply-adds at the peak or that of its bytes,
    /// whichever is longer. The rate for bytes is that at which as many as one call has are read over and over, from
    /// the cache that holds them.
    pub fn floor(&self, total: &Total) -> Duration {
        let mut seconds = total.work.flop / self.flop_per_s;
        if total.work.bytes > 0.0 {
            let of_a_call = total.work.bytes / total.calls as f64 * threads();
            let bytes_per_s = read_bandwidth(self.isa, of_a_call as usize, READ) / threads();
            seconds = seconds.max(total.work.bytes / bytes_per_s);
        }
        Duration::from_secs_f64(seconds)
    }
}

fn threads() -> f64 {
    rayon::current_num_threads() as f64
}
