/* overflow.h: what happens when a fiber's C stack runs out.
 *
 * A SIGSEGV handler on an alternate stack. A fault in the yellow half of the guard, by the fiber that stands on
 * that very slot, opens the half down to there and takes the thread state's remaining recursion, so that the interpreter raises
 * RecursionError at its next check; the faulting instruction is restarted. Each page once: unwinding gives recursion back, and
 * code that catches the error may come down again, by a way that takes more stack a level. Any other fault in a guard is reported
 * (which fiber, how large its stack, its Python traceback) and then handled as if we were not there: the handler
 * that was installed before runs, or the process dies of SIGSEGV. Faults elsewhere are passed on untouched.
 *
 * Knows stack.h. What it must know of the interpreter and of fibers comes as two functions.
 */
#ifndef GREENIO_OVERFLOW_H
#define GREENIO_OVERFLOW_H

#include "stack.h"

struct greenio_overflow_hooks {
    /* Zero the remaining recursion of the slot's thread state, adding to stack->taken what was taken. The yellow half is open
     * as far as needed. Positive: not at this instruction, the next page will ask again. Negative: that thread state cannot
     * be made to raise. Async-signal-safe. */
    int (*take_recursion)(struct greenio_stack *stack);
    /* Write what is known of the fiber (name, id, then its Python traceback) to `fd`. Called as the process
     * dies; best effort. */
    void (*describe)(struct greenio_stack *stack, int fd);
    /* The slot that the calling OS thread stands on, NULL if on none. Async-signal-safe. May be left NULL: then the slot of
     * the stack pointer is taken, which a large frame may have carried over a guard into somebody else's slot. */
    struct greenio_stack *(*current)(void);
};

/* Install the handler (once a process) in front of whatever is installed. Again: does nothing if ours is
 * still in front, else puts it in front of the newcomer (faulthandler.enable() during a run).
 * `hooks` must stay valid; NULL leaves those of the last call. 0, or -1 with errno. Async-signal-safe after the first call,
 * so that a watching thread may repeat it. */
int greenio_overflow_install(const struct greenio_overflow_hooks *hooks);

/* For take_recursion: whether the code that was interrupted has `value`, or one more or less, in a register; it may be about to
 * store it. 0 once so much of the yellow half is open that the rest must do. */
int greenio_overflow_in_register(int32_t value);

/* Give the calling OS thread an alternate signal stack unless it has one that is large enough (faulthandler's is not: it is
 * set aside until greenio_overflow_forget_thread). 0, or -1 with errno. */
int greenio_overflow_prepare_thread(void);

/* Free this OS thread's alternate stack if prepare_thread made it and it is still the one in use, and put back the one that
 * was there before. */
void greenio_overflow_forget_thread(void);

/* Called by the fiber that stands on `stack`, with its current stack pointer (or for a parked fiber, with its saved one): if
 * its yellow half is open and at least 16 KiB lie between the limit and the stack pointer, close it and return 1 (the caller
 * gives back stack->taken); else 0. */
int greenio_overflow_recover(struct greenio_stack *stack, const void *stack_pointer);

/* Report damage found without a fault (a canary that was overwritten), then end the process with SIGSEGV. */
void greenio_overflow_report_and_die(struct greenio_stack *stack, const char *what) __attribute__((noreturn));

#endif
