//! How fast a device copies and multiplies, and how soon it does what it is asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Zeroable;

use super::driver::{Address, Driver, Launch};
use super::kernels::LAYER_NORM_F32;
use super::memory::{Block, Pool};
use super::{Cuda, Rows, Tensor};
use crate::Result;
use crate::device::Memory;
use crate::ops::layer_norm::cuda::LayerNormParameters;
use crate::ops::lora_linear::{Call, DeviceEpilogue, LinearWeights, LoraLinear};

/// The rate of copies within the device's memory, bytes read and bytes written together, per second. Uses
/// twice `bytes` of memory; caches should not hold them.
///
/// # Errors
/// [`crate::Error::Device`] where the device fails.
pub fn copy_rate(driver: &Arc<dyn Driver>, bytes: usize) -> Result<f64> {
    const COPIES: u32 = 16;
    let pool = Arc::new(Pool::new(driver.clone(), false));
    let (from, to) = (pool.take(bytes)?, pool.take(bytes)?);
    // SAFETY: both blocks have as many bytes.
    let copy = || unsafe { driver.copy(to.address(), from.address(), bytes) };
    copy()?;
    wait(driver, &to)?;
    let start = Instant::now();
    (0..COPIES).try_for_each(|_| copy())?;
    wait(driver, &to)?;
    Ok(2.0 * bytes as f64 * f64::from(COPIES) / start.elapsed().as_secs_f64())
}

/// What it takes to run a kernel that does nothing.
pub struct Latency {
    /// Each of many, one behind the other.
    pub queued: Duration,
    /// One alone, until the host knows that it is done.
    pub alone: Duration,
}

/// What it takes to launch a kernel on this device, the means of many runs.
///
/// # Errors
/// [`crate::Error::Device`] where the device fails.
pub fn latency(driver: &Arc<dyn Driver>) -> Result<Latency> {
    const LAUNCHES: u32 = 1000;
    const ALONE: u32 = 100;
    let pool = Arc::new(Pool::new(driver.clone(), false));
    let block = pool.take(1)?;
    let parameters = LayerNormParameters::zeroed();
    let launch = Launch {
        kernel: LAYER_NORM_F32.id(),
        grid: [1, 1, 1],
        shared_bytes: 0,
        parameters: bytemuck::bytes_of(&parameters),
    };
    // SAFETY: these are its parameters. They say that there are no rows, so it touches no memory.
    let run = || unsafe { driver.launch(launch) };
    let repeat = |times: u32, work: &dyn Fn() -> Result<()>| {
        work()?;
        wait(driver, &block)?;
        let start = Instant::now();
        (0..times).try_for_each(|_| work())?;
        wait(driver, &block)?;
        Ok(start.elapsed() / times)
    };
    let queued = repeat(LAUNCHES, &run)?;
    let alone = repeat(ALONE, &|| run().and_then(|()| wait(driver, &block)))?;
    Ok(Latency { queued, alone })
}

/// The rate of the product of a linear layer with [rows, width] activations and a [width, width] weight, in
/// operations per second: a multiplication and an addition are two.
///
/// # Errors
/// [`crate::Error::Device`] where the device fails.
pub fn product_rate(cuda: &Cuda, rows: usize, width: usize) -> Result<f64> {
    const PRODUCTS: u32 = 20;
    // Numbers of all kinds: zeros would take less power, and so run at a higher clock.
    let values =
        |n: usize| (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) as i32 as f32 / 2e9).collect();
    let (weight, x): (Vec<f32>, Vec<f32>) = (values(width * width), values(rows * width));
    let module = LinearWeights { weight: weight.into(), bias: vec![0.0; width].into() };
    let linear = cuda.linear(width, &[module], false);
    let x = cuda.upload(&x, rows, width);
    let call = Call { linear: &linear, lora: None, segments: None, modules: 0..1, dropout: None };
    let product = || cuda.lora_linear(&call, &x, DeviceEpilogue::Nothing, false).y;
    // Reading one row waits for all that was asked for before.
    let wait = |y: Tensor| cuda.download(&y.with_rows(Rows::all(1))).map(drop);
    wait(product())?;
    let start = Instant::now();
    (1..PRODUCTS).for_each(|_| drop(product()));
    wait(product())?;
    let operations = 2.0 * rows as f64 * (width * width) as f64 * f64::from(PRODUCTS);
    Ok(operations / start.elapsed().as_secs_f64())
}

/// Until everything is done.
fn wait(driver: &Arc<dyn Driver>, block: &Block) -> Result<()> {
    let at: Address = block.address();
    // SAFETY: blocks have 256 bytes and more.
    unsafe { driver.read(at, &mut [0]) }
}
