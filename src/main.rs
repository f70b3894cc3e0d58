//! The command line program.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::note(format!("lorb-engine: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}
