// Embeddings: LayerNorm(word + segment 0 + position), a warp for each row, which never leaves its registers.

#include "common/row.cuh"

struct Embedding {
    const uint32_t* tokens;    // [rows], rows of `words`
    const uint32_t* positions; // [rows], rows of `places`
    const void* words;         // [vocabulary, width], float or bf16
    const void* places;        // [positions, width]
    const void* segment;       // [width]
    const float* gamma;        // [width]
    const float* beta;         // [width]
    void* y;                   // [rows, width]
    Rows rows;
    uint32_t width; // at most LAYER_NORM_WIDTH
    float eps;
};

template <class T, uint32_t V>
__device__ void row_of(const Embedding& p, uint32_t row, uint32_t lane) {
    auto table = [&](const void* rows, uint32_t i) {
        return static_cast<const T*>(rows) + static_cast<size_t>(i) * p.width;
    };
    float x[PER_LANE], more[PER_LANE];
    auto add = [&] {
        each_pack<V>(p.width, lane, [&](uint32_t i, uint32_t) {
#pragma unroll
            for (uint32_t j = i; j < i + V; j++) x[j] += more[j];
        });
    };
    // In the order of transformers: words and segments first, then positions.
    load_row<V>(x, table(p.words, p.tokens[row]), p.width, lane);
    load_row<V>(more, table(p.segment, 0), p.width, lane);
    add();
    load_row<V>(more, table(p.places, p.positions[row]), p.width, lane);
    add();
    float gamma[PER_LANE];
    load_row<V>(gamma, p.gamma, p.width, lane);
    load_row<V>(more, p.beta, p.width, lane);
    normalise<V>(x, gamma, more, p.width, lane, p.eps);
    store_row<V>(static_cast<T*>(p.y) + static_cast<size_t>(row) * p.width, x, p.width, lane);
}

template <class T>
__device__ void embedding(const Embedding& p) {
    uint32_t lane = threadIdx.x % WARP, row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= p.rows.count()) return; // the whole warp
    p.width % WIDE<T> == 0 ? row_of<T, WIDE<T>>(p, row, lane) : row_of<T, 1>(p, row, lane);
}

KERNEL(embedding_f32, Embedding, LAYER_NORM_THREADS) { embedding<float>(p); }
KERNEL(embedding_bf16, Embedding, LAYER_NORM_THREADS) { embedding<bf16>(p); }
