//! A trial in a process of its own.

use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Verdict;
use crate::device::cuda::Trial;
use crate::{Error, Result};

/// How trials are run: by a program that answers to `check-kernels TRIAL SIZES` as `lorb-engine` does, with exit
/// code 0 where the kernels agree, 2 where there is nothing to try them on, and any other where they are faulty.
pub struct Child {
    pub program: PathBuf,
    /// It is killed when that has passed.
    pub limit: Duration,
}

/// What a run came to.
pub struct Ran {
    pub verdict: Verdict,
    /// A line for each check that passed.
    pub report: String,
}

impl Child {
    /// Time for all checks of a trial. They need a few seconds, nearly all of them on the CPU: its one thread has
    /// some 100 GFLOP to do for linear layers.
    pub const LIMIT: Duration = Duration::from_secs(60);

    /// Tries at `sizes`: "small" or "production".
    ///
    /// # Errors
    /// Where it could not be tried.
    pub fn run(&self, trial: Trial, sizes: &str) -> Result<Ran> {
        let failed = |e| Error::io(&self.program, "run it to check kernels", e);
        let mut command = Command::new(&self.program);
        command.args(["check-kernels", &trial.to_string(), sizes]);
        // What it writes is less than a pipe holds, so that it need not be read before the end.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let Some(status) = ended(&mut child, self.limit).map_err(failed)? else {
            // One that hangs within the driver may not even die: nobody waits for that.
            let killed = child.kill().and_then(|()| ended(&mut child, Duration::from_secs(2)));
            let reason = match killed {
                Ok(Some(_)) => format!("it was killed after {:?}", self.limit),
                _ => format!("it does not end, nor die: process {}", child.id()),
            };
            return Ok(Ran { verdict: Verdict::Faulty(reason), report: String::new() });
        };
        let Output { stdout, stderr, .. } = child.wait_with_output().map_err(failed)?;
        let said = String::from_utf8_lossy(&stderr);
        let said = said.trim().trim_start_matches("lorb-engine: ");
        let verdict = match status.code() {
            Some(0) => Verdict::Agrees,
            Some(2) => return Err(Error::Device(format!("the kernels could not be checked: {said}"))),
            Some(1) if !said.is_empty() => Verdict::Faulty(said.into()),
            _ => Verdict::Faulty(format!("{status}; {said}")),
        };
        Ok(Ran { verdict, report: String::from_utf8_lossy(&stdout).into_owned() })
    }
}

/// How the child ended, if it did within that time.
fn ended(child: &mut std::process::Child, within: Duration) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= within {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}
