# _standard_threads.pyx: the locks, simple queues and threads of the standard library, for fibers. What greenio.threading shows.
#
# _thread.lock, _thread.RLock and _queue.SimpleQueue are changed in place (method_defs.h): their methods look for a fiber first.
# So whatever was made before parks as well, wherever it is kept, and classes stay what they are.
#
# A lock is the real one all the time, and its own record of being held. Who has to wait, fiber or OS thread, stands in a line beside it
# (`lines`, by the lock's address). Release opens the lock and wakes the first in line; who runs may take it again meanwhile. The one woken
# then stands first in line once more, and the next release gives it the lock without opening it in between: otherwise, whoever
# releases and acquires in a loop would keep all others out. Not given at once: each acquire of a lock in much use would be a switch, and what
# threads do in one go (take a connection out of a pool, and use it) would be done step by step by all of them. An RLock's owner is the thread id of its thread state, which for an
# OS thread is what C code writes there too; C code asks for the OS thread, so it is shown that one while it runs.
#
# Everything wants the GIL; between finding out that one has to wait and standing in line nothing lets go of it.
import _frozen_importlib
import _imp
import _queue
import _signal
import _thread
import atexit
import os
import posix
import sys
import types

cimport cython
from cpython.exc cimport PyErr_CheckSignals, PyErr_Clear, PyErr_ExceptionMatches, PyErr_Occurred
from cpython.ref cimport PyObject, Py_XDECREF
from libc.stdint cimport int64_t
from posix.unistd cimport getpid
from posix.types cimport pid_t

from greenio._scheduler cimport (
    caller_of, GREENIO_TIMER_NONE, INTERRUPTED, NEVER, PARKED, READY, RUNNING, WOKEN, Fiber, Scheduler, current_scheduler_or_none)
from greenio._switch cimport BaseFiber, PyThreadState, checked_stack_bytes, prepare
from greenio._waiting cimport (
    AGAIN, SERVED, TOO_LATE, Line, Outcome, Place, Waiter, deadline_after, line_append, line_length, line_remove, serve, serve_all,
    stand_in_line, wait, waiter_drop, waiter_init)

from greenio._errors import Cancelled, DeadlockError, RunFinishedError
from greenio._scheduler import get_ready_to_fork, watch_again

cdef extern from *:
    """
    typedef PyObject *(*greenio_handler)(PyObject *self, PyObject *arguments, PyObject *keywords);
    static greenio_handler greenio_handlers[18];     /* for method_defs.h */
    static void *greenio_originals[18][7];           /* by handler and convention */
    static PyInterpreterState *greenio_home;         /* whose methods were changed */
    """

cdef extern from "method_defs.h":
    enum:
        GREENIO_LOCK_ACQUIRE
        GREENIO_LOCK_RELEASE
        GREENIO_RLOCK_ACQUIRE
        GREENIO_RLOCK_RELEASE
        GREENIO_RLOCK_IS_OWNED
        GREENIO_RLOCK_RECURSION_COUNT
        GREENIO_RLOCK_RELEASE_SAVE
        GREENIO_RLOCK_ACQUIRE_RESTORE
        GREENIO_QUEUE_GET
        GREENIO_QUEUE_GET_NOWAIT
        GREENIO_QUEUE_PUT
        GREENIO_QUEUE_PUT_NOWAIT
        GREENIO_INTERRUPT
        GREENIO_IMPORT_ACQUIRE
        GREENIO_IMPORT_RELEASE
        GREENIO_SIGNAL_SET
        GREENIO_SIGNAL_WAKEUP
        GREENIO_FORK
    ctypedef object (*greenio_handler)(object self, PyObject *arguments, PyObject *keywords)
    struct greenio_method:
        pass
    greenio_handler greenio_handlers[]
    int greenio_method_find(greenio_method *method, object callable, PyObject *type)
    void greenio_method_change(greenio_method *method, int handler)
    void greenio_method_put_back(greenio_method *method)
    object greenio_method_call(const greenio_method *method, object self, PyObject *arguments, PyObject *keywords)

cdef extern from "Python.h":
    PyThreadState *PyThreadState_Get()
    unsigned long PyThread_get_thread_ident()
    object PyContext_New()
    int PyThreadState_SetAsyncExc(unsigned long ident, object exception) except -1
    PyObject *PyObject_Call(PyObject *function, PyObject *arguments, PyObject *keywords)
    int PyArg_ParseTupleAndKeywords(PyObject *arguments, PyObject *keywords, const char *format, char **names, ...)

cdef extern from *:
    """
    #include <dlfcn.h>

    static char *greenio_acquire_names[] = {"blocking", "timeout", NULL};
    static char *greenio_get_names[] = {"block", "timeout", NULL};

    /* Gives the exception that is set to sys.unraisablehook, in this interpreter's words. */
    static void greenio_write_unraisable(PyObject *function)
    {
        void *with_message = dlsym(RTLD_DEFAULT, "PyErr_FormatUnraisable");   /* 3.13 and later */
        if (with_message != NULL) {
            ((void (*)(const char *, ...))with_message)("Exception ignored in thread started by %R", function);
            return;
        }
        with_message = dlsym(RTLD_DEFAULT, "_PyErr_WriteUnraisableMsg");
        if (with_message != NULL)
            ((void (*)(const char *, PyObject *))with_message)("in thread started by", function);
        else
            PyErr_WriteUnraisable(function);
    }
    """
    char **greenio_acquire_names
    char **greenio_get_names
    void greenio_write_unraisable(PyObject *function)

cdef enum:
    UNPATCHED_PAUSE_NS = 5_000_000     # between two tries of a fiber, when nobody tells it any more that a lock is free
    NAME_BYTES = 15                    # of a thread, for the kernel
    HIGHEST_NATIVE_ID = 1 << 22        # PID_MAX_LIMIT of the kernel, on 64 bits
    OWNED = 0                  # Place.outcome: the lock is the waiter's
    LOOK_AGAIN = 1             # it has to try for itself
    LOST = 1                   # Place.index: somebody else was faster then; the next time the lock is given to it

ctypedef struct MethodRow:
    greenio_method method
    int handler

cdef MethodRow rows[32]
cdef int row_count = 0
cdef int first_queue_row = 0               # those of locks come before
cdef bint changed = False                  # the methods of locks look for fibers,
cdef bint queues_changed = False           # and those of queues
cdef greenio_method original_acquire
cdef greenio_method original_release
cdef greenio_method original_rlock_acquire
cdef greenio_method original_rlock_release
cdef greenio_method original_count
cdef bint depth_beside_owner = False
cdef greenio_method original_locked
cdef greenio_method original_size
cdef greenio_method original_release_save
cdef greenio_method original_get
cdef greenio_method original_get_nowait
cdef greenio_method original_put
cdef greenio_method original_put_nowait
cdef greenio_method original_interrupt
cdef greenio_method original_signal
cdef greenio_method original_wakeup
cdef greenio_method original_fork
cdef greenio_method original_import_acquire
cdef greenio_method original_import_release
cdef Py_ssize_t owner_offset = 0           # of an RLock's owner, an unsigned long, in the object

