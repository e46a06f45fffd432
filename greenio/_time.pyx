# _time.pyx: sleep, and the scheduler's clock as seconds.
from libc.math cimport ceil
from libc.stdint cimport int64_t

from greenio._scheduler cimport NEVER, TIMED_OUT, Scheduler, current_scheduler_or_raise, deadline_of


def sleep(seconds):
    """Let the others run for *seconds*, at least; 0 lets those run that are ready now. A checkpoint.

    Args:
        seconds: float >= 0; math.inf sleeps until cancelled.
    Raises:
        ValueError: *seconds* is negative or not a number.
        Cancelled: this fiber was cancelled.
        RuntimeError: no fibers run on this OS thread; or the caller is inside greenio.atomic().
    """
    cdef Scheduler scheduler = current_scheduler_or_raise()
    cdef int64_t deadline_ns
    if seconds is None:
        raise TypeError("sleep wants a number of seconds, not None")
    scheduler.check()
    deadline_ns = deadline_of(scheduler, seconds)
    if seconds == 0:
        scheduler.give_way()
        return
    while scheduler.park("sleep", None, deadline_ns) != TIMED_OUT:
        pass


def sleep_until(deadline):
    """Sleep until current_time() has reached *deadline*, in seconds; one that has passed lets the ready ones run. A checkpoint.

    Raises:
        ValueError: *deadline* is not a number.
        Cancelled: this fiber was cancelled.
        RuntimeError: no fibers run on this OS thread; or the caller is inside greenio.atomic().
    """
    cdef Scheduler scheduler = current_scheduler_or_raise()
    cdef double moment = deadline
    cdef double deadline_ns
    if moment != moment:
        raise ValueError("a deadline is a moment in seconds, not nan")
    scheduler.check()
    # Rounded up: current_time() must not be below the deadline afterwards.
    deadline_ns = ceil(moment * 1e9)
    if deadline_ns <= scheduler.now():
        scheduler.give_way()
        return
    while scheduler.park("sleep", None, NEVER if deadline_ns >= 9e18 else <int64_t>deadline_ns) != TIMED_OUT:
        pass


def current_time():
    """Now on the scheduler's clock, in seconds from a fixed moment (CLOCK_MONOTONIC unless replaced).

    Raises:
        RuntimeError: no fibers run on this OS thread.
    """
    return current_scheduler_or_raise().now() / 1e9
