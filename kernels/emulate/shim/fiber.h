// Several stacks in one thread of the host, and switching between them.
#pragma once

#include <cstddef>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#define EMULATE_OWN_SWITCH
#else
#include <ucontext.h>
#endif

namespace emulate {

// Where a stack was left.
struct Context {
#ifdef EMULATE_OWN_SWITCH
    void* stack_pointer;
#else
    ucontext_t context;
#endif
};

// A context that starts `main` on this stack; `main` does not return.
void prepare(Context& context, void* stack, size_t bytes, void (*main)());

// Leaves the running stack as `from` and goes on with `to`.
void switch_to(Context& from, Context& to);

} // namespace emulate
