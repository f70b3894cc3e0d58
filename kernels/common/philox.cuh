// LoRA's dropout: masks that are a function of where they apply (see src/ops/lora_linear/dropout.rs).
#pragma once

#include "launch.cuh"

struct Dropout {
    uint64_t seed;
    uint32_t step;
    uint32_t place;     // the number of the layer and of the call's first target
    uint32_t first_row; // the number of row 0 in the step's batch
    uint32_t threshold; // a word below it drops its element
    float keep;         // what the others are multiplied by; 0: no dropout
    uint32_t unused;
};

// Four words of Philox-4x32-10 (Salmon et al., SC 2011).
struct Words {
    uint32_t at[4];
};

__device__ __forceinline__ Words philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t seed) {
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint64_t a = static_cast<uint64_t>(c0) * 0xD2511F53u, b = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
        c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(b);
        c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(a);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// The factors of columns 4 quad ..+3 of a row, for a target of the call: 0 or keep.
struct Factors {
    float at[4];
};

__device__ __forceinline__ Factors dropout_factors(const Dropout& d, uint32_t target, uint32_t row,
                                                   uint32_t quad) {
    Words w = philox(quad, d.first_row + row, d.place + target, d.step, d.seed);
    Factors f;
#pragma unroll
    for (int i = 0; i < 4; i++) f.at[i] = w.at[i] < d.threshold ? 0.0f : d.keep;
    return f;
}

// That of one column.
__device__ __forceinline__ float dropout_factor(const Dropout& d, uint32_t target, uint32_t row,
                                                uint32_t column) {
    Words w = philox(column / 4, d.first_row + row, d.place + target, d.step, d.seed);
    uint32_t i = column % 4, low = i & 1 ? w.at[1] : w.at[0], high = i & 1 ? w.at[3] : w.at[2];
    return (i & 2 ? high : low) < d.threshold ? 0.0f : d.keep;
}
