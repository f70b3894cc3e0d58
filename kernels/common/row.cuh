// A row of at most LAYER_NORM_WIDTH columns in the registers of a warp, and its LayerNorm.
//
// Lanes hold packs of V neighbours: element i of a lane is column row_column<V>(i, lane). V divides the width;
// what lies past the width is 0.
#pragma once

#include "pack.cuh"
#include "reduce.cuh"

constexpr uint32_t PER_LANE = LAYER_NORM_WIDTH / WARP;

template <uint32_t V>
__device__ __forceinline__ uint32_t row_column(uint32_t i, uint32_t lane) {
    return (i / V * WARP + lane) * V + i % V;
}

template <uint32_t V, class T>
__device__ void load_row(float (&row)[PER_LANE], const T* x, uint32_t width, uint32_t lane) {
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i += V) {
        uint32_t column = row_column<V>(i, lane);
        Pack<T, V> pack = {};
        if (column < width) pack = load_pack<V>(x + column);
#pragma unroll
        for (uint32_t v = 0; v < V; v++) row[i + v] = to_float(pack.at[v]);
    }
}

template <uint32_t V, class T>
__device__ void store_row(T* y, const float (&row)[PER_LANE], uint32_t width, uint32_t lane) {
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i += V) {
        uint32_t column = row_column<V>(i, lane);
        Pack<T, V> pack;
#pragma unroll
        for (uint32_t v = 0; v < V; v++) pack.at[v] = from_float<T>(row[i + v]);
        if (column < width) store_pack<V>(y + column, pack);
    }
}

struct Moments {
    float mean, scale; // scale = 1 / sqrt(variance + eps)
};

template <uint32_t V>
__device__ Moments moments(const float (&x)[PER_LANE], uint32_t width, uint32_t lane, float eps) {
    float sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) sum += x[i];
    float mean = warp_sum(sum) / static_cast<float>(width);
    float squares = 0;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) {
        float d = row_column<V>(i, lane) < width ? x[i] - mean : 0.0f;
        squares += d * d;
    }
    float variance = warp_sum(squares) / static_cast<float>(width);
    return {mean, 1.0f / sqrtf(variance + eps)};
}

// x = (x - mean) scale gamma + beta, of a lane's elements of each.
template <uint32_t V>
__device__ void normalise(float (&x)[PER_LANE], const float (&gamma)[PER_LANE], const float (&beta)[PER_LANE],
                          uint32_t width, uint32_t lane, float eps) {
    Moments m = moments<V>(x, width, lane, eps);
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) x[i] = (x[i] - m.mean) * m.scale * gamma[i] + beta[i];
}
