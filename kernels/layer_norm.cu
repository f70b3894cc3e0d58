// LayerNorm over rows: y = (x - mean) / sqrt(variance + eps) * gamma + beta, and its reverse.
// One warp a row; a row's values stay in registers between the passes over them.

#include "common/bf16.cuh"
#include "common/reduce.cuh"

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

constexpr uint32_t PER_LANE = LAYER_NORM_WIDTH / WARP;

struct Moments {
    float mean, scale;
};

// Of a row spread over the warp, column = lane + 32 i.
__device__ Moments moments(const float (&x)[PER_LANE], uint32_t width, uint32_t lane, float eps) {
    float sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) sum += x[i];
    float mean = warp_sum(sum) / static_cast<float>(width);
    float squares = 0;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) {
        float d = lane + WARP * i < width ? x[i] - mean : 0.0f;
        squares += d * d;
    }
    float variance = warp_sum(squares) / static_cast<float>(width);
    return {mean, 1.0f / sqrtf(variance + eps)};
}

template <class T>
__device__ void load_row(float (&row)[PER_LANE], const void* from, size_t at, uint32_t width, uint32_t lane) {
    const T* x = static_cast<const T*>(from) + at;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) {
        uint32_t column = lane + WARP * i;
        row[i] = column < width ? to_float(x[column]) : 0.0f;
    }
}

template <class T>
__device__ void forward(const LayerNorm& p) {
    uint32_t lane = threadIdx.x % WARP, row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= p.rows.count()) return; // the whole warp
    size_t at = static_cast<size_t>(row) * p.width;
    float x[PER_LANE];
    load_row<T>(x, p.x, at, p.width, lane);
    Moments m = moments(x, p.width, lane, p.eps);
    T* y = static_cast<T*>(p.out) + at;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) {
        uint32_t column = lane + WARP * i;
        if (column < p.width) {
            y[column] = from_float<T>((x[i] - m.mean) * m.scale * p.gamma[column] + p.beta[column]);
        }
    }
}

// dx = (d - mean(d) - x^ mean(d x^)) / sd with x^ = (x - mean) / sd and d = dy gamma.
template <class T>
__device__ void backward(const LayerNorm& p) {
    uint32_t lane = threadIdx.x % WARP, row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= p.rows.count()) return; // the whole warp
    size_t at = static_cast<size_t>(row) * p.width;
    float x[PER_LANE], d[PER_LANE];
    load_row<T>(x, p.x, at, p.width, lane);
    load_row<T>(d, p.dy, at, p.width, lane);
    Moments m = moments(x, p.width, lane, p.eps);
    float sum = 0, along = 0;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) {
        uint32_t column = lane + WARP * i;
        if (column >= p.width) continue;
        x[i] = (x[i] - m.mean) * m.scale;
        d[i] *= p.gamma[column];
        sum += d[i];
        along += d[i] * x[i];
    }
    sum = warp_sum(sum) / static_cast<float>(p.width);
    along = warp_sum(along) / static_cast<float>(p.width);
    T* dx = static_cast<T*>(p.out) + at;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++) {
        uint32_t column = lane + WARP * i;
        if (column < p.width) dx[column] = from_float<T>((d[i] - sum - x[i] * along) * m.scale);
    }
}

KERNEL(layer_norm_f32, LayerNorm, LAYER_NORM_THREADS) { forward<float>(p); }
KERNEL(layer_norm_bf16, LayerNorm, LAYER_NORM_THREADS) { forward<bf16>(p); }
KERNEL(layer_norm_backward_f32, LayerNorm, LAYER_NORM_THREADS) { backward<float>(p); }
KERNEL(layer_norm_backward_bf16, LayerNorm, LAYER_NORM_THREADS) { backward<bf16>(p); }
