# _sync.pyx: threading's primitives for fibers; the contract and the invariants are in _sync.pxd.
#
# Each operation is tried first and stands in line otherwise. Between finding out that it has to wait and standing there nothing
# runs Python code or lets go of the GIL.
#
# Not taken: giving a lock back as free, for whoever runs first. That is a switch less when one fiber releases and acquires in
# a loop, and lets it keep the others out for ever. Nor moving a notified waiter from the condition's line to the lock's: with
# fibers, whoever notified has left its `with` block as a rule before the waiter runs.
import threading

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint64_t

from greenio._errors import DeadlockError

from greenio._scheduler cimport caller_of, NEVER, Fiber, Scheduler, current_scheduler_or_none
from greenio._waiting cimport (
    AGAIN, SERVED, TOO_LATE, Case, Line, Outcome, Place, Selectable, Waiter, deadline_after, forks, line_append, line_length,
    line_remove, serve, serve_all, stand_in_line, wait, waiter_drop, waiter_init)

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    unsigned long PyThread_get_thread_ident()
    bint PyLong_CheckExact(object value)
    unsigned long PyLong_AsUnsignedLong(object value) except? -1

cdef object FOR_EVER = -1             # acquire's timeout in locks; small ints are singletons, any other spelling is parsed
cdef double LONGEST = threading.TIMEOUT_MAX     # seconds, as threading has it


# --- callers and timeouts --------------------------------------------------------------------------------------------


cdef inline object my_name(Scheduler scheduler):
    return <Fiber>caller_of(scheduler) if scheduler is not None else PyThread_get_thread_ident()


cdef inline bint is_mine(object holder, Scheduler scheduler) except -1:
    if scheduler is not None:
        return <PyObject *>holder is caller_of(scheduler)
    return is_this_thread(holder)


cdef inline bint is_this_thread(object holder) except -1:
    return PyLong_CheckExact(holder) and PyLong_AsUnsignedLong(holder) == PyThread_get_thread_ident()


cdef str spell(object holder):
    # An owner, for a person.
    if holder is None:
        return "nobody"
    return (<Fiber>holder).name if isinstance(holder, Fiber) else f"OS thread {holder}"


cdef double seconds_of(object timeout) except? -2:
    # A timeout as threading's higher primitives take it: None is for ever, what is below 0 is over.
    cdef double seconds
    if timeout is None:
        return INFINITY
    seconds = timeout
    if seconds != seconds:
        raise ValueError("a timeout is a number of seconds or None, not nan")
    return seconds if seconds > 0 else 0.0


cdef int64_t lock_deadline(Scheduler scheduler, object timeout) except? -2:
    # As threading's locks take it: -1 is for ever.
    cdef double seconds = timeout
    return NEVER if seconds == -1 else deadline_after(scheduler, seconds)


cdef int check_lock_timeout(bint blocking, object timeout) except -1:
    cdef double seconds = timeout
    if seconds != seconds:
        raise ValueError("a timeout is a number of seconds or -1, not nan")
    if seconds == -1:
        return 0
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if seconds < 0:
        raise ValueError(f"timeout value must be a non-negative number, or -1 for none, not {timeout!r}")
    if seconds > LONGEST:
        raise OverflowError(f"timeout value is too large: {timeout!r}, more than {LONGEST:.0f} seconds; -1 waits for ever")
    return 0


cdef Outcome keep_waiting(Waiter *waiter, Scheduler scheduler, object reason, object waiting_on, int64_t deadline_ns) except *:
    # wait() for a place that stays in its line over signals: an OS thread keeps its turn, and misses nothing during a handler.
    # AGAIN: something else has woken the fiber, or this is a forked child. The place may be out of its line, see is_out.
    cdef Outcome outcome
    cdef unsigned int process = forks
    if scheduler is not None:
        waiter.park_number = (<Fiber>waiter.fiber).park_count + 1
        return wait(waiter, scheduler, reason, waiting_on, deadline_ns)
    while True:
        outcome = wait(waiter, None, reason, waiting_on, deadline_ns)
        if outcome != AGAIN:
            return outcome
        try:
            PyErr_CheckSignals()
        except BaseException:
            if waiter.served is not NULL:
                wait(waiter, None, reason, waiting_on, 0)  # served during the handler: does not wait, settles the OS thread's lock
            raise
        if process != forks:
            return AGAIN


