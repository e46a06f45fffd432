# _scheduler.pyx: who runs next. The contract and the invariants are in _scheduler.pxd.
#
# A switch away from a fiber: switch_out() takes the next one from the run queue. If the queue is empty, idle() runs on the stack of
# the fiber that parks, or ends, until something is ready: timers, descriptors, other OS threads. If the first thing
# ready is that fiber itself, nothing is switched.
#
# Fairness, with no system call for each switch: timers and the poller are looked at every 64 switches, and after 100 µs if
# anything waits there. An operation that completes without parking is counted; after 32 of them, or 1 ms, the fiber gives way.
#
# Not taken: a hub fiber that runs the loop (two switches for each wait), and timers in a wheel (the heap of timers.h
# costs 0.2 µs at 100,000 timers, and keeps exact deadlines).
import functools
import os
import signal
import sys
import threading
import types
import weakref

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_REFCNT
from libc.errno cimport EBADF, EINTR
from libc.stdint cimport INT64_MAX, uint32_t
from libc.stdlib cimport free, malloc

from greenio._switch cimport (
    StatePointer, adopt_thread, after_fork, before_fork, bring_requests, call_on_stack, check_signals, checked_stack_bytes,
    foreign_states, forget_after_fork, is_in_callback, forget_pool_after_fork, forward_signals, give_back_all, give_back_stacks,
    hears_signals, look_at_stacks, prepare, recover_stack, remind_of_signals, switch_to, trim_stacks, watch_overflow_handler)
from greenio.pollers.poller cimport (
    FAILED, HANG_UP, PEER_CLOSED, READABLE, URGENT, WRITABLE)

from greenio import _switch
from greenio._errors import Cancelled, DeadlockError, InternalError, RunFinishedError
from greenio._switch import forget_overflow_thread, install_overflow_handler
from greenio.pollers import DefaultPoller

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    ctypedef struct PyFrameObject:
        pass
    ctypedef struct PyCodeObject:
        pass
    PyFrameObject *PyEval_GetFrame()
    object PyFrame_GetCode "(PyObject *)PyFrame_GetCode"(PyFrameObject *frame)
    int PyFrame_GetLasti(PyFrameObject *frame)
    int PyCode_Addr2Line(PyCodeObject *code, int offset)
    PyFrameObject *PyThreadState_GetFrame(PyThreadState *state)
    unsigned long PyThread_get_thread_ident()
    int PyErr_CheckSignals() except -1
    const char *PyUnicode_AsUTF8(object text) except NULL
    void Py_XDECREF(PyObject *)
    void PyObject_GC_Track(PyObject *)
    void PyObject_GC_UnTrack(PyObject *)

cdef extern from "monitor.h":
    struct greenio_monitor_hooks:
        int (*forward_signals)(PyThreadState *signals, volatile StatePointer *running) noexcept nogil
        void (*watch_overflow_handler)() noexcept nogil
        int (*stalled)(greenio_watched *watched) noexcept nogil
    int greenio_monitor_add(greenio_watched *watched, const greenio_monitor_hooks *hooks)
    void greenio_monitor_remove(greenio_watched *watched)
    void greenio_monitor_wait_over(greenio_watched *watched)
    void greenio_monitor_stop()
    int greenio_monitor_start()
    void greenio_monitor_rouse()
    void greenio_monitor_after_fork_child()
    uint64_t greenio_monitor_ticks()
    uint64_t greenio_monitor_progress(const greenio_watched *watched)
    void greenio_monitor_set_tick(int64_t ns)

cdef extern from "assistants.h":
    ctypedef void (*greenio_assistant_work)(greenio_watched *watched, uint64_t run_id, const greenio_system_call *call) noexcept
    void greenio_assistants_work(greenio_assistant_work work)
    int greenio_assistants_send(greenio_watched *watched) nogil
    void greenio_assistants_carry(const sigset_t *mask)
    void greenio_assistants_let_go()
    void greenio_assistants_end()
    void greenio_assistants_after_fork_child()

cdef extern from "timers.h":
    uint32_t greenio_timers_add(greenio_timers *timers, int64_t deadline_ns, void *owner)
    void greenio_timers_remove(greenio_timers *timers, uint32_t id)
    void greenio_timers_clear(greenio_timers *timers)
    void greenio_timers_drop(greenio_timers *timers)
    int64_t greenio_timers_deadline(const greenio_timers *timers)
    int64_t greenio_timers_second_deadline(const greenio_timers *timers)
    void *greenio_timers_owner(const greenio_timers *timers)
    void *greenio_timers_owner_at(const greenio_timers *timers, uint32_t index)

