// dA = U^T x and dB^T = S^T dy for all modules of a layer: tall matrices reduced over their rows. Blocks sum
// chunks of rows, then the chunks' sums are added to the gradients in order.

#include "common/eight.cuh"

struct LoraReduction {
    const void* low;   // U or S: [rows, …], the padded rank side by side
    const void* right; // x or dy: [rows, n]
    uint32_t low_stride, right_stride;
    uint32_t rank, n;
    uint32_t partial; // where its [rank, n] starts in a chunk's sums
    uint32_t gradient; // and in the gradients
    uint32_t first_tile; // the first tile of columns in x of this reduction
    uint32_t target; // of dropout, where it masks `right`
    uint32_t masked;
    uint32_t wide; // whether `right` can be read by 16 bytes
};

struct LoraGradient {
    LoraReduction reductions[2 * LINEAR_MODULES];
    float* partials;  // [chunks, total]
    float* gradients; // the flat vector
    Rows rows;
    Dropout dropout;
    uint32_t count, total;
    uint32_t chunks, rows_a_chunk;
};

constexpr uint32_t WARPS = REDUCE_THREADS / WARP, PITCH = REDUCE_PITCH;
static_assert(RANK_UNIT == 16 && REDUCE_COLUMNS == 2 * WARP && REDUCE_STAGED == WARP, "as lanes have them");

// What a warp sums: REDUCE_STAGED rows from `row` on, and again WARPS times as many further, up to `end`; of a
// unit of ranks and REDUCE_COLUMNS columns. All the loads of REDUCE_STAGED rows are on their way at once.
struct Share {
    uint32_t row, end, rank, column;
};

// Where the sums of a rank lie, of RANK_UNIT rows of PITCH: so that fragments meet no bank conflicts.
__device__ __forceinline__ uint32_t row_of(uint32_t rank) { return rank % 2 * (RANK_UNIT / 2) + rank / 2; }

// In bf16. Ranks are the rows of the mma, and the inner dimension those of U and `right`, in any order as long
// as it is the same in both: a lane reads 16 bytes of four rows of 16, and has a column of eight mma.
template <bool MASK>
struct TensorCores {
    template <bool WIDE_LOADS>
    static __device__ __forceinline__ Eight read(const bf16* row, uint32_t column, uint32_t n) {
        if constexpr (WIDE_LOADS) {
            return column < n ? load_pack<4>(reinterpret_cast<const uint32_t*>(row + column)) : Eight{};
        } else {
            uint32_t x[8];
#pragma unroll
            for (uint32_t i = 0; i < 8; i++) x[i] = column + i < n ? row[column + i].bits : 0;
            return {{x[0] | x[1] << 16, x[2] | x[3] << 16, x[4] | x[5] << 16, x[6] | x[7] << 16}};
        }
    }

    // The lower or the upper halves of two registers.
    static __device__ __forceinline__ uint32_t halves(uint32_t a, uint32_t b, bool upper) {
        return upper ? a >> 16 | (b & 0xffff0000u) : (a & 0xffffu) | b << 16;
    }

