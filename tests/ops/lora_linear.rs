use std::ops::Range;

use lorb_engine::device::Memory;
use lorb_engine::device::cpu::{Cpu, Matrix};
use lorb_engine::lora::LoraSlot;
use lorb_engine::ops::lora_linear::{
    Call, DeviceEpilogue, Dropout, Dx, Epilogue, LinearWeights, LoraLinear, lora_linear,
};
use lorb_engine::tape::{Tape, Var};

use crate::autodiff::{Operation, Real};
use crate::harness::{Oracle, Random, ULP, bits, check_derivatives, devices, row_bits, weights};
use crate::oracle::{add, constants, gelu, linear, low_rank};

const SCALE: f32 = 1.5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Nothing,
    Gelu,
    Residual,
}

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    input: usize,
    /// Outputs of each module of the layer, and the rank of its adapter where it has one.
    modules: &'static [(usize, Option<usize>)],
    /// Those that take part.
    range: Range<usize>,
    then: Then,
    dropout: f32,
}

struct Data {
    case: Case,
    /// W and b of each module.
    base: Vec<(Vec<f32>, Vec<f32>)>,
    /// x, then A and B^T of each adapted module of the range, then the residual where there is one.
    inputs: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn width(&self) -> usize {
        self.modules[self.range.clone()].iter().map(|(outputs, _)| outputs).sum()
    }

    /// Where A and B^T of each module lie among the inputs.
    fn slots(&self) -> Vec<Option<LoraSlot>> {
        let mut at = self.rows * self.input;
        let mut slot = |(m, &(output, rank)): (usize, &(usize, Option<usize>))| {
            let rank = rank.filter(|_| self.range.contains(&m))?;
            let (a, b) =
                (at..at + rank * self.input, at + rank * self.input..at + rank * (self.input + output));
            at = b.end;
            Some(LoraSlot { a, b, rank, input: self.input, output })
        };
        self.modules.iter().enumerate().map(&mut slot).collect()
    }

    fn dropout(&self) -> Option<Dropout> {
        let first_target = self.range.start as u32;
        let dropout = Dropout { p: self.dropout, seed: 5, step: 3, layer: 2, first_row: 4, first_target };
        (self.dropout > 0.0).then_some(dropout)
    }

    fn data(self) -> Data {
        let mut random = Random::new(12);
        // As large as keeps y and its gradients near 1.
        let small = 1.0 / (self.input as f32).sqrt();
        let mut values =
            |n: usize, size: f32| -> Vec<f32> { (0..n).map(|_| size * random.value()).collect() };
        let base = self.modules.iter().map(|m| (values(m.0 * self.input, small), values(m.0, 1.0))).collect();
        let mut inputs = values(self.rows * self.input, 1.0);
        for slot in self.slots().into_iter().flatten() {
            inputs.extend(values(slot.a.len(), small));
            inputs.extend(values(slot.b.len(), 1.0));
        }
        let dy = values(self.rows * self.width(), 1.0);
        if self.then == Then::Residual {
            inputs.extend(values(dy.len(), 1.0));
        }
        Data { case: self, base, inputs, dy }
    }
}

impl Operation for Data {
    fn naive<R: Real>(&self, inputs: &[R]) -> Vec<R> {
        let case = &self.case;
        let slots = case.slots();
        // Where there is one.
        let residual = inputs.len().saturating_sub(case.rows * case.width());
        let row = |i: usize| {
            let x = &inputs[i * case.input..(i + 1) * case.input];
            let module = |m: usize| {
                let (w, b) = &self.base[m];
                let y = linear(x, &constants(w), &constants(b));
                let Some(slot) = &slots[m] else { return y };
                let mut factors = vec![1.0; case.input];
                if let Some(dropout) = case.dropout() {
                    dropout.factors(m - case.range.start, i, &mut factors);
                }
                let masked: Vec<R> = x.iter().zip(&factors).map(|(&x, &f)| x * R::of(f.into())).collect();
                let (a, b) = (&inputs[slot.a.clone()], &inputs[slot.b.clone()]);
                add(&y, &low_rank(&masked, a, b, SCALE))
            };
            let y: Vec<R> = case.range.clone().flat_map(module).collect();
            match case.then {
                Then::Nothing => y,
                Then::Gelu => y.into_iter().map(gelu).collect(),
                Then::Residual => add(&y, &inputs[residual + i * y.len()..][..y.len()]),
            }
        };
        (0..case.rows).flat_map(row).collect()
    }
}