cdef object Lock = _thread.LockType
cdef tuple NOT_BLOCKING = (False,)
cdef object trial_lock = _thread.allocate_lock()     # free: takes and checks arguments
cdef object trial_queue = _queue.SimpleQueue()
cdef tuple trial_arguments = (None,)

cdef dict lines = {}                       # by address of a lock or queue: its WaitingLine, while anybody waits
cdef int lock_users = 0                    # who wants the standard locks changed
cdef set blocking_threads = set()          # idents of OS threads that wait for locks by blocking, whatever runs on them
cdef dict ending = {}                      # by address of an OS thread's sentinel lock: whether the thread is about to release it
cdef unsigned long forking_thread = 0      # while hooks around a fork run: the OS thread,
cdef pid_t forking_process = 0             # its process
cdef unsigned long forking_ident = 0       # and the ident of its fiber
cdef unsigned long main_ident = 0          # in a child that a fiber forked: its ident; else 0


@cython.final
@cython.no_gc
cdef class WaitingLine:
    """Who waits for a lock or a queue."""


cdef inline size_t address(object thing) noexcept:
    return <size_t><PyObject *>thing


cdef inline unsigned long my_ident() noexcept:
    return PyThreadState_Get().thread_id


cdef WaitingLine line_of(object thing):
    cdef object key = address(thing)
    cdef WaitingLine found = lines.get(key)
    if found is None:
        found = WaitingLine()
        lines[key] = found
    found.users += 1
    return found


cdef int leave_line(object thing, WaitingLine line) except -1:
    line.users -= 1
    if line.users == 0 and lines.get(address(thing)) is line:
        del lines[address(thing)]
    return 0


cdef inline Scheduler scheduler_here():
    # None: whoever waits here blocks the OS thread.
    if blocking_threads and PyThread_get_thread_ident() in blocking_threads:
        return None
    if forking_thread and getpid() != forking_process:
        return None    # hooks in a forked child: the other fibers are still there to see, and must not run
    return current_scheduler_or_none()


cdef inline void spend(Scheduler scheduler) noexcept:
    # One more operation without a wait. Not between a fork's hooks. Only the time ends a turn here, not the number of operations: whoever
    # gives way holds other locks, as a rule, that the others run into.
    if scheduler is not None and forking_thread == 0:
        if scheduler.budget == 1 and scheduler.turn_budget:
            scheduler.budget = 2
        scheduler.spend()


# --- locks -----------------------------------------------------------------------------------------------------------


cdef bint read_acquire(PyObject *arguments, PyObject *keywords, bint *blocking, int64_t *deadline_ns, Scheduler scheduler) except -1:
    # The arguments of acquire, checked as the original checks them; which raises what they deserve.
    cdef PyObject *timeout = NULL
    cdef int wants = 1
    blocking[0] = True
    deadline_ns[0] = NEVER
    if arguments is NULL or (len(<tuple>arguments) == 0 and keywords is NULL):
        return True
    if not PyArg_ParseTupleAndKeywords(arguments, keywords, "|pO:acquire", greenio_acquire_names, &wants, &timeout):
        PyErr_Clear()
        wants = -1
    if wants == -1 or timeout is not NULL:
        greenio_method_call(&original_acquire, trial_lock, arguments, keywords)
        greenio_method_call(&original_release, trial_lock, NULL, NULL)
    blocking[0] = wants != 0
    if blocking[0] and timeout is not NULL:
        seconds = <object>timeout
        if seconds != -1:
            deadline_ns[0] = deadline_after(scheduler, float(seconds))
    return True


cdef inline bint try_lock(object self) except -1:
    return greenio_method_call(&original_acquire, self, <PyObject *>NOT_BLOCKING, NULL) is True


cdef Outcome line_up(Line *line, Place *place, Scheduler scheduler, object lock, int64_t deadline_ns) except *:
    # As stand_in_line; who has lost is first.
    cdef Waiter waiter
    cdef Outcome outcome
    waiter_init(&waiter, scheduler)
    place.waiter = &waiter
    place.outcome = OWNED
    line_append(line, place)
    if place.index == LOST and place.previous is not NULL:
        line.last = place.previous
        place.previous.next = NULL
        place.previous = NULL
        place.next = line.first
        line.first.previous = place
        line.first = place
    try:
        outcome = wait(&waiter, scheduler, "lock acquire", lock, deadline_ns)
    finally:
        line_remove(place)
        waiter_drop(&waiter)
    if outcome == AGAIN and scheduler is None:
        PyErr_CheckSignals()
    return outcome


cdef bint hand_over(WaitingLine line, Place **place) noexcept:
    # True: the lock, which stays locked, is that place's. False: the caller opens it; whoever has been woken tries for itself.
    place[0] = NULL
    if line.woken:
        return False
    place[0] = serve(&line.line)
    if place[0] is NULL:
        return False
    if place[0].index == LOST:
        place[0].outcome = OWNED
        return True
    place[0].outcome = LOOK_AGAIN
    line.woken = True
    return False


cdef int has_woken(WaitingLine line, Place *place, bint interrupted) except -1:
    # After each wait: it is not on its way any more. If it will not try, the next one does.
    if place.outcome == LOOK_AGAIN:
        place.index = LOST
        line.woken = False
        if interrupted:
            place = serve(&line.line)
            if place is not NULL:
                place.outcome = LOOK_AGAIN
                line.woken = True
    return 0


cdef Outcome stand(Line *line, Place *place, Scheduler scheduler, object lock, int64_t deadline_ns) except *:
    # In line for a lock. Also on top of the idle loop, for a signal handler or a destructor: they log, and a handler's lock may be held
    # by a fiber that is parked. The fiber whose stack the loop is on runs for as long, as it does for a destructor that parks
    # within a park of its own, and looks again at what it waits for when the loop has ended.
    cdef Fiber host
    if scheduler is None or not scheduler.hosting:
        return line_up(line, place, scheduler, lock, deadline_ns)
    host = <Fiber>caller_of(scheduler)
    if host.run_state not in (PARKED, READY):      # DONE: nothing of it can be parked; park() says so
        return line_up(line, place, scheduler, lock, deadline_ns)
    if host.run_state == READY:
        # Out of the run queue, where it is the only reason for the loop to end.
        return stand_as_host(line, place, scheduler, host, lock, deadline_ns, True)
    return stand_as_host(line, place, scheduler, host, lock, deadline_ns, False)


cdef Outcome stand_as_host(
        Line *line, Place *place, Scheduler scheduler, Fiber host, object lock, int64_t deadline_ns, bint queued) except *:
    cdef object reason = host.wait_reason
    cdef object waiting_on = host.waiting_on
    cdef int64_t outer_deadline_ns = host.deadline_ns
    if queued:
        scheduler.bring_forward(host)
        scheduler.ring_head += 1
    elif host.timer != GREENIO_TIMER_NONE:
        scheduler.disarm(host)
    host.run_state = RUNNING
    host.shield += 1                 # what interrupts it is for what it waits for
    scheduler.hosting = False
    try:
        return line_up(line, place, scheduler, lock, deadline_ns)
    finally:
        scheduler.hosting = True
        host.shield -= 1
        host.wait_reason = reason
        host.waiting_on = waiting_on
        host.deadline_ns = outer_deadline_ns
        host.wake = INTERRUPTED if host.interrupts and not host.shield else WOKEN
        scheduler.push(<PyObject *>host)


