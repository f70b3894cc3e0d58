// Tiles of bf16 in shared memory, laid out so that neither the copies nor ldmatrix meet bank conflicts.
#pragma once

#include "copy.cuh"
#include "mma.cuh"

// Elements moved at once: 16 bytes.
constexpr uint32_t CHUNK = 8;

// Where chunk `chunk` of row `row` of a tile with COLUMNS columns starts. The 128 bytes of all banks hold
// 8 chunks: eight consecutive rows, read at one chunk, fall on eight different ones.
template <uint32_t COLUMNS>
__device__ __forceinline__ uint32_t swizzled(uint32_t row, uint32_t chunk) {
    constexpr uint32_t CHUNKS = COLUMNS / CHUNK;
    static_assert(CHUNKS == 4 || CHUNKS % 8 == 0, "half a line of the banks, or whole lines");
    uint32_t mask = CHUNKS == 4 ? row / 2 % 4 : row % 8;
    return row * COLUMNS + (chunk ^ mask) * CHUNK;
}

// The A operand of an mma: rows row..row + 16, columns of chunks chunk and chunk + 1.
template <uint32_t COLUMNS>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const bf16* tile, uint32_t row, uint32_t chunk) {
    uint32_t lane = threadIdx.x % WARP;
    ldmatrix_x4(a, tile + swizzled<COLUMNS>(row + lane % 16, chunk + lane / 16));
}

// The B operands of two mmas from a tile [n, k]: n..n + 16, columns of chunks chunk and chunk + 1. b[0..1] is the
// first.
template <uint32_t COLUMNS>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], const bf16* tile, uint32_t n, uint32_t chunk) {
    uint32_t lane = threadIdx.x % WARP;
    ldmatrix_x4(b, tile + swizzled<COLUMNS>(n + lane / 16 * 8 + lane % 8, chunk + lane / 8 % 2));
}

// The same from a tile [k, n]: rows k..k + 16, n of chunks chunk and chunk + 1.
template <uint32_t COLUMNS>
__device__ __forceinline__ void load_b_rows(uint32_t (&b)[4], const bf16* tile, uint32_t k, uint32_t chunk) {
    uint32_t lane = threadIdx.x % WARP;
    ldmatrix_x4_trans(b, tile + swizzled<COLUMNS>(k + lane % 16, chunk + lane / 16));
}
