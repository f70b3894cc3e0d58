// dA = U^T x and dB^T = S^T dy for all modules of a layer: tall matrices reduced over their rows. Blocks sum
// chunks of rows, then the chunks' sums are added to the gradients in order.

#include "common/bf16.cuh"
#include "common/philox.cuh"

struct LoraReduction {
    const void* low;   // U or S: [rows, …], the padded rank side by side
    const void* right; // x or dy: [rows, n]
    uint32_t low_stride, right_stride;
    uint32_t rank, n;
    uint32_t partial; // where its [rank, n] starts in a chunk's sums
    uint32_t gradient; // and in the gradients
    uint32_t first_tile; // the first tile of columns in x of this reduction
    uint32_t target; // of dropout, where it masks `right`
    uint32_t masked, unused;
};

struct LoraGradient {
    LoraReduction reductions[2 * LINEAR_MODULES];
    float* partials;  // [chunks, total]
    float* gradients; // the flat vector
    Rows rows;
    Dropout dropout;
    uint32_t count, total;
    uint32_t chunks, rows_a_chunk;
};

// A thread sums 16 ranks of four columns, REDUCE_THREADS apart.
constexpr uint32_t COLUMNS = REDUCE_COLUMNS / REDUCE_THREADS;

template <class T, bool MASK>
__device__ void reduce(const LoraGradient& p) {
    SharedMemory shared;
    float* low = shared.take<float>(REDUCE_STAGED * RANK_UNIT);
    uint32_t which = 0;
    while (which + 1 < p.count && blockIdx.x >= p.reductions[which + 1].first_tile) which++;
    const LoraReduction& r = p.reductions[which];
    uint32_t first_rank = blockIdx.z * RANK_UNIT;
    if (first_rank >= r.rank) return; // the whole block
    uint32_t column = (blockIdx.x - r.first_tile) * REDUCE_COLUMNS + threadIdx.x;
    uint32_t first = blockIdx.y * p.rows_a_chunk, end = min(first + p.rows_a_chunk, p.rows.count());
    float sums[RANK_UNIT][COLUMNS] = {};
    for (uint32_t row = first; row < end; row += REDUCE_STAGED) {
        uint32_t staged = min(REDUCE_STAGED, end - row);
        __syncthreads();
        for (uint32_t e = threadIdx.x; e < staged * RANK_UNIT; e += REDUCE_THREADS) {
            size_t at = static_cast<size_t>(row + e / RANK_UNIT) * r.low_stride + first_rank + e % RANK_UNIT;
            low[e] = to_float(static_cast<const T*>(r.low)[at]);
        }
        __syncthreads();
        for (uint32_t i = 0; i < staged; i++) {
            const T* right = static_cast<const T*>(r.right) + static_cast<size_t>(row + i) * r.right_stride;
            float x[COLUMNS];
#pragma unroll
            for (uint32_t c = 0; c < COLUMNS; c++) {
                uint32_t at = column + c * REDUCE_THREADS;
                x[c] = at < r.n ? to_float(right[at]) : 0.0f;
                if (MASK && r.masked) {
                    x[c] = to_float(
                        from_float<T>(x[c] * dropout_factor(p.dropout, r.target, row + i, at)));
                }
            }
#pragma unroll
            for (uint32_t k = 0; k < RANK_UNIT; k++) {
#pragma unroll
                for (uint32_t c = 0; c < COLUMNS; c++) sums[k][c] += low[i * RANK_UNIT + k] * x[c];
            }
        }
    }
    float* partial = p.partials + static_cast<size_t>(blockIdx.y) * p.total + r.partial;
#pragma unroll
    for (uint32_t k = 0; k < RANK_UNIT; k++) {
#pragma unroll
        for (uint32_t c = 0; c < COLUMNS; c++) {
            uint32_t at = column + c * REDUCE_THREADS;
            if (first_rank + k < r.rank && at < r.n) partial[(first_rank + k) * r.n + at] = sums[k][c];
        }
    }
}

KERNEL(lora_gradient_f32, LoraGradient, REDUCE_THREADS) { reduce<float, false>(p); }
KERNEL(lora_gradient_bf16, LoraGradient, REDUCE_THREADS) { reduce<bf16, false>(p); }
KERNEL(lora_gradient_masked_f32, LoraGradient, REDUCE_THREADS) { reduce<float, true>(p); }
KERNEL(lora_gradient_masked_bf16, LoraGradient, REDUCE_THREADS) { reduce<bf16, true>(p); }

// gradients += the sums of all chunks, one reduction per block in y.
KERNEL(lora_gradient_sum, LoraGradient, ELEMENTWISE_THREADS) {
    const LoraReduction& r = p.reductions[blockIdx.y];
    uint32_t i = blockIdx.x * ELEMENTWISE_THREADS + threadIdx.x;
    if (i >= r.rank * r.n) return;
    float sum = 0;
    for (uint32_t c = 0; c < p.chunks; c++) sum += p.partials[static_cast<size_t>(c) * p.total + r.partial + i];
    p.gradients[r.gradient + i] += sum;
}
