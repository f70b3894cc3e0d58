// CUDA's names on the CPU: a block's threads are fibers of one thread of the host, switched where they wait
// for each other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __forceinline__ inline

using std::max;
using std::min;

namespace emulate {

struct Index {
    uint32_t x, y, z;
};

// Of the fiber that runs.
struct Thread {
    Index thread, block, block_size, grid_size;
};
const Thread& thread();

// One value of each lane, of at most this many bytes.
constexpr size_t SLOT = 64;
struct Slots {
    unsigned char lane[32][SLOT];
};

void block_sync();
// Gives every lane of the warp what each of them gave, once all have.
const Slots& warp_exchange(const void* value, size_t bytes);

// Twins of the PTX in kernels/common: the same layouts, the same waiting.
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed);
void copy_async(void* shared, const void* global, size_t bytes, bool valid);
void copy_async_commit();
void copy_async_wait(int pending);

unsigned char* shared_arena();
void shared_taken(uint32_t bytes);

using Entry = void (*)(const void* parameters);
struct Registration {
    Registration(const char* name, uint32_t parameter_bytes, uint32_t threads, Entry entry);
};

template <class T>
T lane_value(T value, uint32_t lane) {
    static_assert(sizeof(T) <= SLOT);
    T other;
    std::memcpy(&other, warp_exchange(&value, sizeof(T)).lane[lane % 32], sizeof(T));
    return other;
}

} // namespace emulate

#define KERNEL(name, Parameters, threads)                                                                  \
    static void name##_body(const Parameters& p);                                                          \
    static void name##_entry(const void* p) { name##_body(*static_cast<const Parameters*>(p)); }           \
    static const emulate::Registration name##_registered{#name, sizeof(Parameters), threads, name##_entry}; \
    static void name##_body(const Parameters& p)

#define threadIdx (emulate::thread().thread)
#define blockIdx (emulate::thread().block)
#define blockDim (emulate::thread().block_size)
#define gridDim (emulate::thread().grid_size)

inline void __syncthreads() { emulate::block_sync(); }
inline void __syncwarp(uint32_t = 0xffffffffu) { emulate::warp_exchange("", 1); }

template <class T>
T __shfl_sync(uint32_t, T value, int lane) {
    return emulate::lane_value(value, lane);
}
template <class T>
T __shfl_xor_sync(uint32_t, T value, int distance) {
    return emulate::lane_value(value, threadIdx.x % 32 ^ distance);
}

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
