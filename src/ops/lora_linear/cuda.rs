mod gradient;
mod hopper;
mod operands;
mod product;
mod slope;

use std::ops::Range;

use bytemuck::Zeroable;

pub use gradient::LoraGradientParameters;
pub use hopper::HopperParameters;
pub use operands::{Linear, Lora, LoraOperandsParameters};
pub use product::GemmParameters;
pub use slope::Slope;

use super::{Call, DeviceEpilogue, Dx, KEPT, LinearWeights, LoraLinear, Output};
use crate::device::cuda::{Address, Cuda, Flat, Level, Precision, Segments, Tensor, tiles};
use crate::lora::LoraSlot;
use gradient::{Reduction, reduce};
use operands::{Adapted, MODULES};
use product::{Form, Low, PartParameters};

impl LoraLinear for Cuda {
    type Linear = Linear;
    type Lora = Lora;
    type Slope = Slope;

    fn linear(&self, input: usize, modules: &[LinearWeights], _backward: bool) -> Linear {
        Linear::new(self, input, modules)
    }

    fn lora(&self, adapters: &[(&Flat, f32)], slots: &[Option<LoraSlot>], _backward: bool) -> Lora {
        Lora::new(self, adapters, slots)
    }

    fn adapts(lora: &Lora, modules: Range<usize>) -> bool {
        lora.modules[modules].iter().any(Option::is_some)
    }

