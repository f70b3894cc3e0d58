use super::Site;
use super::compare::{Bound, Output};
use crate::Result;
use crate::device::Memory;
use crate::device::cpu::Cpu;
use crate::device::cuda::{Cuda, Rows};
use crate::ops::correlation;
use crate::ops::mwer::cuda::{Beta, Lists};
use crate::ops::mwer::{self, MwerInputs};

/// The hypotheses of some utterances.
struct Utterances {
    lengths: &'static [usize],
    /// The largest of each is 0.
    offsets: Vec<f32>,
    scores: Vec<f32>,
    errors: Vec<u32>,
}

/// The logarithm of beta.
const THETA: f32 = -0.5;

impl Utterances {
    /// Losses are shares of a few errors, and their gradients too: sums over a list of differences of P.
    fn outputs(&self, losses: &[f32], d_scores: Vec<f32>, d_theta: f32) -> Vec<Output> {
        let bound = Bound::sum(self.offsets.len()).in_f32();
        vec![
            Output::new("losses", losses.to_vec(), bound),
            Output::new("dg", d_scores, bound),
            Output::new("dtheta", vec![d_theta], bound),
        ]
    }

    fn on_cuda(&self, cuda: &Cuda) -> Result<Vec<Output>> {
        let mut starts = vec![0];
        starts.extend(self.lengths.iter().scan(0, |end, &n| {
            *end += n as u32;
            Some(*end)
        }));
        let errors: Vec<f32> = self.errors.iter().map(|&e| e as f32).collect();
        let lists = Lists {
            offsets: &cuda.upload_flat(&self.offsets),
            errors: &cuda.upload_flat(&errors),
            starts: &cuda.index(&starts),
            utterances: &Rows::all(self.lengths.len()),
        };
        let scores = cuda.upload_f32(&self.scores, self.scores.len(), 1);
        let parameters = cuda.upload_flat(&[THETA]);
        let (mut gradient, mut losses) = (cuda.upload_flat(&[0.0]), cuda.upload_flat(&[0.0; 2]));
        let beta = Beta::Learned { parameters: &parameters, theta: 0 };
        let d_scores = cuda.mwer(&lists, &scores, beta, &mut gradient, (&mut losses, 0));
        let (losses, d_theta) = (cuda.download_flat(&losses)?, cuda.download_flat(&gradient)?);
        Ok(self.outputs(&losses, cuda.download(&d_scores)?, d_theta[0]))
    }

    fn on_cpu(&self) -> Result<Vec<Output>> {
        let offsets: Vec<f64> = self.offsets.iter().map(|&x| x.into()).collect();
        let mut end = 0;
        let utterance = |&n: &usize| {
            end += n;
            end - n..end
        };
        let utterances: Vec<_> = self.lengths.iter().map(utterance).collect();
        let beta = f64::from(THETA).exp();
        let inputs = MwerInputs { offsets: &offsets, scores: &self.scores, errors: &self.errors, beta };
        let found = mwer::mean_mwer(inputs, &utterances);
        Ok(self.outputs(
            &[found.loss as f32, found.loss_without as f32],
            found.d_scores,
            found.d_theta as f32,
        ))
    }
}

pub fn mwer(site: &Site<'_>) -> Result<f64> {
    let (lengths, mut inputs) = (site.sizes.lists, site.inputs());
    let hypotheses = lengths.iter().sum();
    let mut offsets = inputs.values(hypotheses, 3.0);
    let mut rest = &mut offsets[..];
    for &n in lengths {
        let (list, others) = rest.split_at_mut(n);
        let largest = list.iter().copied().fold(f32::MIN, f32::max);
        list.iter_mut().for_each(|x| *x -= largest);
        rest = others;
    }
    let scores = inputs.values(hypotheses, 2.0);
    let utterances = Utterances { lengths, offsets, scores, errors: inputs.numbers(hypotheses, 8) };
    site.compare(&|cuda| utterances.on_cuda(cuda), &|_| utterances.on_cpu())
}

/// Both by the Gram matrix and by the other.
pub fn correlation(site: &Site<'_>) -> Result<f64> {
    let hypotheses: usize = site.sizes.lists.iter().sum();
    let worst = [(hypotheses, site.sizes.hidden), (hypotheses, hypotheses / 2)].map(|(n, d)| {
        let z = site.inputs().values(n * d, 1.0);
        let outputs = |loss: f32, d_features| {
            let bound = Bound::sum(n.max(d)).in_f32();
            vec![Output::new("loss", vec![loss], bound), Output::new("dZ", d_features, bound)]
        };
        let on_cuda = |cuda: &Cuda| {
            let mut loss = cuda.upload_flat(&[0.0]);
            let d_features = cuda.correlation(&cuda.upload_f32(&z, n, d), 1.0, (&mut loss, 0));
            Ok(outputs(cuda.download_flat(&loss)?[0], cuda.download(&d_features)?))
        };
        let on_cpu = |cpu: &Cpu| {
            let found = correlation::correlation(cpu, &z, n, d);
            Ok(outputs(found.loss as f32, found.d_features))
        };
        site.compare(&on_cuda, &on_cpu)
    });
    let [gram, other] = worst;
    Ok(gram?.max(other?))
}
