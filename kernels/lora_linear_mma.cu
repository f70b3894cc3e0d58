// The fused linear layer on tensor cores, in bf16 with float sums. All sizes and strides are multiples of 8.
//
// A block computes a tile of the result in steps of MMA_K along the inner dimension, with a pipeline of
// asynchronous copies `stages` deep. The last steps are those of the low-rank term: its operands come from
// memory, or, in the fused forms, S = x A^T is summed in the same pass over x, rounded, and multiplied by B^T.
// The sums of an element run over the inner dimension in the same order in every tile size, so that a row's
// result does not depend on the others.

#include "common/linear.cuh"
#include "common/swizzle.cuh"

template <uint32_t ROWS, uint32_t COLUMNS, uint32_t WARPS_M, uint32_t WARPS_N>
struct Tile {
    static constexpr uint32_t M = ROWS, N = COLUMNS, THREADS = WARPS_M * WARPS_N * WARP;
    static constexpr uint32_t WARP_M = M / WARPS_M, WARP_N = N / WARPS_N;
    static constexpr uint32_t FRAGMENTS_M = WARP_M / 16, FRAGMENTS_N = WARP_N / 8;
    // S [M, 16] in fragments of 16x8, shared among the warps.
    static constexpr uint32_t SIDE_ROWS = M / 16, SIDE_FRAGMENTS = 2 * SIDE_ROWS / (WARPS_M * WARPS_N);
    static_assert(SIDE_FRAGMENTS == 1 || SIDE_FRAGMENTS == 2, "a warp has one row of fragments");
    static constexpr uint32_t LEFT = M * MMA_K, RIGHT = N * MMA_K;
    // Of the sums in shared memory: the pairs of a half warp's fragments fall on different banks.
    static constexpr uint32_t PITCH = N + 8;

    __device__ static uint32_t warp() { return threadIdx.x / WARP; }
    __device__ static uint32_t row() { return warp() / WARPS_N * WARP_M; }
    __device__ static uint32_t column() { return warp() % WARPS_N * WARP_N; }
};

using Large = Tile<LARGE_TILE, LARGE_TILE, 2, 4>;
using Medium = Tile<MEDIUM_TILE, MEDIUM_TILE, 2, 2>;
using Small = Tile<SMALL_TILE, SMALL_TILE, 2, 2>;
static_assert(Large::THREADS == LARGE_THREADS && Medium::THREADS == MEDIUM_THREADS, "as the launcher has it");
static_assert(Small::THREADS == SMALL_THREADS, "as the launcher has it");

// What one block of a product works with. ROWS: the weights lie as [k, n]. FUSED: S is summed along.
template <class T, bool ROWS, bool FUSED, bool MASK>
struct Product {
    // Unrolled, a thread of a large tile would take more than the 128 registers that let two blocks share a
    // multiprocessor.
    static constexpr int UNROLL = T::M == LARGE_TILE ? 1 : 2;
    static constexpr uint32_t STAGE = T::LEFT + T::RIGHT + (FUSED ? RANK_UNIT * MMA_K : 0);

    const Gemm& p;
    const Part& part;
    Place at;
    bf16* stages;

    float sums[T::FRAGMENTS_M][T::FRAGMENTS_N][4] = {};
    float side[T::SIDE_FRAGMENTS][4] = {};

    // Copies the tile rows first.. of a matrix, columns k.., each ending where the matrix does.
    template <uint32_t HEIGHT, uint32_t WIDTH>
    __device__ static void copy(bf16* to, const void* from, uint32_t stride, uint32_t row, uint32_t row_end,
                                uint32_t column, uint32_t column_end) {
        constexpr uint32_t CHUNKS = WIDTH / CHUNK;
#pragma unroll
        for (uint32_t e = threadIdx.x; e < HEIGHT * CHUNKS; e += T::THREADS) {
            uint32_t i = e / CHUNKS, c = e % CHUNKS;
            bool inside = row + i < row_end && column + c * CHUNK < column_end;
            size_t offset = inside ? static_cast<size_t>(row + i) * stride + column + c * CHUNK : 0;
            copy_async_16(to + swizzled<WIDTH>(i, c), static_cast<const bf16*>(from) + offset, inside);
        }
    }

