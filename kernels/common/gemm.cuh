// A product in f32: C[i][j] = sum_k L[i][k] R[k][j]. A block has a tile of C and sums over k from 0 up, so an
// element depends on its row of L and its column of R alone, to the bit.
//
// L and R are functions of two numbers, `left(i, k)` and `right(k, j)`, with a constant ALONG_K: whether
// neighbours in memory are neighbours in k, or in the other number. They are asked within [rows, depth] and
// [depth, columns] only. `store(i, j, sum)` takes the elements within [rows, columns].
#pragma once

#include "pack.cuh"

struct GemmShape {
    uint32_t rows, columns, depth;
};

namespace gemm_details {

constexpr uint32_t WARPS = GEMM_THREADS / WARP, LOADS = GEMM_TILE * GEMM_TILE / GEMM_THREADS;
static_assert(GEMM_TILE == 32 && WARPS == 4, "threads and elements are matched for these");

// Which element a thread loads, as (k, the other number) within the tile. Along k, a warp takes 8 neighbours
// in k of 4 rows: whole sectors of memory, and no two in one bank of the tile.
template <bool along_k>
__device__ __forceinline__ void place(uint32_t load, uint32_t& k, uint32_t& other) {
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    k = along_k ? warp * 8 + lane % 8 : load * WARPS + warp;
    other = along_k ? load * 4 + lane / 8 : lane;
}

// A tile on its way from memory to shared memory, where k numbers its rows.
template <bool along_k>
struct Staged {
    float x[LOADS];

    template <class Element>
    __device__ void load(const Element& element, uint32_t first_k, uint32_t depth, uint32_t first,
                         uint32_t end) {
#pragma unroll
        for (uint32_t l = 0; l < LOADS; l++) {
            uint32_t k, other;
            place<along_k>(l, k, other);
            k += first_k;
            other += first;
            x[l] = k < depth && other < end ? element(k, other) : 0.0f;
        }
    }

    __device__ void store(float* tile) const {
#pragma unroll
        for (uint32_t l = 0; l < LOADS; l++) {
            uint32_t k, other;
            place<along_k>(l, k, other);
            tile[k * GEMM_STRIDE + other] = x[l];
        }
    }
};

} // namespace gemm_details

// The tile of block (x: columns, y: rows, or from `first_row` on), with GEMM_THREADS threads and GEMM_SHARED_BYTES.
template <class Left, class Right, class Store>
__device__ void gemm(GemmShape shape, const Left& left, const Right& right, const Store& store,
                     uint32_t first_row = blockIdx.y * GEMM_TILE) {
    using namespace gemm_details;
    uint32_t first_column = blockIdx.x * GEMM_TILE;
    if (first_row >= shape.rows || first_column >= shape.columns) return; // the whole block
    SharedMemory shared;
    constexpr uint32_t SIZE = GEMM_TILE * GEMM_STRIDE;
    float* tiles = shared.take<float>(4 * SIZE);
    auto tile = [&](uint32_t side, uint32_t step) { return tiles + (step % 2 * 2 + side) * SIZE; };

    Staged<Left::ALONG_K> l;
    Staged<Right::ALONG_K> r;
    auto load = [&](uint32_t k) {
        l.load([&](uint32_t at, uint32_t i) { return left(i, at); }, k, shape.depth, first_row, shape.rows);
        r.load(right, k, shape.depth, first_column, shape.columns);
    };
    uint32_t i = threadIdx.x / 8 * 2, j = threadIdx.x % 8 * 4;
    uint32_t steps = (shape.depth + GEMM_TILE - 1) / GEMM_TILE;
    float sum[2][4] = {};
    load(0);
    for (uint32_t step = 0; step < steps; step++) {
        l.store(tile(0, step));
        r.store(tile(1, step));
        // From here on nobody reads the other pair of tiles, which the next step writes.
        __syncthreads();
        if (step + 1 < steps) load((step + 1) * GEMM_TILE);
        const float *of_left = tile(0, step) + i, *of_right = tile(1, step) + j;
#pragma unroll 8
        for (uint32_t k = 0; k < GEMM_TILE; k++) {
            Pack<float, 2> a = load_pack<2>(of_left + k * GEMM_STRIDE);
            Pack<float, 4> b = load_pack<4>(of_right + k * GEMM_STRIDE);
#pragma unroll
            for (uint32_t n = 0; n < 8; n++) sum[n / 4][n % 4] += a.at[n / 4] * b.at[n % 4];
        }
    }
#pragma unroll
    for (uint32_t n = 0; n < 8; n++) {
        uint32_t row = first_row + i + n / 4, column = first_column + j + n % 4;
        if (row < shape.rows && column < shape.columns) store(row, column, sum[n / 4][n % 4]);
    }
}

// The matrix [rows, columns] in memory as L: rows are i, columns k.
template <class T>
struct LeftRows {
    static constexpr bool ALONG_K = true;
    const T* x;
    size_t stride;
    __device__ float operator()(uint32_t i, uint32_t k) const { return to_float(x[i * stride + k]); }
};

// Its transpose as R: rows are j, columns k.
template <class T>
struct RightTransposed {
    static constexpr bool ALONG_K = true;
    const T* x;
    size_t stride;
    __device__ float operator()(uint32_t k, uint32_t j) const { return to_float(x[j * stride + k]); }
};

// The matrix as R: rows are k, columns j.
template <class T>
struct RightRows {
    static constexpr bool ALONG_K = false;
    const T* x;
    size_t stride;
    __device__ float operator()(uint32_t k, uint32_t j) const { return to_float(x[k * stride + j]); }
};
