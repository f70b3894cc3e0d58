use bytemuck::{Pod, Zeroable};

use super::{Attention, Inputs, Shape};
use crate::device::cuda::kernels::{
    ATTENTION_BF16, ATTENTION_CLS_BACKWARD_BF16, ATTENTION_CLS_BACKWARD_F32, ATTENTION_CLS_BF16,
    ATTENTION_CLS_F32, ATTENTION_DKV_BF16, ATTENTION_DKV_F32, ATTENTION_DQ_BF16, ATTENTION_DQ_F32,
    ATTENTION_F32, ATTENTION_MMA_32, ATTENTION_MMA_64, ATTENTION_MMA_BACKWARD_32, ATTENTION_MMA_BACKWARD_64,
    Kernel,
};
use crate::device::cuda::tensor::RowsParameter;
use crate::device::cuda::{Address, Bounds, Cuda, Index, Level, Precision, Tensor, tiles};

/// `Attention` of kernels/attention.cuh.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionParameters {
    q: Address,
    k: Address,
    v: Address,
    out: Address,
    log_sum_exp: Address,
    dy: Address,
    dq: Address,
    dk: Address,
    dv: Address,
    scratch: Address,
    query_offsets: Address,
    key_offsets: Address,
    offsets: RowsParameter,
    q_stride: u32,
    kv_stride: u32,
    dq_stride: u32,
    dkv_stride: u32,
    heads: u32,
    head_size: u32,
    scale: f32,
    packs: u32,
}

/// Which kernels do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// kernels/attention_cls.cu: a warp for the one query of a head.
    Cls,
    /// kernels/attention_mma.cu.
    TensorCores,
    /// kernels/attention.cu: any size of head.
    Plain,
}

impl Form {
    /// `packs`: whether the heads of all operands lie at multiples of 16 bytes.
    fn of(limit: Level, single_query: bool, precision: Precision, head_size: usize, packs: bool) -> Form {
        let fits = packs && matches!(head_size, 32 | 64);
        match precision {
            _ if single_query => Form::Cls,
            Precision::Bf16 if fits && limit >= Level::Tensor => Form::TensorCores,
            _ => Form::Plain,
        }
    }
}

impl Attention for Cuda {
    fn attention(&self, shape: Shape<'_, Cuda>, inputs: &Inputs<Tensor>) -> (Tensor, Tensor) {
        let parts = Parts::of(&shape, inputs);
        let (rows, h) = (parts.q.rows(), shape.heads * shape.head_size);
        let precision = parts.q.precision();
        let out = self.tensor(rows.clone(), h, precision);
        let log_sum_exp = self.tensor(rows.clone(), shape.heads, Precision::F32);
        let (form, parameters) = prepare(self, &shape, &parts, &out, &log_sum_exp, None);
        let size = shape.head_size as u32;
        let (kernel, shared_bytes) = match (form, precision) {
            (Form::Cls, Precision::F32) => (ATTENTION_CLS_F32, 0),
            (Form::Cls, Precision::Bf16) => (ATTENTION_CLS_BF16, 0),
            (Form::TensorCores, _) if size == 32 => (ATTENTION_MMA_32, 3 * mma_tile_bytes(size)),
            (Form::TensorCores, _) => (ATTENTION_MMA_64, 3 * mma_tile_bytes(size)),
            (Form::Plain, Precision::F32) => (ATTENTION_F32, plain_bytes(1, size)),
            (Form::Plain, Precision::Bf16) => (ATTENTION_BF16, plain_bytes(1, size)),
        };
        // SAFETY: `Parts::of` and `prepare` have checked the shapes, and that the offsets ascend and stay
        // within the rows of q and kv. The output and the log-sum-exp are new memory with as many rows as q
        // has.
        unsafe { self.launch(kernel, grid(&shape, form), shared_bytes, &parameters) };
        (out, log_sum_exp)
    }