/// The layer on a device.
struct Layer<'d> {
    data: &'d Data,
    linear: <Cpu as LoraLinear>::Linear,
    lora: <Cpu as LoraLinear>::Lora,
}

impl Layer<'_> {
    fn new<'d>(cpu: &Cpu, data: &'d Data) -> Layer<'d> {
        let module = |(w, b): &(Vec<f32>, Vec<f32>)| LinearWeights { weight: weights(w), bias: weights(b) };
        let modules: Vec<_> = data.base.iter().map(module).collect();
        Layer {
            data,
            linear: cpu.linear(data.case.input, &modules, true),
            lora: cpu.lora(&[(&data.inputs, SCALE)], &data.case.slots(), true),
        }
    }

    fn call(&self) -> Call<'_, Cpu> {
        let case = &self.data.case;
        Call {
            linear: &self.linear,
            lora: Some(&self.lora),
            segments: None,
            modules: case.range.clone(),
            dropout: case.dropout(),
        }
    }

    fn epilogue<'r>(&self, residual: &'r Matrix) -> DeviceEpilogue<'r, Matrix> {
        match self.data.case.then {
            Then::Nothing => DeviceEpilogue::Nothing,
            Then::Gelu => DeviceEpilogue::Gelu,
            Then::Residual => DeviceEpilogue::Residual(residual),
        }
    }

    fn x(&self, cpu: &Cpu) -> Matrix {
        let case = &self.data.case;
        cpu.upload(&self.data.inputs[..case.rows * case.input], case.rows, case.input)
    }

    fn residual(&self, cpu: &Cpu) -> Matrix {
        let (rows, width) = (self.data.case.rows, self.data.case.width());
        match self.data.case.then {
            Then::Residual => {
                cpu.upload(&self.data.inputs[self.data.inputs.len() - rows * width..], rows, width)
            }
            _ => cpu.upload(&vec![f32::NAN; rows * width], rows, width),
        }
    }
}

const QKV: &[(usize, Option<usize>)] = &[(17, Some(8)), (17, None), (17, Some(8))];
const WIDE: &[(usize, Option<usize>)] = &[(64, Some(16)), (97, Some(13)), (7, Some(1))];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |rows, input, modules: &'static [(usize, Option<usize>)], range| {
        for then in [Then::Nothing, Then::Gelu, Then::Residual] {
            for dropout in [0.0, 0.25] {
                cases.push(Case { rows, input, modules, range: Range::clone(&range), then, dropout });
            }
        }
    };
    push(1, 7, &[(1, Some(1))], 0..1);
    push(2, 1, &[(7, Some(4))], 0..1);
    push(3, 17, &[(97, Some(13))], 0..1);
    push(7, 384, &[(24, Some(8))], 0..1);
    push(8, 64, &[(384, Some(16))], 0..1);
    push(9, 97, &[(64, None)], 0..1);
    push(13, 24, WIDE, 0..3);
    push(50, 17, QKV, 0..3);
    push(97, 17, QKV, 1..3);
    push(5, 17, QKV, 0..1);
    push(5, 17, QKV, 1..2);
    cases
}

