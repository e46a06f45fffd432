/* context_probe.h: what the probes of the context switch share. Tests only.
 *
 * context_probe.S   naked routines that fill and read registers around a call into the switch
 * context_probe.c   the extension module context_probe: fibers of plain C, driven from test_context.py
 * context_throw.cpp C++ exceptions, for fibers to throw and catch
 * context_walk.c    a program without Python, for gdb to walk and for crashing
 */
#ifndef CONTEXT_PROBE_H
#define CONTEXT_PROBE_H

#include <stdint.h>

#include "context.h"

/* What a switch must keep; in struct.pack's words "<IHxx8Q". context_probe.S has the offsets. */
struct registers {
    uint32_t mxcsr;
    uint16_t x87_control_word;
    uint16_t padding;
    uint64_t rbx, rbp, r12, r13, r14, r15;
    uint64_t rcx;       /* junk to be in rcx at the call, where the switch has its scratch; found: 0 */
    uint64_t exchanged; /* found only: the context that continued us */
};

_Static_assert(sizeof(struct registers) == 72, "as context_probe.S has it");

/* greenio_context_resume, called with `fill` in all registers and control words that must survive; those it comes
 * back with go to `found`. The caller's own are put back. */
struct greenio_transfer context_probe_resume(struct greenio_context *context, void *data, const struct registers *fill,
                                             struct registers *found);

/* greenio_context_initialize, called from an address that is known; with these control words. */
struct greenio_context *context_probe_initialize(void *stack_base, greenio_context_entry entry, uint32_t mxcsr,
                                                 uint16_t x87_control_word);

/* The return addresses of the calls in these two. */
extern const char context_probe_resume_return[], context_probe_initialize_return[];

/* A greenio_context_entry: stores what it finds, makes an aligned store below it, and resumes its first argument with
 * its second as data. */
void context_probe_first_entry(struct greenio_context *previous_context, void *data);

struct first_entry {
    uint64_t rsp, rbp, rdi, rsi, rax, rdx, return_address;
    uint32_t mxcsr;
    uint16_t x87_control_word, padding;
};
extern struct first_entry context_probe_first_entry_found;

/* From here to there the processor traps (SIGTRAP) after each instruction. */
void context_probe_step_begin(void);
void context_probe_step_end(void);

/* Throws through `depth` frames that own a C++ object, and catches. Returns 0, or what went wrong. */
const char *context_throw_and_catch(int depth);
void context_throw(void);

#endif
