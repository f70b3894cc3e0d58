// Who last touched each byte of memory, and whether the next to touch it may do so at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace emulate {

// An access: the epoch in which it was made, the thread of the block, the round of its warp, and which of the
// bytes of a cell. Epochs are counted in the upper half, over a device's life: a block starts one, and every
// block barrier.
// Within an epoch, each __syncwarp starts a round of its warp. 0 is no access.
struct Record {
    uint64_t bits;

    static constexpr uint32_t ROUNDS = 1u << 20;

    static Record of(uint64_t epoch, uint32_t thread, uint32_t round) { return {epoch | thread << 22 | round << 2}; }
    Record bytes(uint32_t mask) const { return {bits | mask}; }

    bool before(uint64_t epoch) const { return bits < epoch; }
    uint32_t thread() const { return static_cast<uint32_t>(bits) >> 22; }
    uint32_t warp() const { return thread() / 32; }
    uint32_t round() const { return bits >> 2 & (ROUNDS - 1); }
    bool touches(Record r) const { return (bits & r.bits & 3) != 0; }
    bool same_but_bytes(Record r) const { return bits >> 2 == r.bits >> 2; }
};

// Of two bytes of memory. One write is enough to remember: an earlier one was in order with it, or was
// reported. Of the reads, the last is kept, and one more that says the most about who else read.
struct Cell {
    Record write, read, other_read;
    Record copy; // an asynchronous copy to here that has not landed
};
constexpr size_t CELL = 2;

constexpr uint64_t EPOCH = 1ull << 32;

// The epochs that order what a block does.
struct Clock {
    uint64_t launch, block; // where they started
    uint64_t now;
};

// Whether a record is of another block of this launch.
inline bool elsewhere(Record r, const Clock& clock) { return r.before(clock.block) && !r.before(clock.launch); }

// Whether a thread that makes an access now may do so at the same time as `earlier`. Blocks share no shared
// memory.
template <bool is_shared>
inline bool concurrent(Record earlier, Record now, const Clock& clock) {
    if (earlier.before(clock.now)) return !is_shared && elsewhere(earlier, clock) && earlier.touches(now);
    if (earlier.thread() == now.thread() || !earlier.touches(now)) return false;
    return earlier.warp() != now.warp() || earlier.round() == now.round();
}

inline void note_write(Cell& cell, Record now) {
    cell.write = cell.write.same_but_bytes(now) ? Record{cell.write.bits | now.bits} : now;
}

template <bool is_shared>
inline void note_read(Cell& cell, Record now, const Clock& clock) {
    Record last = cell.read, other = cell.other_read;
    if (last.same_but_bytes(now)) {
        cell.read.bits |= now.bits;
        return;
    }
    cell.read = now;
    // A reader of another block conflicts with whoever writes in this launch, one of another warp with this
    // warp's writers until the next barrier: neither gives way to a closer one.
    if (!is_shared && elsewhere(other, clock)) return;
    if (last.before(clock.now)) {
        if (!is_shared && elsewhere(last, clock)) cell.other_read = last;
        return;
    }
    if (last.thread() == now.thread()) return;
    if (other.before(clock.now) || other.warp() == now.warp()) cell.other_read = last;
}

// The cells of a piece of memory, made when first needed.
class Shadow {
public:
    explicit Shadow(size_t bytes) : bytes(bytes) {}

    Cell* cells() {
        // calloc: pages cost nothing until they are touched, and zero is no access.
        if (!all) all.reset(static_cast<Cell*>(std::calloc(bytes / CELL + 1, sizeof(Cell))));
        if (!all) std::abort();
        return all.get();
    }

    // Something else than a kernel has written here.
    void forget_writes(size_t offset, size_t count) {
        for (size_t i = offset / CELL; all && count > 0 && i <= (offset + count - 1) / CELL; i++) all[i].write = {0};
    }

private:
    struct Free {
        void operator()(Cell* cells) const { std::free(cells); }
    };
    size_t bytes;
    std::unique_ptr<Cell[], Free> all;
};

} // namespace emulate
