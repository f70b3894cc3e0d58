//! The state of an unfinished run: one directory, renamed into place whole.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bert::tensors::{self, Output, Tensors};
use crate::lora::Adapter;
use crate::ops::adamw::{Adamw, AdamwOptions};
use crate::train::head_fit::HeadFit;
use crate::train::identity::Identity;
use crate::{Error, Result, atomic};

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The parameters and the optimizer's moments, when last asked for.
    pub values: Vec<f32>,
    pub adamw: Adamw,
    pub position: Position,
    /// The parameters that validated best so far; those of the start before the first validation.
    pub best: Vec<f32>,
    /// g of the validation hypotheses with the best parameters.
    pub best_scores: Vec<f32>,
    /// Where the classifier's fit is under way.
    pub head_fit: HeadFit,
    /// g of the validation hypotheses done so far, where a validation is under way.
    pub validated: Vec<f32>,
}

impl State {
    /// Before the first step.
    pub(super) fn start(adapter: &Adapter, fit_head: bool) -> State {
        State {
            values: adapter.values.clone(),
            adamw: Adamw::new(AdamwOptions::default(), adapter.values.len()),
            position: Position { fitted: fit_head.then_some(0), ..Position::default() },
            best: adapter.values.clone(),
            best_scores: Vec::new(),
            head_fit: HeadFit::default(),
            validated: Vec::new(),
        }
    }
}

/// The counters of a [`State`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Epochs whose steps are all done.
    pub epoch: u32,
    /// Steps done in the epoch.
    pub step_in_epoch: u64,
    /// Steps done in all.
    pub step: u64,
    /// Batches of lists that went into the classifier's fit; `None` where that is done or not wanted.
    pub fitted: Option<u64>,
    /// Whether the validation after the last epoch is still to be finished.
    pub validating: bool,
    /// Expected errors of the best validation so far, and the epoch it followed.
    pub best: Option<(f64, u32)>,
    /// Seconds of training so far.
    pub seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct Description {
    identity: Identity,
    position: Position,
    adamw: AdamwOptions,
    adamw_step: u64,
}

const PREFIX: &str = "checkpoint-";
const TENSORS: &str = "state.safetensors";
const DESCRIPTION: &str = "state.json";
/// The identity of the run whose result the folder holds.
const FINISHED: &str = "run.json";

/// Writes the state as `out/checkpoint-N`, N one above the last, then removes the older ones.
///
/// # Errors
/// [`Error::Io`]; the checkpoint before stays then.
pub fn save(out: &Path, identity: &Identity, state: &State) -> Result<()> {
    let before = list(out)?;
    let number = before.last().map_or(1, |(n, _)| n + 1);
    let tensor = |name: &str, values| Output {
        name: name.to_string(),
        shape: vec![<[f32]>::len(values)],
        values: Box::new(move || Ok(Cow::Borrowed(values))),
    };
    let description = Description {
        identity: identity.clone(),
        position: state.position.clone(),
        adamw: state.adamw.options,
        adamw_step: state.adamw.step,
    };
    atomic::create_directory(out.join(format!("{PREFIX}{number:08}")), |dir| {
        let tensors = vec![
            tensor("values", &state.values),
            tensor("m", &state.adamw.m),
            tensor("v", &state.adamw.v),
            tensor("best", &state.best),
            tensor("best_scores", &state.best_scores),
            tensor("head_fit", &state.head_fit.sums),
            tensor("validated", &state.validated),
        ];
        tensors::write(dir.join(TENSORS), tensors)?;
        let text = serde_json::to_string_pretty(&description).expect("a description is plain data");
        atomic::write(dir.join(DESCRIPTION), text.as_bytes())
    })?;
    remove(before)
}

/// The newest checkpoint of `out`, if there is one.
///
/// # Errors
/// [`Error::Usage`] where it belongs to another run than `identity`, [`Error::File`] where it is damaged.
pub fn load(out: &Path, identity: &Identity) -> Result<Option<State>> {
    let Some((_, path)) = list(out)?.pop() else { return Ok(None) };
    let hint = "remove it to start over";
    let described = path.join(DESCRIPTION);
    let text = fs::read(&described).map_err(|e| Error::io(&described, "read it", e))?;
    let description: Description =
        serde_json::from_slice(&text).map_err(|e| Error::file(&described, e.to_string(), hint))?;
    description.identity.check(identity, &path)?;
    let stored = path.join(TENSORS);
    let tensors = Tensors::open(&stored)?;
    let read = |name: &str| -> Result<Vec<f32>> {
        let missing = || Error::file(&stored, format!("there is no tensor {name}"), hint);
        let shape = tensors.shape(name).ok_or_else(missing)?;
        Ok(tensors.f32(name, shape, hint)?.to_vec())
    };
    let adamw =
        Adamw { options: description.adamw, m: read("m")?, v: read("v")?, step: description.adamw_step };
    Ok(Some(State {
        values: read("values")?,
        adamw,
        position: description.position,
        best: read("best")?,
        best_scores: read("best_scores")?,
        head_fit: HeadFit { sums: read("head_fit")? },
        validated: read("validated")?,
    }))
}

