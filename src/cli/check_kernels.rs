use std::cell::Cell;

use clap::Args;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::device::cuda::first_use::{Child, FirstUse};
use lorb_engine::device::cuda::selfcheck::Sizes;
use lorb_engine::device::cuda::{self, Trial};
use lorb_engine::{Error, Result};

use super::output::{note, print};

/// Check kernels against the CPU. What other commands run before they trust a GPU: it may hang
#[derive(Args)]
pub struct CheckKernels {
    /// Which, such as "bf16 lora_linear tensor"
    trial: Trial,
    /// small or production
    #[arg(value_parser = parse_sizes)]
    sizes: Sizes,
}

fn parse_sizes(text: &str) -> Result<Sizes, String> {
    match text {
        "small" => Ok(Sizes::SMALL),
        "production" => Ok(Sizes::PRODUCTION),
        _ => Err("expected small or production".into()),
    }
}

impl CheckKernels {
    pub fn run(self) -> Result<()> {
        let cpu = Cpu::new(Isa::detect()?);
        let missing = |missing| Error::Usage(format!("there is no CUDA device to use: {missing}"));
        let driver = cuda::open().map_err(missing)?;
        for check in self.trial.subject.checks() {
            let off = check.run(&driver, &cpu, self.trial, &self.sizes).map_err(untried_without_room)?;
            print(&format!("{}: off by {off:.2} of what it may be\n", check.operation))?;
        }
        Ok(())
    }
}

/// A GPU that others have filled says nothing of its kernels: nothing is kept of that.
fn untried_without_room(error: Error) -> Error {
    match error {
        Error::Device(said) if said.contains("CUDA_ERROR_OUT_OF_MEMORY") => {
            Error::Usage(format!("the GPU has no room for the check, free some of its memory: {said}"))
        }
        error => error,
    }
}

/// This program, to run [`CheckKernels`] in a process of its own.
pub fn child() -> Result<Child> {
    let program = std::env::current_exe().map_err(|e| Error::io("this program", "find it", e))?;
    Ok(Child { program, limit: Child::LIMIT })
}

/// Hands over how kernels come to be trusted: by trials that this program runs, which it tells of.
pub fn with_first_use<T>(work: impl FnOnce(&FirstUse<'_>) -> T) -> T {
    let told = Cell::new(false);
    let attempt = |trial| {
        if !told.replace(true) {
            note("device: checking its kernels against the CPU, once for this GPU, driver and program");
        }
        child()?.run(trial, "production").map(|ran| ran.verdict)
    };
    work(&FirstUse { folder: FirstUse::folder(), attempt: &attempt })
}
