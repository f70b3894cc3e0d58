//! The textbook's form of the embedding, for the tests of both devices.

use lorb_engine::ops::embedding::EmbeddingTables;

use crate::autodiff::{Operation, Real};
use crate::harness::{Random, weights};
use crate::oracle::{add, constants, layer_norm, rows};

pub const VOCABULARY: usize = 11;
pub const POSITIONS: usize = 13;

/// Frozen: nothing to differentiate by, so the tables are constants.
pub struct Data {
    width: usize,
    words: Vec<f32>,
    positions: Vec<f32>,
    segments: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    pub places: Vec<(u32, u32)>,
}

impl Data {
    /// `stored`: the tables as the device keeps them.
    pub fn new(count: usize, width: usize, stored: impl Fn(&[f32]) -> Vec<f32>) -> Data {
        let mut random = Random::new(4);
        let mut table = |rows: usize| stored(&random.values(rows * width));
        let (words, positions, segments) = (table(VOCABULARY), table(POSITIONS), table(2));
        let (gamma, beta) = (random.values(width), random.values(width));
        let mut place = || (random.below(VOCABULARY) as u32, random.below(POSITIONS) as u32);
        let places = (0..count).map(|_| place()).collect();
        Data { width, words, positions, segments, gamma, beta, places }
    }

    pub fn tables(&self) -> EmbeddingTables {
        EmbeddingTables {
            hidden: self.width,
            words: weights(&self.words),
            positions: weights(&self.positions),
            segments: weights(&self.segments),
            gamma: weights(&self.gamma),
            beta: weights(&self.beta),
            eps: 1e-12,
        }
    }
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
