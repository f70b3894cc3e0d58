#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>

#include <sys/mman.h>

namespace emulate {
namespace {

constexpr uint32_t ALL = 0xffffffffu;

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

// Pages that cost nothing until they are used.
unsigned char* reserve(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    return static_cast<unsigned char*>(at);
}

void fiber_main() {
    device->kernel->entry(device->parameters.data());
    device->finish();
}

uint32_t lowest(uint32_t mask) { return __builtin_ctz(mask); }
uint32_t highest(uint32_t mask) { return 31 - __builtin_clz(mask); }

// The first at or after a random place.
uint32_t any(uint32_t mask, uint32_t place) {
    place %= 32;
    uint32_t turned = mask >> place | mask << (32 - place) % 32;
    return (lowest(turned) + place) % 32;
}

} // namespace

thread_local Device* device = nullptr;

std::string to_string(Index i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string to_string(Site site) {
    std::string file = site.file;
    return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(site.line);
}

Device::Device() : stacks(reserve(MOST_THREADS * STACK)), shared(reserve(MOST_SHARED)) {}

Device::~Device() {
    munmap(stacks, MOST_THREADS * STACK);
    munmap(shared, MOST_SHARED);
}

std::string Device::launch(const char* name, Index grid_size, uint32_t thread_count, uint32_t shared_size,
                           const void* given, uint32_t parameter_bytes, Order thread_order, uint64_t seed) {
    auto found = kernels().find(name);
    if (found == kernels().end()) return "there is no such kernel";
    kernel = &found->second;
    if (parameter_bytes != kernel->parameter_bytes) return "its parameters have another size";
    if (thread_count == 0 || thread_count > kernel->threads || thread_count % 32 != 0) {
        return "its launch bounds are exceeded";
    }
    if (shared_size > MOST_SHARED) return "no device has as much shared memory";
    parameters.assign(given, parameter_bytes);
    grid = grid_size;
    threads = thread_count;
    shared_bytes = shared_size;
    order = thread_order;
    random = {seed};

    std::vector<uint32_t> blocks(static_cast<size_t>(grid.x) * grid.y * grid.z);
    std::iota(blocks.begin(), blocks.end(), 0);
    if (order == Order::Reverse) std::reverse(blocks.begin(), blocks.end());
    if (order == Order::Random) {
        for (size_t i = blocks.size(); i > 1; i--) std::swap(blocks[i - 1], blocks[random.next() % i]);
    }
    error.clear();
    block_starts.clear();
    clock.launch = clock.now + EPOCH;
    device = this;
    for (uint32_t i : blocks) {
        block = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
        next_epoch();
        clock.block = clock.now;
        block_starts[clock.now] = block;
        run_block();
        if (!error.empty()) break;
    }
    device = nullptr;
    return error;
}

void Device::run_block() {
    std::memset(shared, 0xff, shared_bytes); // NaN
    waiting_at_barrier = done = 0;
    ready_warps = 0;
    engines.used = false;
    pieces.clear();
    recent = {0, 0};
    for (uint32_t w = 0; w < threads / 32; w++) {
        Warp& warp = warps[w];
        warp.ready = ALL;
        warp.arrived = warp.at_barrier = warp.done = warp.exchanges = warp.round = 0;
        ready_warps |= 1u << w;
    }
    for (uint32_t t = 0; t < threads; t++) {
        fibers[t].copies.clear();
        fibers[t].groups = 0;
        fibers[t].waited = false;
        prepare(fibers[t].context, stacks + t * STACK, STACK, fiber_main);
    }
    wait(scheduler);
    if (!error.empty()) return;
    if (done < threads) {
        error = "block " + to_string(block) + ": " + deadlock();
    } else if (engines.used && !engines.under_way.empty()) {
        error = "block " + to_string(block) + ": ends with " + std::to_string(engines.under_way.size()) +
                " copies of boxes under way";
    }
}

// The thread to run next, or -1.
int Device::pick() {
    if (order == Order::Random && engines.used && random.next() % 8 == 0) land_any();
    while (ready_warps == 0) {
        if (!land_any()) return -1;
    }
    uint32_t w, lane;
    switch (order) {
    case Order::Forward:
        w = lowest(ready_warps);
        lane = lowest(warps[w].ready);
        break;
    case Order::Reverse:
        w = highest(ready_warps);
        lane = highest(warps[w].ready);
        break;
    default: {
        uint32_t places = random.next();
        w = any(ready_warps, places);
        lane = any(warps[w].ready, places >> 5);
    }
    }
    warps[w].ready &= ~(1u << lane);
    if (warps[w].ready == 0) ready_warps &= ~(1u << w);
    return static_cast<int>(32 * w + lane);
}

// Leaves `context` for a thread that can run, or for the scheduler where none can.
void Device::wait(Context& context) {
    int next = pick();
    Context& to = next < 0 ? scheduler : fibers[next].context;
    if (next >= 0) {
        running = static_cast<uint32_t>(next);
        stack = reinterpret_cast<uintptr_t>(stacks + running * STACK);
        me = Record::of(clock.now, running, warps[running / 32].round);
    }
    if (&to != &context) switch_to(context, to);
}

void Device::fail(const std::string& problem) {
    error = "block " + to_string(block) + ", thread " + std::to_string(running) + ": " + problem;
    switch_to(fibers[running].context, scheduler);
    std::abort();
}

void Device::barrier(Site site) {
    if (waiting_at_barrier == 0) first_at_barrier = running;
    Site first = fibers[first_at_barrier].barrier;
    if (waiting_at_barrier > 0 && (first.line != site.line || std::strcmp(first.file, site.file) != 0)) {
        fail("divergent barrier: waits at " + to_string(site) + " where thread " +
             std::to_string(first_at_barrier) + " waits at " + to_string(first));
    }
    fibers[running].barrier = site;
    warps[running / 32].at_barrier |= 1u << running % 32;
    waiting_at_barrier++;
    open_barrier();
    wait(fibers[running].context);
}

// Lets the threads go if all that have not ended are there.
void Device::open_barrier() {
    if (waiting_at_barrier == 0 || waiting_at_barrier + done < threads) return;
    waiting_at_barrier = 0;
    order_engines();
    next_epoch();
    for (uint32_t w = 0; w < threads / 32; w++) {
        warps[w].round = 0;
        if (warps[w].at_barrier == 0) continue;
        warps[w].ready |= warps[w].at_barrier;
        warps[w].at_barrier = 0;
        ready_warps |= 1u << w;
    }
}

void Device::next_epoch() {
    clock.now += EPOCH;
    if (clock.now == 0) std::abort(); // four thousand million barriers
}

const Slots& Device::exchange(const void* value, size_t bytes, const char* operation, bool orders_memory) {
    Warp& warp = warps[running / 32];
    uint32_t lane = running % 32;
    if (warp.done != 0) {
        fail(std::string(operation) + " of all lanes, but lane " + std::to_string(lowest(warp.done)) +
             " has ended");
    }
    if (warp.arrived == 0) warp.operation = operation;
    if (std::strcmp(warp.operation, operation) != 0) {
        fail(std::string(operation) + " where lane " + std::to_string(lowest(warp.arrived)) + " of its warp is in " +
             warp.operation);
    }
    Slots& slots = warp.slots[warp.exchanges % 2];
    std::memcpy(slots.lane[lane], value, bytes);
    warp.arrived |= 1u << lane;
    if (warp.arrived == ALL) {
        warp.arrived = 0;
        warp.exchanges++;
        if (orders_memory && ++warp.round == Record::ROUNDS) fail("too many __syncwarp for the emulator");
        warp.ready = ALL;
        ready_warps |= 1u << running / 32;
    }
    wait(fibers[running].context);
    return slots;
}

void Device::finish() {
    if (!fibers[running].waited) fail("ends and has not waited for the grid before");
    if (!fibers[running].copies.empty()) {
        fail("ends with " + std::to_string(fibers[running].copies.size()) + " asynchronous copies that it never waited for");
    }
    if (engines.used && !engines.threads[running].products.empty()) {
        fail("ends with " + std::to_string(engines.threads[running].products.size()) + " products that it never waited for");
    }
    Warp& warp = warps[running / 32];
    if (warp.arrived != 0) {
        fail("ends while lane " + std::to_string(lowest(warp.arrived)) + " of its warp waits for it in " +
             warp.operation);
    }
    warp.done |= 1u << running % 32;
    done++;
    open_barrier();
    wait(fibers[running].context);
    std::abort(); // nobody goes on with a thread that has ended
}

// Each thread takes the same pieces.
void Device::take(Piece piece) {
    if (piece.end > shared_bytes || piece.begin > piece.end) {
        fail("takes " + std::to_string(piece.end) + " bytes of shared memory, the launch has " +
             std::to_string(shared_bytes));
    }
    for (const Piece& p : pieces) {
        if (p.begin == piece.begin && p.end == piece.end) return;
    }
    pieces.push_back(piece);
}

// Who waits for what.
std::string Device::deadlock() const {
    std::string text = "deadlock:";
    if (waiting_at_barrier > 0) {
        text += " " + std::to_string(waiting_at_barrier) + " threads wait at the barrier of " +
                to_string(fibers[first_at_barrier].barrier) + ", thread " + std::to_string(first_at_barrier) +
                " came first;";
    }
    for (uint32_t w = 0; w < threads / 32; w++) {
        const Warp& warp = warps[w];
        if (warp.arrived == 0) continue;
        text += " " + std::to_string(__builtin_popcount(warp.arrived)) + " lanes of warp " + std::to_string(w) +
                " wait in " + warp.operation + ", lane " + std::to_string(lowest(~warp.arrived)) + " is elsewhere;";
    }
    for (const auto& [at, barrier] : engines.barriers) {
        if (!engines.used || barrier.waiting.empty()) continue;
        text += " " + std::to_string(barrier.waiting.size()) + " threads wait for parity " +
                std::to_string(barrier.waiting[0].parity) + " of the mbarrier at byte " + std::to_string(at) +
                " of shared memory, thread " + std::to_string(barrier.waiting[0].thread) + " came first, phase " +
                std::to_string(barrier.phases) + " lacks " + std::to_string(barrier.missing) + " arrivals and " +
                std::to_string(barrier.bytes) + " bytes;";
    }
    return text + " " + std::to_string(done) + " threads of " + std::to_string(threads) + " have ended";
}

// What kernels call.

Index thread_index() { return {device->running, 0, 0}; }
Index block_index() { return device->block; }
Index block_size() { return {device->threads, 1, 1}; }
Index grid_size() { return device->grid; }

void block_sync(Site site) { device->barrier(site); }

const Slots& warp_exchange(const void* value, size_t bytes, const char* operation) {
    return device->exchange(value, bytes, operation, false);
}

void lane_exchange(void* other, const void* value, size_t bytes, uint32_t lane, const char* operation) {
    std::memcpy(other, device->exchange(value, bytes, operation, false).lane[lane % 32], bytes);
}

void warp_sync() { device->exchange("", 1, "__syncwarp", true); }

void all_lanes(uint32_t mask) {
    if (mask != ALL) device->fail("the emulator knows only operations of all lanes of a warp");
}

unsigned char* shared_arena() { return device->shared; }

void shared_taken(uint32_t begin, uint32_t end) { device->take({begin, end}); }

Registration::Registration(const char* name, uint32_t parameter_bytes, uint32_t threads, Entry entry) {
    kernels()[name] = {parameter_bytes, threads, entry};
}

} // namespace emulate

extern "C" {

emulate::Device* lorb_emulate_device_new() { return new emulate::Device(); }

void lorb_emulate_device_free(emulate::Device* device) { delete device; }

// Memory that kernels may use from now on, or no more.
void lorb_emulate_memory_add(emulate::Device* device, uint64_t at, size_t bytes) { device->memory.add(at, bytes); }

// Something else than a kernel has written there.
void lorb_emulate_memory_written(emulate::Device* device, uint64_t at, size_t bytes) {
    device->memory.written_by_host(at, bytes);
}

void lorb_emulate_memory_remove(emulate::Device* device, uint64_t at) { device->memory.remove(at); }

// Runs a kernel to its end. Returns 0, or 1 with the reason in `error`.
int lorb_emulate_launch(emulate::Device* device, const char* name, const uint32_t* grid, uint32_t threads,
                        uint32_t shared_bytes, const void* parameters, uint32_t parameter_bytes, uint32_t order,
                        uint64_t seed, char* error, size_t error_size) {
    std::string problem = device->launch(name, {grid[0], grid[1], grid[2]}, threads, shared_bytes, parameters,
                                         parameter_bytes, static_cast<emulate::Order>(order), seed);
    size_t n = std::min(problem.size(), error_size - 1);
    std::memcpy(error, problem.data(), n);
    error[n] = 0;
    return problem.empty() ? 0 : 1;
}

} // extern "C"
