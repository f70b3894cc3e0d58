#include "fiber.h"

#include <cstdint>
#include <cstring>

#ifdef EMULATE_OWN_SWITCH

// swapcontext asks the kernel for the signal mask each time; these save what a called function must keep, and
// nothing else. The floating-point modes are the same everywhere.
extern "C" void lorb_emulate_switch(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
    .text
    .p2align 4
    .globl lorb_emulate_switch
    .hidden lorb_emulate_switch
    .type lorb_emulate_switch, @function
lorb_emulate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size lorb_emulate_switch, . - lorb_emulate_switch
)");
#else
asm(R"(
    .text
    .p2align 4
    .globl lorb_emulate_switch
    .hidden lorb_emulate_switch
    .type lorb_emulate_switch, %function
lorb_emulate_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size lorb_emulate_switch, . - lorb_emulate_switch
)");
#endif

namespace emulate {

void prepare(Context& context, void* stack, size_t bytes, void (*main)()) {
    auto top = (reinterpret_cast<uintptr_t>(stack) + bytes) / 16 * 16;
    auto words = reinterpret_cast<uintptr_t*>(top);
#if defined(__x86_64__)
    // From the top: nowhere to return to, then what the switch pops: `main` to return into, six registers.
    constexpr size_t frame = 8, entry = 2;
#else
    constexpr size_t frame = 20, entry = 20 - 11;
#endif
    std::memset(words - frame, 0, frame * sizeof *words);
    words[-static_cast<ptrdiff_t>(entry)] = reinterpret_cast<uintptr_t>(main);
    context.stack_pointer = words - frame;
}

void switch_to(Context& from, Context& to) { lorb_emulate_switch(&from.stack_pointer, to.stack_pointer); }

} // namespace emulate

#else

namespace emulate {

void prepare(Context& context, void* stack, size_t bytes, void (*main)()) {
    getcontext(&context.context);
    context.context.uc_stack.ss_sp = stack;
    context.context.uc_stack.ss_size = bytes;
    context.context.uc_link = nullptr;
    makecontext(&context.context, main, 0);
}

void switch_to(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

} // namespace emulate

#endif
