# _scheduler.pxd: run queue, timers, park and unpark, descriptors waited for, the idle loop. One scheduler for each OS thread in run().
#
# There is no hub: a fiber that parks takes the next ready one and switches straight to it; if none is ready, it runs the idle
# loop on its own stack. Waiting is two verbs, park and unpark; no lock, channel or socket is known here.
# Everything wants the GIL. unpark, spawn and cancel may be called from any OS thread; the rest by the scheduler's own.
#
# Invariants:
#   - a fiber is in the run queue exactly when its state is READY, and then once;
#   - the run queue has room for every fiber alive, so that unpark cannot fail;
#   - `alive` links every fiber spawned and not ended; each of them owns a reference to itself;
#   - a timer is armed only while its fiber is parked.
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from greenio._switch cimport BaseFiber, FiberCore, PyThreadState
from greenio.pollers.poller cimport Entry, Poller

cdef extern from "monitor.h":
    struct greenio_watched:
        PyThreadState *running
        PyThreadState *signals
        PyThreadState *away_running
        PyThreadState *away_signals
        uint64_t switches
        uint64_t idle_periods
        int waiting
        int wake_fd
        int64_t slice_ns
        int slice_signal
        int slice_is_sent
        uint64_t slice_switches
        uint64_t looks
        int64_t stall_after_ns
        uint64_t run_id
        int thread_id
        int poll_fd
        const size_t *ring_head
        const size_t *ring_tail
        const Py_ssize_t *io_waiting
        int asked
        int64_t due_ns
        int64_t tell_after_ns
        uint64_t seen_progress
        int64_t still_ns
        int64_t needed_ns

cdef extern from "system_calls.h":
    struct greenio_system_call:
        int number
        int descriptor
        const char *name

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass

cdef extern from "timers.h":
    enum:
        GREENIO_TIMER_NONE
    struct greenio_timers:
        uint32_t count

cdef enum FiberState:
    READY                # in the run queue
    RUNNING
    PARKED
    DONE
    ABANDONED            # at the interpreter's exit: it never runs again

cdef enum Wake:          # why a park ended
    WOKEN                # unparked by whom it waited for
    TIMED_OUT            # its deadline came first
    INTERRUPTED          # cancelled, or an exception was thrown in: park raises it

cdef enum Interrupt:     # bits of Fiber.interrupts
    CANCELLED = 1        # level-triggered: raised at every checkpoint from now on
    THROWN = 2           # one exception, raised once

cdef enum:
    NEVER = -1           # no deadline


cdef struct WaitNode:    # one waiting fiber, on its own stack for as long as it waits
    WaitNode *next
    WaitNode *previous
    PyObject *fiber      # borrowed

cdef struct WaitList:    # who waits, first come first served
    WaitNode *first
    WaitNode *last


cdef inline void wait_append(WaitList *waiters, WaitNode *node, PyObject *fiber) noexcept:
    node.fiber = fiber
    node.next = NULL
    node.previous = waiters.last
    if waiters.last is NULL:
        waiters.first = node
    else:
        waiters.last.next = node
    waiters.last = node


cdef inline void wait_remove(WaitList *waiters, WaitNode *node) noexcept:
    if node.previous is NULL:
        waiters.first = node.next
    else:
        node.previous.next = node.next
    if node.next is NULL:
        waiters.last = node.previous
    else:
        node.next.previous = node.previous


cdef class Limit:
    # What bounds fibers from outside, as a cancel scope does: all that the scheduler asks of one. Fiber.limit is the innermost.
    # The moment in fiber.limit_ns has come: interrupts what it bounds, among that the fiber, or sets another moment.
    cdef void expire(self, Fiber fiber) noexcept
    # fiber.cancel_called has been set: interrupts the fiber, and whatever was born in its scopes.
    cdef int spread(self, Fiber fiber) except -1
    # What the Cancelled that the fiber is about to get carries.
    cdef object reason(self, Fiber fiber)
    # A fiber is about to be made ready that has this as its `limit` and `born_in`. False: it stays parked until its turn comes.
    cdef bint born(self, Fiber fiber) except -1
    # A fiber that was born in it has ended.
    cdef void ended(self, Fiber fiber) noexcept
    # In a forked child: this fiber is left (`lives`), or has not come along.
    cdef void after_fork(self, Fiber fiber, bint lives) noexcept