    fn attention_backward(
        &self,
        shape: Shape<'_, Cuda>,
        inputs: &Inputs<Tensor>,
        output: &Tensor,
        log_sum_exp: &Tensor,
        dy: &Tensor,
    ) -> Inputs<Tensor> {
        let parts = Parts::of(&shape, inputs);
        let (rows, h) = (parts.q.rows(), shape.heads * shape.head_size);
        let precision = parts.q.precision();
        let new = |like: &Tensor| self.tensor(like.rows().clone(), like.columns(), precision);
        let gradients = match inputs {
            Inputs::Fused(x) => Inputs::Fused(new(x)),
            Inputs::Split(q, kv) => Inputs::Split(new(q), new(kv)),
        };
        let d = Parts::of(&shape, &gradients);
        let (form, mut parameters) = prepare(self, &shape, &parts, output, log_sum_exp, Some((dy, &d)));
        let scratch_columns = match form {
            Form::Cls => 0,
            Form::TensorCores => h,
            Form::Plain => shape.heads,
        };
        let scratch = self.tensor(rows.clone(), scratch_columns, Precision::F32);
        parameters.scratch = scratch.address();
        let size = shape.head_size as u32;
        let run = |kernel: Kernel<AttentionParameters>, shared_bytes: u32| {
            // SAFETY: `Parts::of` and `prepare` have checked the shapes, and that the offsets ascend and stay
            // within the rows of q and kv. The gradients are new memory of the inputs' shapes; so is the
            // scratch memory, with as many rows as q has and the columns that the kernels of this form ask
            // for.
            unsafe { self.launch(kernel, grid(&shape, form), shared_bytes, &parameters) };
        };
        match (form, precision) {
            (Form::Cls, Precision::F32) => run(ATTENTION_CLS_BACKWARD_F32, 0),
            (Form::Cls, Precision::Bf16) => run(ATTENTION_CLS_BACKWARD_BF16, 0),
            (Form::TensorCores, _) if size == 32 => run(ATTENTION_MMA_BACKWARD_32, mma_backward_bytes(size)),
            (Form::TensorCores, _) => run(ATTENTION_MMA_BACKWARD_64, mma_backward_bytes(size)),
            (Form::Plain, Precision::F32) => {
                run(ATTENTION_DQ_F32, plain_bytes(2, size));
                run(ATTENTION_DKV_F32, plain_bytes(2, size));
            }
            (Form::Plain, Precision::Bf16) => {
                run(ATTENTION_DQ_BF16, plain_bytes(2, size));
                run(ATTENTION_DKV_BF16, plain_bytes(2, size));
            }
        }
        gradients
    }
}

