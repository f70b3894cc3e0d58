use super::compare::{Bound, Output};
use super::{Case, Checked, Site};
use crate::Result;
use crate::ops::embedding::EmbeddingTables;

struct Tokens {
    tables: EmbeddingTables,
    tokens: Vec<u32>,
    positions: Vec<u32>,
}

impl Case for Tokens {
    fn run<D: Checked>(&self, device: &D) -> Result<Vec<Output>> {
        let tables = device.embedding_tables(self.tables.clone());
        let y = device.embedding(&tables, &device.index(&self.tokens), &device.index(&self.positions));
        Ok(vec![Output::new("y", device.download(&y)?, Bound::sum(self.tables.hidden))])
    }
}

pub fn embedding(site: &Site<'_>) -> Result<f64> {
    const WORDS: usize = 1000;
    const POSITIONS: usize = 512;
    let (hidden, tokens, mut inputs) = (site.sizes.hidden, site.sizes.tokens(), site.inputs());
    let tables = EmbeddingTables {
        hidden,
        words: inputs.weights(WORDS * hidden, 1.0),
        positions: inputs.weights(POSITIONS * hidden, 1.0),
        segments: inputs.weights(2 * hidden, 1.0),
        gamma: inputs.weights(hidden, 1.0),
        beta: inputs.weights(hidden, 1.0),
        eps: 1e-12,
    };
    let (tokens, positions) = (inputs.numbers(tokens, WORDS), inputs.numbers(tokens, POSITIONS));
    site.check(&Tokens { tables, tokens, positions })
}
