// The emulated device: the block under way, its threads, and who waits for what.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulate.h"
#include "fiber.h"

namespace emulate {

constexpr size_t STACK = 128 << 10;
constexpr uint32_t MOST_THREADS = 1024;

// In which order threads that can run do so, until each waits; and blocks.
enum class Order : uint32_t { Forward, Reverse, Random };

struct Random {
    uint64_t state;

    uint32_t next() { // splitmix64
        uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return static_cast<uint32_t>((z ^ z >> 31) >> 32);
    }
};

struct Fiber {
    Context context;
    Site barrier; // where it waits or last waited
};

struct Warp {
    Slots slots[2];        // a lane may be one exchange ahead of another, never two
    uint32_t ready;        // lanes that can run
    uint32_t arrived;      // lanes in the exchange under way
    uint32_t at_barrier;   // lanes
    uint32_t done;         // lanes
    uint32_t exchanges;    // completed
    const char* operation; // of the exchange under way
};

struct Kernel {
    uint32_t parameter_bytes, threads;
    Entry entry;
};

struct Device {
    // The launch.
    const Kernel* kernel;
    std::vector<uint64_t> parameters;
    Index grid;
    uint32_t threads;
    Order order;
    Random random;

    // The block under way.
    Index block;
    uint32_t shared_bytes;
    uint32_t running; // its number in the block
    uint32_t ready_warps;
    uint32_t waiting_at_barrier, done; // threads
    uint32_t first_at_barrier;
    std::string error;

    Context scheduler;
    std::unique_ptr<Fiber[]> fibers{new Fiber[MOST_THREADS]};
    std::unique_ptr<Warp[]> warps{new Warp[MOST_THREADS / 32]};
    unsigned char* stacks;
    unsigned char* shared;

    Device();
    ~Device();
    Device(const Device&) = delete;

    // Runs a kernel to its end; what was wrong, or nothing.
    std::string launch(const char* name, Index grid, uint32_t threads, uint32_t shared_bytes,
                       const void* parameters, uint32_t parameter_bytes, Order order, uint64_t seed);

    // Of the running thread. `fail` names it, and ends the launch.
    [[noreturn]] void fail(const std::string& problem);
    void barrier(Site site);
    const Slots& exchange(const void* value, size_t bytes, const char* operation);
    void finish();

private:
    void run_block();
    void wait(Context& context);
    int pick();
    void open_barrier();
    std::string deadlock() const;
};

// Whose kernel the calling thread of the host runs, or null.
extern thread_local Device* device;

std::string to_string(Index index);
std::string to_string(Site site);

} // namespace emulate