# Locks may be put back while somebody waits for one. Nobody is told of a release then: an OS thread waits as the original does, and a
# fiber tries again after pauses.


cdef int64_t next_try(Scheduler scheduler, int64_t deadline_ns) except? -2:
    cdef int64_t soon_ns = deadline_after(scheduler, UNPATCHED_PAUSE_NS * 1e-9)
    return soon_ns if deadline_ns == NEVER else min(soon_ns, deadline_ns)


cdef bint past(Scheduler scheduler, int64_t deadline_ns) except -1:
    return deadline_ns != NEVER and deadline_after(scheduler, 0) >= deadline_ns


cdef tuple time_left(int64_t deadline_ns):
    # The arguments of acquire, on an OS thread.
    if deadline_ns == NEVER:
        return ()
    return (True, max(0.0, (deadline_ns - deadline_after(None, 0)) * 1e-9))


cdef bint wait_for_lock(object self, Scheduler scheduler, int64_t deadline_ns) except -1:
    # True: the lock is the caller's.
    cdef WaitingLine line
    cdef Place place
    cdef Outcome outcome = AGAIN
    cdef tuple left
    cdef bint interrupted
    place.index = 0
    while True:
        if ending and ending.get(address(self)):
            # Of an OS thread that is about to end: C code releases it, in a moment, and tells nobody.
            return greenio_method_call(&original_acquire, self, NULL, NULL) is True
        if not changed and scheduler is None:
            left = time_left(deadline_ns)
            return greenio_method_call(&original_acquire, self, <PyObject *>left, NULL) is True
        line = line_of(self)
        place.item = NULL
        place.outcome = OWNED
        interrupted = True
        try:
            if try_lock(self):
                return True
            if outcome == TOO_LATE and (changed or past(scheduler, deadline_ns)):
                return False
            outcome = stand(&line.line, &place, scheduler, self, deadline_ns if changed else next_try(scheduler, deadline_ns))
            interrupted = False
        finally:
            has_woken(line, &place, interrupted)
            leave_line(self, line)
        if outcome == SERVED and place.outcome == OWNED:
            return True


cdef object lock_acquire(object self, PyObject *arguments, PyObject *keywords):
    cdef Scheduler scheduler = scheduler_here()
    cdef bint blocking
    cdef int64_t deadline_ns
    if blocking_threads and PyThread_get_thread_ident() in blocking_threads:
        return greenio_method_call(&original_acquire, self, arguments, keywords)
    read_acquire(arguments, keywords, &blocking, &deadline_ns, scheduler)
    # Before, not after: if its turn is over, the fiber gives way without the lock. Whatever interrupts it waits until it has to
    # park: code that was written for threads does not expect a free lock to raise.
    spend(scheduler)
    if try_lock(self):
        return True
    return blocking and wait_for_lock(self, scheduler, deadline_ns)


cdef inline bint is_locked(object self) except -1:
    return greenio_method_call(&original_locked, self, NULL, NULL) is True


cdef object lock_release(object self, PyObject *arguments, PyObject *keywords):
    cdef WaitingLine line
    cdef Place *place
    if lines:
        line = lines.get(address(self))
        if line is not None and is_locked(self) and hand_over(line, &place):
            return None
    return greenio_method_call(&original_release, self, NULL, NULL)


# --- RLocks ----------------------------------------------------------------------------------------------------------


cdef inline unsigned long *owner_of(object self) noexcept:
    return <unsigned long *>(<char *><PyObject *>self + owner_offset)


cdef bint try_rlock(object self, unsigned long me) except -1:
    cdef unsigned long *owner = owner_of(self)
    cdef unsigned long os_thread = PyThread_get_thread_ident()
    cdef unsigned long before = owner[0]
    if before == os_thread and before != me:
        return False     # the main fiber's
    if before == me:
        owner[0] = os_thread
    try:
        if greenio_method_call(&original_rlock_acquire, self, <PyObject *>NOT_BLOCKING, NULL) is not True:
            return False
        before = me
    finally:
        if before == me:
            owner[0] = me
    return True


cdef Py_ssize_t depth_of(object self) except -1:
    # By its owner.
    cdef unsigned long *owner = owner_of(self)
    cdef unsigned long me = owner[0]
    if depth_beside_owner:
        return <Py_ssize_t>owner[1]
    owner[0] = PyThread_get_thread_ident()
    try:
        return greenio_method_call(&original_count, self, NULL, NULL)
    finally:
        owner[0] = me


cdef bint wait_for_rlock(object self, unsigned long me, Scheduler scheduler, int64_t deadline_ns) except -1:
    cdef WaitingLine line
    cdef Place place
    cdef Outcome outcome = AGAIN
    cdef tuple left
    cdef bint interrupted
    place.index = 0
    while True:
        if not changed and scheduler is None and me == PyThread_get_thread_ident():
            left = time_left(deadline_ns)
            return greenio_method_call(&original_rlock_acquire, self, <PyObject *>left, NULL) is True
        line = line_of(self)
        place.item = <PyObject *>me     # a number, for whoever releases the lock
        place.outcome = OWNED
        interrupted = True
        try:
            if try_rlock(self, me):
                return True
            if outcome == TOO_LATE and (changed or past(scheduler, deadline_ns)):
                return False
            outcome = stand(&line.line, &place, scheduler, self, deadline_ns if changed else next_try(scheduler, deadline_ns))
            interrupted = False
        finally:
            has_woken(line, &place, interrupted)
            leave_line(self, line)
        if outcome == SERVED and place.outcome == OWNED:
            return True


cdef object rlock_acquire(object self, PyObject *arguments, PyObject *keywords):
    cdef Scheduler scheduler = scheduler_here()
    cdef bint blocking
    cdef int64_t deadline_ns
    cdef unsigned long me = my_ident()
    if blocking_threads and PyThread_get_thread_ident() in blocking_threads and me == PyThread_get_thread_ident():
        return greenio_method_call(&original_rlock_acquire, self, arguments, keywords)
    read_acquire(arguments, keywords, &blocking, &deadline_ns, scheduler)
    if owner_of(self)[0] != me:
        spend(scheduler)
    if try_rlock(self, me):
        return True
    if not blocking or not wait_for_rlock(self, me, scheduler, deadline_ns):
        return False
    if not changed:
        owner_of(self)[0] = PyThread_get_thread_ident()      # as the original wants it, which will release the lock
    return True


cdef bint hand_rlock_over(object self) except -1:
    # To the first in line, from its owner, whose hold is one deep.
    cdef WaitingLine line
    cdef Place *place
    line = lines.get(address(self))
    if line is None:
        return False
    if not hand_over(line, &place):
        return False
    owner_of(self)[0] = <unsigned long>place.item
    place.item = NULL
    return True