/// Whether `out` holds an unfinished run.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be read.
pub fn exists(out: &Path) -> Result<bool> {
    Ok(!list(out)?.is_empty())
}

/// Forgets that the folder holds the result of a run: another begins there.
///
/// # Errors
/// [`Error::Io`] where the note of it cannot be removed.
pub fn begin(out: &Path) -> Result<()> {
    atomic::remove(&out.join(FINISHED))
}

/// Notes that the run is finished, and removes its checkpoints.
///
/// # Errors
/// [`Error::Io`] where something cannot be written or removed.
pub fn finish(out: &Path, identity: &Identity) -> Result<()> {
    let text = serde_json::to_string_pretty(identity).expect("an identity is plain data");
    atomic::write(out.join(FINISHED), text.as_bytes())?;
    remove(list(out)?)
}

/// Whether `out` holds the result of a finished run.
///
/// # Errors
/// [`Error::Usage`] where it is that of another run than `identity`.
pub fn is_finished(out: &Path, identity: &Identity) -> Result<bool> {
    let path = out.join(FINISHED);
    let Some(text) = atomic::read(&path)? else { return Ok(false) };
    let finished: Identity = serde_json::from_slice(&text)
        .map_err(|e| Error::file(&path, e.to_string(), "remove it to start over"))?;
    finished.check(identity, &path)?;
    Ok(true)
}

/// Removes what a killed process left half-written in `out`.
///
/// # Errors
/// [`Error::Io`] where it cannot be removed.
pub fn sweep(out: &Path) -> Result<()> {
    for entry in fs::read_dir(out).map_err(|e| Error::io(out, "read the folder", e))? {
        let path = entry.map_err(|e| Error::io(out, "read the folder", e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with(atomic::STAGING_PREFIX) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|e| Error::io(&path, "remove it", e))?;
        }
    }
    Ok(())
}

fn remove(checkpoints: Vec<(u64, PathBuf)>) -> Result<()> {
    for (_, path) in checkpoints {
        fs::remove_dir_all(&path).map_err(|e| Error::io(&path, "remove it", e))?;
    }
    Ok(())
}

/// The checkpoints of `out` by number, oldest first; none where there is no such folder.
fn list(out: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(out, "read the folder", e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(out, "read the folder", e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_prefix(PREFIX).and_then(|n| n.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            options: serde_json::json!({"rank": 8}),
            data: "d".into(),
            start: "s".into(),
            instruction_set: "avx2".into(),
        }
    }

    fn state() -> State {
        State {
            values: vec![1.0, 2.0],
            adamw: Adamw {
                options: AdamwOptions { clip: 0.5, ..AdamwOptions::default() },
                m: vec![3.0, 4.0],
                v: vec![5.0, 6.0],
                step: 7,
            },
            position: Position {
                epoch: 2,
                step_in_epoch: 3,
                step: 11,
                fitted: Some(1),
                validating: true,
                best: Some((0.1 + 0.2, 1)),
                seconds: 12.5,
            },
            best: vec![8.0, 9.0],
            best_scores: vec![10.0; 3],
            head_fit: HeadFit { sums: vec![11.0; 6] },
            validated: vec![12.0; 2],
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let out = tempfile::tempdir().unwrap();
        assert_eq!(load(out.path(), &identity()).unwrap(), None);
        save(out.path(), &identity(), &state()).unwrap();
        assert_eq!(load(out.path(), &identity()).unwrap(), Some(state()));
        let other = Identity { start: "t".into(), ..identity() };
        assert!(load(out.path(), &other).unwrap_err().to_string().contains("a model of digest s, not t"));
    }

    #[test]
    fn what_is_damaged_is_told_of_by_its_file() {
        let out = tempfile::tempdir().unwrap();
        save(out.path(), &identity(), &state()).unwrap();
        let file = |name: &str| out.path().join(format!("{PREFIX}00000001")).join(name);
        let refusal = || load(out.path(), &identity()).unwrap_err().to_string();
        let values =
            Output { name: "values".into(), shape: vec![1], values: Box::new(|| Ok(vec![1.0].into())) };
        tensors::write(file(TENSORS), vec![values]).unwrap();
        let expected = format!("{}: there is no tensor m; remove it", file(TENSORS).display());
        assert!(refusal().starts_with(&expected), "{}", refusal());
        fs::remove_file(file(DESCRIPTION)).unwrap();
        let expected = format!("{}: cannot read it", file(DESCRIPTION).display());
        assert!(refusal().starts_with(&expected), "{}", refusal());
    }

    #[test]
    fn the_newest_counts_and_the_others_go() {
        let out = tempfile::tempdir().unwrap();
        for step in 0..12 {
            let state = State { position: Position { step, ..state().position }, ..state() };
            save(out.path(), &identity(), &state).unwrap();
            assert_eq!(load(out.path(), &identity()).unwrap(), Some(state));
            assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
        }
        // Where a process was killed before it removed the one before.
        let path = |number: u64| out.path().join(format!("{PREFIX}{number:08}"));
        save(out.path(), &identity(), &State { values: vec![0.0], ..state() }).unwrap();
        fs::create_dir(path(12)).unwrap();
        assert_eq!(load(out.path(), &identity()).unwrap().unwrap().values, [0.0]);
    }
}
