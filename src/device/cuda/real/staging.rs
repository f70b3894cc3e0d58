//! The way from the host to the device, without waiting for it: data is copied into pinned memory, from which
//! the device fetches it in its own time.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent, CUevent_flags};

use super::super::driver::Address;
use super::call::check;
use super::context::Context;
use crate::Result;

/// Memory of the host that the device reads by itself.
pub struct Pinned {
    at: *mut u8,
    bytes: usize,
    context: Arc<Context>,
}

// SAFETY: the memory is owned, and changed only through `&mut self`.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Of unspecified content.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Pinned> {
        context.bind()?;
        let mut at: *mut c_void = null_mut();
        // SAFETY: the driver writes where the memory is, which is freed once, when this is dropped.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&mut at, bytes, 0) })?;
        Ok(Pinned { at: at.cast(), bytes, context: context.clone() })
    }

    /// Puts `data` at byte `offset`, and has the stream copy it to the device after everything before.
    ///
    /// # Safety
    /// `to` has room for it. The device reads none of the bytes `offset..offset + data.len()` now.
    pub unsafe fn send(&mut self, offset: usize, data: &[u8], to: Address) -> Result<()> {
        let end = offset.checked_add(data.len());
        assert!(end.is_some_and(|end| end <= self.bytes), "more than the memory holds");
        // SAFETY: the assertion; the memory is ours, and by the contract the device reads none of these bytes
        // now.
        let from = unsafe {
            let from = self.at.add(offset);
            from.copy_from_nonoverlapping(data.as_ptr(), data.len());
            from
        };
        self.context.bind()?;
        // SAFETY: there are as many bytes on both sides, by the above and by the contract.
        check("cuMemcpyHtoDAsync", unsafe {
            sys::cuMemcpyHtoDAsync_v2(to.0, from.cast(), data.len(), self.context.stream())
        })
    }

    /// Has the stream copy `bytes` from the device to the start of the memory, after everything before.
    ///
    /// # Safety
    /// `from` holds as many bytes.
    pub unsafe fn receive(&mut self, from: Address, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes, "more than the memory holds");
        self.context.bind()?;
        // SAFETY: there are as many bytes on both sides, by the assertion and the contract; the memory is freed
        // after a wait for the stream.
        check("cuMemcpyDtoHAsync", unsafe {
            sys::cuMemcpyDtoHAsync_v2(self.at.cast(), from.0, bytes, self.context.stream())
        })
    }

    /// Copies what lies at the start into `data`.
    ///
    /// # Safety
    /// The device has written it, and does not write here now.
    pub unsafe fn read(&self, data: &mut [u8]) {
        assert!(data.len() <= self.bytes, "more than the memory holds");
        // SAFETY: the assertion; the memory was written, by the contract.
        unsafe { data.as_mut_ptr().copy_from_nonoverlapping(self.at, data.len()) };
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The device may still read it. Failures have nowhere to go.
        let _ = self.context.synchronize();
        // SAFETY: allocated once; the device is done with it.
        let _ = unsafe { sys::cuMemFreeHost(self.at.cast()) };
    }
}

/// As much as one copy carries: enough for the full rate of the bus.
const SEGMENT: usize = 8 << 20;
/// Of that, memory of the host copies while the device still fetches from the others.
const SEGMENTS: usize = 4;

/// Pinned memory that is filled in turn. A segment is filled again once the device has fetched it, which
/// seldom needs waiting for.
pub struct Staging {
    segments: Vec<Segment>,
    current: usize,
    /// Bytes of the current segment.
    used: usize,
}

struct Segment {
    memory: Pinned,
    /// Follows what was sent from here last.
    fetched: Event,
}

impl Staging {
    pub fn new(context: &Arc<Context>) -> Result<Staging> {
        let segment =
            || Ok(Segment { memory: Pinned::new(context, SEGMENT)?, fetched: Event::new(context)? });
        let segments = (0..SEGMENTS).map(|_| segment()).collect::<Result<_>>()?;
        Ok(Staging { segments, current: 0, used: 0 })
    }

    /// Copies `data` to the device; it may be changed on return.
    ///
    /// # Safety
    /// `to` has room for it.
    pub unsafe fn write(&mut self, to: Address, mut data: &[u8]) -> Result<()> {
        let mut to = to;
        while !data.is_empty() {
            if self.used >= SEGMENT {
                self.segments[self.current].fetched.record()?;
                self.current = (self.current + 1) % SEGMENTS;
                self.segments[self.current].fetched.wait()?;
                self.used = 0;
            }
            let (part, rest) = data.split_at(data.len().min(SEGMENT - self.used));
            // SAFETY: by the contract there is room; the device has fetched what was in the segment before,
            // and `used` lies behind what was sent since.
            unsafe { self.segments[self.current].memory.send(self.used, part, to)? };
            // What a copy starts from is aligned as the device's memory is.
            self.used = (self.used + part.len()).next_multiple_of(256);
            to = to.offset(part.len());
            data = rest;
        }
        Ok(())
    }
}

/// A mark on the stream.
pub struct Event {
    event: CUevent,
    context: Arc<Context>,
}

// SAFETY: the driver's handles may be used from all threads.
unsafe impl Send for Event {}

impl Event {
    pub fn new(context: &Arc<Context>) -> Result<Event> {
        context.bind()?;
        let mut event = null_mut();
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the context is current; the event is destroyed once, when this is dropped.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, flags) })?;
        Ok(Event { event, context: context.clone() })
    }

    /// After everything up to now.
    pub fn record(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: event and stream live.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.event, self.context.stream()) })
    }

    /// Until what was recorded last is done; not at all where nothing was.
    pub fn wait(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the event lives.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.event) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: created once. A failure has nowhere to go.
        let _ = unsafe { sys::cuEventDestroy_v2(self.event) };
    }
}
