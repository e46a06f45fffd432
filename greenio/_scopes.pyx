# _scopes.pyx: cancel scopes and timeouts; the contract is in _scopes.pxd. The rules are trio's: a cancelled scope raises
# Cancelled at every checkpoint inside it until it is left; what is outside sees nothing of it; a shield holds off what comes
# from further out.
#
# Not taken: a deadline of its own in the scheduler's heap for each scope. Most operations do not wait, and most scopes with a
# deadline are left long before it: here the fiber's timer is armed when it parks, with the nearest of all that count.
from libc.math cimport INFINITY, ceil
from libc.stdint cimport int64_t, uint64_t

from greenio._scheduler cimport (
    caller_of, CANCELLED, INTERRUPTED, NEVER, DONE, Fiber, Limit, Scheduler, current_scheduler_or_none, current_scheduler_or_raise, unpark)

from greenio._errors import Cancelled


cdef struct Verdict:         # what a chain of scopes says to its fiber
    bint cancelled
    int64_t limit_ns         # or NEVER
    void *by                 # borrowed: the outermost cancelled thing in sight, a CancelScope or
    bint by_fiber            # a Fiber


cdef Verdict verdict_on(Fiber fiber) noexcept:
    cdef Verdict verdict
    cdef CancelScope scope = <CancelScope>fiber.limit
    cdef Fiber owner = fiber
    verdict.cancelled = False
    verdict.limit_ns = NEVER
    verdict.by = NULL
    verdict.by_fiber = False
    while True:
        if scope is None or scope.fiber is not owner:
            if owner is not None and owner.cancel_called:
                verdict.cancelled = True
                verdict.by = <void *>owner
                verdict.by_fiber = True
            if scope is None:
                return verdict
            owner = scope.fiber        # None: a group that was left, by the wrong fiber, before its own had ended
        if scope.cancelled:
            verdict.cancelled = True
            verdict.by = <void *>scope
            verdict.by_fiber = False
        elif <uint64_t>scope.deadline_ns < <uint64_t>verdict.limit_ns:
            verdict.limit_ns = scope.deadline_ns
        if scope.shielded:
            return verdict
        scope = scope.parent


cdef int refresh(Fiber fiber) except -1:
    cdef Verdict verdict
    if fiber.run_state == DONE:
        return 0
    verdict = verdict_on(fiber)
    if verdict.cancelled:
        fiber.interrupts |= CANCELLED
    else:
        fiber.interrupts &= ~CANCELLED
    if verdict.limit_ns != fiber.limit_ns:
        fiber.limit_ns = verdict.limit_ns
        fiber.scheduler.rearm(fiber)
    if verdict.cancelled and not fiber.shield:
        unpark(fiber, INTERRUPTED)
    return 0


cdef int refresh_inside(Fiber fiber, CancelScope outermost) except -1:
    cdef CancelScope scope
    cdef Fiber each
    cdef list work = [fiber]
    while work:
        each = work.pop()
        refresh(each)
        scope = <CancelScope>each.limit
        while scope is not None and scope.fiber is each:
            if scope.members:
                work.extend(scope.members)
            if scope is outermost:
                break
            scope = scope.parent
    return 0


cdef double checked_seconds(object seconds, str what) except? -1:
    cdef double value
    if seconds is None:
        return INFINITY
    value = seconds
    if not value >= 0:
        raise ValueError(f"{what} is >= 0 seconds or None, not {seconds!r}")
    return value


cdef double checked_moment(object deadline) except? -1:
    cdef double value
    if deadline is None:
        return INFINITY
    value = deadline
    if value != value:
        raise ValueError("a deadline is a moment in seconds, not nan")
    return value


