//! The embedded kernels, loaded, each with its handle.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute as Attribute, CUmodule};

use super::super::driver::Properties;
use super::super::images::Image;
use super::super::kernels::{self, Entry, Id};
use super::super::unavailable::Unavailable;
use super::call::check;
use super::context::Context;
use crate::{Error, Result};

/// The functions of all kernels, by number.
pub struct Functions {
    /// None for kernels of files that have no code for this device.
    functions: Vec<Option<CUfunction>>,
    modules: Vec<CUmodule>,
    context: Arc<Context>,
}

// SAFETY: the driver's handles may be used from all threads; they are only read.
unsafe impl Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

impl Functions {
    /// Loads `images`, the driver being of CUDA `version`.
    pub fn load(
        context: &Arc<Context>,
        images: &'static [Image],
        properties: &Properties,
        version: (u32, u32),
    ) -> Result<Functions, Unavailable> {
        let failed = |e: Error| Unavailable::Failed(e.to_string());
        context.bind().map_err(failed)?;
        let mut loaded = Functions { functions: Vec::new(), modules: Vec::new(), context: context.clone() };
        let mut found = HashMap::new();
        let mut elsewhere: HashSet<&str> = HashSet::new();
        for image in images {
            if !image.runs_on(properties.compute_capability) {
                elsewhere.extend(image.kernels);
                continue;
            }
            let module = loaded.module(image).map_err(failed)?;
            for name in image.kernels {
                found.insert(*name, function(module, name, properties.shared_bytes).map_err(failed)?);
            }
        }
        let mut wrong = Vec::new();
        for entry in kernels::ALL {
            let function = found.get(entry.name).copied();
            match function {
                Some(function) if version >= (12, 4) => wrong.extend(other_parameters(function, entry)),
                None if !elsewhere.contains(entry.name) => wrong.push(format!("{} is missing", entry.name)),
                _ => {}
            }
            loaded.functions.push(function);
        }
        if wrong.is_empty() { Ok(loaded) } else { Err(Unavailable::OtherKernels(wrong.join(", "))) }
    }

    fn module(&mut self, image: &Image) -> Result<CUmodule> {
        let mut module = null_mut();
        // SAFETY: the bytes are an image that nvcc wrote, which says how long it is; the module is unloaded
        // once, when this is dropped.
        let result = unsafe { sys::cuModuleLoadData(&mut module, image.bytes.as_ptr().cast()) };
        check(format_args!("cuModuleLoadData of {}", image.source), result)?;
        self.modules.push(module);
        Ok(module)
    }

    /// The function of a kernel.
    ///
    /// # Errors
    /// [`Error::Device`] where it has no code for this device.
    pub fn get(&self, kernel: Id) -> Result<CUfunction> {
        let none = || Error::Device(format!("{} has no code for this device", kernel.entry().name));
        self.functions[kernel.0].ok_or_else(none)
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        // Nothing may run any more. Failures have nowhere to go.
        let _ = self.context.synchronize();
        for &module in &self.modules {
            // SAFETY: loaded once; its functions are not used again.
            let _ = unsafe { sys::cuModuleUnload(module) };
        }
    }
}

/// The function with this name, allowed as much dynamic shared memory as its blocks can have at all.
fn function(module: CUmodule, name: &str, shared_bytes: u32) -> Result<CUfunction> {
    let symbol = CString::new(name).expect("the compiler's names have no 0");
    let mut function = null_mut();
    // SAFETY: the module is loaded, the name ends in 0.
    let got = unsafe { sys::cuModuleGetFunction(&mut function, module, symbol.as_ptr()) };
    check(format_args!("cuModuleGetFunction of {name}"), got)?;
    let mut fixed = 0;
    // SAFETY: the function is one; the driver writes one int.
    let got = unsafe {
        sys::cuFuncGetAttribute(&mut fixed, Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function)
    };
    check(format_args!("cuFuncGetAttribute of {name}"), got)?;
    // SAFETY: as above.
    let set = unsafe {
        let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        sys::cuFuncSetAttribute(function, most, shared_bytes as i32 - fixed)
    };
    check(format_args!("cuFuncSetAttribute of {name}"), set)?;
    Ok(function)
}

/// What is wrong with the parameters that the compiled kernel takes, if anything. The driver must be of CUDA
/// 12.4 or later.
fn other_parameters(function: CUfunction, entry: &Entry) -> Option<String> {
    let (mut offset, mut bytes) = (0usize, 0usize);
    // SAFETY: the function is one, and this driver has the call; it writes two sizes.
    let got = unsafe { sys::cuFuncGetParamInfo(function, 0, &mut offset, &mut bytes) };
    match check("cuFuncGetParamInfo", got) {
        Ok(()) if bytes == entry.parameter_bytes => None,
        Ok(()) => {
            Some(format!("{} takes {bytes} bytes of parameters, not {}", entry.name, entry.parameter_bytes))
        }
        Err(e) => Some(format!("{}: {e}", entry.name)),
    }
}
