// Eight bf16 that go from memory straight to the operands of tensor cores.
#pragma once

#include "mma.cuh"
#include "pack.cuh"
#include "philox.cuh"

// Neighbours of a row: 16 bytes, the first in the lowest half.
using Eight = Pack<uint32_t, 4>;

// Columns 8 n ..+7 of a row with dropout's mask of a target of the call.
__device__ __forceinline__ void mask(Eight& x, const Dropout& dropout, uint32_t target, uint32_t row,
                                     uint32_t column) {
#pragma unroll
    for (uint32_t quad = 0; quad < 2; quad++) {
        Factors f = dropout_factors(dropout, target, row, column / 4 + quad);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t& pair = x.at[2 * quad + i];
            bf16 low = {static_cast<uint16_t>(pair)}, high = {static_cast<uint16_t>(pair >> 16)};
            pair = pack_bf16(to_float(low) * f.at[2 * i], to_float(high) * f.at[2 * i + 1]);
        }
    }
}
