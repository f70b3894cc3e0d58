//! Which device computes.

use std::sync::Arc;

use super::cpu::Cpu;
use super::cuda::{self, Cuda, Driver, Precision, Unavailable};
use crate::{Error, Result};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The GPU where there is one to use, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// A device of one of the kinds.
pub enum AnyDevice {
    Cpu(Cpu),
    Cuda(Cuda),
}

impl AnyDevice {
    /// What decides the last bits of a result: the CPU's instruction set, or the GPU's kind and precision.
    pub fn description(&self) -> String {
        match self {
            AnyDevice::Cpu(cpu) => cpu.isa().name().into(),
            AnyDevice::Cuda(cuda) => {
                let (major, minor) = cuda.properties().compute_capability;
                format!("cuda sm_{major}{minor} {:?}", cuda.precision())
            }
        }
    }
}

/// The driver of the GPU, if that is what computes, and what the user should hear of it: which GPU it is, or why
/// one that seems to be there is not used.
pub struct Chosen {
    pub driver: Option<Arc<dyn Driver>>,
    pub note: Option<String>,
}

/// The device for `choice`, the GPU's with activations of `precision`, and the note of [`Chosen`].
///
/// # Errors
/// [`Error::Usage`] where the GPU was asked for and something is missing.
pub fn select(choice: Choice, cpu: Cpu, precision: Precision) -> Result<(AnyDevice, Option<String>)> {
    let Chosen { driver, note } = choose(choice, cuda::open)?;
    Ok((driver.map_or(AnyDevice::Cpu(cpu), |driver| AnyDevice::Cuda(Cuda::new(driver, precision))), note))
}

/// The choice alone; `open` is not called for the CPU.
///
/// # Errors
/// As for [`select`].
pub fn choose(choice: Choice, open: impl FnOnce() -> Result<Arc<dyn Driver>, Unavailable>) -> Result<Chosen> {
    let none = Chosen { driver: None, note: None };
    if choice == Choice::Cpu {
        return Ok(none);
    }
    match open() {
        Ok(driver) => {
            let name = &driver.properties().name;
            let note = format!(
                "device: {name}; its kernels have run in emulation only until now: compare with --device cpu"
            );
            Ok(Chosen { driver: Some(driver), note: Some(note) })
        }
        Err(missing) if choice == Choice::Cuda => {
            Err(Error::Usage(format!("there is no CUDA device to use: {missing}")))
        }
        Err(missing) if missing.surprises() => {
            let note = Some(format!("device: the CPU, since there is no CUDA device to use: {missing}"));
            Ok(Chosen { note, ..none })
        }
        Err(_) => Ok(none),
    }
}
