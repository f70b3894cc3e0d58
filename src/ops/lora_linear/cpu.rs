use std::ops::Range;
use std::sync::Arc;

use super::{Call, DeviceEpilogue, Dropout, Dx, KEPT, LinearWeights, LoraLinear, Output};
use crate::bert::Weights;
use crate::device::Memory;
use crate::device::cpu::gemm::{Activation, Addend, Gemm, Packed, Right, Term, gemm};
use crate::device::cpu::{Cpu, Matrix};
use crate::lora::LoraSlot;
use crate::profile::Work;

/// The modules of a layer, each packed on its own, so that their panels never straddle two.
pub struct Linear {
    input: usize,
    modules: Vec<Module>,
}

struct Module {
    output: usize,
    bias: Weights,
    /// W^T, for y = x W^T.
    forward: Packed,
    /// W, for dx = dy W; where the layer is trained through.
    backward: Option<Packed>,
}

/// A layer's modules, of each adapter.
pub struct Lora {
    adapters: Vec<Arc<[Option<LoraModule>]>>,
}

impl Lora {
    /// The adapters of all `parts`, one after the other; nothing is packed again.
    pub(crate) fn join<'a>(parts: impl Iterator<Item = &'a Lora>) -> Lora {
        Lora { adapters: parts.flat_map(|part| part.adapters.iter().cloned()).collect() }
    }

    /// The memory that the adapters take.
    pub(crate) fn bytes(&self) -> usize {
        let backward = |b: &Backward| b.up.bytes() + 4 * b.a.len();
        let of = |m: &LoraModule| m.down.bytes() + 4 * m.b.len() + m.backward.as_ref().map_or(0, backward);
        self.adapters.iter().flat_map(|modules| modules.iter().flatten()).map(of).sum()
    }
}

struct LoraModule {
    slot: LoraSlot,
    /// scale A^T [in, rank], and B^T [rank, out].
    down: Packed,
    b: Vec<f32>,
    /// Where it is trained.
    backward: Option<Backward>,
}

struct Backward {
    /// scale B [out, rank], and A [rank, in].
    up: Packed,
    a: Vec<f32>,
}

impl LoraModule {
    fn backward(&self) -> &Backward {
        self.backward.as_ref().expect("packed for training")
    }
}

impl Linear {
    /// The columns of y that each module of `range` takes, in order.
    fn columns(&self, range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut first = 0;
        range.map(move |m| {
            let columns = first..first + self.modules[m].output;
            first = columns.end;
            (m, columns)
        })
    }
}

impl<'a> Call<'a, Cpu> {
    /// Runs of rows with their adapter of module `m`: one product each, so that adapters with few rows read the
    /// base's weights more often. Rows without an adapter are one run.
    fn runs(&self, m: usize, rows: usize) -> Vec<(Range<usize>, Option<&'a LoraModule>)> {
        let adapter = |a: usize| self.lora.and_then(|l| l.adapters[a][m].as_ref());
        let runs = match self.segments {
            Some(segments) if adapter(0).is_some() => {
                segments.iter().map(|(run, a)| (run.clone(), adapter(*a))).collect()
            }
            _ => vec![(0..rows, adapter(0))],
        };
        runs.into_iter().filter(|(run, _)| !run.is_empty()).collect()
    }

    /// Of the adapters of module `m`; 0 without.
    fn rank(&self, m: usize) -> usize {
        self.lora.and_then(|l| l.adapters[0][m].as_ref()).map_or(0, |l| l.slot.rank)
    }
}

impl LoraLinear for Cpu {
    type Linear = Linear;
    type Lora = Lora;
    type Slope = Matrix;

    fn linear(&self, input: usize, modules: &[LinearWeights], backward: bool) -> Linear {
        let pack = |w: &LinearWeights| {
            let (output, weight) = (w.bias.len(), &w.weight[..]);
            let forward = self.pack(weight, input, output, true);
            let backward = backward.then(|| self.pack(weight, output, input, false));
            Module { output, bias: w.bias.clone(), forward, backward }
        };
        Linear { input, modules: modules.iter().map(pack).collect() }
    }

    fn lora(&self, adapters: &[(&Vec<f32>, f32)], slots: &[Option<LoraSlot>], backward: bool) -> Lora {
        let pack = |parameters: &[f32], scale: f32, slot: &LoraSlot| {
            let (a, b) = (&parameters[slot.a.clone()], &parameters[slot.b.clone()]);
            let (rank, input, output) = (slot.rank, slot.input, slot.output);
            LoraModule {
                slot: slot.clone(),
                down: Packed::of_adapter(self.isa(), input, rank, |k, j| scale * a[j * input + k]),
                b: b.to_vec(),
                backward: backward.then(|| Backward {
                    up: Packed::of_adapter(self.isa(), output, rank, |k, j| scale * b[j * output + k]),
                    a: a.to_vec(),
                }),
            }
        };
        let of = |&(parameters, scale): &(&Vec<f32>, f32)| {
            slots.iter().map(|slot| slot.as_ref().map(|s| pack(parameters, scale, s))).collect()
        };
        Lora { adapters: adapters.iter().map(of).collect() }
    }

