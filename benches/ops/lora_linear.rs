//! The linear layers: forward, the gradient of their input, and those of their adapters.

use criterion::Criterion;
use lorb_engine::device::Memory;
use lorb_engine::device::cpu::{Cpu, Matrix};
use lorb_engine::lora::LoraSlot;
use lorb_engine::ops::lora_linear::{Call, DeviceEpilogue, Dx, LinearWeights, LoraLinear};

use crate::roofline::{Machine, Work, values, weights};
use crate::{Model, RANK, TOKENS};

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Nothing,
    Gelu,
    Residual,
}

struct Layer {
    name: &'static str,
    input: usize,
    /// Outputs of each module, and whether it has an adapter.
    modules: Vec<(usize, bool)>,
    then: Then,
}

pub fn all(criterion: &mut Criterion, machine: &Machine, model: Model) {
    let Model { hidden: h, intermediate: wide, .. } = model;
    let qkv = vec![(h, true), (h, false), (h, true)];
    for layer in [
        Layer { name: "query, key, value", input: h, modules: qkv, then: Then::Nothing },
        Layer { name: "attention output", input: h, modules: vec![(h, true)], then: Then::Residual },
        Layer { name: "intermediate", input: h, modules: vec![(wide, true)], then: Then::Gelu },
        Layer { name: "output", input: wide, modules: vec![(h, true)], then: Then::Residual },
    ] {
        layer.bench(criterion, machine, model);
    }
}

impl Layer {
    fn bench(&self, criterion: &mut Criterion, machine: &Machine, model: Model) {
        let (cpu, input) = (&machine.cpu, self.input);
        let output: usize = self.modules.iter().map(|m| m.0).sum();
        let adapted: Vec<usize> = self.modules.iter().filter(|m| m.1).map(|m| m.0).collect();
        let of_adapters: usize = adapted.iter().map(|out| input + out).sum();

        let module = |m: &(usize, bool)| LinearWeights { weight: weights(m.0 * input), bias: weights(m.0) };
        let linear = cpu.linear(input, &self.modules.iter().map(module).collect::<Vec<_>>(), true);
        let slots = self.slots();
        let mut parameters = values(slots.iter().flatten().last().map_or(0, |slot| slot.b.end));
        let lora = cpu.lora(&[(&parameters, 1.0)], &slots, true);
        let base = Call::<Cpu> {
            linear: &linear,
            lora: None,
            segments: None,
            modules: 0..self.modules.len(),
            dropout: None,
        };
        let call = Call { lora: Some(&lora), ..base.clone() };
        let x = cpu.upload(&values(TOKENS * input), TOKENS, input);
        let dy = cpu.upload(&values(TOKENS * output), TOKENS, output);

        let product = 2 * TOKENS * input * output;
        let residual = if self.then == Then::Residual { TOKENS * output } else { 0 };
        let floats = input * output + TOKENS * (input + output);
        let flop = product + 2 * TOKENS * RANK * of_adapters;
        let work = Work::new(flop, floats + residual + RANK * of_adapters);
        let forward = || cpu.lora_linear(&call, &x, self.epilogue(&dy), false).y;
        machine.bench(criterion, model, &format!("lora_linear, {}", self.name), work, forward);

        let none = vec![None; self.modules.len()];
        let work = Work::new(product, floats);
        let dx = || {
            let wanted = Dx::Wanted { slope: None, before: None };
            cpu.lora_linear_backward(&base, Some(&x), &none, &dy, wanted, &mut Vec::new())
        };
        machine.bench(criterion, model, &format!("lora_linear dX, {}", self.name), work, dx);

        // U, dA and dB of each.
        let flop: usize = adapted.iter().map(|out| 2 * TOKENS * RANK * (input + 2 * out)).sum();
        let floats = TOKENS * (input + adapted.iter().sum::<usize>() + RANK * adapted.len());
        let work = Work::new(flop, floats + 2 * RANK * of_adapters);
        let saved = cpu.lora_linear(&call, &x, self.epilogue(&dy), true);
        let gradients =
            || cpu.lora_linear_backward(&call, Some(&x), &saved.s, &dy, Dx::Skip, &mut parameters).is_none();
        machine.bench(criterion, model, &format!("lora_linear dA and dB, {}", self.name), work, gradients);
    }

    /// A and B of the adapted modules, one after the other.
    fn slots(&self) -> Vec<Option<LoraSlot>> {
        let (input, mut end) = (self.input, 0);
        let slot = |&(output, adapted): &(usize, bool)| {
            adapted.then(|| {
                let a = end..end + RANK * input;
                let b = a.end..a.end + RANK * output;
                end = b.end;
                LoraSlot { a, b, rank: RANK, input, output }
            })
        };
        self.modules.iter().map(slot).collect()
    }

    fn epilogue<'r>(&self, residual: &'r Matrix) -> DeviceEpilogue<'r, Matrix> {
        match self.then {
            Then::Nothing => DeviceEpilogue::Nothing,
            Then::Gelu => DeviceEpilogue::Gelu,
            Then::Residual => DeviceEpilogue::Residual(residual),
        }
    }
}
