//! Every operation on the CUDA device against the CPU: whether this GPU, with this driver, computes what it
//! should, and the same each time. The tests are where operations are checked in full, against f64; here the
//! CPU device, which they hold to the same, is the measure.

mod adamw;
mod add;
mod attention;
mod compare;
mod embedding;
mod gather_rows;
mod inputs;
mod layer_norm;
mod lora_linear;
mod losses;
mod score_head;
mod sizes;

use std::sync::Arc;

pub use sizes::Sizes;

use super::{Cuda, Driver, Flat, Subject, Tensor, Trial};
use crate::device::cpu::{Cpu, Matrix};
use crate::device::{Device, Memory};
use crate::ops::lora_linear::cuda::Slope;
use crate::{Error, Result};
use compare::Output;
use inputs::Inputs;

/// A check of an operation, forward and backward.
pub struct Check {
    pub operation: &'static str,
    run: fn(&Site<'_>) -> Result<f64>,
}

const fn check(operation: &'static str, run: fn(&Site<'_>) -> Result<f64>) -> Check {
    Check { operation, run }
}

impl Subject {
    /// What is checked of it.
    pub fn checks(self) -> &'static [Check] {
        match self {
            Subject::Common => COMMON,
            Subject::Linear(_) => lora_linear::CHECKS,
            Subject::Attention(_) => attention::CHECKS,
        }
    }
}

const COMMON: &[Check] = &[
    check("embedding", embedding::embedding),
    check("gather_rows", gather_rows::gather_rows),
    check("layer_norm", layer_norm::layer_norm),
    check("attention of [CLS]", attention::cls),
    check("score_head", score_head::score_head),
    check("add", add::add),
    check("mwer", losses::mwer),
    check("correlation", losses::correlation),
    check("adamw", adamw::adamw),
];

impl Check {
    /// The largest difference, as a part of what it may be: at most 1.
    ///
    /// # Errors
    /// [`Error::Device`] where the device disagrees with the CPU or with itself, with the operation and the
    /// element; or where it fails.
    pub fn run(&self, driver: &Arc<dyn Driver>, cpu: &Cpu, trial: Trial, sizes: &Sizes) -> Result<f64> {
        // What is left unwritten is NaN, and so differs. Filling it also keeps the kernels apart; then they run one
        // upon the other, as they do in production: what they read was just written, by a kernel.
        let apart = Cuda::poisoned(driver.clone(), trial.precision).limited(trial.limits());
        let cuda = Cuda::new(driver.clone(), trial.precision).limited(trial.limits());
        let named = |e: Error| Error::Device(format!("{}: {e}", self.operation));
        (self.run)(&Site { apart: &apart, cuda: &cuda, cpu, sizes }).map_err(named)
    }
}

/// Where a check runs.
struct Site<'s> {
    apart: &'s Cuda,
    cuda: &'s Cuda,
    cpu: &'s Cpu,
    sizes: &'s Sizes,
}

/// An operation with its inputs, for either device.
trait Case {
    fn run<D: Checked>(&self, device: &D) -> Result<Vec<Output>>;
}

impl Site<'_> {
    fn inputs(&self) -> Inputs {
        Inputs::new(self.cuda.precision())
    }

    /// As [`Check::run`] gives it.
    fn check(&self, case: &impl Case) -> Result<f64> {
        self.compare(&|cuda| case.run(cuda), &|cpu| case.run(cpu))
    }

    /// The same of an operation that each device has in its own way.
    fn compare(
        &self,
        on_cuda: &dyn Fn(&Cuda) -> Result<Vec<Output>>,
        on_cpu: &dyn Fn(&Cpu) -> Result<Vec<Output>>,
    ) -> Result<f64> {
        let (computed, again) = (on_cuda(self.apart)?, on_cuda(self.cuda)?);
        compare::repeats(&computed, &again)?;
        compare::off(self.cuda.precision(), &computed, &on_cpu(self.cpu)?)
    }
}

/// What both devices have besides the operations.
trait Checked: Device {
    /// A tensor of f32, whatever the precision of activations.
    fn upload_f32(&self, data: &[f32], rows: usize, columns: usize) -> Self::Tensor;
    /// The values of parameters, or of their gradients.
    fn values(&self, parameters: &Self::Parameters) -> Result<Vec<f32>>;
    /// `x` [rows, columns] once more, as a kernel writes it: the next one may start before this one ends.
    fn just_written(&self, x: &Self::Tensor, rows: usize, columns: usize) -> Self::Tensor {
        self.add(x, &self.upload(&vec![0.0; rows * columns], rows, columns))
    }
    fn upload_slope(&self, data: &[f32], rows: usize, columns: usize) -> Self::Slope;
    fn download_slope(&self, slope: &Self::Slope) -> Result<Vec<f32>>;
}

impl Checked for Cuda {
    fn upload_f32(&self, data: &[f32], rows: usize, columns: usize) -> Tensor {
        Cuda::upload_f32(self, data, rows, columns)
    }

    fn values(&self, parameters: &Flat) -> Result<Vec<f32>> {
        self.download_flat(parameters)
    }

    fn upload_slope(&self, data: &[f32], rows: usize, columns: usize) -> Slope {
        Slope::upload(self, data, rows, columns)
    }

    fn download_slope(&self, slope: &Slope) -> Result<Vec<f32>> {
        slope.download(self)
    }
}

impl Checked for Cpu {
    fn upload_f32(&self, data: &[f32], rows: usize, columns: usize) -> Matrix {
        self.upload(data, rows, columns)
    }

    fn values(&self, parameters: &Vec<f32>) -> Result<Vec<f32>> {
        Ok(parameters.clone())
    }

    fn upload_slope(&self, data: &[f32], rows: usize, columns: usize) -> Matrix {
        self.upload(data, rows, columns)
    }

    fn download_slope(&self, slope: &Matrix) -> Result<Vec<f32>> {
        self.download(slope)
    }
}
