//! An encoder on a device of one of the kinds.

use super::{Checkpoint, Config, Encoder};
use crate::Result;
use crate::device::AnyDevice;
use crate::device::cpu::Cpu;
use crate::device::cuda::Cuda;

/// A base's encoder with the device that has its weights.
pub enum AnyEncoder {
    Cpu(Cpu, Encoder<Cpu>),
    Cuda(Cuda, Encoder<Cuda>),
}

impl AnyEncoder {
    /// Packs the encoder for the device; `training` also packs what gradients pass through.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) where a tensor is missing or has another shape,
    /// [`Error::Usage`](crate::Error::Usage) where the model is too large for the kernels,
    /// [`Error::Device`](crate::Error::Device) where a GPU fails.
    pub fn load(device: AnyDevice, config: &Config, checkpoint: &Checkpoint, training: bool) -> Result<Self> {
        match device {
            AnyDevice::Cpu(cpu) => {
                let encoder = Encoder::load(&cpu, config, checkpoint, training)?;
                Ok(AnyEncoder::Cpu(cpu, encoder))
            }
            AnyDevice::Cuda(cuda) => {
                cuda.accept(config)?;
                let encoder = Encoder::load(&cuda, config, checkpoint, training)?;
                cuda.check()?;
                Ok(AnyEncoder::Cuda(cuda, encoder))
            }
        }
    }
}
