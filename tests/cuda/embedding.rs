use lorb_engine::device::Memory;
use lorb_engine::ops::embedding::{Embedding, EmbeddingTables};

use crate::autodiff::{Operation, Real};
use crate::devices::{devices, rounded, stored};
use crate::harness::{Oracle, Random, ULP, bits, weights};
use crate::oracle::{add, constants, layer_norm, rows};

const VOCABULARY: usize = 11;
const POSITIONS: usize = 13;

struct Data {
    width: usize,
    words: Vec<f32>,
    positions: Vec<f32>,
    segments: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    places: Vec<(u32, u32)>,
}

impl Operation for Data {
    fn naive<R: Real>(&self, _: &[R]) -> Vec<R> {
        let table = |x: &[f32]| rows(&constants::<R>(x), self.width);
        let (words, positions) = (table(&self.words), table(&self.positions));
        let (segments, gamma, beta) = (table(&self.segments), constants(&self.gamma), constants(&self.beta));
        let embed = |&(word, position): &(u32, u32)| {
            let sum = add(&add(&words[word as usize], &segments[0]), &positions[position as usize]);
            layer_norm(&sum, &gamma, &beta, 1e-12)
        };
        self.places.iter().flat_map(embed).collect()
    }
}

#[test]
fn rows_are_those_of_the_oracle() {
    for (rows, width) in [(1, 7), (2, 17), (6, 64), (5, 97), (3, 768), (2, 1024)] {
        for cuda in devices() {
            let mut random = Random::new(4);
            let mut table = |n: usize| rounded(&random.values(n), cuda.precision());
            let (words, positions) = (table(VOCABULARY * width), table(POSITIONS * width));
            let segments = table(2 * width);
            let (gamma, beta) = (random.values(width), random.values(width));
            let mut place = || (random.below(VOCABULARY) as u32, random.below(POSITIONS) as u32);
            let places: Vec<_> = (0..rows).map(|_| place()).collect();
            let data = Data { width, words, positions, segments, gamma, beta, places };
            let oracle = stored(Oracle::forward(&data, &[]), cuda.precision());

            let tables = cuda.embedding_tables(EmbeddingTables {
                hidden: width,
                words: weights(&data.words),
                positions: weights(&data.positions),
                segments: weights(&data.segments),
                gamma: weights(&data.gamma),
                beta: weights(&data.beta),
                eps: 1e-12,
            });
            let (tokens, positions): (Vec<u32>, Vec<u32>) = data.places.iter().copied().unzip();
            let (tokens, positions) = (cuda.index(&tokens), cuda.index(&positions));
            let run = || cuda.download(&cuda.embedding(&tables, &tokens, &positions)).unwrap();
            let y = run();
            let name = format!("embedding {:?}, {rows} rows of {width}", cuda.precision());
            oracle.check(&name, &y, 4.0 * ULP * oracle.largest());
            assert_eq!(bits(&run()), bits(&y), "{name} again");
        }
    }
}