cdef inline bint is_out(Place *place, unsigned int process) noexcept:
    # Whether a place that was not served, lined up when `forks` was `process`, has left its line: passed over, as that of one that
    # could not be woken at that moment, or left behind in the parent. place.line itself says nothing in a forked child.
    return place.line is NULL or process != forks


cdef int check_may_wait(Scheduler scheduler, str reason) except -1:
    # park() refuses as well, but only after something was changed.
    if scheduler is None or not scheduler.hosting:
        return 0
    raise RuntimeError(
        f"a signal handler cannot wait ({reason}): no fiber runs, it was called on top of the idle loop; let it set something, or "
        "spawn a fiber")


cdef str described(object self, str state, Line *line):
    cdef Py_ssize_t count = line_length(line)
    waiting = f", {count} waiting" if count else ""
    return f"<greenio.{type(self).__name__} at {<size_t><PyObject *>self:#x}: {state}{waiting}>"


# --- events ----------------------------------------------------------------------------------------------------------


cdef class Event(Selectable):
    """A flag that fibers and OS threads can wait for; not set at first. As threading.Event.

    ``set`` never waits and may be called from anywhere, signal handlers too: ``stop = Event()``,
    ``signal.signal(SIGTERM, lambda *_: stop.set())``, ``run(stop.wait)``. For `select`, an Event stands for its wait.
    """

    def __init__(self):
        pass  # takes no arguments

    def is_set(self):
        """Whether the flag is set."""
        return self.flag

    def set(self):
        """Set the flag; everybody who waits goes on, in the order in which they came."""
        self.flag = True
        self.sets += 1
        if self.line.first is not NULL:
            serve_all(&self.line, 0)

    def clear(self):
        """Take the flag back: who waits from now on waits for the next `set`."""
        self.flag = False

    def wait(self, timeout=None):
        """Park until the flag is set; an OS thread without fibers is blocked.

        Args:
            timeout: seconds; None waits for ever, 0 or less does not park.
        Returns:
            True, or False if *timeout* passed and the flag is not set.
        Raises:
            Cancelled: the calling fiber was cancelled.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef double seconds = seconds_of(timeout)
        cdef int64_t deadline_ns
        cdef uint64_t sets
        cdef Place place
        cdef Outcome outcome
        if scheduler is not None:
            scheduler.check()
        if self.flag:
            if scheduler is not None:
                scheduler.spend()
            return True
        if seconds == 0:
            if scheduler is not None:
                scheduler.spend()  # a loop that asks has to let the others run
            return self.flag
        deadline_ns = NEVER if timeout is None else deadline_after(scheduler, seconds)
        sets = self.sets
        # It may have been set and cleared while this one was on its way, woken by something else: then nobody could serve it.
        while self.sets == sets and not self.flag:
            outcome = stand_in_line(&self.line, &place, scheduler, "event wait", self, deadline_ns)
            if outcome == SERVED:
                return True
            if outcome == TOO_LATE:
                break
        return self.flag or self.sets != sets

    def _at_fork_reinit(self):
        self.flag = False

    cdef Case as_case(self):
        cdef EventCase case = EventCase.__new__(EventCase)
        case.event = self
        return case

    def __repr__(self):
        return described(self, "set" if self.flag else "unset", &self.line)


@cython.final
cdef class EventCase(Case):
    cdef Event event
    cdef bint enlisted
    cdef uint64_t sets             # the event's, when it was enlisted

    cdef bint attempt(self, Scheduler scheduler) except -1:
        if self.event.flag or (self.enlisted and self.event.sets != self.sets):  # see Event.wait
            self.value = True
            return True
        return False

    cdef int enlist(self, Place *place) except -1:
        self.enlisted = True
        self.sets = self.event.sets
        line_append(&self.event.line, place)
        return 0

    cdef object finish(self, Place *place):
        return True


# --- locks -----------------------------------------------------------------------------------------------------------


cdef class OwnedLock(Selectable):
    """What Lock and RLock share."""

    def __init__(self):
        if not isinstance(self, (Lock, RLock)):
            raise TypeError(f"a {type(self).__name__} is no lock: make a greenio.Lock or RLock")

    @property
    def owner(self):
        """The Fiber that holds it, the ident of an OS thread without fibers, or None while it is free."""
        return self.holder

    def locked(self):
        """Whether anybody holds it."""
        return self.holder is not None

    # What threading.Condition asks of a lock.

    def _is_owned(self):
        return is_mine(self.holder, current_scheduler_or_none())

    def _recursion_count(self):
        return self.depth if is_mine(self.holder, current_scheduler_or_none()) else 0

    def _release_save(self):
        cdef Py_ssize_t depth = self.depth
        self.require_owner(current_scheduler_or_none(), "release")
        self.hand_over()
        return depth

    def _acquire_restore(self, Py_ssize_t depth):
        self.take_back(current_scheduler_or_none(), depth)

    def _at_fork_reinit(self):
        self.holder = None
        self.depth = 0

    cdef bint acquire_waiting(self, Scheduler scheduler, bint blocking, object timeout) except -1:
        cdef int64_t deadline_ns
        if not blocking or timeout == 0:
            if scheduler is not None:
                scheduler.spend()
            return False
        deadline_ns = lock_deadline(scheduler, timeout)
        if deadline_ns == NEVER:
            if is_mine(self.holder, scheduler):
                raise RuntimeError(
                    f"{spell(self.holder)} holds this {type(self).__name__} already and would wait for itself for ever: "
                    "release it first, use an RLock, or acquire with a timeout")
            if scheduler is not None and is_this_thread(self.holder):
                raise RuntimeError(
                    f"this {type(self).__name__} was acquired on this OS thread before greenio.run(), and is held until that returns: "
                    "a fiber would wait for it for ever; acquire it in main")
        return self.stand(scheduler, deadline_ns)

    cdef bint stand(self, Scheduler scheduler, int64_t deadline_ns) except -1:
        cdef Place place
        cdef Outcome outcome
        cdef object me = my_name(scheduler)
        while self.holder is not None:
            place.item = <PyObject *>me
            outcome = stand_in_line(&self.line, &place, scheduler, "lock acquire", self, deadline_ns)
            if outcome == SERVED:
                return True
            if outcome == TOO_LATE and self.holder is not None:  # None: released after the deadline had come, before this one ran
                return False
        self.holder = me
        return True

    cdef void hand_over(self) noexcept:
        cdef Place *place = serve(&self.line) if self.line.first is not NULL else NULL
        # The owner that goes is the running caller: letting go of its name frees nothing.
        self.holder = None if place is NULL else <object>place.item
        self.depth = 1

    cdef int take_back(self, Scheduler scheduler, Py_ssize_t depth) except -1:
        cdef object error = None
        cdef Fiber me = None if scheduler is None else <Fiber>caller_of(scheduler)
        cdef bint taken = False
        cdef bint give_up
        if me is not None:
            me.shield += 1
        while not taken:
            try:
                taken = self.stand(scheduler, NEVER)
            except BaseException as caught:
                # Thrown into the fiber, or raised by a signal handler. A second Ctrl-C means it, and who waits for a lock that nobody
                # can release has to be told.
                give_up = error is not None or isinstance(caught, DeadlockError)
                error = caught
                if give_up:
                    break
        if me is not None:
            me.shield -= 1
        if taken:
            self.depth = depth
        if error is not None:
            raise error
        return 0

    cdef int require_owner(self, Scheduler scheduler, str what) except -1:
        if is_mine(self.holder, scheduler):
            return 0
        raise RuntimeError(
            f"cannot {what} un-acquired lock: {spell(self.holder)} holds this {type(self).__name__}, "
            f"not {spell(my_name(scheduler))}")

    def __repr__(self):
        cdef Py_ssize_t count = line_length(&self.line)
        state = "unlocked" if self.holder is None else "locked"
        depth = f" count={self.depth if self.holder is not None else 0}" if type(self) is RLock else ""
        held = "" if self.holder is None else f" by {spell(self.holder)}"
        waiting = f", {count} waiting" if count else ""
        return f"<{state} greenio.{type(self).__name__} object at {<size_t><PyObject *>self:#x}{depth}{held}{waiting}>"


@cython.final
cdef class Lock(OwnedLock):
    """Held by one fiber at a time, or by one OS thread. As threading.Lock, but for its owner.

    Whoever acquired it must release it (threading's may be released by anybody); release hands it straight to the one that has
    waited longest. For `select`, a Lock stands for its acquire.
    """

    cdef bint enter(self, Scheduler scheduler) except -1:
        if scheduler is not None:
            scheduler.check()
            if self.holder is None:
                # Before, not after: if its turn is over, the fiber gives way without the lock, and the others do not pile up at it.
                scheduler.spend()
                if self.holder is None:
                    self.holder = <Fiber>caller_of(scheduler)
                    return True
        elif self.holder is None:
            self.holder = PyThread_get_thread_ident()
            return True
        return False

    cdef int leave(self) except -1:
        cdef Scheduler scheduler = current_scheduler_or_none()
        if not is_mine(self.holder, scheduler):
            self.require_owner(scheduler, "release")
        self.hand_over()
        return 0

    def acquire(self, bint blocking=True, timeout=-1):
        """Take the lock, parking while another holds it; an OS thread without fibers is blocked.

        Args:
            blocking: False does not park.
            timeout: seconds; -1 waits for ever, 0 does not park.
        Returns:
            True, or False if it is held by another still.
        Raises:
            RuntimeError: the caller holds it, and there is no timeout: it would wait for itself.
            ValueError: a *timeout* for a call that does not block, or a negative one.
            OverflowError: *timeout* is above threading.TIMEOUT_MAX.
            Cancelled: the calling fiber was cancelled; the lock is not taken.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        if timeout is not FOR_EVER:
            check_lock_timeout(blocking, timeout)
        return self.enter(scheduler) or self.acquire_waiting(scheduler, blocking, timeout)

    def release(self):
        """Give the lock to the first in line, or leave it free.

        Raises:
            RuntimeError: the caller does not hold it.
        """
        self.leave()

    def __enter__(self):
        cdef Scheduler scheduler = current_scheduler_or_none()
        return self.enter(scheduler) or self.acquire_waiting(scheduler, True, FOR_EVER)

    def __exit__(self, exception_type, exception, traceback):
        if exception_type is None or self._is_owned():  # what took the lock away is more than that it is gone
            self.leave()

    cdef Case as_case(self):
        cdef LockCase case = LockCase.__new__(LockCase)
        case.lock = self
        return case


@cython.final
cdef class RLock(OwnedLock):
    """A lock that its owner may acquire again; it is free after as many releases. As threading.RLock.

    For `select`, an RLock stands for its acquire.
    """

    cdef bint enter(self, Scheduler scheduler) except -1:
        if scheduler is not None:
            scheduler.check()
            if self.holder is None:
                scheduler.spend()  # see Lock
        if self.holder is None:
            self.holder = my_name(scheduler)
            self.depth = 1
            return True
        if not is_mine(self.holder, scheduler):
            return False
        self.depth += 1
        if scheduler is not None:
            scheduler.spend()
        return True

    cdef int leave(self) except -1:
        cdef Scheduler scheduler = current_scheduler_or_none()
        if not is_mine(self.holder, scheduler):
            self.require_owner(scheduler, "release")
        self.depth -= 1
        if self.depth == 0:
            self.hand_over()
        return 0

    def acquire(self, bint blocking=True, timeout=-1):
        """Take the lock, or go one deeper; parks while another holds it. An OS thread without fibers is blocked.

        Args:
            blocking: False does not park.
            timeout: seconds; -1 waits for ever, 0 does not park.
        Returns:
            True, or False if it is held by another still.
        Raises:
            ValueError: a *timeout* for a call that does not block, or a negative one.
            OverflowError: *timeout* is above threading.TIMEOUT_MAX.
            Cancelled: the calling fiber was cancelled; the lock is as it was.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        if timeout is not FOR_EVER:
            check_lock_timeout(blocking, timeout)
        return self.enter(scheduler) or self.acquire_waiting(scheduler, blocking, timeout)

    def release(self):
        """Undo one acquire; the last one gives the lock to the first in line, or leaves it free.

        Raises:
            RuntimeError: the caller does not hold it.
        """
        self.leave()

    def __enter__(self):
        cdef Scheduler scheduler = current_scheduler_or_none()
        return self.enter(scheduler) or self.acquire_waiting(scheduler, True, FOR_EVER)

    def __exit__(self, exception_type, exception, traceback):
        if exception_type is None or self._is_owned():  # what took the lock away is more than that it is gone
            self.leave()

    cdef Case as_case(self):
        cdef LockCase case = LockCase.__new__(LockCase)
        case.lock = self
        return case


@cython.final
cdef class LockCase(Case):
    cdef OwnedLock lock
    cdef object me                 # who will own it: keeps the name in the place alive

    cdef bint attempt(self, Scheduler scheduler) except -1:
        cdef OwnedLock lock = self.lock
        self.me = my_name(scheduler)
        if lock.holder is None:
            lock.holder = self.me
            lock.depth = 1
        elif isinstance(lock, RLock) and is_mine(lock.holder, scheduler):
            lock.depth += 1
        else:
            return False
        self.value = True
        return True

    cdef int enlist(self, Place *place) except -1:
        place.item = <PyObject *>self.me
        line_append(&self.lock.line, place)
        return 0

    cdef object finish(self, Place *place):
        place.item = NULL
        return True


# --- semaphores ------------------------------------------------------------------------------------------------------


cdef class Semaphore(Selectable):
    """A number of permits: acquire takes one, or waits for one; release puts some back. As threading.Semaphore.

    Permits have no owner. Those put back go straight to the ones that have waited longest. For `select`, a Semaphore stands
    for its acquire.

    Args:
        value: the permits at first, >= 0.
    Raises:
        ValueError: *value* < 0.
    """

    def __cinit__(self):
        self.highest = -1

    def __init__(self, Py_ssize_t value=1):
        if value < 0:
            raise ValueError(f"semaphore initial value must be >= 0, not {value}")
        self.value = value

    cdef bint enter(self, Scheduler scheduler, bint blocking, double seconds) except -1:
        cdef int64_t deadline_ns
        cdef Place place
        cdef Outcome outcome
        if scheduler is not None:
            scheduler.check()
            if self.value or not blocking or seconds == 0:
                scheduler.spend()  # see Lock; and a loop that asks has to let the others run
        if self.value == 0 and blocking and seconds > 0:
            deadline_ns = NEVER if seconds == INFINITY else deadline_after(scheduler, seconds)
            while self.value == 0:
                outcome = stand_in_line(&self.line, &place, scheduler, "semaphore acquire", self, deadline_ns)
                if outcome == SERVED:
                    return True
                if outcome == TOO_LATE:
                    break      # one more look: a permit may have come since, before this one ran
        if self.value == 0:
            return False
        self.value -= 1
        return True

    def acquire(self, bint blocking=True, timeout=None):
        """Take a permit, parking while there is none; an OS thread without fibers is blocked.

        Args:
            blocking: False does not park.
            timeout: seconds; None waits for ever, 0 or less does not park.
        Returns:
            True, or False if there was no permit.
        Raises:
            ValueError: a *timeout* for a call that does not block.
            Cancelled: the calling fiber was cancelled; no permit is taken.
        """
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        return self.enter(current_scheduler_or_none(), blocking, seconds_of(timeout))

    def release(self, Py_ssize_t n=1):
        """Put *n* permits back.

        Raises:
            ValueError: *n* < 1; BoundedSemaphore: that would be more than there were at first.
            OverflowError: that would be more than sys.maxsize.
        """
        if n < 1:
            raise ValueError(f"n must be one or more, not {n}")
        if self.highest >= 0 and n > self.highest - self.value:
            raise ValueError(
                f"Semaphore released too many times: {self.value} permits of {self.highest} are there, {n} cannot come back")
        if n > PY_SSIZE_T_MAX - self.value:
            raise OverflowError(f"a semaphore holds at most {PY_SSIZE_T_MAX} permits: {self.value} are there, {n} cannot come back")
        while n > 0 and serve(&self.line) is not NULL:
            n -= 1
        self.value += n

    def __enter__(self):
        return self.enter(current_scheduler_or_none(), True, INFINITY)

    def __exit__(self, exception_type, exception, traceback):
        self.release()

    cdef Case as_case(self):
        cdef SemaphoreCase case = SemaphoreCase.__new__(SemaphoreCase)
        case.semaphore = self
        return case

    def __repr__(self):
        limit = "" if self.highest < 0 else f"/{self.highest}"
        return described(self, f"value={self.value}{limit}", &self.line)


cdef class BoundedSemaphore(Semaphore):
    """A Semaphore that refuses to hold more permits than it had at first. As threading.BoundedSemaphore.

    Args:
        value: the permits at first, >= 0.
    Raises:
        ValueError: *value* < 0.
    """

    def __init__(self, Py_ssize_t value=1):
        Semaphore.__init__(self, value)
        self.highest = value


@cython.final
cdef class SemaphoreCase(Case):
    cdef Semaphore semaphore

    cdef bint attempt(self, Scheduler scheduler) except -1:
        if self.semaphore.value == 0:
            return False
        self.semaphore.value -= 1
        self.value = True
        return True

    cdef int enlist(self, Place *place) except -1:
        line_append(&self.semaphore.line, place)
        return 0

    cdef object finish(self, Place *place):
        return True


# --- conditions ------------------------------------------------------------------------------------------------------


cdef class Condition:
    """A lock, and a line of those who wait until another tells them that something has changed. As threading.Condition.

    Args:
        lock: a greenio.Lock or RLock, which several conditions may share; None: an RLock of its own.
    Raises:
        TypeError: *lock* is something else. A lock of threading would stop the OS thread, and with it all fibers.
    """

    def __init__(self, lock=None):
        if lock is None:
            lock = RLock()
        elif not isinstance(lock, OwnedLock):
            raise TypeError(f"a Condition takes a greenio.Lock or RLock, not {lock!r}")
        self.lock = lock

    @property
    def owner(self):
        """Who holds the lock: a Fiber, the ident of an OS thread without fibers, or None."""
        return self.lock.holder

    def acquire(self, bint blocking=True, timeout=-1):
        """The lock's acquire."""
        if type(self.lock) is RLock:
            return (<RLock>self.lock).acquire(blocking, timeout)
        return (<Lock>self.lock).acquire(blocking, timeout)

    def release(self):
        """The lock's release."""
        if type(self.lock) is RLock:
            (<RLock>self.lock).release()
        else:
            (<Lock>self.lock).release()

    def locked(self):
        """Whether anybody holds the lock."""
        return self.lock.holder is not None

    def __enter__(self):
        return self.acquire()

    def __exit__(self, exception_type, exception, traceback):
        if exception_type is None or self.lock._is_owned():  # see Lock
            self.release()

    def wait(self, timeout=None):
        """Release the lock, park until notified, and acquire the lock again, as deep as it was.

        The lock is held afterwards however this ends: acquiring it again takes the time it takes, and cancellation waits for it, as
        does a KeyboardInterrupt. Only a second one, or a DeadlockError, is raised without the lock.
        Nobody but a notify wakes a waiter, or a fork, in the child; and a notify may have gone on to the next as well, if it came
        while this one was being cancelled, and was then shielded. What it waits for may be gone again, too, when it runs: use `wait_for`.

        Args:
            timeout: seconds to wait for the notify; None waits for ever, 0 or less lets the others in line have the lock first.
        Returns:
            True, or False if nobody notified within *timeout*.
        Raises:
            RuntimeError: the caller does not hold the lock.
            Cancelled: the calling fiber was cancelled. It has taken no notify, the next one goes to another.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef double seconds = seconds_of(timeout)
        self.lock.require_owner(scheduler, "wait on")
        if scheduler is not None:
            scheduler.check()
        return self.wait_until(scheduler, NEVER if timeout is None else deadline_after(scheduler, seconds))

    def wait_for(self, predicate, timeout=None):
        """Wait, as `wait` does, until *predicate* is true; it is called with the lock held, first before any waiting.

        Args:
            predicate: called without arguments.
            timeout: seconds in all; None waits for ever, 0 or less does not wait.
        Returns:
            What *predicate* returned last: something false if *timeout* has passed.
        Raises:
            RuntimeError: the caller does not hold the lock.
            Cancelled: the calling fiber was cancelled.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef double seconds = seconds_of(timeout)
        cdef int64_t deadline_ns
        cdef bint in_time = seconds > 0
        self.lock.require_owner(scheduler, "wait on")
        if scheduler is not None:
            scheduler.check()
        deadline_ns = NEVER if timeout is None else deadline_after(scheduler, seconds)
        result = predicate()
        if scheduler is not None and (result or not in_time):
            scheduler.spend()
        while in_time and not result:
            self.lock.require_owner(scheduler, "wait on")  # the predicate may have released it
            in_time = self.wait_until(scheduler, deadline_ns)
            result = predicate()
        return result

    cdef bint wait_until(self, Scheduler scheduler, int64_t deadline_ns) except -1:
        cdef OwnedLock lock = self.lock
        cdef Py_ssize_t depth = lock.depth
        cdef unsigned int process = forks
        cdef bint passed_over = False
        cdef Waiter waiter
        cdef Place place
        cdef Outcome outcome = AGAIN
        check_may_wait(scheduler, "condition wait")
        waiter_init(&waiter, scheduler)
        place.waiter = &waiter
        place.item = NULL
        place.outcome = 0
        line_append(&self.line, &place)
        lock.hand_over()
        try:
            while outcome == AGAIN and not passed_over:
                outcome = keep_waiting(&waiter, scheduler, "condition wait", self, deadline_ns)
                # Somebody has notified this one, or could have: it looks for itself.
                passed_over = outcome == AGAIN and is_out(&place, process)
        except BaseException:
            if waiter.served is not NULL:  # an OS thread whose signal handler raised: the notify is for the next
                serve(&self.line)
            raise
        finally:
            if not is_out(&place, process):
                line_remove(&place)
            waiter_drop(&waiter)
            lock.take_back(scheduler, depth)
        return outcome == SERVED or passed_over

    def notify(self, Py_ssize_t n=1):
        """Wake the *n* that have waited longest, or all if there are fewer. They run once they have the lock again.

        Raises:
            RuntimeError: the caller does not hold the lock.
        """
        self.lock.require_owner(current_scheduler_or_none(), "notify on")
        while n > 0 and serve(&self.line) is not NULL:
            n -= 1

    def notify_all(self):
        """Wake everybody who waits.

        Raises:
            RuntimeError: the caller does not hold the lock.
        """
        self.lock.require_owner(current_scheduler_or_none(), "notify on")
        serve_all(&self.line, 0)

    def _is_owned(self):
        return self.lock._is_owned()

    def _recursion_count(self):
        return self.lock._recursion_count()

    def _release_save(self):
        return self.lock._release_save()

    def _acquire_restore(self, Py_ssize_t depth):
        self.lock._acquire_restore(depth)

    def _at_fork_reinit(self):
        self.lock._at_fork_reinit()

    def __repr__(self):
        return described(self, repr(self.lock), &self.line)


# --- barriers --------------------------------------------------------------------------------------------------------

cdef enum:                    # Place.outcome of those who stand in a barrier's line
    PASSED
    BROKEN
    UNDECIDED
    MISSED                    # by one that does not wait any longer


cdef class Barrier:
    """Where a number of fibers or OS threads wait for each other; then all go on, and it serves again. As threading.Barrier.

    A wait that times out or is cancelled before all have come breaks the barrier: every wait raises BrokenBarrierError until
    `reset`. Once the last one has come, all have met, and whoever is cancelled then leaves alone.

    Args:
        parties: how many have to come, >= 1.
        action: called without arguments by the last to come, before any goes on; the barrier breaks if it raises.
        timeout: of every wait that gives none, in seconds; None: for ever.
    Raises:
        ValueError: *parties* < 1.
    """

    def __init__(self, Py_ssize_t parties, action=None, timeout=None):
        if parties < 1:
            raise ValueError(f"parties must be > 0, not {parties}")
        if action is not None and not callable(action):
            raise TypeError(f"a barrier's action is something to call, not {action!r}")
        self.seconds = seconds_of(timeout)
        self.parties = parties
        self.action = action

    def wait(self, timeout=None):
        """Park until all have come; an OS thread without fibers is blocked.

        Args:
            timeout: seconds; None: the barrier's own.
        Returns:
            The place in the order in which they came, 0 to *parties* - 1, different for each.
        Raises:
            threading.BrokenBarrierError: it is broken, breaks or is reset meanwhile, or *timeout* passed, which breaks it.
            Cancelled: the calling fiber was cancelled, which breaks it.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef double seconds = self.seconds if timeout is None else seconds_of(timeout)
        cdef int64_t deadline_ns
        cdef Py_ssize_t index
        cdef int outcome = UNDECIDED
        if scheduler is not None:
            scheduler.check()
        deadline_ns = NEVER if seconds == INFINITY else deadline_after(scheduler, seconds)
        while outcome == UNDECIDED:
            if self.acting and not self.is_broken:
                self.wait_outside(scheduler, deadline_ns)
            if self.is_broken:
                if scheduler is not None:
                    scheduler.spend()  # a loop that tries again has to let the others run
                raise threading.BrokenBarrierError(f"the barrier is broken: {self!r}")
            index = line_length(&self.line)
            if index + 1 >= self.parties:
                self.arrive_last()
                if scheduler is not None:
                    scheduler.spend()
                return index
            outcome = self.wait_inside(scheduler, deadline_ns)
        if outcome == MISSED:
            raise threading.BrokenBarrierError(f"not all {self.parties} came within {seconds} seconds: the barrier is broken")
        if outcome == BROKEN:
            raise threading.BrokenBarrierError("the barrier broke, or was reset, while this one waited")
        return index

    cdef int wait_outside(self, Scheduler scheduler, int64_t deadline_ns) except -1:
        cdef unsigned int process = forks
        cdef Place place
        cdef Outcome outcome
        check_may_wait(scheduler, "barrier wait")
        while self.acting and not self.is_broken:
            try:
                outcome = stand_in_line(&self.outside, &place, scheduler, "barrier wait", self, deadline_ns)
            except BaseException:
                self.break_outside()
                raise
            if process != forks:
                self.acting = False  # whoever runs the action has stayed in the parent
            elif outcome == TOO_LATE and self.acting:
                self.break_outside()
        return 0

    cdef int wait_inside(self, Scheduler scheduler, int64_t deadline_ns) except -1:
        cdef unsigned int process = forks
        cdef Waiter waiter
        cdef Place place
        cdef Outcome outcome
        check_may_wait(scheduler, "barrier wait")
        waiter_init(&waiter, scheduler)
        place.waiter = &waiter
        place.item = NULL
        place.outcome = UNDECIDED
        line_append(&self.line, &place)
        try:
            while place.outcome == UNDECIDED:
                outcome = keep_waiting(&waiter, scheduler, "barrier wait", self, deadline_ns)
                if place.outcome != UNDECIDED:
                    break
                if process != forks:
                    self.acting = False  # whoever runs the action has stayed in the parent, as have all who had come
                    break
                if outcome == TOO_LATE:
                    if not self.acting:
                        place.outcome = MISSED
                    deadline_ns = NEVER      # all have come in time
        except BaseException:
            if place.outcome == UNDECIDED and not self.acting:
                place.outcome = MISSED
            raise
        finally:
            if not is_out(&place, process):
                line_remove(&place)
            waiter_drop(&waiter)
            if place.outcome == MISSED:
                self.break_up()
        return place.outcome

    cdef int arrive_last(self) except -1:
        if self.action is not None:
            self.acting = True
            self.spoiled = False
            try:
                self.action()
            except BaseException:
                self.acting = False
                self.break_up()
                raise
            self.acting = False
            serve_all(&self.outside, 0)
            if self.spoiled:
                raise threading.BrokenBarrierError("the barrier was aborted or reset during its action")
        self.settle(PASSED)
        return 0

    cdef void settle(self, int outcome) noexcept:
        # Also for those who have been interrupted, or are too late, and have not run yet to leave the line.
        cdef Place *place = self.line.first if line_length(&self.line) else NULL
        while place is not NULL:
            place.outcome = outcome
            place = place.next
        serve_all(&self.line, outcome)

    cdef void break_up(self) noexcept:
        self.spoiled = True
        self.settle(BROKEN)
        self.break_outside()

    cdef void break_outside(self) noexcept:
        # But for those who have met already and wait for the action.
        self.is_broken = True
        serve_all(&self.outside, 0)

    def abort(self):
        """Break the barrier: every wait, now and later, raises BrokenBarrierError until `reset`."""
        self.break_up()

    def reset(self):
        """Make the barrier as new. Those who wait get BrokenBarrierError."""
        self.break_up()
        self.is_broken = False

    @property
    def n_waiting(self):
        """How many have come and wait for the others."""
        return line_length(&self.line) + self.acting

    @property
    def broken(self):
        """Whether it is broken."""
        return self.is_broken

    def __repr__(self):
        if self.is_broken:
            return described(self, "broken", &self.line)
        return described(self, f"waiters={self.n_waiting}/{self.parties}", &self.outside)