cdef int release_once(object self) except -1:
    cdef unsigned long *owner = owner_of(self)
    cdef unsigned long os_thread = PyThread_get_thread_ident()
    cdef unsigned long me = owner[0]
    owner[0] = os_thread
    try:
        greenio_method_call(&original_rlock_release, self, NULL, NULL)
    finally:
        if owner[0] == os_thread:
            owner[0] = me
    return 0


cdef object rlock_release(object self, PyObject *arguments, PyObject *keywords):
    if owner_of(self)[0] != my_ident():
        raise RuntimeError("cannot release un-acquired lock")
    if not (lines and address(self) in lines and depth_of(self) == 1 and hand_rlock_over(self)):
        release_once(self)


cdef object rlock_is_owned(object self, PyObject *arguments, PyObject *keywords):
    return owner_of(self)[0] == my_ident()


cdef object rlock_recursion_count(object self, PyObject *arguments, PyObject *keywords):
    return depth_of(self) if owner_of(self)[0] == my_ident() else 0


cdef object rlock_release_save(object self, PyObject *arguments, PyObject *keywords):
    cdef unsigned long *word = owner_of(self)
    cdef unsigned long owner = word[0]
    cdef Py_ssize_t depth
    if owner == 0:
        return greenio_method_call(&original_release_save, self, NULL, NULL)   # which says what is wrong
    if lines and address(self) in lines:
        depth = depth_of(self)
        while depth_of(self) > 1:
            release_once(self)
        if not hand_rlock_over(self):
            release_once(self)
        return depth, owner
    word[0] = PyThread_get_thread_ident()
    try:
        depth, _ = greenio_method_call(&original_release_save, self, NULL, NULL)
    except BaseException:
        word[0] = owner
        raise
    return depth, owner


cdef object rlock_acquire_restore(object self, PyObject *arguments, PyObject *keywords):
    cdef Scheduler scheduler = scheduler_here()
    cdef unsigned long me = my_ident()
    cdef unsigned long depth
    cdef unsigned long owner
    depth, owner = (<tuple>arguments)[0]
    try:
        take_back(self, scheduler, me, True)
    finally:
        if owner_of(self)[0] == me:      # also with what is raised: it is held as deep as it was
            while depth > 1:
                try_rlock(self, me)
                depth -= 1
            owner_of(self)[0] = owner if changed else PyThread_get_thread_ident()


cdef int take_back(object self, Scheduler scheduler, unsigned long me, bint is_rlock) except -1:
    # Whatever interrupts the caller waits until it has the lock; only a second exception, or a DeadlockError, does not.
    cdef Fiber fiber = None if scheduler is None else <Fiber>caller_of(scheduler)
    cdef object error = None
    cdef bint taken = False
    cdef bint give_up
    if fiber is not None:
        fiber.shield += 1
    while not taken:
        try:
            if is_rlock:
                taken = try_rlock(self, me) or wait_for_rlock(self, me, scheduler, NEVER)
            else:
                taken = try_lock(self) or wait_for_lock(self, scheduler, NEVER)
        except BaseException as caught:
            give_up = error is not None or isinstance(caught, DeadlockError)
            error = caught
            if give_up:
                break
    if fiber is not None:
        fiber.shield -= 1
    if error is not None:
        raise error
    return 0


def acquire_shielded(lock):
    """Acquire a standard lock; cancellation, or what is thrown in meanwhile, is raised when it is held."""
    if isinstance(lock, Lock):
        take_back(lock, scheduler_here(), 0, False)
    else:
        lock.acquire()


# --- simple queues ---------------------------------------------------------------------------------------------------


cdef int read_get(PyObject *arguments, PyObject *keywords, bint *blocking, int64_t *deadline_ns, Scheduler scheduler) except -1:
    cdef PyObject *timeout = NULL
    cdef int wants = 1
    blocking[0] = True
    deadline_ns[0] = NEVER
    if arguments is NULL or (len(<tuple>arguments) == 0 and keywords is NULL):
        return 0
    if not PyArg_ParseTupleAndKeywords(arguments, keywords, "|pO:get", greenio_get_names, &wants, &timeout):
        PyErr_Clear()
        wants = -1
    if wants == -1 or timeout is not NULL:
        greenio_method_call(&original_put, trial_queue, <PyObject *>trial_arguments, NULL)
        try:
            greenio_method_call(&original_get, trial_queue, arguments, keywords)
        except BaseException:
            greenio_method_call(&original_get_nowait, trial_queue, NULL, NULL)
            raise
    blocking[0] = wants != 0
    if blocking[0] and timeout is not NULL and <object>timeout is not None:
        deadline_ns[0] = deadline_after(scheduler, float(<object>timeout))
    return 0


cdef object queue_get(object self, PyObject *arguments, PyObject *keywords):
    cdef Scheduler scheduler = scheduler_here()
    cdef bint blocking
    cdef int64_t deadline_ns
    cdef WaitingLine line
    cdef Place place
    cdef Outcome outcome = AGAIN
    if scheduler is None:
        return greenio_method_call(&original_get, self, arguments, keywords)
    read_get(arguments, keywords, &blocking, &deadline_ns, scheduler)
    spend(scheduler)
    while blocking and greenio_method_call(&original_size, self, NULL, NULL) == 0:
        if outcome == TOO_LATE and (queues_changed or past(scheduler, deadline_ns)):
            break
        line = line_of(self)
        place.item = NULL
        try:
            outcome = stand_in_line(
                &line.line, &place, scheduler, "queue get", self, deadline_ns if queues_changed else next_try(scheduler, deadline_ns))
        finally:
            leave_line(self, line)
    return greenio_method_call(&original_get_nowait, self, NULL, NULL)


cdef object queue_get_nowait(object self, PyObject *arguments, PyObject *keywords):
    spend(scheduler_here())
    return greenio_method_call(&original_get_nowait, self, arguments, keywords)


cdef int item_came(object self) except -1:
    cdef WaitingLine line
    if lines:
        line = lines.get(address(self))
        if line is not None:
            serve(&line.line)
    return 0


cdef object queue_put(object self, PyObject *arguments, PyObject *keywords):
    result = greenio_method_call(&original_put, self, arguments, keywords)
    item_came(self)
    return result


cdef object queue_put_nowait(object self, PyObject *arguments, PyObject *keywords):
    result = greenio_method_call(&original_put_nowait, self, arguments, keywords)
    item_came(self)
    return result


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


# --- the import lock -------------------------------------------------------------------------------------------------

# CPython knows its owner by the OS thread, which all fibers of it share: so it is kept here whose it is. A fiber holds it across a wait
# only by imp.acquire_lock(); the import system itself holds it for moments.

cdef WaitingLine import_line = WaitingLine()
cdef unsigned long import_owner = 0         # ident of who has taken it since the patch; 0: nobody
cdef Py_ssize_t import_depth = 0


cdef int wait_for_imports() except -1:
    # Until no other fiber has the lock.
    cdef Scheduler scheduler = scheduler_here()
    cdef unsigned long me = my_ident()
    cdef Place place
    if scheduler is None or scheduler.hosting:
        return 0
    while import_owner != 0 and import_owner != me:
        place.item = NULL
        stand_in_line(&import_line.line, &place, scheduler, "the import lock", import_line, NEVER)
    return 0


