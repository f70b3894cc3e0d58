// What Hopper has of its own: its primitives alone, and a product that uses them all, with one bug each.

#include "common/wgmma.cuh"

namespace {

constexpr uint32_t GROUP = 128;

struct PlantedTiles {
    const uint32_t* a; // as they lie in shared memory; or [128, 4], the registers of each thread
    const uint32_t* b;
    float* d; // [128, N / 2], the registers of each thread, added to
    uint32_t a_words, b_words, box_bytes;
    uint32_t add;
};

// One product of tiles that the threads write themselves.
template <uint32_t N, bool ROWS, bool REGISTERS, bool FENCE>
__device__ void one_product(const PlantedTiles& p) {
    SharedMemory memory;
    uint32_t* a = memory.take<uint32_t>(2048);
    uint32_t* b = memory.take<uint32_t>(4096);
    uint32_t t = threadIdx.x;
    for (uint32_t i = t; i < p.a_words; i += GROUP) a[i] = p.a[i];
    for (uint32_t i = t; i < p.b_words; i += GROUP) b[i] = p.b[i];
    if (FENCE) fence_proxy_async();
    __syncthreads();
    float d[N / 2];
    for (uint32_t i = 0; i < N / 2; i++) d[i] = p.d[N / 2 * t + i];
    wgmma_fence();
    if constexpr (REGISTERS) {
        wgmma<N>(d, {p.a[4 * t], p.a[4 * t + 1], p.a[4 * t + 2], p.a[4 * t + 3]}, describe_tile(b, p.box_bytes));
    } else {
        wgmma<N, ROWS>(d, describe_tile(a, 0), describe_tile(b, p.box_bytes), p.add != 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    for (uint32_t i = 0; i < N / 2; i++) p.d[N / 2 * t + i] = d[i];
}

struct PlantedBox {
    TensorMap map;
    uint16_t* out; // the box, as it lies in shared memory
    uint32_t column, row, matrix, rows;
};

struct PlantedProduct {
    TensorMap x, w; // [64, k], by 64 rows
    float* out;     // [128, 32], the registers of each thread
    uint32_t steps; // of 64
};

enum class Bug {
    None,
    NoWgmmaFence,
    NoFenceOfBarriers,
    TooFewBytes,
    TooManyBytes,
    WrongParity,
    NoWaitForRoom,
    EarlyRelease,
    NoRelease,
    ReadsSumsEarly,
    NeverWaited,
    LonelyWait,
    WritesUnderProduct,
};

// x w^T, with two stages. The last warp copies.
template <Bug bug>
__device__ void multiply(const PlantedProduct& p) {
    constexpr uint32_t STAGES = 2, BOX = 64 * BOX_ROW_BYTES;
    SharedMemory memory;
    unsigned char* stages = memory.take<unsigned char>(STAGES * 2 * BOX);
    Mbarrier* full = memory.take<Mbarrier>(STAGES);
    Mbarrier* empty = memory.take<Mbarrier>(STAGES);
    uint32_t t = threadIdx.x;
    if (t == 0) {
        for (uint32_t s = 0; s < STAGES; s++) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], GROUP / WARP);
        }
        if (bug != Bug::NoFenceOfBarriers) fence_proxy_async();
    }
    __syncthreads();
    if (t == GROUP) {
        for (uint32_t step = 0; step < p.steps; step++) {
            uint32_t slot = step % STAGES, round = step / STAGES;
            unsigned char* stage = stages + slot * 2 * BOX;
            if (bug != Bug::NoWaitForRoom) mbarrier_wait(&empty[slot], (round + 1) % 2);
            uint32_t bytes = bug == Bug::TooFewBytes ? BOX : bug == Bug::TooManyBytes ? 2 * BOX + 16 : 2 * BOX;
            mbarrier_arrive_expect(&full[slot], bytes);
            copy_box(stage, &p.x, step * BOX_COLUMNS, 0, 0, &full[slot]);
            copy_box(stage + BOX, &p.w, step * BOX_COLUMNS, 0, 0, &full[slot]);
        }
    }
    if (t >= GROUP) return;
    float sums[32];
    auto release = [&](uint32_t slot) {
        if (bug != Bug::NoRelease && t % WARP == 0) mbarrier_arrive(&empty[slot]);
    };
    for (uint32_t step = 0; step < p.steps; step++) {
        uint32_t slot = step % STAGES, round = step / STAGES;
        unsigned char* stage = stages + slot * 2 * BOX;
        if (bug != Bug::LonelyWait || t == 0) {
            mbarrier_wait(&full[slot], (round + (bug == Bug::WrongParity)) % 2);
        }
        uint64_t x = describe_tile(stage, 0), w = describe_tile(stage + BOX, 0);
        if (bug != Bug::NoWgmmaFence) wgmma_fence();
        for (uint32_t k = 0; k < 4; k++) {
            wgmma<64, false>(sums, x + k * k_step<false>, w + k * k_step<false>, step > 0 || k > 0);
        }
        wgmma_commit();
        if (bug == Bug::WritesUnderProduct && t == 0) stage[0] = 0;
        if (bug == Bug::EarlyRelease) release(slot);
        if (bug == Bug::ReadsSumsEarly && step + 1 == p.steps) {
            for (uint32_t i = 0; i < 32; i++) p.out[32 * t + i] = sums[i];
        }
        if (bug != Bug::NeverWaited || step + 1 < p.steps) wgmma_wait<0>();
        if (bug != Bug::EarlyRelease) release(slot);
    }
    if (bug == Bug::ReadsSumsEarly) return;
    for (uint32_t i = 0; i < 32; i++) p.out[32 * t + i] = sums[i];
}

} // namespace

