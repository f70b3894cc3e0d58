// A product in f32: C[i][j] = sum_k L[i][k] R[k][j]. A block has a tile of C. Its groups of threads take turns
// along k, and their sums are added in order: so an element depends on its row of L and its column of R alone, to
// the bit.
//
// L and R are functions of two numbers, `left(i, k)` and `right(k, j)`, with a constant ALONG_K: whether
// neighbours in memory are neighbours in k, or in the other number. They are asked within [rows, depth] and
// [depth, columns] only, and only load: `to_float` of what they give, 0 of {}, is taken once it is needed, so
// that nothing waits for memory before. `store(i, j, sum)` takes the elements within [rows, columns].
#pragma once

#include "pack.cuh"

struct GemmShape {
    uint32_t rows, columns, depth;
};

namespace gemm_details {

// Either half of a group sums over half of what it stages: 4 x 4 elements a thread read shared memory half as often
// as 2 x 4.
constexpr uint32_t HALF = GEMM_GROUP_THREADS / 2;
constexpr uint32_t WARPS = GEMM_GROUP_THREADS / WARP;
constexpr uint32_t LOADS = GEMM_TILE * GEMM_TILE / GEMM_GROUP_THREADS;
static_assert(GEMM_TILE == 32 && WARPS == 4, "threads and elements are matched for these");

// Which element a thread loads, as (k, the other number) within the tile. Along k, a warp takes 8 neighbours
// in k of 4 rows: whole sectors of memory, and no two in one bank of the tile.
template <bool along_k>
__device__ __forceinline__ void place(uint32_t load, uint32_t& k, uint32_t& other) {
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP % WARPS;
    k = along_k ? warp * 8 + lane % 8 : load * WARPS + warp;
    other = along_k ? load * 4 + lane / 8 : lane;
}

// A tile on its way from memory to shared memory, where k numbers its rows.
template <bool along_k, class Element>
struct Staged {
    Element loaded[LOADS];

    template <class Load>
    __device__ void load(const Load& element, uint32_t first_k, uint32_t depth, uint32_t first,
                         uint32_t end) {
#pragma unroll
        for (uint32_t l = 0; l < LOADS; l++) {
            uint32_t k, other;
            place<along_k>(l, k, other);
            k += first_k;
            other += first;
            loaded[l] = {};
            if (k < depth && other < end) loaded[l] = element(k, other);
        }
    }

    __device__ void store(float* tile) const {
#pragma unroll
        for (uint32_t l = 0; l < LOADS; l++) {
            uint32_t k, other;
            place<along_k>(l, k, other);
            tile[k * GEMM_STRIDE + other] = to_float(loaded[l]);
        }
    }
};

} // namespace gemm_details

// The column of which a thread stores elements, and of no other; it may be past the last.
__device__ __forceinline__ uint32_t gemm_column() { return blockIdx.x * GEMM_TILE + threadIdx.x % GEMM_TILE; }

// The tile of block (x: columns, y: rows, or from `first_row` on), which has `groups` times GEMM_GROUP_THREADS
// threads and GEMM_GROUP_BYTES.
template <uint32_t groups = GEMM_GROUPS, class Left, class Right, class Store>
__device__ void gemm(GemmShape shape, const Left& left, const Right& right, const Store& store,
                     uint32_t first_row = blockIdx.y * GEMM_TILE) {
    using namespace gemm_details;
    uint32_t first_column = blockIdx.x * GEMM_TILE;
    if (first_row >= shape.rows || first_column >= shape.columns) return; // the whole block
    SharedMemory shared;
    constexpr uint32_t SIZE = GEMM_TILE * GEMM_STRIDE;
    float* tiles = shared.take<float>(groups * 2 * SIZE);
    uint32_t group = threadIdx.x / GEMM_GROUP_THREADS;
    uint32_t half = threadIdx.x / HALF, in_half = threadIdx.x % HALF;
    float *left_tile = tiles + group * 2 * SIZE, *right_tile = left_tile + SIZE;

    Staged<Left::ALONG_K, decltype(left(0, 0))> l;
    Staged<Right::ALONG_K, decltype(right(0, 0))> r;
    auto load = [&](uint32_t k) {
        l.load([&](uint32_t at, uint32_t i) { return left(i, at); }, k, shape.depth, first_row, shape.rows);
        r.load(right, k, shape.depth, first_column, shape.columns);
    };
    uint32_t i = in_half / 8 * 4, j = in_half % 8 * 4, first_k = half % 2 * GEMM_TILE / 2;
    float sum[4][4] = {};
    load(group * GEMM_TILE);
    for (uint32_t first = 0; first < shape.depth; first += groups * GEMM_TILE) {
        uint32_t of_group = first + group * GEMM_TILE;
        __syncthreads(); // the last step has been read
        l.store(left_tile);
        r.store(right_tile);
        __syncthreads();
        load(of_group + groups * GEMM_TILE);
        if (of_group >= shape.depth) continue; // the whole group
        const float *of_left = left_tile + i, *of_right = right_tile + j;
#pragma unroll 8
        for (uint32_t k = first_k; k < first_k + GEMM_TILE / 2; k++) {
            Pack<float, 4> a = load_pack<4>(of_left + k * GEMM_STRIDE);
            Pack<float, 4> b = load_pack<4>(of_right + k * GEMM_STRIDE);
#pragma unroll
            for (uint32_t n = 0; n < 16; n++) sum[n / 4][n % 4] += a.at[n / 4] * b.at[n % 4];
        }
    }
    __syncthreads(); // the last step has been read
#pragma unroll
    for (uint32_t n = 0; n < 4; n++) {
        Pack<float, 4> four = {{sum[n][0], sum[n][1], sum[n][2], sum[n][3]}};
        store_pack<4>(tiles + half * SIZE + (i + n) * GEMM_STRIDE + j, four);
    }
    __syncthreads();
    uint32_t column = gemm_column();
#pragma unroll
    for (uint32_t n = 0; n < LOADS / groups; n++) {
        uint32_t e = n * groups * GEMM_GROUP_THREADS + threadIdx.x, at = e / GEMM_TILE, row = first_row + at;
        float total = 0;
#pragma unroll
        for (uint32_t h = 0; h < 2 * groups; h++) total += tiles[h * SIZE + at * GEMM_STRIDE + e % GEMM_TILE];
        if (row < shape.rows && column < shape.columns) store(row, column, total);
    }
}

// The matrix [rows, columns] in memory as L: rows are i, columns k.
template <class T>
struct LeftRows {
    static constexpr bool ALONG_K = true;
    const T* x;
    size_t stride;
    __device__ T operator()(uint32_t i, uint32_t k) const { return x[i * stride + k]; }
};

// Its transpose as R: rows are j, columns k.
template <class T>
struct RightTransposed {
    static constexpr bool ALONG_K = true;
    const T* x;
    size_t stride;
    __device__ T operator()(uint32_t k, uint32_t j) const { return x[j * stride + k]; }
};

// The matrix as R: rows are k, columns j.
template <class T>
struct RightRows {
    static constexpr bool ALONG_K = false;
    const T* x;
    size_t stride;
    __device__ T operator()(uint32_t k, uint32_t j) const { return x[k * stride + j]; }
};