cdef object import_acquire(object self, PyObject *arguments, PyObject *keywords):
    global import_owner, import_depth
    wait_for_imports()
    greenio_method_call(&original_import_acquire, self, arguments, keywords)
    import_owner = my_ident()
    import_depth += 1


cdef object import_release(object self, PyObject *arguments, PyObject *keywords):
    global import_owner, import_depth
    greenio_method_call(&original_import_release, self, arguments, keywords)
    if import_depth > 0:        # else it was taken before the patch
        import_depth -= 1
        if import_depth == 0:
            forget_import_owner()


cdef object interrupt(object self, PyObject *arguments, PyObject *keywords):
    # signal.default_int_handler. A thread is never told: the main one is.
    cdef Scheduler scheduler = current_scheduler_or_none()
    if scheduler is None or scheduler.hosting or not isinstance((<BaseFiber>caller_of(scheduler)).function, FiberThread):
        return greenio_method_call(&original_interrupt, self, arguments, keywords)
    try:
        greenio_method_call(&original_interrupt, self, arguments, keywords)
    except KeyboardInterrupt as error:
        error.__traceback__ = None
        if scheduler.main.run_state == PARKED:
            scheduler.throw_into_main(error)
        else:
            # It goes on without a look at what interrupts it: as a signal does, at its next instruction.
            PyThreadState_SetAsyncExc(scheduler.main.core.thread_state.thread_id, KeyboardInterrupt)


cdef int go_where_signals_are() except -1:
    # Before a call that the interpreter allows on its main OS thread only: the main fiber of that thread's run goes back there if it runs
    # elsewhere, and waits for whoever is stuck there. Where it cannot be switched out it stays, and the call raises what it deserves.
    cdef Scheduler scheduler = scheduler_here()
    if (scheduler is not None and scheduler.home is not None and scheduler.carrier is not scheduler.home
            and caller_of(scheduler) is <PyObject *>scheduler.main and scheduler.home.kernel_id == getpid()
            and not scheduler.hosting and not forking_thread and scheduler.main.atomic_depth == 0 and scheduler.main.pinned == 0):
        scheduler.go_home()
    return 0


cdef object set_handler(object self, PyObject *arguments, PyObject *keywords):
    go_where_signals_are()
    return greenio_method_call(&original_signal, self, arguments, keywords)


cdef object set_wakeup_fd(object self, PyObject *arguments, PyObject *keywords):
    go_where_signals_are()
    return greenio_method_call(&original_wakeup, self, arguments, keywords)


cdef object fork(object self, PyObject *arguments, PyObject *keywords):
    # The hooks after a fork come before os.fork counts OS threads, and whoever forked may wait in C for the child.
    try:
        return greenio_method_call(&original_fork, self, arguments, keywords)
    finally:
        watch_again()


# --- the change ------------------------------------------------------------------------------------------------------


cdef int add_row(object owner, str name, int handler, greenio_method *original) except -1:
    global row_count
    cdef MethodRow *row = &rows[row_count]
    cdef PyObject *type = <PyObject *>owner if isinstance(owner, type_of_types) else NULL
    if greenio_method_find(&row.method, vars(owner)[name], type) < 0:
        raise ImportError(f"{owner!r} has no {name} that could be changed: this CPython is not known")
    row.handler = handler
    if original is not NULL:
        original[0] = row.method
    row_count += 1
    return 0


cdef int find_method(object owner, str name, greenio_method *method) except -1:
    if greenio_method_find(method, vars(owner)[name], <PyObject *>owner) < 0:
        raise ImportError(f"{owner!r} has no {name} that could be called: this CPython is not known")
    return 0


cdef object type_of_types = type


cdef int find_owner_offset() except -1:
    # Where the interpreter keeps an RLock's owner: by a look at one that is held.
    global owner_offset
    cdef unsigned long ident = PyThread_get_thread_ident()
    cdef size_t offset
    cdef size_t size = _thread.RLock.__basicsize__
    lock = _thread.RLock()
    lock.acquire()
    for offset in range(2 * sizeof(void *), size - sizeof(long) + 1, sizeof(long)):
        if (<unsigned long *>(<char *><PyObject *>lock + offset))[0] == ident:
            if owner_offset:
                raise ImportError("an RLock's owner was found twice: this CPython is not known")
            owner_offset = offset
    lock.release()
    if owner_offset == 0 or owner_of(lock)[0] != 0:
        raise ImportError("an RLock's owner was not found: this CPython is not known")
    return 0


cdef int find_depth_beside_owner() except -1:
    # Releases of 3.11 and 3.12 from before January 2024 do not tell an RLock's depth; there it lies behind the owner.
    global depth_beside_owner
    cdef size_t depth
    lock = _thread.RLock()
    for depth in range(1, 4):
        lock.acquire()
        if owner_of(lock)[1] != depth:
            raise ImportError("an RLock's depth was not found: this CPython is not known")
    for depth in range(3):
        lock.release()
    depth_beside_owner = True
    return 0


def change_locks():
    """From now on the standard locks park the fibers that wait for them, those that exist as well.

    An RLock that this OS thread holds becomes the running fiber's. Whoever asks for it says when it is not needed any more, by
    put_locks_back().
    """
    global changed, lock_users
    cdef int index
    cdef unsigned long me = my_ident()
    cdef unsigned long os_thread = PyThread_get_thread_ident()
    lock_users += 1
    if changed:
        return
    if me != os_thread:
        give_rlocks(os_thread, me)
    for index in range(first_queue_row):
        greenio_method_change(&rows[index].method, rows[index].handler)
    # A module's lock is the import system's own, and known by the ident of who holds it or waits for it.
    names = types.SimpleNamespace(**vars(_thread))
    names.get_ident = get_ident
    _frozen_importlib._thread = names
    changed = True


def put_locks_back():
    """The standard locks are as before, if nobody else has asked for change_locks(); who waits for one tries again.

    An RLock that the running fiber holds becomes this OS thread's.
    """
    global changed, lock_users
    cdef int index
    cdef unsigned long me = my_ident()
    cdef unsigned long os_thread = PyThread_get_thread_ident()
    lock_users = max(lock_users - 1, 0)
    if not changed or lock_users:
        return
    changed = False
    for index in range(first_queue_row):
        greenio_method_put_back(&rows[index].method)
    _frozen_importlib._thread = _thread
    if me != os_thread:
        give_rlocks(me, os_thread)
    forget_import_owner()
    wake_all_lines()


cdef int give_rlocks(unsigned long owner, unsigned long to) except -1:
    import gc
    for each in gc.get_objects():
        if type(each) is _thread.RLock and owner_of(each)[0] == owner:
            owner_of(each)[0] = to
    return 0


cdef int forget_import_owner() except -1:
    global import_owner, import_depth
    import_owner = 0
    import_depth = 0
    serve_all(&import_line.line, LOOK_AGAIN)
    return 0


cdef int wake_all_lines() except -1:
    cdef WaitingLine line
    for line in list(lines.values()):
        serve_all(&line.line, LOOK_AGAIN)
    return 0


