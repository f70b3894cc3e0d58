// The fused linear layer on CUDA cores, in float or bf16: the form for float, and for bf16 matrices whose sizes
// the tensor cores cannot take. A block computes a tile of 64x64, a thread 8x4 of it.

#include "common/linear.cuh"

constexpr uint32_t THREAD_ROWS = 8, THREAD_COLUMNS = 4;
static_assert(SIMT_TILE * SIMT_TILE == SIMT_THREADS * THREAD_ROWS * THREAD_COLUMNS, "a tile is a block's");

// One operand: element (i, k) lies at i * outer + k * inner.
template <class T>
struct Operand {
    const T* data;
    uint32_t outer, inner, first, end; // of i
};

// tile[k][i] = operand(first + i, k0 + k) in float, 0 beyond the ends.
template <class T, bool INNER_IS_K>
__device__ void load(float* tile, const Operand<T>& from, uint32_t k0, uint32_t k_end) {
#pragma unroll
    for (uint32_t e = threadIdx.x; e < SIMT_K * SIMT_TILE; e += SIMT_THREADS) {
        // Neighbouring threads read neighbouring elements.
        uint32_t k = INNER_IS_K ? e % SIMT_K : e / SIMT_TILE, i = INNER_IS_K ? e / SIMT_K : e % SIMT_TILE;
        bool inside = from.first + i < from.end && k0 + k < k_end;
        size_t at = static_cast<size_t>(from.first + i) * from.outer + static_cast<size_t>(k0 + k) * from.inner;
        tile[k * SIMT_PITCH + i] = inside ? to_float(from.data[at]) : 0.0f;
    }
}

using Sums = float[THREAD_ROWS][THREAD_COLUMNS];

// sums += the product of both tiles.
__device__ __forceinline__ void multiply(Sums& sums, const float* left, const float* right) {
    uint32_t i = threadIdx.x / 16 * THREAD_ROWS, j = threadIdx.x % 16 * THREAD_COLUMNS;
#pragma unroll
    for (uint32_t k = 0; k < SIMT_K; k++) {
        const float* at = left + k * SIMT_PITCH + i;
        Pack<float, 4> l[2] = {load_pack<4>(at), load_pack<4>(at + 4)};
        Pack<float, 4> r = load_pack<4>(right + k * SIMT_PITCH + j);
#pragma unroll
        for (uint32_t a = 0; a < THREAD_ROWS; a++) {
#pragma unroll
            for (uint32_t b = 0; b < THREAD_COLUMNS; b++) sums[a][b] += l[a / 4].at[a % 4] * r.at[b];
        }
    }
}

// ROWS: the weights lie as [k, n]. MASK_LEFT: dropout of `left`; MASK_LOW: of low_left low_right, by target.
template <class T, bool ROWS, bool MASK_LEFT, bool MASK_LOW>
__device__ void product(const Gemm& p) {
    SharedMemory shared;
    float* left = shared.take<float>(SIMT_K * SIMT_PITCH);
    float* right = shared.take<float>(SIMT_K * SIMT_PITCH);
    Place at = place<SIMT_TILE, SIMT_TILE>(p);
    if (at.first >= at.end) return; // the whole block
    const Part& part = p.parts[at.part];
    uint32_t row = at.first + threadIdx.x / 16 * THREAD_ROWS;
    uint32_t column = at.column + threadIdx.x % 16 * THREAD_COLUMNS;

    Sums sums = {};
    Operand<T> l = {static_cast<const T*>(part.left), part.left_stride, 1, at.first, at.end};
    Operand<T> r = {of_adapter<T>(part.right, part.right_by_adapter * at.adapter, part.n, part.k),
                    ROWS ? 1 : part.k, ROWS ? part.n : 1, at.column, part.n};
    for (uint32_t k = 0; k < part.k; k += SIMT_K) {
        load<T, true>(left, l, k, part.k);
        load<T, !ROWS>(right, r, k, part.k);
        __syncthreads();
        if (MASK_LEFT) {
            for (uint32_t e = threadIdx.x; e < SIMT_K * SIMT_TILE; e += SIMT_THREADS) {
                uint32_t i = e / SIMT_K;
                float& x = left[e % SIMT_K * SIMT_PITCH + i];
                x = to_float(from_float<T>(
                    x * dropout_factor(p.dropout, part.target, at.first + i, k + e % SIMT_K)));
            }
            __syncthreads();
        }
        multiply(sums, left, right);
        __syncthreads();
    }

    Operand<T> low_l = {static_cast<const T*>(part.low_left), part.low_left_stride, 1, at.first, at.end};
    Operand<T> low_r = {of_adapter<T>(part.low_right, at.adapter, part.rank, part.n), 1, part.n, at.column,
                        part.n};
    for (uint32_t k = 0; k < part.rank; k += SIMT_K) {
        load<T, true>(left, low_l, k, part.rank);
        load<T, false>(right, low_r, k, part.rank);
        __syncthreads();
        if (MASK_LOW) {
            Sums through = {};
            multiply(through, left, right);
            uint32_t target = target_of(p, k);
#pragma unroll
            for (uint32_t a = 0; a < THREAD_ROWS; a++) {
                Factors f = dropout_factors(p.dropout, target, row + a, column / 4);
#pragma unroll
                for (uint32_t b = 0; b < THREAD_COLUMNS; b++) sums[a][b] += f.at[b] * through[a][b];
            }
        } else {
            multiply(sums, left, right);
        }
        __syncthreads();
    }
    float scale = scale_of(p, at.adapter);
#pragma unroll
    for (uint32_t a = 0; a < THREAD_ROWS; a++) {
#pragma unroll
        for (uint32_t b = 0; b < THREAD_COLUMNS; b++) sums[a][b] *= scale;
        if (row + a < at.end) finish<T, false>(p, part, row + a, column, sums[a]);
    }
}

KERNEL(linear_f32, Gemm, SIMT_THREADS) { product<float, false, false, false>(p); }
KERNEL(linear_bf16, Gemm, SIMT_THREADS) { product<bf16, false, false, false>(p); }
KERNEL(linear_masked_f32, Gemm, SIMT_THREADS) { product<float, false, true, false>(p); }
KERNEL(linear_masked_bf16, Gemm, SIMT_THREADS) { product<bf16, false, true, false>(p); }
KERNEL(linear_dx_f32, Gemm, SIMT_THREADS) { product<float, true, false, false>(p); }
KERNEL(linear_dx_bf16, Gemm, SIMT_THREADS) { product<bf16, true, false, false>(p); }
KERNEL(linear_dx_masked_f32, Gemm, SIMT_THREADS) { product<float, true, false, true>(p); }
KERNEL(linear_dx_masked_bf16, Gemm, SIMT_THREADS) { product<bf16, true, false, true>(p); }