    fn adapts(lora: &Lora, modules: Range<usize>) -> bool {
        lora.adapters[0][modules].iter().any(Option::is_some)
    }

    fn lora_linear(
        &self,
        call: &Call<'_, Cpu>,
        x: &Matrix,
        epilogue: DeviceEpilogue<'_, Matrix>,
        save: bool,
    ) -> Output<Matrix, Matrix> {
        let rows = x.rows();
        let input = call.linear.input;
        let width: usize = call.linear.columns(call.modules.clone()).map(|(_, c)| c.len()).sum();
        let mut slope_buffer = None;
        let mut saved = Vec::new();
        let y = self.fill(rows, width, |y| {
            let mut slope =
                (save && matches!(epilogue, DeviceEpilogue::Gelu)).then(|| self.scratch(rows * width));
            for (m, columns) in call.linear.columns(call.modules.clone()) {
                let mut of_module = None;
                for (run, lora) in call.runs(m, rows) {
                    let x = x.slice_rows(run.clone());
                    let module = &call.linear.modules[m];
                    let s = lora.map(|l| self.down(call.dropout, m - call.modules.start, &x, l));
                    let base = Term::new(x.data(), x.stride(), input, Right::Packed(&module.forward));
                    let mut terms = vec![base];
                    if let (Some(l), Some(s)) = (lora, &s) {
                        let right = Right::Rows { data: &l.b, stride: l.slot.output };
                        terms.push(Term::new(s.data(), s.stride(), l.slot.rank, right));
                    }
                    let addend = match &epilogue {
                        DeviceEpilogue::Residual(r) => {
                            let first = run.start * r.stride() + columns.start;
                            Addend::Rows { data: &r.data()[first..], stride: r.stride() }
                        }
                        _ => Addend::Nothing,
                    };
                    let first = run.start * width + columns.start;
                    let activation = match (&epilogue, &mut slope) {
                        (DeviceEpilogue::Gelu, Some(slope)) => {
                            Activation::GeluWithSlope { slope: &mut slope[first..] }
                        }
                        (DeviceEpilogue::Gelu, None) => Activation::Gelu,
                        _ => Activation::Identity,
                    };
                    let g = Gemm {
                        m: run.len(),
                        n: module.output,
                        terms: &terms,
                        bias: Some(&module.bias),
                        addend,
                        activation,
                    };
                    gemm(self.isa(), g, &mut y[first..], width);
                    of_module = s.filter(|_| save);
                }
                saved.push(of_module);
            }
            slope_buffer = slope;
        });
        let slope = slope_buffer.map(|buffer| Matrix::new(buffer, rows, width));
        Output { y, s: saved, slope }
    }

    fn lora_linear_backward(
        &self,
        call: &Call<'_, Cpu>,
        x: Option<&Matrix>,
        s: &[Option<Matrix>],
        dy: &Matrix,
        dx: Dx<Matrix, Matrix>,
        parameters: &mut Vec<f32>,
    ) -> Option<Matrix> {
        let (rows, input) = (dy.rows(), call.linear.input);
        let of_module: Vec<_> = call
            .linear
            .columns(call.modules.clone())
            .zip(s)
            .map(|((m, columns), s)| {
                let dy = dy.slice_columns(columns);
                let lora = call.lora.and_then(|l| l.adapters[0][m].as_ref());
                let lora = lora.zip(s.as_ref()).map(|(l, s)| {
                    let x = x.expect(KEPT);
                    let u = self.product(&dy, l.slot.output, &l.backward().up, l.slot.rank);
                    let masked = call.dropout.map(|d| self.dropped(d, m - call.modules.start, x));
                    self.reduce(&u, masked.as_ref().unwrap_or(x), &mut parameters[l.slot.a.clone()]);
                    self.reduce(s, &dy, &mut parameters[l.slot.b.clone()]);
                    (l, u)
                });
                (m, dy, lora)
            })
            .collect();
        let Dx::Wanted { slope, before } = dx else { return None };
        Some(self.fill(rows, input, |out| {
            let mut addend = match (&slope, &before) {
                (None, Some(b)) => Addend::Rows { data: b.data(), stride: b.stride() },
                _ => Addend::Nothing,
            };
            for (m, dy, lora) in &of_module {
                let module = &call.linear.modules[*m];
                let weights = module.backward.as_ref().expect("layers above the lowest adapter pack W twice");
                let mut terms =
                    vec![Term::new(dy.data(), dy.stride(), module.output, Right::Packed(weights))];
                let mut through_mask = None;
                if let Some((l, u)) = lora {
                    let right = Right::Rows { data: &l.backward().a, stride: input };
                    let term = Term::new(u.data(), u.stride(), l.slot.rank, right);
                    match call.dropout {
                        None => terms.push(term),
                        Some(dropout) => through_mask = Some((dropout, term)),
                    }
                }
                gemm(self.isa(), Gemm { addend, ..Gemm::plain(rows, input, &terms) }, out, input);
                if let Some((dropout, term)) = through_mask {
                    let mut through = self.scratch(rows * input);
                    gemm(self.isa(), Gemm::plain(rows, input, &[term]), &mut through, input);
                    self.mask(dropout, *m - call.modules.start, &mut through, input);
                    out.iter_mut().zip(&*through).for_each(|(x, t)| *x += t);
                }
                addend = Addend::Itself;
            }
            if let Some(slope) = &slope {
                for (i, row) in out.chunks_exact_mut(input).enumerate() {
                    row.iter_mut().zip(slope.row(i)).for_each(|(x, s)| *x *= s);
                    if let Some(before) = &before {
                        row.iter_mut().zip(before.row(i)).for_each(|(x, b)| *x += b);
                    }
                }
            }
        }))
    }

