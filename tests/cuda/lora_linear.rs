mod hopper;

use std::ops::Range;

use half::bf16;
use lorb_engine::device::cuda::{Cuda, Flat, Precision, Rows, Segments, Tensor, tiles};
use lorb_engine::device::{Memory, Run};
use lorb_engine::lora::LoraSlot;
use lorb_engine::ops::lora_linear::cuda::Slope;
use lorb_engine::ops::lora_linear::{Call, DeviceEpilogue, Dropout, Dx, LinearWeights, LoraLinear, Output};

use crate::autodiff::{Operation, Real, pull_back};
use crate::devices::{devices, hoppers, rounded, with_tensor_cores};
use crate::harness::{Oracle, Random, ULP, bits, weights};
use crate::oracle::{constants, dot, gelu, sum};

const SCALE: f32 = 1.5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Nothing,
    Gelu,
    Residual,
}

/// Outputs of each module of a layer, and the rank of its adapter where it has one.
type Modules = &'static [(usize, Option<usize>)];

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    input: usize,
    modules: Modules,
    /// Those that take part.
    range: Range<usize>,
    then: Then,
    dropout: f32,
}

/// A layer with its inputs, all as a device of the precision keeps them.
struct Data {
    case: Case,
    /// W and b of each module.
    base: Vec<(Vec<f32>, Vec<f32>)>,
    slots: Vec<Option<LoraSlot>>,
    parameters: Vec<f32>,
    x: Vec<f32>,
    residual: Vec<f32>,
    dy: Vec<f32>,
    /// GELU' where x is the output of one.
    slope: Vec<f32>,
    /// What has reached dx before.
    before: Vec<f32>,
}

impl Case {
    fn width(&self) -> usize {
        self.modules[self.range.clone()].iter().map(|(outputs, _)| outputs).sum()
    }

    fn dropout(&self) -> Option<Dropout> {
        let first_target = self.range.start as u32;
        let dropout =
            Dropout { p: self.dropout, seed: 5 << 32 | 9, step: 3, layer: 2, first_row: 4, first_target };
        (self.dropout > 0.0).then_some(dropout)
    }

    fn data(self, precision: Precision) -> Data {
        let mut random = Random::new(12);
        // As large as keeps y and its gradients near 1.
        let small = 1.0 / (self.input as f32).sqrt();
        let mut values = |n: usize, size: f32| -> Vec<f32> {
            rounded(&(0..n).map(|_| size * random.value()).collect::<Vec<_>>(), precision)
        };
        let base = self.modules.iter().map(|m| (values(m.0 * self.input, small), values(m.0, 1.0))).collect();
        // Something else lies before and between the slots.
        let mut parameters = vec![f32::NAN; 3];
        let mut slot = |&(output, rank): &(usize, Option<usize>)| {
            let rank = rank?;
            let a = parameters.len()..parameters.len() + rank * self.input;
            parameters.extend(values(a.len(), small));
            parameters.push(f32::NAN);
            let b = parameters.len()..parameters.len() + rank * output;
            parameters.extend(values(b.len(), 1.0));
            Some(LoraSlot { a, b, rank, input: self.input, output })
        };
        let slots = self.modules.iter().map(&mut slot).collect();
        let of_y = self.rows * self.width();
        let slopes = |values: Vec<f32>| values.iter().map(|x| Slope::kept(precision, 0.5 + x)).collect();
        Data {
            x: values(self.rows * self.input, 1.0),
            residual: values(of_y, 1.0),
            dy: values(of_y, 1.0),
            slope: slopes(values(self.rows * self.input, 0.62)),
            before: values(self.rows * self.input, 1.0),
            case: self,
            base,
            slots,
            parameters,
        }
    }
}

/// What one forward and backward pass give.
struct Results<R> {
    y: Vec<R>,
    slope: Vec<R>,
    dx: Vec<R>,
    /// Of the parameters.
    gradient: Vec<R>,
}