    template <bool WIDE_LOADS>
    static __device__ __forceinline__ void sum(const LoraGradient& p, const LoraReduction& r, const Share& share,
                                               float* own) {
        constexpr uint32_t STEPS = REDUCE_STAGED / 16;
        uint32_t lane = threadIdx.x % WARP, group = lane / 4, pair = lane % 4;
        // The groups 2 i and 2 i + 1, whose columns of a sum meet in lane i, are 32 columns apart.
        uint32_t column = share.column + (group / 2 + group % 2 * 4) * 8;
        const bf16* of_low = static_cast<const bf16*>(r.low) + share.rank + 2 * group;
        const bf16* of_right = static_cast<const bf16*>(r.right);
        float sums[8][4] = {};
        for (uint32_t first = share.row; first < share.end; first += WARPS * REDUCE_STAGED) {
            Eight x[STEPS][4];
            uint32_t low[STEPS][4]; // two ranks
#pragma unroll
            for (uint32_t s = 0; s < STEPS; s++) {
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) {
                    uint32_t row = first + 16 * s + 4 * pair + i;
                    x[s][i] = {};
                    low[s][i] = 0;
                    if (row >= share.end) continue;
                    const bf16* ranks = of_low + static_cast<size_t>(row) * r.low_stride;
                    low[s][i] = *reinterpret_cast<const uint32_t*>(ranks);
                    x[s][i] = read<WIDE_LOADS>(of_right + static_cast<size_t>(row) * r.right_stride, column, r.n);
                }
            }
#pragma unroll
            for (uint32_t s = 0; s < STEPS; s++) {
                if (MASK && r.masked) {
#pragma unroll
                    for (uint32_t i = 0; i < 4; i++) {
                        mask(x[s][i], p.dropout, r.target, first + 16 * s + 4 * pair + i, column);
                    }
                }
                uint32_t a[4];
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) a[i] = halves(low[s][i / 2 * 2], low[s][i / 2 * 2 + 1], i % 2);
#pragma unroll
                for (uint32_t c = 0; c < 8; c++) {
                    mma_16x8x16(sums[c], a,
                                {halves(x[s][0].at[c / 2], x[s][1].at[c / 2], c % 2),
                                 halves(x[s][2].at[c / 2], x[s][3].at[c / 2], c % 2)});
                }
            }
        }
        // Of mma c, a lane has ranks 2 group and 2 group + 1 of columns 8 pair + c and 32 further.
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
#pragma unroll
            for (uint32_t c = 0; c < 8; c += 4) {
                Pack<float, 4> four = {{sums[c][i], sums[c + 1][i], sums[c + 2][i], sums[c + 3][i]}};
                store_pack<4>(own + row_of(2 * group + i / 2) * PITCH + i % 2 * WARP + 8 * pair + c, four);
            }
        }
    }

    static __device__ void sum(const LoraGradient& p, const LoraReduction& r, const Share& share, float* own) {
        r.wide ? sum<true>(p, r, share, own) : sum<false>(p, r, share, own);
    }
};

// In f32: a lane has two columns. The ranks of the rows wait where the sums will be.
template <bool MASK>
struct CudaCores {
    static __device__ void sum(const LoraGradient& p, const LoraReduction& r, const Share& share, float* own) {
        constexpr uint32_t ROWS = 8; // loaded at once
        uint32_t lane = threadIdx.x % WARP, column = share.column + lane;
        const float* of_low = static_cast<const float*>(r.low) + share.rank + lane % 4 * 4;
        const float* of_right = static_cast<const float*>(r.right);
        float sums[RANK_UNIT][2] = {};
        for (uint32_t first = share.row; first < share.end; first += WARPS * REDUCE_STAGED) {
            __syncwarp();
#pragma unroll
            for (uint32_t i = 0; i < REDUCE_STAGED; i += 8) {
                uint32_t row = first + i + lane / 4;
                Pack<float, 4> ranks = {};
                if (row < share.end) ranks = load_pack<4>(of_low + static_cast<size_t>(row) * r.low_stride);
                store_pack<4>(own + (i + lane / 4) * RANK_UNIT + lane % 4 * 4, ranks);
            }
            __syncwarp();
            for (uint32_t i = 0; i < REDUCE_STAGED; i += ROWS) {
                float x[ROWS][2];
#pragma unroll
                for (uint32_t j = 0; j < ROWS; j++) {
                    uint32_t row = first + i + j;
#pragma unroll
                    for (uint32_t c = 0; c < 2; c++) {
                        uint32_t at = column + c * WARP;
                        bool inside = row < share.end && at < r.n;
                        x[j][c] = inside ? of_right[static_cast<size_t>(row) * r.right_stride + at] : 0.0f;
                    }
                }
#pragma unroll
                for (uint32_t j = 0; j < ROWS; j++) {
                    if (MASK && r.masked) {
                        for (uint32_t c = 0; c < 2; c++) {
                            uint32_t at = column + c * WARP;
                            x[j][c] *= dropout_factor(p.dropout, r.target, first + i + j, at);
                        }
                    }
#pragma unroll
                    for (uint32_t k = 0; k < RANK_UNIT; k += 4) {
                        Pack<float, 4> ranks = load_pack<4>(own + (i + j) * RANK_UNIT + k);
#pragma unroll
                        for (uint32_t q = 0; q < 8; q++) sums[k + q / 2][q % 2] += ranks.at[q / 2] * x[j][q % 2];
                    }
                }
            }
        }
        __syncwarp();
#pragma unroll
        for (uint32_t k = 0; k < RANK_UNIT; k++) {
#pragma unroll
            for (uint32_t c = 0; c < 2; c++) own[row_of(k) * PITCH + c * WARP + lane] = sums[k][c];
        }
    }
};

