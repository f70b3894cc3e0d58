// Asynchronous copies from global to shared memory: the only file with their PTX.
#pragma once

#include "launch.cuh"

// Starts a copy of 16 bytes, both ends aligned to them; zeros instead where not `valid` (nothing is read then).
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
#ifdef LORB_EMULATE
    emulate::copy_async(shared, global, 16, valid);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
                 "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
                 : "memory");
#endif
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void copy_async_commit() {
#ifdef LORB_EMULATE
    emulate::copy_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but the newest `pending` groups of this thread have landed. Other threads see them after a
// barrier.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
#ifdef LORB_EMULATE
    emulate::copy_async_wait(pending);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}
