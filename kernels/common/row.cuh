// A row of at most LAYER_NORM_WIDTH columns in the registers of a warp, and its LayerNorm.
//
// Lanes hold packs of V neighbours, where V divides the width: pack n of a lane starts at column (32 n + lane) V.
#pragma once

#include "pack.cuh"
#include "reduce.cuh"

constexpr uint32_t PER_LANE = LAYER_NORM_WIDTH / WARP;

// Calls `each(i, column)` for the lane's packs that are within the width: element i is the first of the pack at that
// column. The packs beyond cost no more than a jump: code that runs once takes as long as it takes to fetch it.
template <uint32_t V, class Each>
__device__ __forceinline__ void each_pack(uint32_t width, uint32_t lane, const Each& each) {
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i += V) {
        uint32_t column = (i / V * WARP + lane) * V;
        if (column < width) each(i, column);
    }
}

template <uint32_t V, class T>
__device__ __forceinline__ void load_row(float (&row)[PER_LANE], const T* x, uint32_t width, uint32_t lane) {
    each_pack<V>(width, lane, [&](uint32_t i, uint32_t column) {
        Pack<T, V> pack = load_pack<V>(x + column);
#pragma unroll
        for (uint32_t v = 0; v < V; v++) row[i + v] = to_float(pack.at[v]);
    });
}

template <uint32_t V, class T>
__device__ __forceinline__ void store_row(T* y, const float (&row)[PER_LANE], uint32_t width, uint32_t lane) {
    each_pack<V>(width, lane, [&](uint32_t i, uint32_t column) {
        Pack<T, V> pack;
#pragma unroll
        for (uint32_t v = 0; v < V; v++) pack.at[v] = from_float<T>(row[i + v]);
        store_pack<V>(y + column, pack);
    });
}

struct Moments {
    float mean, scale; // scale = 1 / sqrt(variance + eps)
};

template <uint32_t V>
__device__ __forceinline__ Moments moments(const float (&x)[PER_LANE], uint32_t width, uint32_t lane, float eps) {
    float sum = 0, squares = 0;
    each_pack<V>(width, lane, [&](uint32_t i, uint32_t) {
#pragma unroll
        for (uint32_t v = 0; v < V; v++) sum += x[i + v];
    });
    float mean = warp_sum(sum) / static_cast<float>(width);
    each_pack<V>(width, lane, [&](uint32_t i, uint32_t) {
#pragma unroll
        for (uint32_t v = 0; v < V; v++) squares += (x[i + v] - mean) * (x[i + v] - mean);
    });
    float variance = warp_sum(squares) / static_cast<float>(width);
    return {mean, 1.0f / sqrtf(variance + eps)};
}

// x = (x - mean) scale gamma + beta, of a lane's elements of each.
template <uint32_t V>
__device__ __forceinline__ void normalise(float (&x)[PER_LANE], const float (&gamma)[PER_LANE], const float (&beta)[PER_LANE],
                          uint32_t width, uint32_t lane, float eps) {
    Moments m = moments<V>(x, width, lane, eps);
    each_pack<V>(width, lane, [&](uint32_t i, uint32_t) {
#pragma unroll
        for (uint32_t j = i; j < i + V; j++) x[j] = (x[j] - m.mean) * m.scale * gamma[j] + beta[j];
    });
}
