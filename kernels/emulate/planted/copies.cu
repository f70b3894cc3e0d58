// A pipeline of asynchronous copies, two stages deep, with one bug each.

#include "common/copy.cuh"

struct PlantedCopies {
    const float* in; // [CHUNKS, CHUNK]
    float* out;      // [CHUNK]
};

namespace {

constexpr uint32_t THREADS = 64, CHUNK = 4 * THREADS, CHUNKS = 5;

enum class Bug {
    None,
    NoWait,
    WaitForTooFew,
    NoCommit,
    NoBarrierAfterWait,
    NoBarrierBeforeReuse,
    NeverWaited,
    Misaligned,
    SourceChanges,
};

// Sums the chunks, each turned around. Each thread copies 16 bytes of a chunk, and zeros past the last.
template <Bug bug>
__device__ void sum(const PlantedCopies& p) {
    SharedMemory memory;
    float* stages[2] = {memory.take<float>(CHUNK + 4), memory.take<float>(CHUNK + 4)};
    uint32_t t = threadIdx.x;
    auto fetch = [&](uint32_t chunk) {
        float* to = stages[chunk % 2] + 4 * t + (bug == Bug::Misaligned ? 2 : 0);
        copy_async_16(to, p.in + chunk * CHUNK + 4 * t, chunk < CHUNKS);
        if (bug != Bug::NoCommit) copy_async_commit();
    };
    float sums[4] = {};
    fetch(0);
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) {
        fetch(chunk + 1);
        if (bug != Bug::NoWait) copy_async_wait<bug == Bug::WaitForTooFew ? 2 : 1>();
        if (bug != Bug::NoBarrierAfterWait) __syncthreads();
        const float* stage = stages[chunk % 2];
        for (uint32_t i = 0; i < 4; i++) sums[i] += stage[CHUNK - 1 - 4 * t - i];
        if (bug != Bug::NoBarrierBeforeReuse) __syncthreads();
    }
    if (bug != Bug::NeverWaited) copy_async_wait<0>();
    if (bug == Bug::SourceChanges) {
        copy_async_16(stages[0] + 4 * t, p.out + 4 * t, true);
        copy_async_commit();
        __syncthreads();
        p.out[(4 * t + 12) % CHUNK] = 0;
        __syncthreads();
        copy_async_wait<0>();
    }
    for (uint32_t i = 0; i < 4; i++) p.out[4 * t + i] = sums[i];
}

// One thread's copy, which its neighbour reads. The barrier comes too early: it orders the issue, not the wait.
__device__ void early_barrier(const PlantedCopies& p) {
    SharedMemory memory;
    float* stage = memory.take<float>(4);
    uint32_t t = threadIdx.x;
    if (t == 0) copy_async_16(stage, p.in, true);
    copy_async_commit();
    __syncthreads();
    if (t == 0) copy_async_wait<0>();
    if (t == 1) p.out[0] = stage[0];
}

} // namespace

KERNEL(planted_copies, PlantedCopies, THREADS) { sum<Bug::None>(p); }
KERNEL(planted_no_wait, PlantedCopies, THREADS) { sum<Bug::NoWait>(p); }
KERNEL(planted_wait_for_too_few, PlantedCopies, THREADS) { sum<Bug::WaitForTooFew>(p); }
KERNEL(planted_no_commit, PlantedCopies, THREADS) { sum<Bug::NoCommit>(p); }
KERNEL(planted_no_barrier_after_wait, PlantedCopies, THREADS) { sum<Bug::NoBarrierAfterWait>(p); }
KERNEL(planted_no_barrier_before_copy, PlantedCopies, THREADS) { sum<Bug::NoBarrierBeforeReuse>(p); }
KERNEL(planted_never_waited, PlantedCopies, THREADS) { sum<Bug::NeverWaited>(p); }
KERNEL(planted_misaligned_copy, PlantedCopies, THREADS) { sum<Bug::Misaligned>(p); }
KERNEL(planted_source_changes, PlantedCopies, THREADS) { sum<Bug::SourceChanges>(p); }
KERNEL(planted_early_barrier, PlantedCopies, THREADS) { early_barrier(p); }
