//! Reading, also while the run goes on.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::{Finished, NAME, Record, Setting};
use crate::train::{StepReport, Validation};
use crate::{Error, Result};

/// A run so far.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    pub setting: Setting,
    pub steps: Vec<StepReport>,
    pub validations: Vec<Validation>,
    /// `None` while it is unfinished.
    pub result: Option<Finished>,
}

impl History {
    /// Reads the metrics in the folder of a run. A last line that is not whole is left out.
    ///
    /// # Errors
    /// [`Error::File`] where there are none or a line is not what it should be, [`Error::Io`] where they cannot be
    /// read.
    pub fn read(dir: &Path) -> Result<History> {
        let path = dir.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound && dir.is_dir() => {
                let problem = format!("there is no {NAME} in it");
                return Err(Error::file(dir, problem, "give the folder that train wrote with --out"));
            }
            Err(e) => return Err(Error::io(&path, "read it", e)),
        };
        let (mut setting, mut steps, mut validations, mut result) = (None, Vec::new(), Vec::new(), None);
        let whole = bytes.split_inclusive(|&b| b == b'\n').take_while(|line| line.ends_with(b"\n"));
        for (number, line) in (1..).zip(whole) {
            let refuse = |problem: String| {
                let hint = "it is no file of this version's train, or it was changed";
                Err(Error::file(&path, format!("line {number}: {problem}"), hint))
            };
            match serde_json::from_slice(line) {
                Ok(Record::Run(found)) if number == 1 => setting = Some(*found),
                Ok(_) if number == 1 => return refuse("expected what the run is (\"kind\": \"run\")".into()),
                Ok(Record::Run(_)) => return refuse("a second run begins".into()),
                Ok(Record::Step(report)) => steps.push(report),
                Ok(Record::Validation { validation, .. }) => validations.push(validation),
                Ok(Record::Result(found)) => result = Some(*found),
                Err(e) => return refuse(e.to_string()),
            }
        }
        let empty = || Error::file(&path, "it has no whole line", "give the folder of a run that has begun");
        Ok(History { setting: setting.ok_or_else(empty)?, steps, validations, result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_run_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = || {
            let error = History::read(dir.path()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            error.to_string()
        };
        assert!(refusal().contains("there is no metrics.jsonl"));
        let step = r#"{"kind":"step","epoch":1,"step":1,"steps":1,"mwer":0,"mwer_without":0,"correlation":0,"gradient_norm":0,"tokens":0,"lr":0,"seconds":0}"#;
        let run = r#"{"kind":"run","version":"","started":"","device":"","instruction_set":"","threads":1,"base":"","base_parameters":0,"trained_parameters":0,"options":{},"unit":"word","lists":[]}"#;
        for (text, expected) in [
            (String::new(), "no whole line"),
            (run.into(), "no whole line"),
            (format!("{step}\n"), "line 1: expected what the run is"),
            (format!("{run}\n{run}\n"), "line 2: a second run"),
            (format!("{run}\n{step}\nnot JSON\n{step}\n"), "line 3"),
            (format!("{run}\n\u{0}\n"), "line 2"),
        ] {
            fs::write(dir.path().join(NAME), &text).unwrap();
            assert!(refusal().contains(expected), "{text}: {}", refusal());
        }
        fs::write(dir.path().join(NAME), format!("{run}\n{step}\n{}", &step[..40])).unwrap();
        assert_eq!(History::read(dir.path()).unwrap().steps.len(), 1);
        assert!(History::read(&dir.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
    }
}
