//! The table for people: each operation's part of the time that all threads had.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::{Ceiling, Kind, Recorder, Total};

/// What was recorded, beside what could be reached.
pub struct Table {
    operations: Vec<Row>,
    phases: Vec<(&'static str, Total)>,
    threads: u32,
    /// Multiply-adds of all threads, counted twice.
    peak: f64,
}

struct Row {
    name: &'static str,
    total: Total,
    floor: Duration,
}

impl Table {
    pub fn new(recorder: &Recorder, ceiling: &Ceiling) -> Table {
        let row = |(name, total)| Row { name, total, floor: ceiling.floor(&total) };
        Table {
            operations: recorder.totals(Kind::Operation).into_iter().map(row).collect(),
            phases: recorder.totals(Kind::Phase),
            threads: rayon::current_num_threads() as u32,
            peak: ceiling.flop_per_s(),
        }
    }
}

/// Seconds are those of all threads together, shares those of the phases' time on all threads. What remains of that
/// is "elsewhere": what is no operation, and threads that wait.
impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let phases: Duration = self.phases.iter().map(|(_, total)| total.time).sum();
        let all = phases * self.threads;
        let percent = |part: Duration, whole: Duration| {
            format!("{:.1} %", 100.0 * part.as_secs_f64() / whole.as_secs_f64())
        };
        let seconds = |time: Duration| format!("{:.3}", time.as_secs_f64());
        line(f, "operation", ["calls", "seconds", "share", "GFLOP/s", "GB/s", "of floor"].map(String::from))?;
        let mut inside = Duration::ZERO;
        for Row { name, total, floor } in &self.operations {
            let Total { calls, time, work } = *total;
            inside += time;
            let rate = |amount: f64| match amount > 0.0 {
                true => format!("{:.1}", amount / time.as_secs_f64() / 1e9),
                false => "-".into(),
            };
            let of_floor = if floor.is_zero() { "-".into() } else { percent(*floor, time) };
            let [flop, bytes] = [work.flop, work.bytes].map(rate);
            line(f, name, [calls.to_string(), seconds(time), percent(time, all), flop, bytes, of_floor])?;
        }
        let elsewhere = all.saturating_sub(inside);
        let [none, no_rate, no_bytes, no_floor] = ["-"; 4].map(String::from);
        line(
            f,
            "elsewhere",
            [none, seconds(elsewhere), percent(elsewhere, all), no_rate, no_bytes, no_floor],
        )?;
        for (name, total) in &self.phases {
            writeln!(f, "phase {name}: {} s in {} calls", seconds(total.time), total.calls)?;
        }
        write!(
            f,
            "{} threads; the floor counts {:.0} GFLOP/s of f32 of them all",
            self.threads,
            self.peak / 1e9
        )
    }
}

fn line(f: &mut Formatter<'_>, name: &str, cells: [String; 6]) -> fmt::Result {
    write!(f, "{name:26}")?;
    cells.iter().try_for_each(|cell| write!(f, " {cell:>9}"))?;
    writeln!(f)
}
