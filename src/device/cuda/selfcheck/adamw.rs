use super::Site;
use super::compare::{Bound, Output};
use crate::Result;
use crate::device::cuda::Cuda;
use crate::ops::adamw::cuda::DeviceAdamw;
use crate::ops::adamw::{Adamw, AdamwOptions, ParameterGroup};

/// Some updates, of parameters that have two rates.
struct Updates {
    start: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    groups: [ParameterGroup; 2],
}

impl Updates {
    fn outputs(&self, values: Vec<f32>, state: Adamw, norms: Vec<f32>) -> Vec<Output> {
        // Element by element, but for the norm.
        let bound = Bound::sum(self.gradients.len()).in_f32();
        vec![
            Output::new("values", values, bound),
            Output::new("m", state.m, bound),
            Output::new("v", state.v, bound),
            Output::new("norms", norms, bound),
        ]
    }

    fn on_cuda(&self, cuda: &Cuda) -> Result<Vec<Output>> {
        let start = Adamw::new(AdamwOptions::default(), self.start.len());
        let mut adamw = DeviceAdamw::new(cuda, &start, &self.groups);
        let (mut values, mut norms) =
            (cuda.upload_flat(&self.start), cuda.upload_flat(&vec![0.0; self.gradients.len()]));
        for (i, gradient) in self.gradients.iter().enumerate() {
            adamw.set_step(cuda, i as u32 + 1, 1.0);
            adamw.update(cuda, &mut values, &cuda.upload_flat(gradient), (&mut norms, i));
        }
        let state = adamw.state(cuda, self.gradients.len() as u64)?;
        Ok(self.outputs(cuda.download_flat(&values)?, state, cuda.download_flat(&norms)?))
    }

    fn on_cpu(&self) -> Result<Vec<Output>> {
        let mut adamw = Adamw::new(AdamwOptions::default(), self.start.len());
        let mut values = self.start.clone();
        let mut update = |gradient: &Vec<f32>| adamw.update(&mut values, gradient, &self.groups) as f32;
        let norms = self.gradients.iter().map(&mut update).collect();
        Ok(self.outputs(values, adamw, norms))
    }
}

pub fn adamw(site: &Site<'_>) -> Result<f64> {
    let (parameters, mut inputs) = (site.sizes.parameters, site.inputs());
    let half = parameters / 2;
    let group = |range, lr| ParameterGroup { range, lr, weight_decay: 0.01 };
    let updates = Updates {
        start: inputs.values(parameters, 1.0),
        gradients: (0..3).map(|_| inputs.values(parameters, 1.0)).collect(),
        groups: [group(0..half, 1e-2), group(half..parameters, 1e-3)],
    };
    site.compare(&|cuda| updates.on_cuda(cuda), &|_| updates.on_cpu())
}
