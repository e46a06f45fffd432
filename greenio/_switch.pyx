# _switch.pyx: the switch: stack, then thread state. What a fiber is made of, its first and its last instant.
#
# A switch in order: the fiber that leaves writes a Handover on its own stack; greenio_context_resume (asm/) saves six
# registers and two control words there and continues the other's stack; the other, in arrive(), notes where the first one
# stopped and makes its own thread state the current one (pystate/). That is all; nothing is copied.
#
# The stack goes first and the thread state after it, so that what waits for the GIL in PyThreadState_Swap waits on the
# stack it belongs to. Both orders work; this one lets a finished fiber's slot be given back in one place.
#
# A fiber that ends never returns: C locals that own references would leak. So the functions that run at the very end
# (fiber_entry, leave_for_ever) handle FiberCore pointers only.
import os
import sys
import threading

from cpython.ref cimport Py_XDECREF
from libc.errno cimport errno
from libc.stdint cimport INT64_MAX, int64_t, uintptr_t
from libc.string cimport strerror
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "Python.h":
    PyObject *PyObject_Call(PyObject *function, PyObject *arguments, PyObject *keywords)
    PyObject *PyDict_GetItemWithError(object dictionary, object key) except? NULL
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    PyThreadState *PyThreadState_Get()
    void PyErr_WriteUnraisable(PyObject *where)
    int PyErr_CheckSignals() except -1

cdef extern from "asm/context.h":
    struct greenio_transfer:
        greenio_context *previous_context
        void *data
    ctypedef void (*greenio_context_entry)(greenio_context *, void *) noexcept
    greenio_context *greenio_context_initialize(void *stack_base, greenio_context_entry entry)
    greenio_transfer greenio_context_resume(greenio_context *context, void *data)

cdef extern from "stack.h":
    enum:
        GREENIO_STACK_DEFAULT_BYTES
        GREENIO_GUARD_MADVISE
        GREENIO_GUARD_MPROTECT
        GREENIO_GUARD_CANARY
    const size_t GREENIO_STACK_MAX_BYTES
    struct greenio_stack_stats:
        size_t stack_bytes
        size_t slot_bytes
        size_t in_use
        size_t in_use_peak
        size_t pooled
        size_t cold
        size_t high_water
        size_t slabs
        size_t reserved_bytes
        size_t acquired_total
        size_t reused_total
        size_t given_back_total
        size_t guards[3]
    int greenio_stack_init(size_t hot_stack_bytes, size_t colours, int yellow, int forced)
    int greenio_stack_guard_kind()
    size_t greenio_stack_round(size_t stack_bytes)
    greenio_stack *greenio_stack_acquire(size_t stack_bytes)
    int greenio_stack_pool_has_room(const greenio_stack *stack)
    void greenio_stack_release(greenio_stack *stack)
    void greenio_stack_discard(greenio_stack *stack)
    void greenio_stack_give_back()
    greenio_stack *greenio_stack_pool_take(size_t keep)
    void greenio_stack_set_high_water(size_t slots, size_t surplus)
    greenio_stack *greenio_stack_take_surplus(int64_t now_ns, int64_t *next_ns)
    const size_t greenio_stack_surplus
    const size_t greenio_stack_to_look_at
    void greenio_stack_look(size_t most)
    int greenio_stack_stats_of "greenio_stack_stats"(size_t index, greenio_stack_stats *stats)
    int greenio_stack_canary_intact(const greenio_stack *stack)
    greenio_stack *greenio_stack_find(const void *address)
    const int greenio_stack_yellow_open_count

cdef extern from "overflow.h":
    struct greenio_overflow_hooks:
        int (*take_recursion)(greenio_stack *stack) noexcept
        void (*describe)(greenio_stack *stack, int fd) noexcept
    int greenio_overflow_install(const greenio_overflow_hooks *hooks) nogil
    int greenio_overflow_prepare_thread()
    void greenio_overflow_forget_thread()
    int greenio_overflow_in_register(int value) noexcept
    int greenio_overflow_recover(greenio_stack *stack, const void *stack_pointer)
    void greenio_overflow_report_and_die(greenio_stack *stack, const char *what)

