//! Writing: a line goes to the file in one call, so that a killed process leaves whole lines.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Finished, NAME, Record, Setting};
use crate::nbest::wer::percent;
use crate::train::checkpoint::Position;
use crate::train::{Observer, StepReport, Validation};
use crate::{Error, Result, atomic};

/// The file of a run that is under way.
pub struct Metrics {
    path: PathBuf,
    file: File,
    /// The first failure, after which nothing is written. It is told of in the end: a run need not die of it.
    failure: Option<Error>,
}

impl Metrics {
    /// Starts the file in `out`, or goes on with the one there: lines of what a run that was resumed at `position`
    /// does again are removed. Without a run's first line it is started anew.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read or written.
    pub fn open(out: &Path, setting: &Setting, position: Option<&Position>) -> Result<Metrics> {
        let path = out.join(NAME);
        let kept = match position {
            Some(position) => atomic::read(&path)?.map_or(0, |bytes| kept(&bytes, position)),
            None => 0,
        };
        if kept == 0 {
            atomic::write(&path, &line(&Record::Run(Box::new(setting.clone()))))?;
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::io(&path, "open it", e))?;
        if kept > 0 {
            file.set_len(kept as u64).map_err(|e| Error::io(&path, "shorten it", e))?;
        }
        Ok(Metrics { path, file, failure: None })
    }

    /// Writes the last line.
    ///
    /// # Errors
    /// [`Error::Io`] where a line could not be written, now or before.
    pub fn finish(mut self, finished: Finished) -> Result<()> {
        self.write(&Record::Result(Box::new(finished)));
        let synced = self.file.sync_all().map_err(|e| Error::io(&self.path, "sync it", e));
        self.failure.map_or(synced, Err)
    }

    fn write(&mut self, record: &Record) {
        if self.failure.is_none()
            && let Err(e) = self.file.write_all(&line(record))
        {
            self.failure = Some(Error::io(&self.path, "write it", e));
        }
    }
}

impl Observer for Metrics {
    fn step(&mut self, report: StepReport) {
        self.write(&Record::Step(report));
    }

    fn validation(&mut self, validation: Validation) {
        let wer = percent(validation.errors, validation.reference_units);
        self.write(&Record::Validation { validation, wer });
    }
}

fn line(record: &Record) -> Vec<u8> {
    let mut line = serde_json::to_vec(record).expect("a record is plain data");
    line.push(b'\n');
    line
}

/// How many bytes of a file tell what was done at `position`; 0 where they are not a run's.
fn kept(bytes: &[u8], position: &Position) -> usize {
    let mut kept = 0;
    for line in bytes.split_inclusive(|&b| b == b'\n').take_while(|line| line.ends_with(b"\n")) {
        let done = match serde_json::from_slice(line) {
            Ok(Record::Run(_)) => kept == 0,
            Ok(Record::Step(report)) => kept > 0 && report.step <= position.step,
            Ok(Record::Validation { validation, .. }) => kept > 0 && validation.epoch <= position.epoch,
            Ok(Record::Result(_)) | Err(_) => false,
        };
        if !done {
            break;
        }
        kept += line.len();
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::nbest::normalise::Unit;
    use crate::rescore::weights::Weights;
    use crate::train::Losses;
    use crate::train::metrics::History;

    fn setting() -> Setting {
        Setting {
            version: "1".into(),
            started: "then".into(),
            command: None,
            device: "this".into(),
            instruction_set: "avx2".into(),
            threads: 2,
            base: "base".into(),
            base_parameters: 10,
            trained_parameters: 1,
            options: serde_json::json!({"rank": 8}),
            unit: Unit::Word,
            lists: Vec::new(),
        }
    }

    fn step(step: u64) -> StepReport {
        let losses = Losses { mwer: 0.1 + 0.2, mwer_without: 1e-9, correlation: 0.0, gradient_norm: 3.0 };
        StepReport {
            epoch: 1 + (step as u32 - 1) / 2,
            step,
            steps: 4,
            losses,
            tokens: 9,
            lr: 0.1,
            seconds: 1.0,
        }
    }

    fn validation(epoch: u32) -> Validation {
        let step = 2 * u64::from(epoch);
        let (expected, expected_without) = (2.5, 3.0);
        Validation { epoch, step, errors: 1, expected, expected_without, reference_units: 20, best: true }
    }

    fn finished() -> Finished {
        let weights = Weights::default();
        Finished { epoch: 2, epochs: 2, seconds: 9.0, weights, weights_without_lorb: weights, sets: vec![] }
    }

    /// Everything that a run of two epochs of two steps says after `done` steps and epochs.
    fn go_on(metrics: &mut Metrics, (steps, epochs): (u64, u32)) {
        for epoch in 1..=2 {
            for at in [2 * u64::from(epoch) - 1, 2 * u64::from(epoch)] {
                if at > steps {
                    metrics.step(step(at));
                }
            }
            if epoch > epochs {
                metrics.validation(validation(epoch));
            }
        }
    }

    fn position(step: u64, epoch: u32) -> Position {
        let validating = false;
        Position { epoch, step_in_epoch: 0, step, fitted: None, validating, best: None, seconds: 0.0 }
    }

    #[test]
    fn a_run_that_was_cut_anywhere_ends_with_the_same_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let mut metrics = Metrics::open(dir.path(), &setting(), None).unwrap();
        go_on(&mut metrics, (0, 0));
        metrics.finish(finished()).unwrap();
        let whole = fs::read(&path).unwrap();
        // Steps and validations that the checkpoint has, and the line after the last of them.
        for (done, lines) in [((0, 0), 1), ((1, 0), 2), ((2, 0), 3), ((3, 1), 5), ((4, 1), 6)] {
            let least = whole.split_inclusive(|&b| b == b'\n').take(lines).map(<[u8]>::len).sum();
            for length in least..=whole.len() {
                fs::write(&path, &whole[..length]).unwrap();
                let at = position(done.0, done.1);
                let mut metrics = Metrics::open(dir.path(), &setting(), Some(&at)).unwrap();
                go_on(&mut metrics, done);
                metrics.finish(finished()).unwrap();
                assert!(fs::read(&path).unwrap() == whole, "cut at {length}, {done:?} done");
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(dir.path(), &setting(), None).unwrap();
        go_on(&mut metrics, (0, 0));
        let read = || History::read(dir.path()).unwrap();
        let unfinished = read();
        assert_eq!(unfinished.result, None);
        metrics.finish(finished()).unwrap();
        let expected = History {
            setting: setting(),
            steps: (1..=4).map(step).collect(),
            validations: vec![validation(1), validation(2)],
            result: Some(finished()),
        };
        assert_eq!(read(), expected);
        assert_eq!(unfinished, History { result: None, ..expected });
    }

    #[test]
    fn a_file_without_a_first_line_is_started_anew() {
        let dir = tempfile::tempdir().unwrap();
        for before in ["", "\0\0\0", "{\"kind\":\"step\"", "{}\n"] {
            fs::write(dir.path().join(NAME), before).unwrap();
            drop(Metrics::open(dir.path(), &setting(), Some(&position(3, 1))).unwrap());
            assert_eq!(History::read(dir.path()).unwrap().setting, setting(), "{before:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_line_that_could_not_be_written_is_told_of_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(dir.path(), &setting(), None).unwrap();
        metrics.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        metrics.step(step(1));
        metrics.step(step(2));
        assert_eq!(metrics.finish(finished()).unwrap_err().exit_code(), 1);
    }
}
