// Attention for any size of head, without tensor cores. A block has one head of one sequence. Its warps take
// ROWS rows of one side (queries, or in the last kernel keys) at a time, and walk over the rows of the other
// side in tiles of one row a lane, staged in shared memory as float.

#include "attention.cuh"

namespace {

// Rows that share each element that a warp reads of a tile.
constexpr uint32_t ROWS = ATTENTION_WARP_ROWS;
constexpr uint32_t WARPS = ATTENTION_THREADS / WARP;
constexpr uint32_t GROUP = ROWS * WARPS;

// One value for each of a warp's rows.
struct alignas(16) PerRow {
    float of[ROWS];
};

// A head's columns of some rows, spread over a warp: column = lane + 32 i.
using Columns = float[ROWS][PER_LANE];

// An odd stride: the lanes' rows of a tile start in different banks.
__device__ uint32_t tile_stride(uint32_t size) { return size | 1; }

// A warp's own rows, column by column; zeros from `count` rows of the group on.
template <class T>
__device__ void stage_group(PerRow* to, const T* from, uint32_t stride, uint32_t count, uint32_t size) {
    for (uint32_t i = threadIdx.x; i < GROUP * size; i += ATTENTION_THREADS) {
        uint32_t row = i / size, column = i % size;
        float x = row < count ? to_float(from[static_cast<size_t>(row) * stride + column]) : 0.0f;
        to[row / ROWS * size + column].of[row % ROWS] = x;
    }
}

// Rows of a tile; zeros from `count` on.
template <class T>
__device__ void stage_tile(float* to, const T* from, uint32_t stride, uint32_t count, uint32_t size) {
    for (uint32_t i = threadIdx.x; i < WARP * size; i += ATTENTION_THREADS) {
        uint32_t row = i / size, column = i % size;
        float x = row < count ? to_float(from[static_cast<size_t>(row) * stride + column]) : 0.0f;
        to[row * tile_stride(size) + column] = x;
    }
}

// The products of a warp's rows with the lane's row of a tile.
__device__ PerRow products(const PerRow* rows, const float* tile, uint32_t size) {
    const float* row = tile + threadIdx.x % WARP * tile_stride(size);
    PerRow sum = {};
    for (uint32_t column = 0; column < size; column++) {
        PerRow x = rows[column];
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) sum.of[r] += x.of[r] * row[column];
    }
    return sum;
}

// Adds the weighted sum of the tile's first `count` rows; the weights are one a lane.
__device__ void accumulate(Columns& sum, PerRow weight, PerRow* exchange, const float* tile, uint32_t count,
                           uint32_t size) {
    uint32_t lane = threadIdx.x % WARP;
    __syncwarp(); // the exchange has been read
    exchange[lane] = weight;
    __syncwarp();
    for (uint32_t j = 0; j < count; j++) {
        PerRow w = exchange[j];
        const float* row = tile + j * tile_stride(size);
#pragma unroll
        for (uint32_t i = 0; i < PER_LANE; i++) {
            uint32_t column = lane + WARP * i;
            if (column >= size) continue;
            float x = row[column];
#pragma unroll
            for (uint32_t r = 0; r < ROWS; r++) sum[r][i] += w.of[r] * x;
        }
    }
}

