//! The real driver: NVIDIA's, loaded when the program runs.

mod call;
mod context;
mod fetch;
mod functions;
mod graph;
mod staging;
mod tensor_map;

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{
    self, CUlaunchAttribute_st, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
};

pub use context::driver_version;

use super::driver::{Address, Boxes, Driver, Fetch, Graph, Launch, Properties, TensorMap};
use super::images::{IMAGES, TOOLKIT, least_driver};
use super::unavailable::Unavailable;
use crate::{Error, Result};
use call::check;
use context::Context;
use fetch::Fetches;
use functions::Functions;
use staging::{Pinned, Staging};

/// A GPU.
pub struct Real {
    // Dropped in this order: what runs and what it reads, then the code.
    host: Mutex<Host>,
    fetches: Fetches,
    functions: Functions,
    context: Arc<Context>,
    properties: Properties,
    /// Whether a kernel may start before the one before it has ended, which it then waits for: the code for sm_90
    /// does (wait_for_last_grid in kernels/common/launch.cuh), and no other.
    starts_early: bool,
}

/// What the host keeps of copies under way.
struct Host {
    staging: Staging,
    /// While a graph is captured: the data of its copies.
    captured: Option<Vec<Pinned>>,
}

impl Real {
    /// The first GPU that CUDA_VISIBLE_DEVICES leaves.
    ///
    /// # Errors
    /// What is missing.
    pub fn open() -> Result<Real, Unavailable> {
        let found = driver_version().ok_or(Unavailable::NoDriver)?;
        let toolkit = TOOLKIT.ok_or(Unavailable::NoKernels)?;
        // No other driver is sure to have all functions that are called from here on.
        let needed = (toolkit.0, 0);
        if found < needed {
            return Err(Unavailable::TooOldDriver { found, needed });
        }
        let (context, properties) = Context::open()?;
        let needed = least_driver(IMAGES, toolkit, properties.compute_capability);
        if found < needed {
            return Err(Unavailable::TooOldDriver { found, needed });
        }
        let context = Arc::new(context);
        let functions = Functions::load(&context, IMAGES, &properties, found)?;
        let staging = Staging::new(&context).map_err(|e| Unavailable::Failed(e.to_string()))?;
        let host = Mutex::new(Host { staging, captured: None });
        // Graphs know of it since CUDA 12.3.
        let starts_early = properties.compute_capability == (9, 0) && found >= (12, 3);
        Ok(Real { host, fetches: Fetches::default(), functions, context, properties, starts_early })
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        // A panic elsewhere leaves it whole: at worst a part of a segment is not used.
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver for Real {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.context.bind()?;
        let mut at = 0;
        // SAFETY: the driver writes one address. It aligns to 256 bytes and more.
        check(format_args!("cuMemAlloc of {bytes} bytes"), unsafe { sys::cuMemAlloc_v2(&mut at, bytes) })?;
        Ok(Address(at))
    }

    unsafe fn free(&self, at: Address, _: usize) {
        // Failures have nowhere to go.
        let _ = self.context.synchronize();
        // SAFETY: by the trait's contract; nothing that was asked for still uses it.
        let _ = unsafe { sys::cuMemFree_v2(at.0) };
    }

    unsafe fn write(&self, to: Address, data: &[u8]) -> Result<()> {
        let mut host = self.host();
        let Some(captured) = &mut host.captured else {
            // SAFETY: the trait's contract.
            return unsafe { host.staging.write(to, data) };
        };
        if data.is_empty() {
            return Ok(());
        }
        // A graph copies the data each time it runs, so it has it for itself.
        let mut own = Pinned::new(&self.context, data.len())?;
        // SAFETY: the trait's contract; the memory is new.
        unsafe { own.send(0, data, to)? };
        captured.push(own);
        Ok(())
    }

    unsafe fn read(&self, from: Address, data: &mut [u8]) -> Result<()> {
        if self.host().captured.is_some() {
            return Err(Error::Device("a graph that is captured cannot read".into()));
        }
        self.context.bind()?;
        // SAFETY: by the trait's contract there are as many bytes; the wait below ends the use of `data`.
        let copied = unsafe {
            sys::cuMemcpyDtoHAsync_v2(data.as_mut_ptr().cast(), from.0, data.len(), self.context.stream())
        };
        let waited = self.context.synchronize();
        check("cuMemcpyDtoHAsync", copied)?;
        waited
    }

    unsafe fn fetch(&self, from: Address, bytes: usize) -> Result<Box<dyn Fetch>> {
        if self.host().captured.is_some() {
            return Err(Error::Device("a graph that is captured cannot read".into()));
        }
        // SAFETY: the trait's contract.
        Ok(Box::new(unsafe { self.fetches.start(&self.context, from, bytes)? }))
    }

    unsafe fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the trait's contract.
        check("cuMemcpyDtoDAsync", unsafe {
            sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self.context.stream())
        })
    }

    unsafe fn fill(&self, at: Address, byte: u8, bytes: usize) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the trait's contract.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(at.0, byte, bytes, self.context.stream()) })
    }

    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap> {
        self.context.bind()?;
        tensor_map::encode(boxes)
    }

    unsafe fn launch(&self, launch: Launch<'_>) -> Result<()> {
        let entry = launch.kernel.entry();
        if launch.parameters.len() != entry.parameter_bytes {
            let given = launch.parameters.len();
            return Err(Error::Device(format!(
                "{launch}: {given} bytes of parameters, not {}",
                entry.parameter_bytes
            )));
        }
        let function = self.functions.get(launch.kernel)?;
        self.context.bind()?;
        let [x, y, z] = launch.grid;
        let mut parameters: [*mut c_void; 1] = [launch.parameters.as_ptr().cast_mut().cast()];
        let mut early = CUlaunchAttribute_st {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: entry.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: self.context.stream(),
            attrs: &mut early,
            numAttrs: u32::from(self.starts_early),
        };
        // SAFETY: the kernel takes one struct of as many bytes, which the driver copies before it returns, as it
        // does the attribute. Where it may start early, its code waits for the kernel before it (`starts_early`).
        // The rest is the trait's contract.
        let launched =
            unsafe { sys::cuLaunchKernelEx(&config, function, parameters.as_mut_ptr(), null_mut()) };
        check(launch, launched)
    }

    fn begin_capture(&self) -> Result<()> {
        let mut host = self.host();
        graph::begin(&self.context)?;
        host.captured = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        let mut host = self.host();
        let writes = host.captured.take().ok_or_else(|| Error::Device("no graph is captured".into()))?;
        Ok(Box::new(graph::end(&self.context, writes)?))
    }
}
