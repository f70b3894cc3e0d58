// The head of the scores: z = tanh(x W^T + b) and g = z w + c, and their reverse. Weights, z, g and all
// gradients but dx are f32: the head is small.

#include "common/gemm.cuh"
#include "common/reduce.cuh"
#include "common/row_tile.cuh"

struct Pooler {
    const void* x;       // [rows, width], rows `x_stride` apart; float or bf16
    const float* const* parameters; // of each adapter: W [width, width] and b [width] lie in them
    const RowTile* row_tiles; // of GEMM_TILE rows, one per block in y; or null: all rows, of one adapter
    float* z;            // [rows, width]; read in the backward kernels
    const float* dz;     // [rows, width]
    void* dx;            // [rows, width]; float or bf16
    float* d_weight;     // [width, width]
    float* d_bias;       // [width]
    Rows rows;
    uint32_t weight, bias; // where in the parameters
    uint32_t width, x_stride;
};

template <class T>
__device__ void pooler(const Pooler& p) {
    RowTile tile = row_tile(p.row_tiles, p.rows, GEMM_TILE);
    if (tile.first >= tile.end) return; // the whole block
    const float* parameters = p.parameters[tile.adapter];
    LeftRows<T> x{static_cast<const T*>(p.x), p.x_stride};
    RightTransposed<float> w{parameters + p.weight, p.width};
    // On its way before the products: that of the column that this thread will store.
    uint32_t column = gemm_column();
    float bias = column < p.width ? parameters[p.bias + column] : 0.0f;
    auto store = [&](uint32_t i, uint32_t j, float sum) {
        p.z[static_cast<size_t>(i) * p.width + j] = tanhf(sum + bias);
    };
    gemm({tile.end, p.width, p.width}, x, w, store, tile.first);
}

// What the gradient before tanh is made of: dz (1 - z^2).
struct BeforeTanh {
    float dz, z;
};

__device__ __forceinline__ float to_float(BeforeTanh d) { return d.dz * (1.0f - d.z * d.z); }

__device__ __forceinline__ BeforeTanh before_tanh(const Pooler& p, size_t row, uint32_t column) {
    size_t at = row * p.width + column;
    return {p.dz[at], p.z[at]};
}

struct GradientRows {
    static constexpr bool ALONG_K = true;
    const Pooler& p;
    __device__ BeforeTanh operator()(uint32_t row, uint32_t k) const { return before_tanh(p, row, k); }
};

struct GradientColumns {
    static constexpr bool ALONG_K = false;
    const Pooler& p;
    __device__ BeforeTanh operator()(uint32_t j, uint32_t row) const { return before_tanh(p, row, j); }
};

// dx = d W.
template <class T>
__device__ void pooler_backward(const Pooler& p) {
    RightRows<float> w{p.parameters[0] + p.weight, p.width};
    gemm({p.rows.count(), p.width, p.width}, GradientRows{p}, w, [&](uint32_t i, uint32_t j, float sum) {
        static_cast<T*>(p.dx)[static_cast<size_t>(i) * p.width + j] = from_float<T>(sum);
    });
}

// x and a column of ones after it.
template <class T>
struct WithOnes {
    static constexpr bool ALONG_K = false;
    const Pooler& p;
    __device__ T operator()(uint32_t row, uint32_t column) const {
        const T* x = static_cast<const T*>(p.x) + static_cast<size_t>(row) * p.x_stride;
        return column < p.width ? x[column] : from_float<T>(1.0f);
    }
};

// dW += d^T x; db += d^T 1, as one column more. One group: there are few rows to take turns along.
template <class T>
__device__ void pooler_gradient(const Pooler& p) {
    GemmShape shape{p.width, p.width + 1, p.rows.count()};
    gemm<1>(shape, GradientColumns{p}, WithOnes<T>{p}, [&](uint32_t i, uint32_t j, float sum) {
        float* place = j < p.width ? p.d_weight + static_cast<size_t>(i) * p.width + j : p.d_bias + i;
        *place += sum;
    });
}

