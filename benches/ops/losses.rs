//! The losses of a step, and the optimizer.

use criterion::Criterion;
use lorb_engine::ops::adamw::{Adamw, AdamwOptions, ParameterGroup};
use lorb_engine::ops::correlation::correlation;
use lorb_engine::ops::mwer::{MwerInputs, mean_mwer};

use crate::roofline::{Machine, Work, values};
use crate::{HYPOTHESES, Model, RANK};

pub fn all(criterion: &mut Criterion, machine: &Machine, model: Model) {
    mwer(criterion, machine, model);
    for hypotheses in [HYPOTHESES, 1024] {
        let h = model.hidden;
        let features = values(hypotheses * h);
        // By the smaller of the two squares: its product, and that times the features.
        let flop = 4 * hypotheses * h * hypotheses.min(h);
        let work = Work::new(flop, 2 * hypotheses * h);
        let name = format!("correlation, {hypotheses} hypotheses");
        machine.bench(criterion, model, &name, work, || {
            correlation(&machine.cpu, &features, hypotheses, h).loss
        });
    }
    // Query and value, and all six modules of a layer.
    let (h, wide) = (model.hidden, model.intermediate);
    for (what, floats) in [("query and value", 4 * h), ("all targets", 8 * h + 2 * (h + wide))] {
        adamw(criterion, machine, model, what, model.layers * RANK * floats);
    }
}

fn mwer(criterion: &mut Criterion, machine: &Machine, model: Model) {
    let scores = values(HYPOTHESES);
    let offsets: Vec<f64> = scores.iter().map(|&x| f64::from(x) * 3.0).collect();
    let errors: Vec<u32> = (0..HYPOTHESES as u32).map(|i| i % 5).collect();
    let utterances: Vec<_> = (0..HYPOTHESES).step_by(8).map(|first| first..first + 8).collect();
    // Each list with g and without: the score 2, softmax's sum and quotient 2, the loss 3, the gradients 6. An offset
    // has eight bytes.
    let work = Work::new(2 * 13 * HYPOTHESES, 5 * HYPOTHESES);
    machine.bench(criterion, model, "mwer, 4 lists of 8", work, || {
        let inputs = MwerInputs { offsets: &offsets, scores: &scores, errors: &errors, beta: 1.0 };
        mean_mwer(inputs, &utterances).loss
    });
}

fn adamw(criterion: &mut Criterion, machine: &Machine, model: Model, what: &str, parameters: usize) {
    let mut optimizer = Adamw::new(AdamwOptions::default(), parameters);
    let (mut parameter_values, gradient) = (values(parameters), values(parameters));
    let groups = [ParameterGroup { range: 0..parameters, lr: 1e-4, weight_decay: 0.01 }];
    // The norm 2, clipping 1, the moments 6, the update 7; the gradient, and three that are read and written.
    let work = Work::new(16 * parameters, 7 * parameters);
    let name = format!("adamw, {parameters} parameters ({what})");
    machine
        .bench(criterion, model, &name, work, || optimizer.update(&mut parameter_values, &gradient, &groups));
}
