use super::compare::{Bound, Output};
use super::{Case, Checked, Site};
use crate::Result;

struct Pair {
    hidden: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Case for Pair {
    fn run<D: Checked>(&self, device: &D) -> Result<Vec<Output>> {
        let rows = self.a.len() / self.hidden;
        let [a, b] = [&self.a, &self.b].map(|data| device.upload(data, rows, self.hidden));
        let a = device.just_written(&a, rows, self.hidden);
        Ok(vec![Output::new("a + b", device.download(&device.add(&a, &b))?, Bound::sum(2))])
    }
}

pub fn add(site: &Site<'_>) -> Result<f64> {
    let (hidden, mut inputs) = (site.sizes.hidden, site.inputs());
    let n = site.sizes.tokens() * hidden;
    site.check(&Pair { hidden, a: inputs.values(n, 1.0), b: inputs.values(n, 1.0) })
}