KERNEL(pooler_f32, Pooler, GEMM_THREADS) { pooler<float>(p); }
KERNEL(pooler_bf16, Pooler, GEMM_THREADS) { pooler<bf16>(p); }
KERNEL(pooler_backward_f32, Pooler, GEMM_THREADS) { pooler_backward<float>(p); }
KERNEL(pooler_backward_bf16, Pooler, GEMM_THREADS) { pooler_backward<bf16>(p); }
KERNEL(pooler_gradient_f32, Pooler, GEMM_GROUP_THREADS) { pooler_gradient<float>(p); }
KERNEL(pooler_gradient_bf16, Pooler, GEMM_GROUP_THREADS) { pooler_gradient<bf16>(p); }

struct Classifier {
    const float* z;      // [rows, width]
    const float* const* parameters; // of each adapter: w [width] lies in them
    const float* bias; // of each adapter
    const RowTile* row_tiles; // of GEMM_TILE rows, one per block in y; or null: all rows, of one adapter
    float* g;            // [rows]
    const float* dg;     // [rows]
    float* dz;           // [rows, width]
    float* d_weight;     // [width]
    Rows rows;
    uint32_t weight; // where in the parameters
    uint32_t width;
};

// A lane's part of the product of two rows, by V neighbours. All loads of 8 V WARP columns are on their way at
// once.
template <uint32_t V>
__device__ __forceinline__ float part_of_dot(const float* x, const float* y, uint32_t width, uint32_t lane) {
    constexpr uint32_t AT_ONCE = 8;
    float sum = 0;
    for (uint32_t first = lane * V; first < width; first += AT_ONCE * V * WARP) {
        Pack<float, V> a[AT_ONCE], b[AT_ONCE];
#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            uint32_t at = first + i * V * WARP;
            a[i] = b[i] = {};
            if (at >= width) continue;
            a[i] = load_pack<V>(x + at);
            b[i] = load_pack<V>(y + at);
        }
#pragma unroll
        for (uint32_t i = 0; i < AT_ONCE * V; i++) sum += a[i / V].at[i % V] * b[i / V].at[i % V];
    }
    return sum;
}

// A warp for each row, and as many blocks in x as a tile needs.
KERNEL(classifier, Classifier, CLASSIFIER_ROWS* WARP) {
    RowTile tile = row_tile(p.row_tiles, p.rows, GEMM_TILE);
    uint32_t lane = threadIdx.x % WARP, row = tile.first + blockIdx.x * CLASSIFIER_ROWS + threadIdx.x / WARP;
    if (row >= tile.end) return; // the whole warp
    const float* weight = p.parameters[tile.adapter] + p.weight;
    const float* z = p.z + static_cast<size_t>(row) * p.width;
    float bias = p.bias[tile.adapter];
    constexpr uint32_t V = WIDE<float>;
    bool wide = p.width % V == 0 && reinterpret_cast<uintptr_t>(weight) % sizeof(Pack<float, V>) == 0;
    float sum = wide ? part_of_dot<V>(z, weight, p.width, lane) : part_of_dot<1>(z, weight, p.width, lane);
    sum = warp_sum(sum);
    if (lane == 0) p.g[row] = sum + bias;
}

// dz = dg w, dw += z^T dg. A block has 32 columns, one a lane; each of its warps has every 32nd row.
KERNEL(classifier_backward, Classifier, COLUMN_SUM_THREADS) {
    constexpr uint32_t WARPS = COLUMN_SUM_THREADS / WARP;
    SharedMemory shared;
    float* sums = shared.take<float>(COLUMN_SUM_THREADS);
    uint32_t column = blockIdx.x * WARP + threadIdx.x % WARP, warp = threadIdx.x / WARP;
    bool inside = column < p.width;
    float weight = inside ? p.parameters[0][p.weight + column] : 0.0f, sum = 0;
    if (inside) {
        uint32_t rows = p.rows.count();
#pragma unroll 4
        for (uint32_t row = warp; row < rows; row += WARPS) {
            size_t at = static_cast<size_t>(row) * p.width + column;
            float dg = p.dg[row];
            sum += dg * p.z[at];
            p.dz[at] = dg * weight;
        }
    }
    sum = across_warps<WARPS>(sum, sums);
    if (inside && warp == 0) p.d_weight[column] += sum;
}