cdef class CancelScope(Limit):
    """A block that can be cancelled as one: ``with CancelScope() as scope:``, and scope.cancel() from anywhere.

    Once it is cancelled, or its deadline has come, every checkpoint inside the block raises Cancelled, before anything is
    done, also in fibers that task groups inside it have spawned; the ``with`` statement catches that Cancelled, and the program
    goes on below it. If a scope further out is cancelled too, and no shield is between, Cancelled goes on to that one.
    These are trio's rules.

    Args:
        deadline: on current_time()'s clock, in seconds; math.inf or None: none.
        shield: cancellations and deadlines from further out wait until the block is left. Its own do not.
    Raises:
        ValueError: *deadline* is not a number.

    Attributes:
        cancelled_caught: a Cancelled ended in this scope: the block was cut short.
    """

    def __cinit__(self):
        self.seconds = INFINITY
        self.deadline_ns = NEVER

    def __init__(self, *, deadline=INFINITY, bint shield=False):
        self.seconds = checked_moment(deadline)
        self.shielded = shield

    def __enter__(self):
        self.enter()
        return self

    def __exit__(self, exception_type, exception, traceback):
        return self.leave(exception)

    cdef int place_deadline(self, Scheduler scheduler) except -1:
        # `seconds` on the scheduler's clock. Rounded up: current_time() must not be below the deadline when it has come.
        cdef int64_t now_ns
        cdef double at_ns
        if self.seconds == INFINITY:
            self.deadline_ns = NEVER
            return 0
        now_ns = scheduler.now()
        at_ns = ceil(self.seconds * 1e9)
        if self.relative:
            at_ns += now_ns
        self.deadline_ns = NEVER if at_ns >= 9e18 else <int64_t>at_ns if at_ns > 0 else 0
        if self.deadline_ns != NEVER and self.deadline_ns <= now_ns and not self.cancelled:
            self.cancelled = True
            self.past_deadline = True
        return 0

    cdef int enter(self) except -1:
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Fiber fiber = <Fiber>caller_of(scheduler)
        if self.entered:
            raise RuntimeError("this cancel scope was entered before; each with statement wants its own")
        self.place_deadline(scheduler)
        self.entered = True
        self.fiber = fiber
        self.parent = <CancelScope>fiber.limit
        fiber.limit = self
        if self.cancelled or self.shielded:
            refresh(fiber)
        elif <uint64_t>self.deadline_ns < <uint64_t>fiber.limit_ns:
            fiber.limit_ns = self.deadline_ns
        return 0

    cdef bint leave(self, object exception) except -1:
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef Fiber fiber = self.fiber
        cdef CancelScope parent = self.parent
        if fiber is None:
            raise RuntimeError("this cancel scope is not entered")
        if scheduler is None or <Fiber>caller_of(scheduler) is not fiber or fiber.limit is not self:
            self.take_out()
            raise RuntimeError(
                "cancel scopes are left by the fiber that entered them, the innermost first; this one was not (was it held open "
                "by a generator, or an ExitStack of another fiber?). It is closed now")
        self.fiber = None
        self.parent = None
        fiber.limit = parent
        if self.cancelled or self.shielded or fiber.limit_ns != NEVER or fiber.interrupts:
            refresh(fiber)
        if exception is None or not self.cancelled:
            return False
        if not self.shielded:
            # A deadline further out may have come while a shield inside held it off, with no checkpoint since.
            if fiber.limit_ns != NEVER and fiber.limit_ns <= scheduler.seen_ns:
                parent.expire(fiber)
            if fiber.interrupts & CANCELLED:
                return False
        if not self.absorb(exception):
            return False
        fiber.cancel_count = 0  # it was not swallowed
        return True

    cdef int take_out(self) except -1:
        # Out of the middle of its fiber's chain.
        cdef Fiber fiber = self.fiber
        cdef CancelScope scope = <CancelScope>fiber.limit
        if scope is self:
            fiber.limit = self.parent
        else:
            while scope is not None and scope.parent is not self:
                scope = scope.parent
            if scope is not None:
                scope.parent = self.parent
        self.fiber = None
        self.parent = None
        return refresh(fiber)

    cdef bint absorb(self, object exception) except -1:
        if isinstance(exception, Cancelled):
            self.cancelled_caught = True
            return True
        if not isinstance(exception, BaseExceptionGroup):
            return False
        matched, rest = exception.split(Cancelled)
        if matched is None:
            return False
        self.cancelled_caught = True
        if rest is None:
            return True
        context = rest.__context__
        try:
            raise rest
        finally:
            rest.__context__ = context

    cdef int set_cancelled(self, object reason) except -1:
        if self.cancelled:
            return 0
        self.cancel_reason = reason
        self.cancelled = True
        return self.changed()

    cdef int changed(self) except -1:
        if self.fiber is not None:
            refresh_inside(self.fiber, self)
        return 0

    # --- what the scheduler asks

    cdef void expire(self, Fiber fiber) noexcept:
        # `self` is the fiber's innermost scope; any in sight may be the one whose deadline has come.
        cdef Scheduler scheduler = fiber.scheduler
        cdef CancelScope scope = self
        cdef int64_t now_ns
        try:
            now_ns = max(scheduler.seen_ns, fiber.limit_ns)
            while scope is not None:
                if not scope.cancelled and scope.deadline_ns != NEVER and scope.deadline_ns <= now_ns:
                    scope.cancelled = True
                    scope.past_deadline = True
                    scope.changed()
                if scope.shielded:
                    break
                scope = scope.parent
            refresh(fiber)
        except BaseException as error:
            scheduler.throw_into_main(error)

    cdef int spread(self, Fiber fiber) except -1:
        return refresh_inside(fiber, None)

    cdef object reason(self, Fiber fiber):
        cdef Verdict verdict = verdict_on(fiber)
        cdef CancelScope scope
        if verdict.by is NULL:
            return None
        if verdict.by_fiber:
            return (<Fiber>verdict.by).cancel_reason
        scope = <CancelScope>verdict.by
        if not scope.past_deadline:
            return scope.cancel_reason
        return f"{scope.seconds:g} seconds have passed" if scope.relative else f"the deadline {scope.seconds:g} has passed"

    cdef void after_fork(self, Fiber fiber, bint lives) noexcept:
        # In the child a fiber's chain ends with its own scopes: whose the others were is gone, and so is what was born in these.
        cdef CancelScope scope = <CancelScope>fiber.limit
        cdef CancelScope last = None
        if not lives:
            return
        try:
            while scope is not None and scope.fiber is fiber:
                scope.forget_members()
                last = scope
                scope = scope.parent
            if last is None:
                fiber.limit = None
            else:
                last.parent = None
            refresh(fiber)
        except BaseException as error:
            fiber.scheduler.throw_into_main(error)

    cdef int forget_members(self) except -1:
        return 0

    # --- calls from Python

    def cancel(self, reason=None):
        """Interrupt what is in the block, from now until it is left; from any fiber and any OS thread. Before the entry: from there.

        Args:
            reason: anything; becomes Cancelled.reason. The first one counts.
        """
        self.set_cancelled(reason)

    @property
    def cancel_called(self):
        """Whether it was cancelled, or its deadline has come."""
        cdef Fiber fiber = self.fiber
        if not self.cancelled and fiber is not None and self.deadline_ns != NEVER and self.deadline_ns <= fiber.scheduler.now():
            self.cancelled = True
            self.past_deadline = True
            self.changed()
        return self.cancelled

    @property
    def shield(self):
        """Whether cancellations and deadlines from further out wait until the block is left. May be set at any time."""
        return self.shielded

    @shield.setter
    def shield(self, bint shield):
        self.shielded = shield
        self.changed()

    @property
    def deadline(self):
        """When it is cancelled, on current_time()'s clock in seconds; math.inf: never. May be set at any time.

        Raises:
            RuntimeError: it counts from the entry, and was not entered yet.
            ValueError: the new deadline is not a number.
        """
        if self.relative and self.seconds != INFINITY:
            if not self.entered:
                raise RuntimeError(f"the deadline is {self.seconds:g} seconds after the entry, which has not been yet")
            return INFINITY if self.deadline_ns == NEVER else self.deadline_ns / 1e9
        return self.seconds

    @deadline.setter
    def deadline(self, deadline):
        cdef double moment = checked_moment(deadline)
        self.relative = False
        self.seconds = moment
        if self.fiber is not None:
            self.place_deadline(self.fiber.scheduler)
            self.changed()

    def __repr__(self):
        state = "left" if self.entered and self.fiber is None else "entered" if self.entered else "not entered"
        if self.cancelled:
            state += ", past its deadline" if self.past_deadline else ", cancelled"
        return f"<greenio.{type(self).__name__} {state}>"


