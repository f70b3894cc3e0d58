//! A device's context and its one stream.

use std::ffi::c_int;
use std::ptr::null_mut;

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute as Attribute, CUresult, CUstream, CUstream_flags,
};

use super::super::driver::Properties;
use super::super::unavailable::{LEAST_CAPABILITY, Unavailable};
use super::call::{check, describe};
use crate::text::hex;
use crate::{Error, Result};

/// The version of CUDA that the installed driver is of, major and minor; none where there is no driver.
pub fn driver_version() -> Option<(u32, u32)> {
    // SAFETY: it loads the driver's library and lets go of it.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    let mut version: c_int = 0;
    // SAFETY: the library is there; the driver writes one int. This function needs no context.
    let result = unsafe { sys::cuDriverGetVersion(&mut version) };
    let version = u32::try_from(version).ok().filter(|_| result == CUresult::CUDA_SUCCESS)?;
    Some((version / 1000, version % 1000 / 10))
}

/// The primary context of a device, with a stream of our own. Everything else of the driver holds on to it.
pub struct Context {
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
}

// SAFETY: the driver's handles may be used from all threads, which `bind` prepares.
unsafe impl Send for Context {}
// SAFETY: as above; the driver guards its own state.
unsafe impl Sync for Context {}

impl Context {
    /// Of the first device that CUDA_VISIBLE_DEVICES leaves, with what it can do.
    pub fn open() -> Result<(Context, Properties), Unavailable> {
        // SAFETY: the library is there, since it told its version. All pointers below are to locals.
        match unsafe { sys::cuInit(0) } {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_NO_DEVICE => return Err(Unavailable::NoDevice),
            failure => return Err(Unavailable::Failed(format!("cuInit: {}", describe(failure)))),
        }
        let mut count: c_int = 0;
        // SAFETY: as above.
        failed(check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) }))?;
        if count == 0 {
            return Err(Unavailable::NoDevice);
        }
        let mut device: CUdevice = 0;
        // SAFETY: as above.
        failed(check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, 0) }))?;
        let properties = failed(properties(device))?;
        if properties.compute_capability < LEAST_CAPABILITY {
            let Properties { name, compute_capability: found, .. } = properties;
            return Err(Unavailable::TooOldDevice { name, found });
        }
        Ok((failed(Context::of(device))?, properties))
    }

    fn of(device: CUdevice) -> Result<Context> {
        let mut context = Context { device, context: null_mut(), stream: null_mut() };
        // SAFETY: `device` is one; the context is released once, when this is dropped.
        let retained = unsafe { sys::cuDevicePrimaryCtxRetain(&mut context.context, device) };
        check("cuDevicePrimaryCtxRetain", retained)?;
        context.bind()?;
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current; the stream is destroyed once, when this is dropped.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut context.stream, flags) })?;
        Ok(context)
    }

    /// Makes the context that of the calling thread: nothing else may be called before. It costs next to
    /// nothing where it is so already.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    pub fn stream(&self) -> CUstream {
        self.stream
    }

    /// Waits for everything on the stream.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as `self`.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.context.is_null() {
            return;
        }
        if self.bind().is_ok() && !self.stream.is_null() {
            // SAFETY: nobody else holds the stream any more. A failure has nowhere to go.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.stream) };
        }
        // SAFETY: retained once, in `of`. A failure has nowhere to go.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

fn properties(device: CUdevice) -> Result<Properties> {
    let attribute = |attribute| {
        let mut value: c_int = 0;
        // SAFETY: the driver writes one int.
        check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
        u32::try_from(value)
            .map_err(|_| Error::Device(format!("cuDeviceGetAttribute: {attribute:?} is {value}")))
    };
    let mut name = [0u8; 256];
    // SAFETY: the driver writes a text with its 0 into at most as many bytes.
    let named = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device) };
    check("cuDeviceGetName", named)?;
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: the driver writes 16 bytes.
    check("cuDeviceGetUuid", unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, device) })?;
    let mut memory_bytes = 0usize;
    // SAFETY: the driver writes one size.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut memory_bytes, device) })?;
    Ok(Properties {
        name: String::from_utf8_lossy(name.split(|&b| b == 0).next().unwrap_or_default()).into_owned(),
        uuid: hex(&uuid.bytes.map(|byte| byte as u8)),
        compute_capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        memory_bytes: memory_bytes as u64,
    })
}

/// A failure while the device is opened.
fn failed<T>(result: Result<T>) -> Result<T, Unavailable> {
    result.map_err(|e| Unavailable::Failed(e.to_string()))
}
