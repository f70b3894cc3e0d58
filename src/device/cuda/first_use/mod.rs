//! Which kernels to trust on a device that none of us has touched: those that agreed with the CPU on it once,
//! with this driver and this program, at production shapes and twice with the same bits.
//!
//! A bad kernel can hang, or leave the device in a state that a process cannot recover from: so each trial
//! runs in a process of its own (see [`Child`]). What came of it is remembered.

mod child;
mod record;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use child::{Child, Ran};

use super::{Driver, Level, Precision, Subject, Trial, Unavailable, Variants};
use crate::Error;
use record::{Key, Record};

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// With the CPU, and with itself.
    Agrees,
    /// It did not, or failed or hung: how.
    Faulty(String),
}

/// A trial, what came of it, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub trial: Trial,
    pub verdict: Verdict,
    pub checked: SystemTime,
}

/// What may be used.
pub struct Trusted {
    pub limits: Variants,
    /// What that follows from, in the order of the trials.
    pub findings: Vec<Finding>,
    /// What the user should hear of.
    pub warnings: Vec<String>,
}

/// Why nothing may.
#[derive(Debug)]
pub enum Refused {
    Missing(Unavailable),
    /// [`Error::Device`]: no kernels that agree, or none that could be tried.
    Untrusted(Error),
}

/// How kernels come to be trusted.
pub struct FirstUse<'a> {
    /// The folder where findings are kept; without one, all is tried each time.
    pub folder: Option<PathBuf>,
    /// Runs a trial at production shapes where it can do no harm. An error is no finding, and not kept.
    pub attempt: &'a dyn Fn(Trial) -> crate::Result<Verdict>,
}

impl FirstUse<'_> {
    /// `lorb-engine` in the user's cache directory, if there is such a directory.
    pub fn folder() -> Option<PathBuf> {
        dirs::cache_dir().map(|folder| folder.join("lorb-engine"))
    }

    /// The driver that `open` gives, and which variants may be used of its device with activations of
    /// `precision`: of each operation the best that agrees, where a plainer one is tried only if the better
    /// ones do not.
    ///
    /// # Errors
    /// Why the device is of no use.
    pub fn examine(
        &self,
        open: &dyn Fn() -> Result<Arc<dyn Driver>, Unavailable>,
        precision: Precision,
    ) -> Result<(Arc<dyn Driver>, Trusted), Refused> {
        let opened = open().map_err(Refused::Missing)?;
        let mut record = Record::load(self.folder.as_deref(), Key::of(opened.properties()));
        let capability = opened.properties().compute_capability;
        let mut driver = Some(opened);
        let settled = settle(precision, capability, &mut |trial| {
            if let Some(found) = record.get(trial) {
                return Ok(found);
            }
            // A GPU may be set to admit one process at a time.
            driver = None;
            let verdict = (self.attempt)(trial)?;
            Ok(record.put(trial, verdict))
        });
        let saved = record.save();
        let mut trusted = settled.map_err(Refused::Untrusted)?;
        for Finding { trial, verdict, .. } in &trusted.findings {
            if let Verdict::Faulty(reason) = verdict {
                trusted.warnings.push(format!(
                    "device: plainer and slower kernels replace those of {trial}, which failed their check ({reason}); \
                     {}",
                    record.when_again()
                ));
            }
        }
        if let Err(e) = saved {
            trusted.warnings.push(format!("device: its kernels will be checked again next time, since {e}"));
        }
        let driver = driver.map_or_else(open, Ok).map_err(Refused::Missing)?;
        Ok((driver, trusted))
    }
}

/// What may be used, by what `find` says of trials.
fn settle(
    precision: Precision,
    capability: (u32, u32),
    find: &mut dyn FnMut(Trial) -> crate::Result<Finding>,
) -> crate::Result<Trusted> {
    let mut findings = Vec::new();
    let mut best = |levels: &[Level], subject: &dyn Fn(Level) -> Subject| {
        let mut faults = Vec::new();
        for &level in levels {
            let finding = find(Trial { precision, subject: subject(level) })?;
            findings.push(finding.clone());
            match finding.verdict {
                Verdict::Agrees => return Ok(level),
                Verdict::Faulty(reason) => faults.push(format!("{}: {reason}", finding.trial)),
            }
        }
        Err(Error::Device(format!(
            "this GPU cannot be trusted with these kernels, which failed their check: {}; `lorb-engine doctor` \
             checks all, and --device cpu does without",
            faults.join("; ")
        )))
    };
    best(&[Level::Plain], &|_| Subject::Common)?;
    let linear = best(Level::linear(precision, capability), &Subject::Linear)?;
    let attention = best(Level::attention(precision), &Subject::Attention)?;
    Ok(Trusted { limits: Variants { linear, attention }, findings, warnings: Vec::new() })
}
