// CUDA's names on the CPU: a block's threads are fibers of one thread of the host, switched where they wait
// for each other.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __forceinline__ inline

// By value, and never out of line: instrumented code must not share them with code that is not.
template <class T>
[[gnu::always_inline]] inline T max(T a, T b) {
    return a < b ? b : a;
}
template <class T>
[[gnu::always_inline]] inline T min(T a, T b) {
    return b < a ? b : a;
}

namespace emulate {

struct Index {
    uint32_t x, y, z;
};

// Of the fiber that runs.
Index thread_index();
Index block_index();
Index block_size();
Index grid_size();

// A place in the source.
struct Site {
    const char* file;
    int line;
};

// What the emulated driver writes where the real one describes matrices to copy boxes of. Has a twin in ../src/lib.rs.
struct TensorMap {
    uint64_t magic, address; // of bf16
    uint32_t columns, rows, matrices, stride; // elements from row to row
    uint32_t box_rows, unused;
    static constexpr uint64_t MAGIC = 0x6c6f72622d626f78;
};

// One value of each lane, of at most this many bytes.
constexpr size_t SLOT = 64;
struct Slots {
    unsigned char lane[32][SLOT];
};

void block_sync(Site site);
// Grids run one after the other; but what a thread does before this must be right if the grid before has not ended.
void wait_for_last_grid();
// Gives every lane of the warp what each of them gave, once all have. `operation` is what they all must be in.
const Slots& warp_exchange(const void* value, size_t bytes, const char* operation);
void lane_exchange(void* other, const void* value, size_t bytes, uint32_t lane, const char* operation);
void warp_sync();
void all_lanes(uint32_t mask);

// Twins of the PTX in kernels/common: the same layouts, the same waiting.
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed);
void copy_async(void* shared, const void* global, size_t bytes, bool valid);
void copy_async_commit();
void copy_async_wait(int pending);

uint32_t shared_offset(const void* at);
void mbarrier_init(void* barrier, uint32_t arrivals);
void mbarrier_arrive(void* barrier, uint32_t bytes);
void mbarrier_wait(void* barrier, uint32_t parity);
void fence_proxy_async();
void copy_box(void* shared, const void* map, uint32_t column, uint32_t row, uint32_t matrix, void* barrier);
void wgmma(float* d, uint32_t n, const uint32_t* a, uint64_t a_tile, uint64_t b_tile, bool rows, bool add);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);

unsigned char* shared_arena();
void shared_taken(uint32_t begin, uint32_t end);

using Entry = void (*)(const void* parameters);
struct Registration {
    Registration(const char* name, uint32_t parameter_bytes, uint32_t threads, Entry entry);
};

template <class T>
T lane_value(T value, uint32_t lane, const char* operation) {
    static_assert(sizeof(T) <= SLOT);
    T other;
    lane_exchange(&other, &value, sizeof(T), lane, operation);
    return other;
}

} // namespace emulate

#define EMULATED_KERNEL(name, Parameters, threads, before)                                                 \
    static void name##_body(const Parameters& p);                                                          \
    static void name##_entry(const void* p) {                                                              \
        before;                                                                                            \
        name##_body(*static_cast<const Parameters*>(p));                                                   \
    }                                                                                                      \
    static const emulate::Registration name##_registered{#name, sizeof(Parameters), threads, name##_entry}; \
    static void name##_body(const Parameters& p)
#define KERNEL(name, Parameters, threads) EMULATED_KERNEL(name, Parameters, threads, emulate::wait_for_last_grid())
#define KERNEL_AHEAD(name, Parameters, threads, blocks) EMULATED_KERNEL(name, Parameters, threads, )

#define threadIdx (emulate::thread_index())
#define blockIdx (emulate::block_index())
#define blockDim (emulate::block_size())
#define gridDim (emulate::grid_size())

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    emulate::block_sync({file, line});
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
    emulate::all_lanes(mask);
    emulate::warp_sync();
}

template <class T>
T __shfl_sync(uint32_t mask, T value, int lane) {
    emulate::all_lanes(mask);
    return emulate::lane_value(value, lane, "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int distance) {
    emulate::all_lanes(mask);
    return emulate::lane_value(value, threadIdx.x % 32 ^ distance, "__shfl_xor_sync");
}

inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; } // compiled without contraction
inline float __uint_as_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
