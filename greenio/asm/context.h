/* context.h: a stopped fiber's registers, and the one operation on them.
 *
 * The contract between the assembly of each architecture and the rest.  Nothing here knows Python or
 * libc.  May be called from any thread; two contexts of one transfer run on one OS thread at the call.
 *
 * Invariants:
 *   - a context's address is its only handle; it lies on the stack of the one that stopped;
 *   - a context is continued exactly once; continuing it makes the handle void;
 *   - whoever is continued learns the context that continued it, and must keep it: nobody else has it.
 */
#ifndef GREENIO_CONTEXT_H
#define GREENIO_CONTEXT_H

#if defined(__x86_64__) && defined(__linux__)
#  include "x86_64_sysv.h"
#else
#  error "greenio: no context switch for this platform; supported: Linux on x86-64. See CONTRIBUTING.md, 'an architecture'"
#endif

struct greenio_transfer {
    struct greenio_context *previous_context; /* of whoever continued us; ours to keep */
    void *data;                               /* what it handed over */
};

/* The first thing a new context runs. It must not return: one that does ends in terminate_abnormally. */
typedef void (*greenio_context_entry)(struct greenio_context *previous_context, void *data);

/* Build, just below `stack_base` (16-byte aligned), a context that will start `entry`.
 * Touches at most 80 bytes below the base.  Never fails. */
struct greenio_context *greenio_context_initialize(void *stack_base, greenio_context_entry entry);

/* Leave the running context and continue `context`. Returns when somebody continues ours. */
struct greenio_transfer greenio_context_resume(struct greenio_context *context, void *data);

/* Where a new context starts, and where an entry that returns ends (SIGILL). Never called from C. */
void greenio_context_trampoline(void);
void greenio_context_terminate_abnormally(void);

#endif
