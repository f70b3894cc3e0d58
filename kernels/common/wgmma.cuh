// Tensor-core products of a warpgroup (four warps, the first a multiple of four) from shared memory, on sm_90a: the
// only file with their PTX (ISA 8.0, "wgmma").
//
// They run by themselves: what they add to and read from must be left alone until a wait. Before the first of a
// group, wgmma_fence orders it after what the threads did with the registers.
#pragma once

#include "tensor_copy.cuh"

// How the tensor cores are told of a tile in boxes of copy_box. A box of [rows of A or B^T, k] lies along k
// (K-major); `k_step` is added for each 16 of it. Boxes of [k, columns of B] lie along the columns (MN-major), 64
// in each, `box_bytes` from one to the next. PTX ISA, "Matrix descriptor" and "Strides"; and CuTe's canonical
// layouts for 128 bytes of swizzle, T = 8 of bf16: ((8, m), (T, 2)) : ((8 T, SBO), (1, T)) and
// ((T, 8, m), (8, k)) : ((1, T, LBO), (8 T, SBO)). SBO goes from 8 rows to the next in both.
__device__ __forceinline__ uint64_t describe_tile(const void* tile, uint32_t box_bytes) {
    constexpr uint64_t SWIZZLE_128 = 1ull << 62;
    return SWIZZLE_128 | static_cast<uint64_t>(SWIZZLE_BYTES / 16) << 32 | static_cast<uint64_t>(box_bytes / 16) << 16 |
           shared_address(tile) / 16;
}

template <bool ROWS>
constexpr uint64_t k_step = ROWS ? 16 * BOX_ROW_BYTES / 16 : 16 * 2 / 16;

#ifndef LORB_EMULATE
#define REGISTERS_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define REGISTERS_32                                                                         \
    REGISTERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
                "%23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_40 REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define REGISTERS_64                                                                               \
    REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_72 REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define REGISTERS_128                                                                                  \
    REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
                 "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, "    \
                 "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, "       \
                 "%114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FLOATS_8(d, i)                                                                                      \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define FLOATS_32(d, i) FLOATS_8(d, i), FLOATS_8(d, i + 8), FLOATS_8(d, i + 16), FLOATS_8(d, i + 24)
#define FLOATS_128(d) FLOATS_32(d, 0), FLOATS_32(d, 32), FLOATS_32(d, 64), FLOATS_32(d, 96)
// Of the functions below: the operands a, b, ROWS and add follow the floats, by these numbers.
#define WGMMA(n, registers, of_a, of_b, of_rows, of_add, ...)                                    \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" of_add ", 0;\n"                       \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" registers           \
                 "}, %" of_a ", %" of_b ", add, 1, 1, 0, %" of_rows ";\n}"                       \
                 : __VA_ARGS__                                                                   \
                 : "l"(a), "l"(b), "n"(ROWS), "r"(static_cast<uint32_t>(add)))
#define WGMMA_OF_REGISTERS(n, registers, operands, ...)                                          \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" registers           \
                 "}, " operands ", 1, 1, 1, 1;"                                                  \
                 : __VA_ARGS__                                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#endif

// D = A B, or where `add` D += A B, for A [64, 16] and B [16, N] of bf16, both in shared memory, D [64, N] of float.
// B is [N, 16] there, or with ROWS [16, N]. d has N / 2 floats. Warp w of the group has rows 16 w.. of D: with group = lane / 4 and pair = lane % 4,
// d[4 j ..+1] are D[group][8 j + 2 pair ..+1] of those, d[4 j + 2 ..+1] the same of row group + 8.
template <uint32_t N, bool ROWS>
__device__ __forceinline__ void wgmma(float* d, uint64_t a, uint64_t b, bool add) {
    static_assert(N == 16 || N == 64 || N == 80 || N == 128 || N == 144 || N == 256, "those in use");
#ifdef LORB_EMULATE
    emulate::wgmma(d, N, nullptr, a, b, ROWS, add);
#else
    if constexpr (N == 16) {
        WGMMA("16", REGISTERS_8, "8", "9", "10", "11", FLOATS_8(d, 0));
    } else if constexpr (N == 64) {
        WGMMA("64", REGISTERS_32, "32", "33", "34", "35", FLOATS_32(d, 0));
    } else if constexpr (N == 80) {
        WGMMA("80", REGISTERS_40, "40", "41", "42", "43", FLOATS_32(d, 0), FLOATS_8(d, 32));
    } else if constexpr (N == 128) {
        WGMMA("128", REGISTERS_64, "64", "65", "66", "67", FLOATS_32(d, 0), FLOATS_32(d, 32));
    } else if constexpr (N == 144) {
        WGMMA("144", REGISTERS_72, "72", "73", "74", "75", FLOATS_32(d, 0), FLOATS_32(d, 32), FLOATS_8(d, 64));
    } else {
        WGMMA("256", REGISTERS_128, "128", "129", "130", "131", FLOATS_128(d));
    }
#endif
}

// D += A B with A in registers, laid out as that of mma_16x8x16 with each warp's rows, and B [16, N].
template <uint32_t N>
__device__ __forceinline__ void wgmma(float* d, const uint32_t (&a)[4], uint64_t b) {
    static_assert(N == 64 || N == 128 || N == 256, "those in use");
#ifdef LORB_EMULATE
    emulate::wgmma(d, N, a, 0, b, true, true);
#else
    if constexpr (N == 64) {
        WGMMA_OF_REGISTERS("64", REGISTERS_32, "{%32, %33, %34, %35}, %36", FLOATS_32(d, 0));
    } else if constexpr (N == 128) {
        WGMMA_OF_REGISTERS("128", REGISTERS_64, "{%64, %65, %66, %67}, %68", FLOATS_32(d, 0), FLOATS_32(d, 32));
    } else {
        WGMMA_OF_REGISTERS("256", REGISTERS_128, "{%128, %129, %130, %131}, %132", FLOATS_128(d));
    }
#endif
}

#ifndef LORB_EMULATE
#undef REGISTERS_8
#undef REGISTERS_32
#undef REGISTERS_40
#undef REGISTERS_64
#undef REGISTERS_72
#undef REGISTERS_128
#undef FLOATS_8
#undef FLOATS_32
#undef FLOATS_128
#undef WGMMA
#undef WGMMA_OF_REGISTERS
#endif

__device__ __forceinline__ void wgmma_fence() {
#ifdef LORB_EMULATE
    emulate::wgmma_fence();
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Ends a group of products.
__device__ __forceinline__ void wgmma_commit() {
#ifdef LORB_EMULATE
    emulate::wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Until all but the newest `pending` groups are done.
template <int pending>
__device__ __forceinline__ void wgmma_wait() {
#ifdef LORB_EMULATE
    emulate::wgmma_wait(pending);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
}

// Keeps the compiler from using sums before the wait that it stands behind: it knows of no link between the two.
template <uint32_t n>
__device__ __forceinline__ void wgmma_settled([[maybe_unused]] float (&d)[n]) {
#ifndef LORB_EMULATE
#pragma unroll
    for (uint32_t i = 0; i < n; i++) asm volatile("" : "+f"(d[i])::"memory");
#endif
}
