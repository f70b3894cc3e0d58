// Twins of the PTX in kernels/common.

#include "device.h"

namespace emulate {

void wait_for_last_grid() { device->fibers[device->running].waited = true; }

void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const Slots& slots = warp_exchange(own, sizeof own, "mma");
    // Registers 0 to 3 of a lane are its part of A, 4 and 5 its part of B.
    auto of = [&](uint32_t lane, uint32_t i) {
        uint32_t pair;
        std::memcpy(&pair, slots.lane[lane] + 4 * i, sizeof pair);
        return pair;
    };
    auto half = [](uint32_t pair, uint32_t upper) {
        return __uint_as_float(upper ? pair & 0xffff0000u : pair << 16);
    };
    uint32_t lane = threadIdx.x % 32;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (uint32_t k = 0; k < 16; k++) {
            uint32_t pair = k % 8 / 2, upper = k % 2;
            float left = half(of(row % 8 * 4 + pair, row / 8 + k / 8 * 2), upper);
            float right = half(of(column * 4 + pair, 4 + k / 8), upper);
            d[i] += left * right;
        }
    }
}

// Each lane reads its row when it arrives: what others write once they are past the instruction is not seen.
void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed) {
    auto at = reinterpret_cast<uintptr_t>(row);
    if (!device->is_shared(row)) device->fail("ldmatrix of what is not shared memory: " + device->place(at));
    if (at % 16 != 0) device->fail("ldmatrix of a row that is not aligned to 16 bytes: " + device->place(at));
    touch<Access::ReadAnything>(row, 16);
    const Slots& slots = warp_exchange(row, 16, transposed ? "ldmatrix.trans" : "ldmatrix");
    uint32_t lane = threadIdx.x % 32;
    for (uint32_t m = 0; m < 4; m++) {
        auto element = [&](uint32_t i, uint32_t j) {
            uint16_t bits;
            std::memcpy(&bits, slots.lane[8 * m + i] + 2 * j, sizeof bits);
            return static_cast<uint32_t>(bits);
        };
        uint32_t i = lane / 4, j = lane % 4 * 2;
        r[m] = transposed ? element(j, i) | element(j + 1, i) << 16 : element(i, j) | element(i, j + 1) << 16;
    }
}

} // namespace emulate