template <class T>
__device__ void forward(const Attention& p) {
    Head head(p, blockIdx.x);
    if (!head.live) return;
    Span queries = span(p.query_offsets, head.sequence), keys = span(p.key_offsets, head.sequence);
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t size = p.head_size, column = head.number * size, width = p.heads * size;
    SharedMemory shared;
    PerRow* q = shared.take<PerRow>(WARPS * size);
    float* k = shared.take<float>(WARP * tile_stride(size));
    float* v = shared.take<float>(WARP * tile_stride(size));
    PerRow* exchange = shared.take<PerRow>(ATTENTION_THREADS) + warp * WARP;
    for (uint32_t first = 0; first < queries.count; first += GROUP) {
        Columns sum = {};
        PerRow top, total = {};
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) top.of[r] = -INFINITY;
        for (uint32_t at = 0; at < keys.count; at += WARP) {
            uint32_t n = min(WARP, keys.count - at);
            __syncthreads(); // what was staged has been read
            if (at == 0) {
                const T* from = head_row<T>(p.q, queries.first + first, p.q_stride, column);
                stage_group(q, from, p.q_stride, queries.count - first, size);
            }
            stage_tile(k, head_row<T>(p.k, keys.first + at, p.kv_stride, column), p.kv_stride, n, size);
            stage_tile(v, head_row<T>(p.v, keys.first + at, p.kv_stride, column), p.kv_stride, n, size);
            __syncthreads();
            PerRow weight = products(q + warp * size, k, size);
            // Softmax online: sums are relative to the largest score so far. `total` is the lane's part.
#pragma unroll
            for (uint32_t r = 0; r < ROWS; r++) {
                float score = lane < n ? __fmul_rn(weight.of[r], p.scale) : -INFINITY;
                float largest = fmaxf(top.of[r], warp_max(score));
                float factor = expf(top.of[r] - largest);
                top.of[r] = largest;
                weight.of[r] = expf(score - largest);
                total.of[r] = total.of[r] * factor + weight.of[r];
#pragma unroll
                for (uint32_t i = 0; i < PER_LANE; i++) sum[r][i] *= factor;
            }
            accumulate(sum, weight, exchange, v, n, size);
        }
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            float whole = warp_sum(total.of[r]);
            uint32_t query = first + warp * ROWS + r;
            if (query >= queries.count) continue; // the whole warp
            query += queries.first;
            // Of no keys: zero.
            store_row(head_row<T>(p.out, query, width, column), sum[r], whole == 0 ? 0.0f : 1 / whole, size);
            if (lane == 0) {
                p.log_sum_exp[static_cast<size_t>(query) * p.heads + head.number] = top.of[r] + logf(whole);
            }
        }
    }
}

// Shared memory of the backward kernels: two operands of the warps' rows, and two of a tile.
struct BackwardPieces {
    PerRow *rows, *more_rows;
    float *tile, *other_tile;
    PerRow* exchange; // the warp's
};

__device__ BackwardPieces backward_pieces(uint32_t size) {
    SharedMemory shared;
    BackwardPieces pieces;
    pieces.rows = shared.take<PerRow>(WARPS * size);
    pieces.more_rows = shared.take<PerRow>(WARPS * size);
    pieces.tile = shared.take<float>(WARP * tile_stride(size));
    pieces.other_tile = shared.take<float>(WARP * tile_stride(size));
    pieces.exchange = shared.take<PerRow>(ATTENTION_THREADS) + threadIdx.x / WARP * WARP;
    return pieces;
}

// dQ = c dS K; keeps rowsum(dO O) in `scratch`, [queries, heads].
template <class T>
__device__ void backward_queries(const Attention& p) {
    Head head(p, blockIdx.x);
    if (!head.live) return;
    Span queries = span(p.query_offsets, head.sequence), keys = span(p.key_offsets, head.sequence);
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t size = p.head_size, column = head.number * size, width = p.heads * size;
    auto [q, dy, k, v, exchange] = backward_pieces(size);
    for (uint32_t first = 0; first < queries.count; first += GROUP) {
        PerRow along, log_sum_exp;
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            uint32_t query = first + warp * ROWS + r;
            along.of[r] = 0;
            log_sum_exp.of[r] = INFINITY; // no such query: all probabilities are zero
            if (query >= queries.count) continue; // the whole warp
            query += queries.first;
            const T* o = head_row<T>(p.out, query, width, column);
            const T* d = head_row<T>(p.dy, query, width, column);
            for (uint32_t i = lane; i < size; i += WARP) along.of[r] += to_float(o[i]) * to_float(d[i]);
            along.of[r] = warp_sum(along.of[r]);
            size_t at = static_cast<size_t>(query) * p.heads + head.number;
            log_sum_exp.of[r] = p.log_sum_exp[at];
            if (lane == 0) p.scratch[at] = along.of[r];
        }
        Columns sum = {};
        for (uint32_t at = 0; at < keys.count; at += WARP) {
            uint32_t n = min(WARP, keys.count - at);
            __syncthreads(); // what was staged has been read
            if (at == 0) {
                uint32_t query = queries.first + first, rest = queries.count - first;
                stage_group(q, head_row<T>(p.q, query, p.q_stride, column), p.q_stride, rest, size);
                stage_group(dy, head_row<T>(p.dy, query, width, column), width, rest, size);
            }
            stage_tile(k, head_row<T>(p.k, keys.first + at, p.kv_stride, column), p.kv_stride, n, size);
            stage_tile(v, head_row<T>(p.v, keys.first + at, p.kv_stride, column), p.kv_stride, n, size);
            __syncthreads();
            PerRow weight = products(q + warp * size, k, size), dp = products(dy + warp * size, v, size);
#pragma unroll
            for (uint32_t r = 0; r < ROWS; r++) {
                float probability = probability_of(weight.of[r], p.scale, log_sum_exp.of[r]);
                weight.of[r] = probability * (dp.of[r] - along.of[r]);
            }
            accumulate(sum, weight, exchange, k, n, size);
        }
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            uint32_t query = first + warp * ROWS + r;
            if (query >= queries.count) continue;
            store_row(head_row<T>(p.dq, queries.first + query, p.dq_stride, column), sum[r], p.scale, size);
        }
    }
}

