// Twins of wgmma. A product happens at once or when it is waited for, by the order of the threads; until then its
// sums hold NaN. Each thread computes the elements that it holds.
//
// Stricter than the PTX ISA, every group of products starts with a fence, whether or not a thread touched registers.

#include "device.h"

#include <cmath>

namespace emulate {
namespace {

// A tile in shared memory as a matrix descriptor says, with 128 bytes of swizzle.
struct Tile {
    uint32_t start, leading, stride;
    bool rows; // [k, columns]: contiguous columns. Or [columns, k]: contiguous k

    Tile(uint64_t descriptor, bool rows)
        : start(16 * (descriptor & 0x3fff)), leading(16 * (descriptor >> 16 & 0x3fff)),
          stride(16 * (descriptor >> 32 & 0x3fff)), rows(rows) {}

    // Where element k of a row of A or a column of B lies.
    uint32_t at(uint32_t row, uint32_t k) const {
        uint32_t plain = rows ? start + row / 64 * leading + k / 8 * stride + k % 8 * 128 + row % 64 * 2
                              : start + row / 8 * stride + row % 8 * 128 + k * 2;
        // Address bits 4 to 6 are turned by bits 7 to 9.
        return plain ^ (plain >> 3 & 0x70);
    }
};

float value(const unsigned char* shared, uint32_t at) {
    uint16_t bits;
    std::memcpy(&bits, shared + at, sizeof bits);
    return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

} // namespace

void Device::issue(float* d, uint32_t n, const uint32_t* a, uint64_t a_tile, uint64_t b_tile, bool rows, bool add) {
    use_engines();
    auto& thread = engines.threads[running];
    uint32_t lane = running % 32, w = running / 32;
    struct Given {
        Issued issued;
        uint32_t a[4];
    } own{{a_tile, b_tile, n, rows, add, a != nullptr}, {}};
    if (a != nullptr) std::memcpy(own.a, a, sizeof own.a);
    static_assert(sizeof own <= SLOT);
    const Slots& slots = exchange(&own, sizeof own, "wgmma", false);
    for (const auto& slot : slots.lane) {
        Issued other;
        std::memcpy(&other, slot, sizeof other);
        if (!(other == own.issued)) fail("lanes of a warp issue different wgmma");
    }
    if (lane == 0) {
        auto& all = engines.issued[w / 4];
        size_t number = engines.issued_by_warp[w]++;
        if (number == all.size()) all.push_back(own.issued);
        if (!(all[number] == own.issued)) fail("warps of a warpgroup issue different wgmma");
    }
    if (!thread.fenced) fail("missing fence: a wgmma that starts a group with no wgmma.fence before");
    for (auto [tile, used] : {std::pair{a_tile, a == nullptr}, {b_tile, true}}) {
        if (!used) continue;
        if (tile >> 62 != 1) fail("the emulator knows only wgmma of tiles with 128 bytes of swizzle");
        if ((tile & 0x38) != 0 || (tile >> 49 & 7) != 0) fail("a wgmma of a tile that starts amid the swizzle");
    }

    Product product{};
    product.d = d;
    product.n = n;
    product.group = thread.groups;
    product.rows = rows;
    product.add = add;
    product.has_a = a != nullptr;
    product.a_tile = a_tile;
    product.b_tile = b_tile;
    if (product.has_a) {
        for (uint32_t i = 0; i < 2; i++) {
            for (uint32_t k = 0; k < 16; k++) {
                uint32_t registers[4];
                std::memcpy(registers, slots.lane[lane / 4 * 4 + k % 8 / 2] + offsetof(Given, a), sizeof registers);
                uint32_t pair = registers[i + k / 8 * 2];
                product.a[i][k] = __uint_as_float(k % 2 ? pair & 0xffff0000u : pair << 16);
            }
        }
    }
    read_by_products(product);
    auto [sums, first] = thread.sums.try_emplace(d);
    if (first) sums->second.assign(d, d + n / 2);
    if (!engines.late) multiply(product, sums->second);
    std::fill(d, d + n / 2, std::nanf(""));
    thread.products.push_back(product);
}

// Notes which units the thread's part of a product reads, and requires that they are there to be read.
void Device::read_by_products(const Product& product) {
    Tile a(product.a_tile, false), b(product.b_tile, product.rows);
    uint32_t lane = running % 32, first = running / 32 % 4 * 16 + lane / 4;
    for (uint32_t k = 0; k < 16 && !product.has_a; k += 8) {
        read_unit(a.at(first, k));
        read_unit(a.at(first + 8, k));
    }
    for (uint32_t j = 0; j < product.n; j += 8) {
        if (product.rows) {
            for (uint32_t k = 0; k < 16; k++) read_unit(b.at(j, k));
        } else {
            for (uint32_t k = 0; k < 16; k += 8) {
                for (uint32_t i = 0; i < 2; i++) read_unit(b.at(j + lane % 4 * 2 + i, k));
            }
        }
    }
}

void Device::read_unit(uint32_t at) {
    at = at / UNIT * UNIT;
    auto address = reinterpret_cast<uintptr_t>(shared) + at;
    if (at + UNIT > shared_bytes) stray(Access::Read, address, UNIT);
    if (engines.landings[at / UNIT] != 0) {
        see_landing(Access::Read, at);
    } else {
        emulate::touch<Access::Read>(shared + at, UNIT);
        see_fence(at, "a wgmma reads ");
    }
    engines.readers[running / 32][at / UNIT] = engines.threads[running].groups + 1;
}

void Device::multiply(const Product& product, std::vector<float>& sums) const {
    Tile a(product.a_tile, false), b(product.b_tile, product.rows);
    uint32_t lane = running % 32, first = running / 32 % 4 * 16 + lane / 4;
    float left[2][16];
    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t k = 0; k < 16; k++) {
            left[i][k] = product.has_a ? product.a[i][k] : value(shared, a.at(first + 8 * i, k));
        }
    }
    for (uint32_t j = 0; j < product.n / 4; j++) {
        uint32_t column = j / 2 * 8 + lane % 4 * 2 + j % 2;
        float* d = &sums[j / 2 * 4 + j % 2];
        if (!product.add) d[0] = d[2] = 0;
        for (uint32_t k = 0; k < 16; k++) {
            float right = value(shared, b.at(column, k));
            d[0] += left[0][k] * right;
            d[2] += left[1][k] * right;
        }
    }
}

