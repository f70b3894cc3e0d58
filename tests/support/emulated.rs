//! A CUDA driver without a GPU: the kernels run as C++ on the CPU, device memory is memory of the host.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::Mutex;

use lorb_emulate::Order;
use lorb_engine::device::cuda::{Address, Driver, Launch, Properties};
use lorb_engine::{Error, Result};

/// Bytes before and after each allocation that nothing may write.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;

/// The emulated device.
pub struct Emulated {
    properties: Properties,
    device: lorb_emulate::Device,
    order: Order,
    allocations: Mutex<BTreeMap<u64, usize>>,
}

impl Emulated {
    /// A device with as much shared memory for a block as an A100, whose threads run in this order.
    pub fn new(order: Order) -> Emulated {
        let properties = Properties {
            name: "emulated".into(),
            compute_capability: (8, 0),
            multiprocessors: 4,
            shared_bytes: 163 << 10,
            memory_bytes: 1 << 32,
        };
        Emulated { properties, device: lorb_emulate::Device::new(), order, allocations: Mutex::default() }
    }

    /// Whether something was written around an allocation.
    fn check_guards(&self) -> Result<()> {
        for (&at, &bytes) in self.allocations.lock().unwrap().iter() {
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
        self.allocations.lock().unwrap().insert(at, bytes);
        self.device.add_memory(at, bytes);
        Ok(Address(at))
    }

    unsafe fn free(&self, at: Address, bytes: usize) {
        self.allocations.lock().unwrap().remove(&at.0);
        self.device.remove_memory(at.0);
        // SAFETY: by the trait's contract the block is one of `allocate`, of this size.
        unsafe { dealloc((at.0 - GUARD as u64) as *mut u8, Self::layout(bytes)) };
    }

    unsafe fn write(&self, to: Address, data: &[u8]) -> Result<()> {
        // SAFETY: by the trait's contract there is room, in memory of the host.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to.0 as *mut u8, data.len()) };
        Ok(())
    }

    unsafe fn read(&self, from: Address, data: &mut [u8]) -> Result<()> {
        // SAFETY: by the trait's contract there are as many bytes, in memory of the host.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    unsafe fn fill(&self, at: Address, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: by the trait's contract there is room, in memory of the host.
        unsafe { (at.0 as *mut u8).write_bytes(byte, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, launch: Launch<'_>) -> Result<()> {
        let entry = launch.kernel.entry();
        let run = lorb_emulate::Launch {
            kernel: entry.name,
            grid: launch.grid,
            threads: entry.threads,
            shared_bytes: launch.shared_bytes,
            parameters: launch.parameters,
            order: self.order,
        };
        // SAFETY: `free` takes memory from the device first.
        let run = unsafe { self.device.launch(run) };
        let describe = |problem| {
            let Launch { grid, shared_bytes, .. } = launch;
            Error::Device(format!(
                "{}, grid {grid:?}, {} threads, {shared_bytes} bytes of shared memory, {:?}: {problem}",
                entry.name, entry.threads, self.order
            ))
        };
        run.map_err(describe)?;
        self.check_guards().map_err(|e| describe(e.to_string()))
    }
}
