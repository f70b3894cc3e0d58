// What every kernel starts from: how it is declared, its types, and its shared memory.
//
// A kernel is `KERNEL(name, Parameters, threads) { … }` and reads its one parameter struct as `p`; the struct
// has a #[repr(C)] twin in Rust. Everything else is plain CUDA. With LORB_EMULATE the same files are C++:
// emulate.h gives CUDA's names their meaning there.
#pragma once

#include <cstdint>

#ifdef LORB_EMULATE
#include "emulate.h"
#else
#include <cuda_bf16.h>
#endif

// Where the driver lets a grid start before the one before it has ended (programmatic dependent launch, sm_90): until
// that one has ended and what it wrote is there to be read; then the next may start. Since each grid waits so, all
// before the last have ended as well. Elsewhere nothing starts early.
__device__ __forceinline__ void wait_for_last_grid() {
#ifdef LORB_EMULATE
    emulate::wait_for_last_grid();
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Has the parameters fetched, line by line, before the wait: the first read of each takes half a microsecond.
template <class Parameters>
__device__ __forceinline__ void fetch_parameters([[maybe_unused]] const Parameters& p) {
#if !defined(LORB_EMULATE) && __CUDA_ARCH__ >= 900
    constexpr uint32_t LINE = 64;
    auto words = reinterpret_cast<const uint32_t*>(&p);
#pragma unroll
    for (uint32_t i = 0; i < sizeof(Parameters) / 4; i += LINE / 4) asm volatile("" ::"r"(words[i]));
#endif
}

#ifndef LORB_EMULATE
// A kernel that waits itself, once it has read what no kernel writes: what the host copied to the device, as weights,
// numbers of rows and offsets are. `blocks` of it share the registers of a multiprocessor.
#define KERNEL_AHEAD(name, Parameters, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Parameters p)

// At least one block a multiprocessor: without that word, the compiler spills some kernels to keep 64 registers.
#define KERNEL(name, Parameters, threads)                             \
    __device__ __forceinline__ void name##_body(const Parameters& p); \
    KERNEL_AHEAD(name, Parameters, threads, 1) {                      \
        fetch_parameters(p);                                          \
        wait_for_last_grid();                                         \
        name##_body(p);                                               \
    }                                                                 \
    __device__ __forceinline__ void name##_body(const Parameters& p)
#endif

#include "tiles.h" // constants, written from src/device/cuda/tiles.rs

// 2^32 - 1: all lanes of a warp.
constexpr uint32_t ALL_LANES = 0xffffffffu;
constexpr uint32_t WARP = 32;

// A count of rows: what the memory has room for, and, where the count is not known when the kernel is
// launched (a captured graph), where it is found then. Rows from count() on hold anything.
struct Rows {
    const uint32_t* live; // or null: all
    uint32_t capacity;
    uint32_t unused;

    __device__ uint32_t count() const { return live == nullptr ? capacity : min(*live, capacity); }
};

// The block's dynamic shared memory, given out piece by piece; the launch says how much there is.
struct SharedMemory {
    uint32_t used = 0;

    template <class T>
    __device__ T* take(uint32_t count) {
        used = (used + 127) / 128 * 128;
        T* piece = reinterpret_cast<T*>(arena() + used);
        used += count * static_cast<uint32_t>(sizeof(T));
#ifdef LORB_EMULATE
        emulate::shared_taken(used - count * static_cast<uint32_t>(sizeof(T)), used);
#endif
        return piece;
    }

    __device__ static unsigned char* arena() {
#ifdef LORB_EMULATE
        return emulate::shared_arena();
#else
        extern __shared__ __align__(1024) unsigned char bytes[];
        return bytes;
#endif
    }
};