cdef class Timeout(CancelScope):
    """What `timeout` and `timeout_at` return: a CancelScope whose end by its deadline is a TimeoutError."""

    def __init__(self):
        raise TypeError("a Timeout is made by greenio.timeout(seconds) or greenio.timeout_at(deadline)")

    def __exit__(self, exception_type, exception, traceback):
        if not self.leave(exception):
            return False
        if self.past_deadline:
            if self.relative:
                raise TimeoutError(f"not done within {self.seconds:g} seconds") from exception
            raise TimeoutError(f"not done by the deadline {self.seconds:g}") from exception
        return True

    def expired(self):
        """Whether the deadline has come (asyncio.Timeout's name)."""
        return self.cancel_called and self.past_deadline

    def when(self):
        """The deadline, or None (asyncio.Timeout's name)."""
        deadline = self.deadline
        return None if deadline == INFINITY else deadline

    def reschedule(self, when):
        """Set the deadline to *when*, on current_time()'s clock; None: none (asyncio.Timeout's name).

        Raises:
            RuntimeError: it has come, or the block is not entered.
        """
        if self.fiber is None or self.cancel_called:
            raise RuntimeError(f"cannot change the deadline of {self!r}")
        self.deadline = when


cdef Timeout timeout_of(double seconds, bint relative):
    cdef Timeout scope = Timeout.__new__(Timeout)
    scope.seconds = seconds
    scope.relative = relative
    return scope


