//! The way back from the device, without waiting for it: the stream copies into pinned memory, which the host
//! reads when it comes to it.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::driver::{Address, Fetch};
use super::context::Context;
use super::staging::{Event, Pinned};
use crate::Result;

/// Pinned memory for copies from the device, used again once a copy was read: two or more are under way in turn.
#[derive(Clone, Default)]
pub struct Fetches(Arc<Mutex<Vec<Slot>>>);

struct Slot {
    memory: Pinned,
    /// Follows the copy.
    fetched: Event,
}

impl Fetches {
    /// Starts a copy.
    ///
    /// # Safety
    /// `from` holds as many bytes.
    pub unsafe fn start(&self, context: &Arc<Context>, from: Address, bytes: usize) -> Result<Fetching> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there = free.iter().position(|slot| slot.memory.bytes() >= bytes).map(|i| free.swap_remove(i));
        drop(free);
        let mut slot = match there {
            Some(slot) => slot,
            None => {
                let memory = Pinned::new(context, bytes.next_power_of_two().max(4096))?;
                Slot { memory, fetched: Event::new(context)? }
            }
        };
        // SAFETY: the contract.
        unsafe { slot.memory.receive(from, bytes)? };
        slot.fetched.record()?;
        Ok(Fetching { slot: Some(slot), bytes, home: self.clone() })
    }
}

/// A copy that is under way.
pub struct Fetching {
    slot: Option<Slot>,
    bytes: usize,
    home: Fetches,
}

impl Fetch for Fetching {
    fn wait(self: Box<Self>, data: &mut [u8]) -> Result<()> {
        assert_eq!(data.len(), self.bytes, "what was asked for");
        if let Some(slot) = &self.slot {
            slot.fetched.wait()?;
            // SAFETY: the copy is done, and the slot is nobody else's until this is dropped.
            unsafe { slot.memory.read(data) };
        }
        Ok(())
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        // If it was not waited for, the device may still write there: the next copy comes after that one.
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).extend(self.slot.take());
    }
}