impl Data {
    fn modules(&self) -> impl Iterator<Item = (usize, Option<&LoraSlot>)> {
        self.case.range.clone().map(|m| (m, self.slots[m].as_ref()))
    }

    /// x under the dropout of module `m`.
    fn masked<R: Real>(&self, m: usize, i: usize, x: &[R], store: &dyn Fn(R) -> R) -> Vec<R> {
        let mut factors = vec![1.0; x.len()];
        if let Some(dropout) = self.case.dropout() {
            dropout.factors(m - self.case.range.start, i, &mut factors);
        }
        x.iter().zip(&factors).map(|(&x, &f)| store(x * R::of(f.into()))).collect()
    }

    /// S of a row, for module `m`.
    fn s<R: Real>(&self, m: usize, i: usize, x: &[R], a: &[R], store: &dyn Fn(R) -> R) -> Vec<R> {
        let x = self.masked(m, i, x, store);
        a.chunks_exact(x.len()).map(|a| store(R::of(SCALE.into()) * dot(a, &x))).collect()
    }

    /// The product of all modules before the epilogue.
    fn product<R: Real>(&self, x: &[R], parameters: &[R], store: &dyn Fn(R) -> R) -> Vec<R> {
        let row = |(i, x): (usize, &[R])| -> Vec<R> {
            let module = |(m, slot): (usize, Option<&LoraSlot>)| -> Vec<R> {
                let (w, b): (Vec<R>, Vec<R>) = (constants(&self.base[m].0), constants(&self.base[m].1));
                let s = slot.map(|slot| self.s(m, i, x, &parameters[slot.a.clone()], store));
                let element = |o: usize| {
                    let y = dot(&w[o * x.len()..][..x.len()], x) + b[o];
                    let (Some(slot), Some(s)) = (slot, &s) else { return y };
                    let low = |(r, &s): (usize, &R)| s * parameters[slot.b.start + r * slot.output + o];
                    y + sum(s.iter().enumerate().map(low))
                };
                (0..b.len()).map(element).collect()
            };
            self.modules().flat_map(module).collect()
        };
        x.chunks_exact(self.case.input).enumerate().flat_map(row).collect()
    }

    fn epilogue<R: Real>(&self, product: &[R], residual: &[R]) -> Vec<R> {
        match self.case.then {
            Then::Nothing => product.to_vec(),
            Then::Gelu => product.iter().map(|&p| gelu(p)).collect(),
            Then::Residual => product.iter().zip(residual).map(|(&p, &r)| p + r).collect(),
        }
    }

