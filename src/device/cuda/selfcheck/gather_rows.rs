use super::compare::{Bound, Output};
use super::{Case, Checked, Site};
use crate::Result;

struct Rows {
    hidden: usize,
    index: Vec<u32>,
    /// [rows, hidden], fewer than the index has.
    x: Vec<f32>,
    dy: Vec<f32>,
}

impl Case for Rows {
    fn run<D: Checked>(&self, device: &D) -> Result<Vec<Output>> {
        let (from, to) = (self.x.len() / self.hidden, self.index.len());
        let index = device.row_index(&self.index, from);
        let x = device.upload(&self.x, from, self.hidden);
        let dy = device.upload(&self.dy, to, self.hidden);
        let x = device.just_written(&x, from, self.hidden);
        let y = device.gather_rows(&x, &index);
        let dy = device.just_written(&dy, to, self.hidden);
        let dx = device.scatter_rows(&dy, &index, from, None);
        let added = device.scatter_rows(&dy, &index, from, Some(x));
        // A row is named about twice.
        let bound = Bound::sum(2);
        Ok(vec![
            Output::new("y", device.download(&y)?, Bound::Same),
            Output::new("dx", device.download(&dx)?, bound),
            Output::new("dx and more", device.download(&added)?, bound),
        ])
    }
}

pub fn gather_rows(site: &Site<'_>) -> Result<f64> {
    let (hidden, tokens, mut inputs) = (site.sizes.hidden, site.sizes.tokens(), site.inputs());
    let rows = tokens.div_ceil(2);
    site.check(&Rows {
        hidden,
        index: inputs.numbers(tokens, rows),
        x: inputs.values(rows * hidden, 1.0),
        dy: inputs.values(tokens * hidden, 1.0),
    })
}
