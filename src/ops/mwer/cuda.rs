use bytemuck::{Pod, Zeroable};

use crate::device::cuda::kernels::{MWER, MWER_SUM};
use crate::device::cuda::tensor::RowsParameter;
use crate::device::cuda::{Address, Bounds, Cuda, Flat, Index, Precision, Rows, Tensor, tiles};

/// `Mwer` of kernels/mwer.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct MwerParameters {
    offsets: Address,
    scores: Address,
    errors: Address,
    starts: Address,
    theta: Address,
    d_scores: Address,
    of_utterances: Address,
    utterances: RowsParameter,
    beta: f32,
    unused: u32,
}

/// `MwerSum` of kernels/mwer.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct MwerSumParameters {
    of_utterances: Address,
    losses: Address,
    d_theta: Address,
    utterances: RowsParameter,
}

/// The utterances of a step on the device, their hypotheses side by side.
pub struct Lists<'a> {
    /// The part of each hypothesis's combined score that is not trained, less the largest of its utterance:
    /// taken away in f64, so that f32 is precise where it matters.
    pub offsets: &'a Flat,
    /// Word errors of each hypothesis.
    pub errors: &'a Flat,
    /// Where each utterance's hypotheses start, and where those of the last end: ascending numbers, none above
    /// the number of hypotheses. One more than there are utterances.
    pub starts: &'a Index,
    pub utterances: &'a Rows,
}

/// The weight of g.
pub enum Beta<'a> {
    Given(f32),
    /// The exponential of the parameter at `theta`.
    Learned {
        parameters: &'a Flat,
        theta: usize,
    },
}

impl Cuda {
    /// dL/dg [hypotheses, 1] for L the mean of the utterances' losses, of the `scores` g [hypotheses, 1], f32.
    /// dL/dtheta, where learned, is added to `gradient` at theta's place; the mean loss and what it would be
    /// without g are written to `losses` at `at` and after it. Nothing waits for the device.
    ///
    /// # Panics
    /// Where sizes do not fit.
    pub fn mwer(
        &self,
        lists: &Lists<'_>,
        scores: &Tensor,
        beta: Beta<'_>,
        gradient: &mut Flat,
        (losses, at): (&mut Flat, usize),
    ) -> Tensor {
        let (hypotheses, utterances) = (scores.rows().capacity, lists.utterances.capacity);
        assert!(scores.precision() == Precision::F32 && scores.columns() == 1 && scores.stride() == 1);
        assert!(lists.offsets.len() == hypotheses && lists.errors.len() == hypotheses);
        assert!(lists.starts.rows().capacity > utterances && at + 2 <= losses.len());
        assert!(lists.starts.bounds().keep_to(Bounds::offsets_of(hypotheses)), "no such hypotheses");
        let (beta, theta, d_theta) = match beta {
            Beta::Given(beta) => (beta, Address::NULL, Address::NULL),
            Beta::Learned { parameters, theta } => {
                assert!(theta < parameters.len() && theta < gradient.len());
                (0.0, parameters.at(theta), gradient.at(theta))
            }
        };
        let d_scores = self.tensor(scores.rows().clone(), 1, Precision::F32);
        let of_utterances = self.flat(utterances * 3);
        let parameters = MwerParameters {
            offsets: lists.offsets.address(),
            scores: scores.address(),
            errors: lists.errors.address(),
            starts: lists.starts.address(),
            theta,
            d_scores: d_scores.address(),
            of_utterances: of_utterances.address(),
            utterances: lists.utterances.parameter(),
            beta,
            unused: 0,
        };
        let floats = |values: u32| tiles::MWER_THREADS / 32 * values * size_of::<f32>() as u32;
        // SAFETY: offsets, scores, errors and d_scores have a float for each hypothesis, and `starts`, one
        // longer than the utterances, names no others; of_utterances has three floats for each utterance. The
        // outputs are new memory.
        unsafe { self.launch(MWER, [utterances as u32, 1, 1], floats(5), &parameters) };
        let parameters = MwerSumParameters {
            of_utterances: of_utterances.address(),
            losses: losses.at(at),
            d_theta,
            utterances: lists.utterances.parameter(),
        };
        // SAFETY: of_utterances has three floats for each utterance, there is room for two losses, and theta
        // has its place in the gradient; both are borrowed alone.
        unsafe { self.launch(MWER_SUM, [1, 1, 1], floats(3), &parameters) };
        d_scores
    }
}