    /// The textbook's formulas, with `store` where the device keeps something in its precision, and `keep` where it
    /// keeps a slope.
    fn naive<R: Real>(&self, store: &dyn Fn(R) -> R, keep: &dyn Fn(R) -> R) -> Results<R> {
        let case = &self.case;
        let (x, parameters): (Vec<R>, Vec<R>) = (constants(&self.x), constants(&self.parameters));
        let dy: Vec<R> = constants(&self.dy);
        let product = self.product(&x, &parameters, store);
        let y = self.epilogue(&product, &constants(&self.residual)).into_iter().map(store).collect();
        let tau = R::of(std::f64::consts::TAU).sqrt();
        let slope_at = |&p: &R| keep(p.normal_cdf() + p * (-(p * p) / R::of(2.0)).exp() / tau);
        let slope: Vec<R> = match case.then {
            Then::Gelu => product.iter().map(slope_at).collect(),
            _ => Vec::new(),
        };
        let dy: Vec<R> = match case.then {
            Then::Gelu => dy.iter().zip(&slope).map(|(&d, &s)| store(d * s)).collect(),
            _ => dy,
        };
        let mut gradient = vec![R::of(0.0); parameters.len()];
        let mut dx: Vec<R> = Vec::new();
        for (i, (x, dy)) in x.chunks_exact(case.input).zip(dy.chunks_exact(case.width())).enumerate() {
            let of_x = i * case.input..(i + 1) * case.input;
            let mut sums = vec![R::of(0.0); case.input];
            let mut first = 0;
            for (m, slot) in self.modules() {
                let (w, b) = &self.base[m];
                let dy = &dy[first..first + b.len()];
                first += b.len();
                for (o, &d) in dy.iter().enumerate() {
                    for (k, sum) in sums.iter_mut().enumerate() {
                        *sum = *sum + d * R::of(w[o * case.input + k].into());
                    }
                }
                let Some(slot) = slot else { continue };
                let masked = self.masked(m, i, x, store);
                let s = self.s(m, i, x, &parameters[slot.a.clone()], store);
                let mut through = vec![R::of(0.0); case.input];
                for r in 0..slot.rank {
                    let b = &parameters[slot.b.clone()][r * slot.output..][..slot.output];
                    let u = store(R::of(SCALE.into()) * dot(b, dy));
                    for k in 0..case.input {
                        through[k] = through[k] + u * parameters[slot.a.start + r * case.input + k];
                        let g = &mut gradient[slot.a.start + r * case.input + k];
                        *g = *g + u * masked[k];
                    }
                    for (o, &d) in dy.iter().enumerate() {
                        let g = &mut gradient[slot.b.start + r * slot.output + o];
                        *g = *g + s[r] * d;
                    }
                }
                let through = self.masked(m, i, &through, &|x| x);
                sums.iter_mut().zip(through).for_each(|(sum, t)| *sum = *sum + t);
            }
            let (slope, before) = (&self.slope[of_x.clone()], &self.before[of_x]);
            let finish = |((sum, &s), &b): ((R, &f32), &f32)| store(sum * R::of(s.into()) + R::of(b.into()));
            dx.extend(sums.into_iter().zip(slope).zip(before).map(finish));
        }
        Results { y, slope, dx, gradient }
    }

    /// Of y, its slope, dx and the gradient of the parameters: the exact ones, and those of the naive form in
    /// the same precision.
    fn oracles(&self, precision: Precision) -> [Oracle; 4] {
        let store: fn(f32) -> f32 = match precision {
            Precision::F32 => |x| x,
            Precision::Bf16 => |x| bf16::from_f32(x).to_f32(),
        };
        let keep = |slope| Slope::kept(precision, slope);
        let (e, n) = (self.naive::<f64>(&|x| x, &|x| x), self.naive::<f32>(&store, &keep));
        let oracle = |exact, naive| Oracle { exact, naive };
        [oracle(e.y, n.y), oracle(e.slope, n.slope), oracle(e.dx, n.dx), oracle(e.gradient, n.gradient)]
    }
}

/// The forward pass, of x, then the parameters of the slots, then the residual.
impl Operation for Data {
    fn naive<R: Real>(&self, inputs: &[R]) -> Vec<R> {
        let (x, rest) = inputs.split_at(self.x.len());
        let (parameters, residual) = rest.split_at(self.parameters.len());
        self.epilogue(&self.product(x, parameters, &|x| x), residual)
    }
}

#[test]
fn the_oracle_follows_automatic_differentiation() {
    for then in [Then::Nothing, Then::Gelu, Then::Residual] {
        let modules = &[(3, Some(2)), (4, None), (2, Some(1))];
        let case = Case { rows: 3, input: 5, modules, range: 0..3, then, dropout: 0.3 };
        let mut data = case.data(Precision::F32);
        data.slope.fill(1.0);
        let inputs = [&data.x[..], &data.parameters, &data.residual].concat();
        let exact = pull_back::<f64>(&data, &inputs, &data.dy);
        let own = data.naive::<f64>(&|x| x, &|x| x);
        let dx = own.dx.iter().zip(&data.before).map(|(d, &b)| d - f64::from(b));
        for (i, (own, exact)) in dx.chain(own.gradient).zip(&exact).enumerate() {
            assert!((own - exact).abs() <= 1e-12, "{then:?}: {own} at {i} should be {exact}");
        }
    }
}