    __device__ __forceinline__ uint32_t base_steps() const { return (part.k + MMA_K - 1) / MMA_K; }
    __device__ __forceinline__ uint32_t steps() const {
        return base_steps() + (part.rank + MMA_K - 1) / MMA_K;
    }

    // Starts the copies of a step.
    __device__ __forceinline__ void load(uint32_t step, uint32_t slot) {
        bf16* left = stages + slot * STAGE;
        bf16* right = left + T::LEFT;
        if (step < base_steps()) {
            uint32_t k = step * MMA_K;
            copy<T::M, MMA_K>(left, part.left, part.left_stride, at.first, at.end, k, part.k);
            if (ROWS) {
                copy<MMA_K, T::N>(right, part.right, part.n, k, part.k, at.column, part.n);
            } else {
                copy<T::N, MMA_K>(right, part.right, part.k, at.column, part.n, k, part.k);
            }
            if (FUSED && part.rank > 0) {
                const bf16* a = of_adapter<bf16>(part.side, at.adapter, RANK_UNIT, part.k);
                copy<RANK_UNIT, MMA_K>(right + T::RIGHT, a, part.k, 0, RANK_UNIT, k, part.k);
            }
        } else if (step < steps()) {
            uint32_t k = (step - base_steps()) * MMA_K;
            if (!FUSED) {
                copy<T::M, MMA_K>(left, part.low_left, part.low_left_stride, at.first, at.end, k, part.rank);
            }
            const bf16* low = of_adapter<bf16>(part.low_right, at.adapter, part.rank, part.n);
            copy<MMA_K, T::N>(right, low, part.n, k, part.rank, at.column, part.n);
        }
    }

    // Multiplies 16 of a step's inner dimension. RIGHT_ROWS: the right tile lies as [k, n].
    template <bool RIGHT_ROWS, class Add>
    __device__ __forceinline__ void multiply(uint32_t slot, uint32_t k, Add add) {
        const bf16* left = stages + slot * STAGE;
        const bf16* right = left + T::LEFT;
        uint32_t a[T::FRAGMENTS_M][4];
#pragma unroll
        for (uint32_t i = 0; i < T::FRAGMENTS_M; i++) {
            load_a<MMA_K>(a[i], left, T::row() + 16 * i, k / CHUNK);
        }
#pragma unroll
        for (uint32_t j = 0; j < T::FRAGMENTS_N; j += 2) {
            uint32_t b[4];
            if (RIGHT_ROWS) {
                load_b_rows<T::N>(b, right, k, (T::column() + 8 * j) / CHUNK);
            } else {
                load_b<MMA_K>(b, right, T::column() + 8 * j, k / CHUNK);
            }
#pragma unroll
            for (uint32_t i = 0; i < T::FRAGMENTS_M; i++) {
                add(i, j, a[i], {b[0], b[1]});
                add(i, j + 1, a[i], {b[2], b[3]});
            }
        }
    }

    // The row of fragments of S that this warp sums, and the first of their columns.
    __device__ static uint32_t side_row() { return T::warp() % T::SIDE_ROWS * 16; }
    __device__ static uint32_t side_column() { return T::SIDE_FRAGMENTS == 2 ? 0 : T::warp() / T::SIDE_ROWS * 8; }

    __device__ __forceinline__ void multiply_side(uint32_t slot, uint32_t k) {
        const bf16* left = stages + slot * STAGE;
        uint32_t a[4], b[4];
        load_a<MMA_K>(a, left, side_row(), k / CHUNK);
        load_b<MMA_K>(b, left + T::LEFT + T::RIGHT, 0, k / CHUNK);
        if (T::SIDE_FRAGMENTS == 2) {
            mma_16x8x16(side[0], a, {b[0], b[1]});
            mma_16x8x16(side[T::SIDE_FRAGMENTS - 1], a, {b[2], b[3]});
        } else {
            bool upper = side_column() > 0;
            mma_16x8x16(side[0], a, {upper ? b[2] : b[0], upper ? b[3] : b[1]});
        }
    }