KERNEL(planted_wgmma_16, PlantedTiles, GROUP) { one_product<16, false, false, true>(p); }
KERNEL(planted_wgmma_64, PlantedTiles, GROUP) { one_product<64, false, false, true>(p); }
KERNEL(planted_wgmma_128, PlantedTiles, GROUP) { one_product<128, false, false, true>(p); }
KERNEL(planted_wgmma_rows_64, PlantedTiles, GROUP) { one_product<64, true, false, true>(p); }
KERNEL(planted_wgmma_rows_128, PlantedTiles, GROUP) { one_product<128, true, false, true>(p); }
KERNEL(planted_wgmma_registers_64, PlantedTiles, GROUP) { one_product<64, true, true, true>(p); }
KERNEL(planted_wgmma_registers_128, PlantedTiles, GROUP) { one_product<128, true, true, true>(p); }
KERNEL(planted_no_proxy_fence, PlantedTiles, GROUP) { one_product<64, false, false, false>(p); }

KERNEL(planted_copy_box, PlantedBox, 64) {
    SharedMemory memory;
    uint16_t* box = memory.take<uint16_t>(p.rows * BOX_COLUMNS);
    Mbarrier* landed = memory.take<Mbarrier>(1);
    if (threadIdx.x == 0) {
        mbarrier_init(landed, 1);
        fence_proxy_async();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(landed, p.rows * BOX_ROW_BYTES);
        copy_box(box, &p.map, p.column, p.row, p.matrix, landed);
    }
    mbarrier_wait(landed, 0);
    for (uint32_t i = threadIdx.x; i < p.rows * BOX_COLUMNS; i += 64) p.out[i] = box[i];
}

KERNEL(planted_product, PlantedProduct, GROUP + WARP) { multiply<Bug::None>(p); }
KERNEL(planted_no_wgmma_fence, PlantedProduct, GROUP + WARP) { multiply<Bug::NoWgmmaFence>(p); }
KERNEL(planted_no_fence_of_barriers, PlantedProduct, GROUP + WARP) { multiply<Bug::NoFenceOfBarriers>(p); }
KERNEL(planted_too_few_bytes, PlantedProduct, GROUP + WARP) { multiply<Bug::TooFewBytes>(p); }
KERNEL(planted_too_many_bytes, PlantedProduct, GROUP + WARP) { multiply<Bug::TooManyBytes>(p); }
KERNEL(planted_wrong_parity, PlantedProduct, GROUP + WARP) { multiply<Bug::WrongParity>(p); }
KERNEL(planted_no_wait_for_room, PlantedProduct, GROUP + WARP) { multiply<Bug::NoWaitForRoom>(p); }
KERNEL(planted_early_release, PlantedProduct, GROUP + WARP) { multiply<Bug::EarlyRelease>(p); }
KERNEL(planted_no_release, PlantedProduct, GROUP + WARP) { multiply<Bug::NoRelease>(p); }
KERNEL(planted_reads_sums_early, PlantedProduct, GROUP + WARP) { multiply<Bug::ReadsSumsEarly>(p); }
KERNEL(planted_products_never_waited, PlantedProduct, GROUP + WARP) { multiply<Bug::NeverWaited>(p); }
KERNEL(planted_lonely_wait, PlantedProduct, GROUP + WARP) { multiply<Bug::LonelyWait>(p); }
KERNEL(planted_writes_under_product, PlantedProduct, GROUP + WARP) { multiply<Bug::WritesUnderProduct>(p); }