/// A layer on a device.
struct Layer<'d> {
    cuda: &'d Cuda,
    data: &'d Data,
    linear: <Cuda as LoraLinear>::Linear,
    lora: <Cuda as LoraLinear>::Lora,
    segments: Option<Segments>,
    /// Room for them, and NaN in what is left of it.
    rows: Rows,
}

struct Found {
    y: Vec<f32>,
    slope: Vec<f32>,
    dx: Vec<f32>,
    gradient: Vec<f32>,
}

impl<'d> Layer<'d> {
    fn new(cuda: &'d Cuda, data: &'d Data, rows: Rows) -> Layer<'d> {
        let module = |(w, b): &(Vec<f32>, Vec<f32>)| LinearWeights { weight: weights(w), bias: weights(b) };
        let modules: Vec<_> = data.base.iter().map(module).collect();
        let linear = cuda.linear(data.case.input, &modules, true);
        let lora = cuda.lora(&[(&cuda.parameters(&data.parameters), SCALE)], &data.slots, true);
        Layer { cuda, data, linear, lora, segments: None, rows }
    }

    fn call(&self) -> Call<'_, Cuda> {
        let case = &self.data.case;
        Call {
            linear: &self.linear,
            lora: Some(&self.lora),
            segments: self.segments.as_ref(),
            modules: case.range.clone(),
            dropout: case.dropout(),
        }
    }

    /// As the middle columns of a wider matrix, as far as that keeps it aligned.
    fn upload(&self, values: &[f32], columns: usize) -> Tensor {
        let (capacity, gap) = (self.rows.capacity, 8);
        let mut wide = vec![f32::NAN; capacity * (columns + 2 * gap)];
        for (to, from) in wide.chunks_exact_mut(columns + 2 * gap).zip(values.chunks_exact(columns)) {
            to[gap..gap + columns].copy_from_slice(from);
        }
        let wide = self.cuda.upload(&wide, capacity, columns + 2 * gap);
        wide.slice_columns(gap..gap + columns).with_rows(self.rows.clone())
    }

    /// The rows in use; the others must not have been written.
    fn download(&self, tensor: &Tensor) -> Vec<f32> {
        let mut values = self.cuda.download(tensor).unwrap();
        let rest = values.split_off(self.data.case.rows * tensor.columns());
        assert!(rest.iter().all(|x| x.is_nan()), "a write past the rows");
        values
    }

    /// With no slopes past the rows in use.
    fn upload_slope(&self, values: &[f32]) -> Slope {
        let (rows, columns) = (self.rows.capacity, self.data.case.input);
        let mut all = values.to_vec();
        all.resize(rows * columns, f32::NAN);
        Slope::upload(self.cuda, &all, rows, columns)
    }

    fn download_slope(&self, slope: &Slope) -> Vec<f32> {
        let mut values = slope.download(self.cuda).unwrap();
        let rest = values.split_off(self.data.dy.len());
        assert!(rest.iter().all(|s| !(-0.13..1.13).contains(s)), "a write past the rows");
        values
    }

    fn forward(&self, save: bool) -> (Tensor, Output<Tensor, Slope>) {
        let case = &self.data.case;
        let (x, residual) =
            (self.upload(&self.data.x, case.input), self.upload(&self.data.residual, case.width()));
        let epilogue = match case.then {
            Then::Nothing => DeviceEpilogue::Nothing,
            Then::Gelu => DeviceEpilogue::Gelu,
            Then::Residual => DeviceEpilogue::Residual(&residual),
        };
        let out = self.cuda.lora_linear(&self.call(), &x, epilogue, save);
        (x, out)
    }

    /// Both passes, with the gradient added to `gradient`; dx is finished with the slope and what was before.
    fn run(&self, gradient: &mut Flat, finish: bool) -> Found {
        let case = &self.data.case;
        let (x, out) = self.forward(true);
        let slope = out.slope.map_or(Vec::new(), |slope| self.download_slope(&slope));
        let dy = if slope.is_empty() {
            self.data.dy.clone()
        } else {
            let product: Vec<f32> = self.data.dy.iter().zip(&slope).map(|(d, s)| d * s).collect();
            rounded(&product, self.cuda.precision())
        };
        let dy = self.upload(&dy, case.width());
        let dx = Dx::Wanted {
            slope: finish.then(|| self.upload_slope(&self.data.slope)),
            before: finish.then(|| self.upload(&self.data.before, case.input)),
        };
        let dx = self.cuda.lora_linear_backward(&self.call(), Some(&x), &out.s, &dy, dx, gradient).unwrap();
        Found {
            y: self.download(&out.y),
            slope,
            dx: self.download(&dx),
            gradient: self.cuda.download_flat(gradient).unwrap(),
        }
    }
}

