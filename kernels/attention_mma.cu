// Attention on tensor cores, of bf16, for heads of 32 and 64. A block has one head of one sequence and walks
// over tiles of TILE queries and TILE keys: most sequences are one tile, and then nothing is read twice.

#include "attention.cuh"
#include "common/copy.cuh"
#include "common/mma.cuh"

namespace {

constexpr uint32_t TILE = ATTENTION_TILE;
// A warp has this many rows of a tile: the height of a fragment.
constexpr uint32_t STRIP = 16;
static_assert(TILE == STRIP * ATTENTION_THREADS / WARP, "one strip a warp");

constexpr float LOG2_E = 1.44269504f;

// TILE rows of bf16 in shared memory. The stride is 16 bytes more than a multiple of 32 bytes, so that the
// eight rows of an 8x8 matrix lie in different banks.
template <uint32_t COLUMNS>
struct Tile {
    static constexpr uint32_t STRIDE = COLUMNS + 8;
    bf16* data;

    __device__ explicit Tile(SharedMemory& shared) : data(shared.take<bf16>(TILE * STRIDE)) {}

    __device__ bf16* at(uint32_t row, uint32_t column) const { return data + row * STRIDE + column; }

    // Starts to fetch `count` rows, and zeros up to a whole strip.
    __device__ void fetch(const bf16* from, uint32_t stride, uint32_t count) const {
        constexpr uint32_t CHUNKS = COLUMNS / 8;
        uint32_t rows = (count + STRIP - 1) / STRIP * STRIP;
        for (uint32_t i = threadIdx.x; i < rows * CHUNKS; i += ATTENTION_THREADS) {
            uint32_t row = i / CHUNKS, column = i % CHUNKS * 8;
            size_t offset = row < count ? static_cast<size_t>(row) * stride + column : 0;
            copy_async_16(at(row, column), from + offset, row < count);
        }
    }

    // The 16x16 block at (row, column) as a left operand, its rows those of the operand.
    __device__ void left(uint32_t (&a)[4], uint32_t row, uint32_t column) const {
        ldmatrix_x4(a, along_rows(row, column));
    }
    // As a left operand, its columns the operand's rows.
    __device__ void left_transposed(uint32_t (&a)[4], uint32_t row, uint32_t column) const {
        ldmatrix_x4_trans(a, along_columns(row, column));
    }
    // As two right operands of eight columns, its columns those of the operands.
    __device__ void right(uint32_t (&b)[2][2], uint32_t row, uint32_t column) const {
        uint32_t r[4];
        ldmatrix_x4_trans(r, along_rows(row, column));
        split(b, r);
    }
    // As two right operands, its rows the operands' columns.
    __device__ void right_transposed(uint32_t (&b)[2][2], uint32_t row, uint32_t column) const {
        uint32_t r[4];
        ldmatrix_x4(r, along_columns(row, column));
        split(b, r);
    }

