// The device memory that kernels may touch.
#pragma once

#include <cstdint>
#include <map>

#include "shadow.h"

namespace emulate {

struct Allocation {
    uintptr_t at;
    size_t bytes;
    Shadow shadow;

    bool holds(uintptr_t from, size_t count) const { return from >= at && count <= bytes && from - at <= bytes - count; }
};

class Memory {
public:
    void add(uintptr_t at, size_t bytes) {
        all.insert_or_assign(at, Allocation{at, bytes, Shadow(bytes)});
        forget();
    }

    void remove(uintptr_t at) {
        all.erase(at);
        forget();
    }

    void written_by_host(uintptr_t at, size_t bytes) {
        if (Allocation* in = find(at, bytes)) in->shadow.forget_writes(at - in->at, bytes);
    }

    // The allocation that holds these bytes, or null.
    Allocation* find(uintptr_t at, size_t bytes) {
        Allocation*& recent = recents[at / PAGE % RECENTS];
        if (recent != nullptr && recent->holds(at, bytes)) return recent;
        auto after = all.upper_bound(at);
        if (after == all.begin()) return nullptr;
        Allocation& last = std::prev(after)->second;
        if (!last.holds(at, bytes)) return nullptr;
        recent = &last;
        return recent;
    }

    // The one that starts or ends next to `at`, or null where there is none at all.
    const Allocation* nearest(uintptr_t at) const {
        auto after = all.upper_bound(at);
        if (after == all.begin()) return after == all.end() ? nullptr : &after->second;
        const Allocation& before = std::prev(after)->second;
        if (after == all.end()) return &before;
        uintptr_t end = before.at + before.bytes;
        return at < end || at - end <= after->first - at ? &before : &after->second;
    }

private:
    static constexpr size_t PAGE = 256, RECENTS = 256;

    void forget() {
        for (Allocation*& recent : recents) recent = nullptr;
    }

    std::map<uintptr_t, Allocation> all;
    Allocation* recents[RECENTS] = {};
};

} // namespace emulate