const QKV: Modules = &[(24, Some(8)), (24, None), (24, Some(13))];
const UNEQUAL: Modules = &[(64, Some(16)), (96, Some(33)), (8, Some(1))];
const ODD: Modules = &[(17, Some(8)), (5, None), (97, Some(1))];

/// A layer's rows, room for rows, input, modules, and those that take part.
type Shape = (usize, usize, usize, Modules, Range<usize>);

#[test]
fn both_directions_are_those_of_the_oracle() {
    let shapes: [Shape; 12] = [
        // On CUDA cores in either precision, for the input, for the outputs, or for both.
        (1, 1, 7, &[(1, Some(1))], 0..1),
        (3, 5, 17, &[(97, Some(13))], 0..1),
        (67, 70, 33, ODD, 0..3),
        (5, 5, 33, ODD, 1..3),
        (7, 7, 40, &[(5, Some(3)), (3, None)], 0..2),
        // On tensor cores in bf16, with small tiles: all of a layer and parts, S fused and not.
        (1, 1, 8, &[(8, Some(1))], 0..1),
        (13, 13, 24, UNEQUAL, 0..3),
        (33, 40, 40, QKV, 0..3),
        (7, 7, 40, QKV, 1..3),
        (7, 7, 40, QKV, 0..1),
        (7, 9, 40, QKV, 1..2),
        // Room for so many that a block reduces more rows for dA and dB than its warps load at once.
        (200, 4100, 16, &[(16, Some(8))], 0..1),
    ];
    let what = [(Then::Nothing, 0.0), (Then::Gelu, 0.0), (Then::Residual, 0.0), (Then::Nothing, 0.25)];
    for cuda in devices() {
        for (rows, room, input, modules, range) in shapes.clone() {
            for (then, dropout) in what {
                check(&cuda, Case { rows, input, modules, range: range.clone(), then, dropout }, room);
            }
        }
    }
}

/// More than one tile in rows, in columns and in steps of the inner dimension, with S fused and not, and from three to
/// five stages.
#[test]
fn every_size_of_tile_is_that_of_the_oracle() {
    let shapes: [(Shape, Then, f32); 6] = [
        ((35, 37, 104, &[(40, Some(8))], 0..1), Then::Gelu, 0.0),
        ((35, 35, 104, &[(40, Some(40))], 0..1), Then::Residual, 0.25),
        ((66, 67, 72, &[(72, Some(8))], 0..1), Then::Residual, 0.0),
        ((67, 67, 72, &[(80, Some(24))], 0..1), Then::Gelu, 0.25),
        ((130, 133, 136, &[(136, Some(8))], 0..1), Then::Gelu, 0.0),
        ((131, 131, 136, &[(136, Some(40))], 0..1), Then::Residual, 0.0),
    ];
    for cuda in with_tensor_cores() {
        for ((rows, room, input, modules, range), then, dropout) in shapes.clone() {
            check(&cuda, Case { rows, input, modules, range, then, dropout }, room);
        }
    }
}

/// More chunks of rows than the second stage of the gradients loads at once.
#[test]
fn gradients_are_of_all_chunks_of_rows() {
    let rows = 1100;
    for cuda in devices().take(2) {
        let case =
            Case { rows, input: 8, modules: &[(8, Some(1))], range: 0..1, then: Then::Nothing, dropout: 0.0 };
        check(&cuda, case, rows);
    }
}