#[test]
fn both_directions_are_those_of_the_oracle() {
    for data in cases().into_iter().map(Case::data) {
        let case = &data.case;
        let forward = Oracle::forward(&data, &data.inputs);
        let backward = Oracle::backward(&data, &data.inputs, &data.dy);
        // Phi's bound, times what GELU multiplies it by.
        let phi = if case.then == Then::Gelu { 3e-7 } else { 0.0 };
        let floor = |oracle: &Oracle| (2.0 * ULP + phi) * oracle.largest().max(1.0);
        for cpu in devices() {
            let name = format!("on {}, {case:?}", cpu.isa().name());
            let layer = Layer::new(&cpu, &data);
            let (x, residual) = (layer.x(&cpu), layer.residual(&cpu));
            let out = cpu.lora_linear(&layer.call(), &x, layer.epilogue(&residual), true);
            forward.check(format!("lora_linear {name}"), &out.y.values(), floor(&forward));
            let unsaved = cpu.lora_linear(&layer.call(), &x, layer.epilogue(&residual), false);
            assert_eq!(bits(&unsaved.y.values()), bits(&out.y.values()), "{name}");
            assert!(unsaved.slope.is_none() && unsaved.s.iter().all(Option::is_none), "{name}");

            let mut dy = cpu.upload(&data.dy, case.rows, case.width());
            if let Some(slope) = &out.slope {
                dy = product(&cpu, &dy, slope);
            }
            let mut parameters = vec![0.0; data.inputs.len()];
            let mut back =
                |dx| cpu.lora_linear_backward(&layer.call(), Some(&x), &out.s, &dy, dx, &mut parameters);
            let dx = back(Dx::Wanted { slope: None, before: None }).unwrap().values();
            let once = parameters.clone();
            let of_x = backward.slice(0..dx.len());
            of_x.check(format!("lora_linear_backward dx {name}"), &dx, floor(&of_x));
            let mut end = dx.len();
            for slot in case.slots().into_iter().flatten() {
                for (part, range) in [("dA", slot.a), ("dB", slot.b)] {
                    end = range.end;
                    let oracle = backward.slice(range.clone());
                    let what = format!("lora_linear_backward {part} {name}");
                    oracle.check(what, &once[range], floor(&oracle));
                }
            }
            let around = once[..dx.len()].iter().chain(&once[end..]);
            assert!(around.copied().all(|p| p == 0.0), "{name}: a write outside the slots");

            // Gradients are added to what is there.
            let mut back =
                |dx| cpu.lora_linear_backward(&layer.call(), Some(&x), &out.s, &dy, dx, &mut parameters);
            assert!(back(Dx::Skip).is_none());
            assert!(parameters.iter().zip(&once).all(|(p, o)| *p == 2.0 * o), "{name}: not added");
            let mut random = Random::new(13);
            let (slope, before) = (random.values(dx.len()), random.values(dx.len()));
            for slope in [None, Some(&slope)] {
                let finished = back_finished(&layer, &cpu, &out.s, &dy, slope, &before);
                let mut of_x = of_x.clone();
                for (i, before) in before.iter().enumerate() {
                    let slope = slope.map_or(1.0, |s| s[i]);
                    of_x.exact[i] = of_x.exact[i] * f64::from(slope) + f64::from(*before);
                    of_x.naive[i] = of_x.naive[i] * slope + before;
                }
                of_x.check(format!("lora_linear_backward dx, finished, {name}"), &finished, floor(&of_x));
            }
        }
    }
}

/// Element by element.
fn product(cpu: &Cpu, a: &Matrix, b: &Matrix) -> Matrix {
    let values: Vec<f32> = a.values().iter().zip(b.values()).map(|(a, b)| a * b).collect();
    cpu.upload(&values, a.rows(), a.columns())
}

fn back_finished(
    layer: &Layer,
    cpu: &Cpu,
    s: &[Option<Matrix>],
    dy: &Matrix,
    slope: Option<&Vec<f32>>,
    before: &[f32],
) -> Vec<f32> {
    let x = layer.x(cpu);
    let upload = |values: &[f32]| cpu.upload(values, x.rows(), x.columns());
    let dx = Dx::Wanted { slope: slope.map(|s| upload(s)), before: Some(upload(before)) };
    let mut parameters = vec![0.0; layer.data.inputs.len()];
    cpu.lora_linear_backward(&layer.call(), Some(&x), s, dy, dx, &mut parameters).unwrap().values()
}