    // S, scaled and rounded: to the left tile of the low-rank step, and to memory where it is wanted.
    __device__ __forceinline__ void place_side(uint32_t slot) {
        bf16* left = stages + slot * STAGE;
        uint32_t lane = threadIdx.x % WARP, group = lane / 4, pair = lane % 4;
        float scale = scale_of(p, at.adapter);
        bool keep = part.low_left != nullptr && at.column == 0;
#pragma unroll
        for (uint32_t f = 0; f < T::SIDE_FRAGMENTS; f++) {
            uint32_t column = side_column() + 8 * f;
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t row = side_row() + group + 8 * half;
                uint32_t s = pack_bf16(scale * side[f][2 * half], scale * side[f][2 * half + 1]);
                bf16* to = left + swizzled<MMA_K>(row, column / CHUNK) + 2 * pair;
                *reinterpret_cast<uint32_t*>(to) = s;
                if (keep && at.first + row < at.end) {
                    size_t offset = static_cast<size_t>(at.first + row) * part.low_left_stride + column + 2 * pair;
                    *reinterpret_cast<uint32_t*>(static_cast<bf16*>(part.low_left) + offset) = s;
                }
            }
        }
    }

    // 16 ranks of the low-rank term; with MASK under the dropout of their target.
    __device__ __forceinline__ void multiply_low(uint32_t slot, uint32_t k, uint32_t rank) {
        if constexpr (!MASK) {
            multiply<true>(slot, k, [&](uint32_t i, uint32_t j, const uint32_t(&a)[4], const uint32_t(&&b)[2]) {
                mma_16x8x16(sums[i][j], a, b);
            });
        } else {
            uint32_t lane = threadIdx.x % WARP, target = target_of(p, rank);
            uint32_t row = at.first + T::row() + lane / 4, column = at.column + T::column() + lane % 4 * 2;
            multiply<true>(slot, k, [&](uint32_t i, uint32_t j, const uint32_t(&a)[4], const uint32_t(&&b)[2]) {
                float through[4] = {};
                mma_16x8x16(through, a, b);
#pragma unroll
                for (uint32_t half = 0; half < 2; half++) {
                    uint32_t of = column + 8 * j;
                    Factors f = dropout_factors(p.dropout, target, row + 16 * i + 8 * half, of / 4);
                    bool upper = of % 4 != 0;
                    sums[i][j][2 * half] += (upper ? f.at[2] : f.at[0]) * through[2 * half];
                    sums[i][j][2 * half + 1] += (upper ? f.at[3] : f.at[1]) * through[2 * half + 1];
                }
            });
        }
    }

    // Waits for the oldest step under way.
    __device__ __forceinline__ void wait() {
        if (p.stages == 3) {
            copy_async_wait<1>();
        } else if (p.stages == 4) {
            copy_async_wait<2>();
        } else {
            copy_async_wait<3>();
        }
        __syncthreads();
    }

    __device__ __forceinline__ uint32_t next(uint32_t slot) const { return slot + 1 == p.stages ? 0 : slot + 1; }

    __device__ __forceinline__ void run() {
        uint32_t ahead = p.stages - 1, fill = ahead, slot = 0, base = base_steps(), all = steps();
        for (uint32_t step = 0; step < ahead; step++) {
            load(step, step);
            copy_async_commit();
        }
        // At each step, everyone is past the step before: its slot is filled again.
        auto advance = [&](uint32_t step) {
            load(step + ahead, fill);
            copy_async_commit();
            fill = next(fill);
        };
        for (uint32_t step = 0; step < base; step++, slot = next(slot)) {
            wait();
            advance(step);
#pragma unroll UNROLL
            for (uint32_t k = 0; k < MMA_K; k += 16) {
                multiply<ROWS>(slot, k,
                               [&](uint32_t i, uint32_t j, const uint32_t(&a)[4], const uint32_t(&&b)[2]) {
                                   mma_16x8x16(sums[i][j], a, b);
                               });
                if (FUSED && part.rank > 0) multiply_side(slot, k);
            }
        }
        if constexpr (FUSED) {
            if (part.rank == 0) return;
            // The copies of this step leave the left tile alone.
            place_side(slot);
            wait();
            multiply_low(slot, 0, 0);
        } else {
            for (uint32_t step = base; step < all; step++, slot = next(slot)) {
                wait();
                advance(step);
                for (uint32_t k = 0; k < MMA_K; k += 16) {
                    uint32_t rank = (step - base) * MMA_K + k;
                    if (rank < part.rank) multiply_low(slot, k, rank);
                }
            }
        }
    }

    // The epilogue: through shared memory, so that it moves 16 bytes of a row at once.
    __device__ __forceinline__ void store() {
        float* tile = reinterpret_cast<float*>(stages); // nobody needs them any more
        uint32_t lane = threadIdx.x % WARP;
        __syncthreads();
#pragma unroll
        for (uint32_t i = 0; i < T::FRAGMENTS_M; i++) {
#pragma unroll
            for (uint32_t j = 0; j < T::FRAGMENTS_N; j++) {
#pragma unroll
                for (uint32_t half = 0; half < 2; half++) {
                    uint32_t row = T::row() + 16 * i + lane / 4 + 8 * half;
                    float* to = tile + row * T::PITCH + T::column() + 8 * j + lane % 4 * 2;
                    store_pack<2>(to, {{sums[i][j][2 * half], sums[i][j][2 * half + 1]}});
                }
            }
        }
        __syncthreads();
#pragma unroll 1
        for (uint32_t e = threadIdx.x; e < T::M * T::N / CHUNK; e += T::THREADS) {
            uint32_t row = e / (T::N / CHUNK), column = e % (T::N / CHUNK) * CHUNK;
            if (at.first + row >= at.end) return;
            auto product = load_pack<CHUNK>(tile + row * T::PITCH + column);
            finish<bf16, true>(p, part, at.first + row, at.column + column, product.at);
        }
    }
};

