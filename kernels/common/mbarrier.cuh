// Barriers in shared memory that count arrivals and bytes: the only file with their PTX (ISA 8.0, "mbarrier").
//
// A phase of a barrier ends when as many threads have arrived as it was made for and all bytes that were announced
// have landed; the next begins at once. Phases are told apart by their parity: the first is 0.
#pragma once

#include "launch.cuh"

struct Mbarrier {
    uint64_t state;
};

__device__ __forceinline__ uint32_t shared_address(const void* at) {
#ifdef LORB_EMULATE
    return emulate::shared_offset(at);
#else
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
#endif
}

// By one thread, before a barrier of the block. What copies asynchronously sees it after fence_proxy_async.
__device__ __forceinline__ void mbarrier_init(Mbarrier* barrier, uint32_t arrivals) {
#ifdef LORB_EMULATE
    emulate::mbarrier_init(barrier, arrivals);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#endif
}

__device__ __forceinline__ void mbarrier_arrive(Mbarrier* barrier) {
#ifdef LORB_EMULATE
    emulate::mbarrier_arrive(barrier, 0);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

// Arrives, and announces the bytes of copies.
__device__ __forceinline__ void mbarrier_arrive_expect(Mbarrier* barrier, uint32_t bytes) {
#ifdef LORB_EMULATE
    emulate::mbarrier_arrive(barrier, bytes);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
#endif
}

// Until the phase of this parity has ended. (Of the phase under way and the one before, so nobody may be further
// behind.)
__device__ __forceinline__ void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
#ifdef LORB_EMULATE
    emulate::mbarrier_wait(barrier, parity);
#else
    uint32_t ended;
    do {
        asm volatile("{\n.reg .pred ended;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, ended;\n}"
                     : "=r"(ended)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
    } while (!ended);
#endif
}

// Orders what this thread has written to shared memory before what the tensor cores and the engine that copies
// tiles do there once other threads know of it.
__device__ __forceinline__ void fence_proxy_async() {
#ifdef LORB_EMULATE
    emulate::fence_proxy_async();
#else
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