cdef extern from "pystate/pystate.h":
    const size_t GREENIO_STACK_MIN_BYTES
    const int GREENIO_YELLOW_ZONE
    const size_t GREENIO_HOT_STACK_BYTES
    const size_t GREENIO_STACK_COLOURS
    const int GREENIO_SWAP_LETS_GIL_GO
    const int GREENIO_SIGNALS_FROM_OUTSIDE
    int greenio_pystate_init(int hide_stack_protection) except -1
    int greenio_pystate_new(greenio_stack *stack) except -1
    void greenio_pystate_enter(PyThreadState *leaving, PyThreadState *state, PyThreadState *signals)
    void greenio_pystate_leave(PyThreadState *state)
    void greenio_pystate_reset(PyThreadState *state)
    int greenio_pystate_is_clean(const PyThreadState *state)
    void greenio_pystate_put_away(PyThreadState *state)
    void greenio_pystate_take_out(PyThreadState *state)
    void greenio_pystate_drop(greenio_stack *stack)
    int greenio_pystate_use_stack(PyThreadState *state, const greenio_stack *stack, uintptr_t *saved) except -1
    void greenio_pystate_use_own_stack(PyThreadState *state, const greenio_stack *own, const uintptr_t *saved)
    int greenio_pystate_take_recursion(greenio_stack *stack, int (*in_register)(int value) noexcept) noexcept
    void greenio_pystate_give_back_recursion(greenio_stack *stack)
    void greenio_pystate_watch_recursion_errors(void (*freed)() noexcept)
    PyObject *greenio_pystate_take_exception()
    void greenio_pystate_write_traceback(PyThreadState *state, int fd)
    unsigned long greenio_pystate_before_fork(PyThreadState *state)
    void greenio_pystate_after_fork(PyThreadState *state, unsigned long thread_id)
    PyThreadState *greenio_pystate_after_fork_child(PyThreadState *state)
    void greenio_pystate_remind_of_signals(PyThreadState *state)
    void greenio_pystate_bring_requests(PyThreadState *main, PyThreadState *state)
    int greenio_pystate_hears_signals(PyThreadState *state)
    size_t greenio_pystate_foreign_count(PyThreadState *own)
    int greenio_pystate_forward_signals(PyThreadState *signals, volatile StatePointer *running) nogil

cdef extern from *:
    """
    #include <stdio.h>
    #include <unistd.h>
    #define greenio_here() __builtin_frame_address(0)

    /* A call's result as it came from C: NULL means that its exception is set. */
    static inline PyObject *greenio_take_reference(PyObject *value)
    {
        return value;
    }

    /* Runs in a signal handler, as the process dies: no Python but the traceback's, no allocation. */
    static void greenio_write_fiber(int fd, const char *name, unsigned long long id)
    {
        char line[160];
        int length = name != NULL ? snprintf(line, sizeof line, "Fiber %llu (%.100s):\\n", id, name)
                                  : snprintf(line, sizeof line, "Fiber %llu:\\n", id);
        ssize_t ignored = write(fd, line, (size_t)length);
        (void)ignored;
    }
    """
    void *greenio_here()
    object greenio_take_reference(PyObject *value)
    void greenio_write_fiber(int fd, const char *name, unsigned long long id)


cdef struct Handover:         # from the one that leaves to the one that is continued, on the stack of the first
    FiberCore *leaving
    FiberCore *target
    PyThreadState *signals


cdef bint check_canaries = False   # some slot has no other guard
cdef unsigned long long forks_survived = 0   # how many forks lie between the first process and this child: idle thread states were freed


cdef class BaseFiber:
    """A fiber without a scheduler: greenio.Fiber is the one that runs."""

    def __cinit__(self):
        self.core.fiber = <PyObject *>self

    cdef void outcome_known(self) noexcept:
        pass

    cdef FiberCore *successor(self, PyThreadState **signals) noexcept:
        return NULL


cdef void adopt_thread(BaseFiber fiber) noexcept:
    fiber.core.thread_state = PyThreadState_Get()
    fiber.core.started = True


cdef int prepare(BaseFiber fiber) except -1:
    global check_canaries
    cdef greenio_stack *stack = greenio_stack_acquire(fiber.stack_bytes)
    if stack is NULL:
        raise MemoryError(
            f"no stack of {fiber.stack_bytes} bytes for a fiber: {strerror(errno).decode()}; "
            "end some fibers, or use a smaller stack_size")
    if stack.thread_state is NULL:
        try:
            greenio_pystate_new(stack)
        except BaseException:
            greenio_stack_discard(stack)
            raise
    else:
        greenio_pystate_take_out(<PyThreadState *>stack.thread_state)
    if stack.guard_kind == GREENIO_GUARD_CANARY:
        check_canaries = True
    stack.owner = <PyObject *>fiber
    fiber.core.stack = stack
    fiber.core.thread_state = <PyThreadState *>stack.thread_state
    fiber.core.context = greenio_context_initialize(stack.base, fiber_entry)
    fiber.core.started = True
    return 0


