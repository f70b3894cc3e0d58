// Attention of one query a sequence: in the last layer only [CLS] asks. Query row s is that of sequence s. One
// warp has one head of one sequence, and nothing is staged: each key is read for one query only. A lane
// takes one key at a time for scores, and the columns lane + 32 i for sums over keys.

#include "attention.cuh"

namespace {

__device__ uint32_t item() { return (blockIdx.x * blockDim.x + threadIdx.x) / WARP; }

template <class T>
__device__ float dot(const T* a, const T* b, const Attention& p) {
    if (p.packs) return dot_packs(a, b, p.head_size);
    float sum = 0;
    for (uint32_t i = 0; i < p.head_size; i++) sum += to_float(a[i]) * to_float(b[i]);
    return sum;
}

// A row's columns of this lane.
template <class T>
__device__ void load(float (&x)[PER_LANE], const T* row, uint32_t size) {
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) {
        uint32_t column = threadIdx.x % WARP + WARP * i;
        x[i] = column < size ? to_float(row[column]) : 0.0f;
    }
}

template <class T>
__device__ void forward(const Attention& p) {
    Head head(p, item());
    if (!head.live) return wait_for_last_grid(); // the whole warp
    Span keys = span(p.key_offsets, head.sequence);
    fetch_parameters(p);
    wait_for_last_grid();
    uint32_t lane = threadIdx.x % WARP, size = p.head_size, column = head.number * size;
    const T* q = head_row<T>(p.q, head.sequence, p.q_stride, column);
    float sum[PER_LANE] = {}, top = -INFINITY, total = 0;
    for (uint32_t first = 0; first < keys.count; first += WARP) {
        uint32_t n = min(WARP, keys.count - first);
        const T* k = head_row<T>(p.k, keys.first + first, p.kv_stride, column);
        const T* v = head_row<T>(p.v, keys.first + first, p.kv_stride, column);
        float score = -INFINITY;
        if (lane < n) score = __fmul_rn(dot(q, k + static_cast<size_t>(lane) * p.kv_stride, p), p.scale);
        // Softmax online: sums are relative to the largest score so far. `total` is the lane's part.
        float largest = fmaxf(top, warp_max(score)), factor = expf(top - largest);
        float weight = expf(score - largest);
        top = largest;
        total = total * factor + weight;
#pragma unroll
        for (uint32_t i = 0; i < PER_LANE; i++) sum[i] *= factor;
#pragma unroll 4
        for (uint32_t j = 0; j < n; j++) {
            float w = __shfl_sync(ALL_LANES, weight, j), x[PER_LANE];
            load(x, v + static_cast<size_t>(j) * p.kv_stride, size);
#pragma unroll
            for (uint32_t i = 0; i < PER_LANE; i++) sum[i] += w * x[i];
        }
    }
    total = warp_sum(total);
    // Of no keys: zero.
    T* out = head_row<T>(p.out, head.sequence, p.heads * size, column);
    store_row(out, sum, total == 0 ? 0.0f : 1 / total, size);
    if (lane == 0) {
        p.log_sum_exp[static_cast<size_t>(head.sequence) * p.heads + head.number] = top + logf(total);
    }
}

template <class T>
__device__ void backward(const Attention& p) {
    Head head(p, item());
    if (!head.live) return wait_for_last_grid(); // the whole warp
    Span keys = span(p.key_offsets, head.sequence);
    fetch_parameters(p);
    wait_for_last_grid();
    uint32_t lane = threadIdx.x % WARP, size = p.head_size, column = head.number * size;
    const T* q = head_row<T>(p.q, head.sequence, p.q_stride, column);
    const T* dy = head_row<T>(p.dy, head.sequence, p.heads * size, column);
    float own_q[PER_LANE], own_dy[PER_LANE], own_o[PER_LANE], dq[PER_LANE] = {}, along = 0;
    load(own_q, q, size);
    load(own_dy, dy, size);
    load(own_o, head_row<T>(p.out, head.sequence, p.heads * size, column), size);
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) along += own_dy[i] * own_o[i];
    along = warp_sum(along);
    float log_sum_exp = p.log_sum_exp[static_cast<size_t>(head.sequence) * p.heads + head.number];
    for (uint32_t first = 0; first < keys.count; first += WARP) {
        uint32_t n = min(WARP, keys.count - first), key = keys.first + first;
        float probability = 0, ds = 0;
        if (lane < n) {
            const T* k = head_row<T>(p.k, key + lane, p.kv_stride, column);
            const T* v = head_row<T>(p.v, key + lane, p.kv_stride, column);
            probability = probability_of(dot(q, k, p), p.scale, log_sum_exp);
            ds = probability * (dot(dy, v, p) - along) * p.scale;
        }
#pragma unroll 2
        for (uint32_t j = 0; j < n; j++) {
            float of_dy = __shfl_sync(ALL_LANES, probability, j), of_q = __shfl_sync(ALL_LANES, ds, j);
            float x[PER_LANE];
            load(x, head_row<T>(p.k, key + j, p.kv_stride, column), size);
#pragma unroll
            for (uint32_t i = 0; i < PER_LANE; i++) dq[i] += of_q * x[i];
            store_row(head_row<T>(p.dk, key + j, p.dkv_stride, column), own_q, of_q, size);
            store_row(head_row<T>(p.dv, key + j, p.dkv_stride, column), own_dy, of_dy, size);
        }
    }
    store_row(head_row<T>(p.dq, head.sequence, p.dq_stride, column), dq, 1, size);
}

} // namespace

KERNEL_AHEAD(attention_cls_f32, Attention, ATTENTION_THREADS, 1) { forward<float>(p); }
KERNEL_AHEAD(attention_cls_bf16, Attention, ATTENTION_THREADS, 1) { forward<bf16>(p); }
KERNEL_AHEAD(attention_cls_backward_f32, Attention, ATTENTION_THREADS, 1) { backward<float>(p); }
KERNEL_AHEAD(attention_cls_backward_bf16, Attention, ATTENTION_THREADS, 1) { backward<bf16>(p); }
