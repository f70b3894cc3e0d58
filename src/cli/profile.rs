//! Where the time of a command goes.

use std::path::PathBuf;

use clap::Args;
use lorb_engine::atomic::AtomicFile;
use lorb_engine::device::AnyDevice;
use lorb_engine::profile::{Ceiling, Recorder, Table, write_trace};
use lorb_engine::{Error, Result};

use super::output::note;

/// Whether operations are timed.
#[derive(Args)]
pub struct ProfileOption {
    /// On the CPU: print what each operation takes beside the least that it could take, and write FILE, a trace for
    /// chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
}

/// A profile that is being taken.
pub struct Profile {
    path: PathBuf,
    trace: AtomicFile,
    recorder: Recorder,
    ceiling: Ceiling,
}

impl ProfileOption {
    /// The device, which notes what it does where that is asked for.
    pub fn start(&self, device: AnyDevice) -> Result<(AnyDevice, Option<Profile>)> {
        let Some(path) = self.profile.clone() else { return Ok((device, None)) };
        let recorder = Recorder::start();
        let (device, isa) = device.recorded_by(recorder.clone())?;
        let trace = AtomicFile::create(&path)?;
        Ok((device, Some(Profile { path, trace, recorder, ceiling: Ceiling::measure(isa) })))
    }
}

impl Profile {
    /// Writes the trace, and prints the table.
    pub fn finish(self) -> Result<()> {
        let Profile { path, mut trace, recorder, ceiling } = self;
        let left_out =
            write_trace(&recorder, &mut trace).map_err(|e| Error::io(&path, "write it", e.into()))?;
        trace.commit()?;
        note(Table::new(&recorder, &ceiling));
        let path = path.display();
        note(match left_out {
            0 => format!("trace: {path}"),
            more => format!("trace: {path}, without the last {more} spans"),
        });
        Ok(())
    }
}