#[test]
fn the_oracle_follows_finite_differences() {
    for then in [Then::Nothing, Then::Gelu, Then::Residual] {
        let modules = &[(3, Some(2)), (4, None), (2, Some(1))];
        let data = Case { rows: 3, input: 5, modules, range: 0..3, then, dropout: 0.3 }.data();
        check_derivatives(format!("{:?}", data.case), &data, &data.inputs, &data.dy);
    }
}

/// Dropout numbers the rows of the batch, so there a row does depend on its place.
#[test]
fn a_row_does_not_depend_on_the_others() {
    for data in cases().into_iter().filter(|c| c.dropout == 0.0).map(Case::data) {
        for cpu in devices() {
            let layer = Layer::new(&cpu, &data);
            let (x, residual) = (layer.x(&cpu), layer.residual(&cpu));
            let y = cpu.lora_linear(&layer.call(), &x, layer.epilogue(&residual), true).y;
            for i in 0..data.case.rows {
                let one = |m: &Matrix| cpu.upload(m.row(i), 1, m.columns());
                let residual = one(&residual);
                let alone = cpu.lora_linear(&layer.call(), &one(&x), layer.epilogue(&residual), false).y;
                assert_eq!(row_bits(&alone, 0), row_bits(&y, i), "row {i} of {:?}", data.case);
            }
        }
    }
}

#[test]
fn adapters_are_found_where_they_are() {
    let data =
        Case { rows: 1, input: 3, modules: QKV, range: 0..3, then: Then::Nothing, dropout: 0.0 }.data();
    let lora = Cpu::poisoned(lorb_engine::device::cpu::Isa::available()[0]).lora(
        &[(&data.inputs, SCALE)],
        &data.case.slots(),
        true,
    );
    assert!(Cpu::adapts(&lora, 0..3) && Cpu::adapts(&lora, 0..1) && Cpu::adapts(&lora, 1..3));
    assert!(!Cpu::adapts(&lora, 1..2));
}

/// Each multiplies what it adds by the slope in its epilogue.
#[test]
fn a_gelu_that_two_products_read_has_the_sum_of_their_gradients() {
    let cpu = Cpu::poisoned(lorb_engine::device::cpu::Isa::available()[0]);
    let modules: &[(usize, Option<usize>)] = &[(7, Some(2))];
    let data = Case { rows: 5, input: 7, modules, range: 0..1, then: Then::Gelu, dropout: 0.0 }.data();
    let layer = Layer::new(&cpu, &data);
    let mut random = Random::new(17);
    let of_products = [(); 2].map(|()| cpu.upload(&random.values(5 * 7), 5, 7));

    let x = layer.x(&cpu);
    let mut tape = Tape::recording();
    let value = lora_linear(&cpu, &mut tape, layer.call(), &Var::constant(x.clone()), Epilogue::Gelu);
    let seed =
        |dy: &Matrix| (lora_linear(&cpu, &mut tape, layer.call(), &value, Epilogue::Nothing), dy.clone());
    let seeds = of_products.iter().map(seed).collect();
    let mut found = vec![0.0; data.inputs.len()];
    tape.backward(&cpu, seeds, &mut found);

    let mut expected = vec![0.0; data.inputs.len()];
    let value = cpu.lora_linear(&layer.call(), &x, DeviceEpilogue::Gelu, true);
    let read = cpu.lora_linear(&layer.call(), &value.y, DeviceEpilogue::Nothing, true);
    let mut back = |x: &Matrix, s: &[Option<Matrix>], dy: &Matrix, dx| {
        cpu.lora_linear_backward(&layer.call(), Some(x), s, dy, dx, &mut expected)
    };
    let mut sum = None;
    for dy in &of_products {
        sum = back(&value.y, &read.s, dy, Dx::Wanted { slope: None, before: sum });
    }
    back(&x, &value.s, &product(&cpu, &sum.unwrap(), &value.slope.unwrap()), Dx::Skip);
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!((found - expected).abs() <= 1e-5, "{found} at {i} should be {expected}");
    }
}