cdef void switch_to(FiberCore *leaving, FiberCore *target, PyThreadState *signals) noexcept:
    cdef Handover handover
    cdef greenio_transfer transfer
    cdef greenio_context *context = target.context
    if greenio_stack_yellow_open_count != 0:
        recover_stack(leaving)
    if check_canaries:
        check_canary(leaving)
    handover.leaving = leaving
    handover.target = target
    handover.signals = signals
    greenio_pystate_leave(leaving.thread_state)
    transfer = greenio_context_resume(context, &handover)
    arrive(transfer.previous_context, <Handover *>transfer.data)


cdef inline FiberCore *arrive(greenio_context *previous_context, Handover *handover) noexcept:
    # The first thing on every continued stack. The handover lies on the stack of the one that left: read it before the GIL can go.
    cdef FiberCore *left = handover.leaving
    cdef FiberCore *target = handover.target
    cdef bint ended = left.ended
    greenio_pystate_enter(left.thread_state, target.thread_state, handover.signals)
    # Only now: the GIL may have been let go in there, and who has left cannot be continued elsewhere before its thread state is free.
    left.context = previous_context
    target.context = NULL
    if ended:
        bury(left)
    return target


cdef void bury(FiberCore *ended) noexcept:
    # Both switches are done: nobody stands on the slot, and its thread state is nobody's current one.
    cdef greenio_stack *stack = ended.stack
    ended.stack = NULL
    ended.context = NULL
    ended.thread_state = NULL
    stack.owner = NULL
    if greenio_stack_pool_has_room(stack):
        greenio_pystate_put_away(<PyThreadState *>stack.thread_state)
        greenio_stack_release(stack)
    else:
        greenio_pystate_drop(stack)
        greenio_stack_discard(stack)
    Py_XDECREF(ended.fiber)


cdef void fiber_entry(greenio_context *previous_context, void *data) noexcept:
    # The base of every fiber's stack. It never returns: the last thing it does is to continue somebody else.
    cdef FiberCore *core = arrive(previous_context, <Handover *>data)
    cdef FiberCore *next
    cdef PyThreadState *signals
    while True:
        run_function(core)
        next = (<BaseFiber>core.fiber).successor(&signals)
        if next.started:
            break
        take_over(core, next)
        core = next
    leave_for_ever(core, next, signals)


cdef void take_over(FiberCore *ended, FiberCore *next) noexcept:
    # A fiber not started yet begins where another one ends: same slot, same thread state, no switch at all.
    next.stack = ended.stack
    next.thread_state = ended.thread_state
    next.stack.owner = next.fiber
    next.started = True
    ended.stack = NULL
    ended.thread_state = NULL
    Py_XDECREF(ended.fiber)


cdef void leave_for_ever(FiberCore *core, FiberCore *target, PyThreadState *signals) noexcept:
    cdef Handover handover
    cdef greenio_context *context = target.context
    core.ended = True
    handover.leaving = core
    handover.target = target
    handover.signals = signals
    greenio_context_resume(context, &handover)


cdef void run_function(FiberCore *core) noexcept:
    # One callable from start to end, its outcome kept in the fiber, the thread state as new afterwards. Exceptions stay below:
    # no line of ours is in the user's traceback.
    cdef BaseFiber fiber = <BaseFiber>core.fiber
    cdef PyObject *value
    if not greenio_pystate_is_clean(core.thread_state):
        greenio_pystate_reset(core.thread_state)
    try:
        if fiber.context_variables is not None:
            PyContext_Enter(fiber.context_variables)
        follow_trace_hooks()
    except BaseException as error:
        fiber.raised = error
    else:
        value = PyObject_Call(<PyObject *>fiber.function, <PyObject *>fiber.arguments, NULL)
        if value is not NULL:
            fiber.returned = <object>value
            Py_XDECREF(value)
        else:
            value = greenio_pystate_take_exception()
            fiber.raised = <object>value
            Py_XDECREF(value)
    fiber.function = None
    fiber.arguments = None
    fiber.outcome_known()
    try:
        if fiber.context_variables is not None:
            PyContext_Exit(fiber.context_variables)
            fiber.context_variables = None
    except BaseException:
        PyErr_WriteUnraisable(core.fiber)
    greenio_pystate_reset(core.thread_state)
    if greenio_stack_yellow_open_count != 0:
        recover_stack(core)
    if check_canaries:
        check_canary(core)