def change_queues():
    """From now on the standard simple queues park the fibers that wait for them, those that exist as well."""
    global queues_changed
    cdef int index
    if not queues_changed:
        for index in range(first_queue_row, row_count):
            greenio_method_change(&rows[index].method, rows[index].handler)
        queues_changed = True


def put_queues_back():
    """The standard simple queues are as before; fibers that wait for an item look for it now and then."""
    global queues_changed
    cdef int index
    if queues_changed:
        for index in range(first_queue_row, row_count):
            greenio_method_put_back(&rows[index].method)
        queues_changed = False
        wake_all_lines()


class blocking_here:
    """Inside, locks block this OS thread, as if no fibers ran on it. For what must not park."""

    def __enter__(self):
        ident = PyThread_get_thread_ident()
        self.entered = ident not in blocking_threads
        blocking_threads.add(ident)

    def __exit__(self, exception_type, exception, traceback):
        if self.entered:
            blocking_threads.discard(PyThread_get_thread_ident())


# --- threads ---------------------------------------------------------------------------------------------------------

cdef Py_ssize_t threads_alive = 0          # fibers made for threads
cdef Py_ssize_t own_threads_alive = 0      # OS threads that the program did not start: greenio's own
cdef object thread_stack_bytes = None      # what stack_size() has set
cdef set joined_at_exit = set()            # handles of fibers that are not daemons
cdef object original_stack_size = _thread.stack_size
cdef object original_count_threads = _thread._count
cdef object original_start = _thread.start_new_thread
cdef object original_sentinel = getattr(_thread, "_set_sentinel", None)
cdef object original_handle = getattr(_thread, "_ThreadHandle", None)
cdef object original_start_joinable = getattr(_thread, "start_joinable_thread", None)
cdef object original_shutdown = getattr(_thread, "_shutdown", None)
cdef object original_main_ident = getattr(_thread, "_get_main_thread_ident", None)
cdef object original_native_id = _thread.get_native_id
cdef object original_get_name = getattr(_thread, "_get_name", None)
cdef object original_set_name = getattr(_thread, "set_name", None)


cdef enum HandleState:
    NOT_STARTED
    STARTING
    AT_WORK
    ENDED


cdef class ThreadHandle:
    """_thread._ThreadHandle, of a thread that is a fiber, or, started on an OS thread without fibers, of one of the system's."""

    @property
    def ident(self):
        """The thread's ident; 0 before its start."""
        return self.native.ident if self.native is not None else self.thread_ident

    def is_done(self):
        """Whether the thread has ended."""
        if self.native is not None:
            return self.native.is_done()
        return self.state == ENDED

    def join(self, timeout=None, /):
        """Wait until the thread has ended; see threading.Thread.join."""
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef int64_t deadline_ns = NEVER
        cdef Outcome outcome = AGAIN
        cdef Place place
        if self.native is not None:
            return self.native.join(timeout)
        if timeout is not None:
            if not isinstance(timeout, (int, float)):
                timeout = timeout.__index__() if hasattr(timeout, "__index__") else float(timeout)
            if timeout > _thread.TIMEOUT_MAX:
                raise OverflowError("timeout value is too large")
            if timeout >= 0:
                deadline_ns = deadline_after(scheduler, float(timeout))
        if self.state == NOT_STARTED:
            raise RuntimeError("thread not started")
        if self.state != ENDED and self.state == AT_WORK and self.thread_ident == my_ident():
            raise RuntimeError("Cannot join current thread")
        if scheduler is not None:
            scheduler.check()
        while self.state != ENDED and outcome != TOO_LATE:
            place.item = NULL
            outcome = stand_in_line(&self.line, &place, scheduler, "the end of a thread", self, deadline_ns)

    def _set_done(self):
        if self.native is not None:
            self.native._set_done()
            return
        if self.state == NOT_STARTED:
            raise RuntimeError("thread not started")
        self.end()

    cdef int end(self) except -1:
        self.state = ENDED
        self.fiber = None
        joined_at_exit.discard(self)
        serve_all(&self.line, OWNED)
        return 0

    def __repr__(self):
        return f"<_ThreadHandle object: ident={self.ident}>"


@cython.final
cdef class FiberThread:
    """What a thread's fiber calls."""

    def __call__(self):
        global threads_alive
        cdef PyObject *value
        cdef PyObject *keywords = NULL if self.keywords is None else <PyObject *>self.keywords
        function = self.function
        value = PyObject_Call(<PyObject *>function, <PyObject *>self.arguments, keywords)
        if value is NULL:
            if PyErr_ExceptionMatches(SystemExit) or PyErr_ExceptionMatches(Cancelled):
                PyErr_Clear()
            else:
                greenio_write_unraisable(<PyObject *>function)
        else:
            Py_XDECREF(value)
        function = None
        self.function = None
        self.arguments = None
        self.keywords = None
        threads_alive -= 1
        if self.sentinel is not None:
            sentinel, self.sentinel = self.sentinel, None
            if is_locked(sentinel):
                lock_release(sentinel, NULL, NULL)
        if self.handle is not None:
            self.handle.end()


cdef unsigned long launch(Scheduler scheduler, object function, tuple arguments, object keywords, ThreadHandle handle) except 0:
    global threads_alive
    cdef FiberThread thread = FiberThread.__new__(FiberThread)
    cdef Fiber fiber
    cdef object owner = getattr(function, "__self__", None)
    cdef object name = getattr(owner, "_name", None)
    thread.function = function
    thread.arguments = arguments
    thread.keywords = keywords
    thread.handle = handle
    try:
        if not isinstance(name, str):
            name = None
        elif not (<str>name).isascii():
            name = name.encode("utf-8", "replace").decode()   # surrogates are for the kernel's sake; a dump is UTF-8
        fiber = scheduler.make(thread, (), name, thread_stack_bytes, None)
    except RunFinishedError:
        raise RuntimeError("can't create new thread at interpreter shutdown") from None
    fiber.context_variables = PyContext_New()     # a thread inherits none; 3.14's Thread sees to what it does inherit
    threads_alive += 1
    if not fiber.core.started:
        try:
            prepare(fiber)
        except MemoryError:
            pass     # its turn may find one; else it ends with this
    if fiber.core.thread_state is NULL:
        threads_alive -= 1
        fiber.observed = True
        fiber.cancel("no stack")
        raise RuntimeError("can't start new thread")
    if handle is not None:
        handle.fiber = fiber
        handle.thread_ident = fiber.core.thread_state.thread_id
        handle.state = AT_WORK
    return fiber.core.thread_state.thread_id


cdef bint wants_os_thread(object function) except -1:
    return getattr(getattr(function, "__self__", None), "is_os_thread", False) is True


