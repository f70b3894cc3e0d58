use std::fmt::Write;
use std::sync::Arc;

use clap::Args;
use lorb_engine::device::Choice;
use lorb_engine::device::cpu::Cpu;
use lorb_engine::device::cuda::first_use::{Finding, Ran, Refused, Verdict};
use lorb_engine::device::cuda::images::{IMAGES, TOOLKIT};
use lorb_engine::device::cuda::{self, Cuda, Driver, Precision, Properties, Trial, Variants, measure};
use lorb_engine::{Error, Result};

use super::DeviceOption;
use super::check_kernels::{child, with_first_use};
use super::output::print;

/// Report what this program can compute on here, check it and measure it
#[derive(Args)]
pub struct Doctor {
    #[command(flatten)]
    device: DeviceOption,
}

/// More than caches hold.
const COPIED_BYTES: u64 = 256 << 20;

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

impl Doctor {
    pub fn run(self) -> Result<()> {
        let cpu = Cpu::of_environment()?;
        line("cpu", format_args!("{}, {} threads", cpu.isa().name(), rayon::current_num_threads()))?;
        if self.device.device == Choice::Cpu {
            return Ok(());
        }
        kernels()?;
        if let Some((major, minor)) = cuda::driver_version() {
            line("driver", format_args!("CUDA {major}.{minor}"))?;
        }
        match cuda::open() {
            Ok(driver) => {
                describe(driver.properties())?;
                // Kernels are checked by other processes, and a GPU may be set to admit one at a time.
                let capability = driver.properties().compute_capability;
                drop(driver);
                examine(capability)
            }
            Err(missing) => {
                let missing = format!("there is no CUDA device to use: {missing}");
                if self.device.device == Choice::Auto {
                    return line("device", missing);
                }
                Err(Error::Usage(missing))
            }
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

/// What the GPU is.
fn describe(properties: &Properties) -> Result<()> {
    let Properties {
        name,
        compute_capability: (major, minor),
        multiprocessors,
        shared_bytes,
        memory_bytes,
        ..
    } = properties;
    line("device", name)?;
    line(
        "",
        format_args!(
            "compute capability {major}.{minor}, {multiprocessors} multiprocessors, {} KiB of shared memory a block, \
             {:.1} GiB of memory",
            shared_bytes >> 10,
            *memory_bytes as f64 / f64::from(1 << 30)
        ),
    )
}

/// Whether the GPU computes what it should, what of it is used, and how fast that is.
fn examine(capability: (u32, u32)) -> Result<()> {
    let mut wrong = Vec::new();
    for trial in PRECISIONS.into_iter().flat_map(|precision| Trial::all(precision, capability)) {
        let Ran { verdict, report } = child()?.run(trial, "small")?;
        for checked in report.lines() {
            line("check", format_args!("{trial}: {checked}"))?;
        }
        if let Verdict::Faulty(reason) = verdict {
            line("check", format_args!("{trial}: wrong: {reason}"))?;
            wrong.push(trial.to_string());
        }
    }
    for precision in PRECISIONS {
        let name = precision.name();
        match with_first_use(|first_use| first_use.examine(&cuda::open, precision)) {
            Ok((driver, trusted)) => {
                for Finding { trial, verdict, checked } in trusted.findings {
                    let date = humantime::format_rfc3339_seconds(checked);
                    match verdict {
                        Verdict::Agrees => {
                            line("use", format_args!("{trial}: agreed with the CPU at {date}"))?
                        }
                        Verdict::Faulty(reason) => {
                            line("no use", format_args!("{trial}: failed its check at {date}: {reason}"))?;
                            wrong.push(trial.to_string());
                        }
                    }
                }
                let Variants { linear, attention } = trusted.limits;
                line("runs", format_args!("lora_linear in {name}: {}", linear.description()))?;
                line("", format_args!("attention in {name}: {}", attention.description()))?;
                if precision == Precision::Bf16 {
                    rates(&driver, trusted.limits)?;
                }
            }
            Err(Refused::Missing(missing)) => {
                return Err(Error::Device(format!("the GPU is gone: {missing}")));
            }
            Err(Refused::Untrusted(error)) => {
                line("no use", format_args!("{name}: {error}"))?;
                wrong.push(name.into());
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.sort();
    wrong.dedup();
    Err(Error::Device(format!("this GPU computes wrong results: {}", wrong.join(", "))))
}

/// How fast the GPU is.
fn rates(driver: &Arc<dyn Driver>, limits: Variants) -> Result<()> {
    let memory_bytes = driver.properties().memory_bytes;
    let rate = measure::copy_rate(driver, COPIED_BYTES.min(memory_bytes / 8) as usize)?;
    line("copies", format_args!("{:.0} GB/s, read and written", rate / 1e9))?;
    let latency = measure::latency(driver)?;
    line("launches", format_args!("{:.1?} each where queued, {:.1?} alone", latency.queued, latency.alone))?;
    let cuda = Cuda::new(driver.clone(), Precision::Bf16).limited(limits);
    let rate = measure::product_rate(&cuda, PRODUCT_ROWS, PRODUCT_WIDTH)?;
    line(
        "products",
        format_args!("{:.0} TFLOP/s in bf16, {PRODUCT_ROWS} x {PRODUCT_WIDTH} squared", rate / 1e12),
    )
}

/// Large enough that what surrounds a product does not matter.
const PRODUCT_ROWS: usize = 8192;
const PRODUCT_WIDTH: usize = 4096;

/// A line of the report, as soon as it is known.
fn line(name: &str, text: impl std::fmt::Display) -> Result<()> {
    let mut line = String::new();
    let name = if name.is_empty() { String::new() } else { format!("{name}:") };
    writeln!(line, "{name:10}{text}").expect("a String takes everything");
    print(&line)
}
