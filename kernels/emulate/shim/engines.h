// What works beside the threads of a block: the engine that copies boxes, and the tensor cores. And the barriers in
// shared memory, which tell the threads how far they are.
//
// Only those barriers and the block's order what the engines do. Accesses of threads among themselves are ordered
// by the block's barriers alone, as everywhere in the emulator.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "shadow.h"

namespace emulate {

// Bytes of shared memory that the engines move at once, and which the swizzles keep together.
constexpr size_t UNIT = 16;

// How many groups of products of each warp are done.
using Progress = std::vector<uint32_t>;

inline void merge(Progress& into, const Progress& from) {
    for (size_t w = 0; w < from.size(); w++) {
        if (into[w] < from[w]) into[w] = from[w];
    }
}

struct PhaseBarrier {
    uint32_t arrivals, missing; // of a phase; of the phase under way
    int64_t bytes;              // announced and not landed
    uint32_t phases;            // that have ended
    std::vector<uint32_t> seen; // by thread: how many phases it knows to have ended
    Progress arrived, passed;   // what those who arrived knew: up to now, and when the last phase ended

    struct Waiting {
        uint32_t thread, parity;
    };
    std::vector<Waiting> waiting;
};

struct BoxCopy {
    unsigned char* to;
    TensorMap map;
    uint32_t column, row, matrix;
    uint32_t barrier; // its place in shared memory
    uint32_t thread;
    bool landed;
    uint32_t phase; // of the barrier, in which it landed
};

// A product that a thread has issued: its part of it.
struct Product {
    float* d;
    uint32_t n, group;
    bool has_a, rows, add;
    float a[2][16];   // its rows, where they came in registers
    uint64_t a_tile, b_tile;
};

// What all warps of a warpgroup must issue alike.
struct Issued {
    uint64_t a_tile, b_tile;
    uint32_t n, rows, add, has_a;
    bool operator==(const Issued& o) const {
        return a_tile == o.a_tile && b_tile == o.b_tile && n == o.n && rows == o.rows && add == o.add && has_a == o.has_a;
    }
};

struct ThreadOfEngines {
    // Fences between what the thread wrote and what the engines do: when, and whether it wrote after that in the
    // same epoch.
    struct Fence {
        uint64_t epoch;
        bool dirty;
    };
    std::vector<Fence> fences;
    Progress known;
    std::vector<Product> products;                 // under way
    std::map<float*, std::vector<float>> sums;     // of those
    uint32_t groups = 0;                           // ended by a commit
    bool fenced = false;                           // since then
};

struct Engines {
    bool used = false;                           // in this block
    bool late = false;                           // products happen when they are waited for, not at once
    std::map<uint32_t, PhaseBarrier> barriers;   // by their place in shared memory
    std::vector<BoxCopy> copies;                 // of this block
    std::vector<uint32_t> under_way;             // of those
    std::vector<uint32_t> landings;              // by unit: the copy that wrote it, counted from 1; 0 for none
    std::vector<std::vector<uint32_t>> readers;  // by warp and unit: the group that read it last, counted from 1
    std::vector<ThreadOfEngines> threads;
    std::vector<std::vector<Issued>> issued;     // by warpgroup
    std::vector<size_t> issued_by_warp;
};

} // namespace emulate
