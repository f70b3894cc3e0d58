//! A CUDA driver without a GPU: the kernels run as C++ on the CPU, device memory is memory of the host.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use lorb_emulate::Order;
use lorb_engine::device::cuda::kernels::Id;
use lorb_engine::device::cuda::{Address, Boxes, Driver, Fetch, Graph, Launch, Properties, TensorMap};
use lorb_engine::{Error, Result};

/// Bytes before and after each allocation that nothing may write.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;

/// What was asked of a device, and when it was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Graph,
    Fetch,
    /// Until a fetch is done.
    Wait,
}

/// The calls of some kinds, in order.
pub type Log = Arc<Mutex<Vec<Asked>>>;

/// The emulated device.
pub struct Emulated {
    properties: Properties,
    machine: Arc<Machine>,
    log: Log,
    /// What was asked for since a capture began.
    captured: Mutex<Option<Vec<Work>>>,
}

/// What runs the kernels, and the sizes of what is allocated, by address.
struct Machine {
    device: lorb_emulate::Device,
    order: Order,
    allocations: Mutex<BTreeMap<u64, usize>>,
    /// The kernels that have run.
    kernels: Mutex<BTreeSet<&'static str>>,
}

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
    unsafe fn run(&self, machine: &Machine) -> Result<()> {
        // SAFETY: by the contract of each there are as many bytes, in memory of the host.
        unsafe {
            match self {
                Work::Write { to, data } => {
                    (to.0 as *mut u8).copy_from_nonoverlapping(data.as_ptr(), data.len());
                    machine.device.memory_written(to.0, data.len());
                }
                Work::Copy { to, from, bytes } => {
                    (to.0 as *mut u8).copy_from_nonoverlapping(from.0 as *const u8, *bytes);
                    machine.device.memory_written(to.0, *bytes);
                }
                Work::Fill { at, byte, bytes } => {
                    (at.0 as *mut u8).write_bytes(*byte, *bytes);
                    machine.device.memory_written(at.0, *bytes);
                }
                &Work::Launch { kernel, grid, shared_bytes, ref parameters } => {
                    let launch = Launch { kernel, grid, shared_bytes, parameters };
                    let entry = kernel.entry();
                    let describe =
                        |problem| Error::Device(format!("{launch}, {:?}: {problem}", machine.order));
                    let run = lorb_emulate::Launch {
                        kernel: entry.name,
                        grid,
                        threads: entry.threads,
                        shared_bytes,
                        parameters,
                        order: machine.order,
                    };
                    machine.kernels.lock().unwrap().insert(entry.name);
                    machine.device.launch(run).map_err(describe)?;
                    machine.check_guards().map_err(|e| describe(e.to_string()))?;
                }
            }
        }
        Ok(())
    }
}

impl Machine {
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
}

/// What lay there when the copy was asked for: the stream does everything at once.
struct Fetched {
    data: Vec<u8>,
    log: Log,
}

impl Fetch for Fetched {
    fn wait(self: Box<Self>, data: &mut [u8]) -> Result<()> {
        self.log.lock().unwrap().push(Asked::Wait);
        data.copy_from_slice(&self.data);
        Ok(())
    }
}

struct Recorded {
    log: Log,
    work: Vec<Work>,
    machine: Arc<Machine>,
}

impl Graph for Recorded {
    unsafe fn launch(&self) -> Result<()> {
        self.log.lock().unwrap().push(Asked::Graph);
        // SAFETY: by the contract the memory is still there.
        self.work.iter().try_for_each(|work| unsafe { work.run(&self.machine) })
    }
}

impl Emulated {
    /// A device with as much shared memory for a block as an A100, whose threads run in this order.
    pub fn new(order: Order) -> Emulated {
        Emulated::of((8, 0), 163 << 10, order)
    }

    /// One with the least shared memory for a block that any has, as those of compute capability 8.6 and 8.9.
    pub fn small(order: Order) -> Emulated {
        Emulated::of((8, 9), 99 << 10, order)
    }

    /// One of compute capability 9.0.
    pub fn hopper(shared_bytes: u32, order: Order) -> Emulated {
        Emulated::of((9, 0), shared_bytes, order)
    }

    fn of(compute_capability: (u32, u32), shared_bytes: u32, order: Order) -> Emulated {
        let (name, uuid) = ("emulated".into(), "emulated".into());
        let (multiprocessors, memory_bytes) = (4, 1 << 32);
        let properties =
            Properties { name, uuid, compute_capability, multiprocessors, shared_bytes, memory_bytes };
        let machine = Machine {
            device: lorb_emulate::Device::new(),
            order,
            allocations: Mutex::default(),
            kernels: Mutex::default(),
        };
        Emulated { properties, machine: Arc::new(machine), log: Log::default(), captured: Mutex::default() }
    }

    /// The same under another name.
    pub fn named(mut self, name: &str) -> Emulated {
        self.properties.name = name.into();
        self
    }

    /// The same with as many multiprocessors.
    pub fn with_multiprocessors(mut self, multiprocessors: u32) -> Emulated {
        self.properties.multiprocessors = multiprocessors;
        self
    }

    /// Another one that is called the same.
    pub fn with_uuid(mut self, uuid: &str) -> Emulated {
        self.properties.uuid = uuid.into();
        self
    }

    /// What it is asked from here on, too.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Whether a kernel of this name has run.
    pub fn has_run(&self, kernel: &str) -> bool {
        self.machine.kernels.lock().unwrap().contains(kernel)
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
            None => unsafe { work.run(&self.machine) },
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
        self.machine.allocations.lock().unwrap().insert(at, bytes);
        self.machine.device.add_memory(at, bytes);
        Ok(Address(at))
    }

    unsafe fn free(&self, at: Address, bytes: usize) {
        self.machine.allocations.lock().unwrap().remove(&at.0);
        self.machine.device.remove_memory(at.0);
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

    unsafe fn fetch(&self, from: Address, bytes: usize) -> Result<Box<dyn Fetch>> {
        let mut data = vec![0; bytes];
        // SAFETY: the trait's contract.
        unsafe { self.read(from, &mut data)? };
        self.log.lock().unwrap().push(Asked::Fetch);
        Ok(Box::new(Fetched { data, log: self.log.clone() }))
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        // SAFETY: the trait's contract.
        unsafe { self.ask(Work::Copy { to, from, bytes }) }
    }

    unsafe fn fill(&self, at: Address, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: the trait's contract.
        unsafe { self.ask(Work::Fill { at, byte, bytes }) }
    }

    /// Refuses what a driver does.
    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap> {
        let &Boxes { address, columns, rows, matrices, stride, box_rows } = boxes;
        let wide = address.0.is_multiple_of(16) && stride.is_multiple_of(8) && stride >= columns;
        let sized = [columns, rows, matrices, box_rows].iter().all(|&n| n > 0) && box_rows <= 256;
        if !wide || !sized {
            return Err(Error::Device(format!("no tensor map of {boxes:?}")));
        }
        let address = address.0;
        let boxes = lorb_emulate::Boxes { address, columns, rows, matrices, stride, box_rows };
        Ok(TensorMap(boxes.tensor_map()))
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
        Ok(Box::new(Recorded { log: self.log.clone(), work, machine: self.machine.clone() }))
    }
}