cdef class Clock:
    cpdef int64_t now_ns(self) except? -1
    # Nothing is ready and `deadline_ns` comes next: how many ns may the poller wait? A virtual clock moves to the deadline and says 0.
    cpdef int64_t wait_ns(self, int64_t deadline_ns) except? -1


cdef class Schedule:
    # Which of the ready fibers runs next, in place of round robin: see greenio.testing. Asked at every checkpoint, park and end.
    # `ready`: at least one, as they became ready; `running`: the last of them, if it stands at a checkpoint and may go on, else
    # None; `yielded`: it asked the others to go first. Must return one of `ready`. Must not park.
    cpdef object choose(self, list ready, Fiber running, bint yielded)


cdef class Fiber(BaseFiber):
    cdef object __weakref__
    cdef readonly Scheduler scheduler
    cdef object given_name            # str, or None
    cdef unsigned char run_state      # FiberState
    cdef unsigned char wake           # Wake, of the last park
    cdef unsigned char interrupts     # Interrupt bits
    cdef bint outcome                 # result or exception is known
    cdef bint observed                # somebody has seen the exception, or it was logged
    cdef int shield                   # > 0: CANCELLED and the limit are held off
    cdef readonly int pinned          # > 0: it stays on its OS thread
    cdef unsigned int carrier_number  # the OS thread that it ran on last: Carrier.number; 0: none, or there is no hand-off
    cdef int atomic_depth             # > 0: no other fiber runs until it is 0 again; it neither parks nor gives way
    cdef bint slice_due               # a time slice has passed inside an atomic block: for its end
    cdef bint collecting              # it stands in the garbage collector; known only while there are time slices
    cdef int atomic_refused           # blocks around it that a wait was refused in: not atomic any more, not left yet
    cdef bint cancel_called           # the fiber as a whole; CANCELLED says whether a scope holds it off
    cdef object cancel_reason
    cdef Limit limit                  # the innermost scope it is in, or None
    cdef Limit born_in                # the task group's scope it was spawned into, or None
    cdef int64_t limit_ns             # the earliest deadline of a scope that can interrupt it, or NEVER
    cdef unsigned int cancel_count    # times that Cancelled was raised in it
    cdef object thrown                # exception for THROWN
    cdef object wait_reason           # while parked: a short phrase, e.g. "channel receive"
    cdef object waiting_on            # and the object, or None
    cdef int64_t parked_ns            # since when, on the scheduler's clock (of its last look)
    cdef int64_t deadline_ns          # the park's own deadline, or NEVER
    cdef unsigned int park_count      # which park it is: a destructor may park within another one's end
    cdef uint32_t timer               # its deadline in the scheduler's heap; GREENIO_TIMER_NONE: not armed
    cdef WaitList joiners
    cdef list callbacks
    cdef object spawn_code            # where it was spawned: code object,
    cdef int spawn_offset             # and the instruction in it
    cdef PyObject *alive_next
    cdef PyObject *alive_previous

    cdef int judge(self, Scheduler scheduler) except -1
    cdef int call_back(self, object fn) except -1
    cdef int call_all_back(self) except -1
    cdef int log_failure(self) except -1
    cdef object cancelled_error(self)
    cdef void end(self) noexcept
    cdef void remove_joiner(self, WaitNode *node) noexcept


cdef class Root(Fiber):
    # Where an OS thread stands while it runs no fiber. Not alive, not counted, never in the run queue but as the host of an idle loop.
    pass


cdef enum CarrierState:
    IDLE                 # waits for its turn, in its root
    CARRYING             # the scheduler's fibers run here
    STUCK                # one fiber does, beside the others