  private:
    // Addresses for ldmatrix: the second of the four matrices is below the first, or beside it.
    __device__ const bf16* along_rows(uint32_t row, uint32_t column) const {
        uint32_t lane = threadIdx.x % WARP;
        return at(row + lane % 16, column + lane / 16 * 8);
    }
    __device__ const bf16* along_columns(uint32_t row, uint32_t column) const {
        uint32_t lane = threadIdx.x % WARP;
        return at(row + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8);
    }
    __device__ static void split(uint32_t (&b)[2][2], const uint32_t (&r)[4]) {
        b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    }
};

// Two neighbouring elements of a row.
__device__ void store_pair(bf16* to, float low, float high) {
    *reinterpret_cast<uint32_t*>(to) = pack_bf16(low, high);
}

// Two neighbouring 16x8 blocks of products as the left operand of the next.
__device__ void as_left(uint32_t (&a)[4], const float (&x)[4], const float (&y)[4]) {
    a[0] = pack_bf16(x[0], x[1]), a[1] = pack_bf16(x[2], x[3]);
    a[2] = pack_bf16(y[0], y[1]), a[3] = pack_bf16(y[2], y[3]);
}

// Each warp has a strip of queries: S = Q K^T, softmax online in float, O += P V with P in bf16.
template <uint32_t SIZE>
__device__ void forward(const Attention& p) {
    Head head(p, blockIdx.x);
    if (!head.live) return wait_for_last_grid();
    Span queries = span(p.query_offsets, head.sequence), keys = span(p.key_offsets, head.sequence);
    fetch_parameters(p);
    wait_for_last_grid();
    uint32_t lane = threadIdx.x % WARP, strip = threadIdx.x / WARP * STRIP, group = lane / 4, pair = lane % 4;
    uint32_t column = head.number * SIZE;
    SharedMemory shared;
    Tile<SIZE> q(shared), k(shared), v(shared);
    auto fetch = [&](const Tile<SIZE>& tile, const void* from, uint32_t at) {
        uint32_t count = min(TILE, keys.count - at);
        tile.fetch(head_row<bf16>(from, keys.first + at, p.kv_stride, column), p.kv_stride, count);
    };
    // The scale goes into the exponent, as does the base of the exponential.
    float exponent = p.scale * LOG2_E;
    for (uint32_t first = 0; first < queries.count; first += TILE) {
        uint32_t rows = min(TILE, queries.count - first);
        q.fetch(head_row<bf16>(p.q, queries.first + first, p.q_stride, column), p.q_stride, rows);
        if (keys.count > 0) fetch(k, p.k, 0);
        copy_async_commit();
        if (keys.count > 0) fetch(v, p.v, 0);
        copy_async_commit();
        bool busy = strip < rows; // the whole warp
        float sum[SIZE / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {};
        for (uint32_t at = 0; at < keys.count; at += TILE) {
            uint32_t n = min(TILE, keys.count - at);
            bool more = at + TILE < keys.count;
            copy_async_wait<1>();
            __syncthreads(); // Q and K have landed; V may not
            float s[TILE / 8][4] = {};
            if (busy) {
#pragma unroll
                for (uint32_t c = 0; c < SIZE; c += 16) {
                    uint32_t a[4];
                    q.left(a, strip, c);
#pragma unroll
                    for (uint32_t j = 0; j < TILE / 16; j++) {
                        if (16 * j >= n) continue;
                        uint32_t b[2][2];
                        k.right_transposed(b, 16 * j, c);
                        mma_16x8x16(s[2 * j], a, b[0]);
                        mma_16x8x16(s[2 * j + 1], a, b[1]);
                    }
                }
            }
            if (more) {
                __syncthreads(); // K has been read
                fetch(k, p.k, at + TILE);
            }
            copy_async_commit();
            if (busy) {
                float largest[2] = {top[0], top[1]};
#pragma unroll
                for (uint32_t j = 0; j < TILE / 8; j++) {
#pragma unroll
                    for (uint32_t i = 0; i < 4; i++) {
                        if (8 * j + 2 * pair + i % 2 >= n) s[j][i] = -INFINITY;
                        largest[i / 2] = fmaxf(largest[i / 2], s[j][i]);
                    }
                }
                // Four lanes share a row. `total` is the lane's part of it.
#pragma unroll
                for (uint32_t h = 0; h < 2; h++) {
                    largest[h] = fmaxf(largest[h], __shfl_xor_sync(ALL_LANES, largest[h], 1));
                    largest[h] = fmaxf(largest[h], __shfl_xor_sync(ALL_LANES, largest[h], 2));
                    float factor = exp2f((top[h] - largest[h]) * exponent);
                    top[h] = largest[h];
                    total[h] *= factor;
#pragma unroll
                    for (uint32_t c = 0; c < SIZE / 8; c++) sum[c][2 * h] *= factor, sum[c][2 * h + 1] *= factor;
                }
#pragma unroll
                for (uint32_t j = 0; j < TILE / 8; j++) {
#pragma unroll
                    for (uint32_t i = 0; i < 4; i++) {
                        s[j][i] = exp2f((s[j][i] - top[i / 2]) * exponent);
                        total[i / 2] += s[j][i];
                    }
                }
            }
            copy_async_wait<1>();
            __syncthreads(); // V has landed; the next K may not
            if (busy) {
#pragma unroll
                for (uint32_t j = 0; j < TILE / 16; j++) {
                    if (16 * j >= n) continue;
                    uint32_t a[4];
                    as_left(a, s[2 * j], s[2 * j + 1]);
#pragma unroll
                    for (uint32_t c = 0; c < SIZE / 16; c++) {
                        uint32_t b[2][2];
                        v.right(b, 16 * j, 16 * c);
                        mma_16x8x16(sum[2 * c], a, b[0]);
                        mma_16x8x16(sum[2 * c + 1], a, b[1]);
                    }
                }
            }
            if (more) {
                __syncthreads(); // V has been read
                fetch(v, p.v, at + TILE);
            }
            copy_async_commit();
        }
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            total[h] += __shfl_xor_sync(ALL_LANES, total[h], 1);
            total[h] += __shfl_xor_sync(ALL_LANES, total[h], 2);
        }
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            uint32_t row = strip + group + 8 * h, query = queries.first + first + row;
            if (row >= rows) continue;
            float scale = total[h] == 0 ? 0.0f : 1 / total[h]; // of no keys: zero
            bf16* out = head_row<bf16>(p.out, query, p.heads * SIZE, column + 2 * pair);
#pragma unroll
            for (uint32_t c = 0; c < SIZE / 8; c++) {
                store_pair(out + 8 * c, sum[c][2 * h] * scale, sum[c][2 * h + 1] * scale);
            }
            if (pair == 0) {
                size_t at = static_cast<size_t>(query) * p.heads + head.number;
                p.log_sum_exp[at] = top[h] * p.scale + logf(total[h]);
            }
        }
        copy_async_wait<0>();
        __syncthreads(); // all tiles are free again
    }
}

