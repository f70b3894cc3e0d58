// Twins of mbarrier, and what orders the engines with the threads.

#include "device.h"

#include <algorithm>

namespace emulate {

// Where `at` lies in shared memory.
uint32_t Device::offset(const void* at) const {
    return static_cast<uint32_t>(static_cast<const unsigned char*>(at) - shared);
}

void Device::use_engines() {
    if (engines.used) return;
    uint32_t warp_count = threads / 32;
    engines = Engines();
    engines.used = true;
    engines.late = order == Order::Forward || (order == Order::Random && random.next() % 2 == 0);
    engines.landings.assign(shared_bytes / UNIT + 1, 0);
    engines.readers.assign(warp_count, std::vector<uint32_t>(shared_bytes / UNIT + 1, 0));
    engines.threads.resize(threads);
    for (auto& thread : engines.threads) thread.known.assign(warp_count, 0);
    engines.issued.resize((warp_count + 3) / 4);
    engines.issued_by_warp.assign(warp_count, 0);
}

void Device::init_phases(void* at, uint32_t arrivals) {
    use_engines();
    auto address = reinterpret_cast<uintptr_t>(at);
    if (!is_shared(at) || address % 8 != 0) fail("mbarrier.init of what is no 8 aligned bytes of shared memory: " + place(address));
    if (arrivals == 0) fail("mbarrier.init for no arrivals");
    emulate::touch<Access::Write>(at, 8);
    PhaseBarrier barrier{};
    barrier.arrivals = barrier.missing = arrivals;
    barrier.seen.assign(threads, 0);
    barrier.arrived.assign(threads / 32, 0);
    barrier.passed = barrier.arrived;
    engines.barriers[offset(at)] = barrier;
}

// The barrier at this place, once the running thread knows that it is one.
PhaseBarrier& Device::phases(void* at, const char* operation) {
    auto found = engines.barriers.find(offset(at));
    if (!is_shared(at) || found == engines.barriers.end()) {
        fail(std::string(operation) + " of what is no mbarrier: " + place(reinterpret_cast<uintptr_t>(at)));
    }
    emulate::touch<Access::Read>(at, 8);
    return found->second;
}

void Device::arrive(void* at, uint32_t bytes) {
    PhaseBarrier& barrier = phases(at, "mbarrier.arrive");
    if (barrier.missing == 0) {
        fail("mbarrier.arrive where all have arrived already, at " + place(reinterpret_cast<uintptr_t>(at)));
    }
    merge(barrier.arrived, engines.threads[running].known);
    barrier.bytes += bytes;
    barrier.missing--;
    end_phase(barrier);
}

// Ends the phase under way if nothing is missing, and lets go who waits for that.
void Device::end_phase(PhaseBarrier& barrier) {
    if (barrier.missing > 0 || barrier.bytes != 0) return;
    barrier.phases++;
    barrier.missing = barrier.arrivals;
    barrier.passed = barrier.arrived;
    auto ended = [&](PhaseBarrier::Waiting w) { return barrier.phases % 2 != w.parity; };
    for (auto waiting : barrier.waiting) {
        if (!ended(waiting)) continue;
        see_phase(barrier, waiting.thread);
        warps[waiting.thread / 32].ready |= 1u << waiting.thread % 32;
        ready_warps |= 1u << waiting.thread / 32;
    }
    barrier.waiting.erase(std::remove_if(barrier.waiting.begin(), barrier.waiting.end(), ended), barrier.waiting.end());
}

void Device::see_phase(PhaseBarrier& barrier, uint32_t thread) {
    barrier.seen[thread] = barrier.phases;
    merge(engines.threads[thread].known, barrier.passed);
}

// A phase has ended if the one under way has another parity.
void Device::wait_for_phase(void* at, uint32_t parity) {
    PhaseBarrier& barrier = phases(at, "mbarrier.try_wait");
    if (parity > 1) fail("mbarrier.try_wait for parity " + std::to_string(parity));
    if (barrier.phases % 2 != parity) {
        see_phase(barrier, running);
    } else {
        barrier.waiting.push_back({running, parity});
        wait(fibers[running].context);
    }
}

void Device::fence_engines() {
    use_engines();
    engines.threads[running].fences.push_back({clock.now, false});
}

// What the engines do in this unit comes after the thread that wrote there has fenced that, and, if it is another
// one, after a barrier behind the fence.
void Device::see_fence(uint32_t at, const char* who) {
    const Cell* cells = shared_shadow.cells() + at / CELL;
    for (size_t i = 0; i < UNIT / CELL; i++) {
        Record write = cells[i].write;
        if (write.before(clock.block) || engines.landings[at / UNIT] != 0) continue;
        uint64_t written = write.bits / EPOCH * EPOCH;
        bool fenced = false;
        for (auto fence : engines.threads[write.thread()].fences) {
            bool after = fence.epoch > written || (fence.epoch == written && !fence.dirty);
            fenced = fenced || (after && (fence.epoch < clock.now || write.thread() == running));
        }
        if (!fenced) {
            fail("missing fence: " + std::string(who) + place(reinterpret_cast<uintptr_t>(shared) + at) + ", which thread " +
                 std::to_string(write.thread()) + " wrote with no fence.proxy.async and barrier behind");
        }
    }
}

// What a copy of a box wrote is there for those who saw the phase end in which it landed.
void Device::see_landing(Access access, uint32_t at) {
    uint32_t number = engines.landings[at / UNIT];
    if (number == 0) return;
    const BoxCopy& copy = engines.copies[number - 1];
    if (copy.landed && engines.barriers[copy.barrier].seen[running] > copy.phase) return;
    fail("copy under way: " + std::string(access == Access::Write ? "writes " : "reads ") +
         place(reinterpret_cast<uintptr_t>(shared) + at) + ", where a copy of a box of thread " +
         std::to_string(copy.thread) + " was not waited for");
}

// A write comes after the products that read there.
void Device::see_readers(uint32_t at) {
    const Progress& known = engines.threads[running].known;
    for (size_t w = 0; w < engines.readers.size(); w++) {
        if (engines.readers[w][at / UNIT] <= known[w]) continue;
        fail("product under way: writes " + place(reinterpret_cast<uintptr_t>(shared) + at) +
             ", which a wgmma of warp " + std::to_string(w) + " reads, and nothing says that it is done");
    }
}

void Device::touch_beside_engines(Access access, uintptr_t at, size_t bytes) {
    uint32_t first = static_cast<uint32_t>(at - reinterpret_cast<uintptr_t>(shared)) / UNIT * UNIT;
    uint32_t end = static_cast<uint32_t>(at + bytes - reinterpret_cast<uintptr_t>(shared));
    for (uint32_t unit = first; unit < end; unit += UNIT) {
        see_landing(access, unit);
        if (access != Access::Write) continue;
        see_readers(unit);
        engines.landings[unit / UNIT] = 0;
        auto& fences = engines.threads[running].fences;
        if (!fences.empty() && fences.back().epoch == clock.now) fences.back().dirty = true;
    }
}

// At a barrier of the block, everyone comes to know what anyone knew.
void Device::order_engines() {
    if (!engines.used) return;
    Progress all(threads / 32, 0);
    for (auto& thread : engines.threads) merge(all, thread.known);
    for (auto& thread : engines.threads) thread.known = all;
    for (auto& [at, barrier] : engines.barriers) {
        std::fill(barrier.seen.begin(), barrier.seen.end(), *std::max_element(barrier.seen.begin(), barrier.seen.end()));
    }
}

uint32_t shared_offset(const void* at) { return device->offset(at); }

void mbarrier_init(void* barrier, uint32_t arrivals) { device->init_phases(barrier, arrivals); }

void mbarrier_arrive(void* barrier, uint32_t bytes) { device->arrive(barrier, bytes); }

void mbarrier_wait(void* barrier, uint32_t parity) { device->wait_for_phase(barrier, parity); }

void fence_proxy_async() { device->fence_engines(); }

} // namespace emulate
