// Twins of cp.async. A copy is under way from its issue to the wait of its thread: until then nobody may touch
// where it goes. It lands at either end, by the order of the threads: what depends on the moment shows.

#include "device.h"

namespace emulate {

void Device::issue(Copy copy) {
    auto aligned = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; };
    if (!is_shared(copy.to)) {
        fail("cp.async to what is not shared memory: " + place(reinterpret_cast<uintptr_t>(copy.to)));
    }
    for (const void* end : {static_cast<const void*>(copy.to), copy.from}) {
        if (!aligned(end)) {
            fail("cp.async of what is not aligned to 16 bytes: " + place(reinterpret_cast<uintptr_t>(end)));
        }
    }
    if (copy.from != nullptr) emulate::touch<Access::Read>(copy.from, copy.bytes);
    emulate::touch<Access::Write>(copy.to, copy.bytes);

    Fiber& fiber = fibers[running];
    copy.group = fiber.groups;
    copy.epoch = clock.now;
    copy.late = order == Order::Forward || (order == Order::Random && random.next() % 2 == 0);
    if (copy.late) {
        std::memset(copy.to, 0xff, copy.bytes);
    } else {
        land(copy);
    }
    Cell* cells = shared_shadow.cells() + (copy.to - shared) / CELL;
    for (size_t i = 0; i < copy.bytes / CELL; i++) cells[i].copy = me;
    fiber.copies.push_back(copy);
}

void Device::land(const Copy& copy) {
    if (copy.from == nullptr) {
        std::memset(copy.to, 0, copy.bytes);
    } else {
        std::memcpy(copy.to, copy.from, copy.bytes);
    }
}

void Device::end_group() { fibers[running].groups++; }

void Device::wait_for_groups(uint32_t pending) {
    Fiber& fiber = fibers[running];
    size_t kept = 0;
    for (const Copy& copy : fiber.copies) {
        if (copy.group + pending >= fiber.groups) {
            fiber.copies[kept++] = copy;
            continue;
        }
        // Its end is a write of this thread, now.
        Cell* cells = shared_shadow.cells() + (copy.to - shared) / CELL;
        for (size_t i = 0; i < copy.bytes / CELL; i++) {
            cells[i].copy = {0};
            cells[i].write = me.bytes(3);
        }
        if (copy.from != nullptr) source_is_unchanged(copy);
        if (copy.late) land(copy);
    }
    fiber.copies.resize(kept);
}

// A barrier may order a write to a source after the issue of its copy, and not before its reading.
void Device::source_is_unchanged(const Copy& copy) {
    emulate::touch<Access::Read>(copy.from, copy.bytes);
    auto at = reinterpret_cast<uintptr_t>(copy.from);
    Allocation* in = memory.find(at, copy.bytes);
    if (in == nullptr) return; // a constant
    const Cell* cells = in->shadow.cells() + (at - in->at) / CELL;
    for (size_t i = 0; i < copy.bytes / CELL; i++) {
        if (!cells[i].write.before(copy.epoch + EPOCH)) race(Access::Read, at + i * CELL, cells[i].write, " wrote while a copy was under way");
    }
}

void copy_async(void* shared, const void* global, size_t bytes, bool valid) {
    Copy copy{};
    copy.to = static_cast<unsigned char*>(shared);
    copy.from = valid ? global : nullptr;
    copy.bytes = static_cast<uint32_t>(bytes);
    device->issue(copy);
}

void copy_async_commit() { device->end_group(); }

void copy_async_wait(int pending) { device->wait_for_groups(static_cast<uint32_t>(pending)); }

} // namespace emulate
