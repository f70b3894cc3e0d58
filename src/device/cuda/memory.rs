//! Memory of the CUDA device, recycled between operations in the order of the stream.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::{Address, Driver};
use crate::Result;
use crate::device::free::Free;

/// Memory that the driver gave in large pieces, cut into blocks. What one operation gives back, the next may take
/// at once: the stream keeps their order. So a step takes the memory of the last one, whatever the sizes of both.
pub(super) struct Pool {
    driver: Arc<dyn Driver>,
    free: Mutex<Free>,
    /// Bytes that the driver gave.
    allocated: AtomicUsize,
    poison: bool,
    /// Whether pieces stay where they are even if nobody has a block of them: captured graphs know their addresses.
    lasting: bool,
}

/// Blocks start at multiples of this, which is more than any kernel asks.
const ALIGNMENT: usize = 256;
/// The driver is asked for multiples of this.
const PIECE: usize = 2 << 20;
/// It is asked for this part of what it has given at least: so that pieces are few, and little is taken that
/// is not used.
const LEAST_PART: usize = 32;

impl Pool {
    pub fn new(driver: Arc<dyn Driver>, poison: bool) -> Pool {
        Pool { driver, free: Mutex::default(), allocated: AtomicUsize::new(0), poison, lasting: false }
    }

    /// The same for what graphs are captured with.
    pub fn lasting(mut self) -> Pool {
        self.lasting = true;
        self
    }

    pub fn poisons(&self) -> bool {
        self.poison
    }

    /// A block of at least `bytes`, of unspecified content. Where the pool poisons, it is NaN, no larger, and a piece
    /// of its own: an emulator can tell what lies past it.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Block> {
        let bytes = if self.poison { bytes.max(1) } else { bytes.max(1).next_multiple_of(ALIGNMENT) };
        let recycled = self.free().take(bytes, !self.poison);
        let address = match recycled {
            Some(at) => Address(at),
            None => self.grow(bytes)?,
        };
        let block = Block { address, bytes, pool: Some(self.clone()) };
        if self.poison {
            // SAFETY: the block has as many bytes.
            unsafe { self.driver.fill(address, 0xff, bytes)? };
        }
        Ok(block)
    }

    /// Memory of a new piece, the rest of which is free. Pieces that are not in use go into it: a step of
    /// longer sequences than any before finds one in place of many that were cut for others. Where there is
    /// no room for that, it is no larger than it must be.
    fn grow(&self, bytes: usize) -> Result<Address> {
        let (least, wanted) = if self.poison {
            (bytes, bytes)
        } else {
            let unused = if self.lasting { 0 } else { self.shrink() };
            let wanted = bytes.max(unused).max(self.allocated() / LEAST_PART);
            (bytes.next_multiple_of(PIECE), wanted.next_multiple_of(PIECE))
        };
        let (piece, address) = match self.driver.allocate(wanted) {
            Err(_) if least < wanted => (least, self.driver.allocate(least)?),
            address => (wanted, address?),
        };
        self.allocated.fetch_add(piece, Ordering::Relaxed);
        let mut free = self.free();
        free.add(address.0, piece);
        Ok(Address(free.take(bytes, !self.poison).expect("there is room now")))
    }

    /// Gives all pieces back that nobody has a block of: how many bytes.
    fn shrink(&self) -> usize {
        let whole = self.free().take_whole_pieces();
        for &(at, bytes) in &whole {
            // SAFETY: the pool allocated the piece with this size, and nobody holds a block of it. The driver waits
            // for what was asked of the device before.
            unsafe { self.driver.free(Address(at), bytes) };
        }
        let bytes = whole.iter().map(|(_, bytes)| bytes).sum();
        self.allocated.fetch_sub(bytes, Ordering::Relaxed);
        bytes
    }

    /// Bytes of the device that it holds, in use and free.
    pub fn allocated(&self) -> usize {
        self.allocated.load(Ordering::Relaxed)
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        // A panic elsewhere leaves it whole: nothing in it panics halfway.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // All of them: blocks hold the pool, so there are none.
        self.shrink();
    }
}

/// A block of device memory that goes back to its pool when dropped.
pub struct Block {
    address: Address,
    bytes: usize,
    pool: Option<Arc<Pool>>,
}

impl Block {
    /// No memory: what an allocation gives on a device that has failed. Nothing is launched there until
    /// [`Cuda::check`](super::Cuda::check) has taken the failure, and none of this is to be used after that.
    pub(super) fn none() -> Block {
        Block { address: Address::NULL, bytes: 0, pool: None }
    }

    pub(super) fn is_none(&self) -> bool {
        self.pool.is_none()
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
            pool.free().give(self.address.0, self.bytes);
        }
    }
}
