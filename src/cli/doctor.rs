use std::fmt::Write;
use std::sync::Arc;

use clap::Args;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::device::cuda::images::{IMAGES, TOOLKIT};
use lorb_engine::device::cuda::selfcheck::CHECKS;
use lorb_engine::device::cuda::{self, Cuda, Driver, Precision, Properties, measure};
use lorb_engine::device::{Choice, choose};
use lorb_engine::{Error, Result};

use super::DeviceOption;
use super::output::print;

/// Report what this program can compute on here, check it and measure it
#[derive(Args)]
pub struct Doctor {
    #[command(flatten)]
    device: DeviceOption,
}

/// More than caches hold.
const COPIED_BYTES: u64 = 256 << 20;

impl Doctor {
    pub fn run(self) -> Result<()> {
        let cpu = Cpu::new(Isa::detect()?);
        line("cpu", format_args!("{}, {} threads", cpu.isa().name(), rayon::current_num_threads()))?;
        if self.device.device == Choice::Cpu {
            return Ok(());
        }
        kernels()?;
        if let Some((major, minor)) = cuda::driver_version() {
            line("driver", format_args!("CUDA {major}.{minor}"))?;
        }
        match choose(Choice::Cuda, cuda::open) {
            Ok(chosen) => chosen.driver.map_or(Ok(()), |driver| examine(&driver, &cpu)),
            Err(missing) if self.device.device == Choice::Auto => line("device", missing),
            Err(missing) => Err(missing),
        }
    }
}

/// What is embedded.
fn kernels() -> Result<()> {
    if let Some((major, minor)) = TOOLKIT {
        line("kernels", format_args!("compiled by CUDA {major}.{minor}"))?;
    }
    for image in IMAGES {
        let (architectures, kernels) = (image.architectures.join(", "), image.kernels.join(", "));
        line("", format_args!("{} for {architectures}: {kernels}", image.source))?;
    }
    Ok(())
}

/// The GPU: what it is, whether it computes what it should, and how fast it is at little things.
fn examine(driver: &Arc<dyn Driver>, cpu: &Cpu) -> Result<()> {
    let Properties { name, compute_capability: (major, minor), multiprocessors, shared_bytes, memory_bytes } =
        driver.properties();
    line("device", name)?;
    line(
        "",
        format_args!(
            "compute capability {major}.{minor}, {multiprocessors} multiprocessors, {} KiB of shared memory a block, \
             {:.1} GiB of memory",
            shared_bytes >> 10,
            *memory_bytes as f64 / f64::from(1 << 30)
        ),
    )?;
    let mut wrong = Vec::new();
    for (precision, spelled) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16")] {
        let cuda = Cuda::poisoned(driver.clone(), precision);
        for (operation, check) in CHECKS {
            let off = check(&cuda, cpu)?;
            line("check", format_args!("{operation} in {spelled}: off by {off:.2} of what it may be"))?;
            if off.is_nan() || off > 1.0 {
                wrong.push(format!("{operation} in {spelled}"));
            }
        }
    }
    let rate = measure::copy_rate(driver, COPIED_BYTES.min(memory_bytes / 8) as usize)?;
    line("copies", format_args!("{:.0} GB/s, read and written", rate / 1e9))?;
    let latency = measure::latency(driver)?;
    line("launches", format_args!("{:.1?} each where queued, {:.1?} alone", latency.queued, latency.alone))?;
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::Device(format!("this GPU computes wrong results: {}", wrong.join(", "))))
}

/// A line of the report, as soon as it is known.
fn line(name: &str, text: impl std::fmt::Display) -> Result<()> {
    let mut line = String::new();
    let name = if name.is_empty() { String::new() } else { format!("{name}:") };
    writeln!(line, "{name:10}{text}").expect("a String takes everything");
    print(&line)
}
