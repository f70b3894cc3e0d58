// The fused linear layer on Hopper's tensor cores: wgmma fed by tensor copies. In bf16 with float sums; sizes and
// strides are multiples of 8.
//
// A block computes HOPPER_ROWS rows and N columns in steps of HOPPER_K along the inner dimension. Two warpgroups
// multiply, each for half of the rows; on the way, the first thread copies the operands into a ring of `stages`. (A
// warp for that alone would cost the registers with which two blocks share a multiprocessor.) A slot's `full` barrier
// tells that its copies have landed, `empty` that all warps are done with it. The low-rank
// term is the last of the steps, as in lora_linear_mma.cu: from memory, or, in the fused forms, of S = x A^T, which
// is summed in the same pass and never leaves the registers on its way to B.
//
// The sums of an element run in one order, whatever the tile and the number of rows.

#include "common/linear.cuh"
#include "common/mma.cuh"
#include "common/wgmma.cuh"

// The operands of a part, as the copies see them. What a form does not use is not set.
struct HopperPart {
    TensorMap left;      // [rows, k], by HOPPER_ROWS rows
    TensorMap right;     // [n, k], by the tile's columns, or [k, n], by HOPPER_K rows
    TensorMap low_left;  // S or U [rows, rank], by HOPPER_ROWS; fused: A or B^T of each adapter, [16, k], by 16
    TensorMap low_right; // B^T or A of each adapter, [rank, n], by HOPPER_K rows; fused: by 16
};

struct HopperGemm {
    HopperPart maps[LINEAR_MODULES];
    Gemm gemm;
};

static_assert(HOPPER_K == BOX_COLUMNS, "a box is a step wide");

// Where a walk through the ring is.
struct Slot {
    uint32_t at = 0, round = 0;

    __device__ __forceinline__ void advance(uint32_t stages) {
        if (++at < stages) return;
        at = 0;
        round++;
    }
};

// What one block of a product works with. ROWS: the weights lie as [k, n]. FUSED: S is summed along.
template <uint32_t N, bool ROWS, bool FUSED>
struct Product {
    static constexpr uint32_t GROUP_ROWS = 64, GROUP_WARPS = 4, WARPS = HOPPER_ROWS / GROUP_ROWS * GROUP_WARPS;
    static_assert(HOPPER_THREADS == WARPS * WARP, "two warpgroups");
    static constexpr uint32_t LEFT = HOPPER_ROWS * BOX_ROW_BYTES, RIGHT = N * HOPPER_K * 2;
    static constexpr uint32_t SIDE = FUSED ? RANK_UNIT * BOX_ROW_BYTES : 0, STAGE = LEFT + RIGHT + SIDE;
    static_assert(STAGE % SWIZZLE_BYTES == 0 && LEFT % SWIZZLE_BYTES == 0 && RIGHT % SWIZZLE_BYTES == 0, "boxes");
    // Of the sums in shared memory, as in lora_linear_mma.cu.
    static constexpr uint32_t PITCH = N + 8;

    const Gemm& p;
    const HopperPart& maps;
    const Part& part;
    Place at;
    float scale; // of S
    unsigned char* stages;
    Mbarrier* full;
    Mbarrier* empty;

    // Of the thread that copies: where the next step goes, and its number.
    Slot ahead;
    uint32_t copied;

    // Of the tile, and in the fused forms those of S after them. Set by the first step.
    static constexpr uint32_t SUMS = N / 2, SIDE_SUMS = FUSED ? RANK_UNIT / 2 : 0;
    float (&sums)[SUMS + SIDE_SUMS];

    __device__ static uint32_t warp() { return threadIdx.x / WARP; }

    __device__ __forceinline__ uint32_t base_steps() const { return (part.k + HOPPER_K - 1) / HOPPER_K; }
    __device__ __forceinline__ uint32_t low_steps() const {
        return FUSED ? part.rank / RANK_UNIT : (part.rank + HOPPER_K - 1) / HOPPER_K;
    }