cdef enum Order:         # what a root that is continued has to do
    CARRY_ON
    TAKE_BACK            # the stuck fiber has left: it is ready
    PASS_ON              # another OS thread carries from now on
    END_CARRYING


cdef class Carrier:
    # An OS thread that runs a scheduler's fibers, where those may change their OS thread: the one that run() was called on (the home,
    # number 1), or an assistant. Exactly one of a scheduler's carriers is CARRYING.
    cdef Scheduler scheduler
    cdef unsigned int number          # in its run, from 1
    cdef unsigned char state          # CarrierState
    cdef unsigned char order          # Order
    cdef bint handling                # its root calls signal handlers
    cdef Root root
    cdef PyObject *fiber              # STUCK: which; borrowed, it runs
    cdef list held_up                 # ready fibers that may run nowhere else, while another one is stuck here
    cdef void **scheduler_here        # the OS thread's own variables: its scheduler, while it carries
    cdef void **carrier_here          # and its carrier
    cdef int kernel_id
    cdef sem_t turn                   # posted when the state has become CARRYING, or the order END_CARRYING

    cdef void come_back(self) noexcept
    cdef void carry(self) noexcept
    cdef bint wait_for_turn(self) noexcept
    cdef void handle_signals(self) noexcept
    cdef void let_go(self) noexcept
    cdef void drop_root(self) noexcept


cdef class Watch(Entry):
    # A descriptor in one scheduler's poller, and who waits for it. A false `readable` (`writable`) means that the last look found
    # nothing (no room), so the next one can wait for an event straight away.
    cdef readonly Scheduler scheduler
    cdef readonly bint readable
    cdef readonly bint writable
    cdef readonly int seen            # every flag that an event ever brought
    cdef readonly bint closed         # by close_watch: whoever waits must not touch the descriptor
    cdef WaitList readers
    cdef WaitList writers
    cdef void unpark_everyone(self) noexcept