template <class Form>
__device__ void reduce(const LoraGradient& p) {
    SharedMemory shared;
    float* sums = shared.take<float>(WARPS * RANK_UNIT * PITCH);
    uint32_t which = 0;
    while (which + 1 < p.count && blockIdx.x >= p.reductions[which + 1].first_tile) which++;
    const LoraReduction& r = p.reductions[which];
    uint32_t first_rank = blockIdx.z * RANK_UNIT;
    if (first_rank >= r.rank) return; // the whole block
    uint32_t first_column = (blockIdx.x - r.first_tile) * REDUCE_COLUMNS, warp = threadIdx.x / WARP;
    uint32_t first = blockIdx.y * p.rows_a_chunk, end = min(first + p.rows_a_chunk, p.rows.count());
    Form::sum(p, r, {first + warp * REDUCE_STAGED, end, first_rank, first_column}, sums + warp * RANK_UNIT * PITCH);
    __syncthreads();
    float* partial = p.partials + static_cast<size_t>(blockIdx.y) * p.total + r.partial;
    uint32_t column = threadIdx.x % REDUCE_COLUMNS, at = first_column + column;
#pragma unroll
    for (uint32_t i = 0; i < RANK_UNIT; i += REDUCE_THREADS / REDUCE_COLUMNS) {
        uint32_t rank = i + threadIdx.x / REDUCE_COLUMNS;
        float sum = 0;
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++) sum += sums[(w * RANK_UNIT + row_of(rank)) * PITCH + column];
        if (first_rank + rank < r.rank && at < r.n) partial[(first_rank + rank) * r.n + at] = sum;
    }
}

KERNEL(lora_gradient_f32, LoraGradient, REDUCE_THREADS) { reduce<CudaCores<false>>(p); }
KERNEL(lora_gradient_bf16, LoraGradient, REDUCE_THREADS) { reduce<TensorCores<false>>(p); }
KERNEL(lora_gradient_masked_f32, LoraGradient, REDUCE_THREADS) { reduce<CudaCores<true>>(p); }
KERNEL(lora_gradient_masked_bf16, LoraGradient, REDUCE_THREADS) { reduce<TensorCores<true>>(p); }

// gradients += the sums of all chunks, one reduction per block in y.
KERNEL(lora_gradient_sum, LoraGradient, ELEMENTWISE_THREADS) {
    constexpr uint32_t AT_ONCE = 8;
    const LoraReduction& r = p.reductions[blockIdx.y];
    uint32_t i = blockIdx.x * ELEMENTWISE_THREADS + threadIdx.x;
    if (i >= r.rank * r.n) return;
    const float* partial = p.partials + r.partial + i;
    float before = p.gradients[r.gradient + i], sum = 0;
    for (uint32_t first = 0; first < p.chunks; first += AT_ONCE) {
        float x[AT_ONCE];
#pragma unroll
        for (uint32_t c = 0; c < AT_ONCE; c++) {
            x[c] = first + c < p.chunks ? partial[static_cast<size_t>(first + c) * p.total] : 0.0f;
        }
#pragma unroll
        for (uint32_t c = 0; c < AT_ONCE; c++) sum += x[c];
    }
    p.gradients[r.gradient + i] = before + sum;
}
