// Tensor-core products of a warp: the only file with their PTX. Layouts of the fragments: PTX ISA, "Matrix
// fragments for mma.m16n8k16" and "ldmatrix".
#pragma once

#include "bf16.cuh"

// D += A B for A [16, 16] and B [16, 8] of bf16, D [16, 8] of float. With group = lane / 4 and pair = lane % 4:
// a[0] holds A[group][2 pair ..+1], a[1] A[group + 8][2 pair ..], a[2] A[group][2 pair + 8 ..],
// a[3] A[group + 8][2 pair + 8 ..]; b[0] holds B[2 pair ..+1][group], b[1] B[2 pair + 8 ..][group];
// d[0..1] are D[group][2 pair ..+1], d[2..3] D[group + 8][2 pair ..+1]. The lower column or row of a pair lies
// in the lower half of a register.
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef LORB_EMULATE
    emulate::mma_16x8x16(d, a, b);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8x8 matrices of bf16 from shared memory. Lane 8 m + i gives the address of row i of matrix m, 16 bytes,
// aligned to them. r[m] holds row lane / 4, columns 2 (lane % 4) ..+1 of matrix m.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const bf16* row) {
#ifdef LORB_EMULATE
    emulate::ldmatrix_x4(r, row, false);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// The same of the transposed matrices: r[m] holds rows 2 (lane % 4) ..+1 of column lane / 4.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const bf16* row) {
#ifdef LORB_EMULATE
    emulate::ldmatrix_x4(r, row, true);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// Two floats as a register of a fragment, the first in its lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    return from_float<bf16>(low).bits | static_cast<uint32_t>(from_float<bf16>(high).bits) << 16;
}