cdef class Scheduler:
    cdef object __weakref__
    # The run queue: a ring of fibers, first in first out.
    cdef PyObject **ring
    cdef size_t ring_mask
    cdef size_t ring_head
    cdef size_t ring_tail
    cdef PyObject *current            # the fiber that runs, borrowed: alive
    cdef int until_look               # switches until timers and the poller are looked at
    cdef int budget                   # operations that may still complete without parking
    cdef int turn_budget              # and at the start of a turn; 0 exactly under a schedule, which wants to hear of each
    cdef uint64_t turn_started        # processor ticks when the turn began, or at its first operation; 0: not known yet
    cdef uint64_t last_look           # processor ticks
    cdef Py_ssize_t io_waiting        # fibers parked for a descriptor
    cdef greenio_watched watched

    cdef greenio_timers timers
    cdef readonly Clock clock         # None: CLOCK_MONOTONIC
    cdef readonly Schedule schedule   # None: round robin
    cdef bint chosen                  # the schedule has been asked: the first in the run queue is next
    cdef readonly Poller poller
    cdef int64_t seen_ns              # the clock at the last look
    cdef readonly Fiber main
    cdef PyObject *alive              # every fiber that has not ended, newest first
    cdef readonly Py_ssize_t alive_count
    cdef list failed                  # weak references to fibers whose exception nobody has seen yet
    cdef Py_ssize_t failed_room       # the length at which it is swept
    cdef bint hosting                 # the current fiber runs the idle loop
    cdef bint closing                 # main has ended: whatever else lives is cancelled
    cdef bint ended                   # and nothing else lives or may be spawned
    cdef readonly bint closed
    cdef bint exiting                 # and with it the interpreter, which waits for others no longer than its patience lasts
    cdef Py_ssize_t abandoned_count   # fibers that are abandoned, alive to the end
    cdef bint waits_for_all           # main is parked until the others have ended
    cdef object fatal                 # SystemExit or KeyboardInterrupt that ended a fiber, until main got it
    cdef Py_ssize_t outside_calls     # calls handed to other OS threads and not yet answered
    cdef int deadlock_looks
    cdef WaitList quiet_waiters       # wait_all_parked
    cdef uint64_t quiet_moments       # times that they were told
    cdef readonly size_t stack_bytes  # of a fiber that is not given another size
    cdef unsigned long os_thread      # ident
    cdef unsigned long thread_id      # during a fork: the forking fiber's own
    cdef dict watches                 # Watch by descriptor: what is registered with the poller
    cdef object signal_pipe           # _SignalPipe, or None

    # Hand-off. `away` counts the fibers that are stuck and run beside the others. While it is not 0, a method that finds itself on an
    # OS thread that does not carry calls come_back() first: `current` is not its caller.
    cdef int away
    cdef unsigned int carrier_number  # of `carrier`; 0: there is no hand-off
    cdef Carrier carrier              # who carries; None: there is no hand-off
    cdef Carrier home
    cdef Carrier pass_to              # who is to carry from the next switch on, or None
    cdef list carriers                # all, home first
    cdef unsigned int carriers_made
    cdef int64_t stall_after_ns       # as it was asked for
    cdef Py_ssize_t most_carriers     # but home; 0: no hand-off
    cdef bint looking                 # the current fiber runs look_around
    cdef bint forking                 # between the hooks of a fork: nothing is handed over
    cdef sigset_t signal_mask         # of the home
    cdef list untold                  # hand-offs not logged yet
    cdef readonly unsigned long long handoffs
    cdef int64_t refused_ns           # when a stall that cannot be helped is told next, from its beginning,
    cdef uint64_t refused_at          # and which one that is: watched.switches

    # The caller, which may be a stuck fiber: then it becomes ready, behind the others, and is one of them when this returns. Whether it
    # was: what it has looked at before may have changed.
    cdef bint come_back(self) noexcept
    cdef PyObject *find_caller(self) noexcept
    # Back on the OS thread that run() was called on.
    cdef int go_home(self) except -1
    cdef int start_carriers(self) except -1
    cdef void end_carriers(self) noexcept
    cdef void forget_carriers(self) noexcept
    cdef bint may_hand_off(self) noexcept
    cdef int hand_off(self, const greenio_system_call *call, double seconds) except -1
    cdef void leave_stuck(self, Carrier to, tuple told) noexcept
    cdef void give(self, Carrier to) noexcept
    cdef void take_back(self, Carrier carrier) noexcept
    cdef void summon(self, Carrier carrier) noexcept
    cdef void retire(self, Carrier carrier) noexcept
    cdef bint admit(self, Fiber fiber) noexcept
    cdef void tell_untold(self) noexcept

    # Park the current fiber. `reason` and `waiting_on` are for dumps. RuntimeError inside greenio.atomic(). Raises Cancelled or what was thrown in, before parking or after:
    # whoever waits takes itself off its WaitList then. Otherwise returns a Wake. TIMED_OUT is certain; the others are a hint to look
    # again, and to park again: WOKEN may have been meant for another park of this fiber's (a destructor on the way back from
    # one may park, too), and INTERRUPTED says that there is nothing to raise any more (that destructor got it, or a scope was
    # shielded since), while whatever else came meanwhile found the fiber ready and left it alone.
    cdef int park(self, object reason, object waiting_on, int64_t deadline_ns) except -1
    # Let the others have their turn. Raises nothing but RuntimeError inside greenio.atomic().
    cdef int give_way(self) except -1
    # First thing in any operation that may park: raises what interrupts the current fiber.
    cdef int check(self) except -1
    # The current fiber has to wait inside greenio.atomic(): raises RuntimeError. Once: on the way out waits are let through.
    cdef int refuse(self, object reason) except -1
    # Last thing in one that did not park: counts against the budget, after which the fiber gives way.
    cdef void spend(self) noexcept
    cdef int64_t now(self) except? -1
    cdef void see_time(self) noexcept
    # `born_in`: the task group's scope, or None.
    cdef Fiber make(self, object function, tuple arguments, object name, object stack_size, Limit born_in)

    cdef PyObject *next_ready(self, size_t own_stack_bytes) noexcept
    cdef void switch_out(self, PyObject *me) noexcept
    cdef void push(self, PyObject *fiber) noexcept
    cdef void step(self, bint yields) noexcept
    cdef void choose_next(self) noexcept
    cdef int bring_forward(self, object fiber) except -1
    cdef list ready_fibers(self)
    cdef void look_around(self) noexcept
    cdef void fire_timers(self) except *
    cdef void idle(self) noexcept
    cdef int idle_once(self) except -1
    cdef int wait_for_events(self, int64_t timeout_ns) except -1
    cdef void throw_into_main(self, object exception) noexcept
    cdef int raise_interrupt(self, Fiber me) except -1
    cdef void tell_main(self) noexcept
    cdef void abandon(self, Fiber fiber) noexcept
    # Arm the parked fiber's timer: for its deadline, or its limit if that comes first.
    cdef int arm(self, Fiber fiber) except -1
    cdef void disarm(self, Fiber fiber) noexcept
    # fiber.limit_ns has changed: its timer, if it is parked.
    cdef int rearm(self, Fiber fiber) except -1
    cdef int grow_ring(self) except -1
    cdef void link(self, Fiber fiber) noexcept
    cdef void unlink(self, Fiber fiber) noexcept
    cdef void fail_to_start(self, Fiber fiber, object exception) noexcept
    cdef bint is_deadlocked(self) except -1
    cdef object deadlock_text(self)
    cdef int tell_stall(self, const greenio_system_call *call) except -1
    cdef void name_run(self) noexcept
    cdef int listen_for_signals(self) except -1
    cdef int forget_thread(self) except -1
    cdef void wake_joiners_of_main(self) noexcept
    cdef void become_only(self) noexcept
    cdef int reopen(self) except -1
    cdef int close_in_child(self) except -1
    cdef void forget_fibers(self, Fiber but) noexcept
    cdef void end_forked_child(self, Fiber me) noexcept
    cdef inline void prefetch(self) noexcept
    cdef inline void prefetch_waiting(self) noexcept
    cdef inline void prefetch_sleepers(self) noexcept

    # Descriptors. watch_for registers on first use; wait_io parks until the flag is set and it is the node's turn, see _socket.pyx.
    cdef Watch watch_for(self, int fd)
    cdef void drop_watch(self, Watch watch) noexcept
    cdef int wait_io(self, Watch watch, bint to_write, WaitNode *node, int64_t deadline_ns, object reason, object waiting_on) except -1


