// The twin of cp.async.bulk.tensor. A copy lands at once, when no thread can run, or at any moment between, by the
// order of the threads; until then its place holds NaN.

#include "device.h"

#include <algorithm>

namespace emulate {
namespace {

constexpr uint32_t BOX_COLUMNS = 64, ROW_BYTES = 128, SWIZZLE_BYTES = 1024;

uint32_t box_bytes(const TensorMap& map) { return map.box_rows * ROW_BYTES; }

// Of row `row`, or null where there is none.
const unsigned char* row_of(const TensorMap& map, uint32_t row, uint32_t matrix) {
    if (row >= map.rows || matrix >= map.matrices) return nullptr;
    return reinterpret_cast<const unsigned char*>(map.address) +
           2 * (static_cast<size_t>(matrix) * map.rows + row) * map.stride;
}

// How many bytes of a box's row lie within the matrix.
size_t inside(const TensorMap& map, uint32_t column) {
    return column < map.columns ? 2 * std::min(BOX_COLUMNS, map.columns - column) : 0;
}

} // namespace

void Device::copy_box(unsigned char* to, const void* from, uint32_t column, uint32_t row, uint32_t matrix, void* at) {
    BoxCopy copy{};
    std::memcpy(&copy.map, from, sizeof copy.map);
    const TensorMap& map = copy.map;
    if (reinterpret_cast<uintptr_t>(from) % 128 != 0) fail("a tensor map that is not aligned to 128 bytes");
    if (map.magic != TensorMap::MAGIC) fail("a copy of a box by what is no tensor map");
    phases(at, "cp.async.bulk.tensor");
    see_fence(offset(at) / UNIT * UNIT, "a copy of a box uses the mbarrier at ");
    if (!is_shared(to) || offset(to) % SWIZZLE_BYTES != 0) {
        fail("a copy of a box to what is no multiple of 1024 bytes of shared memory: " + place(reinterpret_cast<uintptr_t>(to)));
    }
    find_piece(Access::Write, reinterpret_cast<uintptr_t>(to), box_bytes(map));
    copy.to = to;
    copy.column = column;
    copy.row = row;
    copy.matrix = matrix;
    copy.barrier = offset(at);
    copy.thread = running;
    for (uint32_t r = 0; r < map.box_rows; r++) {
        const unsigned char* source = row_of(map, row + r, matrix);
        size_t bytes = inside(map, column);
        if (source != nullptr && bytes > 0) emulate::touch<Access::Read>(source + 2 * column, bytes);
    }

    engines.copies.push_back(copy);
    uint32_t number = static_cast<uint32_t>(engines.copies.size());
    for (uint32_t unit = offset(to); unit < offset(to) + box_bytes(map); unit += UNIT) {
        uint32_t before = engines.landings[unit / UNIT];
        if (before != 0 && !engines.copies[before - 1].landed) see_landing(Access::Write, unit);
        see_readers(unit);
        see_fence(unit, "a copy of a box writes ");
        Cell* cells = shared_shadow.cells() + unit / CELL;
        for (size_t i = 0; i < UNIT / CELL; i++) {
            uintptr_t place = reinterpret_cast<uintptr_t>(shared) + unit + i * CELL;
            Record now = me.bytes(3);
            for (auto [earlier, did] : {std::pair{cells[i].write, " wrote"}, {cells[i].read, " read"}, {cells[i].other_read, " read"}}) {
                if (concurrent<true>(earlier, now, clock)) race(Access::Write, place, earlier, did);
            }
            // Of no thread that could race with others: landings say who may read.
            cells[i].write = Record{clock.block | 3};
        }
        engines.landings[unit / UNIT] = number;
    }
    std::memset(to, 0xff, box_bytes(map));
    engines.under_way.push_back(number - 1);
    if (order == Order::Reverse) land_any();
}

// Lets one of the copies under way land, if there are any.
bool Device::land_any() {
    auto& under_way = engines.under_way;
    if (!engines.used || under_way.empty()) return false;
    size_t i = order == Order::Random ? random.next() % under_way.size() : 0;
    uint32_t copy = under_way[i];
    under_way.erase(under_way.begin() + static_cast<ptrdiff_t>(i));
    land(copy);
    return true;
}

void Device::land(uint32_t number) {
    BoxCopy& copy = engines.copies[number];
    const TensorMap& map = copy.map;
    size_t bytes = inside(map, copy.column);
    for (uint32_t r = 0; r < map.box_rows; r++) {
        unsigned char line[ROW_BYTES] = {};
        const unsigned char* source = row_of(map, copy.row + r, copy.matrix);
        if (source != nullptr) std::memcpy(line, source + 2 * copy.column, bytes);
        for (uint32_t c = 0; c < ROW_BYTES / UNIT; c++) {
            std::memcpy(copy.to + r * ROW_BYTES + (c ^ r % 8) * UNIT, line + c * UNIT, UNIT);
        }
    }
    PhaseBarrier& barrier = engines.barriers[copy.barrier];
    copy.landed = true;
    copy.phase = barrier.phases;
    barrier.bytes -= box_bytes(map);
    end_phase(barrier);
}

void copy_box(void* shared, const void* map, uint32_t column, uint32_t row, uint32_t matrix, void* barrier) {
    device->copy_box(static_cast<unsigned char*>(shared), map, column, row, matrix, barrier);
}

} // namespace emulate
