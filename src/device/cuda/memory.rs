//! Memory of the CUDA device, recycled between operations in the order of the stream.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{Address, Driver};
use crate::Result;

/// Blocks that wait for their next use, by capacity. What one operation gives back, the next may take at
/// once: the stream keeps their order. A step allocates what the last one of its size gave back.
pub(super) struct Pool {
    driver: Arc<dyn Driver>,
    free: Mutex<HashMap<usize, Vec<Address>>>,
    /// Bytes that the driver gave.
    allocated: AtomicUsize,
    poison: bool,
}

impl Pool {
    pub fn new(driver: Arc<dyn Driver>, poison: bool) -> Pool {
        Pool { driver, free: Mutex::default(), allocated: AtomicUsize::new(0), poison }
    }

    pub fn poisons(&self) -> bool {
        self.poison
    }

    /// A block of at least `bytes`, of unspecified content. Where the pool poisons, it is NaN, and no larger: an
    /// emulator can tell what lies past it.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Block> {
        let class = if self.poison { bytes.max(1) } else { size_class(bytes) };
        let recycled = self.lock().get_mut(&class).and_then(Vec::pop);
        let address = match recycled {
            Some(address) => address,
            None => {
                self.allocated.fetch_add(class, Ordering::Relaxed);
                self.driver.allocate(class)?
            }
        };
        let block = Block { address, bytes: class, pool: Some(self.clone()) };
        if self.poison {
            // SAFETY: the block has `class` bytes.
            unsafe { self.driver.fill(address, 0xff, class)? };
        }
        Ok(block)
    }

    /// Bytes of the device that it holds, in use and free.
    pub fn allocated(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Vec<Address>>> {
        // A panic elsewhere leaves the free lists whole: they change by one push or pop.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (bytes, blocks) in self.lock().drain() {
            for at in blocks {
                // SAFETY: the pool allocated the block with this size, and nobody holds it.
                unsafe { self.driver.free(at, bytes) };
            }
        }
    }
}

/// `bytes` rounded up to one of eight sizes per power of two.
fn size_class(bytes: usize) -> usize {
    let step = (bytes.max(2048).next_power_of_two() / 16).max(256);
    bytes.next_multiple_of(step).max(256)
}

/// A block of device memory that goes back to its pool when dropped.
pub struct Block {
    address: Address,
    bytes: usize,
    pool: Option<Arc<Pool>>,
}

impl Block {
    /// No memory: what an allocation gives on a device that has failed. Nothing is launched there any more.
    pub(super) fn none() -> Block {
        Block { address: Address::NULL, bytes: 0, pool: None }
    }

    pub fn address(&self) -> Address {
        self.address
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.lock().entry(self.bytes).or_default().push(self.address);
        }
    }
}
