//! The fused linear layer: y = x W^T + b + scale (x A^T) B^T, then GELU or a residual.
//!
//! Several modules that read the same x (query, key, value) are one layer: their outputs lie side by side.
//! W and b are frozen; A [rank, in] and B (kept transposed, [rank, out]) are trained (LoRA, arXiv
//! 2106.09685; the conventions are PEFT's). Backward, with S = scale x A^T and U = scale dy B:
//! dx = dy W + U A, dA = U^T x, dB^T = S^T dy.
//!
//! Dropout, where asked, masks x for each target before its A, as PEFT does: then S comes from the masked
//! x, and the fused form is left only in that S keeps its place in the product.

mod cpu;
pub mod cuda;
mod dropout;

use std::ops::Range;

pub use dropout::Dropout;

use crate::bert::Weights;
use crate::device::{Device, Memory};
use crate::lora::LoraSlot;
use crate::profile::Work;
use crate::tape::{Backward, Gradients, Kept, Place, Tape, Var};

/// W [out, in] and b [out] of one module of a layer.
#[derive(Clone)]
pub struct LinearWeights {
    pub weight: Weights,
    pub bias: Weights,
}

/// What follows the product.
pub enum Epilogue<'v, D: Device> {
    Nothing,
    /// y = GELU(product), the exact form (Hendrycks and Gimpel, arXiv 1606.08415).
    Gelu,
    /// y = product + residual.
    Residual(&'v Var<D>),
}

/// The epilogue as a device sees it.
pub enum DeviceEpilogue<'t, T> {
    Nothing,
    Gelu,
    Residual(&'t T),
}

/// What one forward pass gives.
pub struct Output<T, Slope> {
    /// [rows, sum of the modules' outputs].
    pub y: T,
    /// S of each module, where it has an adapter and the tape records: [rows, rank].
    pub s: Vec<Option<T>>,
    /// GELU' at the product, where the tape records and the epilogue is GELU.
    pub slope: Option<Slope>,
}

/// The linear layer on a device.
pub trait LoraLinear: Memory {
    /// The packed weights of a layer.
    type Linear: Send + Sync;
    /// The packed A and B of a layer's modules, of one adapter or several.
    type Lora: Send + Sync;
    /// GELU' at the product, as it is kept for the way back.
    type Slope: Clone + Send + Sync;

    /// Packs the modules of a layer; `backward` also packs what dx needs.
    fn linear(&self, input: usize, modules: &[LinearWeights], backward: bool) -> Self::Linear;

    /// Packs A and B of a layer's modules out of the flat parameters of each adapter, with its scale; `None`
    /// for a module without. `backward` also packs what the gradients need.
    fn lora(
        &self,
        adapters: &[(&Self::Parameters, f32)],
        slots: &[Option<LoraSlot>],
        backward: bool,
    ) -> Self::Lora;

    /// Whether any of `modules` has an adapter.
    fn adapts(lora: &Self::Lora, modules: Range<usize>) -> bool;

    /// The forward pass over some of the modules. A row's result depends on that row and its adapter alone.
    fn lora_linear(
        &self,
        call: &Call<'_, Self>,
        x: &Self::Tensor,
        epilogue: DeviceEpilogue<'_, Self::Tensor>,
        save: bool,
    ) -> Output<Self::Tensor, Self::Slope>;

    /// For rows of one adapter: dA and dB into `parameters`; and dx where it is asked for. `dy` is the gradient of
    /// the product: of the argument of a GELU. `x` is looked at for modules with an S alone.
    ///
    /// # Panics
    /// Where there is an S and no x.
    fn lora_linear_backward(
        &self,
        call: &Call<'_, Self>,
        x: Option<&Self::Tensor>,
        s: &[Option<Self::Tensor>],
        dy: &Self::Tensor,
        dx: Dx<Self::Tensor, Self::Slope>,
        parameters: &mut Self::Parameters,
    ) -> Option<Self::Tensor>;

    /// The work of the forward pass over `rows`, less the bytes of the rows, for a profile.
    fn lora_linear_work(_call: &Call<'_, Self>, _rows: &Self::Tensor) -> Work {
        Work::default()
    }

    /// The same of the way back, through the adapters of which `s` was kept; to x where `wanted`.
    fn lora_linear_backward_work(
        _call: &Call<'_, Self>,
        _s: &[Option<Self::Tensor>],
        _rows: &Self::Tensor,
        _wanted: bool,
    ) -> Work {
        Work::default()
    }