// dV = P^T dO, dK = c dS^T Q: rows are keys, tiles are of queries. Runs after backward_queries.
template <class T>
__device__ void backward_keys(const Attention& p) {
    Head head(p, blockIdx.x);
    if (!head.live) return;
    Span queries = span(p.query_offsets, head.sequence), keys = span(p.key_offsets, head.sequence);
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t size = p.head_size, column = head.number * size, width = p.heads * size;
    auto [k, v, q, dy, exchange] = backward_pieces(size);
    for (uint32_t first = 0; first < keys.count; first += GROUP) {
        Columns dk = {}, dv = {};
        for (uint32_t at = 0; at < queries.count; at += WARP) {
            uint32_t n = min(WARP, queries.count - at), query = queries.first + at;
            __syncthreads(); // what was staged has been read
            if (at == 0) {
                uint32_t key = keys.first + first, rest = keys.count - first;
                stage_group(k, head_row<T>(p.k, key, p.kv_stride, column), p.kv_stride, rest, size);
                stage_group(v, head_row<T>(p.v, key, p.kv_stride, column), p.kv_stride, rest, size);
            }
            stage_tile(q, head_row<T>(p.q, query, p.q_stride, column), p.q_stride, n, size);
            stage_tile(dy, head_row<T>(p.dy, query, width, column), width, n, size);
            __syncthreads();
            size_t of_lane = static_cast<size_t>(query + lane) * p.heads + head.number;
            float log_sum_exp = lane < n ? p.log_sum_exp[of_lane] : INFINITY;
            float along = lane < n ? p.scratch[of_lane] : 0.0f;
            PerRow weight = products(k + warp * size, q, size), ds = products(v + warp * size, dy, size);
#pragma unroll
            for (uint32_t r = 0; r < ROWS; r++) {
                weight.of[r] = probability_of(weight.of[r], p.scale, log_sum_exp);
                ds.of[r] = weight.of[r] * (ds.of[r] - along);
            }
            accumulate(dv, weight, exchange, dy, n, size);
            accumulate(dk, ds, exchange, q, n, size);
        }
#pragma unroll
        for (uint32_t r = 0; r < ROWS; r++) {
            uint32_t key = first + warp * ROWS + r;
            if (key >= keys.count) continue;
            key += keys.first;
            store_row(head_row<T>(p.dk, key, p.dkv_stride, column), dk[r], p.scale, size);
            store_row(head_row<T>(p.dv, key, p.dkv_stride, column), dv[r], 1, size);
        }
    }
}

} // namespace

KERNEL(attention_f32, Attention, ATTENTION_THREADS) { forward<float>(p); }
KERNEL(attention_bf16, Attention, ATTENTION_THREADS) { forward<bf16>(p); }
KERNEL(attention_dq_f32, Attention, ATTENTION_THREADS) { backward_queries<float>(p); }
KERNEL(attention_dq_bf16, Attention, ATTENTION_THREADS) { backward_queries<bf16>(p); }
KERNEL(attention_dkv_f32, Attention, ATTENTION_THREADS) { backward_keys<float>(p); }
KERNEL(attention_dkv_bf16, Attention, ATTENTION_THREADS) { backward_keys<bf16>(p); }