void Device::fence_products() {
    use_engines();
    exchange("", 1, "wgmma.fence", false);
    engines.threads[running].fenced = true;
}

void Device::end_products() {
    use_engines();
    exchange("", 1, "wgmma.commit_group", false);
    engines.threads[running].groups++;
    engines.threads[running].fenced = false;
}

void Device::wait_for_products(uint32_t pending) {
    use_engines();
    auto& thread = engines.threads[running];
    size_t done = 0;
    while (done < thread.products.size() && thread.products[done].group + pending < thread.groups) {
        Product& product = thread.products[done++];
        if (engines.late) multiply(product, thread.sums[product.d]);
    }
    thread.products.erase(thread.products.begin(), thread.products.begin() + static_cast<ptrdiff_t>(done));
    for (auto sums = thread.sums.begin(); sums != thread.sums.end();) {
        bool busy = false;
        for (const Product& product : thread.products) busy = busy || product.d == sums->first;
        if (busy) {
            ++sums;
            continue;
        }
        std::copy(sums->second.begin(), sums->second.end(), sums->first);
        sums = thread.sums.erase(sums);
    }
    if (thread.groups > pending) {
        uint32_t& known = thread.known[running / 32];
        known = std::max(known, thread.groups - pending);
    }
    exchange("", 1, "wgmma.wait_group", false);
}

void wgmma(float* d, uint32_t n, const uint32_t* a, uint64_t a_tile, uint64_t b_tile, bool rows, bool add) {
    device->issue(d, n, a, a_tile, b_tile, rows, add);
}

void wgmma_fence() { device->fence_products(); }

void wgmma_commit() { device->end_products(); }

void wgmma_wait(int pending) { device->wait_for_products(static_cast<uint32_t>(pending)); }

} // namespace emulate
