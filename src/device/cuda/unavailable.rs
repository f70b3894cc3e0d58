//! Why there is no CUDA device to use.

/// The CUDA device that this program needs at least.
pub const LEAST_CAPABILITY: (u32, u32) = (8, 0);

/// What is missing for the CUDA device, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    #[error("this program was built without CUDA; build it with `cargo build --release --features cuda`")]
    NotBuilt,

    #[error("there is no NVIDIA driver: libcuda.so.1 was not found")]
    NoDriver,

    #[error("the driver finds no CUDA device; see what `nvidia-smi` and CUDA_VISIBLE_DEVICES say")]
    NoDevice,

    #[error("this program was built without kernels; build it again without LORB_KERNELS=none")]
    NoKernels,

    #[error(
        "{name} has compute capability {}.{}, the kernels need {}.{} or later (A100, H100 and their like)",
        found.0, found.1, LEAST_CAPABILITY.0, LEAST_CAPABILITY.1
    )]
    TooOldDevice { name: String, found: (u32, u32) },

    #[error(
        "the driver is of CUDA {}.{}, the kernels need one of CUDA {}.{} or later{}; update the driver",
        found.0, found.1, needed.0, needed.1, series(*needed)
    )]
    TooOldDriver { found: (u32, u32), needed: (u32, u32) },

    /// Kernels that the images lack, or that take other parameters there.
    #[error("the embedded kernels are not those of this program: {0}; build it again")]
    OtherKernels(String),

    #[error("{0}")]
    Failed(String),
}

impl Unavailable {
    /// Whether it seems that a GPU was meant to be used.
    pub fn surprises(&self) -> bool {
        !matches!(self, Unavailable::NotBuilt | Unavailable::NoDriver)
    }
}

/// The first driver of a major CUDA version, as NVIDIA numbers drivers.
fn series(cuda: (u32, u32)) -> &'static str {
    match cuda {
        (13, 0) => " (580 or later)",
        (12, 0) => " (525 or later)",
        _ => "",
    }
}
