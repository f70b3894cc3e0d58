// The emulated device: the block under way, its threads, and who waits for what.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulate.h"
#include "engines.h"
#include "fiber.h"
#include "memory.h"
#include "shadow.h"

namespace emulate {

constexpr size_t STACK = 128 << 10;
constexpr size_t MOST_SHARED = 256 << 10;
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

// What a kernel does with memory. ReadAnything also reads what nothing wrote: part of it may go unused.
enum class Access { Read, ReadAnything, Write };

// An asynchronous copy under way.
struct Copy {
    unsigned char* to;
    const void* from; // or null: zeros
    uint32_t bytes, group;
    uint64_t epoch; // when it was issued
    bool late;      // lands when it is waited for, not at once
};

struct Fiber {
    Context context;
    std::vector<Copy> copies;
    uint32_t groups; // of copies, ended
    Site barrier; // where it waits or last waited
    bool waited;  // for the grid before
};

struct Warp {
    Slots slots[2];        // a lane may be one exchange ahead of another, never two
    uint32_t ready;        // lanes that can run
    uint32_t arrived;      // lanes in the exchange under way
    uint32_t at_barrier;   // lanes
    uint32_t done;         // lanes
    uint32_t exchanges;    // completed
    uint32_t round;        // of __syncwarp since the last barrier
    const char* operation; // of the exchange under way
};

struct Kernel {
    uint32_t parameter_bytes, threads;
    Entry entry;
};

// Of shared memory, as a kernel takes it.
struct Piece {
    uint32_t begin, end;
};

// A kernel's parameter struct, aligned as any may be.
struct Parameters {
    struct alignas(128) Line {
        uint64_t words[16];
    };
    std::vector<Line> lines;

    void assign(const void* from, size_t bytes) {
        lines.assign((bytes + sizeof(Line) - 1) / sizeof(Line), Line{});
        std::memcpy(lines.data(), from, bytes);
    }
    const uint64_t* data() const { return lines.empty() ? nullptr : lines[0].words; }
    size_t size() const { return 16 * lines.size(); }
    uint64_t operator[](size_t i) const { return lines[i / 16].words[i % 16]; }
};

struct Device {
    Memory memory;

    // The launch.
    const Kernel* kernel;
    Parameters parameters;
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
    std::vector<Piece> pieces;
    Piece recent; // the piece last touched
    Engines engines;
    std::string error;

    // What accesses are checked with.
    Clock clock{0, 0, 0};
    Record me;       // of the running thread, now
    uintptr_t stack; // of the running thread
    Shadow shared_shadow{MOST_SHARED};
    std::map<uint64_t, Index> block_starts; // of the launch, by epoch

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
    [[noreturn, gnu::cold]] void fail(const std::string& problem);
    void barrier(Site site);
    const Slots& exchange(const void* value, size_t bytes, const char* operation, bool orders_memory);
    void finish();
    void take(Piece piece);
    void issue(Copy copy);
    void end_group();
    void wait_for_groups(uint32_t pending);
    void init_phases(void* barrier, uint32_t arrivals);
    void arrive(void* barrier, uint32_t bytes);
    void wait_for_phase(void* barrier, uint32_t parity);
    void fence_engines();
    void copy_box(unsigned char* to, const void* map, uint32_t column, uint32_t row, uint32_t matrix, void* barrier);
    void issue(float* d, uint32_t n, const uint32_t* a, uint64_t a_tile, uint64_t b_tile, bool rows, bool add);
    void fence_products();
    void end_products();
    void wait_for_products(uint32_t pending);
    bool is_shared(const void* at) const;
    uint32_t offset(const void* at) const;
    // Require that the running thread may make this access now, and remember it.
    template <Access access>
    void touch(uintptr_t at, size_t bytes);
    std::string place(uintptr_t at) const;

private:
    void run_block();
    void wait(Context& context);
    int pick();
    void open_barrier();
    void next_epoch();
    void land(const Copy& copy);
    void source_is_unchanged(const Copy& copy);
    void use_engines();
    PhaseBarrier& phases(void* barrier, const char* operation);
    void end_phase(PhaseBarrier& barrier);
    void see_phase(PhaseBarrier& barrier, uint32_t thread);
    bool land_any();
    void land(uint32_t copy);
    void multiply(const Product& product, std::vector<float>& sums) const;
    void read_by_products(const Product& product);
    void read_unit(uint32_t at);
    void see_landing(Access access, uint32_t at);
    void see_readers(uint32_t at);
    void see_fence(uint32_t at, const char* who);
    void touch_beside_engines(Access access, uintptr_t at, size_t bytes);
    void order_engines();
    template <Access access, bool is_shared>
    void check(Cell* cells, uintptr_t at, size_t offset, size_t bytes);
    void find_piece(Access access, uintptr_t at, size_t bytes);
    [[noreturn, gnu::cold]] void under_way(Access access, uintptr_t at, Record copy);
    template <Access access>
    void before_wait(const Cell* cells, uintptr_t at, size_t offset, size_t bytes);
    [[noreturn, gnu::cold]] void uninitialised(uintptr_t at);
    [[noreturn, gnu::cold]] void stray(Access access, uintptr_t at, size_t bytes);
    [[noreturn, gnu::cold]] void race(Access access, uintptr_t at, Record earlier, const char* did);
    std::string deadlock() const;
};

// Whose kernel the calling thread of the host runs, or null.
extern thread_local Device* device;

// For accesses of the twins to what kernels give them.
template <Access access>
void touch(const void* at, size_t bytes);

std::string to_string(Index index);
std::string to_string(Site site);

} // namespace emulate
