//! One layer of the encoder.

use std::ops::Range;
use std::sync::Arc;

use super::DropoutStep;
use crate::bert::batch::SharedPairs;
use crate::bert::{Config, PackedBatch};
use crate::device::Device;
use crate::lora::Target;
use crate::ops::attention::{Inputs, Shape, attention};
use crate::ops::gather_rows::gather_rows;
use crate::ops::layer_norm::layer_norm;
use crate::ops::lora_linear::{Call, Dropout, Epilogue, lora_linear};
use crate::tape::{Tape, Var};

/// The modules whose outputs lie side by side.
pub(super) const QKV: [Target; 3] = [Target::Query, Target::Key, Target::Value];

pub(super) struct Layer<D: Device> {
    /// Query, key and value side by side.
    pub qkv: Linear<D>,
    pub attention_output: Linear<D>,
    pub attention_norm: Arc<D::Norm>,
    pub intermediate: Linear<D>,
    pub output: Linear<D>,
    pub output_norm: Arc<D::Norm>,
    /// Whether it is the encoder's last.
    pub last: bool,
}

/// Some modules of a layer, packed.
pub(super) struct Linear<D: Device> {
    pub packed: D::Linear,
    pub layer: usize,
    /// The first of its modules; the others follow in the order of [`Target`].
    pub first: Target,
}

/// What adapters add to a layer.
pub(super) struct LayerOperands<D: Device> {
    pub qkv: D::Lora,
    pub attention_output: D::Lora,
    pub intermediate: D::Lora,
    pub output: D::Lora,
}

/// What all layers see of a forward pass.
pub(super) struct Pass<'p, 'a, D: Device> {
    pub device: &'p D,
    pub config: &'a Config,
    pub batch: &'a PackedBatch<D>,
    pub dropout: Option<DropoutStep>,
}

/// Which rows a product computes.
#[derive(Clone, Copy)]
enum Rows {
    /// One for each distinct pair of token and position, where the batch shares them.
    Distinct,
    Tokens,
    Cls,
}

impl<'a, D: Device + 'a> Pass<'_, 'a, D> {
    /// The product with some of the modules of `linear`, counted from its first.
    fn call(
        &self,
        linear: &'a Linear<D>,
        lora: Option<&'a D::Lora>,
        modules: Range<usize>,
        rows: Rows,
    ) -> Call<'a, D> {
        let segments = match rows {
            Rows::Distinct => self.batch.shared.as_ref().and_then(|shared| shared.segments.as_ref()),
            Rows::Tokens => self.batch.segments.as_ref().map(|segments| &segments.tokens),
            Rows::Cls => self.batch.segments.as_ref().map(|segments| &segments.cls),
        };
        let dropout = self.dropout.map(|step| Dropout {
            p: step.p,
            seed: step.seed,
            step: step.step,
            layer: linear.layer as u32,
            first_row: match rows {
                Rows::Distinct | Rows::Tokens => step.first_token,
                Rows::Cls => step.first_sequence,
            },
            first_target: linear.first as u32 + modules.start as u32,
        });
        Call { linear: &linear.packed, lora, segments, modules, dropout }
    }
}

impl<D: Device> Layer<D> {
    /// What comes of `x`, [tokens, H]; of the last layer [sequences, H], the [CLS] rows. Where the rows of `x` are
    /// those of `distinct`, each as often as its pair is there, these are projected in their place.
    pub fn forward<'a>(
        &'a self,
        pass: &Pass<'_, 'a, D>,
        lora: Option<&'a LayerOperands<D>>,
        tape: &mut Tape<'a, D>,
        mut x: Var<D>,
        distinct: Option<(Var<D>, &SharedPairs<D>)>,
    ) -> Var<D>
    where
        D: 'a,
    {
        let Pass { device, config, batch, .. } = *pass;
        let qkv = |modules, rows| pass.call(&self.qkv, lora.map(|lora| &lora.qkv), modules, rows);
        let project = |tape: &mut Tape<'a, D>, modules: Range<usize>| match &distinct {
            Some((distinct, shared)) => {
                let call = qkv(modules, Rows::Distinct);
                let y = lora_linear(device, tape, call, distinct, Epilogue::Nothing);
                gather_rows(device, tape, &y, &shared.expand, shared.pairs)
            }
            None => lora_linear(device, tape, qkv(modules, Rows::Tokens), &x, Epilogue::Nothing),
        };
        // Only [CLS] is read in the end: the last layer computes keys and values for all tokens, and everything
        // else for the [CLS] rows.
        let (inputs, rows, query_offsets) = if self.last {
            let kv = project(tape, 1..3);
            x = gather_rows(device, tape, &x, &batch.cls, batch.tokens);
            let q = lora_linear(device, tape, qkv(0..1, Rows::Cls), &x, Epilogue::Nothing);
            (Inputs::Split(q, kv), Rows::Cls, &batch.cls_offsets)
        } else {
            (Inputs::Fused(project(tape, 0..3)), Rows::Tokens, &batch.offsets)
        };
        let shape = Shape {
            heads: config.heads,
            head_size: config.head_size(),
            query_offsets,
            key_offsets: &batch.offsets,
            single_query: self.last,
        };
        let context = attention(device, tape, shape, inputs);

        let call = pass.call(&self.attention_output, lora.map(|lora| &lora.attention_output), 0..1, rows);
        x = lora_linear(device, tape, call, &context, Epilogue::Residual(&x));
        x = layer_norm(device, tape, &self.attention_norm, &x);
        let call = pass.call(&self.intermediate, lora.map(|lora| &lora.intermediate), 0..1, rows);
        let wide = lora_linear(device, tape, call, &x, Epilogue::Gelu);
        let call = pass.call(&self.output, lora.map(|lora| &lora.output), 0..1, rows);
        x = lora_linear(device, tape, call, &wide, Epilogue::Residual(&x));
        layer_norm(device, tape, &self.output_norm, &x)
    }
}
