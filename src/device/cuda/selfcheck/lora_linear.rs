use super::compare::{Bound, Output};
use super::{Case, Check, Checked, Site, check};
use crate::Result;
use crate::lora::LoraSlot;
use crate::ops::lora_linear::{Call, DeviceEpilogue, Dropout, Dx, LinearWeights};

/// The layers of BERT with ranks that are summed in the same pass, and with others.
pub const CHECKS: &[Check] = &[
    check("lora_linear, query, key and value", |site| layers(site, Kind::Attention, 8, 0.0)),
    check("lora_linear, feed-forward", |site| layers(site, Kind::FeedForward, 8, 0.0)),
    check("lora_linear, rank 24", |site| layers(site, Kind::FeedForward, 24, 0.0)),
    check("lora_linear, dropout", |site| layers(site, Kind::FeedForward, 8, 0.25)),
    check("lora_linear, odd sizes", odd),
];

const SCALE: f32 = 1.5;

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Nothing,
    Gelu,
    Residual,
}

/// A layer: its sizes and what it is given.
struct Layer {
    rows: usize,
    input: usize,
    modules: Vec<LinearWeights>,
    slots: Vec<Option<LoraSlot>>,
    parameters: Vec<f32>,
    then: Then,
    dropout: Option<Dropout>,
    x: Vec<f32>,
    residual: Vec<f32>,
    dy: Vec<f32>,
    /// What dx is multiplied by, and what is added to it.
    slope: Vec<f32>,
    before: Vec<f32>,
}

impl Layer {
    /// All modules but the second are adapted: of query, key and value, key is not.
    fn new(site: &Site<'_>, rows: usize, input: usize, outputs: &[usize], rank: usize, then: Then) -> Layer {
        let mut inputs = site.inputs();
        let width: usize = outputs.iter().sum();
        // So that the terms of y are about 1, and those of dx have the size of one another.
        let [of_input, of_width, of_rank] = [input, width, rank].map(|n| 1.0 / (n as f32).sqrt());
        let module = |&n: &usize| LinearWeights {
            weight: inputs.weights(n * input, of_input),
            bias: inputs.weights(n, 1.0),
        };
        let modules = outputs.iter().map(module).collect();
        let mut parameters = Vec::new();
        let slot = |(m, &output): (usize, &usize)| {
            let a = parameters.len()..parameters.len() + rank * input;
            let b = a.end..a.end + rank * output;
            (m != 1).then(|| {
                parameters.extend(inputs.values(a.len(), of_input));
                parameters.extend(inputs.values(b.len(), 2.0 * of_rank));
                LoraSlot { a, b, rank, input, output }
            })
        };
        let slots = outputs.iter().enumerate().map(slot).collect();
        Layer {
            rows,
            input,
            modules,
            slots,
            parameters,
            then,
            dropout: None,
            x: inputs.values(rows * input, 1.0),
            residual: inputs.values(rows * width, 1.0),
            dy: inputs.values(rows * width, of_width),
            slope: inputs.slopes(rows * input),
            before: inputs.values(rows * input, of_input),
        }
    }
}

impl Case for Layer {
    fn run<D: Checked>(&self, device: &D) -> Result<Vec<Output>> {
        let Layer { rows, input, .. } = *self;
        let width = self.residual.len() / rows;
        let linear = device.linear(input, &self.modules, true);
        let parameters = device.parameters(&self.parameters);
        let lora = device.lora(&[(&parameters, SCALE)], &self.slots, true);
        let call = Call {
            linear: &linear,
            lora: Some(&lora),
            segments: None,
            modules: 0..self.modules.len(),
            dropout: self.dropout,
        };
        let x = device.upload(&self.x, rows, input);
        let residual = device.upload(&self.residual, rows, width);
        let epilogue = || match self.then {
            Then::Nothing => DeviceEpilogue::Nothing,
            Then::Gelu => DeviceEpilogue::Gelu,
            Then::Residual => DeviceEpilogue::Residual(&residual),
        };
        // S is kept on the way to y, and x under dropout.
        let on_the_way = 1 + u32::from(self.dropout.is_some());
        let of_y = Bound::sum(input).after(on_the_way);
        let given = device.just_written(&x, rows, input);
        let out = device.lora_linear(&call, &given, epilogue(), true);
        let mut outputs = vec![Output::new("y", device.download(&out.y)?, of_y)];
        if let Some(slope) = &out.slope {
            // Its largest is about 1 and the product's some units, off which GELU' is off by 0.8 at most; and of 1 it
            // is kept to a 400th.
            let of_slope = Bound::sum(input).after(2 * on_the_way + 1);
            outputs.push(Output::new("slope", device.download_slope(slope)?, of_slope));
        }
        // As rescoring computes it, which saves nothing and knows no dropout.
        if self.dropout.is_none() {
            let given = device.just_written(&x, rows, input);
            let alone = device.lora_linear(&call, &given, epilogue(), false).y;
            outputs.push(Output::new("y alone", device.download(&alone)?, of_y));
        }

        let dy = device.upload(&self.dy, rows, width);
        let dx = Dx::Wanted {
            slope: Some(device.upload_slope(&self.slope, rows, input)),
            before: Some(device.upload(&self.before, rows, input)),
        };
        let mut gradient = device.parameters(&vec![0.0; self.parameters.len()]);
        let dy = device.just_written(&dy, rows, width);
        let dx = device.lora_linear_backward(&call, Some(&x), &out.s, &dy, dx, &mut gradient);
        let dx = dx.expect("it was asked for");
        // U is kept.
        outputs.push(Output::new("dx", device.download(&dx)?, Bound::sum(width).after(1)));
        let gradient = device.values(&gradient)?;
        let bound = Bound::sum(rows.max(input).max(width)).after(on_the_way).in_f32();
        for slot in self.slots.iter().flatten() {
            outputs.push(Output::new("dA", gradient[slot.a.clone()].to_vec(), bound));
            outputs.push(Output::new("dB", gradient[slot.b.clone()].to_vec(), bound));
        }
        Ok(outputs)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Attention,
    FeedForward,
}

/// The layers of a kind, for every number of rows.
fn layers(site: &Site<'_>, kind: Kind, rank: usize, dropout: f32) -> Result<f64> {
    let (hidden, wide) = (site.sizes.hidden, site.sizes.wide);
    let of_rows = |rows| match kind {
        Kind::Attention => vec![Layer::new(site, rows, hidden, &[hidden; 3], rank, Then::Nothing)],
        Kind::FeedForward => vec![
            Layer::new(site, rows, hidden, &[wide], rank, Then::Gelu),
            Layer::new(site, rows, wide, &[hidden], rank, Then::Residual),
        ],
    };
    let mask = Dropout { p: dropout, seed: 9 << 32 | 5, step: 3, layer: 2, first_row: 4, first_target: 1 };
    let mut worst = 0.0f64;
    for mut layer in site.sizes.rows.iter().flat_map(|&rows| of_rows(rows)) {
        layer.dropout = (dropout > 0.0).then_some(mask);
        worst = worst.max(site.check(&layer)?);
    }
    Ok(worst)
}

/// Rows that no copy of 16 bytes fits, which plain kernels compute at every level.
fn odd(site: &Site<'_>) -> Result<f64> {
    site.check(&Layer::new(site, 67, 101, &[37], 3, Then::Residual))
}
