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
__device__ __forceinline__ void forward(const LayerNorm& p, uint32_t width, uint32_t row, uint32_t lane) {
    size_t at = static_cast<size_t>(row) * width;
    float x[PER_LANE], gamma[PER_LANE], beta[PER_LANE];
    fetch_parameters(p);
    load_row<V>(gamma, p.gamma, width, lane);
    load_row<V>(beta, p.beta, width, lane);
    wait_for_last_grid();
    load_row<V>(x, static_cast<const T*>(p.x) + at, width, lane);
    normalise<V>(x, gamma, beta, width, lane, p.eps);
    store_row<V>(static_cast<T*>(p.out) + at, x, width, lane);
}

// dx = (d - mean(d) - x^ mean(d x^)) / sd with x^ = (x - mean) / sd and d = dy gamma.
template <class T, uint32_t V>
__device__ __forceinline__ void backward(const LayerNorm& p, uint32_t width, uint32_t row, uint32_t lane) {
    size_t at = static_cast<size_t>(row) * width;
    float x[PER_LANE], d[PER_LANE], gamma[PER_LANE];
    fetch_parameters(p);
    load_row<V>(gamma, p.gamma, width, lane);
    wait_for_last_grid();
    load_row<V>(x, static_cast<const T*>(p.x) + at, width, lane);
    load_row<V>(d, static_cast<const T*>(p.dy) + at, width, lane);
    Moments m = moments<V>(x, width, lane, p.eps);
    float sum = 0, along = 0;
    each_pack<V>(width, lane, [&](uint32_t i, uint32_t) {
#pragma unroll
        for (uint32_t j = i; j < i + V; j++) {
            x[j] = (x[j] - m.mean) * m.scale;
            d[j] *= gamma[j];
            sum += d[j];
            along += d[j] * x[j];
        }
    });
    sum = warp_sum(sum) / static_cast<float>(width);
    along = warp_sum(along) / static_cast<float>(width);
    each_pack<V>(width, lane, [&](uint32_t i, uint32_t) {
#pragma unroll
        for (uint32_t j = i; j < i + V; j++) d[j] = (d[j] - sum - x[j] * along) * m.scale;
    });
    store_row<V>(static_cast<T*>(p.out) + at, d, width, lane);
}

// BERT-base's, for which the compiler leaves out what other widths need: half of the code, which runs once.
constexpr uint32_t COMMON_WIDTH = 768;

template <uint32_t n>
struct Constant {
    static constexpr uint32_t value = n;
};

template <class T, bool reverse>
__device__ void layer_norm(const LayerNorm& p) {
    uint32_t lane = threadIdx.x % WARP, row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= p.rows.count()) return wait_for_last_grid(); // the whole warp
    auto run = [&](auto v, uint32_t width) {
        constexpr uint32_t V = decltype(v)::value;
        reverse ? backward<T, V>(p, width, row, lane) : forward<T, V>(p, width, row, lane);
    };
    if (p.width == COMMON_WIDTH) {
        run(Constant<WIDE<T>>{}, COMMON_WIDTH);
    } else if (p.width % WIDE<T> == 0) {
        run(Constant<WIDE<T>>{}, p.width);
    } else {
        run(Constant<1>{}, p.width);
    }
}

KERNEL_AHEAD(layer_norm_f32, LayerNorm, LAYER_NORM_THREADS, 1) { layer_norm<float, false>(p); }
KERNEL_AHEAD(layer_norm_bf16, LayerNorm, LAYER_NORM_THREADS, 1) { layer_norm<bf16, false>(p); }
KERNEL_AHEAD(layer_norm_backward_f32, LayerNorm, LAYER_NORM_THREADS, 1) { layer_norm<float, true>(p); }
KERNEL_AHEAD(layer_norm_backward_bf16, LayerNorm, LAYER_NORM_THREADS, 1) { layer_norm<bf16, true>(p); }