/// Queries, keys and values [rows, H] of the inputs, or of their gradients.
struct Parts {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl Parts {
    fn of(shape: &Shape<'_, Cuda>, inputs: &Inputs<Tensor>) -> Parts {
        let h = shape.heads * shape.head_size;
        let (q, kv) = match inputs {
            Inputs::Fused(x) => {
                assert_eq!(x.columns(), 3 * h);
                (x.slice_columns(0..h), x.slice_columns(h..3 * h))
            }
            Inputs::Split(q, kv) => (q.clone(), kv.clone()),
        };
        assert!(q.columns() == h && kv.columns() == 2 * h && q.precision() == kv.precision());
        Parts { q, k: kv.slice_columns(0..h), v: kv.slice_columns(h..2 * h) }
    }
}

/// Checks the shapes; the form, and the parameters but for the scratch memory. `backward` has dy and the
/// gradients to write.
fn prepare(
    cuda: &Cuda,
    shape: &Shape<'_, Cuda>,
    Parts { q, k, v }: &Parts,
    out: &Tensor,
    log_sum_exp: &Tensor,
    backward: Option<(&Tensor, &Parts)>,
) -> (Form, AttentionParameters) {
    let (heads, size) = (shape.heads, shape.head_size);
    assert!((1..=tiles::ATTENTION_HEAD_SIZE as usize).contains(&size), "heads of {size}");
    let offsets = shape.key_offsets.rows();
    assert_eq!(shape.query_offsets.rows().capacity, offsets.capacity);
    let cut = |offsets: &Index, of: &Tensor| offsets.bounds().keep_to(Bounds::offsets_of(of.rows().capacity));
    assert!(cut(shape.query_offsets, q) && cut(shape.key_offsets, k), "no such rows");
    assert!(!shape.single_query || q.rows().capacity >= sequences(shape));
    let like_q = |t: &Tensor, columns: usize, precision: Precision| {
        t.columns() == columns
            && t.stride() == columns
            && t.rows().capacity == q.rows().capacity
            && t.precision() == precision
    };
    assert!(like_q(out, heads * size, q.precision()) && like_q(log_sum_exp, heads, Precision::F32));
    assert!(backward.is_none_or(|(dy, _)| like_q(dy, heads * size, q.precision())));

    let dy = backward.map(|(dy, _)| dy);
    let bytes = q.precision().bytes();
    let on_packs = |t: &Tensor| t.address().0.is_multiple_of(16) && (t.stride() * bytes).is_multiple_of(16);
    let packs = (size * bytes).is_multiple_of(16) && [q, k, v, out].into_iter().chain(dy).all(on_packs);
    let gradient = |of: fn(&Parts) -> &Tensor| backward.map(|(_, d)| of(d));
    let address = |t: Option<&Tensor>| t.map_or(Address::NULL, Tensor::address);
    let stride = |t: Option<&Tensor>| t.map_or(0, |t| t.stride() as u32);
    let (dq, dk, dv) = (gradient(|d| &d.q), gradient(|d| &d.k), gradient(|d| &d.v));
    let parameters = AttentionParameters {
        q: q.address(),
        k: k.address(),
        v: v.address(),
        out: out.address(),
        log_sum_exp: log_sum_exp.address(),
        dy: address(dy),
        dq: address(dq),
        dk: address(dk),
        dv: address(dv),
        scratch: Address::NULL,
        query_offsets: shape.query_offsets.address(),
        key_offsets: shape.key_offsets.address(),
        offsets: offsets.parameter(),
        q_stride: q.stride() as u32,
        kv_stride: k.stride() as u32,
        dq_stride: stride(dq),
        dkv_stride: stride(dk),
        heads: heads as u32,
        head_size: size as u32,
        scale: shape.scale(),
        packs: packs.into(),
    };
    let form = Form::of(cuda.limits().attention, shape.single_query, q.precision(), size, packs);
    (form, parameters)
}

/// How many there is room for.
fn sequences(shape: &Shape<'_, Cuda>) -> usize {
    shape.key_offsets.rows().capacity.saturating_sub(1)
}

/// A block, or for `Cls` a warp, for each head of each sequence.
fn grid(shape: &Shape<'_, Cuda>, form: Form) -> [u32; 3] {
    let items = (sequences(shape) * shape.heads) as u32;
    let items_a_block = if form == Form::Cls { tiles::ATTENTION_THREADS / 32 } else { 1 };
    [items.div_ceil(items_a_block), 1, 1]
}

/// Shared memory is taken in pieces that start at multiples of this.
const PIECE: u32 = 128;

/// Shared memory of kernels/attention.cu: matrices of a group's rows, as many as given, two tiles, and a weight
/// for each row of each lane.
fn plain_bytes(groups: u32, head_size: u32) -> u32 {
    let rows = tiles::ATTENTION_WARP_ROWS * size_of::<f32>() as u32;
    let group = (tiles::ATTENTION_THREADS / 32 * head_size * rows).next_multiple_of(PIECE);
    let tile = (32 * (head_size | 1) * size_of::<f32>() as u32).next_multiple_of(PIECE);
    groups * group + 2 * tile + tiles::ATTENTION_THREADS * rows
}

/// `Tile` of kernels/attention_mma.cu.
fn mma_tile_bytes(columns: u32) -> u32 {
    (tiles::ATTENTION_TILE * (columns + 8) * Precision::Bf16.bytes() as u32).next_multiple_of(PIECE)
}

/// Q, K, V, dO and dS, and two floats a query.
fn mma_backward_bytes(head_size: u32) -> u32 {
    let floats = (tiles::ATTENTION_TILE * size_of::<f32>() as u32).next_multiple_of(PIECE);
    4 * mma_tile_bytes(head_size) + mma_tile_bytes(tiles::ATTENTION_TILE) + 2 * floats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_from_the_shape() {
        let general = |precision, size, packs| Form::of(Level::Tensor, false, precision, size, packs);
        assert_eq!(general(Precision::Bf16, 64, true), Form::TensorCores);
        assert_eq!(general(Precision::Bf16, 32, true), Form::TensorCores);
        assert_eq!(general(Precision::Bf16, 64, false), Form::Plain);
        assert_eq!(general(Precision::Bf16, 48, true), Form::Plain);
        assert_eq!(general(Precision::F32, 64, true), Form::Plain);
        assert_eq!(Form::of(Level::Plain, false, Precision::Bf16, 64, true), Form::Plain);
        for precision in [Precision::F32, Precision::Bf16] {
            assert_eq!(Form::of(Level::Tensor, true, precision, 64, true), Form::Cls);
        }
    }

    #[test]
    fn usual_heads_need_no_more_shared_memory_than_every_kernel_may_have() {
        for size in [32, 64] {
            assert!(plain_bytes(2, size).max(mma_backward_bytes(size)) <= 48 << 10);
        }
    }
}
