# _waiting.pyx: see _waiting.pxd.
import os

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX, int64_t

from greenio._scheduler cimport caller_of, NEVER, TIMED_OUT, WOKEN, Fiber, Scheduler, deadline_of, unpark

cdef extern from "pythread.h" nogil:
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int interruptible)
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
    void PyThread_release_lock(PyThread_type_lock lock)

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>

    static inline int64_t greenio_waiting_now_ns(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    """
    int64_t greenio_waiting_now_ns() nogil

cdef enum:
    LONGEST_WAIT_US = 1_000_000_000     # one system call's; then the next


cdef bint claim(Place *place) noexcept:
    # Whether its waiter is woken by this. Out of the line either way: one that cannot be woken is on its way out.
    cdef Waiter *waiter = place.waiter
    line_remove(place)
    if waiter.served is not NULL:
        return False
    if waiter.fiber is NULL:
        waiter.served = place
        PyThread_release_lock(waiter.lock)
        return True
    if (<Fiber>waiter.fiber).park_count != waiter.park_number or not unpark(<Fiber>waiter.fiber, WOKEN):
        return False
    waiter.served = place
    return True


cdef Place *serve(Line *line) noexcept:
    cdef Place *place
    if line.process != forks:
        line_renew(line)
    while line.first is not NULL:
        place = line.first
        if claim(place):
            place.outcome = 0
            return place
    return NULL


cdef Py_ssize_t serve_all(Line *line, int outcome) noexcept:
    cdef Py_ssize_t served = 0
    cdef Place *place = serve(line)
    while place is not NULL:
        place.outcome = outcome
        served += 1
        place = serve(line)
    return served


cdef int waiter_init(Waiter *waiter, Scheduler scheduler) except -1:
    waiter.served = NULL
    waiter.lock = NULL
    waiter.fiber = NULL
    if scheduler is not None:
        waiter.fiber = caller_of(scheduler)
        waiter.park_number = (<Fiber>caller_of(scheduler)).park_count + 1
        return 0
    waiter.lock = PyThread_allocate_lock()
    if waiter.lock is NULL:
        raise MemoryError("no lock for an OS thread to wait on")
    PyThread_acquire_lock(waiter.lock, 0)
    return 0


cdef void waiter_drop(Waiter *waiter) noexcept:
    if waiter.lock is not NULL:
        PyThread_release_lock(waiter.lock)
        PyThread_free_lock(waiter.lock)
        waiter.lock = NULL


cdef Outcome wait(Waiter *waiter, Scheduler scheduler, object reason, object waiting_on, int64_t deadline_ns) except *:
    cdef int wake
    if waiter.fiber is NULL:
        return wait_in_thread(waiter, deadline_ns)
    wake = scheduler.park(reason, waiting_on, deadline_ns)
    if waiter.served is not NULL:
        return SERVED
    return TOO_LATE if wake == TIMED_OUT else AGAIN


cdef Outcome wait_in_thread(Waiter *waiter, int64_t deadline_ns) except *:
    cdef PyThread_type_lock lock = waiter.lock
    cdef PyLockStatus status = PY_LOCK_FAILURE
    cdef int64_t left_ns
    cdef long long microseconds = -1
    while status == PY_LOCK_FAILURE:
        if deadline_ns != NEVER:
            left_ns = deadline_ns - greenio_waiting_now_ns()
            if left_ns <= 0:
                break
            microseconds = min(left_ns // 1000 + 1, <int64_t>LONGEST_WAIT_US)
        with nogil:
            status = PyThread_acquire_lock_timed(lock, microseconds, 1)
    if waiter.served is not NULL:
        if status != PY_LOCK_ACQUIRED:
            PyThread_acquire_lock(lock, 1)   # as waiter_drop finds it: held. Released already, so this does not wait
        return SERVED
    return TOO_LATE if status == PY_LOCK_FAILURE else AGAIN


cdef Outcome stand_in_line(
        Line *line, Place *place, Scheduler scheduler, object reason, object waiting_on, int64_t deadline_ns) except *:
    cdef Waiter waiter
    cdef Outcome outcome
    waiter_init(&waiter, scheduler)
    place.waiter = &waiter
    place.outcome = 0
    line_append(line, place)
    try:
        outcome = wait(&waiter, scheduler, reason, waiting_on, deadline_ns)
    finally:
        line_remove(place)
        waiter_drop(&waiter)
    if outcome == AGAIN and scheduler is None:
        PyErr_CheckSignals()
    return outcome


cdef int64_t deadline_after(Scheduler scheduler, object timeout) except? -2:
    cdef double seconds
    if scheduler is not None:
        return deadline_of(scheduler, timeout)
    if timeout is None:
        return NEVER
    seconds = timeout
    if not seconds >= 0:
        raise ValueError(f"a timeout is >= 0 seconds or None, not {timeout!r}")
    if seconds * 1e9 >= <double>(INT64_MAX - greenio_waiting_now_ns()):
        return NEVER
    return greenio_waiting_now_ns() + <int64_t>(seconds * 1e9)


cdef class Case:
    """One of the things that a select waits for."""

    cdef bint attempt(self, Scheduler scheduler) except -1:
        raise NotImplementedError

    cdef int enlist(self, Place *place) except -1:
        raise NotImplementedError

    cdef int delist(self, Place *place) except -1:
        line_remove(place)
        return 0

    cdef object finish(self, Place *place):
        raise NotImplementedError


cdef class Selectable:
    """What `select` can wait for as it is."""

    cdef Case as_case(self):
        raise NotImplementedError


def _after_fork_in_child():
    global forks
    forks += 1


forks = 0
os.register_at_fork(after_in_child=_after_fork_in_child)
