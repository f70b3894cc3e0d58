//! An emulated device with a kernel that does not do what it should.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use lorb_emulate::Order;
use lorb_engine::device::cuda::kernels::{ALL, Id};
use lorb_engine::device::cuda::{Address, Boxes, Driver, Fetch, Graph, Launch, Properties, TensorMap};
use lorb_engine::{Error, Result};

use crate::emulated::Emulated;

#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    /// In each block of memory, the first 64 bytes that it writes have other signs.
    Signs,
    /// Every second run has another last bit in the last element that it writes.
    Wavers,
    /// Its launch is refused.
    Fails,
}

pub struct Faulty {
    sound: Emulated,
    fault: Option<(Id, Fault)>,
    runs: AtomicU32,
    launched: Mutex<Vec<Id>>,
    /// Sizes by address.
    memory: Mutex<BTreeMap<u64, usize>>,
}

/// A driver whose kernel of this name has the fault.
pub fn faulty(name: &str, fault: Fault) -> Arc<dyn Driver> {
    let number = ALL.iter().position(|entry| entry.name == name).expect("there is such a kernel");
    Arc::new(Faulty::new(Order::Forward, Some((Id(number), fault))))
}

impl Faulty {
    pub fn new(order: Order, fault: Option<(Id, Fault)>) -> Faulty {
        let sound = Emulated::hopper(227 << 10, order);
        Faulty { sound, fault, runs: AtomicU32::new(0), launched: Mutex::default(), memory: Mutex::default() }
    }

    /// The kernels that have run.
    pub fn launched(&self) -> Vec<Id> {
        self.launched.lock().unwrap().clone()
    }

    /// Everything that is allocated, by whole 4 bytes: its block, its place and its content.
    fn words(&self) -> Vec<(u64, *mut u32, u32)> {
        let memory = self.memory.lock().unwrap();
        let places = memory
            .iter()
            .flat_map(|(&block, &bytes)| (0..bytes as u64 / 4).map(move |word| (block, block + 4 * word)));
        // SAFETY: the emulator's memory is the host's; these words lie within allocations, which are aligned.
        places.map(|(block, at)| (block, at as *mut u32, unsafe { *(at as *const u32) })).collect()
    }
}

impl Driver for Faulty {
    fn properties(&self) -> &Properties {
        self.sound.properties()
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        let at = self.sound.allocate(bytes)?;
        self.memory.lock().unwrap().insert(at.0, bytes);
        Ok(at)
    }

    unsafe fn free(&self, at: Address, bytes: usize) {
        self.memory.lock().unwrap().remove(&at.0);
        // SAFETY: the caller's promise.
        unsafe { self.sound.free(at, bytes) };
    }

    unsafe fn write(&self, to: Address, data: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.sound.write(to, data) }
    }

    unsafe fn read(&self, from: Address, data: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.sound.read(from, data) }
    }

    unsafe fn fetch(&self, from: Address, bytes: usize) -> Result<Box<dyn Fetch>> {
        // SAFETY: the caller's promise.
        unsafe { self.sound.fetch(from, bytes) }
    }

    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap> {
        self.sound.tensor_map(boxes)
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.sound.copy(to, from, bytes) }
    }

    unsafe fn fill(&self, at: Address, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.sound.fill(at, byte, bytes) }
    }

    unsafe fn launch(&self, launch: Launch<'_>) -> Result<()> {
        self.launched.lock().unwrap().push(launch.kernel);
        let Some((_, fault)) = self.fault.filter(|(kernel, _)| *kernel == launch.kernel) else {
            // SAFETY: the caller's promise.
            return unsafe { self.sound.launch(launch) };
        };
        if fault == Fault::Fails {
            return Err(Error::Device(format!("{launch}: planted")));
        }
        let before = self.words();
        // SAFETY: the caller's promise.
        unsafe { self.sound.launch(launch)? };
        let changed = self.words().into_iter().zip(before).filter(|(now, before)| now.2 != before.2);
        let mut changed: Vec<(u64, *mut u32)> = changed.map(|((block, at, _), _)| (block, at)).collect();
        // SAFETY: what has changed is allocated, and nothing else runs.
        let flip = |at: *mut u32, bits: u32| unsafe { *at ^= bits };
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        match fault {
            // Of floats, of both halves of doubles, of one in two of bf16.
            Fault::Signs => {
                for words in changed.chunk_by(|a, b| a.0 == b.0) {
                    words.iter().take(16).for_each(|&(_, at)| flip(at, 1 << 31));
                }
            }
            Fault::Wavers if run % 2 == 1 => flip(changed.pop().expect("it writes something").1, 1),
            _ => {}
        }
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        self.sound.begin_capture()
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        self.sound.end_capture()
    }
}
