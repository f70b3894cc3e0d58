// The primitives alone: each block is one warp with operands of its own.

#include "common/mma.cuh"

struct PlantedMma {
    const uint32_t* a; // [32, 4], the registers of each lane
    const uint32_t* b; // [blocks, 32, 2]
    float* d;          // [blocks, 32, 4], added to
};

KERNEL(planted_mma, PlantedMma, WARP) {
    uint32_t lane = threadIdx.x, at = blockIdx.x * WARP + lane;
    uint32_t a[4], b[2];
    float d[4];
    for (uint32_t i = 0; i < 4; i++) a[i] = p.a[4 * lane + i];
    for (uint32_t i = 0; i < 2; i++) b[i] = p.b[2 * at + i];
    for (uint32_t i = 0; i < 4; i++) d[i] = p.d[4 * at + i];
    mma_16x8x16(d, a, b);
    for (uint32_t i = 0; i < 4; i++) p.d[4 * at + i] = d[i];
}

struct PlantedLdmatrix {
    const uint16_t* matrices; // [4, 8, 8]
    uint32_t* r;              // [32, 4]
    uint32_t transposed;
    uint32_t skewed; // by how many elements each row's start is off
};

KERNEL(planted_ldmatrix, PlantedLdmatrix, WARP) {
    SharedMemory memory;
    bf16* rows = memory.take<bf16>(32 * 16);
    uint32_t lane = threadIdx.x;
    // Every other 16 bytes, in another order than the matrices': only the addresses say where a row lies.
    uint32_t at = (lane * 5 + 3) % 32 * 16 + p.skewed;
    for (uint32_t j = 0; j < 8; j++) rows[at + j].bits = p.matrices[8 * lane + j];
    __syncwarp();
    uint32_t r[4];
    if (p.transposed) {
        ldmatrix_x4_trans(r, rows + at);
    } else {
        ldmatrix_x4(r, rows + at);
    }
    for (uint32_t i = 0; i < 4; i++) p.r[4 * lane + i] = r[i];
}

// A fragment of what is not shared memory.
KERNEL(planted_ldmatrix_of_global, PlantedLdmatrix, WARP) {
    uint32_t r[4];
    ldmatrix_x4(r, reinterpret_cast<const bf16*>(p.matrices) + 8 * threadIdx.x);
    for (uint32_t i = 0; i < 4; i++) p.r[4 * threadIdx.x + i] = r[i];
}
