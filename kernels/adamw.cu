// AdamW after clipping by the global norm: the norm in parts, then the update. The squares of f32 gradients
// overflow and vanish in f32, so the norm is summed in double: it is little work.

#include "common/reduce.cuh"

// A range of the parameters; ranges do not overlap.
struct AdamwGroup {
    uint32_t begin, end;
    float lr; // at its peak
    float weight_decay;
};

// What changes from step to step.
struct AdamwStep {
    uint32_t number; // of this update, from 1
    float factor;    // of all learning rates
};

struct Adamw {
    float* values;         // [parameters]
    const float* gradient; // [parameters]
    float* m;              // [parameters]
    float* v;              // [parameters]
    const AdamwGroup* groups;
    const AdamwStep* step;
    double* squares; // [blocks]: the sum of a block's chunk
    float* norm;     // before clipping
    uint32_t parameters, group_count;
    float beta1, beta2;
    float log_beta1, log_beta2;
    float eps, clip;
};

constexpr uint32_t WARPS = ADAMW_THREADS / WARP;

// Calls `visit(i, group)` for this thread's part of the block's chunk, where it belongs to a group.
template <class Visit>
__device__ void for_parameters(const Adamw& p, const Visit& visit) {
    uint32_t first = blockIdx.x * ADAMW_CHUNK, end = min(first + ADAMW_CHUNK, p.parameters);
    for (uint32_t i = first + threadIdx.x; i < end; i += ADAMW_THREADS) {
        for (uint32_t g = 0; g < p.group_count; g++) {
            AdamwGroup group = p.groups[g];
            if (group.begin <= i && i < group.end) visit(i, group);
        }
    }
}

KERNEL(adamw_norm, Adamw, ADAMW_THREADS) {
    SharedMemory memory;
    double* shared = memory.take<double>(WARPS);
    double sum[1] = {};
    for_parameters(p, [&](uint32_t i, const AdamwGroup&) {
        double g = p.gradient[i];
        sum[0] += g * g;
    });
    block_sums<WARPS>(sum, shared);
    if (threadIdx.x == 0) p.squares[blockIdx.x] = sum[0];
}

KERNEL(adamw_update, Adamw, ADAMW_THREADS) {
    SharedMemory memory;
    double* shared = memory.take<double>(WARPS);
    // Every block sums all parts, in the same order.
    double sum[1] = {};
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += ADAMW_THREADS) sum[0] += p.squares[i];
    block_sums<WARPS>(sum, shared);
    double norm = sqrt(sum[0]);
    if (blockIdx.x == 0 && threadIdx.x == 0) *p.norm = static_cast<float>(norm);
    if (!(norm < INFINITY)) return; // the whole grid: nothing is changed

    // The 1e-6 is clip_grad_norm_'s.
    float scale = static_cast<float>(min(static_cast<double>(p.clip) / (norm + 1e-6), 1.0));
    float number = static_cast<float>(p.step->number), factor = p.step->factor;
    // 1 - beta^number, of which powf would leave little where beta is near 1.
    float correct1 = -expm1f(number * p.log_beta1), correct2 = sqrtf(-expm1f(number * p.log_beta2));
    for_parameters(p, [&](uint32_t i, const AdamwGroup& group) {
        float lr = group.lr * factor, g = p.gradient[i] * scale;
        float m = p.m[i] + (g - p.m[i]) * (1.0f - p.beta1);
        float v = p.v[i] * p.beta2 + g * g * (1.0f - p.beta2);
        p.m[i] = m;
        p.v[i] = v;
        float decayed = p.values[i] * (1.0f - lr * group.weight_decay);
        p.values[i] = decayed - lr / correct1 * m / (sqrtf(v) / correct2 + p.eps);
    });
}
