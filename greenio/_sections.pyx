# _sections.pyx: with pin(): and with atomic(): two counters of the fiber that runs, up and down.
#
# One object each, for all fibers and any depth: whoever enters or leaves is the fiber that it counts for.
from greenio._scheduler cimport RUNNING, Fiber, Scheduler, current_scheduler_or_raise


cdef class Pin:
    """What pin() returns."""

    def __init__(self):
        raise TypeError("use greenio.pin()")

    def __enter__(self):
        (<Fiber>current_scheduler_or_raise().current).pinned += 1

    def __exit__(self, exception_type, exception, traceback):
        cdef Fiber fiber = <Fiber>current_scheduler_or_raise().current
        if fiber.pinned <= 0:
            raise RuntimeError(f"{fiber.name} leaves a greenio.pin() that it has not entered")
        fiber.pinned -= 1


cdef class Atomic:
    """What atomic() returns."""

    def __init__(self):
        raise TypeError("use greenio.atomic()")

    def __enter__(self):
        (<Fiber>current_scheduler_or_raise().current).atomic_depth += 1

    def __exit__(self, exception_type, exception, traceback):
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Fiber fiber = <Fiber>scheduler.current
        if fiber.atomic_depth > 0:
            fiber.atomic_depth -= 1
            if fiber.slice_due and fiber.atomic_depth == 0:
                fiber.slice_due = False
                if fiber.run_state == RUNNING and not fiber.collecting:
                    scheduler.give_way()
        elif fiber.atomic_refused > 0:
            fiber.atomic_refused -= 1
        else:
            raise RuntimeError(f"{fiber.name} leaves a greenio.atomic() that it has not entered")


cdef Pin the_pin = Pin.__new__(Pin)
cdef Atomic the_atomic = Atomic.__new__(Atomic)


def pin():
    """A context manager: inside it the current fiber stays on the OS thread that it runs on. May be nested.

    For code that depends on its OS thread: a C library with thread-local state, a native lock or handle that only the OS thread
    may release that took it. `spawn(pin=True)` is for a whole fiber. It costs less than a threading.Lock.

    Raises:
        RuntimeError: when it is entered: no fibers run on this OS thread.
    """
    return the_pin


def atomic():
    """A context manager: from its beginning to its end no other fiber of this run runs. May be nested.

    Without it that is so, too, between two waits, unless the run was asked for more: by run(slice=…), which switches fibers that
    compute, or run(stall="handoff"), which runs the others beside one that is stuck; atomic() holds off both. Operations that complete at
    once do not give way inside it. The whole run stands still meanwhile, so keep it short.

    It is never held across a wait. What has to wait inside raises RuntimeError, as do yield_now and sleep(0), as if it had been cancelled;
    what does not have to (a lock that is free, an item that is there, try and nowait variants) is done. With that error the block has
    failed: code on the way out of it, a ``finally`` or the end of a task group, may wait, and others run. Other OS threads
    are not held off.

    Raises:
        RuntimeError: when it is entered: no fibers run on this OS thread.
    """
    return the_atomic