def timeout(seconds):
    """A block that has *seconds* from its entry: ``with timeout(5):``. If it is not done then, TimeoutError.

    What is under way at that moment gets Cancelled and has not happened; the ``with`` statement makes a TimeoutError of it. A
    block that comes to its end without another checkpoint, or that swallows Cancelled, raises nothing.

    Args:
        seconds: >= 0, or None for no limit; 0 interrupts the first checkpoint.
    Returns:
        A CancelScope, with asyncio.Timeout's methods beside its own.
    Raises:
        ValueError: *seconds* is negative or not a number.
        TimeoutError: from the ``with`` statement.
    """
    return timeout_of(checked_seconds(seconds, "a timeout"), True)


def timeout_at(deadline):
    """As `timeout`, until a moment on current_time()'s clock, in seconds; None: no limit."""
    return timeout_of(checked_moment(deadline), False)


def move_on_after(seconds, *, bint shield=False):
    """A CancelScope whose block ends, without an exception, *seconds* after its entry. None: it does not.

    ``cancelled_caught`` tells whether it was cut short.

    Raises:
        ValueError: *seconds* is negative or not a number.
    """
    cdef CancelScope scope = CancelScope.__new__(CancelScope)
    scope.seconds = checked_seconds(seconds, "a time to move on after")
    scope.relative = True
    scope.shielded = shield
    return scope


def move_on_at(deadline, *, bint shield=False):
    """As `move_on_after`, at a moment on current_time()'s clock, in seconds."""
    return CancelScope(deadline=deadline, shield=shield)


def shield():
    """A block that cancellations and deadlines from further out cannot interrupt: ``with shield():``.

    They come at the first checkpoint below it. Keep it short, or give it a deadline: ``move_on_after(5, shield=True)``.
    """
    cdef CancelScope scope = CancelScope.__new__(CancelScope)
    scope.shielded = True
    return scope


def current_deadline():
    """The nearest deadline that can interrupt the current fiber, on current_time()'s clock; math.inf: none; -math.inf: cancelled.

    Raises:
        RuntimeError: no fibers run on this OS thread.
    """
    cdef Fiber fiber = <Fiber>current_scheduler_or_raise().current
    if fiber.interrupts & CANCELLED:
        return -INFINITY
    return INFINITY if fiber.limit_ns == NEVER else fiber.limit_ns / 1e9