cdef dict threading_names = threading.__dict__

cdef void follow_trace_hooks() except *:
    # A fiber starts traced and profiled as a thread would (threading.settrace, threading.setprofile).
    cdef PyObject *trace = PyDict_GetItemWithError(threading_names, "_trace_hook")
    cdef PyObject *profile = PyDict_GetItemWithError(threading_names, "_profile_hook")
    if trace is not NULL and <object>trace is not None:
        sys.settrace(<object>trace)
    if profile is not NULL and <object>profile is not None:
        sys.setprofile(<object>profile)


cdef struct StackCall:         # one call on another stack, on the stack of the caller
    PyObject *function
    PyObject *arguments
    PyObject *value            # new reference, or NULL with an exception set


cdef void stack_call_entry(greenio_context *previous_context, void *data) noexcept:
    cdef StackCall *call = <StackCall *>data
    call.value = PyObject_Call(call.function, call.arguments, NULL)
    greenio_context_resume(previous_context, NULL)


cdef object call_on_stack(FiberCore *core, size_t stack_bytes, object function, tuple arguments):
    cdef StackCall call
    cdef uintptr_t saved[3]
    cdef PyThreadState *state = PyThreadState_Get()
    cdef greenio_stack *outer = core.stack if core is not NULL else NULL
    cdef greenio_stack *stack = greenio_stack_acquire(stack_bytes)
    # An OS thread's own code may stand on a slot too: in such a call, nested, or around run().
    cdef greenio_stack *stands_on = outer if outer is not NULL else greenio_stack_find(greenio_here())
    cdef void *idle_state
    cdef unsigned long long forks = forks_survived
    if stack is NULL:
        raise MemoryError(f"no stack of {stack_bytes} bytes: {strerror(errno).decode()}")
    # A pooled slot keeps a thread state for the next fiber; for this call it carries the caller's.
    idle_state = stack.thread_state
    stack.thread_state = state
    stack.owner = core.fiber if core is not NULL else NULL
    if core is not NULL:
        core.stack = stack
    call.function = <PyObject *>function
    call.arguments = <PyObject *>arguments
    try:
        greenio_pystate_use_stack(state, stack, saved)
        greenio_context_resume(greenio_context_initialize(stack.base, stack_call_entry), &call)
        greenio_pystate_use_own_stack(state, stands_on, saved)
    finally:
        recover_from(stack)
        if not greenio_stack_canary_intact(stack):
            greenio_overflow_report_and_die(stack, "overflowed an unguarded stack")
        if core is not NULL:
            core.stack = outer
        stack.owner = NULL
        if forks != forks_survived:
            idle_state = NULL
        stack.thread_state = idle_state
        if idle_state is not NULL:
            greenio_stack_release(stack)
        else:
            greenio_stack_discard(stack)
    return greenio_take_reference(call.value)


cdef void give_back_stacks() noexcept:
    greenio_stack_give_back()


cdef void give_back_all() noexcept:
    cdef int64_t unused
    cdef greenio_stack *stack
    while greenio_stack_surplus != 0:
        stack = greenio_stack_take_surplus(INT64_MAX, &unused)
        give_up(stack)
    greenio_stack_look(<size_t>-1)
    greenio_stack_give_back()


cdef bint look_at_stacks(int most) noexcept:
    if greenio_stack_to_look_at != 0:
        greenio_stack_look(<size_t>most)
    return greenio_stack_to_look_at != 0


cdef int64_t trim_stacks(int most) noexcept:
    cdef greenio_stack *stack
    cdef timespec time
    cdef int64_t now_ns
    cdef int64_t next_ns
    if greenio_stack_surplus == 0:
        return -1
    clock_gettime(CLOCK_MONOTONIC, &time)
    now_ns = next_ns = <int64_t>time.tv_sec * 1_000_000_000 + time.tv_nsec
    while most > 0:
        stack = greenio_stack_take_surplus(now_ns, &next_ns)
        if stack is NULL:
            break
        give_up(stack)
        most -= 1
    return next_ns - now_ns


cdef inline void give_up(greenio_stack *stack) noexcept:
    if stack.thread_state is not NULL:
        greenio_pystate_drop(stack)
    greenio_stack_discard(stack)


cdef void recover_stack(FiberCore *core) noexcept:
    if core.stack is not NULL:
        recover_from(core.stack)


cdef void recover_from(greenio_stack *stack) noexcept:
    if greenio_stack_yellow_open_count != 0 and greenio_overflow_recover(stack, greenio_here()):
        greenio_pystate_give_back_recursion(stack)


