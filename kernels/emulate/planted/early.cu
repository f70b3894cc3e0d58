// Kernels that start before the grid before them has ended, with one bug each in what they do until they wait for it;
// and one without.

#include "common/launch.cuh"

struct PlantedEarly {
    const float* in; // [THREADS]
    float* out;      // likewise
};

namespace {

constexpr uint32_t THREADS = 64;

enum class Bug { None, Writes, NeverWaits };

// Adds 1. What is read must be nothing that a kernel wrote.
template <Bug bug>
__device__ void add(const PlantedEarly& p) {
    float x = p.in[threadIdx.x];
    if (bug == Bug::Writes) p.out[threadIdx.x] = 0;
    if (bug != Bug::NeverWaits || threadIdx.x != 40) wait_for_last_grid();
    if (bug != Bug::NeverWaits) p.out[threadIdx.x] = x + 1;
}

} // namespace

KERNEL_AHEAD(planted_early, PlantedEarly, THREADS, 1) { add<Bug::None>(p); }
KERNEL_AHEAD(planted_early_write, PlantedEarly, THREADS, 1) { add<Bug::Writes>(p); }
KERNEL_AHEAD(planted_never_waits, PlantedEarly, THREADS, 1) { add<Bug::NeverWaits>(p); }
