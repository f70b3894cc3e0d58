#include "emulate.h"

#include <map>
#include <string>
#include <vector>

#include <ucontext.h>

namespace emulate {
namespace {

constexpr size_t STACK = 128 << 10;

struct Kernel {
    uint32_t parameter_bytes, threads;
    Entry entry;
};

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

enum class State { Ready, AtBarrier, InExchange, Done };

struct Fiber {
    ucontext_t context;
    Thread thread;
    State state;
};

struct Warp {
    Slots slots[2]; // a lane may be one exchange ahead of another, never two
    uint32_t arrived, round;
};

// The block under way.
struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned char> stacks, shared;
    ucontext_t scheduler;
    uint32_t running, at_barrier;
    Entry entry;
    const void* parameters;
    std::string error;
};

thread_local Block block;

void yield(State state) {
    Fiber& fiber = block.fibers[block.running];
    fiber.state = state;
    swapcontext(&fiber.context, &block.scheduler);
}

[[noreturn]] void fail(const std::string& error) {
    if (block.error.empty()) block.error = error;
    yield(State::Done);
    abort();
}

void fiber_main() {
    block.entry(block.parameters);
    block.fibers[block.running].state = State::Done;
}

void run_block(uint32_t threads, Index index, Index grid) {
    block.at_barrier = 0;
    block.warps.resize((threads + 31) / 32);
    for (Warp& warp : block.warps) warp.arrived = warp.round = 0;
    block.stacks.resize(threads * STACK);
    for (uint32_t t = 0; t < threads; t++) {
        Fiber& fiber = block.fibers[t];
        fiber.thread = {{t, 0, 0}, index, {threads, 1, 1}, grid};
        fiber.state = State::Ready;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = block.stacks.data() + t * STACK;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &block.scheduler;
        makecontext(&fiber.context, fiber_main, 0);
    }
    for (bool moved = true; moved && block.error.empty();) {
        moved = false;
        for (uint32_t t = 0; t < threads && block.error.empty(); t++) {
            if (block.fibers[t].state != State::Ready) continue;
            moved = true;
            block.running = t;
            swapcontext(&block.scheduler, &block.fibers[t].context);
        }
        uint32_t done = 0;
        for (uint32_t t = 0; t < threads; t++) done += block.fibers[t].state == State::Done;
        if (done == threads) return;
        if (block.at_barrier > 0 && block.at_barrier + done == threads) {
            block.at_barrier = 0;
            for (uint32_t t = 0; t < threads; t++) {
                if (block.fibers[t].state == State::AtBarrier) block.fibers[t].state = State::Ready;
            }
            moved = true;
        }
    }
    if (block.error.empty()) block.error = "deadlock: threads wait for others that will not come";
}

} // namespace

const Thread& thread() { return block.fibers[block.running].thread; }

void block_sync() {
    block.at_barrier++;
    yield(State::AtBarrier);
}

const Slots& warp_exchange(const void* value, size_t bytes) {
    uint32_t t = block.running, first = t / 32 * 32;
    Warp& warp = block.warps[t / 32];
    Slots& slots = warp.slots[warp.round % 2];
    std::memcpy(slots.lane[t % 32], value, bytes);
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        warp.round++;
        for (uint32_t lane = 0; lane < 32; lane++) block.fibers[first + lane].state = State::Ready;
    } else {
        yield(State::InExchange);
    }
    return slots;
}

unsigned char* shared_arena() { return block.shared.data(); }

void shared_taken(uint32_t bytes) {
    if (bytes > block.shared.size()) {
        fail("takes " + std::to_string(bytes) + " bytes of shared memory, the launch has " +
             std::to_string(block.shared.size()));
    }
}

Registration::Registration(const char* name, uint32_t parameter_bytes, uint32_t threads, Entry entry) {
    kernels()[name] = {parameter_bytes, threads, entry};
}

} // namespace emulate

extern "C" {

// Runs a kernel to its end. Returns 0, or 1 with the reason in `error`.
int lorb_emulate_launch(const char* name, const uint32_t* grid, uint32_t threads, uint32_t shared_bytes,
                        const void* parameters, uint32_t parameter_bytes, char* error, size_t error_size) {
    using namespace emulate;
    auto say = [&](const std::string& text) {
        size_t n = std::min(text.size(), error_size - 1);
        std::memcpy(error, text.data(), n);
        error[n] = 0;
        return 1;
    };
    auto found = kernels().find(name);
    if (found == kernels().end()) return say("there is no such kernel");
    const Kernel& kernel = found->second;
    if (parameter_bytes != kernel.parameter_bytes) return say("its parameters have another size");
    if (threads > kernel.threads || threads % 32 != 0) return say("its launch bounds are exceeded");
    block.entry = kernel.entry;
    block.parameters = parameters;
    block.error.clear();
    block.fibers.resize(std::max<size_t>(block.fibers.size(), threads));
    for (uint32_t z = 0; z < grid[2]; z++) {
        for (uint32_t y = 0; y < grid[1]; y++) {
            for (uint32_t x = 0; x < grid[0]; x++) {
                block.shared.assign(shared_bytes, 0xff); // NaN
                run_block(threads, {x, y, z}, {grid[0], grid[1], grid[2]});
                if (!block.error.empty()) return say(block.error);
            }
        }
    }
    return 0;
}

} // extern "C"
