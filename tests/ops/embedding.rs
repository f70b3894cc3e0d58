use lorb_engine::device::Memory;
use lorb_engine::ops::embedding::{Embedding, EmbeddingTables};

use crate::autodiff::{Operation, Real};
use crate::harness::{Oracle, Random, ULP, devices, weights};
use crate::oracle::{add, constants, layer_norm, rows};

#[derive(Debug)]
struct Case {
    rows: usize,
    width: usize,
}

const VOCABULARY: usize = 11;
const POSITIONS: usize = 13;

/// Frozen: nothing to differentiate by, so the tables are constants.
struct Data {
    width: usize,
    words: Vec<f32>,
    positions: Vec<f32>,
    segments: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    places: Vec<(u32, u32)>,
}

impl Case {
    fn data(&self) -> Data {
        let mut random = Random::new(4);
        let width = self.width;
        Data {
            width,
            words: random.values(VOCABULARY * width),
            positions: random.values(POSITIONS * width),
            segments: random.values(2 * width),
            gamma: random.values(width),
            beta: random.values(width),
            places: (0..self.rows)
                .map(|_| (random.below(VOCABULARY) as u32, random.below(POSITIONS) as u32))
                .collect(),
        }
    }
}

impl Operation for Data {
    fn naive<R: Real>(&self, _: &[R]) -> Vec<R> {
        let table = |x: &[f32]| rows(&constants::<R>(x), self.width);
        let (words, positions, segments) =
            (table(&self.words), table(&self.positions), table(&self.segments));
        let (gamma, beta) = (constants(&self.gamma), constants(&self.beta));
        let embed = |&(word, position): &(u32, u32)| {
            let sum = add(&add(&words[word as usize], &segments[0]), &positions[position as usize]);
            layer_norm(&sum, &gamma, &beta, 1e-12)
        };
        self.places.iter().flat_map(embed).collect()
    }
}

#[test]
fn rows_are_those_of_the_oracle() {
    for (rows, width) in [(1, 7), (2, 17), (7, 64), (13, 97), (50, 384), (97, 2)] {
        let case = Case { rows, width };
        let data = case.data();
        let oracle = Oracle::forward(&data, &[]);
        for cpu in devices() {
            let tables = cpu.embedding_tables(EmbeddingTables {
                hidden: width,
                words: weights(&data.words),
                positions: weights(&data.positions),
                segments: weights(&data.segments),
                gamma: weights(&data.gamma),
                beta: weights(&data.beta),
                eps: 1e-12,
            });
            let (tokens, positions): (Vec<u32>, Vec<u32>) = data.places.iter().copied().unzip();
            let y = cpu.embedding(&tables, &cpu.index(&tokens), &cpu.index(&positions));
            let name = format!("embedding on {}, {case:?}", cpu.isa().name());
            oracle.check(name, &y.values(), 2.0 * ULP * oracle.largest());
        }
    }
}