fn check(cuda: &Cuda, case: Case, room: usize) {
    let name = format!("{:?}, {case:?}, room {room}", cuda.precision());
    let data = case.data(cuda.precision());
    let rows = data.case.rows;
    let rows = if room > rows { cuda.live_rows(room, rows as u32) } else { Rows::all(rows) };
    let layer = Layer::new(cuda, &data, rows);
    let mut gradient = cuda.parameters(&vec![0.0; data.parameters.len()]);
    let found = layer.run(&mut gradient, true);

    let [y, slope, dx, of_parameters] = data.oracles(cuda.precision());
    let phi = if data.case.then == Then::Gelu { 3e-7 } else { 0.0 };
    let floor = |oracle: &Oracle| (2.0 * ULP + phi) * oracle.largest().max(1.0);
    // Sums of tensor cores truncate: |x| <= 1 and |W| <= 1 / sqrt(k), and the ranks' terms are fewer. The
    // result is rounded.
    let inner = data.case.input.max(data.case.width()) as f64;
    let truncated = (inner / 16.0 + 2.0) * 2f64.powi(-22) * 4.0 * inner.sqrt();
    let stored = |oracle: &Oracle| match cuda.precision() {
        Precision::F32 => floor(oracle),
        Precision::Bf16 => floor(oracle) + truncated + 2f64.powi(-9) * oracle.largest(),
    };
    y.check(format!("lora_linear y {name}"), &found.y, stored(&y));
    let half_a_step = match cuda.precision() {
        Precision::F32 => 0.0,
        Precision::Bf16 => 0.5 / f64::from(tiles::SLOPE_STEPS),
    };
    slope.check(format!("lora_linear slope {name}"), &found.slope, floor(&slope) + truncated + half_a_step);
    dx.check(format!("lora_linear dx {name}"), &found.dx, stored(&dx));
    let mut rest = found.gradient.clone();
    for slot in data.modules().filter_map(|(_, slot)| slot) {
        for (part, range) in [("dA", slot.a.clone()), ("dB", slot.b.clone())] {
            let oracle = of_parameters.slice(range.clone());
            let what = format!("lora_linear {part} {name}");
            oracle.check(what, &found.gradient[range.clone()], floor(&oracle));
            rest[range].fill(0.0);
        }
    }
    assert!(rest.iter().all(|&x| x == 0.0), "{name}: a write outside the slots");

    // Saving changes nothing; neither does a second time, and gradients are added.
    let (_, unsaved) = layer.forward(false);
    assert!(unsaved.slope.is_none() && unsaved.s.iter().all(Option::is_none), "{name}");
    assert_eq!(bits(&layer.download(&unsaved.y)), bits(&found.y), "{name}");
    let again = layer.run(&mut gradient, true);
    let all = |found: &Found| [bits(&found.y), bits(&found.slope), bits(&found.dx)];
    assert_eq!(all(&again), all(&found), "{name}");
    let twice: Vec<f32> = found.gradient.iter().map(|once| 2.0 * once).collect();
    assert_eq!(bits(&again.gradient), bits(&twice), "{name}: not added");
}

#[test]
fn dx_may_be_skipped_and_may_be_the_first() {
    for cuda in devices() {
        let case = Case { rows: 9, input: 40, modules: QKV, range: 0..3, then: Then::Nothing, dropout: 0.0 };
        let mut data = case.data(cuda.precision());
        data.slope.fill(1.0);
        data.before.fill(0.0);
        let layer = Layer::new(&cuda, &data, Rows::all(9));
        let zeros = vec![0.0; data.parameters.len()];
        let added = layer.run(&mut cuda.parameters(&zeros), true);
        let first = layer.run(&mut cuda.parameters(&zeros), false);
        assert_eq!(bits(&first.dx), bits(&added.dx));
        let (x, out) = layer.forward(true);
        let dy = layer.upload(&data.dy, data.case.width());
        let mut gradient = cuda.parameters(&zeros);
        assert!(
            cuda.lora_linear_backward(&layer.call(), Some(&x), &out.s, &dy, Dx::Skip, &mut gradient)
                .is_none()
        );
        assert_eq!(bits(&cuda.download_flat(&gradient).unwrap()), bits(&first.gradient));
    }
}

