// Every access of a kernel passes here: those of its own code, which is compiled with -fsanitize=thread and
// calls the functions at the end of this file, and those of the primitives' twins.

#include "device.h"

#ifdef __linux__
#include <link.h>
#endif

namespace emulate {
namespace {

struct Range {
    uintptr_t begin, end;
};

// The constants and variables of the program that the kernels are linked into.
Range program() {
    Range range{0, 0};
#ifdef __linux__
    auto visit = [](dl_phdr_info* object, size_t, void* range) {
        auto own = reinterpret_cast<uintptr_t>(&program);
        Range found{UINTPTR_MAX, 0};
        bool here = false;
        for (size_t i = 0; i < object->dlpi_phnum; i++) {
            const auto& segment = object->dlpi_phdr[i];
            if (segment.p_type != PT_LOAD) continue;
            uintptr_t begin = object->dlpi_addr + segment.p_vaddr, end = begin + segment.p_memsz;
            here = here || (own >= begin && own < end);
            found = {std::min(found.begin, begin), std::max(found.end, end)};
        }
        if (here) *static_cast<Range*>(range) = found;
        return here ? 1 : 0;
    };
    dl_iterate_phdr(visit, &range);
#else
    range.end = UINTPTR_MAX; // not known: any constant may be there
#endif
    return range;
}

bool is_constant(uintptr_t at, size_t bytes) {
    static const Range constants = program();
    return at >= constants.begin && at + bytes <= constants.end;
}

std::string hex(uintptr_t at) {
    char text[32];
    std::snprintf(text, sizeof text, "%#zx", static_cast<size_t>(at));
    return text;
}

const char* verb(Access access) { return access == Access::Write ? "writes " : "reads "; }

std::string bytes_text(size_t bytes) { return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes"); }

} // namespace

// Where `at` lies, or what is nearest to it.
std::string Device::place(uintptr_t at) const {
    uintptr_t offset = at - reinterpret_cast<uintptr_t>(shared);
    if (offset < MOST_SHARED) {
        std::string text = "byte " + std::to_string(offset) + " of shared memory";
        for (size_t i = 0; i < pieces.size(); i++) {
            if (offset < pieces[i].begin || offset >= pieces[i].end) continue;
            return text + " (" + std::to_string(offset - pieces[i].begin) + " of the " +
                   bytes_text(pieces[i].end - pieces[i].begin) + " of piece " + std::to_string(i) + ")";
        }
        return text + ", which no piece holds";
    }
    std::string text = hex(at);
    const Allocation* near = memory.nearest(at);
    if (near == nullptr) return text + ", and there is no device memory";
    if (at < near->at) {
        text += ", " + bytes_text(near->at - at) + " before";
    } else if (at >= near->at + near->bytes) {
        text += ", " + bytes_text(at - near->at - near->bytes) + " past";
    } else {
        text += ", byte " + std::to_string(at - near->at) + " of";
    }
    text += " the " + bytes_text(near->bytes) + " at " + hex(near->at);
    // Buffers have no names, but a field of the parameters most likely points to this one.
    size_t field = SIZE_MAX;
    for (size_t i = 0; i < parameters.size(); i++) {
        uint64_t to = parameters[i];
        if (to < near->at || to > at || to >= near->at + near->bytes) continue;
        if (field == SIZE_MAX || to > parameters[field]) field = i;
    }
    if (field != SIZE_MAX) {
        text += " (" + std::to_string(at - parameters[field]) + " from where the parameter at byte " +
                std::to_string(8 * field) + " points)";
    }
    return text;
}

void Device::stray(Access access, uintptr_t at, size_t bytes) {
    fail("stray access: " + std::string(verb(access)) + bytes_text(bytes) + " at " + place(at));
}

void Device::race(Access access, uintptr_t at, Record earlier, const char* did) {
    std::string text = verb(access);
    text += place(at) + ", which thread " + std::to_string(earlier.thread());
    if (earlier.before(clock.block)) {
        auto after = block_starts.upper_bound(earlier.bits);
        fail("conflict of blocks: " + text + " of block " + to_string(std::prev(after)->second) + did +
             " in the same launch");
    }
    bool warp = earlier.warp() == me.warp();
    fail("race: " + text + did + (warp ? " with no __syncwarp or barrier between" : " with no barrier between"));
}

void Device::under_way(Access access, uintptr_t at, Record copy) {
    fail("copy under way: " + std::string(verb(access)) + place(at) + ", where an asynchronous copy of thread " +
         std::to_string(copy.thread()) + " was not waited for");
}

void Device::uninitialised(uintptr_t at) {
    fail("uninitialised: reads " + place(at) + ", which nothing wrote in this block");
}

template <Access access, bool is_shared>
inline void Device::check(Cell* cells, uintptr_t at, size_t offset, size_t bytes) {
    size_t first = offset / CELL, last = (offset + bytes - 1) / CELL;
    bool whole = (offset | bytes) % CELL == 0;
    for (size_t i = first; i <= last; i++) {
        uint32_t mask = 3;
        if (!whole) {
            if (i == first && offset % CELL != 0) mask &= 2;
            if (i == last && (offset + bytes) % CELL != 0) mask &= 1;
        }
        Record now = me.bytes(mask);
        Cell& cell = cells[i];
        auto here = [&] { return at + (std::max(i * CELL, offset) - offset); };
        if (is_shared && !cell.copy.before(clock.block)) under_way(access, here(), cell.copy);
        if (concurrent<is_shared>(cell.write, now, clock)) race(access, here(), cell.write, " wrote");
        if (access == Access::Write) {
            if (concurrent<is_shared>(cell.read, now, clock)) race(access, here(), cell.read, " read");
            if (concurrent<is_shared>(cell.other_read, now, clock)) race(access, here(), cell.other_read, " read");
            note_write(cell, now);
        } else {
            if (is_shared && access == Access::Read && cell.write.before(clock.block)) uninitialised(here());
            note_read<is_shared>(cell, now, clock);
        }
    }
}

// Before a thread has waited for the grid before, it may read what no kernel has written.
template <Access access>
void Device::before_wait(const Cell* cells, uintptr_t at, size_t offset, size_t bytes) {
    const char* early = ", and has not waited for the grid before";
    if (access == Access::Write) fail("too early: writes " + place(at) + early);
    for (size_t i = offset / CELL; i <= (offset + bytes - 1) / CELL; i++) {
        if (cells[i].write.bits != 0) fail("too early: reads " + place(at) + ", which a kernel wrote" + early);
    }
}

// Makes the piece that holds these bytes of shared memory the recent one.
void Device::find_piece(Access access, uintptr_t at, size_t bytes) {
    uintptr_t offset = at - reinterpret_cast<uintptr_t>(shared);
    for (const Piece& piece : pieces) {
        if (offset < piece.begin || offset + bytes > piece.end) continue;
        recent = piece;
        return;
    }
    stray(access, at, bytes);
}

template <Access access>
inline void Device::touch(uintptr_t at, size_t bytes) {
    if (at - stack < STACK) return; // a variable of the thread's own
    uintptr_t offset = at - reinterpret_cast<uintptr_t>(shared);
    if (offset < MOST_SHARED) {
        if (offset < recent.begin || offset + bytes > recent.end) find_piece(access, at, bytes);
        if (engines.used) touch_beside_engines(access, at, bytes);
        return check<access, true>(shared_shadow.cells(), at, offset, bytes);
    }
    bool reads = access != Access::Write;
    if (reads && at - reinterpret_cast<uintptr_t>(parameters.data()) < 8 * parameters.size()) return;
    if (Allocation* in = memory.find(at, bytes)) {
        if (!fibers[running].waited) before_wait<access>(in->shadow.cells(), at, at - in->at, bytes);
        return check<access, false>(in->shadow.cells(), at, at - in->at, bytes);
    }
    if (!reads || !is_constant(at, bytes)) stray(access, at, bytes);
}

bool Device::is_shared(const void* at) const {
    return reinterpret_cast<uintptr_t>(at) - reinterpret_cast<uintptr_t>(shared) < shared_bytes;
}

template <Access access>
void touch(const void* at, size_t bytes) {
    // Also code that runs before main is instrumented.
    if (device != nullptr && bytes != 0) device->touch<access>(reinterpret_cast<uintptr_t>(at), bytes);
}
template void touch<Access::Read>(const void* at, size_t bytes);
template void touch<Access::ReadAnything>(const void* at, size_t bytes);
template void touch<Access::Write>(const void* at, size_t bytes);

} // namespace emulate

// What -fsanitize=thread calls before each access, and -fsanitize=alignment at one that is not aligned for its
// type.
extern "C" {

#define LORB_ACCESS(bytes)                                                                              \
    void __tsan_read##bytes(void* at) { emulate::touch<emulate::Access::Read>(at, bytes); }             \
    void __tsan_write##bytes(void* at) { emulate::touch<emulate::Access::Write>(at, bytes); }           \
    void __tsan_unaligned_read##bytes(void* at) { emulate::touch<emulate::Access::Read>(at, bytes); }   \
    void __tsan_unaligned_write##bytes(void* at) { emulate::touch<emulate::Access::Write>(at, bytes); }

LORB_ACCESS(1)
LORB_ACCESS(2)
LORB_ACCESS(4)
LORB_ACCESS(8)
LORB_ACCESS(16)

#undef LORB_ACCESS

void __tsan_read_range(void* at, size_t bytes) { emulate::touch<emulate::Access::Read>(at, bytes); }
void __tsan_write_range(void* at, size_t bytes) { emulate::touch<emulate::Access::Write>(at, bytes); }
void __tsan_init() {}

struct lorb_ubsan_mismatch {
    emulate::Site site; // file and line, then the column and what this does not use
};
void __ubsan_handle_type_mismatch_v1(const lorb_ubsan_mismatch* found, uintptr_t at) {
    if (emulate::device == nullptr) return;
    emulate::device->fail("misaligned address " + emulate::device->place(at) + ", at " + to_string(found->site));
}

} // extern "C"
