//! Where the time goes: what each operation took, what it had to do, and a trace of when.
//!
//! Operations are entered through [`Memory::operation`](crate::device::Memory::operation), which a device that is
//! not profiled leaves out altogether.

mod ceiling;
mod table;
mod trace;

use std::collections::HashMap;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use ceiling::Ceiling;
pub use table::Table;
pub use trace::write_trace;

/// What an operation has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// The multiply-adds of its products, counted twice; other arithmetic is not counted.
    pub flop: f64,
    /// What its operands and results take, each once.
    pub bytes: f64,
}

impl Work {
    /// Of an operation without products.
    pub fn bytes(bytes: f64) -> Work {
        Work { flop: 0.0, bytes }
    }

    /// A product of [m, k] and [k, n], its operands not counted.
    pub fn product(m: usize, k: usize, n: usize) -> Work {
        Work { flop: 2.0 * m as f64 * k as f64 * n as f64, bytes: 0.0 }
    }

    /// A product of so many rows with f32 matrices of so many elements in all, which are read.
    pub fn weights(rows: usize, elements: usize) -> Work {
        Work::product(rows, 1, elements) + Work::bytes((size_of::<f32>() * elements) as f64)
    }

    /// The time at these rates, in FLOP and bytes a second: that of the larger part.
    pub fn seconds(&self, flop_per_s: f64, bytes_per_s: f64) -> f64 {
        (self.flop / flop_per_s).max(self.bytes / bytes_per_s)
    }
}

impl Mul<f64> for Work {
    type Output = Work;

    fn mul(self, times: f64) -> Work {
        Work { flop: self.flop * times, bytes: self.bytes * times }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Work>>(all: I) -> Work {
        all.fold(Work::default(), Add::add)
    }
}

impl Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work { flop: self.flop + other.flop, bytes: self.bytes + other.bytes }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        *self = *self + other;
    }
}

/// Whether a span is an operation, on one thread, or a phase, in which all threads run operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Operation,
    Phase,
}

/// Spans that a trace holds at most: some 40 MB, which viewers open.
const TRACED: usize = 1 << 18;

/// Notes spans, or does nothing. Clones note into the same place.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Option<Arc<Recording>>);

#[derive(Debug)]
struct Recording {
    start: Instant,
    spans: Mutex<Spans>,
}

#[derive(Debug, Default)]
struct Spans {
    totals: HashMap<(Kind, &'static str), Total>,
    /// The first of them.
    traced: Vec<Span>,
    left_out: usize,
}

#[derive(Debug)]
struct Span {
    name: &'static str,
    kind: Kind,
    /// 0 outside the pool of workers, else the worker's number from 1.
    thread: usize,
    /// After the recorder's start.
    start: Duration,
    time: Duration,
    work: Work,
}

/// All spans of one name.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Total {
    pub calls: u64,
    pub time: Duration,
    pub work: Work,
}

impl Recorder {
    /// One that notes.
    pub fn start() -> Recorder {
        Recorder(Some(Arc::new(Recording { start: Instant::now(), spans: Mutex::default() })))
    }

    /// Runs an operation, whose work its result tells.
    pub fn operation<T>(
        &self,
        name: &'static str,
        work: impl FnOnce(&T) -> Work,
        run: impl FnOnce() -> T,
    ) -> T {
        self.span(name, Kind::Operation, work, run)
    }

    /// Runs a phase. Operations that are to count run within one.
    pub fn phase<T>(&self, name: &'static str, run: impl FnOnce() -> T) -> T {
        self.span(name, Kind::Phase, |_| Work::default(), run)
    }

    fn span<T>(
        &self,
        name: &'static str,
        kind: Kind,
        work: impl FnOnce(&T) -> Work,
        run: impl FnOnce() -> T,
    ) -> T {
        let Some(recording) = &self.0 else { return run() };
        let began = Instant::now();
        let result = run();
        let time = began.elapsed();
        let work = work(&result);
        let thread = rayon::current_thread_index().map_or(0, |i| i + 1);
        let mut spans = recording.spans();
        let total = spans.totals.entry((kind, name)).or_default();
        total.calls += 1;
        total.time += time;
        total.work += work;
        if spans.traced.len() < TRACED {
            let start = began - recording.start;
            spans.traced.push(Span { name, kind, thread, start, time, work });
        } else {
            spans.left_out += 1;
        }
        result
    }

    /// What was noted, the longest first.
    pub fn totals(&self, kind: Kind) -> Vec<(&'static str, Total)> {
        let Some(recording) = &self.0 else { return Vec::new() };
        let spans = recording.spans();
        let of_kind = spans.totals.iter().filter(|((k, _), _)| *k == kind);
        let mut totals: Vec<_> = of_kind.map(|((_, name), total)| (*name, *total)).collect();
        totals.sort_by_key(|(name, total)| (std::cmp::Reverse(total.time), *name));
        totals
    }
}

impl Recording {
    fn spans(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_part_sets_the_time() {
        let floor = Work { flop: 6.0, bytes: 8.0 };
        assert_eq!((floor.seconds(2.0, 8.0), floor.seconds(6.0, 2.0)), (3.0, 4.0));
    }

    #[test]
    fn spans_of_a_name_are_added_up() {
        let recorder = Recorder::start();
        let other = recorder.clone();
        recorder.phase("phase", || {
            for n in [1, 2] {
                let result = other.operation(
                    "short",
                    |r| Work::product(*r, 3, 5) + Work::bytes(7.0),
                    || std::hint::black_box(n),
                );
                assert_eq!(result, n);
            }
            recorder.operation("long", |_| Work::default(), || std::thread::sleep(Duration::from_millis(5)));
        });
        let totals = recorder.totals(Kind::Operation);
        assert_eq!(totals.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["long", "short"]);
        assert_eq!((totals[1].1.calls, totals[1].1.work), (2, Work { flop: 90.0, bytes: 14.0 }));
        let phases = recorder.totals(Kind::Phase);
        assert!(phases.len() == 1 && phases[0].1.time >= totals[0].1.time + totals[1].1.time);
    }

    #[test]
    fn what_does_not_record_runs_all_the_same() {
        let recorder = Recorder::default();
        assert_eq!(recorder.operation("operation", |_| unreachable!("nobody asks"), || 3), 3);
        assert!(recorder.totals(Kind::Operation).is_empty());
    }
}