# Make a parked fiber ready. False: it was not parked (any more), and nothing has changed.
cdef bint unpark(Fiber fiber, int wake) noexcept

# The scheduler of this OS thread: RuntimeError if there is none; or None. A stuck fiber comes back to the others here, so what asks for
# the scheduler finds itself its current fiber.
cdef Scheduler current_scheduler_or_raise()
cdef Scheduler current_scheduler_or_none()

# The scheduler whose fibers this OS thread carries, or None; a stuck fiber stays where it is. For signal handlers and the like.
cdef Scheduler carried_here()

# The calling fiber, borrowed. scheduler.current may be another one if anything has let the GIL go since the scheduler was asked for: the
# caller may be stuck by now, and the others go on beside it.
cdef inline PyObject *caller_of(Scheduler scheduler) noexcept:
    return scheduler.current if scheduler.away == 0 else scheduler.find_caller()

# From now on a fiber that has run for `slice_ns` is asked to let the others run, by that signal's handler; 0: no more, nor is anybody
# being asked when this returns.
cdef void set_slice(Scheduler scheduler, int64_t slice_ns, int signal_number) noexcept

# The deadline of a timeout in seconds (None: NEVER) from now. TypeError, ValueError name it.
cdef int64_t deadline_of(Scheduler scheduler, object timeout) except? -2

# `node`, which wait_io put into a list, has finished or given up: out, and the next one's turn. A node that waits nowhere: does nothing.
cdef void leave_io(Watch watch, bint to_write, WaitNode *node) noexcept

# The descriptor is about to be closed: in every scheduler, it is not watched any more and its waiters wake to find `closed`.
cdef void close_watch(int fd) noexcept