// First each warp has a strip of keys, with S^T = K Q^T and dP^T = V dO^T in registers, where they are the left
// operands of dV += P^T dO and dK += dS^T Q at once. Then each has a strip of queries: dQ = dS K, for which dS
// passes through shared memory. Where there are more keys than a tile, dQ is summed up in `scratch`,
// [queries, H]: by the same thread each time, so in order.
template <uint32_t SIZE>
__device__ void backward(const Attention& p) {
    Head head(p, blockIdx.x);
    if (!head.live) return wait_for_last_grid();
    Span queries = span(p.query_offsets, head.sequence), keys = span(p.key_offsets, head.sequence);
    fetch_parameters(p);
    wait_for_last_grid();
    uint32_t lane = threadIdx.x % WARP, strip = threadIdx.x / WARP * STRIP, group = lane / 4, pair = lane % 4;
    uint32_t column = head.number * SIZE, width = p.heads * SIZE;
    SharedMemory shared;
    Tile<SIZE> k(shared), v(shared), q(shared), dy(shared);
    Tile<TILE> ds(shared); // [keys, queries]
    float* along = shared.take<float>(TILE);
    float* log2_sum_exp = shared.take<float>(TILE);
    auto fetch_queries = [&](uint32_t at) {
        uint32_t count = min(TILE, queries.count - at), query = queries.first + at;
        q.fetch(head_row<bf16>(p.q, query, p.q_stride, column), p.q_stride, count);
        dy.fetch(head_row<bf16>(p.dy, query, width, column), width, count);
    };
    float exponent = p.scale * LOG2_E;
    uint32_t first = 0;
    do { // once where there are no keys: dQ is zero
        uint32_t n = min(TILE, keys.count - first);
        bool last = first + n == keys.count;
        k.fetch(head_row<bf16>(p.k, keys.first + first, p.kv_stride, column), p.kv_stride, n);
        v.fetch(head_row<bf16>(p.v, keys.first + first, p.kv_stride, column), p.kv_stride, n);
        if (queries.count > 0) fetch_queries(0);
        copy_async_commit();
        float dk[SIZE / 8][4] = {}, dv[SIZE / 8][4] = {};
        for (uint32_t at = 0; at < queries.count; at += TILE) {
            uint32_t m = min(TILE, queries.count - at);
            { // rowsum(dO O), two lanes a row
                static_assert(ATTENTION_THREADS == 2 * TILE, "two threads a row");
                uint32_t row = threadIdx.x / 2, part = column + threadIdx.x % 2 * (SIZE / 2);
                uint32_t query = queries.first + at + row;
                float sum = 0, log_sum_exp = INFINITY; // no such query: all probabilities are zero
                if (row < m) {
                    const bf16* d = head_row<bf16>(p.dy, query, width, part);
                    const bf16* o = head_row<bf16>(p.out, query, width, part);
                    sum = dot_packs(d, o, SIZE / 2);
                    log_sum_exp = p.log_sum_exp[static_cast<size_t>(query) * p.heads + head.number];
                }
                sum += __shfl_xor_sync(ALL_LANES, sum, 1);
                if (threadIdx.x % 2 == 0) {
                    along[row] = sum;
                    log2_sum_exp[row] = log_sum_exp * LOG2_E;
                }
            }
            copy_async_wait<0>();
            __syncthreads(); // everything is there, and dS has been read
            if (strip < n) {
#pragma unroll 1
                for (uint32_t c = 0; c < m; c += 16) {
                    float s[2][4] = {}, dp[2][4] = {};
#pragma unroll
                    for (uint32_t x = 0; x < SIZE; x += 16) {
                        uint32_t a[4], b[2][2];
                        k.left(a, strip, x);
                        q.right_transposed(b, c, x);
                        mma_16x8x16(s[0], a, b[0]);
                        mma_16x8x16(s[1], a, b[1]);
                        v.left(a, strip, x);
                        dy.right_transposed(b, c, x);
                        mma_16x8x16(dp[0], a, b[0]);
                        mma_16x8x16(dp[1], a, b[1]);
                    }
#pragma unroll
                    for (uint32_t t = 0; t < 2; t++) {
#pragma unroll
                        for (uint32_t i = 0; i < 4; i++) {
                            uint32_t query = c + 8 * t + 2 * pair + i % 2, key = strip + group + i / 2 * 8;
                            float probability = exp2f(s[t][i] * exponent - log2_sum_exp[query]);
                            s[t][i] = key < n ? probability : 0.0f; // it may be infinite
                            dp[t][i] = s[t][i] * (dp[t][i] - along[query]);
                        }
                    }
                    uint32_t of_p[4], of_ds[4];
                    as_left(of_p, s[0], s[1]);
                    as_left(of_ds, dp[0], dp[1]);
#pragma unroll
                    for (uint32_t i = 0; i < 4; i++) {
                        bf16* to = ds.at(strip + group + i % 2 * 8, c + i / 2 * 8 + 2 * pair);
                        *reinterpret_cast<uint32_t*>(to) = of_ds[i];
                    }
#pragma unroll
                    for (uint32_t x = 0; x < SIZE / 16; x++) {
                        uint32_t b[2][2];
                        dy.right(b, c, 16 * x);
                        mma_16x8x16(dv[2 * x], of_p, b[0]);
                        mma_16x8x16(dv[2 * x + 1], of_p, b[1]);
                        q.right(b, c, 16 * x);
                        mma_16x8x16(dk[2 * x], of_ds, b[0]);
                        mma_16x8x16(dk[2 * x + 1], of_ds, b[1]);
                    }
                }
            }
            __syncthreads(); // dS is there; Q and dO have been read
            if (at + TILE < queries.count) {
                fetch_queries(at + TILE);
                copy_async_commit();
            }
            if (strip < m) {
                float dq[SIZE / 8][4] = {};
#pragma unroll 1
                for (uint32_t c = 0; c < n; c += 16) {
                    uint32_t a[4];
                    ds.left_transposed(a, c, strip);
#pragma unroll
                    for (uint32_t x = 0; x < SIZE / 16; x++) {
                        uint32_t b[2][2];
                        k.right(b, c, 16 * x);
                        mma_16x8x16(dq[2 * x], a, b[0]);
                        mma_16x8x16(dq[2 * x + 1], a, b[1]);
                    }
                }
#pragma unroll
                for (uint32_t h = 0; h < 2; h++) {
                    uint32_t row = strip + group + 8 * h, query = queries.first + at + row;
                    if (row >= m) continue;
                    float* sum = head_row<float>(p.scratch, query, width, column + 2 * pair);
                    bf16* out = head_row<bf16>(p.dq, query, p.dq_stride, column + 2 * pair);
#pragma unroll
                    for (uint32_t x = 0; x < SIZE / 8; x++) {
                        float low = dq[x][2 * h], high = dq[x][2 * h + 1];
                        if (first > 0) low += sum[8 * x], high += sum[8 * x + 1];
                        if (last) {
                            store_pair(out + 8 * x, low * p.scale, high * p.scale);
                        } else {
                            sum[8 * x] = low, sum[8 * x + 1] = high;
                        }
                    }
                }
            }
        }
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            uint32_t row = strip + group + 8 * h, key = keys.first + first + row;
            if (row >= n) continue;
            bf16* to_k = head_row<bf16>(p.dk, key, p.dkv_stride, column + 2 * pair);
            bf16* to_v = head_row<bf16>(p.dv, key, p.dkv_stride, column + 2 * pair);
#pragma unroll
            for (uint32_t x = 0; x < SIZE / 8; x++) {
                store_pair(to_k + 8 * x, dk[x][2 * h] * p.scale, dk[x][2 * h + 1] * p.scale);
                store_pair(to_v + 8 * x, dv[x][2 * h], dv[x][2 * h + 1]);
            }
        }
        copy_async_wait<0>();
        __syncthreads(); // all tiles are free again
        first += TILE;
    } while (first < keys.count);
}

} // namespace

KERNEL_AHEAD(attention_mma_32, Attention, ATTENTION_THREADS, 1) { forward<32>(p); }
KERNEL_AHEAD(attention_mma_64, Attention, ATTENTION_THREADS, 1) { forward<64>(p); }
KERNEL_AHEAD(attention_mma_backward_32, Attention, ATTENTION_THREADS, 1) { backward<32>(p); }
KERNEL_AHEAD(attention_mma_backward_64, Attention, ATTENTION_THREADS, 1) { backward<64>(p); }
