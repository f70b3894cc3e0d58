//! The compiled kernels that this program carries.

/// The kernels of one source file.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// The file in kernels/.
    pub source: &'static str,
    /// `sm_80`: machine code, `compute_80`: PTX, which the driver compiles.
    pub architectures: &'static [&'static str],
    pub kernels: &'static [&'static str],
    /// What the driver loads.
    pub bytes: &'static [u8],
}

// Written by build.rs. TOOLKIT: the CUDA version that compiled the images, major and minor. IMAGES: all of them.
#[cfg(feature = "cuda")]
include!(concat!(env!("OUT_DIR"), "/images.rs"));

#[cfg(not(feature = "cuda"))]
pub const TOOLKIT: Option<(u32, u32)> = None;
#[cfg(not(feature = "cuda"))]
pub const IMAGES: &[Image] = &[];

impl Image {
    /// Whether a device of this compute capability has code to run in the image.
    pub fn runs_on(&self, capability: (u32, u32)) -> bool {
        self.has_machine_code(capability) || self.architectures.iter().any(|a| compiles_for(a, capability))
    }

    /// Whether the device runs it as it is.
    fn has_machine_code(&self, capability: (u32, u32)) -> bool {
        self.architectures.iter().any(|a| executes_on(a, capability))
    }
}

/// The least CUDA version of a driver that runs `images` on a device of this compute capability, when CUDA
/// `toolkit` compiled them: for machine code the major version counts, while the PTX of a version is unknown
/// to drivers before it.
pub fn least_driver(images: &[Image], toolkit: (u32, u32), capability: (u32, u32)) -> (u32, u32) {
    let ready = images.iter().filter(|i| i.runs_on(capability)).all(|i| i.has_machine_code(capability));
    if ready { (toolkit.0, 0) } else { toolkit }
}

/// Machine code runs on devices of its major version that are no older; that of sm_90a on 9.0 alone.
fn executes_on(architecture: &str, capability: (u32, u32)) -> bool {
    match architecture.strip_prefix("sm_") {
        Some(code) => match code.strip_suffix('a') {
            Some(exact) => version(exact) == Some(capability),
            None => version(code).is_some_and(|v| v.0 == capability.0 && v <= capability),
        },
        None => false,
    }
}

/// PTX is compiled for every device that is no older.
fn compiles_for(architecture: &str, capability: (u32, u32)) -> bool {
    architecture.strip_prefix("compute_").and_then(version).is_some_and(|v| v <= capability)
}

/// "80" as (8, 0), "120" as (12, 0).
fn version(code: &str) -> Option<(u32, u32)> {
    let code: u32 = code.parse().ok()?;
    Some((code / 10, code % 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYWHERE: Image =
        Image { source: "a.cu", architectures: &["sm_80", "sm_90", "compute_80"], kernels: &[], bytes: &[] };
    const HOPPER: Image = Image { architectures: &["sm_90a"], ..EVERYWHERE };

    #[test]
    fn an_image_runs_where_it_has_code() {
        let on = |image: Image| {
            [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)].map(|capability| image.runs_on(capability))
        };
        assert_eq!(on(EVERYWHERE), [false, true, true, true, true, true]);
        assert_eq!(on(HOPPER), [false, false, false, true, false, false]);
    }

    #[test]
    fn ptx_needs_a_driver_as_new_as_the_compiler() {
        let images = [EVERYWHERE, HOPPER];
        let needed = |capability| least_driver(&images, (13, 2), capability);
        assert_eq!([needed((8, 6)), needed((9, 0)), needed((10, 0))], [(13, 0), (13, 0), (13, 2)]);
    }
}
