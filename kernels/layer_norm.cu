// LayerNorm over rows: y = (x - mean) / sqrt(variance + eps) * gamma + beta, and its reverse.
// One warp a row; a row's values stay in registers between the passes over them.

#include "common/row.cuh"

struct LayerNorm {
    const void* x;      // [rows, width], float or bf16
    const void* dy;     // [rows, width], backward only
    const float* gamma; // [width]
    const float* beta;  // [width]
    void* out;          // y, or dx: [rows, width]
    Rows rows;
    uint32_t width; // at most LAYER_NORM_WIDTH
    float eps;
};

template <class T, uint32_t V>
__device__ void forward(const LayerNorm& p, uint32_t row, uint32_t lane) {
    size_t at = static_cast<size_t>(row) * p.width;
    float x[PER_LANE], gamma[PER_LANE], beta[PER_LANE];
    load_row<V>(gamma, p.gamma, p.width, lane);
    load_row<V>(beta, p.beta, p.width, lane);
    wait_for_last_grid();
    load_row<V>(x, static_cast<const T*>(p.x) + at, p.width, lane);
    normalise<V>(x, gamma, beta, p.width, lane, p.eps);
    store_row<V>(static_cast<T*>(p.out) + at, x, p.width, lane);
}

// dx = (d - mean(d) - x^ mean(d x^)) / sd with x^ = (x - mean) / sd and d = dy gamma.
template <class T, uint32_t V>
__device__ void backward(const LayerNorm& p, uint32_t row, uint32_t lane) {
    size_t at = static_cast<size_t>(row) * p.width;
    float x[PER_LANE], d[PER_LANE], gamma[PER_LANE];
    load_row<V>(gamma, p.gamma, p.width, lane);
    wait_for_last_grid();
    load_row<V>(x, static_cast<const T*>(p.x) + at, p.width, lane);
    load_row<V>(d, static_cast<const T*>(p.dy) + at, p.width, lane);
    Moments m = moments<V>(x, p.width, lane, p.eps);
    float sum = 0, along = 0;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) {
        x[i] = (x[i] - m.mean) * m.scale;
        d[i] *= gamma[i]; // 0 past the width
        sum += d[i];
        along += d[i] * x[i];
    }
    sum = warp_sum(sum) / static_cast<float>(p.width);
    along = warp_sum(along) / static_cast<float>(p.width);
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) d[i] = (d[i] - sum - x[i] * along) * m.scale;
    store_row<V>(static_cast<T*>(p.out) + at, d, p.width, lane);
}

template <class T, bool reverse>
__device__ void layer_norm(const LayerNorm& p) {
    uint32_t lane = threadIdx.x % WARP, row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= p.rows.count()) return wait_for_last_grid(); // the whole warp
    if constexpr (reverse) {
        p.width % WIDE<T> == 0 ? backward<T, WIDE<T>>(p, row, lane) : backward<T, 1>(p, row, lane);
    } else {
        p.width % WIDE<T> == 0 ? forward<T, WIDE<T>>(p, row, lane) : forward<T, 1>(p, row, lane);
    }
}

KERNEL_AHEAD(layer_norm_f32, LayerNorm, LAYER_NORM_THREADS, 1) { layer_norm<float, false>(p); }
KERNEL_AHEAD(layer_norm_bf16, LayerNorm, LAYER_NORM_THREADS, 1) { layer_norm<bf16, false>(p); }
KERNEL_AHEAD(layer_norm_backward_f32, LayerNorm, LAYER_NORM_THREADS, 1) { layer_norm<float, true>(p); }
KERNEL_AHEAD(layer_norm_backward_bf16, LayerNorm, LAYER_NORM_THREADS, 1) { layer_norm<bf16, true>(p); }
