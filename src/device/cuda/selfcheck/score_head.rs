use std::ops::Range;

use super::compare::{Bound, Output};
use super::{Case, Checked, Site};
use crate::Result;

/// A trained pooler and the classifier.
struct Head {
    hidden: usize,
    /// W, b and w, one after the other.
    parameters: Vec<f32>,
    x: Vec<f32>,
    dg: Vec<f32>,
}

impl Head {
    /// Where W, b and w are.
    fn places(&self) -> [Range<usize>; 3] {
        let h = self.hidden;
        [0..h * h, h * h..h * (h + 1), h * (h + 1)..h * (h + 2)]
    }
}

impl Case for Head {
    fn run<D: Checked>(&self, device: &D) -> Result<Vec<Output>> {
        let (h, rows) = (self.hidden, self.dg.len());
        let [weight, bias, of_classifier] = self.places();
        let parameters = device.parameters(&self.parameters);
        let pooler = device.trained_pooler(&[&parameters], weight, bias, true);
        let classifier = device.classifier_weights(&[(&parameters, 0.5)], of_classifier.clone());
        let x = device.upload(&self.x, rows, h);
        let x = device.just_written(&x, rows, h);
        let z = device.pooler(&pooler, None, &x);
        let g = device.classifier(&classifier, None, &z);
        let mut gradient = device.parameters(&vec![0.0; self.parameters.len()]);
        let dg = device.upload_f32(&self.dg, rows, 1);
        let dz = device.classifier_backward(&classifier, &z, &dg, &mut gradient);
        let dx = device.pooler_backward(&pooler, &x, &z, &dz, true, &mut gradient);
        let dx = dx.expect("it was asked for");
        let gradient = device.values(&gradient)?;
        let (of_pooler, of_classifier) = gradient.split_at(of_classifier.start);
        // All but x and dx are f32 in every precision.
        let bound = Bound::sum(h.max(rows)).in_f32();
        Ok(vec![
            Output::new("z", device.download(&z)?, bound),
            Output::new("g", device.download(&g)?, bound),
            Output::new("dz", device.download(&dz)?, bound),
            Output::new("dx", device.download(&dx)?, Bound::sum(h)),
            Output::new("dW and db", of_pooler.to_vec(), bound),
            Output::new("dw", of_classifier.to_vec(), bound),
        ])
    }
}

pub fn score_head(site: &Site<'_>) -> Result<f64> {
    let (h, rows, mut inputs) = (site.sizes.hidden, site.sizes.lengths.len(), site.inputs());
    let small = 2.0 / (h as f32).sqrt();
    site.check(&Head {
        hidden: h,
        parameters: inputs.values(h * (h + 2), small),
        x: inputs.values(rows * h, 1.0),
        dg: inputs.values(rows, 1.0),
    })
}
