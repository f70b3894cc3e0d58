// The correlation loss of features Z [n, d] and its gradient. With Y = Z standardised per dimension, and
// M = Y^T Y or, where that is smaller, G = Y Y^T, which has the same Frobenius norm:
// L = (||M||^2 - sum_j M_jj^2) / (n^2 d) and dL/dY = 4 (Y M - Y diag(M)) / (n^2 d), where Y M = G Y.
//
// Where M is made, its diagonal is left out at once; `diagonal` is then 0. The products are f32; sums over a
// column, which take no time to speak of, are double.

#include "common/gemm.cuh"
#include "common/reduce.cuh"

struct Correlation {
    const float* z;    // [rows, width]
    float* y;          // [rows, width]
    double* scale;     // [width]: 1 / sqrt(variance + eps)
    double* diagonal;  // [width]: M_jj, where it has to be taken away
    float* product;    // G, rows `capacity` apart, or M without its diagonal [width, width]
    double* squares;   // [blocks of the product]: of their elements
    float* applied;    // [rows, width]: G Y or Y M
    float* d_features; // [rows, width]: weight dL/dZ
    float* loss;
    Rows rows;
    uint32_t width;
    uint32_t gram;   // whether it is G
    uint32_t blocks; // of the product
    float eps, weight;
    uint32_t unused;
};

constexpr uint32_t COLUMN_WARPS = COLUMN_SUM_THREADS / WARP, GEMM_WARPS = GEMM_THREADS / WARP;

// A column and its rows, as threads see it that sum over rows: a block has 32 columns, one a lane; each of its
// warps has every 32nd row.
struct Column {
    uint32_t at, rows, width;
    double* shared;

    __device__ Column(const Correlation& p, double* room)
        : at(blockIdx.x * WARP + threadIdx.x % WARP), rows(p.rows.count()), width(p.width), shared(room) {}

    // Calls `visit(i)` with the places of this thread's elements in a matrix [rows, width].
    template <class Visit>
    __device__ void for_rows(const Visit& visit) const {
        if (at >= width) return;
#pragma unroll 4
        for (uint32_t row = threadIdx.x / WARP; row < rows; row += COLUMN_WARPS) {
            visit(static_cast<size_t>(row) * width + at);
        }
    }

    // The sum of `term(i)` over the column, for all threads.
    template <class Term>
    __device__ double sum(const Term& term) const {
        double sum = 0;
        for_rows([&](size_t i) { sum += term(i); });
        return across_warps<COLUMN_WARPS>(sum, shared);
    }
};

KERNEL(correlation_standardise, Correlation, COLUMN_SUM_THREADS) {
    SharedMemory memory;
    Column column(p, memory.take<double>(COLUMN_SUM_THREADS));
    double mean = column.sum([&](size_t i) { return static_cast<double>(p.z[i]); }) / column.rows;
    double variance = column.sum([&](size_t i) {
        double d = p.z[i] - mean;
        return d * d;
    });
    double scale = 1.0 / sqrt(variance / column.rows + p.eps);
    double diagonal = column.sum([&](size_t i) {
        double y = (p.z[i] - mean) * scale;
        p.y[i] = static_cast<float>(y);
        return y * y;
    });
    if (column.at < p.width && threadIdx.x < WARP) {
        p.scale[column.at] = scale;
        p.diagonal[column.at] = p.gram ? diagonal : 0.0;
    }
}

// The transpose of a matrix [rows, columns] as L: rows are k, columns i.
struct LeftTransposed {
    static constexpr bool ALONG_K = false;
    const float* x;
    size_t stride;
    __device__ float operator()(uint32_t i, uint32_t k) const { return x[k * stride + i]; }
};

KERNEL(correlation_product, Correlation, GEMM_THREADS) {
    double squares[1] = {};
    uint32_t rows = p.rows.count();
    if (p.gram) {
        gemm({rows, rows, p.width}, LeftRows<float>{p.y, p.width}, RightTransposed<float>{p.y, p.width},
             [&](uint32_t i, uint32_t j, float sum) {
                 p.product[static_cast<size_t>(i) * p.rows.capacity + j] = sum;
                 squares[0] += static_cast<double>(sum) * sum;
             });
    } else {
        gemm({p.width, p.width, rows}, LeftTransposed{p.y, p.width}, RightRows<float>{p.y, p.width},
             [&](uint32_t i, uint32_t j, float sum) {
                 if (i == j) sum = 0.0f;
                 p.product[static_cast<size_t>(i) * p.width + j] = sum;
                 squares[0] += static_cast<double>(sum) * sum;
             });
    }
    // In the memory of the product's tiles, which block_sums waits for. A block without elements gives 0.
    SharedMemory memory;
    block_sums<GEMM_WARPS>(squares, memory.take<double>(GEMM_WARPS));
    if (threadIdx.x == 0) p.squares[blockIdx.y * gridDim.x + blockIdx.x] = squares[0];
}

KERNEL(correlation_apply, Correlation, GEMM_THREADS) {
    uint32_t rows = p.rows.count();
    LeftRows<float> left{p.gram ? p.product : p.y, p.gram ? p.rows.capacity : p.width};
    RightRows<float> right{p.gram ? p.y : p.product, p.width};
    gemm({rows, p.width, p.gram ? rows : p.width}, left, right, [&](uint32_t i, uint32_t j, float sum) {
        p.applied[static_cast<size_t>(i) * p.width + j] = sum;
    });
}

// Through the standardisation: dz = scale (dy - mean(dy) - y mean(dy y)), per dimension; and the loss.
KERNEL(correlation_gradient, Correlation, COLUMN_SUM_THREADS) {
    SharedMemory memory;
    Column column(p, memory.take<double>(COLUMN_SUM_THREADS));
    double of_one = column.rows < 2 ? 0.0 : 1.0 / column.rows; // fewer than two have no loss
    double share = of_one * of_one / p.width;
    bool inside = column.at < p.width;
    double diagonal = inside ? p.diagonal[column.at] : 0.0, scale = inside ? p.scale[column.at] : 0.0;
    auto dy = [&](size_t i) { return 4.0 * share * (p.applied[i] - p.y[i] * diagonal); };
    double mean = column.sum(dy) * of_one;
    double along = column.sum([&](size_t i) { return dy(i) * p.y[i]; }) * of_one;
    column.for_rows([&](size_t i) {
        p.d_features[i] = static_cast<float>(scale * (dy(i) - mean - p.y[i] * along)) * p.weight;
    });

    if (blockIdx.x > 0) return; // the whole block
    double sum[1] = {};
    for (uint32_t i = threadIdx.x; i < p.blocks; i += COLUMN_SUM_THREADS) sum[0] += p.squares[i];
    for (uint32_t j = threadIdx.x; j < p.width; j += COLUMN_SUM_THREADS) {
        sum[0] -= p.diagonal[j] * p.diagonal[j];
    }
    block_sums<COLUMN_WARPS>(sum, column.shared);
    if (threadIdx.x == 0) *p.loss = static_cast<float>(sum[0] * share);
}
