// The skinny products S = scale x A^T and U = scale dy B on tensor cores, for all modules of a layer: bound by
// reading x or dy. Rows of both operands go straight from memory to the registers of the mma: the order of the
// inner dimension is free as long as both have the same, so a lane reads 16 bytes of each row at once.

#include "common/eight.cuh"
#include "common/linear.cuh"

constexpr uint32_t WARPS = DOWN_THREADS / WARP, TILE = DOWN_TILE, STEP = 32;
static_assert(TILE == RANK_UNIT && TILE * TILE == 2 * DOWN_THREADS, "as fragments and threads have it");

__device__ __forceinline__ Eight read(const void* from, size_t offset, bool inside) {
    if (!inside) return {};
    return *reinterpret_cast<const Eight*>(static_cast<const bf16*>(from) + offset);
}

// A block computes 16 rows and 16 ranks; its warps take turns along the inner dimension.
template <bool MASK>
__device__ void down(const Gemm& p) {
    SharedMemory shared;
    float* partial = shared.take<float>(WARPS * TILE * TILE);
    Place at = place<TILE, TILE>(p);
    if (at.first >= at.end) return; // the whole block
    const Part& part = p.parts[at.part];
    const bf16* right = of_adapter<bf16>(part.right, part.right_by_adapter * at.adapter, part.n, part.k);
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, group = lane / 4, pair = lane % 4;
    uint32_t row = at.first + group, n = at.column + group;
    size_t left_at[2] = {static_cast<size_t>(row) * part.left_stride, static_cast<size_t>(row + 8) * part.left_stride};
    size_t right_at[2] = {static_cast<size_t>(n) * part.k, static_cast<size_t>(n + 8) * part.k};
    float sums[2][4] = {};
#pragma unroll(MASK ? 1 : 4)
    for (uint32_t first = warp * STEP; first < part.k; first += WARPS * STEP) {
        uint32_t k = first + pair * 8;
        bool inside = k < part.k;
        Eight x[2], a[2];
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            x[i] = read(part.left, left_at[i] + k, inside && row + 8 * i < at.end);
            a[i] = read(right, right_at[i] + k, inside);
            if (MASK) mask(x[i], p.dropout, part.target, row + 8 * i, k);
        }
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            const uint32_t left[4] = {x[0].at[2 * h], x[1].at[2 * h], x[0].at[2 * h + 1], x[1].at[2 * h + 1]};
            mma_16x8x16(sums[0], left, {a[0].at[2 * h], a[0].at[2 * h + 1]});
            mma_16x8x16(sums[1], left, {a[1].at[2 * h], a[1].at[2 * h + 1]});
        }
    }
#pragma unroll
    for (uint32_t f = 0; f < 2; f++) {
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            partial[(warp * TILE + group + i / 2 * 8) * TILE + 8 * f + 2 * pair + i % 2] = sums[f][i];
        }
    }
    __syncthreads();
    uint32_t r = threadIdx.x / 8, c = threadIdx.x % 8 * 2;
    float total[2] = {};
    for (uint32_t w = 0; w < WARPS; w++) {
        for (uint32_t i = 0; i < 2; i++) total[i] += partial[(w * TILE + r) * TILE + c + i];
    }
    for (float& sum : total) sum *= scale_of(p, at.adapter);
    if (at.first + r < at.end) finish<bf16, true>(p, part, at.first + r, at.column + c, total);
}

KERNEL(linear_down, Gemm, DOWN_THREADS) { down<false>(p); }
KERNEL(linear_down_masked, Gemm, DOWN_THREADS) { down<true>(p); }
