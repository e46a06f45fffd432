/* x86_64_sysv.h: the saved context on x86-64, System V ABI. Beside x86_64_sysv.S, which writes it. */
#ifndef GREENIO_X86_64_SYSV_H
#define GREENIO_X86_64_SYSV_H

#include <stddef.h>
#include <stdint.h>

struct greenio_context {
    uint32_t mxcsr;            /* SSE control and status; only the control bits are the context's */
    uint16_t x87_control_word;
    uint16_t padding;
    uint64_t rbx;
    uint64_t rbp;
    uint64_t r12;
    uint64_t r13;
    uint64_t r14;
    uint64_t r15;
    void *resume_address;
};

_Static_assert(sizeof(struct greenio_context) == 64, "the saved context is 64 bytes");
_Static_assert(offsetof(struct greenio_context, x87_control_word) == 0x04, "as x86_64_sysv.S stores it");
_Static_assert(offsetof(struct greenio_context, rbx) == 0x08, "as x86_64_sysv.S stores it");
_Static_assert(offsetof(struct greenio_context, rbp) == 0x10, "as x86_64_sysv.S stores it");
_Static_assert(offsetof(struct greenio_context, r12) == 0x18, "as x86_64_sysv.S stores it");
_Static_assert(offsetof(struct greenio_context, r13) == 0x20, "as x86_64_sysv.S stores it");
_Static_assert(offsetof(struct greenio_context, r14) == 0x28, "as x86_64_sysv.S stores it");
_Static_assert(offsetof(struct greenio_context, r15) == 0x30, "as x86_64_sysv.S stores it");
_Static_assert(offsetof(struct greenio_context, resume_address) == 0x38, "as x86_64_sysv.S stores it");

/* The processor's own clock: cheap (some 20 cycles), monotonic enough to bound a turn, no unit. */
static inline uint64_t greenio_ticks(void)
{
    return __builtin_ia32_rdtsc();
}

/* Ask for the line of memory there, which need not exist. Not __builtin_prefetch: gcc takes a function of nothing but these for one
 * without effect, and drops the calls to it. */
static inline void greenio_prefetch(const void *address)
{
    __asm__ volatile("prefetcht0 %0" : : "m"(*(const char *)address));
}

/* And for the lines from `first` to before `end`, both in bytes from `address`. */
static inline void greenio_prefetch_lines(const void *address, ptrdiff_t first, ptrdiff_t end)
{
    #pragma GCC unroll 8
    for (ptrdiff_t offset = first; offset < end; offset += 64)
        greenio_prefetch((const char *)address + offset);
}

#endif