    fn lora_linear(
        &self,
        call: &Call<'_, Cuda>,
        x: &Tensor,
        epilogue: DeviceEpilogue<'_, Tensor>,
        save: bool,
    ) -> Output<Tensor, Slope> {
        let layer = Layer::new(self, call);
        let Layer { input, width, ranks, .. } = layer;
        assert!(x.columns() == input && x.precision() == self.precision());
        let residual = match epilogue {
            DeviceEpilogue::Residual(r) => Some(r),
            _ => None,
        };
        assert!(residual.is_none_or(|r| r.columns() == width && r.precision() == self.precision()));
        assert!(residual.is_none_or(|r| r.rows().capacity == x.rows().capacity));
        let gelu = matches!(epilogue, DeviceEpilogue::Gelu);
        let level = layer.level(&[Some(x), residual]);
        let low = if layer.fuses(level) { Low::Fused } else { Low::Stored };

        let y = self.activations(x.rows().clone(), width);
        let slope = (save && gelu).then(|| Slope::new(self, x.rows(), width));
        let s =
            (ranks > 0 && (save || low == Low::Stored)).then(|| self.activations(x.rows().clone(), ranks));
        if let (Some(s), Low::Stored) = (&s, low) {
            layer.down_forward(level, x, s);
        }
        let part = |m: &Module<'_>| PartParameters {
            left: x.address(),
            left_stride: x.stride() as u32,
            right: call.linear.weight(m.number),
            bias: call.linear.bias(m.number),
            k: input as u32,
            n: m.columns.len() as u32,
            column: m.columns.start as u32,
            low_left: s.as_ref().map_or(Address::NULL, |s| m.ranks_of(s).address()),
            low_left_stride: ranks as u32,
            ..m.low(|adapted| (adapted.b, adapted.a))
        };
        let parts: Vec<_> = layer.modules.iter().map(part).collect();
        let parameters = GemmParameters {
            out: y.address(),
            out_stride: width as u32,
            slope: slope.as_ref().map_or(Address::NULL, Slope::address),
            addend: residual.map_or(Address::NULL, Tensor::address),
            addend_stride: residual.map_or(0, Tensor::stride) as u32,
            gelu: u32::from(gelu),
            scales: if low == Low::Fused { layer.scales() } else { Address::NULL },
            ..Zeroable::zeroed()
        };
        let form = Form::forward(self, level, low, x.rows().capacity, width);
        // SAFETY: x is [rows, input]; each module's W [n, input], bias [n] and, where adapted, B^T and A of
        // every adapter are as `Linear` and `Lora` hold them; S, y and slope are new memory of these rows and
        // the residual has them; `level` has looked at what tensor cores ask.
        unsafe { form.launch(self, x.rows(), layer.segments(), layer.adapters(), &parts, parameters) };
        let saved = |m: &Module<'_>| m.adapted.and(s.as_ref()).filter(|_| save).map(|s| m.ranks_of(s));
        let s = layer.modules.iter().map(saved).collect();
        Output { y, s, slope }
    }

    fn lora_linear_backward(
        &self,
        call: &Call<'_, Cuda>,
        x: Option<&Tensor>,
        s: &[Option<Tensor>],
        dy: &Tensor,
        dx: Dx<Tensor, Slope>,
        parameters: &mut Flat,
    ) -> Option<Tensor> {
        let layer = Layer::new(self, call);
        let Layer { input, width, ranks, .. } = layer;
        assert!(layer.segments().is_none(), "rows of several adapters are for inference");
        assert!(dy.columns() == width && dy.precision() == self.precision());
        let (rows, capacity) = (dy.rows(), dy.rows().capacity);
        let (wanted, slope, before) = match &dx {
            Dx::Skip => (false, None, None),
            Dx::Wanted { slope, before } => (true, slope.as_ref(), before.as_ref()),
        };
        for of_x in [x, before].into_iter().flatten() {
            assert!(of_x.columns() == input && of_x.rows().capacity == capacity);
            assert_eq!(of_x.precision(), self.precision());
        }
        assert!(slope.is_none_or(|slope| slope.has(capacity, input)));
        let level = layer.level(&[x, Some(dy), before]);
        let low = match call.dropout {
            // What is under dropout is the adapters' product alone.
            Some(_) if ranks > 0 => Low::Masked,
            // U of one module is summed along its dy; of several, each has columns of its own.
            _ if wanted && layer.modules.len() == 1 && layer.fuses(level) => Low::Fused,
            _ => Low::Stored,
        };

        let u = (ranks > 0).then(|| self.activations(rows.clone(), ranks));
        if let (Some(u), Low::Stored | Low::Masked) = (&u, low) {
            layer.down_backward(level, dy, u);
        }
        let out = wanted.then(|| {
            let out = self.activations(rows.clone(), input);
            let first = &layer.modules[0];
            let mut low_ends = [u32::MAX; MODULES];
            for (end, m) in low_ends.iter_mut().zip(&layer.modules) {
                *end = m.ranks.end as u32;
            }
            // A of all modules are one matrix [ranks, input], from the first adapted module's on.
            let adapted = layer.modules.iter().find_map(|m| m.adapted);
            let part = PartParameters {
                left: dy.address(),
                left_stride: dy.stride() as u32,
                right: call.linear.weight(first.number),
                k: width as u32,
                n: input as u32,
                rank: ranks as u32,
                low_left: u.as_ref().map_or(Address::NULL, Tensor::address),
                low_left_stride: ranks as u32,
                low_right: adapted.map_or(Address::NULL, |a| a.a),
                side: adapted.map_or(Address::NULL, |a| a.b),
                ..Zeroable::zeroed()
            };
            let parameters = GemmParameters {
                out: out.address(),
                out_stride: input as u32,
                addend: before.map_or(Address::NULL, Tensor::address),
                addend_stride: before.map_or(0, Tensor::stride) as u32,
                factor: slope.map_or(Address::NULL, Slope::address),
                factor_stride: input as u32,
                scales: if low == Low::Fused { layer.scales() } else { Address::NULL },
                dropout: call.dropout.into(),
                low_ends,
                ..Zeroable::zeroed()
            };
            let form = Form::dx(self, level, low, capacity, input);
            // SAFETY: dy is [rows, width]; W of the modules follow each other as [width, input], and A of the
            // adapted ones as [ranks, input], as U [rows, ranks] has them; where fused, there is one module,
            // whose B^T is [16, width]; dx is new memory of these rows, and the slope and what is added have them.
            unsafe { form.launch(self, rows, None, 1, &[part], parameters) };
            out
        });

        let mut reductions = Vec::new();
        for (m, s) in layer.modules.iter().zip(s) {
            let (Some(adapted), Some(s), Some(u)) = (m.adapted, s, &u) else { continue };
            let slot = &adapted.slot;
            reductions.push(Reduction {
                low: m.ranks_of(u),
                right: x.expect(KEPT).clone(),
                rank: slot.rank,
                gradient: slot.a.start,
                masked_for: call.dropout.map(|_| m.target),
            });
            reductions.push(Reduction {
                low: s.clone(),
                right: dy.slice_columns(m.columns.clone()),
                rank: slot.rank,
                gradient: slot.b.start,
                masked_for: None,
            });
        }
        reduce(self, rows, &reductions, call.dropout, parameters);
        out
    }
}

/// The modules that take part in a call.
struct Layer<'c> {
    cuda: &'c Cuda,
    call: &'c Call<'c, Cuda>,
    modules: Vec<Module<'c>>,
    input: usize,
    /// Columns of y.
    width: usize,
    /// Padded ranks of all modules together: columns of S and U.
    ranks: usize,
}

struct Module<'c> {
    /// In the layer.
    number: usize,
    /// In the call.
    target: usize,
    /// Its columns of y.
    columns: Range<usize>,
    /// Its columns of S and U.
    ranks: Range<usize>,
    adapted: Option<&'c Adapted>,
}

impl Module<'_> {
    fn ranks_of(&self, s: &Tensor) -> Tensor {
        s.slice_columns(self.ranks.clone())
    }

    /// The low-rank term of a part, of an adapted module: its right operand and its side operand.
    fn low(&self, operands: impl Fn(&Adapted) -> (Address, Address)) -> PartParameters {
        let (low_right, side) = self.adapted.map_or((Address::NULL, Address::NULL), operands);
        PartParameters { rank: self.ranks.len() as u32, low_right, side, ..Zeroable::zeroed() }
    }
}