    fn lora_linear_work(call: &Call<'_, Cpu>, rows: &Matrix) -> Work {
        let (m, k) = (rows.rows(), call.linear.input);
        let of_module = |module: usize| {
            let n = call.linear.modules[module].output;
            let rank = call.rank(module);
            Work::weights(m, k * n + rank * (k + n))
        };
        call.modules.clone().map(of_module).sum()
    }

    fn lora_linear_backward_work(
        call: &Call<'_, Cpu>,
        s: &[Option<Matrix>],
        rows: &Matrix,
        wanted: bool,
    ) -> Work {
        let (m, k) = (rows.rows(), call.linear.input);
        let of_module = |(module, s): (usize, &Option<Matrix>)| {
            let n = call.linear.modules[module].output;
            let rank = if s.is_some() { call.rank(module) } else { 0 };
            // U and both gradients; then dy W and U A.
            let products = rank * (n + k + n) + if wanted { k * n + rank * k } else { 0 };
            let weights = rank * (k + n) + if wanted { k * n } else { 0 };
            Work::product(m, 1, products) + Work::bytes((size_of::<f32>() * weights) as f64)
        };
        call.modules.clone().zip(s).map(of_module).sum()
    }

    fn slope_bytes(slope: &Matrix) -> f64 {
        Cpu::bytes(slope)
    }
}

impl Cpu {
    /// S = scale x A^T, of the dropped-out x where there is dropout.
    fn down(&self, dropout: Option<Dropout>, target: usize, x: &Matrix, l: &LoraModule) -> Matrix {
        match dropout {
            None => self.product(x, l.slot.input, &l.down, l.slot.rank),
            Some(d) => self.product(&self.dropped(d, target, x), l.slot.input, &l.down, l.slot.rank),
        }
    }

    fn product(&self, left: &Matrix, k: usize, right: &Packed, n: usize) -> Matrix {
        self.fill(left.rows(), n, |out| {
            let term = Term::new(left.data(), left.stride(), k, Right::Packed(right));
            gemm(self.isa(), Gemm::plain(left.rows(), n, &[term]), out, n);
        })
    }

    /// `out` += left^T right: tall matrices reduced over their rows, in order.
    fn reduce(&self, left: &Matrix, right: &Matrix, out: &mut [f32]) {
        let (m, n) = (left.columns(), right.columns());
        let right_rows = Right::Rows { data: right.data(), stride: right.stride() };
        let term = Term::transposed(left.data(), left.stride(), left.rows(), right_rows);
        gemm(self.isa(), Gemm { addend: Addend::Itself, ..Gemm::plain(m, n, &[term]) }, out, n);
    }

    fn dropped(&self, dropout: Dropout, target: usize, x: &Matrix) -> Matrix {
        let columns = x.columns();
        self.fill(x.rows(), columns, |out| {
            for (i, row) in out.chunks_exact_mut(columns).enumerate() {
                row.copy_from_slice(x.row(i));
            }
            self.mask(dropout, target, out, columns);
        })
    }

    fn mask(&self, dropout: Dropout, target: usize, rows: &mut [f32], columns: usize) {
        let mut factors = vec![0.0; columns];
        for (i, row) in rows.chunks_exact_mut(columns).enumerate() {
            dropout.factors(target, i, &mut factors);
            row.iter_mut().zip(&factors).for_each(|(x, f)| *x *= f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::isa::Isa;

    #[test]
    fn an_adapter_that_only_scores_takes_half_the_memory() {
        let slot = LoraSlot { rank: 8, input: 64, output: 64, a: 0..512, b: 512..1024 };
        for &isa in Isa::available() {
            let values = vec![0.5; 1024];
            let bytes =
                |training| Cpu::new(isa).lora(&[(&values, 1.0)], &[Some(slot.clone())], training).bytes();
            assert_eq!(2 * bytes(false), bytes(true));
        }
    }
}
