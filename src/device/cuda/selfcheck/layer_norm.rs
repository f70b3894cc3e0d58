use super::compare::{Bound, Output};
use super::{Case, Checked, Site};
use crate::Result;
use crate::ops::layer_norm::NormWeights;

struct Rows {
    hidden: usize,
    norm: NormWeights,
    x: Vec<f32>,
    dy: Vec<f32>,
}

impl Case for Rows {
    fn run<D: Checked>(&self, device: &D) -> Result<Vec<Output>> {
        let (rows, bound) = (self.x.len() / self.hidden, Bound::sum(self.hidden));
        let norm = device.norm(self.norm.clone());
        let [x, dy] = [&self.x, &self.dy].map(|data| device.upload(data, rows, self.hidden));
        let [x, dy] = [x, dy].map(|given| device.just_written(&given, rows, self.hidden));
        let dx = device.layer_norm_backward(&norm, &x, &dy);
        let x = device.just_written(&x, rows, self.hidden);
        let y = device.layer_norm(&norm, &x);
        Ok(vec![
            Output::new("y", device.download(&y)?, bound),
            Output::new("dx", device.download(&dx)?, bound),
        ])
    }
}

pub fn layer_norm(site: &Site<'_>) -> Result<f64> {
    let (hidden, mut inputs) = (site.sizes.hidden, site.inputs());
    let norm =
        NormWeights { gamma: inputs.weights(hidden, 1.0), beta: inputs.weights(hidden, 1.0), eps: 1e-12 };
    let n = site.sizes.tokens() * hidden;
    site.check(&Rows { hidden, norm, x: inputs.values(n, 1.0), dy: inputs.values(n, 1.0) })
}
