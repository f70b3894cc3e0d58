// Kernels with one bug each, in the use of memory, that the emulator must find; and the same without.

#include "common/bf16.cuh"
#include "common/reduce.cuh"

struct PlantedMemory {
    const float* in; // [blocks, THREADS]
    float* out;      // likewise
};

namespace {

constexpr uint32_t THREADS = 64;

enum class Bug {
    None,
    NoBarrier,
    NoBarrierBeforeReuse,
    PastShared,
    BetweenPieces,
    ReadPastGlobal,
    WritePastGlobal,
    WriteParameters,
    SameOutput,
    OutputOfNextBlock,
    Unwritten,
    Misaligned,
};

// Turns each block's values around, and adds twice what lies there.
template <Bug bug>
__device__ void turn(const PlantedMemory& p) {
    SharedMemory memory;
    memory.take<float>(1);
    float* tile = memory.take<float>(THREADS);
    uint32_t t = threadIdx.x, at = blockIdx.x * THREADS + t;
    float x = p.in[bug == Bug::ReadPastGlobal ? at + 1 : at];
    if (bug == Bug::Misaligned) x = *reinterpret_cast<const double*>(p.in + at / 2 + 1) != 0 ? x : 0;
    uint32_t to = bug == Bug::PastShared ? t + 1 : t;
    if (bug == Bug::BetweenPieces && t == 5) tile -= t + 1;
    if (bug != Bug::Unwritten) {
        tile[t] = 0;
        __syncthreads();
    }
    if (bug != Bug::Unwritten || t != 9) tile[to] = x;
    if (bug != Bug::NoBarrier) __syncthreads();
    float sum = tile[THREADS - 1 - t];
    if (bug != Bug::NoBarrierBeforeReuse) __syncthreads();
    tile[t] = 2 * x;
    __syncthreads();
    sum += tile[t];
    float* out = p.out + (bug == Bug::WritePastGlobal ? at + 1 : bug == Bug::SameOutput ? t : at);
    if (bug == Bug::WriteParameters) out = reinterpret_cast<float*>(const_cast<PlantedMemory*>(&p));
    if (bug == Bug::OutputOfNextBlock) sum += p.out[(blockIdx.x + 1) % gridDim.x * THREADS + t];
    *out = sum;
}

enum class WarpBug { None, NoSync, ShuffleInstead };

// Sums neighbours over shared memory of the warp's own.
template <WarpBug bug>
__device__ void neighbours(const PlantedMemory& p) {
    SharedMemory memory;
    float* tile = memory.take<float>(THREADS);
    uint32_t t = threadIdx.x, at = blockIdx.x * THREADS + t;
    tile[t] = 0;
    __syncthreads();
    tile[t] = p.in[at];
    if (bug == WarpBug::None) __syncwarp();
    if (bug == WarpBug::ShuffleInstead) warp_sum(1.0f);
    float sum = tile[t] + tile[t ^ 1];
    __syncwarp();
    tile[t] = sum;
    p.out[at] = sum;
}

// Neighbours keep bf16 in one word, without a barrier between them.
template <bool races>
__device__ void halves(const PlantedMemory& p) {
    SharedMemory memory;
    bf16* tile = memory.take<bf16>(THREADS);
    uint32_t t = threadIdx.x, at = blockIdx.x * THREADS + t;
    tile[t] = from_float<bf16>(0);
    __syncthreads();
    tile[t] = from_float<bf16>(p.in[at]);
    float x = to_float(tile[t]);
    if (races && t == 40) x += to_float(tile[41]);
    __syncthreads();
    p.out[at] = x + to_float(tile[THREADS - 1 - t]);
}

// Everybody reads a value that one thread changes.
template <bool races>
__device__ void broadcast(const PlantedMemory& p) {
    SharedMemory memory;
    float* value = memory.take<float>(1);
    uint32_t t = threadIdx.x, at = blockIdx.x * THREADS + t;
    if (t == 0) *value = 1;
    __syncthreads();
    p.out[at] = p.in[at] + *value;
    if (!races) __syncthreads();
    if (t == 33) *value = 2;
}

// The writer itself is the last that read.
__device__ void read_and_write(const PlantedMemory& p) {
    SharedMemory memory;
    float* value = memory.take<float>(1);
    uint32_t t = threadIdx.x;
    if (t == 0) *value = p.in[0];
    __syncthreads();
    float x = t % 63 == 0 ? *value : 0.0f;
    if (t == 63) *value = x + 1;
}

// The same by blocks.
__device__ void read_and_write_global(const PlantedMemory& p) {
    if (threadIdx.x != 0) return;
    float x = p.out[0];
    if (blockIdx.x == 2) p.out[0] = x + 1;
}

} // namespace

KERNEL(planted_turn, PlantedMemory, THREADS) { turn<Bug::None>(p); }
KERNEL(planted_no_barrier, PlantedMemory, THREADS) { turn<Bug::NoBarrier>(p); }
KERNEL(planted_no_barrier_before_reuse, PlantedMemory, THREADS) { turn<Bug::NoBarrierBeforeReuse>(p); }
KERNEL(planted_past_shared, PlantedMemory, THREADS) { turn<Bug::PastShared>(p); }
KERNEL(planted_between_pieces, PlantedMemory, THREADS) { turn<Bug::BetweenPieces>(p); }
KERNEL(planted_read_past_global, PlantedMemory, THREADS) { turn<Bug::ReadPastGlobal>(p); }
KERNEL(planted_write_past_global, PlantedMemory, THREADS) { turn<Bug::WritePastGlobal>(p); }
KERNEL(planted_write_parameters, PlantedMemory, THREADS) { turn<Bug::WriteParameters>(p); }
KERNEL(planted_same_output, PlantedMemory, THREADS) { turn<Bug::SameOutput>(p); }
KERNEL(planted_output_of_next_block, PlantedMemory, THREADS) { turn<Bug::OutputOfNextBlock>(p); }
KERNEL(planted_unwritten, PlantedMemory, THREADS) { turn<Bug::Unwritten>(p); }
KERNEL(planted_misaligned, PlantedMemory, THREADS) { turn<Bug::Misaligned>(p); }
KERNEL(planted_neighbours, PlantedMemory, THREADS) { neighbours<WarpBug::None>(p); }
KERNEL(planted_no_syncwarp, PlantedMemory, THREADS) { neighbours<WarpBug::NoSync>(p); }
KERNEL(planted_shuffle_instead_of_syncwarp, PlantedMemory, THREADS) { neighbours<WarpBug::ShuffleInstead>(p); }
KERNEL(planted_halves, PlantedMemory, THREADS) { halves<false>(p); }
KERNEL(planted_half_of_a_neighbour, PlantedMemory, THREADS) { halves<true>(p); }
KERNEL(planted_broadcast, PlantedMemory, THREADS) { broadcast<false>(p); }
KERNEL(planted_write_under_readers, PlantedMemory, THREADS) { broadcast<true>(p); }
KERNEL(planted_reader_writes, PlantedMemory, THREADS) { read_and_write(p); }
KERNEL(planted_reading_block_writes, PlantedMemory, THREADS) { read_and_write_global(p); }