def start_new_thread(function, args, kwargs=None, /):
    """_thread.start_new_thread, for fibers: the thread is one. On an OS thread without fibers it is an OS thread.

    Returns:
        The thread's ident.
    Raises:
        RuntimeError: no stack is to be had, or the run has ended.
    """
    cdef Scheduler scheduler = current_scheduler_or_none()
    if scheduler is None or wants_os_thread(function):
        return original_start(function, args) if kwargs is None else original_start(function, args, kwargs)
    if not callable(function):
        raise TypeError("first arg must be callable")
    if not isinstance(args, tuple):
        raise TypeError("2nd arg must be a tuple")
    if kwargs is not None and not isinstance(kwargs, dict):
        raise TypeError("optional 3rd arg must be a dictionary")
    sys.audit("_thread.start_new_thread", function, args, kwargs)
    return launch(scheduler, function, args, kwargs, None)


def start_joinable_thread(function, handle=None, daemon=True):
    """_thread.start_joinable_thread, for fibers. On an OS thread without fibers it starts an OS thread."""
    cdef Scheduler scheduler = current_scheduler_or_none()
    cdef ThreadHandle mine
    if not callable(function):
        raise TypeError("thread function must be callable")
    if handle is not None and not isinstance(handle, (ThreadHandle, original_handle)):
        raise TypeError("'handle' must be a _ThreadHandle")
    if scheduler is None or wants_os_thread(function):
        if isinstance(handle, ThreadHandle):
            mine = handle
            if mine.state != NOT_STARTED or mine.native is not None:
                raise RuntimeError("thread already started")
            mine.native = original_handle()
            try:
                original_start_joinable(function, handle=mine.native, daemon=daemon)
            except BaseException:
                mine.native = None
                raise
            return mine
        return original_start_joinable(function, handle=handle, daemon=daemon)
    sys.audit("_thread.start_joinable_thread", function, 1 if daemon else 0, handle)
    if not isinstance(handle, ThreadHandle):
        mine = ThreadHandle()
        adopt_handle(getattr(function, "__self__", None), handle, mine)
    else:
        mine = handle
    if mine.state != NOT_STARTED or mine.native is not None:
        raise RuntimeError("thread already started")
    launch(scheduler, function, (), None, mine)
    if not daemon:
        joined_at_exit.add(mine)
    return mine


cdef int adopt_handle(object thread, object handle, ThreadHandle mine) except -1:
    # A Thread made before the patch has a real one.
    if thread is None or handle is None:
        return 0
    for name, value in vars(thread).items():
        if value is handle:
            setattr(thread, name, mine)
            return 0
    return 0


def make_thread_handle(ident, /):
    """_thread._make_thread_handle: of a thread that was started otherwise."""
    cdef ThreadHandle handle = ThreadHandle()
    if not isinstance(ident, int):
        raise TypeError("ident must be an integer")
    handle.thread_ident = ident
    handle.state = AT_WORK
    return handle


def set_sentinel():
    """_thread._set_sentinel: a lock that the end of this thread releases."""
    cdef Scheduler scheduler = current_scheduler_or_none()
    cdef object running
    if scheduler is None or caller_of(scheduler) is <PyObject *>scheduler.main:
        lock = original_sentinel()
        watch_sentinel(lock)
        return lock
    lock = _thread.allocate_lock()
    running = (<BaseFiber>caller_of(scheduler)).function
    if forking_thread and forking_process != getpid():
        pass        # threading's hook makes the caller the child's main thread: the interpreter's exit ends that one
    elif isinstance(running, FiberThread):
        (<FiberThread>running).sentinel = lock
    else:
        (<Fiber>caller_of(scheduler)).add_done_callback(lambda fiber: lock.release() if lock.locked() else None)
    return lock


def watch_sentinel(lock):
    """The end of an OS thread will release *lock*, without a word: thread_ends() tells, a moment before."""
    import weakref
    key = address(lock)
    ending[key] = False
    sentinels[key] = weakref.ref(lock, lambda _: (ending.pop(key, None), sentinels.pop(key, None)))


cdef dict sentinels = {}


def thread_ends(lock):
    """The OS thread whose sentinel *lock* is has nothing left to do."""
    cdef WaitingLine line
    if address(lock) in ending:
        ending[address(lock)] = True
        line = lines.get(address(lock))
        if line is not None:
            serve_all(&line.line, LOOK_AGAIN)


def get_ident():
    """The ident of this thread, a fiber or an OS thread: the one under which sys._current_frames() knows it."""
    if forking_thread and forking_thread == PyThread_get_thread_ident():
        return forking_ident
    return my_ident()


def get_native_id():
    """The kernel's number of this OS thread; of a fiber that is not the main one, a number that no thread of the kernel has.

    It is unique in the process while the fiber lives, which is what programs want of it.
    """
    cdef Scheduler scheduler = current_scheduler_or_none()
    if scheduler is None or caller_of(scheduler) is <PyObject *>scheduler.main:
        return original_native_id()
    return HIGHEST_NATIVE_ID + (<Fiber>caller_of(scheduler)).id


def runs_thread():
    """Whether the running fiber was made for a thread."""
    cdef Scheduler scheduler = current_scheduler_or_none()
    return scheduler is not None and isinstance((<BaseFiber>caller_of(scheduler)).function, FiberThread)


def get_main_thread_ident():
    """The ident of the main thread; in a child that another one forked, its own."""
    if forking_thread and forking_thread == PyThread_get_thread_ident():
        return forking_ident
    return main_ident if main_ident else original_main_ident()


def count_threads():
    """How many threads are alive beside the main one: fibers that were made for one, and OS threads but for greenio's own."""
    return max(0, original_count_threads() - own_threads_alive) + threads_alive


def count_own_thread(Py_ssize_t change, /):
    """One more of greenio's own OS threads (1), or one less (-1)."""
    global own_threads_alive
    own_threads_alive += change


def stack_size(size=0, /):
    """_thread.stack_size: also the stack of fibers that are made for threads from now on; 0: as other fibers' again.

    A size that fibers cannot have becomes the nearest one that they can.
    """
    global thread_stack_bytes
    before = original_stack_size(size)
    if size == 0:
        # As the original: a question without an argument, and a change with one, look the same but for this.
        thread_stack_bytes = None
    else:
        thread_stack_bytes = min(max(size, MIN_STACK_BYTES), MAX_STACK_BYTES)
    return before


cdef int fits(size_t size) except -1:
    try:
        checked_stack_bytes(size)
        return True
    except ValueError:
        return False


cdef object find_bound(size_t size, bint up):
    while not fits(size):
        size = size * 2 if up else size // 2
    return size


MIN_STACK_BYTES = find_bound(32 * 1024, True)
MAX_STACK_BYTES = find_bound(1 << 40, False)


def set_name(name, /):
    """_thread.set_name: the name is for the kernel, which does not know fibers: a thread that is one has it for get_name() only."""
    cdef Scheduler scheduler = current_scheduler_or_none()
    if scheduler is None or caller_of(scheduler) is <PyObject *>scheduler.main:
        original_set_name(name)
        return
    if not isinstance(name, str):
        raise TypeError(f"set_name() argument 'name' must be str, not {type(name).__name__}")
    running = (<BaseFiber>caller_of(scheduler)).function
    if isinstance(running, FiberThread):
        (<FiberThread>running).system_name = name.encode(sys.getfilesystemencoding(), "replace")[:NAME_BYTES].partition(b"\0")[0]