    // The columns of this tile of a matrix that lies as [k, n], in boxes of `height` rows.
    __device__ __forceinline__ void copy_rows(unsigned char* to, const TensorMap* map, uint32_t height, uint32_t k,
                                              uint32_t matrix, Mbarrier* barrier) const {
#pragma unroll
        for (uint32_t c = 0; c < N / BOX_COLUMNS; c++) {
            copy_box(to + c * height * BOX_ROW_BYTES, map, at.column + c * BOX_COLUMNS, k, matrix, barrier);
        }
    }

    // Of one thread: has the weights fetched, which no grid writes. Of the tiles in one column the first does it for
    // all.
    __device__ __forceinline__ void fetch_ahead() const {
        prefetch_map(&maps.left);
        prefetch_map(&maps.right);
        if (part.rank > 0) prefetch_map(&maps.low_left), prefetch_map(&maps.low_right);
        if (blockIdx.y > 0) return;
        for (uint32_t k = 0; k < part.k; k += HOPPER_K) {
            if (ROWS) {
                for (uint32_t c = 0; c < N; c += BOX_COLUMNS) prefetch_box(&maps.right, at.column + c, k, 0);
            } else {
                prefetch_box(&maps.right, k, at.column, 0);
            }
        }
    }

    // Of the thread that copies: the operands of the next step, once there is room for them.
    __device__ __forceinline__ void copy_next() {
        uint32_t base = base_steps(), step = copied++;
        if (step >= base + low_steps()) return;
        unsigned char* left = stages + ahead.at * STAGE;
        unsigned char* right = left + LEFT;
        Mbarrier* landed = &full[ahead.at];
        // The round before; in the first there was none, and the wait is over at once.
        mbarrier_wait(&empty[ahead.at], (ahead.round + 1) % 2);
        if (step < base) {
            uint32_t k = step * HOPPER_K;
            bool sided = FUSED && part.rank > 0;
            mbarrier_arrive_expect(landed, LEFT + RIGHT + (sided ? SIDE : 0));
            copy_box(left, &maps.left, k, at.first, 0, landed);
            if (ROWS) {
                copy_rows(right, &maps.right, HOPPER_K, k, 0, landed);
            } else {
                copy_box(right, &maps.right, k, at.column, 0, landed);
            }
            if (sided) copy_box(right + RIGHT, &maps.low_left, k, 0, at.adapter, landed);
        } else if (FUSED) {
            mbarrier_arrive_expect(landed, RANK_UNIT * N * 2);
            copy_rows(right, &maps.low_right, RANK_UNIT, 0, at.adapter, landed);
        } else {
            uint32_t k = (step - base) * HOPPER_K;
            mbarrier_arrive_expect(landed, LEFT + RIGHT);
            copy_box(left, &maps.low_left, k, at.first, 0, landed);
            copy_rows(right, &maps.low_right, HOPPER_K, k, at.adapter, landed);
        }
        ahead.advance(p.stages);
    }

    // Issues the products of a step. RIGHT_ROWS: the right tile lies as [k, n].
    template <bool RIGHT_ROWS, bool SIDED>
    __device__ __forceinline__ void multiply(uint32_t slot, bool first) {
        const unsigned char* left = stages + slot * STAGE;
        uint64_t a = describe_tile(left + warp() / GROUP_WARPS * GROUP_ROWS * BOX_ROW_BYTES, 0);
        uint64_t b = describe_tile(left + LEFT, RIGHT_ROWS ? HOPPER_K * BOX_ROW_BYTES : 0);
        wgmma_fence();
        // That of the side differs in its place alone: a box's bytes do not matter along k. Where both lie along k,
        // they are one operand if it is not too wide, and the left one is read once.
        constexpr bool TOGETHER = SIDED && !RIGHT_ROWS && N + RANK_UNIT <= 256;
#pragma unroll
        for (uint32_t k = 0; k < HOPPER_K / 16; k++) {
            bool add = !first || k > 0;
            uint64_t of_a = a + k * k_step<false>, of_b = b + k * k_step<RIGHT_ROWS>;
            wgmma<TOGETHER ? N + RANK_UNIT : N, RIGHT_ROWS>(sums, of_a, of_b, add);
            if (SIDED && !TOGETHER) wgmma<RANK_UNIT, false>(sums + SUMS, of_a, b + RIGHT / 16 + k * k_step<false>, add);
        }
        wgmma_commit();
    }

