// Copies of whole tiles to shared memory by the engine that sm_90 has for them (TMA): the only file with its PTX.
#pragma once

#include "mbarrier.cuh"

// Matrices of bf16, and the box that is copied of them at once, as the driver describes them. Has a twin in
// src/device/cuda/driver.rs.
struct alignas(128) TensorMap {
    uint64_t words[16];
};

// A box is as wide as the swizzle that it is stored in: 128 bytes.
constexpr uint32_t BOX_COLUMNS = 64, BOX_ROW_BYTES = 128;
// Eight rows, after which the swizzle repeats: boxes start at multiples of it.
constexpr uint32_t SWIZZLE_BYTES = 1024;

// Starts to fetch the box's description, so that the first copy need not wait for it.
__device__ __forceinline__ void prefetch_map([[maybe_unused]] const TensorMap* map) {
#ifndef LORB_EMULATE
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}

// Starts to fetch a box to the second-level cache.
__device__ __forceinline__ void prefetch_box([[maybe_unused]] const TensorMap* map, [[maybe_unused]] uint32_t column,
                                             [[maybe_unused]] uint32_t row, [[maybe_unused]] uint32_t matrix) {
#ifndef LORB_EMULATE
    asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global [%0, {%1, %2, %3}];" ::"l"(map), "r"(column), "r"(row),
                 "r"(matrix)
                 : "memory");
#endif
}

// Starts the copy of a box: the rows and columns from these on, of one of the matrices. Outside of the matrix there
// are zeros. The bytes of the whole box are told to the barrier as they land. The 16 bytes of columns 8 c.. of row r
// lie at 128 r + 16 (c ^ r % 8).
__device__ __forceinline__ void copy_box(void* shared, const TensorMap* map, uint32_t column, uint32_t row,
                                         uint32_t matrix, Mbarrier* barrier) {
#ifdef LORB_EMULATE
    emulate::copy_box(shared, map, column, row, matrix, barrier);
#else
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(column), "r"(row), "r"(matrix), "r"(shared_address(barrier))
                 : "memory");
#endif
}
