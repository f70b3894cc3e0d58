use bytemuck::{Pod, Zeroable};

use super::{Adamw, AdamwOptions, ParameterGroup};
use crate::Result;
use crate::device::cuda::kernels::{ADAMW_NORM, ADAMW_UPDATE};
use crate::device::cuda::memory::Block;
use crate::device::cuda::{Address, Cuda, Flat, tiles};

/// `Adamw` of kernels/adamw.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct AdamwParameters {
    values: Address,
    gradient: Address,
    m: Address,
    v: Address,
    groups: Address,
    step: Address,
    squares: Address,
    norm: Address,
    parameters: u32,
    group_count: u32,
    beta1: f32,
    beta2: f32,
    log_beta1: f32,
    log_beta2: f32,
    eps: f32,
    clip: f32,
}

/// `AdamwGroup` of kernels/adamw.cu.
#[derive(Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Group {
    begin: u32,
    end: u32,
    lr: f32,
    weight_decay: f32,
}

/// `AdamwStep` of kernels/adamw.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Step {
    number: u32,
    factor: f32,
}

/// The optimizer with its state on the device.
pub struct DeviceAdamw {
    options: AdamwOptions,
    m: Flat,
    v: Flat,
    groups: Block,
    group_count: usize,
    step: Block,
    /// A double for each chunk of the parameters.
    squares: Block,
}

impl DeviceAdamw {
    /// Goes on from `state`. The rates of the `groups` are those that [`set_step`](Self::set_step) multiplies.
    ///
    /// # Panics
    /// Where a group lies outside of the parameters.
    pub fn new(cuda: &Cuda, state: &Adamw, groups: &[ParameterGroup]) -> DeviceAdamw {
        let parameters = state.m.len();
        assert!(groups.iter().all(|g| g.range.end <= parameters));
        let groups = merged(groups);
        let of_groups = cuda.block(size_of_val(&groups[..]));
        cuda.write(&of_groups, &groups);
        DeviceAdamw {
            options: state.options,
            m: cuda.upload_flat(&state.m),
            v: cuda.upload_flat(&state.v),
            groups: of_groups,
            group_count: groups.len(),
            step: cuda.block(size_of::<Step>()),
            squares: cuda.block(chunks(parameters) as usize * size_of::<f64>()),
        }
    }

    /// Before each update, or replay of one: its number, from 1, and the factor of all learning rates.
    pub fn set_step(&mut self, cuda: &Cuda, number: u32, factor: f32) {
        cuda.write(&self.step, &[Step { number, factor }]);
    }

    /// One update of `values` by `gradient`, as [`Adamw::update`]; its norm, before clipping, is written to
    /// `norm` at `at`. Where that is not finite, nothing else is changed. Nothing waits for the device.
    ///
    /// # Panics
    /// Where sizes do not fit.
    pub fn update(
        &mut self,
        cuda: &Cuda,
        values: &mut Flat,
        gradient: &Flat,
        (norm, at): (&mut Flat, usize),
    ) {
        let parameters = self.m.len();
        assert!(values.len() == parameters && gradient.len() == parameters && at < norm.len());
        let AdamwOptions { beta1, beta2, eps, clip } = self.options;
        let log = |beta: f32| f64::from(beta).ln() as f32;
        let p = AdamwParameters {
            values: values.address(),
            gradient: gradient.address(),
            m: self.m.address(),
            v: self.v.address(),
            groups: self.groups.address(),
            step: self.step.address(),
            squares: self.squares.address(),
            norm: norm.at(at),
            parameters: parameters as u32,
            group_count: self.group_count as u32,
            beta1,
            beta2,
            log_beta1: log(beta1),
            log_beta2: log(beta2),
            eps,
            clip,
        };
        let shared_bytes = tiles::ADAMW_THREADS / 32 * size_of::<f64>() as u32;
        for kernel in [ADAMW_NORM, ADAMW_UPDATE] {
            // SAFETY: values, gradient, m and v have as many floats as there are parameters, `squares` a double
            // for each block; the first kernel writes `squares` alone, the second, which reads them, the others,
            // each element by the thread that read it. What is written is borrowed alone.
            unsafe { cuda.launch(kernel, [chunks(parameters), 1, 1], shared_bytes, &p) };
        }
    }

    /// The state after `step` updates, once everything asked for before is done.
    ///
    /// # Errors
    /// Whatever failed on the device up to now.
    pub fn state(&self, cuda: &Cuda, step: u64) -> Result<Adamw> {
        let (m, v) = (cuda.download_flat(&self.m)?, cuda.download_flat(&self.v)?);
        Ok(Adamw { options: self.options, m, v, step })
    }
}

/// Blocks of the kernels.
fn chunks(parameters: usize) -> u32 {
    (parameters as u32).div_ceil(tiles::ADAMW_CHUNK)
}

/// The groups as kernels look them up, neighbours of the same rate and decay as one.
fn merged(groups: &[ParameterGroup]) -> Vec<Group> {
    let mut all: Vec<Group> = Vec::new();
    for ParameterGroup { range, lr, weight_decay } in groups.iter().cloned() {
        let (begin, end) = (range.start as u32, range.end as u32);
        match all.last_mut() {
            Some(last) if (last.end, last.lr, last.weight_decay) == (begin, lr, weight_decay) => {
                last.end = end
            }
            _ => all.push(Group { begin, end, lr, weight_decay }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_rate_are_one_group() {
        let group = |range, lr| ParameterGroup { range, lr, weight_decay: 0.5 };
        let all = merged(&[group(0..3, 0.1), group(3..7, 0.1), group(7..8, 0.2), group(9..12, 0.2)]);
        let ranges: Vec<_> = all.iter().map(|g| (g.begin, g.end)).collect();
        assert_eq!(ranges, [(0, 7), (7, 8), (9, 12)]);
    }
}
