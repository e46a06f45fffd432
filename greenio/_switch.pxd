# _switch.pxd: a fiber as the CPU and the interpreter see it: one callable, its stack, its thread state.
#
# Everything here wants the GIL. No scheduler is known: whoever calls switch_to says to whom, and a fiber that ends asks its
# own successor().
#
# Invariants:
#   - of the fibers of one OS thread exactly one has core.context == NULL and is started and not ended: it runs;
#   - both ends of a switch get their core.context when it is complete: the target's is not NULL as long as it is under way;
#   - a started fiber owns one slot of stack memory and that slot's thread state, from its first switch to its end;
#   - a slot goes back to the pool only after the successor has finished both the stack switch and the thread-state
#     switch: with the GIL let go in between, another OS thread could take it.
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        unsigned long thread_id
        int gilstate_counter
    ctypedef PyThreadState *StatePointer "PyThreadState *"   # named, so that what points to it can be volatile

cdef extern from "asm/context.h":
    struct greenio_context:
        pass

cdef extern from "stack.h":
    struct greenio_stack:
        char *base
        char *limit
        char *data
        size_t data_bytes
        void *thread_state
        void *owner
        unsigned char guard_kind
        int taken[2]


cdef struct FiberCore:                # what a switch touches; embedded in its BaseFiber, so the address is stable
    greenio_context *context          # where it stopped; NULL: it runs, was never started, has ended, or is just being left
    PyThreadState *thread_state       # NULL: not started, or ended
    greenio_stack *stack              # the slot it stands on just now; NULL for an OS thread's own stack
    PyObject *fiber                   # the BaseFiber this is part of, borrowed
    bint started
    bint ended                        # its slot may go as soon as somebody else runs


cdef class BaseFiber:
    cdef FiberCore core
    cdef readonly unsigned long long id   # unique in the process, in order of creation, from 1
    cdef const char *report_name      # UTF-8, kept alive by whoever sets it; NULL: nameless
    cdef readonly size_t stack_bytes  # usable C stack asked for; 0 for an OS thread's own stack
    cdef object function              # until it has run
    cdef tuple arguments
    cdef object context_variables     # the contextvars.Context it runs in, or None for the OS thread's
    cdef object returned              # by the function
    cdef object raised                # or what it raised instead, with its traceback

    # The function has returned or raised and its outcome is kept; still a whole fiber, which may park.
    cdef void outcome_known(self) noexcept
    # Last of all, thread state reset, nothing parks any more: who runs next? Never NULL. One not started yet (which must have the
    # same stack_bytes) gets this very stack. Also sets `signals`, as for switch_to.
    cdef FiberCore *successor(self, PyThreadState **signals) noexcept


# Make `fiber`, the caller's OS thread as it is now, a fiber: its own stack, its own thread state.
cdef void adopt_thread(BaseFiber fiber) noexcept

# Give a fiber that was never run its stack and thread state. MemoryError: it is as it was.
cdef int prepare(BaseFiber fiber) except -1

# Leave `leaving`, which runs, and continue `target`. Returns when somebody continues `leaving`. `signals`: the thread state
# that hears of signals if this OS thread is its own, else NULL. No exception may be set. On return another fiber's last
# reference may have been let go: Python code may have run.
cdef void switch_to(FiberCore *leaving, FiberCore *target, PyThreadState *signals) noexcept

# Call function(*arguments) on another stack of at least `stack_bytes`, as the same fiber. `core` is the running fiber's, or
# NULL on an OS thread without fibers. Raises what it raises; MemoryError: nothing was called.
cdef object call_on_stack(FiberCore *core, size_t stack_bytes, object function, tuple arguments)

# Give back recursion that the yellow zone took, if the fiber is out of it. Cheap when no zone is open.
cdef void recover_stack(FiberCore *core) noexcept

# The memory of stacks that nobody needs, to the kernel: for a moment with nothing else to do.
cdef void give_back_stacks() noexcept

# Of the ended fibers' stacks that are kept: give back what deep calls left behind, `most` at a time; True: there are more to look at.
cdef bint look_at_stacks(int most) noexcept

# And give up those that nobody needed for a while, `most` at a time. Returns the time in ns to the next look, 0 if there are more
# to give up now; -1: no look is needed. give_back_all: both of all of them, at once.
cdef int64_t trim_stacks(int most) noexcept
cdef void give_back_all() noexcept

# Usable bytes for a request, checked. ValueError or TypeError names the bounds.
cdef size_t checked_stack_bytes(object requested) except 0

# Put the overflow handler in front again if somebody else's came before it since; async-signal-safe, without the GIL.
cdef void watch_overflow_handler() noexcept nogil

# Whether C code below it has called back into Python through the GIL-state API: what it holds may belong to its OS thread.
cdef bint is_in_callback(FiberCore *core) noexcept

# Whether this OS thread's signals are due to `state`; other OS threads' thread states than `own`; and, from the monitor thread
# without the GIL, bring a signal that waits at `signals` to `running`. See pystate.h.
cdef bint hears_signals(PyThreadState *state) noexcept
cdef size_t foreign_states(PyThreadState *own) noexcept
cdef int forward_signals(PyThreadState *signals, volatile StatePointer *running) noexcept nogil

# Run the handlers of signals that came, and what other processes asked for; `signals` as for switch_to, not NULL. Raises what they
# raise.
cdef int check_signals(PyThreadState *signals) except -1

# `state` runs on the OS thread that handles signals: have it look for them.
cdef void remind_of_signals(PyThreadState *state) noexcept

# Let the running fiber do, soon, what other processes asked for; `signals` as for check_signals.
cdef void bring_requests(PyThreadState *signals) noexcept

# Around fork, for the fiber that forks: what the first returns goes to the second.
cdef unsigned long before_fork(FiberCore *core) noexcept
cdef void after_fork(FiberCore *core, unsigned long thread_id) noexcept

# In a forked child: every thread state but the current one is gone. Forget `core`'s; give its memory back.
cdef void forget_after_fork(FiberCore *core) noexcept
cdef PyThreadState *forget_pool_after_fork() noexcept   # what hears of signals from now on
