// Sums and maxima over a warp or a block, in an order that never changes.
#pragma once

#include "launch.cuh"

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
    return x;
}

// The sum of a column over the warps of a block of `warps`, one column a lane, for all threads: in the order of
// the warps. `shared` has room for a value of each thread. All threads of the block take part.
template <uint32_t warps, class T>
__device__ T across_warps(T x, T* shared) {
    uint32_t lane = threadIdx.x % WARP;
    __syncthreads(); // the last one who read there
    shared[threadIdx.x] = x;
    __syncthreads();
    T sum = 0;
#pragma unroll 8
    for (uint32_t warp = 0; warp < warps; warp++) sum += shared[warp * WARP + lane];
    return sum;
}

namespace reduce_details {

// What each of the warps found, for all threads and in the order of the warps.
template <uint32_t warps, uint32_t n, class T, class Combine>
__device__ void combine_warps(T (&x)[n], T* shared, const Combine& combine) {
    __syncthreads(); // the last one who read there
    if (threadIdx.x % WARP == 0) {
        for (uint32_t i = 0; i < n; i++) shared[threadIdx.x / WARP * n + i] = x[i];
    }
    __syncthreads();
    for (uint32_t i = 0; i < n; i++) {
        x[i] = shared[i];
        for (uint32_t warp = 1; warp < warps; warp++) x[i] = combine(x[i], shared[warp * n + i]);
    }
}

} // namespace reduce_details

// The sums of n values over a block of `warps`, for all threads. `shared` has room for warps * n. All threads
// of the block take part; the same for the maxima.
template <uint32_t warps, uint32_t n, class T>
__device__ void block_sums(T (&x)[n], T* shared) {
    for (uint32_t i = 0; i < n; i++) x[i] = warp_sum(x[i]);
    reduce_details::combine_warps<warps>(x, shared, [](T a, T b) { return a + b; });
}

template <uint32_t warps, uint32_t n>
__device__ void block_maxima(float (&x)[n], float* shared) {
    for (uint32_t i = 0; i < n; i++) x[i] = warp_max(x[i]);
    reduce_details::combine_warps<warps>(x, shared, [](float a, float b) { return fmaxf(a, b); });
}