template <class T, bool ROWS, bool FUSED, bool MASK = false>
__device__ void product(const Gemm& p) {
    SharedMemory shared;
    using P = Product<T, ROWS, FUSED, MASK>;
    Place at = place<T::M, T::N>(p);
    if (at.first >= at.end) return; // the whole block
    // The sums lie there in the end.
    uint32_t size = max(p.stages * P::STAGE, 2 * T::M * T::PITCH);
    P product = {p, p.parts[at.part], at, shared.take<bf16>(size)};
    product.run();
    product.store();
}

KERNEL(linear_mma_large, Gemm, LARGE_THREADS) { product<Large, false, false>(p); }
KERNEL(linear_mma_medium, Gemm, MEDIUM_THREADS) { product<Medium, false, false>(p); }
KERNEL(linear_mma_small, Gemm, SMALL_THREADS) { product<Small, false, false>(p); }
KERNEL(linear_fused_large, Gemm, LARGE_THREADS) { product<Large, false, true>(p); }
KERNEL(linear_fused_medium, Gemm, MEDIUM_THREADS) { product<Medium, false, true>(p); }
KERNEL(linear_fused_small, Gemm, SMALL_THREADS) { product<Small, false, true>(p); }
KERNEL(linear_dx_mma_large, Gemm, LARGE_THREADS) { product<Large, true, false>(p); }
KERNEL(linear_dx_mma_medium, Gemm, MEDIUM_THREADS) { product<Medium, true, false>(p); }
KERNEL(linear_dx_mma_small, Gemm, SMALL_THREADS) { product<Small, true, false>(p); }
KERNEL(linear_dx_fused_large, Gemm, LARGE_THREADS) { product<Large, true, true>(p); }
KERNEL(linear_dx_fused_medium, Gemm, MEDIUM_THREADS) { product<Medium, true, true>(p); }
KERNEL(linear_dx_fused_small, Gemm, SMALL_THREADS) { product<Small, true, true>(p); }
KERNEL(linear_dx_masked_mma, Gemm, MEDIUM_THREADS) { product<Medium, true, false, true>(p); }
