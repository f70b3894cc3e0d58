//! A CUDA driver without a GPU: the kernels run as C++ on the CPU, device memory is memory of the host.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lorb_engine::device::cuda::kernels::Id;
use lorb_engine::device::cuda::{Address, Driver, Graph, Launch, Properties};
use lorb_engine::{Error, Result};

/// Bytes before and after each allocation that nothing may write.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;

/// The emulated device.
pub struct Emulated {
    properties: Properties,
    allocations: Arc<Allocations>,
    /// What was asked for since a capture began.
    captured: Mutex<Option<Vec<Work>>>,
}

/// The sizes of what is allocated, by address.
#[derive(Default)]
struct Allocations(Mutex<BTreeMap<u64, usize>>);

/// What the stream is asked for.
enum Work {
    Write { to: Address, data: Vec<u8> },
    Copy { to: Address, from: Address, bytes: usize },
    Fill { at: Address, byte: u8, bytes: usize },
    Launch { kernel: Id, grid: [u32; 3], shared_bytes: u32, parameters: Vec<u8> },
}

impl Work {
    /// Does it.
    ///
    /// # Safety
    /// That of the driver's functions.
    unsafe fn run(&self, allocations: &Allocations) -> Result<()> {
        // SAFETY: by the contract of each there are as many bytes, in memory of the host.
        unsafe {
            match self {
                Work::Write { to, data } => {
                    (to.0 as *mut u8).copy_from_nonoverlapping(data.as_ptr(), data.len())
                }
                Work::Copy { to, from, bytes } => {
                    (to.0 as *mut u8).copy_from_nonoverlapping(from.0 as *const u8, *bytes)
                }
                Work::Fill { at, byte, bytes } => (at.0 as *mut u8).write_bytes(*byte, *bytes),
                &Work::Launch { kernel, grid, shared_bytes, ref parameters } => {
                    let launch = Launch { kernel, grid, shared_bytes, parameters };
                    let entry = kernel.entry();
                    let describe = |problem| Error::Device(format!("{launch}: {problem}"));
                    lorb_emulate::launch(entry.name, grid, entry.threads, shared_bytes, parameters)
                        .map_err(describe)?;
                    allocations.check_guards().map_err(|e| describe(e.to_string()))?;
                }
            }
        }
        Ok(())
    }
}

impl Allocations {
    /// Whether something was written around an allocation.
    fn check_guards(&self) -> Result<()> {
        for (&at, &bytes) in self.0.lock().unwrap().iter() {
            for guard in [at - GUARD as u64, at + bytes as u64] {
                // SAFETY: `allocate` put GUARD bytes there.
                let guard = unsafe { std::slice::from_raw_parts(guard as *const u8, GUARD) };
                if guard.iter().any(|&b| b != GUARD_BYTE) {
                    return Err(Error::Device(format!("a write outside of the {bytes} bytes at {at:#x}")));
                }
            }
        }
        Ok(())
    }
}

struct Recorded {
    work: Vec<Work>,
    allocations: Arc<Allocations>,
}

impl Graph for Recorded {
    unsafe fn launch(&self) -> Result<()> {
        // SAFETY: by the contract the memory is still there.
        self.work.iter().try_for_each(|work| unsafe { work.run(&self.allocations) })
    }
}

impl Emulated {
    /// A device with as much shared memory for a block as an A100.
    pub fn new() -> Emulated {
        let properties = Properties {
            name: "emulated".into(),
            compute_capability: (8, 0),
            multiprocessors: 4,
            shared_bytes: 163 << 10,
            memory_bytes: 1 << 32,
        };
        Emulated { properties, allocations: Arc::default(), captured: Mutex::default() }
    }

    /// Does it, or records it.
    ///
    /// # Safety
    /// That of the driver's functions.
    unsafe fn ask(&self, work: Work) -> Result<()> {
        match &mut *self.captured.lock().unwrap() {
            Some(captured) => {
                captured.push(work);
                Ok(())
            }
            // SAFETY: the caller's promise.
            None => unsafe { work.run(&self.allocations) },
        }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes + 2 * GUARD, 256).unwrap()
    }
}

impl Driver for Emulated {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        // SAFETY: the layout is not of size zero.
        let base = unsafe { alloc(Self::layout(bytes)) };
        assert!(!base.is_null());
        // SAFETY: the allocation has room for both guards.
        unsafe {
            base.write_bytes(GUARD_BYTE, GUARD);
            base.add(GUARD).write_bytes(0xff, bytes);
            base.add(GUARD + bytes).write_bytes(GUARD_BYTE, GUARD);
        }
        let at = base as u64 + GUARD as u64;
        self.allocations.0.lock().unwrap().insert(at, bytes);
        Ok(Address(at))
    }

    unsafe fn free(&self, at: Address, bytes: usize) {
        self.allocations.0.lock().unwrap().remove(&at.0);
        // SAFETY: by the trait's contract the block is one of `allocate`, of this size.
        unsafe { dealloc((at.0 - GUARD as u64) as *mut u8, Self::layout(bytes)) };
    }

    unsafe fn write(&self, to: Address, data: &[u8]) -> Result<()> {
        // SAFETY: the trait's contract.
        unsafe { self.ask(Work::Write { to, data: data.to_vec() }) }
    }

    unsafe fn read(&self, from: Address, data: &mut [u8]) -> Result<()> {
        if self.captured.lock().unwrap().is_some() {
            return Err(Error::Device("a graph that is captured cannot read".into()));
        }
        // SAFETY: by the trait's contract there are as many bytes, in memory of the host.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        // SAFETY: the trait's contract.
        unsafe { self.ask(Work::Copy { to, from, bytes }) }
    }

    unsafe fn fill(&self, at: Address, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: the trait's contract.
        unsafe { self.ask(Work::Fill { at, byte, bytes }) }
    }

    unsafe fn launch(&self, launch: Launch<'_>) -> Result<()> {
        let Launch { kernel, grid, shared_bytes, parameters } = launch;
        // SAFETY: the trait's contract.
        unsafe { self.ask(Work::Launch { kernel, grid, shared_bytes, parameters: parameters.to_vec() }) }
    }

    fn begin_capture(&self) -> Result<()> {
        match self.captured.lock().unwrap().replace(Vec::new()) {
            Some(_) => Err(Error::Device("a graph is captured already".into())),
            None => Ok(()),
        }
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        let work = self.captured.lock().unwrap().take();
        let work = work.ok_or_else(|| Error::Device("no graph is captured".into()))?;
        Ok(Box::new(Recorded { work, allocations: self.allocations.clone() }))
    }
}
