//! The base that runs train on top of: opened once for all of them, and packed once.

use std::cell::OnceCell;

use super::TrainOptions;
use super::learner::{CpuLearner, CudaLearner, Learner};
use super::team::Team;
use crate::bert::AnyEncoder;
use crate::device::{AnyDevice, Dtype};
use crate::hub::{Found, Id};
use crate::lora::Adapter;
use crate::model::BaseModel;
use crate::{Error, Result, builtin};

/// A base on the device that trains with it. No run changes it.
pub struct Base {
    pub model: BaseModel,
    pub device: AnyDevice,
    /// Where it is on the Hub, if there.
    id: Option<Id>,
    /// From the first run on that has something to do.
    packed: OnceCell<AnyEncoder>,
}

impl Base {
    /// Opens a Hugging Face folder, or the embedded base for `None`; `device` is what will train.
    ///
    /// # Errors
    /// [`Error::Usage`] for a device with int8 weights, and whatever is wrong with a file.
    pub fn open(found: Option<&Found>, device: AnyDevice) -> Result<Base> {
        if matches!(&device, AnyDevice::Cpu(cpu) if cpu.dtype() == Dtype::Int8) {
            return Err(Error::Usage("--dtype int8 is for rescoring: train with f32 or bf16".into()));
        }
        let model = found.map_or_else(builtin::model, Found::base)?;
        let id = found.and_then(|found| found.id.clone());
        Ok(Base { model, device, id, packed: OnceCell::new() })
    }

    /// Where it is on the Hub, if there.
    pub fn id(&self) -> Option<&Id> {
        self.id.as_ref()
    }

    /// What trains `adapter` on it, with the others of `team`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a team on a GPU, and as for [`AnyEncoder::load`].
    pub fn learner<'a>(
        &'a self,
        options: &'a TrainOptions,
        adapter: Adapter,
        team: &Team,
    ) -> Result<Box<dyn Learner + 'a>> {
        if team.size() > 1 && matches!(self.device, AnyDevice::Cuda(_)) {
            return Err(Error::Usage("a team trains on the CPU: give --device cpu".into()));
        }
        Ok(match self.packed()? {
            AnyEncoder::Cpu(cpu, encoder) => {
                Box::new(CpuLearner::new(cpu, encoder, options, adapter).in_team(team))
            }
            AnyEncoder::Cuda(cuda, encoder) => Box::new(CudaLearner::new(cuda, encoder, options, adapter)),
        })
    }

    fn packed(&self) -> Result<&AnyEncoder> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed);
        }
        let BaseModel { config, checkpoint, .. } = &self.model;
        let packed = AnyEncoder::load(self.device.clone(), config, checkpoint, true)?;
        Ok(self.packed.get_or_init(|| packed))
    }
}