    /// What a slope takes, for a profile.
    fn slope_bytes(_slope: &Self::Slope) -> f64 {
        0.0
    }
}

const KEPT: &str = "x is kept where an S is";

/// Which product: the layer, its adapters, the modules that take part, and the dropout of this step.
pub struct Call<'a, D: LoraLinear> {
    pub linear: &'a D::Linear,
    pub lora: Option<&'a D::Lora>,
    /// Whose the rows are; `None` where all are the first adapter's.
    pub segments: Option<&'a D::Segments>,
    pub modules: Range<usize>,
    pub dropout: Option<Dropout>,
}

impl<D: LoraLinear> Clone for Call<'_, D> {
    fn clone(&self) -> Self {
        Call { modules: self.modules.clone(), ..*self }
    }
}

/// Whether the gradient of x is wanted.
pub enum Dx<T, Slope> {
    Skip,
    /// Times `slope`, plus `before`, where given: x may be the output of a GELU.
    Wanted {
        slope: Option<Slope>,
        before: Option<T>,
    },
}

/// The linear layer of `x`.
pub fn lora_linear<'a, D: Device + 'a>(
    device: &D,
    tape: &mut Tape<'a, D>,
    call: Call<'a, D>,
    x: &Var<D>,
    epilogue: Epilogue<'_, D>,
) -> Var<D> {
    let residual = match &epilogue {
        Epilogue::Residual(r) => Some((*r).clone()),
        _ => None,
    };
    let adapted = call.lora.is_some_and(|lora| D::adapts(lora, call.modules.clone()));
    let needed = adapted || x.needs_gradient() || residual.as_ref().is_some_and(Var::needs_gradient);
    let for_device = match &epilogue {
        Epilogue::Nothing => DeviceEpilogue::Nothing,
        Epilogue::Gelu => DeviceEpilogue::Gelu,
        Epilogue::Residual(r) => DeviceEpilogue::Residual(&r.value),
    };
    let name = match &epilogue {
        Epilogue::Nothing => "linear",
        Epilogue::Gelu => "linear, GELU",
        Epilogue::Residual(_) => "linear, residual",
    };
    let work = |output: &Output<D::Tensor, D::Slope>| {
        let rows = [Some(&x.value), Some(&output.y), residual.as_ref().map(|r| &r.value)];
        let rows: f64 = rows.into_iter().flatten().map(D::bytes).sum();
        let slope = output.slope.as_ref().map_or(0.0, D::slope_bytes);
        D::lora_linear_work(&call, &x.value) + Work::bytes(rows + slope)
    };
    let forward = || device.lora_linear(&call, &x.value, for_device, tape.is_recording() && needed);
    let Output { y, s, slope } = device.operation(name, work, forward);
    let record = || Node {
        kept: s.iter().any(Option::is_some).then(|| x.keep()),
        x: x.place().clone(),
        residual: residual.map(|r| r.place().clone()),
        call,
        s,
    };
    tape.record(y, needed, record).with_slope(slope)
}

struct Node<'a, D: Device> {
    call: Call<'a, D>,
    x: Place<D>,
    /// x, where the gradients of an adapter need it.
    kept: Option<Kept<D>>,
    residual: Option<Place<D>>,
    s: Vec<Option<D::Tensor>>,
}

impl<D: Device> Backward<D> for Node<'_, D> {
    fn backward(self: Box<Self>, device: &D, dy: D::Tensor, gradients: &mut Gradients<'_, D>) {
        let dx = if self.x.needs_gradient() {
            Dx::Wanted { slope: self.x.slope().cloned(), before: gradients.take_sloped(&self.x) }
        } else {
            Dx::Skip
        };
        let x = self.kept.as_ref().map(|kept| kept.value(device));
        let (call, x, s) = (&self.call, x.as_ref(), &self.s);
        let wanted = matches!(dx, Dx::Wanted { .. });
        let work = |dx: &Option<D::Tensor>| {
            let moved = [Some(&dy), x, dx.as_ref()].into_iter().flatten().map(D::bytes).sum();
            D::lora_linear_backward_work(call, s, &dy, wanted) + Work::bytes(moved)
        };
        let parameters = &mut *gradients.parameters;
        let backward = || device.lora_linear_backward(call, x, s, &dy, dx, parameters);
        let dx = device.operation("linear, backward", work, backward);
        if let Some(dx) = dx {
            gradients.set_sloped(&self.x, dx);
        }
        if let Some(residual) = &self.residual {
            gradients.add(device, residual, dy);
        }
    }
}