impl<'c> Layer<'c> {
    fn new(cuda: &'c Cuda, call: &'c Call<'c, Cuda>) -> Layer<'c> {
        let (mut width, mut ranks) = (0, 0);
        let first = call.modules.start;
        let module = |(number, columns): (usize, Range<usize>)| {
            let adapted = call.lora.and_then(|l| l.modules[number].as_ref());
            let sizes = (call.linear.input, columns.len());
            assert!(adapted.is_none_or(|a| (a.slot.input, a.slot.output) == sizes));
            width = columns.end;
            let padded = ranks..ranks + adapted.map_or(0, |a| a.padded);
            ranks = padded.end;
            Module { number, target: number - first, columns, ranks: padded, adapted }
        };
        let modules = call.linear.columns(call.modules.clone()).map(module).collect();
        let adapters = call.lora.map_or(1, |l| l.adapters);
        assert!(call.segments.is_none_or(|s| s.adapters() <= adapters) || ranks == 0, "no such adapter");
        Layer { cuda, call, modules, input: call.linear.input, width, ranks }
    }

    /// Tensor cores, where they may be used and everything that they copy is aligned to 16 bytes.
    fn level(&self, tensors: &[Option<&Tensor>]) -> Level {
        let sizes = [self.input].into_iter().chain(self.call.linear.outputs.iter().copied());
        let aligned =
            tensors.iter().flatten().all(|t| t.is_wide()) && sizes.into_iter().all(|n| n.is_multiple_of(8));
        match self.cuda.precision() {
            Precision::Bf16 if aligned => self.cuda.limits().linear,
            _ => Level::Plain,
        }
    }

    /// Whether S or U is summed in the same pass: where its ranks are one unit, so that they cost an eighth of a
    /// tile of 128 columns at most, and a read of x less. This must not depend on the number of rows, or a
    /// row's result would.
    fn fuses(&self, level: Level) -> bool {
        let one_unit = |m: &Module<'_>| m.adapted.is_none_or(|a| a.padded == tiles::RANK_UNIT as usize);
        let adapted = self.ranks > 0;
        adapted && level >= Level::Tensor && self.call.dropout.is_none() && self.modules.iter().all(one_unit)
    }

    fn scales(&self) -> Address {
        self.call.lora.and_then(|l| l.scales.as_ref()).map_or(Address::NULL, Flat::address)
    }

    fn adapters(&self) -> usize {
        self.call.lora.map_or(0, |l| l.adapters)
    }

    /// Where there are none of the adapters, it does not matter whose the rows are.
    fn segments(&self) -> Option<&Segments> {
        self.call.segments.filter(|_| self.ranks > 0)
    }

    /// S = scale x A^T, under dropout of x.
    fn down_forward(&self, level: Level, x: &Tensor, s: &Tensor) {
        let part = |m: &Module<'_>| {
            m.adapted.map(|adapted| PartParameters {
                left: x.address(),
                right: adapted.a,
                k: self.input as u32,
                ..self.down_part(m, x)
            })
        };
        self.down(level, self.call.dropout.is_some(), &part, s);
    }

    /// U = scale dy B.
    fn down_backward(&self, level: Level, dy: &Tensor, u: &Tensor) {
        let part = |m: &Module<'_>| {
            m.adapted.map(|adapted| PartParameters {
                left: dy.slice_columns(m.columns.clone()).address(),
                right: adapted.b,
                k: m.columns.len() as u32,
                ..self.down_part(m, dy)
            })
        };
        self.down(level, false, &part, u);
    }

    fn down_part(&self, m: &Module<'_>, left: &Tensor) -> PartParameters {
        PartParameters {
            left_stride: left.stride() as u32,
            n: m.ranks.len() as u32,
            column: m.ranks.start as u32,
            target: m.target as u32,
            right_by_adapter: 1,
            ..Zeroable::zeroed()
        }
    }

    fn down(
        &self,
        level: Level,
        masked: bool,
        part: &dyn Fn(&Module<'_>) -> Option<PartParameters>,
        out: &Tensor,
    ) {
        let parts: Vec<_> = self.modules.iter().filter_map(part).collect();
        let parameters = GemmParameters {
            out: out.address(),
            out_stride: out.stride() as u32,
            scales: self.scales(),
            dropout: self.call.dropout.into(),
            ..Zeroable::zeroed()
        };
        // SAFETY: the left operand is [rows, k] and the right one, A or B^T of every adapter, [padded rank, k];
        // `out` is new memory with the padded ranks of all modules side by side.
        unsafe {
            Form::down(self.cuda, level, masked).launch(
                self.cuda,
                out.rows(),
                self.segments(),
                self.adapters(),
                &parts,
                parameters,
            )
        };
    }
}
