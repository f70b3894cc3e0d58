//! Which device computes.

use std::str::FromStr;
use std::sync::Arc;

use super::Dtype;
use super::cpu::{self, Cpu, Isa};
use super::cuda::first_use::{FirstUse, Refused};
use super::cuda::{self, Cuda, Driver, Precision, Unavailable, Variants};
use crate::profile::Recorder;
use crate::text::capitalised;
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

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        match text {
            "auto" => Ok(Choice::Auto),
            "cpu" => Ok(Choice::Cpu),
            "cuda" => Ok(Choice::Cuda),
            _ => Err("expected auto, cpu or cuda".into()),
        }
    }
}

/// A device of one of the kinds. Clones share it.
#[derive(Clone)]
pub enum AnyDevice {
    Cpu(Cpu),
    Cuda(Cuda),
}

impl AnyDevice {
    /// The same device, noting what it does, and its instruction set.
    ///
    /// # Errors
    /// [`Error::Usage`] for a GPU, which works on while the host is elsewhere.
    pub fn recorded_by(self, recorder: Recorder) -> Result<(AnyDevice, Isa)> {
        match self {
            AnyDevice::Cpu(cpu) => {
                let isa = cpu.isa();
                Ok((AnyDevice::Cpu(cpu.recorded_by(recorder)), isa))
            }
            AnyDevice::Cuda(_) => Err(Error::Usage(
                "--profile is for the CPU: give --device cpu, or profile the GPU with \"nsys profile lorb-engine …\""
                    .into(),
            )),
        }
    }

    /// What notes, where this device is profiled.
    pub fn recorder(&self) -> Recorder {
        match self {
            AnyDevice::Cpu(cpu) => cpu.recorder().clone(),
            AnyDevice::Cuda(_) => Recorder::default(),
        }
    }

    /// What the processor is called.
    pub fn name(&self) -> String {
        match self {
            AnyDevice::Cpu(_) => cpu::name(),
            AnyDevice::Cuda(cuda) => cuda.properties().name.clone(),
        }
    }

    /// What decides the last bits of a result: the CPU's instruction set and the type of the weights, or the
    /// GPU's kind, precision and variants. Checkpoints and shards keep it.
    pub fn description(&self) -> String {
        match self {
            AnyDevice::Cpu(cpu) => {
                let (isa, dtype) = (cpu.isa(), cpu.dtype());
                match dtype {
                    Dtype::F32 => isa.name().into(),
                    _ if isa.multiplies(dtype) => format!("{} {}", isa.name(), dtype.name()),
                    _ => format!("{} f32, {} weights", isa.name(), dtype.name()),
                }
            }
            AnyDevice::Cuda(cuda) => {
                let (major, minor) = cuda.properties().compute_capability;
                let Variants { linear, attention } = cuda.limits();
                let [precision, linear, attention] =
                    [cuda.precision().name(), linear.name(), attention.name()].map(capitalised);
                format!("cuda sm_{major}{minor} {precision}, lora_linear {linear}, attention {attention}")
            }
        }
    }
}

/// The driver of the GPU and the variants that may be used there, if that is what computes; and what the user
/// should hear of it: which GPU it is and what it does without, or why one that seems to be there is not used.
pub struct Chosen {
    pub gpu: Option<(Arc<dyn Driver>, Variants)>,
    pub notes: Vec<String>,
}

/// The device for `choice` with the base's weights in `dtype`, by default bf16 on a GPU, whose activations are of that type
/// too, and f32 on the CPU. A GPU has the kernels that `first_use` finds good. And the notes of [`Chosen`].
///
/// # Errors
/// [`Error::Usage`] where the GPU was asked for and something is missing, [`Error::Device`] where its kernels
/// are not to be trusted.
pub fn select(
    choice: Choice,
    cpu: Cpu,
    dtype: Option<Dtype>,
    first_use: &FirstUse<'_>,
) -> Result<(AnyDevice, Vec<String>)> {
    let (choice, precision) = match (choice, dtype) {
        (Choice::Cuda, Some(Dtype::Int8)) => {
            return Err(Error::Usage(
                "--dtype int8 is for the CPU: give --device cpu, or --dtype bf16".into(),
            ));
        }
        (_, Some(Dtype::Int8)) => (Choice::Cpu, Precision::Bf16),
        (_, Some(Dtype::F32)) => (choice, Precision::F32),
        (_, Some(Dtype::Bf16) | None) => (choice, Precision::Bf16),
    };
    let Chosen { gpu, notes } = choose(choice, precision, first_use, &cuda::open)?;
    let device = match gpu {
        Some((driver, limits)) => AnyDevice::Cuda(Cuda::new(driver, precision).limited(limits)),
        None => AnyDevice::Cpu(cpu.with_dtype(dtype.unwrap_or(Dtype::F32))),
    };
    Ok((device, notes))
}

/// The choice alone; `open` is not called for the CPU.
///
/// # Errors
/// As for [`select`].
pub fn choose(
    choice: Choice,
    precision: Precision,
    first_use: &FirstUse<'_>,
    open: &dyn Fn() -> Result<Arc<dyn Driver>, Unavailable>,
) -> Result<Chosen> {
    let cpu = |notes| Ok(Chosen { gpu: None, notes });
    if choice == Choice::Cpu {
        return cpu(Vec::new());
    }
    match first_use.examine(open, precision) {
        Ok((driver, trusted)) => {
            let mut notes = trusted.warnings;
            notes.insert(0, format!("device: {}", driver.properties().name));
            Ok(Chosen { gpu: Some((driver, trusted.limits)), notes })
        }
        Err(Refused::Missing(missing)) if choice == Choice::Cuda => {
            Err(Error::Usage(format!("there is no CUDA device to use: {missing}")))
        }
        Err(Refused::Untrusted(error)) if choice == Choice::Cuda => Err(error),
        Err(Refused::Missing(missing)) if missing.surprises() => {
            cpu(vec![format!("device: the CPU, since there is no CUDA device to use: {missing}")])
        }
        Err(Refused::Missing(_)) => cpu(Vec::new()),
        Err(Refused::Untrusted(error)) => cpu(vec![format!("device: the CPU, since {error}")]),
    }
}