cdef void recursion_error_freed() noexcept:
    # Somebody has handled one: it may have come out of the yellow zone, which is closed as soon as its fiber is out of it.
    cdef greenio_stack *stack
    if greenio_stack_yellow_open_count != 0:
        stack = greenio_stack_find(greenio_here())
        if stack is not NULL:
            recover_from(stack)


cdef void check_canary(FiberCore *core) noexcept:
    if core.stack is not NULL and not greenio_stack_canary_intact(core.stack):
        greenio_overflow_report_and_die(core.stack, "overflowed an unguarded stack")


cdef int take_recursion(greenio_stack *stack) noexcept:
    return greenio_pystate_take_recursion(stack, greenio_overflow_in_register)


cdef void describe(greenio_stack *stack, int fd) noexcept:
    if stack.owner is not NULL:
        greenio_write_fiber(fd, (<BaseFiber>stack.owner).report_name, (<BaseFiber>stack.owner).id)
    if stack.thread_state is not NULL:
        greenio_pystate_write_traceback(<PyThreadState *>stack.thread_state, fd)


cdef size_t checked_stack_bytes(object requested) except 0:
    cdef size_t rounded
    if requested is None:
        return default_stack_bytes
    if not isinstance(requested, int):
        raise TypeError(f"stack_size must be a number of bytes (int) or None, not {type(requested).__name__}")
    if not GREENIO_STACK_MIN_BYTES <= requested <= GREENIO_STACK_MAX_BYTES:
        raise ValueError(
            f"stack_size must be {GREENIO_STACK_MIN_BYTES} to {GREENIO_STACK_MAX_BYTES} bytes, not {requested}")
    rounded = greenio_stack_round(requested)
    return rounded


def check_stack_size(object stack_size):
    """Raises what spawn would, TypeError or ValueError, if it cannot be a fiber's."""
    checked_stack_bytes(stack_size)


cdef bint is_in_callback(FiberCore *core) noexcept:
    return core.thread_state is not NULL and core.thread_state.gilstate_counter > 1


cdef bint hears_signals(PyThreadState *state) noexcept:
    return greenio_pystate_hears_signals(state)


cdef void bring_requests(PyThreadState *signals) noexcept:
    greenio_pystate_bring_requests(signals, PyThreadState_Get())


cdef void remind_of_signals(PyThreadState *state) noexcept:
    greenio_pystate_remind_of_signals(state)


cdef int check_signals(PyThreadState *signals) except -1:
    bring_requests(signals)
    return PyErr_CheckSignals()


cdef size_t foreign_states(PyThreadState *own) noexcept:
    return greenio_pystate_foreign_count(own)


cdef int forward_signals(PyThreadState *signals, volatile StatePointer *running) noexcept nogil:
    return greenio_pystate_forward_signals(signals, running)


cdef unsigned long before_fork(FiberCore *core) noexcept:
    return greenio_pystate_before_fork(core.thread_state)


cdef void after_fork(FiberCore *core, unsigned long thread_id) noexcept:
    greenio_pystate_after_fork(core.thread_state, thread_id)


cdef void forget_after_fork(FiberCore *core) noexcept:
    cdef greenio_stack *stack = core.stack
    core.context = NULL
    core.thread_state = NULL
    core.stack = NULL
    core.ended = True
    if stack is not NULL:
        stack.owner = NULL
        stack.thread_state = NULL
        greenio_stack_discard(stack)


cdef PyThreadState *forget_pool_after_fork() noexcept:
    global forks_survived
    cdef greenio_stack *stack
    cdef PyThreadState *signals = greenio_pystate_after_fork_child(PyThreadState_Get())
    forks_survived += 1
    while True:
        stack = greenio_stack_pool_take(0)
        if stack is NULL:
            return signals
        stack.thread_state = NULL
        greenio_stack_discard(stack)


cdef void trim_pool(size_t keep) noexcept:
    cdef greenio_stack *stack
    while True:
        stack = greenio_stack_pool_take(keep)
        if stack is NULL:
            greenio_stack_give_back()
            return
        give_up(stack)