def get_name():
    """_thread._get_name: what set_name() was given, as much of it as the kernel takes."""
    cdef Scheduler scheduler = current_scheduler_or_none()
    if scheduler is not None and caller_of(scheduler) is not <PyObject *>scheduler.main:
        running = (<BaseFiber>caller_of(scheduler)).function
        if isinstance(running, FiberThread) and (<FiberThread>running).system_name is not None:
            return os.fsdecode((<FiberThread>running).system_name)
    return original_get_name()


def join_fiber_threads():
    """Wait until all threads that are fibers, and no daemons, have ended."""
    cdef ThreadHandle handle
    me = my_ident()
    while True:
        left = [handle for handle in joined_at_exit if (<ThreadHandle>handle).thread_ident != me]
        if not left:
            return
        for handle in left:
            handle.join()


def runs_as_fiber(handle):
    """Whether the thread of a handle, or of a sentinel lock, is a fiber, or not begun."""
    if isinstance(handle, ThreadHandle):
        return (<ThreadHandle>handle).native is None
    if original_handle is not None and isinstance(handle, original_handle):
        return False
    return address(handle) not in ending


# --- fork, and the interpreter's exit --------------------------------------------------------------------------------


def _before_fork():
    global forking_thread, forking_process, forking_ident
    if import_owner != 0:
        wait_for_imports()      # the child is to see no half of what is imported, as after os.fork() beside OS threads
    get_ready_to_fork()
    forking_ident = my_ident()
    forking_process = getpid()
    forking_thread = PyThread_get_thread_ident()


def _after_fork_in_parent():
    global forking_thread
    forking_thread = 0


def _after_fork_in_child():
    global forking_thread, main_ident, threads_alive, import_line
    cdef Scheduler scheduler = current_scheduler_or_none()
    cdef ThreadHandle handle
    cdef object running
    forking_thread = 0
    main_ident = forking_ident if forking_ident != PyThread_get_thread_ident() else 0
    threads_alive = 0
    lines.clear()
    blocking_threads.clear()
    ending.clear()
    import_line = WaitingLine()
    if import_owner != forking_ident:
        forget_import_owner()
    for handle in list(joined_at_exit):
        if handle.thread_ident != forking_ident:
            handle.end()
    if scheduler is not None:
        running = (<BaseFiber>caller_of(scheduler)).function
        if isinstance(running, FiberThread):
            # It is the main thread now, whose end is the interpreter's.
            (<FiberThread>running).sentinel = None
            (<FiberThread>running).handle = None


def _set_up():
    global first_queue_row
    cdef object lock = _thread.LockType
    cdef object rlock = _thread.RLock
    cdef object queue = _queue.SimpleQueue
    find_owner_offset()
    greenio_handlers[GREENIO_LOCK_ACQUIRE] = lock_acquire
    greenio_handlers[GREENIO_LOCK_RELEASE] = lock_release
    greenio_handlers[GREENIO_RLOCK_ACQUIRE] = rlock_acquire
    greenio_handlers[GREENIO_RLOCK_RELEASE] = rlock_release
    greenio_handlers[GREENIO_RLOCK_IS_OWNED] = rlock_is_owned
    greenio_handlers[GREENIO_RLOCK_RECURSION_COUNT] = rlock_recursion_count
    greenio_handlers[GREENIO_RLOCK_RELEASE_SAVE] = rlock_release_save
    greenio_handlers[GREENIO_RLOCK_ACQUIRE_RESTORE] = rlock_acquire_restore
    greenio_handlers[GREENIO_QUEUE_GET] = queue_get
    greenio_handlers[GREENIO_QUEUE_GET_NOWAIT] = queue_get_nowait
    greenio_handlers[GREENIO_QUEUE_PUT] = queue_put
    greenio_handlers[GREENIO_QUEUE_PUT_NOWAIT] = queue_put_nowait
    greenio_handlers[GREENIO_INTERRUPT] = interrupt
    greenio_handlers[GREENIO_IMPORT_ACQUIRE] = import_acquire
    greenio_handlers[GREENIO_IMPORT_RELEASE] = import_release
    greenio_handlers[GREENIO_SIGNAL_SET] = set_handler
    greenio_handlers[GREENIO_SIGNAL_WAKEUP] = set_wakeup_fd
    greenio_handlers[GREENIO_FORK] = fork
    find_method(lock, "locked", &original_locked)
    find_method(queue, "qsize", &original_size)
    add_row(lock, "acquire", GREENIO_LOCK_ACQUIRE, &original_acquire)
    add_row(lock, "acquire_lock", GREENIO_LOCK_ACQUIRE, NULL)
    add_row(lock, "__enter__", GREENIO_LOCK_ACQUIRE, NULL)
    add_row(lock, "release", GREENIO_LOCK_RELEASE, &original_release)
    add_row(lock, "release_lock", GREENIO_LOCK_RELEASE, NULL)
    add_row(lock, "__exit__", GREENIO_LOCK_RELEASE, NULL)
    add_row(rlock, "acquire", GREENIO_RLOCK_ACQUIRE, &original_rlock_acquire)
    add_row(rlock, "__enter__", GREENIO_RLOCK_ACQUIRE, NULL)
    add_row(rlock, "release", GREENIO_RLOCK_RELEASE, &original_rlock_release)
    add_row(rlock, "__exit__", GREENIO_RLOCK_RELEASE, NULL)
    add_row(rlock, "_is_owned", GREENIO_RLOCK_IS_OWNED, NULL)
    if hasattr(rlock, "_recursion_count"):
        add_row(rlock, "_recursion_count", GREENIO_RLOCK_RECURSION_COUNT, &original_count)
    else:
        find_depth_beside_owner()
    add_row(rlock, "_release_save", GREENIO_RLOCK_RELEASE_SAVE, &original_release_save)
    add_row(rlock, "_acquire_restore", GREENIO_RLOCK_ACQUIRE_RESTORE, NULL)
    add_row(_signal, "default_int_handler", GREENIO_INTERRUPT, &original_interrupt)
    add_row(_signal, "signal", GREENIO_SIGNAL_SET, &original_signal)
    add_row(_signal, "set_wakeup_fd", GREENIO_SIGNAL_WAKEUP, &original_wakeup)
    add_row(posix, "fork", GREENIO_FORK, &original_fork)
    add_row(_imp, "acquire_lock", GREENIO_IMPORT_ACQUIRE, &original_import_acquire)
    add_row(_imp, "release_lock", GREENIO_IMPORT_RELEASE, &original_import_release)
    first_queue_row = row_count
    add_row(queue, "get", GREENIO_QUEUE_GET, &original_get)
    add_row(queue, "get_nowait", GREENIO_QUEUE_GET_NOWAIT, &original_get_nowait)
    add_row(queue, "put", GREENIO_QUEUE_PUT, &original_put)
    add_row(queue, "put_nowait", GREENIO_QUEUE_PUT_NOWAIT, &original_put_nowait)
    # After the scheduler's own: those restore the fiber's ident.
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    atexit.register(put_queues_back)
    atexit.register(put_locks_back)     # after the fibers have ended, as this is imported before what ends them


_set_up()
