//! Findings in a file: one for each device, driver and program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Finding, Verdict};
use crate::device::cuda::images::IMAGES;
use crate::device::cuda::{Properties, Trial, driver_version};
use crate::text::hex;
use crate::{Result, atomic};

/// What findings hold for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    device: String,
    /// A fault may be that of one of several alike.
    uuid: String,
    compute_capability: (u32, u32),
    /// Tiles are chosen by it.
    multiprocessors: u32,
    driver: String,
    /// A digest of the embedded images.
    kernels: String,
    /// Its version, and the size and time of its file: what launches and checks kernels is there.
    program: String,
}

impl Key {
    /// Of this program, with the driver that is installed.
    pub fn of(properties: &Properties) -> Key {
        let mut digest = Sha256::new();
        IMAGES.iter().for_each(|image| digest.update(image.bytes));
        let (major, minor) = driver_version().unwrap_or_default();
        // CUDA's version is that of many drivers; Linux tells which one it is.
        let exact = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
        Key {
            device: properties.name.clone(),
            uuid: properties.uuid.clone(),
            compute_capability: properties.compute_capability,
            multiprocessors: properties.multiprocessors,
            driver: format!("CUDA {major}.{minor} {}", exact.lines().next().unwrap_or_default()),
            kernels: hex(&digest.finalize()),
            program: format!("{} {}", env!("CARGO_PKG_VERSION"), build().unwrap_or_default()),
        }
    }

    fn file_name(&self) -> String {
        let text = serde_json::to_string(self).expect("a key is plain data");
        format!("kernels-{}.json", &hex(&Sha256::digest(text))[..16])
    }
}

/// What sets this build apart from others of its version.
fn build() -> Option<String> {
    let file = fs::metadata(env::current_exe().ok()?).ok()?;
    let written = file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("({} bytes, {} s)", file.len(), written.as_secs()))
}

/// A fault may have come of something that passes, such as a GPU that others had filled: it does not count
/// for longer.
const FAULTS_LAST: Duration = Duration::from_secs(24 * 60 * 60);

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Content {
    key: Key,
    /// By the name of the trial.
    findings: BTreeMap<String, Kept>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    verdict: Verdict,
    /// Seconds of Unix time.
    checked: u64,
}

/// The findings so far.
pub struct Record {
    path: Option<PathBuf>,
    content: Content,
    changed: bool,
}

impl Record {
    /// What `folder` holds for the key: nothing where the file is not there, or not as it should be.
    pub fn load(folder: Option<&Path>, key: Key) -> Record {
        let path = folder.map(|folder| folder.join(key.file_name()));
        let read = |path: &PathBuf| serde_json::from_slice::<Content>(&fs::read(path).ok()?).ok();
        let kept = path.as_ref().and_then(read).filter(|content| content.key == key);
        let content = kept.unwrap_or_else(|| Content { key, findings: BTreeMap::new() });
        Record { path, content, changed: false }
    }

    /// What was found of a trial, where that still counts.
    pub fn get(&self, trial: Trial) -> Option<Finding> {
        let Kept { verdict, checked } = self.content.findings.get(&trial.to_string())?.clone();
        let checked = UNIX_EPOCH.checked_add(Duration::from_secs(checked))?;
        let counts = verdict == Verdict::Agrees || checked.elapsed().is_ok_and(|age| age < FAULTS_LAST);
        counts.then_some(Finding { trial, verdict, checked })
    }

    /// Keeps what has just been found.
    pub fn put(&mut self, trial: Trial, verdict: Verdict) -> Finding {
        let checked = SystemTime::now();
        let seconds = checked.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.content.findings.insert(trial.to_string(), Kept { verdict: verdict.clone(), checked: seconds });
        self.changed = true;
        Finding { trial, verdict, checked }
    }

    /// Writes the file, where there is something new.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn save(&self) -> Result<()> {
        let Some(path) = self.path.as_ref().filter(|_| self.changed) else { return Ok(()) };
        if let Some(folder) = path.parent() {
            atomic::ensure_directory(folder)?;
        }
        atomic::write(path, &serde_json::to_vec_pretty(&self.content).expect("findings are plain data"))
    }

    /// When a fault is looked at anew.
    pub fn when_again(&self) -> String {
        match &self.path {
            Some(path) => format!("they are checked again in a day, or once {} is removed", path.display()),
            None => "they are checked again next time".into(),
        }
    }
}