cdef extern from "asm/context.h":
    uint64_t greenio_ticks() nogil
    void greenio_prefetch(const void *address) nogil
    void greenio_prefetch_lines(const void *address, Py_ssize_t first, Py_ssize_t end) nogil

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <semaphore.h>
    #include <signal.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    /* The OS thread's scheduler. The accessors are never inlined: the address of a thread-local variable must not be carried across a
     * switch, after which the fiber may be on another OS thread. */
    static __thread void *greenio_thread_scheduler __attribute__((tls_model("initial-exec")));
    static __attribute__((noinline)) void *greenio_scheduler_get(void) { return greenio_thread_scheduler; }
    static __attribute__((noinline)) void greenio_scheduler_set(void *scheduler) { greenio_thread_scheduler = scheduler; }
    static __attribute__((noinline)) void **greenio_scheduler_here(void) { return &greenio_thread_scheduler; }

    /* And its Carrier, if it is one. */
    static __thread void *greenio_thread_carrier __attribute__((tls_model("initial-exec")));
    static __attribute__((noinline)) void *greenio_carrier_get(void) { return greenio_thread_carrier; }
    static __attribute__((noinline)) void **greenio_carrier_here(void) { return &greenio_thread_carrier; }

    /* 0: it is the caller's turn. Else an errno: ETIMEDOUT, EINTR. */
    static int greenio_turn_wait(sem_t *turn, int seconds)
    {
        struct timespec until;
        if (seconds == 0)
            return sem_wait(turn) == 0 ? 0 : errno;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += seconds;
        return sem_timedwait(turn, &until) == 0 ? 0 : errno;
    }

    static inline int64_t greenio_monotonic_ns(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    #define greenio_kernel_thread_id() ((int)syscall(SYS_gettid))
    """
    int greenio_kernel_thread_id()
    void *greenio_scheduler_get()
    void greenio_scheduler_set(void *scheduler)
    void **greenio_scheduler_here()
    void *greenio_carrier_get()
    void **greenio_carrier_here()
    int greenio_turn_wait(sem_t *turn, int seconds)
    int sem_init(sem_t *semaphore, int shared, unsigned int value)
    int sem_post(sem_t *semaphore)
    int sem_destroy(sem_t *semaphore)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *before)
    enum:
        SIG_BLOCK
    int64_t greenio_monotonic_ns()

cdef enum:
    LOOK_EVERY = 64               # switches
    BUDGET = 32                   # operations
    FETCH_FIBER = 12              # turns ahead: the fiber object
    FETCH_STACK = 8               # the first line of its stopped stack, and with it the address translation
    FETCH_REST = 4                # more of both
    FETCH_TIMERS = 1000           # timers from which on the next sleepers are fetched, too
    CROWD_SLACK_NS = 200_000      # and, if the next two are as near each other, the wait for them takes that much longer: whoever is due by
                                  # then wakes in one go
    FETCH_TOGETHER = 4            # fibers whose address translations are asked for at once where each turn has a system call
    FETCH_FIBER_BYTES = 384
    FETCH_STATE_BYTES = 384
    FETCH_FRAMES_BYTES = 768
    FETCH_BLOCK_BYTES = 512       # the control block and the outermost Python frames
    FETCH_CALLS_BYTES = 1472      # from where it stopped to the interpreter's frame, through a Stream too
    FETCH_STACK_BYTES = 2560
    CANCELS_BEFORE_WARNING = 1000
    CANCELS_AT_EXIT = 100         # one that has swallowed so many is abandoned
    RING_START = 64
    REPR_ROOM = 200               # characters
    FAILED_ROOM = 1000            # failures noted before those are dropped that somebody has seen meanwhile
    DEADLOCK_GRACE_NS = 10_000_000        # an OS thread that ends, or a signal under way, gets this long first
    DEADLOCK_AGAIN_NS = 1_000_000_000     # other OS threads may end without a word
    LONG_WAIT_NS = 10_000_000             # time enough to tidy up first
    TRIMMED_A_LOOK = 16           # stacks, of 2 to 4 µs each
    EXIT_PATIENCE_MS = 5000
    CARRIER_IDLE_SECONDS = 5
    TELL_REFUSED_NS = 100_000_000
    BIG_STACK_BYTES = 8 * 1024 * 1024

cdef uint64_t ticks_per_ms
cdef uint64_t look_ticks                  # 100 µs
cdef unsigned long long fibers_made = 0
cdef set live = set()                     # schedulers between open and close, of all OS threads
cdef greenio_monitor_hooks monitor_hooks
cdef uint64_t runs_named = 0
cdef object stall_teller = None           # tell(scheduler, fiber, seconds, call, which, beside)
cdef bint monitor_stopped = False         # for a fork; whoever looks around next starts it again


cdef void start_monitor_again() noexcept:
    global monitor_stopped
    monitor_stopped = False
    greenio_monitor_start()


def watch_again():
    """After a fork, once the interpreter has counted its OS threads: the monitor thread goes on. Otherwise does nothing."""
    if monitor_stopped:
        start_monitor_again()


cdef void calibrate_ticks() noexcept:
    # Against CLOCK_MONOTONIC, for 200 µs. The bounds that use it are for fairness; 10 % do not matter.
    global ticks_per_ms, look_ticks
    cdef int64_t start = greenio_monotonic_ns()
    cdef uint64_t first = greenio_ticks()
    cdef int64_t passed = 0
    while passed < 200_000:
        passed = greenio_monotonic_ns() - start
    ticks_per_ms = (greenio_ticks() - first) * 1_000_000 // <uint64_t>passed
    look_ticks = ticks_per_ms // 10


cdef class Clock:
    """Where a scheduler's time comes from. Subclasses replace it, in tests above all: `run(main, clock=…)`."""

    cpdef int64_t now_ns(self) except? -1:
        """Now, in nanoseconds from any fixed moment, >= 0; never falls."""
        return greenio_monotonic_ns()

    cpdef int64_t wait_ns(self, int64_t deadline_ns) except? -1:
        """How long the poller may wait, nothing being ready, for a deadline that comes next; 0: do not wait."""
        return max(0, deadline_ns - self.now_ns())


cdef class Schedule:
    """Which of the ready fibers runs next; subclasses replace round robin in tests: `run(main, schedule=…)`.

    Attributes:
        seed: an int for what else greenio leaves to chance while the run lasts, such as which of several ready cases select takes.
    """

    seed = 0

    def begin(self):
        """A run under it begins."""

    cpdef object choose(self, list ready, Fiber running, bint yielded):
        """The fiber to run now, one of *ready*. Called at every checkpoint, park and end of a fiber; must not park.

        Args:
            ready: at least one, in the order in which they became ready.
            running: the last of them, if it stands at a checkpoint and may go on; None: it has parked or ended.
            yielded: it asked that the others go first, by yield_now or sleep(0).
        """
        return ready[0]


cdef inline bint comes_first(int64_t limit_ns, int64_t deadline_ns) noexcept:
    # NEVER is the greatest unsigned number. At the same moment, the limit: whoever gets both was not done in time.
    return limit_ns != NEVER and <uint64_t>limit_ns <= <uint64_t>deadline_ns


cdef class Limit:
    """What bounds fibers from outside; greenio.CancelScope is one."""

    cdef void expire(self, Fiber fiber) noexcept:
        pass

    cdef int spread(self, Fiber fiber) except -1:
        return 0

    cdef object reason(self, Fiber fiber):
        return fiber.cancel_reason

    cdef bint born(self, Fiber fiber) except -1:
        return True

    cdef void ended(self, Fiber fiber) noexcept:
        pass

    cdef void after_fork(self, Fiber fiber, bint lives) noexcept:
        pass


cdef Scheduler come_back_here():
    # No fibers run on this OS thread, or only one that is stuck: it comes back.
    cdef void *carrier = greenio_carrier_get()
    if carrier is NULL or (<Carrier>carrier).fiber is NULL:
        return None
    (<Carrier>carrier).come_back()
    return <Scheduler>greenio_scheduler_get()


cdef Scheduler current_scheduler_or_none():
    cdef void *scheduler = greenio_scheduler_get()
    return come_back_here() if scheduler is NULL else <Scheduler>scheduler


cdef Scheduler carried_here():
    cdef void *scheduler = greenio_scheduler_get()
    return None if scheduler is NULL else <Scheduler>scheduler


cdef Scheduler current_scheduler_or_raise():
    cdef void *scheduler = greenio_scheduler_get()
    cdef Scheduler found
    if scheduler is not NULL:
        return <Scheduler>scheduler
    found = come_back_here()
    if found is None:
        raise RuntimeError(
            "no fibers run on this OS thread: call this inside greenio.run(main), or hand it to a scheduler from outside "
            "with scheduler.spawn(fn)")
    return found


cdef bint heard_from_outside = _switch.SIGNALS_FROM_OUTSIDE

cdef void set_slice(Scheduler scheduler, int64_t slice_ns, int signal_number) noexcept:
    scheduler.watched.slice_signal = signal_number
    scheduler.watched.slice_is_sent = not heard_from_outside
    scheduler.watched.slice_switches = scheduler.watched.switches - 1
    scheduler.watched.slice_ns = slice_ns
    greenio_monitor_rouse()  # waits for a look that has begun


cdef int64_t deadline_of(Scheduler scheduler, object timeout) except? -2:
    cdef double seconds
    cdef double wait_ns
    cdef int64_t now_ns
    if timeout is None:
        return NEVER
    seconds = timeout
    if not seconds >= 0:
        raise ValueError(f"a timeout is >= 0 seconds or None, not {timeout!r}")
    wait_ns = seconds * 1e9
    now_ns = scheduler.now()
    if wait_ns >= 9e18 - now_ns:
        return NEVER
    return now_ns + <int64_t>wait_ns


# --- fibers ----------------------------------------------------------------------------------------------------------


cdef bint unpark(Fiber fiber, int wake) noexcept:
    cdef Scheduler scheduler
    if fiber.run_state != PARKED:
        return False
    scheduler = fiber.scheduler
    fiber.wake = wake
    if fiber.timer != GREENIO_TIMER_NONE:
        scheduler.disarm(fiber)
    scheduler.push(<PyObject *>fiber)
    return True


def unpark_fiber(Fiber fiber not None, waiting_on=None):
    """Make *fiber* ready if it is parked on *waiting_on*; returns whether it was. From any OS thread."""
    return fiber.waiting_on is waiting_on and unpark(fiber, WOKEN)


def park_here(str reason, object waiting_on=None, object timeout=None):
    """Park the current fiber until unpark_fiber names it and *waiting_on*; False when *timeout* seconds passed first.

    True is a hint: look whether what is waited for has come, and park again if it has not.

    Raises:
        Cancelled: this fiber was cancelled.
        RuntimeError: no fibers run on this OS thread.
    """
    cdef Scheduler scheduler = current_scheduler_or_raise()
    return scheduler.park(reason, waiting_on, deadline_of(scheduler, timeout)) != TIMED_OUT


cdef dict state_names = {READY: "ready", RUNNING: "running", PARKED: "parked", DONE: "done", ABANDONED: "abandoned"}


cdef class Fiber(BaseFiber):
    """One callable that runs concurrently with others, on a stack and a Python thread state of its own.

    Made by `spawn`; the handle may be dropped, the fiber runs on. Its methods may be called from any fiber and any OS thread.
    In annotations, Fiber[T] is one whose function returns a T.

    Attributes:
        id: unique in the process, in order of creation, from 1.
        scheduler: the Scheduler that runs it.
        stack_bytes: usable C stack in bytes; 0 for a main fiber, which has its OS thread's.
        pinned: > 0: it stays on its OS thread; see greenio.pin.
    """

    def __init__(self):
        raise TypeError("fibers are made by greenio.spawn(fn, *args)")

    # Fiber[int], in annotations: a fiber whose function returns an int.
    __class_getitem__ = classmethod(types.GenericAlias)

    @property
    def name(self):
        """What spawn was given, else "fiber-" and the id. May be set."""
        return self.given_name if self.given_name is not None else f"fiber-{self.id}"

    @name.setter
    def name(self, str name not None):
        cdef const char *report_name = PyUnicode_AsUTF8(name)
        self.given_name = name
        self.report_name = report_name

    @property
    def state(self):
        """"ready", "running", "parked", "done"; or "abandoned", if it would not end when the interpreter exited."""
        return state_names[self.run_state]

    @property
    def ident(self):
        """The thread id under which sys._current_frames(), faulthandler and debuggers know it; None while it has no stack."""
        if self.core.thread_state is NULL:
            return None
        return self.core.thread_state.thread_id

    @property
    def waits_for(self):
        """While parked: (a short phrase, the object waited on or None, since when on current_time's clock); else None."""
        if self.run_state != PARKED:
            return None
        return self.wait_reason, self.waiting_on, self.parked_ns / 1e9

    @property
    def spawned_at(self):
        """(file name, line number) of the spawn call, or None for a main fiber."""
        if self.spawn_code is None:
            return None
        return self.spawn_code.co_filename, PyCode_Addr2Line(<PyCodeObject *>self.spawn_code, self.spawn_offset)

    @property
    def stack(self):
        """The Python calls it is in, outermost first, as a traceback.StackSummary; empty before its start and after its end."""
        import traceback
        cdef PyFrameObject *frame = NULL
        if self.core.thread_state is not NULL:
            frame = PyThreadState_GetFrame(self.core.thread_state)
        if frame is NULL:
            return traceback.StackSummary()
        summary = traceback.extract_stack(<object><PyObject *>frame)
        Py_XDECREF(<PyObject *>frame)
        return summary

    def done(self):
        """Whether it has returned, raised, or ended by cancellation."""
        return self.outcome

    def cancelled(self):
        """Whether it ended by cancellation: Cancelled left its function."""
        return self.outcome and isinstance(self.raised, Cancelled)

    def cancel(self, reason=None):
        """Raise Cancelled in the fiber at every checkpoint from now on, until it has ended.

        One that has not begun begins, and gets it at its first checkpoint. The first *reason* counts.

        Args:
            reason: anything; becomes Cancelled.reason.
        Returns:
            False if it had ended already, else True.
        """
        # Also one that has ended but for its done callbacks and destructors: they may park, and must not hold up the run's end.
        if self.run_state != DONE:
            if not self.cancel_called:
                self.cancel_reason = reason
                self.cancel_called = True
            if self.limit is not None:
                self.limit.spread(self)
            else:
                self.interrupts |= CANCELLED
            if self.interrupts & CANCELLED and not self.shield:
                unpark(self, INTERRUPTED)
        return not self.outcome

    def join(self, timeout=None):
        """Wait until it has ended, however it did. Parks the calling fiber, or blocks an OS thread without fibers.

        Args:
            timeout: seconds, or None for ever; 0 does not park.
        Raises:
            TimeoutError: it was still alive after *timeout*.
            RuntimeError: a fiber cannot wait for itself.
            Cancelled: the calling fiber was cancelled.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef WaitNode node
        cdef int64_t deadline_ns
        cdef int wake = WOKEN
        if self.scheduler is None:
            raise RuntimeError("this fiber was never spawned; fibers are made by greenio.spawn(fn, *args)")
        if scheduler is None:
            self._join_from_thread(timeout)
            return
        scheduler.check()
        deadline_ns = deadline_of(scheduler, timeout)
        if self.outcome:
            scheduler.spend()
            return
        if <PyObject *>self is scheduler.current:
            raise RuntimeError(f"{self.name} cannot wait for its own end")
        if timeout is not None and timeout == 0:
            raise TimeoutError(f"{self.name} has not ended")
        wait_append(&self.joiners, &node, scheduler.current)
        try:
            while self.run_state != DONE and wake != TIMED_OUT:
                wake = scheduler.park("the end of a fiber", self, deadline_ns)
        finally:
            self.remove_joiner(&node)
        if not self.outcome:  # it may have ended at the same moment
            raise TimeoutError(f"{self.name} has not ended within {timeout} seconds")

    cdef void remove_joiner(self, WaitNode *node) noexcept:
        # end() empties the list before the joiners run; a node is in it as long as end() has not come.
        cdef WaitNode *there = self.joiners.first
        while there is not NULL and there is not node:
            there = there.next
        if there is node:
            wait_remove(&self.joiners, node)

    def _join_from_thread(self, timeout):
        cdef double seconds = 0 if timeout is None else timeout
        if not seconds >= 0:
            raise ValueError(f"a timeout is >= 0 seconds or None, not {timeout!r}")
        ended = threading.Event()

        def tell(fiber):
            ended.set()

        self.add_done_callback(tell)
        try:
            ended.wait(None if timeout is None else min(seconds, threading.TIMEOUT_MAX))
        finally:
            self.remove_done_callback(tell)
        if not self.outcome:
            raise TimeoutError(f"{self.name} has not ended within {timeout} seconds")

    def result(self, timeout=None):
        """What its function returned, waiting for it as `join` does.

        Raises:
            concurrent.futures.CancelledError: it ended by cancellation.
            TimeoutError: it was still alive after *timeout* seconds.
            BaseException: what its function raised.
        """
        self.join(timeout)
        self.observed = True
        if self.raised is None:
            return self.returned
        if isinstance(self.raised, Cancelled):
            raise self.cancelled_error() from self.raised
        raise self.raised

    def exception(self, timeout=None):
        """What its function raised, or None, waiting for it as `join` does.

        Raises:
            concurrent.futures.CancelledError: it ended by cancellation.
            TimeoutError: it was still alive after *timeout* seconds.
        """
        self.join(timeout)
        self.observed = True
        if isinstance(self.raised, Cancelled):
            raise self.cancelled_error() from self.raised
        return self.raised

    cdef object cancelled_error(self):
        from concurrent.futures import CancelledError
        reason = self.raised.reason
        return CancelledError(f"{self.name} was cancelled" + ("" if reason is None else f": {reason}"))

    def add_done_callback(self, fn):
        """Call fn(fiber) when it ends, in the fiber that ends; at once, if it has ended. What fn raises is logged."""
        if self.outcome:
            self.call_back(fn)
        elif self.callbacks is None:
            self.callbacks = [fn]
        else:
            self.callbacks.append(fn)

    def remove_done_callback(self, fn):
        """Forget every such callback. Returns how many there were."""
        before = self.callbacks or []
        self.callbacks = [kept for kept in before if kept != fn]
        return len(before) - len(self.callbacks)

    cdef int call_back(self, object fn) except -1:
        try:
            fn(self)
        except Exception:
            log().exception("a done callback of %s raised: %r", self.name, fn)
        return 0

    cdef int call_all_back(self) except -1:
        cdef Scheduler scheduler = self.scheduler
        while self.callbacks:
            try:
                self.call_back(self.callbacks.pop(0))
            except Cancelled:
                pass
            except BaseException as error:
                scheduler.throw_into_main(error)
        return 0

    def __repr__(self):
        waits = self.waits_for
        state = state_names[self.run_state] if waits is None else f"parked: {waits[0]}"
        return f"<greenio.Fiber {self.id} {self.name!r} {state}>"

    def __del__(self):
        if self.raised is not None and not self.observed:
            self.log_failure()

    cdef int log_failure(self) except -1:
        self.observed = True
        file, line = self.spawned_at or ("?", 0)
        log().error("%s, spawned at %s:%d, failed and nobody asked for its result", self.name, file, line,
                    exc_info=self.raised)
        return 0

    cdef void outcome_known(self) noexcept:
        cdef Scheduler scheduler = self.scheduler
        self.outcome = True
        self.atomic_depth = 0  # of a block that the function has left behind, in a generator
        try:
            if self.raised is not None:
                self.judge(scheduler)
            if self.callbacks is not None:
                self.call_all_back()
            if self is scheduler.main:
                scheduler.end_forked_child(self)
            # Our own reference, and that of run_function: with no other, this is the last chance to tell.
            if Py_REFCNT(self) <= 2:
                if self.raised is not None and not self.observed:
                    self.log_failure()
                self.returned = None
                self.raised = None
        except BaseException as error:
            scheduler.throw_into_main(error)

    cdef int judge(self, Scheduler scheduler) except -1:
        # What the run makes of an exception that left the function.
        if isinstance(self.raised, Cancelled):
            self.observed = True
            # Where it was parked is known; its frames, and all they refer to, are not worth keeping with the handle.
            self.raised.__traceback__ = None
        elif self is scheduler.main:
            self.observed = True  # the end of a forked child tells
        elif isinstance(self.raised, (SystemExit, KeyboardInterrupt)):
            self.observed = True
            scheduler.throw_into_main(self.raised)
        else:
            scheduler.failed.append(weakref.ref(self))
            if len(scheduler.failed) > scheduler.failed_room:
                scheduler.failed = [one for one in scheduler.failed if one() is not None and not (<Fiber>one()).observed]
                scheduler.failed_room = max(FAILED_ROOM, 2 * <Py_ssize_t>len(scheduler.failed))
        return 0

    cdef void end(self) noexcept:
        cdef WaitNode *node = self.joiners.first
        cdef WaitNode *next
        cdef Scheduler scheduler = self.scheduler
        self.run_state = DONE
        self.joiners.first = NULL
        self.joiners.last = NULL
        while node is not NULL:
            next = node.next
            unpark(<Fiber>node.fiber, WOKEN)
            node = next
        if self.born_in is not None:
            self.born_in.ended(self)
        scheduler.unlink(self)
        scheduler.tell_main()

    cdef FiberCore *successor(self, PyThreadState **signals) noexcept:
        cdef Scheduler scheduler = self.scheduler
        cdef PyObject *next
        if scheduler.away:
            scheduler.come_back()
        self.end()
        next = scheduler.next_ready(self.stack_bytes)
        scheduler.budget = scheduler.turn_budget
        (<Fiber>next).run_state = RUNNING
        scheduler.current = next
        scheduler.watched.switches += 1
        if (<Fiber>next).core.thread_state is not NULL:
            scheduler.watched.running = (<Fiber>next).core.thread_state
        signals[0] = scheduler.watched.signals
        return &(<Fiber>next).core


@cython.final
cdef class Root(Fiber):
    """Where an OS thread of a run with hand-off stands while it runs no fiber."""

    cdef void outcome_known(self) noexcept:
        pass

    cdef FiberCore *successor(self, PyThreadState **signals) noexcept:
        # The home's, at the end of the run.
        signals[0] = self.scheduler.watched.signals
        return &self.scheduler.main.core


cdef object log():
    import logging
    return logging.getLogger("greenio")


# --- descriptors -----------------------------------------------------------------------------------------------------


cdef class Watch(Entry):
    """A descriptor, in one scheduler's poller, and the fibers that wait for it.

    Attributes:
        scheduler: the Scheduler whose fibers they are.
        readable, writable: False when the last look found nothing to read, or no room, and no event has come since.
        seen: every flag (READABLE, WRITABLE, …) that an event ever brought.
        closed: whoever waits must not touch the descriptor any more.
    """

    def __cinit__(self, int fd, Scheduler scheduler):
        self.scheduler = scheduler

    cpdef int ready(self, int flags) except -1:
        self.scheduler.watched.waiting = False   # the wait is over: who becomes ready now needs nobody to end it
        self.seen |= flags
        if flags & (READABLE | URGENT | PEER_CLOSED | HANG_UP | FAILED):
            self.readable = True
            if self.readers.first is not NULL:
                unpark(<Fiber>self.readers.first.fiber, WOKEN)
        if flags & (WRITABLE | HANG_UP | FAILED):
            self.writable = True
            if self.writers.first is not NULL:
                unpark(<Fiber>self.writers.first.fiber, WOKEN)
        return 0

    cdef void unpark_everyone(self) noexcept:
        cdef WaitNode *node = self.readers.first
        while node is not NULL:
            unpark(<Fiber>node.fiber, WOKEN)
            node = node.next
        node = self.writers.first
        while node is not NULL:
            unpark(<Fiber>node.fiber, WOKEN)
            node = node.next


cdef void leave_io(Watch watch, bint to_write, WaitNode *node) noexcept:
    cdef WaitList *waiters = &watch.writers if to_write else &watch.readers
    if node.fiber is NULL:
        return
    wait_remove(waiters, node)
    node.fiber = NULL
    # The event that woke this one may have brought enough for the next, and no other edge will come for it.
    if waiters.first is not NULL and (watch.closed or (watch.writable if to_write else watch.readable)):
        unpark(<Fiber>waiters.first.fiber, WOKEN)


cdef dict awaited_elsewhere = {}       # by descriptor: who waits for it otherwise than by a Watch
cdef object closing_listener = None


def listen_for_closing(dict awaited not None, fn):
    """From now on fn(fd) is called before a descriptor is closed that is a key of *awaited*. With the GIL, which it must not let go."""
    global awaited_elsewhere, closing_listener
    awaited_elsewhere = awaited
    closing_listener = fn


cdef void close_watch(int fd) noexcept:
    cdef Scheduler scheduler
    cdef Watch watch
    if awaited_elsewhere and fd in awaited_elsewhere:
        closing_listener(fd)
    for scheduler in list(live):
        watch = scheduler.watches.get(fd)
        if watch is not None:
            scheduler.drop_watch(watch)


cdef int keep_only(WaitList *waiters, PyObject *fiber) noexcept:
    # Drop all nodes but this fiber's; returns how many are left.
    cdef WaitNode *node = waiters.first
    cdef WaitNode *next
    cdef int kept = 0
    waiters.first = NULL
    waiters.last = NULL
    while node is not NULL:
        next = node.next
        if node.fiber is fiber:
            wait_append(waiters, node, fiber)
            kept += 1
        node = next
    return kept


cdef class _SignalPipe(Entry):
    # Python's C-level signal handler writes a byte here, from whichever OS thread it runs on: so a signal ends the poller's wait
    # even if it came just before it.
    cdef object reader
    cdef object writer
    cdef Scheduler scheduler

    cpdef int ready(self, int flags) except -1:
        try:
            while len(os.read(self.fd, 512)) == 512:
                pass
        except BlockingIOError:
            pass
        # The main fiber, away from home, may have met the interpreter's own word of it, which is lost on any other OS thread.
        if self.scheduler.watched.away_signals is not NULL:
            remind_of_signals(self.scheduler.watched.away_running)
        return 0


cdef object open_signal_pipe():
    cdef _SignalPipe pipe
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    other = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if other != -1:
        # Somebody else listens there. The monitor's nudge has to do.
        signal.set_wakeup_fd(other)
        os.close(reader)
        os.close(writer)
        return None
    pipe = _SignalPipe(reader)
    pipe.reader = reader
    pipe.writer = writer
    return pipe


cdef void close_signal_pipe(_SignalPipe pipe) except *:
    present = signal.set_wakeup_fd(-1)
    if present not in (-1, pipe.writer):
        signal.set_wakeup_fd(present)
    os.close(pipe.reader)
    os.close(pipe.writer)


# --- carriers --------------------------------------------------------------------------------------------------------


@cython.final
cdef class Carrier:
    # An OS thread of a run with hand-off.

    def __cinit__(self, Scheduler scheduler):
        sem_init(&self.turn, 0, 0)
        self.scheduler = scheduler
        scheduler.carriers_made += 1
        self.number = scheduler.carriers_made
        self.held_up = []
        self.scheduler_here = greenio_scheduler_here()
        self.carrier_here = greenio_carrier_here()
        self.kernel_id = greenio_kernel_thread_id()
        self.root = Root.__new__(Root)
        self.root.scheduler = scheduler
        self.root.run_state = DONE
        self.root.timer = GREENIO_TIMER_NONE
        self.root.limit_ns = NEVER
        self.root.deadline_ns = NEVER
        self.root.given_name = "root"
        self.root.atomic_depth = 1         # nothing is handed off while it is the current one
        self.root.carrier_number = self.number
        self.root.stack_bytes = scheduler.stack_bytes
        self.root.function = self._carry   # at home, where the root needs a stack of its own
        self.root.arguments = ()
        Py_INCREF(self.root)               # goes with its stack, or in __dealloc__
        scheduler.carriers.append(self)

    def __dealloc__(self):
        sem_destroy(&self.turn)

    def _carry(self):
        self.carry()

    cdef void come_back(self) noexcept:
        # On the stuck fiber's stack. Others may run it once its root has said that it is ready.
        cdef Fiber me = <Fiber>self.fiber
        cdef PyThreadState *signals = NULL
        self.order = TAKE_BACK
        if self is self.scheduler.home:
            signals = self.scheduler.watched.away_signals
            self.scheduler.watched.away_running = self.root.core.thread_state
        switch_to(&me.core, &self.root.core, signals)

    cdef void carry(self) noexcept:
        # The root: comes here whenever no fiber runs on this OS thread.
        cdef Scheduler scheduler = self.scheduler
        cdef PyObject *root = <PyObject *>self.root
        cdef PyObject *next
        cdef Carrier to
        while self.order != END_CARRYING:
            self.root.run_state = DONE         # nobody can make it ready, nor have it wait
            if self.order == TAKE_BACK:
                scheduler.take_back(self)
            elif self.order == PASS_ON:
                to = scheduler.pass_to
                scheduler.pass_to = None
                if to is not None and to is not self and to.state == IDLE and to.order != END_CARRYING:
                    self.state = IDLE
                    if self is scheduler.home:
                        scheduler.watched.away_running = self.root.core.thread_state
                    scheduler.give(to)
            self.order = CARRY_ON
            if self.state != CARRYING:
                if not self.wait_for_turn():
                    continue
            next = scheduler.next_ready(0)
            if next is root:
                continue
            scheduler.budget = scheduler.turn_budget
            (<Fiber>next).run_state = RUNNING
            scheduler.current = next
            scheduler.watched.switches += 1
            scheduler.watched.running = (<Fiber>next).core.thread_state
            switch_to(&self.root.core, &(<Fiber>next).core, scheduler.watched.signals)

    cdef bint wait_for_turn(self) noexcept:
        # False: look at the state and the order.
        cdef Scheduler scheduler = self.scheduler
        cdef bint is_home = self is scheduler.home
        cdef int error
        with nogil:
            error = greenio_turn_wait(&self.turn, 0 if is_home else CARRIER_IDLE_SECONDS)
        if error == 0:
            if is_home and self.state == CARRYING and scheduler.watched.signals is not NULL:
                self.handle_signals()   # the interpreter may have forgotten them while main ran elsewhere
            return self.state == CARRYING
        if is_home:
            self.handle_signals()
        elif error != EINTR and self.state == IDLE and self.order != END_CARRYING:
            scheduler.retire(self)
        return False

    cdef void let_go(self) noexcept:
        # An assistant, which carries nothing: it goes back to where it came from.
        if self.order != END_CARRYING:
            self.order = END_CARRYING
            self.scheduler.carriers.remove(self)
            greenio_assistants_let_go()
            sem_post(&self.turn)

    cdef void drop_root(self) noexcept:
        self.root.core.thread_state = NULL
        self.root.function = None
        Py_DECREF(self.root)

    cdef void handle_signals(self) noexcept:
        # Handlers run on the root, as on top of an idle loop, and as there cannot wait. It may become this thread's turn meanwhile.
        cdef Scheduler scheduler = self.scheduler
        self.handling = True
        if self.state == CARRYING:
            scheduler.hosting = True
        try:
            PyErr_CheckSignals()
        except BaseException as error:
            scheduler.throw_into_main(error)
        self.handling = False
        if self.state == CARRYING:
            scheduler.hosting = False


# --- the scheduler ---------------------------------------------------------------------------------------------------


cdef class Scheduler:
    """What runs the fibers of one OS thread. Made by `run`; `spawn` may be called from any OS thread, the rest by its own.

    Attributes:
        main: the fiber that run() was called in.
        alive_count: fibers that have not ended, main among them.
        closed: the run has ended; nothing can be spawned any more.
        clock: the Clock that run was given, or None for CLOCK_MONOTONIC.
        poller: the Poller that it waits in.
        stack_bytes: usable C stack of a fiber that spawn gives no other size.
        schedule: the Schedule that run was given, or None for round robin.
    """

    def __cinit__(self):
        self.watched.wake_fd = -1
        self.ring = <PyObject **>malloc(RING_START * sizeof(PyObject *))
        if self.ring is NULL:
            raise MemoryError()
        self.ring_mask = RING_START - 1
        self.until_look = LOOK_EVERY
        self.budget = BUDGET
        self.turn_budget = BUDGET
        self.watches = {}
        self.failed = []
        self.failed_room = FAILED_ROOM
        self.watched.poll_fd = -1
        self.watched.ring_head = &self.ring_head
        self.watched.ring_tail = &self.ring_tail
        self.watched.io_waiting = &self.io_waiting

    def __init__(self, Clock clock=None, Poller poller=None, stack_size=None, Schedule schedule=None):
        self.clock = clock
        self.schedule = schedule
        if schedule is not None:
            self.turn_budget = 0
            self.budget = 0
            self.turn_started = 1
        self.carriers = []
        self.untold = []
        self.stack_bytes = checked_stack_bytes(stack_size)
        self.poller = DefaultPoller() if poller is None else poller

    def __dealloc__(self):
        free(self.ring)
        greenio_timers_drop(&self.timers)

    def _watch_stalls(self, double seconds, Py_ssize_t threads=0):
        """Have it told when no fiber was switched to for so long though one could run; 0: never. Before `_open`.

        With *threads* > 0, the others are run by another OS thread then: as many fibers may be stuck at once.
        """
        self.watched.stall_after_ns = <int64_t>(seconds * 1e9)
        self.stall_after_ns = self.watched.stall_after_ns
        self.most_carriers = threads

    cdef int tell_stall(self, const greenio_system_call *call) except -1:
        # On an assistant, asked by the monitor some moments ago.
        cdef int64_t now_ns = greenio_monotonic_ns()
        cdef int64_t needed_ns = self.watched.needed_ns
        cdef int64_t still_ns = self.watched.still_ns
        cdef int64_t due_ns = INT64_MAX
        if self.watched.waiting or now_ns - still_ns < self.watched.stall_after_ns or self.current is NULL:
            return 0
        if greenio_monitor_progress(&self.watched) != self.watched.seen_progress:
            return 0    # it was over before the GIL was to be had; who runs now has only begun
        if self.timers.count and self.clock is None:
            due_ns = greenio_timers_deadline(&self.timers)
        self.watched.due_ns = due_ns
        if needed_ns == 0 and due_ns <= now_ns:
            needed_ns = max(due_ns, still_ns)
        if needed_ns == 0:
            return 0
        if self.most_carriers:
            if now_ns - needed_ns >= self.watched.stall_after_ns // 2 and self.may_hand_off():
                return self.hand_off(call, (now_ns - still_ns) / 1e9)
            # Again at every look.
            self.watched.tell_after_ns = now_ns - needed_ns
            if self.watched.switches != self.refused_at:
                self.refused_at = self.watched.switches
                self.refused_ns = TELL_REFUSED_NS
            if now_ns - needed_ns < self.refused_ns:
                return 0
            self.refused_ns *= 2
        elif now_ns - needed_ns < self.watched.tell_after_ns:
            return 0
        else:
            self.watched.tell_after_ns *= 2
        tell_of(self, <Fiber>self.current, (now_ns - still_ns) / 1e9, (call.number, name_of(call), call.descriptor), still_ns, False)
        return 0

    # --- life

    def _open(self):
        """Become the calling OS thread's scheduler, the caller its main fiber.

        Raises:
            RuntimeError: the OS thread has one.
            OSError: the kernel refused a descriptor, the monitor thread or a signal stack.
        """
        cdef Fiber main
        cdef int error
        if current_scheduler_or_none() is not None:
            raise RuntimeError(
                "greenio.run() inside greenio.run(): this OS thread runs fibers already; call the function directly, "
                "spawn it, or run it on another OS thread")
        install_overflow_handler()
        main = Fiber.__new__(Fiber)
        adopt_thread(main)
        main.scheduler = self
        main.run_state = RUNNING
        main.timer = GREENIO_TIMER_NONE
        main.limit_ns = NEVER
        main.given_name = "main"
        main.report_name = "main"
        number(main)
        self.main = main
        self.current = <PyObject *>main
        self.os_thread = PyThread_get_thread_ident()
        self.watched.running = main.core.thread_state
        self.watched.wake_fd = self.poller.wake_fd
        self.name_run()
        if self.most_carriers:
            self.start_carriers()
        if threading.main_thread().ident == self.os_thread and hears_signals(main.core.thread_state):
            self.watched.signals = main.core.thread_state
            try:
                self.listen_for_signals()
            except OSError:
                self.forget_thread()
                raise
        self.link(main)
        monitor_hooks.forward_signals = forward_signals
        monitor_hooks.watch_overflow_handler = watch_overflow_handler
        monitor_hooks.stalled = greenio_assistants_send
        error = greenio_monitor_add(&self.watched, &monitor_hooks)
        if error != 0:
            self.unlink(main)
            self.forget_thread()
            raise OSError(error, f"no monitor thread: {os.strerror(error)}")
        self.seen_ns = self.now()
        live.add(self)
        Py_INCREF(self)
        greenio_scheduler_set(<void *>self)

    cdef void name_run(self) noexcept:
        global runs_named
        runs_named += 1
        self.watched.run_id = runs_named
        self.watched.thread_id = greenio_kernel_thread_id()
        self.watched.poll_fd = self.poller.poll_fd

    cdef int listen_for_signals(self) except -1:
        cdef _SignalPipe pipe = open_signal_pipe()
        if pipe is None:
            return 0
        pipe.scheduler = self
        try:
            self.poller.add(pipe)
        except OSError:
            close_signal_pipe(pipe)
            raise
        self.signal_pipe = pipe
        return 0

    cdef int forget_thread(self) except -1:
        if self.signal_pipe is not None:
            self.poller.remove(self.signal_pipe)
            close_signal_pipe(self.signal_pipe)
            self.signal_pipe = None
        forget_overflow_thread()
        self.poller.close()
        return 0

    def _go_home(self):
        """The current fiber goes on on the OS thread that run() was called on, as soon as no other one is stuck there."""
        self.go_home()

    def _stuck_at_home(self):
        """The fiber that is stuck on the OS thread that run() was called on, or None."""
        if self.away:
            self.come_back()
        return <Fiber>self.home.fiber if self.home is not None and self.home.state == STUCK else None

    def _unwind(self, bint at_exit=False):
        """Cancel every fiber but main and wait until they have ended; main only. Exceptions thrown at main come afterwards.

        Then logs failures that nobody has seen, and lets nobody spawn any more. *at_exit*: the interpreter goes, which as daemon
        threads none may hold up: those that swallow Cancelled again and again, and who is left after some seconds, are abandoned.
        """
        cdef Fiber fiber
        cdef bint told = False
        cdef int64_t deadline_ns = NEVER
        interruption = None
        self.closing = True
        self.main.shield += 1
        if at_exit:
            self.exiting = True
            deadline_ns = self.now() + <int64_t>EXIT_PATIENCE_MS * 1_000_000
            for fiber in self.fibers():
                fiber.cancel_count = 0
        try:
            while self.alive_count - self.abandoned_count > 1 or self.failed:
                try:
                    if self.alive_count - self.abandoned_count == 1:
                        self._log_failed()
                        continue
                    for fiber in self.fibers():
                        if fiber is not self.main:
                            fiber.cancel("the run has ended")
                    self.waits_for_all = True
                    if self.park("the end of all other fibers", None, deadline_ns) == TIMED_OUT:
                        for fiber in self.fibers():
                            if fiber is not self.main:
                                self.abandon(fiber)
                except BaseException as error:
                    if isinstance(error, DeadlockError) and not told:
                        told = True
                        log().error("the run cannot end: a fiber waits under a shield and nothing could wake it; %s", error)
                    if interruption is None:
                        interruption = error
                self.waits_for_all = False
        finally:
            self.main.shield -= 1
        if not (at_exit and self.home is not None and self.home.state == STUCK):
            self.go_home()
        self.ended = True
        fatal, self.fatal = self.fatal, None
        thrown, self.main.thrown = self.main.thrown, None
        self.main.interrupts &= ~THROWN
        if interruption is None:
            interruption = thrown
        if interruption is not None:
            raise interruption
        if fatal is not None:
            raise fatal

    def _log_failed(self):
        """Log the failures that nobody has seen yet. Handlers may spawn and park."""
        cdef Fiber fiber
        failed, self.failed = self.failed, []
        for handle in failed:
            fiber = handle()
            if fiber is not None and not fiber.observed:
                fiber.log_failure()

    def _settle(self, result, exception):
        """Main has ended with this."""
        self.main.returned = result
        self.main.raised = exception
        self.main.outcome = True
        self.main.observed = True
        self.main.call_all_back()

    def _close(self):
        """Leave the OS thread. Every fiber has ended, or its OS thread is gone."""
        cdef Fiber main = self.main
        if self.closed:
            return
        self.closed = True
        live.discard(self)
        recover_stack(&main.core)
        greenio_monitor_remove(&self.watched)
        self.end_carriers()
        main.run_state = DONE
        main.core.thread_state = NULL
        self.wake_joiners_of_main()
        self.unlink(main)
        if live:
            give_back_stacks()
        else:
            give_back_all()
            end_assistants()
        self.forget_thread()
        self.current = NULL
        greenio_scheduler_set(NULL)
        Py_DECREF(self)

    cdef void wake_joiners_of_main(self) noexcept:
        cdef WaitNode *node = self.main.joiners.first
        while node is not NULL:
            unpark(<Fiber>node.fiber, WOKEN)
            node = node.next
        self.main.joiners.first = NULL
        self.main.joiners.last = NULL

    # --- spawn

    def spawn(self, fn, *args, name=None, stack_size=None, bint pin=False):
        """Make a fiber that calls fn(*args), ready to run; from any OS thread. As greenio.spawn.

        Raises:
            RunFinishedError: the run has ended.
        """
        cdef Fiber fiber = self.make(fn, args, name, stack_size, None)
        fiber.pinned = pin
        return fiber

    cdef Fiber make(self, object function, tuple arguments, object name, object stack_size, Limit born_in):
        cdef Fiber fiber
        cdef bint ready = True
        cdef PyFrameObject *frame
        if not callable(function):
            raise TypeError(f"spawn wants a callable and its arguments, not {function!r}")
        if self.away:
            self.come_back()
        # While the last fibers are unwound only they may spawn: an OS thread that spawns all the time must not keep the run from ending.
        if self.ended or self.closed or (self.closing and greenio_scheduler_get() is not <void *>self):
            raise RunFinishedError(f"cannot spawn {function!r}: the run has ended")
        fiber = Fiber.__new__(Fiber)
        fiber.stack_bytes = self.stack_bytes if stack_size is None else checked_stack_bytes(stack_size)
        if name is not None:
            fiber.name = name
        if self.alive_count >= <Py_ssize_t>self.ring_mask:
            self.grow_ring()
        fiber.function = function
        fiber.arguments = arguments
        fiber.context_variables = PyContext_CopyCurrent()
        frame = PyEval_GetFrame()
        if frame is not NULL:
            fiber.spawn_code = PyFrame_GetCode(frame)
            fiber.spawn_offset = PyFrame_GetLasti(frame)
        fiber.scheduler = self
        fiber.timer = GREENIO_TIMER_NONE
        fiber.limit_ns = NEVER
        number(fiber)
        if born_in is not None:
            fiber.limit = born_in
            fiber.born_in = born_in
            ready = born_in.born(fiber)
        if self.closing:
            fiber.cancel("the run has ended")
        self.link(fiber)
        if ready or fiber.interrupts:
            self.push(<PyObject *>fiber)
        else:
            fiber.deadline_ns = NEVER
            fiber.parked_ns = self.seen_ns
            fiber.wait_reason = "a place in its task group"
            fiber.waiting_on = born_in
            fiber.run_state = PARKED
            self.rearm(fiber)
        if greenio_scheduler_get() is <void *>self:  # else the caller stands on a stack of its own
            recover_stack(&(<Fiber>self.current).core)
        return fiber

    cdef void link(self, Fiber fiber) noexcept:
        # While it is alive it is nobody's garbage, nor is what it refers to: the collector need not walk it, again and again where
        # many are spawned.
        PyObject_GC_UnTrack(<PyObject *>fiber)
        Py_INCREF(fiber)
        fiber.alive_previous = NULL
        fiber.alive_next = self.alive
        if self.alive is not NULL:
            (<Fiber>self.alive).alive_previous = <PyObject *>fiber
        self.alive = <PyObject *>fiber
        self.alive_count += 1

    cdef void unlink(self, Fiber fiber) noexcept:
        # The reference that link took goes when nobody stands on the fiber's stack any more: bury, in _switch.pyx.
        PyObject_GC_Track(<PyObject *>fiber)
        if fiber.alive_previous is NULL:
            self.alive = fiber.alive_next
        else:
            (<Fiber>fiber.alive_previous).alive_next = fiber.alive_next
        if fiber.alive_next is not NULL:
            (<Fiber>fiber.alive_next).alive_previous = fiber.alive_previous
        fiber.alive_next = NULL
        fiber.alive_previous = NULL
        self.alive_count -= 1
        if fiber.core.stack is NULL:
            Py_DECREF(fiber)

    def fibers(self):
        """A list of the fibers that have not ended, oldest first."""
        cdef PyObject *link = self.alive
        found = []
        while link is not NULL:
            found.append(<Fiber>link)
            link = (<Fiber>link).alive_next
        found.reverse()
        return found

    @property
    def current_fiber(self):
        """The fiber that runs, or None before the run and after it."""
        return <Fiber>self.current if self.current is not NULL else None

    @property
    def switch_count(self):
        """How often it has switched from one fiber to another."""
        return self.watched.switches

    @property
    def ready_count(self):
        """How many fibers are in the run queue."""
        return self.ring_tail - self.ring_head

    # --- the run queue

    cdef void push(self, PyObject *fiber) noexcept:
        (<Fiber>fiber).run_state = READY
        self.ring[self.ring_tail & self.ring_mask] = fiber
        self.ring_tail += 1
        if self.watched.waiting:
            self.poller.wake()

    cdef int grow_ring(self) except -1:
        cdef size_t size = self.ring_mask + 1
        cdef size_t count = self.ring_tail - self.ring_head
        cdef size_t index
        cdef PyObject **ring = <PyObject **>malloc(2 * size * sizeof(PyObject *))
        if ring is NULL:
            raise MemoryError(f"no room for {2 * size} ready fibers")
        for index in range(count):
            ring[index] = self.ring[(self.ring_head + index) & self.ring_mask]
        free(self.ring)
        self.ring = ring
        self.ring_mask = 2 * size - 1
        self.ring_head = 0
        self.ring_tail = count
        return 0

    # --- under a schedule. Nothing here goes by the time that a turn takes, which no seed would bring back.

    cdef void step(self, bint yields) noexcept:
        # The current fiber stands at a checkpoint.
        cdef PyObject *me = self.current
        if self.hosting:
            return
        self.look_around()
        ready = self.ready_fibers()
        ready.append(<Fiber>me)
        self.hosting = True
        try:
            fiber = self.schedule.choose(ready, <Fiber>me, yields)
            if fiber is not <Fiber>me:
                self.bring_forward(fiber)
                self.chosen = True
        except BaseException as error:
            self.throw_into_main(error)
        self.hosting = False
        if self.chosen:
            self.push(me)
            self.switch_out(me)
        elif self.watched.signals is not NULL:
            bring_requests(self.watched.signals)

    cdef void choose_next(self) noexcept:
        # The current fiber has parked or ended.
        cdef bint hosting = self.hosting
        self.until_look = 0
        self.turn_started = 1
        if self.chosen:
            self.chosen = False
            return
        self.hosting = True
        try:
            self.bring_forward(self.schedule.choose(self.ready_fibers(), None, False))
        except BaseException as error:
            self.throw_into_main(error)
        self.hosting = hosting

    cdef list ready_fibers(self):
        return [<Fiber>self.ring[index & self.ring_mask] for index in range(self.ring_head, self.ring_tail)]

    cdef int bring_forward(self, object fiber) except -1:
        # To the head of the run queue, the order of the others kept.
        cdef size_t index = self.ring_head
        while index != self.ring_tail and self.ring[index & self.ring_mask] is not <PyObject *>fiber:
            index += 1
        if index == self.ring_tail:
            raise ValueError(f"{self.schedule!r} chose {fiber!r}, which is none of those that are ready")
        while index != self.ring_head:
            self.ring[index & self.ring_mask] = self.ring[(index - 1) & self.ring_mask]
            index -= 1
        self.ring[index & self.ring_mask] = <PyObject *>fiber
        return 0

    cdef PyObject *next_ready(self, size_t own_stack_bytes) noexcept:
        # The next fiber to run, taken from the queue and able to be switched to. One that was never run gets its stack here, unless
        # `own_stack_bytes` says that the caller, who ends, has a fitting one to leave it.
        cdef PyObject *next
        while True:
            self.until_look -= 1
            self.turn_started = 0
            if self.timers.count or self.io_waiting:
                self.turn_started = greenio_ticks()
                if self.until_look <= 0 or self.turn_started - self.last_look > look_ticks:
                    self.look_around()
            elif self.until_look <= 0:
                self.look_around()
            if self.ring_head == self.ring_tail:
                self.idle()
            if self.pass_to is not None:
                self.carrier.order = PASS_ON
                return <PyObject *>self.carrier.root
            if self.turn_budget == 0:
                self.choose_next()
            next = self.ring[self.ring_head & self.ring_mask]
            self.ring_head += 1
            if (<Fiber>next).carrier_number != self.carrier_number and not self.admit(<Fiber>next):
                continue
            if self.ring_tail - self.ring_head > FETCH_FIBER + FETCH_TOGETHER:
                if self.io_waiting:
                    self.prefetch_waiting()
                else:
                    self.prefetch()
            if (<Fiber>next).core.started or (<Fiber>next).stack_bytes == own_stack_bytes:
                return next
            try:
                prepare(<Fiber>next)
                return next
            except BaseException as error:
                self.fail_to_start(<Fiber>next, error)

    cdef inline void prefetch(self) noexcept:
        # With many fibers each one's memory is cold, and in a page of its own. In three steps, because each finds its addresses by the
        # one before, and because lines asked for together with a page's translation wait for it one by one.
        cdef PyObject *later = self.ring[(self.ring_head + FETCH_FIBER) & self.ring_mask]
        greenio_prefetch_lines(later, 0, 192)
        later = self.ring[(self.ring_head + FETCH_STACK) & self.ring_mask]
        greenio_prefetch((<Fiber>later).core.context)
        greenio_prefetch((<Fiber>later).core.thread_state)
        later = self.ring[(self.ring_head + FETCH_REST) & self.ring_mask]
        greenio_prefetch_lines((<Fiber>later).core.context, 64, 256)
        greenio_prefetch_lines((<Fiber>later).core.thread_state, 64, 128)

    cdef inline void prefetch_waiting(self) noexcept:
        # The same where fibers wait for descriptors: a turn touches ten times the lines, and its system call waits for every
        # translation under way, so they are asked for in one go.
        cdef PyObject *later
        cdef size_t turn
        if self.ring_head % FETCH_TOGETHER == 0:
            for turn in range(self.ring_head + FETCH_FIBER, self.ring_head + FETCH_FIBER + FETCH_TOGETHER):
                greenio_prefetch_lines(self.ring[turn & self.ring_mask], 0, FETCH_FIBER_BYTES)
            for turn in range(self.ring_head + FETCH_STACK, self.ring_head + FETCH_STACK + FETCH_TOGETHER):
                later = self.ring[turn & self.ring_mask]
                greenio_prefetch((<Fiber>later).core.context)
                greenio_prefetch((<Fiber>later).core.thread_state)
                greenio_prefetch(<PyObject *>(<Fiber>later).waiting_on)
        later = self.ring[(self.ring_head + FETCH_REST) & self.ring_mask]
        if (<Fiber>later).core.stack is NULL:
            return
        greenio_prefetch_lines((<Fiber>later).core.context, 64, FETCH_CALLS_BYTES)
        greenio_prefetch_lines((<Fiber>later).core.stack, 0, FETCH_BLOCK_BYTES)
        greenio_prefetch_lines((<Fiber>later).core.thread_state, 64, FETCH_STATE_BYTES)
        greenio_prefetch_lines(<PyObject *>(<Fiber>later).waiting_on, 64, 128)

    cdef void fail_to_start(self, Fiber fiber, object exception) noexcept:
        fiber.raised = exception
        fiber.function = None
        fiber.arguments = None
        fiber.context_variables = None
        fiber.core.started = True
        Py_INCREF(fiber)
        # Its callbacks are called by whoever was about to switch, on top of a park or an end: they cannot wait.
        self.hosting = True
        fiber.outcome_known()
        self.hosting = False
        fiber.end()
        Py_DECREF(fiber)

    cdef void switch_out(self, PyObject *me) noexcept:
        cdef PyObject *next = self.next_ready(0)
        self.budget = self.turn_budget
        (<Fiber>next).run_state = RUNNING
        if next is me:
            recover_stack(&(<Fiber>me).core)
            return
        self.current = next
        self.watched.switches += 1
        self.watched.running = (<Fiber>next).core.thread_state
        switch_to(&(<Fiber>me).core, &(<Fiber>next).core, self.watched.signals)

    # --- waiting

    cdef int park(self, object reason, object waiting_on, int64_t deadline_ns) except -1:
        cdef Fiber me
        cdef int wake
        cdef unsigned char outer_wake
        cdef bint moved = self.away != 0 and self.come_back()
        me = <Fiber>self.current
        outer_wake = me.wake
        if self.hosting:
            raise RuntimeError(
                f"a signal handler cannot wait ({reason}): no fiber runs, it was called on top of the idle loop (as are "
                "destructors, and callbacks of a fiber that got no stack); let it set something, or spawn a fiber")
        if me.interrupts and (me.interrupts & THROWN or not me.shield):
            self.raise_interrupt(me)
        if me.atomic_depth:
            self.refuse(reason)
        if moved:
            return WOKEN    # others ran since the caller saw that it has to wait
        me.deadline_ns = deadline_ns
        if deadline_ns != NEVER or me.limit_ns != NEVER:
            self.arm(me)
        me.park_count += 1
        me.wait_reason = reason
        me.waiting_on = waiting_on
        me.parked_ns = self.seen_ns
        me.run_state = PARKED
        self.switch_out(<PyObject *>me)
        # A destructor on the way back (of what the fiber before left behind) may have parked too: it put ours back.
        wake = me.wake
        me.wake = outer_wake
        me.waiting_on = None
        if wake == INTERRUPTED:
            self.raise_interrupt(me)
        return wake

    cdef int give_way(self) except -1:
        cdef PyObject *me
        if self.away and self.come_back():
            return 0
        me = self.current
        if self.hosting:
            return 0
        if (<Fiber>me).atomic_depth:
            self.refuse("yield")
        if (<Fiber>me).limit_ns != NEVER:
            self.see_time()
        if self.turn_budget == 0:
            self.step(True)
            return 0
        if self.ring_head == self.ring_tail:
            self.budget = BUDGET
            self.turn_started = 0
            self.until_look -= 1
            if self.until_look <= 0 or self.timers.count or self.io_waiting:
                self.look_around()
            if self.ring_head == self.ring_tail:
                if self.watched.signals is not NULL:
                    bring_requests(self.watched.signals)
                return 0
        if self.away and self.come_back():
            return 0
        self.push(me)
        self.switch_out(me)
        return 0

    cdef int refuse(self, object reason) except -1:
        # A task group, say, waits for its fibers whatever comes: it would ask again for ever.
        cdef Fiber me = <Fiber>self.current
        me.atomic_refused += me.atomic_depth
        me.atomic_depth = 0
        raise RuntimeError(f"cannot wait ({reason}) inside greenio.atomic(): no other fiber may run until the block ends")

    cdef void see_time(self) noexcept:
        # For one that has a limit and does not park, so that no timer tells it.
        try:
            self.seen_ns = self.now()
        except BaseException as error:
            self.throw_into_main(error)

    cdef int check(self) except -1:
        cdef Fiber me
        if self.away:
            self.come_back()
        me = <Fiber>self.current
        if comes_first(me.limit_ns, self.seen_ns) and not me.shield and not self.hosting:
            me.limit.expire(me)
        # While hosting they are not for whoever calls: a signal handler on top of the idle loop.
        if me.interrupts and (me.interrupts & THROWN or not me.shield) and not self.hosting:
            self.raise_interrupt(me)
        return 0

    cdef void spend(self) noexcept:
        # The first one of a turn is what woke the fiber, as a rule, and is not worth a look at the time.
        if self.away:
            self.come_back()
        self.budget -= 1
        if self.turn_started == 0:
            self.turn_started = greenio_ticks()
        elif self.budget < BUDGET - 1 and (self.budget <= 0 or greenio_ticks() - self.turn_started > ticks_per_ms):
            if (<Fiber>self.current).atomic_depth:
                return
            if self.turn_budget == 0:
                self.step(False)
            else:
                self.give_way()

    cdef int raise_interrupt(self, Fiber me) except -1:
        cdef object exception
        if me.interrupts & THROWN:
            exception = me.thrown
            me.thrown = None
            me.interrupts &= ~THROWN
            if exception is self.fatal:
                self.fatal = None
            raise exception
        if me.interrupts & CANCELLED and not me.shield:
            me.cancel_count += 1
            if self.exiting and me.cancel_count > CANCELS_AT_EXIT:
                self.abandon(me)
                self.switch_out(<PyObject *>me)     # for good
            if me.cancel_count == CANCELS_BEFORE_WARNING:
                log().warning("%s has swallowed Cancelled %d times and goes on; it must let it pass for its run to end",
                              me.name, me.cancel_count)
            raise Cancelled(me.cancel_reason if me.limit is None else me.limit.reason(me))
        return 0

    cdef void tell_main(self) noexcept:
        # One fiber less is waited for.
        if self.waits_for_all and self.alive_count - self.abandoned_count == 1:
            unpark(self.main, WOKEN)

    cdef void abandon(self, Fiber fiber) noexcept:
        # Not main. If it is ready, it is the caller who takes it out of the run queue.
        if fiber.run_state == ABANDONED:
            return
        if fiber.timer != GREENIO_TIMER_NONE:
            self.disarm(fiber)
        fiber.run_state = ABANDONED
        self.abandoned_count += 1
        self.tell_main()

    cdef void throw_into_main(self, object exception) noexcept:
        cdef Fiber main = self.main
        if main.thrown is not None and exception is not main.thrown:
            log().error("%r comes while main has not taken another one yet", main.thrown, exc_info=exception)
        main.thrown = exception
        main.interrupts |= THROWN
        if isinstance(exception, (SystemExit, KeyboardInterrupt)):
            self.fatal = exception
        unpark(main, INTERRUPTED)

    # --- time

    cdef int64_t now(self) except? -1:
        if self.clock is None:
            return greenio_monotonic_ns()
        return self.clock.now_ns()

    cdef int arm(self, Fiber fiber) except -1:
        cdef int64_t deadline_ns = fiber.deadline_ns
        if comes_first(fiber.limit_ns, deadline_ns) and not fiber.shield:
            deadline_ns = fiber.limit_ns
        if deadline_ns == NEVER:
            return 0
        fiber.timer = greenio_timers_add(&self.timers, deadline_ns, <void *>fiber)
        if fiber.timer == GREENIO_TIMER_NONE:
            raise MemoryError(f"no room for {self.timers.count + 1} timers")
        return 0

    cdef void disarm(self, Fiber fiber) noexcept:
        greenio_timers_remove(&self.timers, fiber.timer)
        fiber.timer = GREENIO_TIMER_NONE

    cdef int rearm(self, Fiber fiber) except -1:
        if fiber.run_state != PARKED:
            return 0
        if fiber.timer != GREENIO_TIMER_NONE:
            self.disarm(fiber)
        self.arm(fiber)
        if self.watched.waiting:
            self.poller.wake()
        return 0

    cdef void fire_timers(self) except *:
        self.seen_ns = self.now()
        cdef Fiber fiber
        cdef bint fired = False
        while self.timers.count and greenio_timers_deadline(&self.timers) <= self.seen_ns:
            fired = True
            fiber = <Fiber><PyObject *>greenio_timers_owner(&self.timers)
            if comes_first(fiber.limit_ns, fiber.deadline_ns) and not fiber.shield:
                fiber.limit.expire(fiber)
            else:
                unpark(fiber, TIMED_OUT)
        if fired:
            self.prefetch_sleepers()

    cdef inline void prefetch_sleepers(self) noexcept:
        # Who wakes next is cold, and the run queue is short when timers come a few at a time: fetch what lies behind the next
        # deadlines. A fiber was fetched, as one of the level below, some deadlines before its stack and thread state are.
        cdef uint32_t index
        cdef char *line
        cdef char *end
        cdef PyObject *fiber
        if self.timers.count < FETCH_TIMERS:
            return
        for index in range(5):
            fiber = <PyObject *>greenio_timers_owner_at(&self.timers, index)
            greenio_prefetch_lines((<Fiber>fiber).core.thread_state, 0, FETCH_STATE_BYTES)
            # The stopped stack, the control block above it, and the Python frames above that.
            line = <char *>(<Fiber>fiber).core.context
            end = <char *>(<Fiber>fiber).core.stack + FETCH_FRAMES_BYTES
            greenio_prefetch_lines(line, 0, min(end - line, <Py_ssize_t>FETCH_STACK_BYTES))
        for index in range(5, 21):
            greenio_prefetch_lines(greenio_timers_owner_at(&self.timers, index), 0, FETCH_FIBER_BYTES)

    # --- looking around, idling

    cdef void look_around(self) noexcept:
        self.until_look = LOOK_EVERY
        self.watched.looks += 1
        self.looking = True
        self.last_look = greenio_ticks()
        try:
            self.fire_timers()
            if self.io_waiting:
                self.poller.wait(0)
        except BaseException as error:
            self.throw_into_main(error)
        look_at_stacks(1)
        trim_stacks(TRIMMED_A_LOOK)
        self.looking = False
        if monitor_stopped:
            start_monitor_again()

    cdef void idle(self) noexcept:
        self.hosting = True
        self.watched.idle_periods += 1
        self.deadlock_looks = 0
        if monitor_stopped:
            start_monitor_again()
        while self.ring_head == self.ring_tail and self.pass_to is None:
            try:
                self.idle_once()
            except BaseException as error:
                self.throw_into_main(error)
        self.hosting = False

    cdef int idle_once(self) except -1:
        cdef int64_t timeout_ns = -1
        cdef int64_t trim_ns
        cdef WaitNode *node
        if self.timers.count:
            self.fire_timers()
            if self.ring_head != self.ring_tail:
                return 0
        if self.clock is not None or self.quiet_waiters.first is not NULL:
            # Somebody counts on nothing being under way: see what the kernel has first.
            self.wait_for_events(0)
            if self.ring_head != self.ring_tail:
                return 0
            node = self.quiet_waiters.first
            if self.outside_calls == 0:
                self.quiet_moments += 1
            while node is not NULL and self.outside_calls == 0:
                unpark(<Fiber>node.fiber, WOKEN)
                node = node.next
            if self.ring_head != self.ring_tail:
                return 0
        if self.timers.count and not (self.clock is not None and self.outside_calls):
            if self.clock is None:
                timeout_ns = greenio_timers_deadline(&self.timers) - self.seen_ns
            else:
                timeout_ns = self.clock.wait_ns(greenio_timers_deadline(&self.timers))
            if timeout_ns <= 0:
                return 0
            if (self.timers.count >= FETCH_TIMERS and self.clock is None
                    and greenio_timers_second_deadline(&self.timers) - greenio_timers_deadline(&self.timers) < CROWD_SLACK_NS):
                timeout_ns += CROWD_SLACK_NS
        elif self.io_waiting == 0 and self.outside_calls == 0:
            if self.deadlock_looks > 0 and self.is_deadlocked():
                raise DeadlockError(self.deadlock_text())
            self.deadlock_looks += 1
            if self.deadlock_looks == 1:
                return self.wait_for_events(DEADLOCK_GRACE_NS)   # the whole of it, whatever else there is to do
            timeout_ns = DEADLOCK_AGAIN_NS
        trim_ns = 0 if look_at_stacks(TRIMMED_A_LOOK) else trim_stacks(TRIMMED_A_LOOK)
        if trim_ns >= 0 and (timeout_ns < 0 or trim_ns < timeout_ns):
            timeout_ns = trim_ns
        return self.wait_for_events(timeout_ns)

    cdef int wait_for_events(self, int64_t timeout_ns) except -1:
        if timeout_ns < 0 or timeout_ns >= LONG_WAIT_NS:
            give_back_stacks()
        self.watched.waiting = timeout_ns != 0
        try:
            if self.watched.signals is not NULL:
                check_signals(self.watched.signals)
                if self.ring_head != self.ring_tail:
                    return 0
            if self.pass_to is not None:
                return 0
            self.poller.wait(timeout_ns)
        finally:
            greenio_monitor_wait_over(&self.watched)
            self.last_look = greenio_ticks()
            self.until_look = LOOK_EVERY
        self.seen_ns = self.now()
        if self.watched.signals is not NULL:
            check_signals(self.watched.signals)
        return 0

    cdef bint is_deadlocked(self) except -1:
        # Whether nothing is left that could wake a fiber, given that none is ready and no timer, descriptor or call is waited for.
        return busy_states(self.main.core.thread_state) == 0 and not handled_signals()

    cdef object deadlock_text(self):
        if deadlock_explainer is not None:
            try:
                return deadlock_explainer(self)
            except Exception as error:
                log().error("a deadlock could not be explained", exc_info=error)
        return "\n".join([describe_fiber(fiber) for fiber in self.fibers()])

    def outlook(self):
        """What could still make a fiber ready, as a dict, for those who explain why nothing happens.

        Returns:
            ready: fibers in the run queue; running: whether one runs Python code now; timers: armed ones; next_timer: seconds until
            the first is due, or None; descriptors: fibers that wait for one; outside_calls: not yet answered; other_threads: how many
            other Python threads live; signals: numbers that have a handler in Python.
        """
        cdef Fiber fiber
        running = False
        for fiber in self.fibers():
            running = running or fiber.run_state == RUNNING
        timers = self.timers.count
        next_timer = (greenio_timers_deadline(&self.timers) - self.now()) / 1e9 if timers else None
        return {
            "ready": self.ring_tail - self.ring_head, "running": running, "timers": timers, "next_timer": next_timer,
            "descriptors": self.io_waiting, "outside_calls": self.outside_calls,
            "other_threads": 0 if self.closed else busy_states(self.main.core.thread_state), "signals": handled_signals(),
        }

    def wait_all_parked(self):
        """Park the current fiber until every other one is parked, and no descriptor that is waited for is ready.

        Raises:
            Cancelled: this fiber was cancelled.
        """
        cdef WaitNode node
        cdef uint64_t before = self.quiet_moments
        self.check()
        wait_append(&self.quiet_waiters, &node, self.current)
        try:
            while self.quiet_moments == before:
                self.park("all other fibers to be parked", None, NEVER)
        finally:
            wait_remove(&self.quiet_waiters, &node)

    # --- hand-off: see the contract, and "Hand-off" in ARCHITECTURE.md

    cdef bint come_back(self) noexcept:
        cdef void *carrier
        if greenio_scheduler_get() is <void *>self:
            return False
        carrier = greenio_carrier_get()
        if carrier is NULL or (<Carrier>carrier).scheduler is not self or (<Carrier>carrier).fiber is NULL:
            return False
        (<Carrier>carrier).come_back()
        return True

    cdef PyObject *find_caller(self) noexcept:
        cdef void *carrier
        if greenio_scheduler_get() is <void *>self:
            return self.current
        carrier = greenio_carrier_get()
        return self.current if carrier is NULL or (<Carrier>carrier).fiber is NULL else (<Carrier>carrier).fiber

    cdef int go_home(self) except -1:
        cdef Fiber me
        if self.home is None:
            return 0
        self.come_back()
        if self.carrier is self.home:
            return 0
        me = <Fiber>self.current
        me.pinned += 1
        me.carrier_number = self.home.number
        self.push(<PyObject *>me)
        self.switch_out(<PyObject *>me)
        me.pinned -= 1
        return 0

    cdef int start_carriers(self) except -1:
        cdef Carrier home = Carrier(self)
        prepare(home.root)
        pthread_sigmask(SIG_BLOCK, NULL, &self.signal_mask)
        self.home = self.carrier = home
        home.state = CARRYING
        self.carrier_number = (<Fiber>self.current).carrier_number = home.number
        home.carrier_here[0] = <void *>home
        return 0

    cdef void end_carriers(self) noexcept:
        # By main, at home; nobody is stuck.
        cdef Carrier carrier
        if self.home is None:
            return
        for carrier in self.carriers[1:]:
            carrier.let_go()
        self.home.order = END_CARRYING
        switch_to(&self.main.core, &self.home.root.core, self.watched.signals)
        self.home.carrier_here[0] = NULL
        self.carriers = []
        self.carrier = self.home = self.pass_to = None

    cdef void forget_carriers(self) noexcept:
        # In a forked child.
        cdef Carrier carrier
        for carrier in self.carriers:
            forget_after_fork(&carrier.root.core)
            carrier.drop_root()
        self.carriers = []
        self.carrier = self.home = self.pass_to = None

    cdef bint may_hand_off(self) noexcept:
        # Not while the scheduler itself is at work on the current fiber's stack, nor in the middle of a switch.
        cdef Fiber fiber = <Fiber>self.current
        return (self.carrier is not None and fiber.run_state == RUNNING and fiber.core.context is NULL and fiber.atomic_depth == 0 and not self.hosting
                and not self.looking and not self.closed and not self.forking and self.carrier.state == CARRYING)

    cdef int hand_off(self, const greenio_system_call *call, double seconds) except -1:
        # On an assistant, which may become the one that carries.
        global carrying_threads
        cdef Carrier to = None
        cdef Carrier each
        cdef uint64_t switches = self.watched.switches
        cdef tuple told = (<Fiber>self.current, seconds, (call.number, name_of(call), call.descriptor), self.handoffs + 1)
        for each in self.carriers:
            if each.state == IDLE and each.order != END_CARRYING:
                to = each
                break
        if to is None:
            if <Py_ssize_t>len(self.carriers) > self.most_carriers:
                return 0
            install_overflow_handler()
            to = Carrier(self)
            adopt_thread(to.root)
        # What is new may have set off the garbage collector, and so anything. Nothing below does.
        if self.watched.switches == switches and self.may_hand_off() and to.state == IDLE and to.order != END_CARRYING:
            self.leave_stuck(to, told)
        elif self.closed and to.carrier_here is greenio_carrier_here():
            to.let_go()
        if to.root.core.stack is not NULL or to.carrier_here is not greenio_carrier_here():
            return 0
        # This thread is it.
        self.watched.asked = 0
        to.carrier_here[0] = <void *>to
        carrying_threads += 1
        greenio_assistants_carry(&self.signal_mask)
        to.carry()
        carrying_threads -= 1
        to.carrier_here[0] = NULL
        to.drop_root()
        forget_overflow_thread()
        threading._active.pop(self_ident(), None)   # a fiber may have asked for its threading.current_thread()
        return 0

    cdef void leave_stuck(self, Carrier to, tuple told) noexcept:
        # The fiber that runs keeps its OS thread; `to` goes on with the others.
        cdef Carrier stuck = self.carrier
        stuck.state = STUCK
        stuck.fiber = self.current
        self.away += 1
        self.outside_calls += 1
        self.handoffs += 1
        if self.away > 1:
            # Several in a row: whoever waits behind all of them has waited for one limit each.
            self.watched.stall_after_ns = self.stall_after_ns // 2
        self.pass_to = None
        if stuck is self.home:
            self.watched.away_running = (<Fiber>self.current).core.thread_state
        self.give(to)
        try:
            self.untold.append(told)
        except MemoryError:
            pass
        greenio_assistants_send(&self.watched)

    cdef void give(self, Carrier to) noexcept:
        cdef Carrier before = self.carrier
        before.scheduler_here[0] = NULL
        to.scheduler_here[0] = <void *>self
        if before is self.home:
            self.watched.away_signals = self.watched.signals
            self.watched.signals = NULL
        self.carrier = to
        self.carrier_number = to.number
        self.current = <PyObject *>to.root
        self.hosting = to.handling
        self.watched.thread_id = to.kernel_id
        self.watched.looks += 1
        to.state = CARRYING
        if to is self.home:
            self.watched.running = to.root.core.thread_state
            self.watched.signals = self.watched.away_signals
            self.watched.away_signals = NULL
        sem_post(&to.turn)

    cdef void take_back(self, Carrier carrier) noexcept:
        # Its stuck fiber has left it.
        cdef PyObject *fiber = carrier.fiber
        carrier.fiber = NULL
        carrier.state = IDLE
        self.away -= 1
        self.outside_calls -= 1
        if self.away == 0:
            self.watched.stall_after_ns = self.stall_after_ns
        self.push(fiber)
        held_up, carrier.held_up = carrier.held_up, []
        for each in held_up:
            self.push(<PyObject *>each)
        if carrier is self.home:
            self.summon(carrier)

    cdef void summon(self, Carrier carrier) noexcept:
        self.pass_to = carrier
        self.until_look = 0
        if self.watched.waiting:
            self.poller.wake()

    cdef void retire(self, Carrier carrier) noexcept:
        # It has had nothing to do for a while, or the process forks: unless fibers depend on it, its OS thread may end.
        cdef Fiber fiber
        for fiber in self.fibers():
            if fiber.carrier_number == carrier.number and (fiber.pinned or is_in_callback(&fiber.core)):
                return
        carrier.let_go()

    cdef bint admit(self, Fiber fiber) noexcept:
        # The fiber, just taken from the run queue, ran on another OS thread before, or nowhere. False: it cannot run here.
        cdef Carrier carrier
        if fiber.carrier_number == 0 and fiber.pinned:
            fiber.carrier_number = self.home.number
        if fiber.carrier_number == self.carrier_number:
            return True
        if fiber.carrier_number != 0 and (fiber.pinned or is_in_callback(&fiber.core)):
            for carrier in self.carriers:
                if carrier.number != fiber.carrier_number:
                    continue
                if carrier.state == STUCK:
                    carrier.held_up.append(fiber)
                else:
                    self.ring_head -= 1
                    self.summon(carrier)
                return False
        fiber.carrier_number = self.carrier_number
        return True

    cdef void tell_untold(self) noexcept:
        while self.untold:
            fiber, seconds, call, which = self.untold.pop(0)
            try:
                tell_of(self, fiber, seconds, call, which, True)
            except BaseException as error:
                log().error("a hand-off could not be told", exc_info=error)

    # --- fork and exit

    cdef void become_only(self) noexcept:
        # In a forked child, on the fiber that forked: the others' thread states are freed, their stacks will never run again. What they
        # hold is lost, as with threads.
        cdef Fiber me = <Fiber>self.current
        cdef Fiber fiber
        cdef Watch watch
        self.forget_carriers()
        greenio_carrier_here()[0] = NULL
        self.carrier_number = me.carrier_number = 0
        self.away = 0
        if self.forking:
            me.atomic_depth -= 1
        self.forking = False
        self.untold = []
        # The others' nodes lie on their stacks, so they go first. One of ours is here if we forked in a signal handler on top of the
        # idle loop.
        self.io_waiting = 0
        for watch in self.watches.values():
            self.io_waiting += keep_only(&watch.readers, self.current) + keep_only(&watch.writers, self.current)
        keep_only(&self.quiet_waiters, self.current)
        self.forget_fibers(me)
        self.watched.signals = forget_pool_after_fork()
        self.ring_head = 0
        self.ring_tail = 0
        greenio_timers_clear(&self.timers)
        me.timer = GREENIO_TIMER_NONE
        me.joiners.first = NULL
        me.joiners.last = NULL
        if me.limit is not None:
            me.limit.after_fork(me, True)
        me.born_in = None
        self.outside_calls = 0
        self.waits_for_all = False
        self.closing = False
        self.exiting = False
        self.abandoned_count = 0
        self.ended = False
        self.fatal = None
        self.watched.waiting = 0
        self.failed = []
        self.main = me
        self.os_thread = PyThread_get_thread_ident()
        self.watched.thread_id = greenio_kernel_thread_id()
        self.watched.running = me.core.thread_state
        self.watched.away_signals = NULL
        if self.most_carriers:
            try:
                self.start_carriers()
            except MemoryError:
                pass    # the child does without
        # A signal handler forked, on top of the idle loop. What its fiber waits for may have been in a line or a fiber that is gone.
        if me.run_state == PARKED:
            unpark(me, WOKEN)
        elif me.run_state == READY:
            self.push(<PyObject *>me)

    cdef void forget_fibers(self, Fiber but) noexcept:
        cdef Fiber fiber
        for fiber in self.fibers():
            if fiber is but:
                continue
            fiber.raised = RunFinishedError(f"{fiber.name} did not come along into this forked process")
            fiber.observed = True
            fiber.outcome = True
            fiber.run_state = DONE
            fiber.timer = GREENIO_TIMER_NONE
            fiber.joiners.first = NULL
            fiber.joiners.last = NULL
            fiber.callbacks = None
            if fiber.born_in is not None:
                fiber.born_in.after_fork(fiber, False)
            forget_after_fork(&fiber.core)
            self.unlink(fiber)

    def _abandon(self):
        """In a forked child: this was another OS thread's, which did not come along."""
        cdef _SignalPipe pipe = self.signal_pipe
        self.forget_carriers()
        live.discard(self)
        self.closed = True
        self.current = NULL
        self.ring_head = self.ring_tail
        greenio_timers_clear(&self.timers)
        self.watches = {}
        self.forget_fibers(None)
        self.poller.close()
        if pipe is not None:
            self.signal_pipe = None
            close_signal_pipe(pipe)
        Py_DECREF(self)  # of open

    cdef int reopen(self) except -1:
        # In a forked child: new kernel objects, the monitor again.
        cdef Watch watch
        pipe = self.signal_pipe
        self.signal_pipe = None
        waited_for = [
            (fd, watch) for fd, watch in self.watches.items()
            if watch.readers.first is not NULL or watch.writers.first is not NULL]
        self.watches = {}
        self.poller.after_fork()
        for fd, watch in waited_for:
            (<Entry>watch).fd = fd
            self.watches[fd] = watch
            try:
                self.poller.add(watch)
            except OSError:
                self.drop_watch(watch)   # who waits finds it closed
        self.watched.wake_fd = self.poller.wake_fd
        self.name_run()
        if pipe is not None:
            close_signal_pipe(pipe)
        self.listen_for_signals()
        greenio_monitor_add(&self.watched, &monitor_hooks)
        return 0

    cdef void end_forked_child(self, Fiber me) noexcept:
        # The fiber that forked was not the main one, so no caller of run() is below it: its end is the process's, which
        # says what it raised.
        me.observed = True
        try:
            # Shielded: the fiber may have been cancelled, and threads that are no daemons are waited for all the same.
            self.main.shield += 1
            for end in (threading._shutdown, functools.partial(self._unwind, True)):
                try:
                    end()
                except BaseException as error:
                    if me.raised is None:
                        me.raised = error
            self.close_in_child()
            call_on_stack(&me.core, BIG_STACK_BYTES, _end_process, (me,))
        except BaseException as error:
            log().critical("a forked child could not end as an interpreter does", exc_info=error)
        os._exit(1)

    cdef int close_in_child(self) except -1:
        live.discard(self)
        self.closed = True
        greenio_monitor_remove(&self.watched)
        self.forget_thread()
        greenio_scheduler_set(NULL)
        return 0

    # --- descriptors

    cdef Watch watch_for(self, int fd):
        cdef Watch watch = self.watches.get(fd)
        if watch is not None and not self.poller.holds(watch):
            self.drop_watch(watch)
            watch = None
        if watch is None:
            watch = Watch(fd, self)
            self.poller.add(watch)
            self.watches[fd] = watch
        return watch

    cdef void drop_watch(self, Watch watch) noexcept:
        self.watches.pop(watch.fd, None)
        try:
            self.poller.remove(watch)
        except OSError as error:
            self.throw_into_main(error)
        watch.closed = True
        watch.unpark_everyone()

    cdef int wait_io(self, Watch watch, bint to_write, WaitNode *node, int64_t deadline_ns, object reason, object waiting_on) except -1:
        # Returns once the flag is set and it is the node's turn. The node stays in its list: leave_io takes it out, and must be called
        # whatever happens. Who comes meanwhile lines up behind it.
        cdef WaitList *waiters = &watch.writers if to_write else &watch.readers
        cdef int wake = WOKEN
        if self.away:
            self.come_back()
        if node.fiber is NULL:
            wait_append(waiters, node, self.current)
        self.io_waiting += 1
        try:
            while True:
                if watch.closed:
                    raise OSError(EBADF, f"the descriptor was closed during {reason}")
                if waiters.first is node and (watch.writable if to_write else watch.readable):
                    return 0
                if wake == TIMED_OUT:
                    raise TimeoutError("timed out")
                wake = self.park(reason, waiting_on, deadline_ns)
        finally:
            self.io_waiting -= 1

    def time(self):
        """Now on this scheduler's clock, in seconds."""
        return self.now() / 1e9

    def outside_call(self, int change):
        """A call was handed to another OS thread (+1) or answered (-1): until then the run is not deadlocked."""
        self.outside_calls += change


cdef void number(Fiber fiber) noexcept:
    global fibers_made
    fibers_made += 1
    (<BaseFiber>fiber).id = fibers_made


def tell_stalls_to(fn):
    """From now on fn(scheduler, fiber, seconds, call, which, beside) is called, on an OS thread without fibers, when a run stands still.

    `call` is (number, name or None, descriptor or -1) of the system call that the run's OS thread sits in, the number -1 for none
    and -2 where that is not known; `which` tells one stall from the next; `beside`: the other fibers go on, on another OS thread.
    """
    global stall_teller
    stall_teller = fn


cdef object self_ident():
    return PyThread_get_thread_ident()


cdef object name_of(const greenio_system_call *call):
    return None if call.name is NULL else call.name.decode()


cdef int tell_of(Scheduler scheduler, Fiber fiber, double seconds, tuple call, int64_t which, bint beside) except -1:
    if stall_teller is not None:
        stall_teller(scheduler, fiber, seconds, call, which, beside)
    return 0


cdef void assist(greenio_watched *watched, uint64_t run_id, const greenio_system_call *call) noexcept:
    cdef Scheduler scheduler
    for scheduler in list(live):
        if &scheduler.watched is watched and watched.run_id == run_id:
            try:
                if scheduler.untold:
                    scheduler.tell_untold()
                else:
                    scheduler.tell_stall(call)
            except BaseException as error:
                log().error("a stall could not be told", exc_info=error)
            finally:
                scheduler.watched.asked = 0


cdef void end_assistants() noexcept:
    cdef Scheduler scheduler
    greenio_assistants_end()
    # What was asked of them and not yet begun is forgotten: it is to be asked again.
    for scheduler in list(live):
        scheduler.watched.asked = 0


cdef object deadlock_explainer = None      # explain(scheduler) -> str
cdef object explainer_file = None          # its calls stand on top of the stack of the fiber that hosts the idle loop, and explain nothing
cdef list quiet_handlers = []              # of signals, but waking no fiber
cdef list quiet_threads = []               # one entry for each OS thread that has a Python thread state and only waits for work


cdef Py_ssize_t carrying_threads = 0       # assistants that run fibers, or wait to


cdef Py_ssize_t busy_states(PyThreadState *own) noexcept:
    # Thread states of other OS threads that may wake a fiber.
    return max(<Py_ssize_t>foreign_states(own) - len(quiet_threads) - carrying_threads, 0)


def threads_that_wait_for_work():
    """The list that has an entry for each OS thread that does nothing until a fiber gives it work: it keeps no deadlock from being one."""
    return quiet_threads


def explain_deadlocks_by(fn):
    """From now on fn(scheduler) gives the text of a DeadlockError."""
    global deadlock_explainer, explainer_file
    deadlock_explainer = fn
    explainer_file = fn.__code__.co_filename


def keep_quiet_handler(handler, bint quiet):
    """*handler*, a signal handler in Python, wakes no fiber (*quiet*): it keeps no deadlock from being one. Or: forget that."""
    cdef Py_ssize_t index
    if quiet:
        quiet_handlers.append(handler)
        return
    for index in range(len(quiet_handlers)):
        if quiet_handlers[index] is handler:
            del quiet_handlers[index]
            return


def handled_signals():
    """Numbers of the signals whose handler in Python could wake a fiber; that of SIGINT that Python itself installs could not."""
    found = []
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            for quiet in quiet_handlers:
                if quiet is handler:
                    break
            else:
                found.append(int(number))
    return sorted(found)


def brief_repr(thing):
    """repr(thing), shortened; says so if that raises. For dumps, which must not fail for what a program's own __repr__ does."""
    try:
        text = repr(thing)
    except Exception as error:
        text = f"<{type(thing).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= REPR_ROOM else text[:REPR_ROOM] + "..."


def group_of(Fiber fiber not None):
    """The scope of the task group that *fiber* was spawned into, or None."""
    return fiber.born_in


def describe_fiber(Fiber fiber not None, str more=""):
    """A few lines: which fiber, what it waits for and since when, *more*, where it was spawned, its Python stack."""
    waits = fiber.waits_for
    text = f"Fiber {fiber.id} ({fiber.name}), "
    if waits is None:
        text += fiber.state
    else:
        reason, waiting_on, since = waits
        text += f"waits for {reason}"
        if waiting_on is not None:
            text += f": {brief_repr(waiting_on)}" if not isinstance(waiting_on, Fiber) else f": {waiting_on.id} ({waiting_on.name})"
        text += f", for {max(0.0, fiber.scheduler.time() - since):.3f} s"
    text += more
    if fiber.spawned_at is not None:
        text += ", spawned at %s:%d" % fiber.spawned_at
    stack = fiber.stack
    while stack and stack[len(stack) - 1].filename == explainer_file:
        stack.pop()
    calls = "".join(stack.format())
    if not fiber.core.started:
        return text + ", not begun\n"
    return f"{text}\n{calls}"


# --- calls from Python -----------------------------------------------------------------------------------------------


def spawn(fn, *args, name=None, stack_size=None, bint pin=False):
    """Run fn(*args) as a new fiber, concurrently with the caller, which goes on.

    The fiber begins at the caller's next park or later, first come first served, with a copy of the caller's contextvars.
    Dropping the handle does not stop it. What fn raises is kept for `result`; if nobody asks, it is logged.

    Args:
        fn: any callable; keyword arguments by functools.partial.
        name: for dumps and logs; "fiber-" and the id unless given.
        stack_size: bytes of C stack, rounded up to a power of two; None: what run was given (256 KiB).
        pin: it stays on its OS thread, as inside greenio.pin().
    Returns:
        The Fiber. If no stack is to be had when its turn comes, its result is a MemoryError.
    Raises:
        RuntimeError: no fibers run on this OS thread (see Scheduler.spawn).
        TypeError, ValueError: *fn* is not callable, *stack_size* is out of bounds. Nothing was spawned.
    """
    cdef Fiber fiber = current_scheduler_or_raise().make(fn, args, name, stack_size, None)
    fiber.pinned = pin
    return fiber


def current_fiber():
    """The fiber that runs. RuntimeError if this OS thread runs none."""
    return <Fiber>current_scheduler_or_raise().current


def current_scheduler():
    """This OS thread's scheduler; keep it to spawn from other OS threads. RuntimeError if there is none."""
    return current_scheduler_or_raise()


def running_scheduler():
    """This OS thread's scheduler, or None."""
    return current_scheduler_or_none()


def can_park():
    """Whether the caller may wait by parking: a fiber runs here.

    False on an OS thread without fibers, and for a signal handler or destructor that is called on top of the idle loop.
    """
    cdef Scheduler scheduler = current_scheduler_or_none()
    return scheduler is not None and not scheduler.hosting


def yield_now():
    """Let every fiber that is ready now run before this one goes on. A checkpoint.

    Raises:
        Cancelled: this fiber was cancelled.
        RuntimeError: no fibers run on this OS thread; or the caller is inside greenio.atomic().
    """
    cdef Scheduler scheduler = current_scheduler_or_raise()
    scheduler.check()
    scheduler.give_way()


def checkpoint():
    """Raise what interrupts this fiber, if anything does; give way if it has run for long. For loops that compute.

    Raises:
        Cancelled: this fiber was cancelled.
        RuntimeError: no fibers run on this OS thread.
    """
    cdef Scheduler scheduler = current_scheduler_or_raise()
    scheduler.check()
    scheduler.spend()


def on_big_stack(fn, *args):
    """Call fn(*args) on a C stack of 8 MiB, as the same fiber, and return what it returns.

    For code that needs more C stack than a fiber has: OpenBLAS takes 4.35 MB in one step, deeply nested data recurses.
    It may park as usual. Also works on OS threads without fibers.

    Raises:
        MemoryError: no such stack is to be had; fn was not called.
        BaseException: what fn raises.
    """
    cdef Scheduler scheduler = current_scheduler_or_none()
    if not callable(fn):
        raise TypeError(f"on_big_stack wants a callable and its arguments, not {fn!r}")
    if scheduler is None or scheduler.current is NULL:
        return call_on_stack(NULL, BIG_STACK_BYTES, fn, args)
    return call_on_stack(&(<Fiber>scheduler.current).core, BIG_STACK_BYTES, fn, args)


def _end_process(Fiber fiber not None):
    """End this process as an interpreter does whose script and threads have ended, as *fiber* did: atexit, output, exit status.

    Not by Py_Exit, which on CPython 3.13 and later goes to the first process's main thread state; in a child that another one
    forked, that is freed.
    """
    import atexit
    status = 0
    error = fiber.raised
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            status = error.code
        elif error.code is not None:
            print(error.code, file=sys.stderr)
            status = 1
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BaseException:
            status = 120  # as the interpreter says it
    os._exit(status)


# --- fork, and the interpreter's exit --------------------------------------------------------------------------------


def get_ready_to_fork():
    """First of all hooks before a fork: from here to the fork's end the current fiber stays on the OS thread that it is on now.

    That is the run's own, if it is to be had. OS threads that wait for fibers to run end, but for those that fibers depend on.
    """
    cdef Scheduler scheduler = current_scheduler_or_none()
    cdef Carrier carrier
    if scheduler is None or scheduler.home is None or scheduler.forking:
        return
    if not scheduler.hosting and (scheduler.home.state == IDLE or scheduler.current is <PyObject *>scheduler.main):
        scheduler.go_home()
    scheduler.forking = True
    (<Fiber>scheduler.current).atomic_depth += 1
    for carrier in scheduler.carriers[1:]:
        if carrier.state == IDLE:
            scheduler.retire(carrier)


def _before_fork_hook():
    cdef Scheduler scheduler
    cdef Scheduler other
    global monitor_stopped
    get_ready_to_fork()
    scheduler = current_scheduler_or_none()
    greenio_monitor_stop()
    end_assistants()
    # Not in the hook after the fork: os.fork counts the process's threads after that, and warns. See watch_again.
    monitor_stopped = True
    for other in live:
        other.until_look = 0
    if scheduler is not None:
        scheduler.thread_id = before_fork(&(<Fiber>scheduler.current).core)


def _after_fork_in_parent():
    cdef Scheduler scheduler = current_scheduler_or_none()
    if scheduler is not None:
        after_fork(&(<Fiber>scheduler.current).core, scheduler.thread_id)
        if scheduler.forking:
            scheduler.forking = False
            (<Fiber>scheduler.current).atomic_depth -= 1


def _after_fork_in_child():
    global carrying_threads
    cdef Scheduler scheduler = current_scheduler_or_none()
    cdef Scheduler other
    global monitor_stopped
    monitor_stopped = False
    greenio_monitor_after_fork_child()
    greenio_assistants_after_fork_child()
    carrying_threads = 0
    for other in list(live):
        if other is not scheduler:
            other._abandon()
    if scheduler is None:
        forget_pool_after_fork()
        return
    after_fork(&(<Fiber>scheduler.current).core, scheduler.thread_id)
    scheduler.become_only()
    scheduler.reopen()


def _end_other_runs():
    """At the interpreter's exit: runs on daemon threads are cancelled, so that their fibers' finally blocks run."""
    import time
    cdef Scheduler scheduler
    cdef int64_t patience = greenio_monotonic_ns() + <int64_t>EXIT_PATIENCE_MS * 1_000_000
    for scheduler in list(live):
        if scheduler.os_thread != PyThread_get_thread_ident():
            scheduler.main.cancel("the interpreter exits")
    for scheduler in list(live):
        if scheduler.os_thread == PyThread_get_thread_ident():
            continue
        while not scheduler.closed and greenio_monotonic_ns() < patience:
            time.sleep(0.001)
        if not scheduler.closed:
            log().warning("the interpreter exits while %d fibers of another OS thread are alive: %s",
                          scheduler.alive_count, ", ".join(fiber.name for fiber in scheduler.fibers()[:10]))


def live_schedulers():
    """A list of the schedulers that are in run() now, of all OS threads."""
    return list(live)


def monitor_ticks():
    """How often the monitor thread has looked."""
    return greenio_monitor_ticks()


def set_monitor_tick(double seconds):
    """For tests: the time between two looks of the monitor thread, below a second; 0: as ever."""
    greenio_monitor_set_tick(<int64_t>(seconds * 1e9))


def _set_up():
    import atexit
    calibrate_ticks()
    greenio_assistants_work(assist)
    os.register_at_fork(before=_before_fork_hook, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    atexit.register(_end_other_runs)


_set_up()
