use std::path::PathBuf;

use clap::Args;
use lorb_engine::train::metrics::History;
use lorb_engine::{Result, atomic, report};

use super::output::print;

/// Show a training run, finished or not, as one HTML page
#[derive(Args)]
pub struct Report {
    /// The folder of the run, which train wrote with --out
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Where the page goes [default: report.html in DIR]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Report {
    pub fn run(self) -> Result<()> {
        let history = History::read(&self.dir)?;
        let out = self.out.unwrap_or_else(|| self.dir.join("report.html"));
        // "." and ".." have no name of their own.
        let real = self.dir.canonicalize().unwrap_or(self.dir);
        let name =
            real.file_name().map_or_else(|| real.display().to_string(), |n| n.to_string_lossy().into());
        atomic::write(&out, report::html(&history, &name).as_bytes())?;
        print(&format!("{}\n", out.display()))
    }
}
