// Sums and maxima over a warp, in an order that never changes.
#pragma once

#include "launch.cuh"

__device__ __forceinline__ float warp_sum(float x) {
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
