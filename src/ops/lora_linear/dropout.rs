//! LoRA's dropout: a mask that is a function of where it applies, so that it needs no memory and is the
//! same on every device, for every batch and thread.

/// The dropout of one layer call in one training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share of elements set to zero; the others are divided by 1 - p.
    pub p: f32,
    pub seed: u64,
    pub step: u32,
    pub layer: u32,
    /// The number of the first row in the step's batch: rows of later chunks get other masks.
    pub first_row: u32,
    /// The number of the first module among LoRA's targets.
    pub first_target: u32,
}

impl Dropout {
    /// The factors of row `row` for module `target` of the call: 0 or 1 / (1 - p).
    ///
    /// Philox-4x32-10 (Salmon et al., SC 2011) with the seed as key and (column / 4, row, target and
    /// layer, step) as counter; an element is dropped where its 32-bit word is below p 2^32.
    pub fn factors(&self, target: usize, row: usize, out: &mut [f32]) {
        let (threshold, keep) = (self.threshold(), self.keep());
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let place = self.place() + target as u32;
        for (i, four) in out.chunks_mut(4).enumerate() {
            let words = philox([i as u32, self.first_row + row as u32, place, self.step], key);
            for (x, word) in four.iter_mut().zip(words) {
                *x = if u64::from(word) < threshold { 0.0 } else { keep };
            }
        }
    }

    /// A word below it drops its element.
    pub(super) fn threshold(&self) -> u64 {
        (f64::from(self.p) * 4_294_967_296.0) as u64
    }

    /// What the elements that stay are multiplied by.
    pub(super) fn keep(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    /// The number of the layer and of the call's first target.
    pub(super) fn place(&self) -> u32 {
        self.layer * 8 + self.first_target
    }
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [c0, c1, c2, c3] = counter;
        let a = u64::from(c0) * 0xD251_1F53;
        let b = u64::from(c2) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ c1 ^ key[0], b as u32, (a >> 32) as u32 ^ c3 ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // Known answers of Random123's kat_vectors for philox4x32-10.
        let zeros = philox([0; 4], [0; 2]);
        assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn the_share_dropped_is_p_and_the_mean_is_one() {
        let d = Dropout { p: 0.25, seed: 7, step: 3, layer: 1, first_row: 0, first_target: 0 };
        let mut row = vec![0.0; 1000];
        let (mut dropped, mut sum) = (0, 0.0);
        for i in 0..100 {
            d.factors(2, i, &mut row);
            dropped += row.iter().filter(|&&x| x == 0.0).count();
            sum += row.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        assert!((dropped as f64 / 1e5 - 0.25).abs() < 0.01);
        assert!((sum / 1e5 - 1.0).abs() < 0.02);
    }

    #[test]
    fn a_row_of_a_later_chunk_is_the_same_row() {
        let whole = Dropout { p: 0.5, seed: 1, step: 0, layer: 0, first_row: 0, first_target: 0 };
        let chunk = Dropout { first_row: 10, ..whole };
        let (mut a, mut b) = ([0.0; 9], [0.0; 9]);
        whole.factors(0, 12, &mut a);
        chunk.factors(0, 2, &mut b);
        assert_eq!(a, b);
    }
}