/// Whatever the tiles that the number of rows asks for.
#[test]
fn a_row_does_not_depend_on_the_others() {
    for cuda in devices().chain(hoppers()) {
        for (rows, outputs) in [(13, UNEQUAL), (66, &[(72, Some(8))]), (130, &[(136, Some(40))])] {
            let range = 0..outputs.len();
            let case = Case { rows, input: 72, modules: outputs, range, then: Then::Gelu, dropout: 0.0 };
            let mut data = case.data(cuda.precision());
            let y = Layer::new(&cuda, &data, Rows::all(rows)).forward(false).1.y;
            let (all, width) = (cuda.download(&y).unwrap(), y.columns());
            let x = data.x.clone();
            for row in [0, rows / 2, rows - 1] {
                data.x = x[row * 72..][..72].to_vec();
                data.case.rows = 1;
                let y = Layer::new(&cuda, &data, Rows::all(1)).forward(false).1.y;
                assert_eq!(
                    bits(&cuda.download(&y).unwrap()),
                    bits(&all[row * width..][..width]),
                    "row {row}"
                );
            }
        }
    }
}

#[test]
fn adapters_are_found_where_they_are() {
    for cuda in devices() {
        let case = Case { rows: 1, input: 3, modules: QKV, range: 0..3, then: Then::Nothing, dropout: 0.0 };
        let data = case.data(cuda.precision());
        let lora = cuda.lora(&[(&cuda.parameters(&data.parameters), SCALE)], &data.slots, true);
        assert!(Cuda::adapts(&lora, 0..3) && Cuda::adapts(&lora, 0..1) && Cuda::adapts(&lora, 1..3));
        assert!(!Cuda::adapts(&lora, 1..2));
    }
}

/// Rows of a batch that belong to three adapters of different scales.
#[test]
fn rows_of_several_adapters_are_those_of_each_alone() {
    let runs = [(1, 2), (35, 0), (0, 1), (21, 1)].map(|(rows, adapter)| Run { rows, adapter });
    // Fused, with a rank too large for that, on CUDA cores, and without an adapter.
    let layers: [(usize, Modules); 4] = [
        (40, &[(24, Some(8)), (40, Some(16))]),
        (40, &[(24, Some(20)), (40, None)]),
        (7, &[(5, Some(3)), (3, None)]),
        (40, &[(24, None), (40, None)]),
    ];
    for cuda in devices().chain(hoppers()) {
        for (input, modules) in layers {
            for then in [Then::Gelu, Then::Residual] {
                let case = Case { rows: 57, input, modules, range: 0..2, then, dropout: 0.0 };
                let data = case.data(cuda.precision());
                let parameters = [0.5, 1.0, -2.0].map(|factor| {
                    let values: Vec<f32> = data.parameters.iter().map(|x| factor * x).collect();
                    cuda.parameters(&values)
                });
                let adapters: [_; 3] = std::array::from_fn(|i| (&parameters[i], 0.5 + i as f32));
                let mut mixed = Layer::new(&cuda, &data, Rows::all(57));
                mixed.lora = cuda.lora(&adapters, &data.slots, true);
                mixed.segments = Some(cuda.segments(&runs));
                let y = mixed.download(&mixed.forward(false).1.y);
                let width = data.case.width();
                let mut first = 0;
                for Run { rows, adapter } in runs {
                    let mut alone = Layer::new(&cuda, &data, Rows::all(57));
                    alone.lora = cuda.lora(&adapters[adapter..=adapter], &data.slots, true);
                    let of_one = alone.download(&alone.forward(false).1.y);
                    let place = first * width..(first + rows) * width;
                    assert_eq!(bits(&y[place.clone()]), bits(&of_one[place]), "adapter {adapter}, {then:?}");
                    first += rows;
                }
            }
        }
    }
}