    // Gives back the slot of a step, and has the next one copied.
    __device__ __forceinline__ void release(uint32_t slot) {
        if (threadIdx.x % WARP == 0) mbarrier_arrive(&empty[slot]);
        if (threadIdx.x == 0) copy_next();
    }

    // Walks through steps first..end, each left running until the next is issued; then its slot is given back.
    template <bool RIGHT_ROWS, bool SIDED>
    __device__ __forceinline__ void walk(Slot& slot, uint32_t first, uint32_t end) {
        uint32_t before = 0;
        for (uint32_t step = first; step < end; step++, slot.advance(p.stages)) {
            mbarrier_wait(&full[slot.at], slot.round % 2);
            multiply<RIGHT_ROWS, SIDED>(slot.at, step == 0);
            wgmma_wait<1>();
            if (step > first) release(before);
            before = slot.at;
        }
        wgmma_wait<0>();
        if (end > first) release(before);
    }

    // S, scaled and rounded, as the left operand of a product; and to memory where it is wanted.
    __device__ __forceinline__ void round_side(uint32_t (&a)[4]) {
        bool keep = part.low_left != nullptr && at.column == 0;
        uint32_t lane = threadIdx.x % WARP;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = warp() * 16 + lane / 4 + i % 2 * 8, column = i / 2 * 8 + lane % 4 * 2;
            a[i] = pack_bf16(scale * sums[SUMS + 2 * i], scale * sums[SUMS + 2 * i + 1]);
            if (keep && at.first + row < at.end) {
                size_t offset = static_cast<size_t>(at.first + row) * part.low_left_stride + column;
                *reinterpret_cast<uint32_t*>(static_cast<bf16*>(part.low_left) + offset) = a[i];
            }
        }
    }

    __device__ __forceinline__ void compute() {
        if (threadIdx.x == 0) {
            for (uint32_t s = 0; s < p.stages; s++) copy_next();
        }
        uint32_t base = base_steps();
        Slot slot;
        if constexpr (FUSED) {
            if (part.rank == 0) {
                walk<ROWS, false>(slot, 0, base);
            } else {
                walk<ROWS, true>(slot, 0, base);
                wgmma_settled(sums);
                uint32_t a[4];
                round_side(a);
                mbarrier_wait(&full[slot.at], slot.round % 2);
                wgmma_fence();
                wgmma<N>(sums, a, describe_tile(stages + slot.at * STAGE + LEFT, RANK_UNIT * BOX_ROW_BYTES));
                wgmma_commit();
                wgmma_wait<0>();
            }
        } else {
            walk<ROWS, false>(slot, 0, base);
            walk<true, false>(slot, base, base + low_steps());
        }
        wgmma_settled(sums);
    }

    // The epilogue: through shared memory, so that it moves 16 bytes of a row at once. A warp has its own rows.
    __device__ __forceinline__ void store() {
        float* tile = reinterpret_cast<float*>(stages) + warp() * 16 * PITCH;
        uint32_t lane = threadIdx.x % WARP, first = at.first + warp() * 16;
#pragma unroll
        for (uint32_t j = 0; j < N / 8; j++) {
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                float* to = tile + (lane / 4 + 8 * half) * PITCH + 8 * j + lane % 4 * 2;
                store_pack<2>(to, {{sums[4 * j + 2 * half], sums[4 * j + 2 * half + 1]}});
            }
        }
        __syncwarp();
        // A lane has the same columns of all its rows. What lies beside the next is on its way meanwhile.
        constexpr uint32_t PACK = 8, STEP = WARP * PACK / N;
        using Eight = Columns<bf16, true, PACK>;
        uint32_t column = lane % (N / PACK) * PACK, own = lane / (N / PACK);
        Eight columns(p, part, at.column + column);
        Pack<float, PACK> bias = columns.bias();
        auto beside = [&](uint32_t row) {
            return row < 16 && first + row < at.end ? columns.beside(first + row) : typename Eight::Beside{};
        };
        auto next = beside(own);