cdef dict guard_names = {
    GREENIO_GUARD_MADVISE: "madvise",
    GREENIO_GUARD_MPROTECT: "mprotect",
    GREENIO_GUARD_CANARY: "canary",
}
MIN_STACK_BYTES = GREENIO_STACK_MIN_BYTES
# Whether a switch lets the GIL go for a moment: another OS thread that waits for it takes it then.
SWAP_LETS_GIL_GO = bool(GREENIO_SWAP_LETS_GIL_GO)
# Whether what another OS thread asks for by PyErr_SetInterruptEx is seen by code that computes.
SIGNALS_FROM_OUTSIDE = bool(GREENIO_SIGNALS_FROM_OUTSIDE)


def guard_kind():
    """The guard that a newly made stack gets: "madvise", "mprotect" or "canary"."""
    return guard_names[greenio_stack_guard_kind()]


def overflowing():
    """How many stacks have their yellow half open just now: their fibers ran out of stack and have not come back up."""
    return greenio_stack_yellow_open_count


def stack_classes():
    """Figures of each size of stack that was ever asked for, smallest first, as a list of dicts; see greenio.debug.stack_stats."""
    cdef greenio_stack_stats stats
    cdef size_t index = 0
    cdef list rows = []
    while greenio_stack_stats_of(index, &stats):
        index += 1
        if stats.acquired_total == 0:
            continue
        rows.append({
            "stack_bytes": stats.stack_bytes, "slot_bytes": stats.slot_bytes,
            "in_use": stats.in_use, "in_use_peak": stats.in_use_peak,
            "pooled": stats.pooled, "cold": stats.cold, "high_water": stats.high_water,
            "slabs": stats.slabs, "reserved_bytes": stats.reserved_bytes,
            "acquired_total": stats.acquired_total, "reused_total": stats.reused_total,
            "given_back_total": stats.given_back_total,
            "guards": {guard_names[kind]: stats.guards[kind] for kind in range(3) if stats.guards[kind]},
        })
    return rows


def set_stack_pool(Py_ssize_t slots, Py_ssize_t surplus=0):
    """Keep at most *slots* finished stacks of each size warm for the next fibers; give back what is above.

    Args:
        slots: how many, >= 0; 1024 unless set. Each keeps 4 KiB and its thread state, more if a fiber went deep.
        surplus: how many more may stay until they have not been needed for a second, >= 0; 131,072 unless set.
    Raises:
        ValueError: *slots* or *surplus* < 0.
    """
    if slots < 0 or surplus < 0:
        raise ValueError(f"the pool must keep >= 0 stacks, not {slots} and a surplus of {surplus}")
    greenio_stack_set_high_water(slots, surplus)
    trim_pool(slots)


cdef size_t default_stack_bytes = GREENIO_STACK_DEFAULT_BYTES


def set_default_stack_size(object stack_size):
    """What spawn gives a fiber when neither it nor run says stack_size, in bytes. Returns the size before."""
    global default_stack_bytes
    before = default_stack_bytes
    default_stack_bytes = checked_stack_bytes(stack_size)
    return before


cdef greenio_overflow_hooks overflow_hooks


def install_overflow_handler():
    """Handle stack overflow in fibers of this OS thread: the process's handler, and the thread's alternate signal stack.

    Raises:
        OSError: the kernel refused either.
    """
    overflow_hooks.take_recursion = take_recursion
    overflow_hooks.describe = describe
    if greenio_overflow_prepare_thread() < 0 or greenio_overflow_install(&overflow_hooks) < 0:
        raise OSError(errno, f"no handler for stack overflow: {strerror(errno).decode()}")


def forget_overflow_thread():
    """Give back the alternate signal stack that install_overflow_handler gave this OS thread, if it did."""
    greenio_overflow_forget_thread()


cdef void watch_overflow_handler() noexcept nogil:
    greenio_overflow_install(&overflow_hooks)


def _set_up():
    cdef object wanted = os.environ.get("GREENIO_GUARD")
    cdef int forced = -1
    greenio_pystate_init(os.environ.get("GREENIO_HIDE_STACK_PROTECTION") == "1")
    if wanted:
        for kind, name in guard_names.items():
            if name == wanted:
                forced = kind
        if forced < 0:
            raise ImportError(f"GREENIO_GUARD must be one of {', '.join(guard_names.values())}, not {wanted!r}")
    if greenio_stack_init(GREENIO_HOT_STACK_BYTES, GREENIO_STACK_COLOURS, GREENIO_YELLOW_ZONE, forced) < 0:
        raise ImportError(f"GREENIO_GUARD={wanted}: {strerror(errno).decode()}")
    greenio_pystate_watch_recursion_errors(recursion_error_freed)
    size = os.environ.get("GREENIO_STACK_SIZE")
    if size:
        set_default_stack_size(int(size))


_set_up()
