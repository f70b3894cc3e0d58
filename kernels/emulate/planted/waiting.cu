// Kernels whose threads wait for each other in ways that go wrong, and in ways that do not.

#include "common/reduce.cuh"

struct PlantedWaiting {
    float* out; // [96]
};

// The last warp ends early: the others' barrier does not wait for it.
KERNEL(planted_early_end, PlantedWaiting, 96) {
    uint32_t t = threadIdx.x;
    if (t >= 64) return;
    float sum = warp_sum(1.0f);
    __syncthreads();
    p.out[t] = sum;
}

// One lane goes on to a barrier, while the rest of its warp waits for its value.
KERNEL(planted_deadlock, PlantedWaiting, 96) {
    float sum = threadIdx.x == 37 ? 0.0f : warp_sum(1.0f);
    __syncthreads();
    p.out[threadIdx.x] = sum;
}

KERNEL(planted_divergent_barrier, PlantedWaiting, 96) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    p.out[threadIdx.x] = 0;
}

KERNEL(planted_lane_that_ended, PlantedWaiting, 96) {
    if (threadIdx.x == 70) return;
    p.out[threadIdx.x] = warp_sum(1.0f);
}

KERNEL(planted_other_operation, PlantedWaiting, 96) {
    float x = 1;
    if (threadIdx.x == 20) {
        __syncwarp();
    } else {
        x = __shfl_sync(ALL_LANES, x, 3);
    }
    p.out[threadIdx.x] = x;
}