#pragma unroll 1
        for (uint32_t row = own; row < 16 && first + row < at.end; row += STEP) {
            auto now = next;
            next = beside(row + STEP);
            auto product = load_pack<PACK>(tile + row * PITCH + column);
            columns.finish(first + row, product.at, bias, now);
        }
    }
};

template <uint32_t N, bool ROWS, bool FUSED>
__device__ void product(const HopperGemm& p) {
    using P = Product<N, ROWS, FUSED>;
    Place at = place<HOPPER_ROWS, N>(p.gemm);
    SharedMemory shared;
    uint32_t stages = p.gemm.stages;
    // The sums lie there in the end.
    auto memory = shared.take<unsigned char>(max(stages * P::STAGE, HOPPER_ROWS * P::PITCH * 4));
    Mbarrier* full = shared.take<Mbarrier>(2 * stages);
    float sums[P::SUMS + P::SIDE_SUMS];
    P product = {p.gemm, p.maps[at.part], p.gemm.parts[at.part], at, 1.0f, memory, full, full + stages, {}, 0, sums};
    if (FUSED) product.scale = scale_of(p.gemm, at.adapter);
    if (threadIdx.x == 0) {
        for (uint32_t s = 0; s < stages; s++) {
            mbarrier_init(&product.full[s], 1);
            mbarrier_init(&product.empty[s], P::WARPS);
        }
        fence_proxy_async();
    }
    fetch_parameters(p.gemm);
    bool live = at.first < at.end;
    if (live && threadIdx.x == HOPPER_THREADS - WARP) product.fetch_ahead(); // the last warp's first
    wait_for_last_grid();
    if (!live) return; // the whole block
    __syncthreads();
    product.compute();
    __syncthreads(); // nobody needs the stages any more
    product.store();
}

// Two blocks share a multiprocessor, but for the broad tile, whose sums are half of the registers.
#define HOPPER_KERNEL(name, blocks) KERNEL_AHEAD(name, HopperGemm, HOPPER_THREADS, blocks)

HOPPER_KERNEL(linear_wgmma_broad, 1) { product<HOPPER_BROAD, false, false>(p); }
HOPPER_KERNEL(linear_wgmma_fused_broad, 1) { product<HOPPER_BROAD, false, true>(p); }
HOPPER_KERNEL(linear_dx_wgmma_broad, 1) { product<HOPPER_BROAD, true, false>(p); }
HOPPER_KERNEL(linear_dx_wgmma_fused_broad, 1) { product<HOPPER_BROAD, true, true>(p); }
HOPPER_KERNEL(linear_wgmma_wide, 2) { product<HOPPER_WIDE, false, false>(p); }
HOPPER_KERNEL(linear_wgmma_narrow, 2) { product<HOPPER_NARROW, false, false>(p); }
HOPPER_KERNEL(linear_wgmma_fused_wide, 2) { product<HOPPER_WIDE, false, true>(p); }
HOPPER_KERNEL(linear_wgmma_fused_narrow, 2) { product<HOPPER_NARROW, false, true>(p); }
HOPPER_KERNEL(linear_dx_wgmma_wide, 2) { product<HOPPER_WIDE, true, false>(p); }
HOPPER_KERNEL(linear_dx_wgmma_narrow, 2) { product<HOPPER_NARROW, true, false>(p); }
HOPPER_KERNEL(linear_dx_wgmma_fused_wide, 2) { product<HOPPER_WIDE, true, true>(p); }
HOPPER_KERNEL(linear_dx_wgmma_fused_narrow, 2) { product<HOPPER_NARROW, true, true>(p); }
