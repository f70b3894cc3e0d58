//! The pooler and the classifier on the [CLS] rows of a step.

use criterion::Criterion;
use lorb_engine::device::Memory;
use lorb_engine::ops::score_head::ScoreHead;

use crate::roofline::{Machine, Work, values, weights};
use crate::{HYPOTHESES as ROWS, Model};

pub fn all(criterion: &mut Criterion, machine: &Machine, model: Model) {
    let (cpu, h) = (&machine.cpu, model.hidden);
    let x = cpu.upload(&values(ROWS * h), ROWS, h);
    let product = 2 * ROWS * h * h;

    let frozen = cpu.frozen_pooler(&weights(h * h), &weights(h), true);
    let work = Work::new(product, h * h + 2 * ROWS * h);
    let z = cpu.pooler(&frozen, None, &x);
    machine.bench(criterion, model, "score_head, pooler", work, || cpu.pooler(&frozen, None, &x));
    let work = Work::new(product, h * h + 3 * ROWS * h);
    let backward = || cpu.pooler_backward(&frozen, &x, &z, &x, true, &mut Vec::new());
    machine.bench(criterion, model, "score_head, pooler backward, frozen", work, backward);

    let mut parameters = values(h * h + h);
    let trained = cpu.trained_pooler(&[&parameters], 0..h * h, h * h..h * h + h, true);
    let work = Work::new(2 * product, 3 * h * h + 4 * ROWS * h);
    let backward = || cpu.pooler_backward(&trained, &x, &z, &x, true, &mut parameters);
    machine.bench(criterion, model, "score_head, pooler backward, trained", work, backward);

    let mut parameters = values(h);
    let classifier = cpu.classifier_weights(&[(&parameters, 0.0)], 0..h);
    let dg = cpu.upload(&values(ROWS), ROWS, 1);
    let work = Work::new(2 * ROWS * h, h + ROWS * (h + 1));
    machine.bench(criterion, model, "score_head, classifier", work, || cpu.classifier(&classifier, None, &z));
    let work = Work::new(4 * ROWS * h, 3 * h + ROWS * (2 * h + 1));
    let backward = || cpu.classifier_backward(&classifier, &z, &dg, &mut parameters);
    machine.bench(criterion, model, "score_head, classifier backward", work, backward);
}
