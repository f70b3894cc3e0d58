//! How fast a device copies, and how soon it does what it is asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::Zeroable;

use super::driver::{Address, Driver, Launch};
use super::kernels::LAYER_NORM_F32;
use super::memory::{Block, Pool};
use crate::Result;
use crate::ops::layer_norm::cuda::LayerNormParameters;

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

/// Until everything is done.
fn wait(driver: &Arc<dyn Driver>, block: &Block) -> Result<()> {
    let at: Address = block.address();
    // SAFETY: blocks have 256 bytes and more.
    unsafe { driver.read(at, &mut [0]) }
}
