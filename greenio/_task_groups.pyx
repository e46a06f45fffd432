# _task_groups.pyx: see _task_groups.pxd. The rules are asyncio.TaskGroup's; start() is trio's.
#
# Children are cancelled through the tree of scopes, without the group's help. So the fiber that waits at the end is not woken for
# that: it sleeps, uninterrupted, until the last child has ended, and looks then whether it was cancelled itself.
#
# Not taken: one ExceptionGroup also for what start() raises (its caller waits for one fiber and can name it), and a bound that
# parks spawn (a child that spawns into its own group would wait for itself).
from collections import deque
from functools import partial

from libc.stdint cimport int64_t

from greenio._scheduler cimport (
    caller_of, CANCELLED, DONE, NEVER, PARKED, WOKEN, Fiber, Limit, Scheduler, current_scheduler_or_none, current_scheduler_or_raise,
    unpark)
from greenio._scopes cimport CancelScope, refresh, refresh_inside
from greenio._waiting cimport (
    TOO_LATE, Line, Place, deadline_after, line_length, serve, serve_all, stand_in_line)

from greenio._errors import Cancelled, DeadlockError

cdef extern from "Python.h":
    int PyGC_Disable()
    int PyGC_Enable()


cdef class HeldBack:
    # The function of a fiber whose turn has not come. It is called only if the fiber is cancelled before.
    cdef object function

    def __call__(self, *args):
        current_scheduler_or_raise().check()
        raise Cancelled("its turn in the task group had not come")


cdef class Nones:
    pass


cdef int log_deadlock(object name, object error) except -1:
    # It is among what the group raises, but under a shield that may never be.
    import logging
    logging.getLogger("greenio").error("%s waits for its task group, whose fibers are cancelled now: %s", name, error)
    return 0


cdef int log_beside(object base_error, object failure) except -1:
    # It is raised bare, so there is no group for the others.
    import logging
    logging.getLogger("greenio").error(
        "failed in a task group that %s ended", type(base_error).__name__, exc_info=failure)
    return 0


cdef bint ends_the_run(object error) noexcept:
    return isinstance(error, (SystemExit, KeyboardInterrupt))


cdef class GroupScope(CancelScope):
    """The cancel scope of a TaskGroup. It has more than a CancelScope only inside."""

    def __cinit__(self):
        self.members = set()
        self.failures = []

    def __init__(self):
        raise TypeError("this is made by greenio.TaskGroup()")

    # --- what the scheduler asks

    cdef bint born(self, Fiber fiber) except -1:
        cdef HeldBack instead
        if self.fiber is None:  # since check_open: the arguments may have run Python code
            raise RuntimeError("this task group has been left: all its fibers have ended, and no more can be spawned")
        self.members.add(fiber)
        refresh(fiber)
        if self.max_running == 0 or self.running < self.max_running:
            self.running += 1
            return True
        if self.held is None:
            self.held = deque()
            self.held_back = set()
        instead = HeldBack.__new__(HeldBack)
        instead.function = fiber.function
        fiber.function = instead
        self.held.append(fiber)
        self.held_back.add(fiber)
        return False

    cdef void ended(self, Fiber fiber) noexcept:
        # Its thread state is reset already: no Python code may run here, not by the garbage collector either (CPython 3.11).
        cdef bint collecting = PyGC_Disable()
        try:
            self.child_ended(fiber)
        except BaseException as error:
            fiber.scheduler.throw_into_main(error)
        if collecting:
            PyGC_Enable()

    cdef int child_ended(self, Fiber fiber) except -1:
        raised = fiber.raised
        self.members.discard(fiber)
        if self.held_back is not None and fiber in self.held_back:
            self.held_back.discard(fiber)
        else:
            self.running -= 1
        if raised is None:
            self.keep_result(fiber.returned)
        elif isinstance(raised, Cancelled):
            self.cut_short = True
        else:
            if self.fiber is not None:  # else it was left where nothing could wait, and nobody raises this: it is logged
                fiber.observed = True
            self.take_failure(raised, f"{fiber.name} raised {type(raised).__name__}")
        self.let_in()
        if not self.members:
            serve_all(&self.takers, 0)
        elif raised is None:
            serve(&self.takers)
        self.wake_waiter()
        return 0

    cdef int keep_result(self, object result) except -1:
        cdef Nones nones
        if self.finished is None:
            self.finished = deque()
        if result is not None:
            self.last_nones = None
            self.finished.append(result)
            return 0
        if self.last_nones is None or self.last_nones.count == 0:
            nones = Nones.__new__(Nones)
            self.finished.append(nones)
            self.last_nones = nones
        self.last_nones.count += 1
        return 0

    cdef int take_failure(self, object error, object reason) except -1:
        if ends_the_run(error):
            if self.base_error is None:
                self.base_error = error
        elif not isinstance(error, DeadlockError) or not any([isinstance(one, DeadlockError) for one in self.failures]):
            # That one comes again and again, if those that are left cannot be cancelled.
            self.failures.append(error)
        return self.set_cancelled(reason)

    cdef int let_in(self) except -1:
        cdef Fiber fiber
        while self.held and self.running < self.max_running:
            fiber = <Fiber>self.held.popleft()
            if fiber.run_state != PARKED:
                continue  # it was cancelled, and will not call its function
            self.held_back.discard(fiber)
            fiber.function = (<HeldBack>fiber.function).function
            self.running += 1
            unpark(fiber, WOKEN)
        return 0

    cdef void wake_waiter(self) noexcept:
        if self.waiter is not None and not self.members and self.starting == 0:
            unpark(self.waiter, WOKEN)

    cdef int forget_members(self) except -1:
        self.members = set()
        self.held = None
        self.held_back = None
        self.running = 0
        self.starting = 0
        self.wake_waiter()
        return 0

    # --- waiting for the end

    cdef bint wait_for_members(self, Scheduler scheduler, object reason, object waiting_on) except -1:
        cdef Fiber fiber = <Fiber>caller_of(scheduler)
        cdef bint waited = False
        cdef int deadlocks = 0  # the first one cancels; a second one after that would never be heard of
        self.waiter = fiber
        fiber.shield += 1
        try:
            while True:
                try:
                    scheduler.check()  # also takes what a child that ended the run has thrown at main: once will do
                    if not self.members and self.starting == 0:
                        return waited
                    waited = True
                    scheduler.park(reason, waiting_on, NEVER)
                except BaseException as error:
                    if isinstance(error, DeadlockError):
                        deadlocks += 1
                        if deadlocks == 2:
                            log_deadlock(fiber.name, error)
                    self.take_failure(error, f"{type(error).__name__} was raised in {fiber.name}, which waits for it")
        finally:
            fiber.shield -= 1
            self.waiter = None


cdef class TaskGroup:
    """Fibers that end before the block does: ``with TaskGroup() as group: group.spawn(fn, …)``.

    The end of the block waits until all of them have ended. The first that fails cancels the others and the block's body; then an
    ExceptionGroup of all that was raised leaves the ``with`` statement, what the body raised first. Fibers that end by
    cancellation are no failures. The rules are asyncio.TaskGroup's.

    Iterating over the group gives the results of its fibers in the order in which they end, until all that were spawned by then
    have ended: ``for result in group:``. What nobody takes is kept as long as the group, None without taking room.

    Args:
        max_running: how many of its fibers run at a time, >= 1; those beyond begin, first come first served, when others have
            ended. None: no bound.
    Raises:
        ValueError: *max_running* < 1.

        From the ``with`` statement:
        ExceptionGroup (BaseExceptionGroup): the body or a fiber of the group failed.
        SystemExit, KeyboardInterrupt: left the body or a fiber of the group, or came while it waited; not wrapped.
        Cancelled: a scope around it was cancelled; all its fibers have ended, and none failed.
    """

    def __cinit__(self, *args, **kwargs):
        self.scope = GroupScope.__new__(GroupScope)

    def __init__(self, *, max_running=None):
        cdef Py_ssize_t bound
        if max_running is not None:
            bound = max_running
            if bound < 1:
                raise ValueError(f"max_running must be >= 1 fibers or None, not {max_running!r}")
            self.scope.max_running = bound

    def __enter__(self):
        cdef Scheduler scheduler = current_scheduler_or_raise()
        if self.scope.entered:
            raise RuntimeError("this task group was entered before; each with statement wants its own")
        if scheduler.hosting:
            raise RuntimeError("a signal handler on top of the idle loop cannot wait for a task group; let it spawn a fiber")
        self.scope.enter()
        return self

    def __exit__(self, exception_type, exception, traceback):
        cdef GroupScope scope = self.scope
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef bint stray = False
        if scope.fiber is None:
            raise RuntimeError("this task group is not entered")
        if exception is not None:
            # A Cancelled that no scope in sight has sent is not this group's to swallow.
            stray = isinstance(exception, Cancelled) and not scope.cancelled and not scope.fiber.interrupts & CANCELLED
            scope.set_cancelled(f"the body of the task group raised {type(exception).__name__}")
        if scheduler is None or scheduler.hosting:
            scope.set_cancelled("the task group was left where nothing can wait")
            scope.take_out()
            misuse = RuntimeError(f"no fiber runs here that could wait for the fibers of {self!r}; they are cancelled")
            failures, scope.failures = scope.failures, []
            if not failures:
                raise misuse
            raise misuse from BaseExceptionGroup("unhandled errors in a TaskGroup", failures)
        if scheduler is not scope.fiber.scheduler or caller_of(scheduler) is not <void *>scope.fiber:
            scope.set_cancelled("the task group was left by another fiber")
        return self.conclude(
            scheduler, exception, scope.wait_for_members(scheduler, "the end of a task group", self), stray)

    cdef bint conclude(self, Scheduler scheduler, object exception, bint waited, bint stray) except -1:
        # All have ended. True: `exception` ends here.
        cdef GroupScope scope = self.scope
        failures, scope.failures = scope.failures, []
        base_error, scope.base_error = scope.base_error, None
        if base_error is None and ends_the_run(exception):
            base_error = exception
        if base_error is not None:
            if exception is not None and exception is not base_error and not isinstance(exception, Cancelled):
                failures.insert(0, exception)
            for failure in failures:
                log_beside(base_error, failure)
            try:
                scope.leave(None)
            except RuntimeError as misuse:
                raise base_error from misuse
            if base_error is exception:
                return False
            raise base_error
        if exception is not None and not isinstance(exception, Cancelled):
            if isinstance(exception, GeneratorExit) and not failures:
                scope.leave(None)  # close() of a generator that holds the group: it wants this very exception back
                return False
            failures.insert(0, exception)
        if failures:
            group = BaseExceptionGroup("unhandled errors in a TaskGroup", failures)
            try:
                if scope.leave(group):
                    return True
            except RuntimeError as misuse:
                raise misuse from group
            raise group from None
        if exception is not None and not stray:
            return scope.leave(exception)
        scope.leave(None)
        if exception is None and (waited or scope.cut_short):
            # Cancelled further out? Then nobody goes on as if all had been done.
            scheduler.check()
        return False

    cdef int check_open(self) except -1:
        cdef GroupScope scope = self.scope
        if not scope.entered:
            raise RuntimeError("this task group is not entered yet: fibers are spawned inside its with statement")
        if scope.fiber is None:
            raise RuntimeError("this task group has been left: all its fibers have ended, and no more can be spawned")
        if scope.fiber.run_state == DONE:
            raise RuntimeError(
                f"{scope.fiber.name}, which entered this task group, has ended or did not come along into this forked process: "
                "nobody would wait for more fibers, and none can be spawned into it")
        if scope.cancelled:
            raise RuntimeError(
                "this task group is shutting down" + ("" if scope.cancel_reason is None else f" ({scope.cancel_reason})")
                + ": no more fibers can be spawned into it")
        return 0

    def spawn(self, fn, *args, name=None, stack_size=None, bint pin=False):
        """Run fn(*args) as a new fiber of the group; as greenio.spawn otherwise. From any fiber and any OS thread.

        Never waits: a fiber beyond ``max_running`` begins later, or, if it is cancelled before, not at all.

        Returns:
            The Fiber. Its failure is the group's, whether somebody asks for its result or not.
        Raises:
            RuntimeError: the group is not entered, is shutting down (a failure, or cancel), or has been left; the fiber that
                entered it has ended, or did not come along into this forked process.
            TypeError, ValueError: *fn* is not callable, *stack_size* is out of bounds. Nothing was spawned.
        """
        cdef Fiber fiber
        self.check_open()
        fiber = self.scope.fiber.scheduler.make(fn, args, name, stack_size, self.scope)
        fiber.pinned = pin
        return fiber

    def start(self, fn, *args, name=None, stack_size=None, bint pin=False):
        """Run fn(*args, task_status=status) as a new fiber and wait until it calls status.started(value); returns that value.

        Until then it belongs to the caller: it is cancelled with it, and what it raises comes out of this call and is no failure of
        the group. Afterwards it is the group's, like a spawned one. It does not queue for ``max_running``. Parks.

        Raises:
            RuntimeError: the fiber ended without calling started(); the group is not open (see spawn); the caller is no fiber
                of the group's run.
            BaseException: what fn raised before it called started().
            Cancelled: the caller was cancelled; so was the fiber, which has ended.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef GroupScope group = self.scope
        cdef GroupScope waiting
        cdef TaskStatus status
        cdef Fiber fiber
        scheduler.check()
        self.check_open()
        if group.fiber.scheduler is not scheduler:
            raise RuntimeError("start wants a fiber of the run that the task group is in; from elsewhere there is spawn")
        if not callable(fn):
            raise TypeError(f"start wants a callable and its arguments, not {fn!r}")
        waiting = GroupScope.__new__(GroupScope)
        status = TaskStatus.__new__(TaskStatus)
        status.group = group
        status.waiting = waiting
        waiting.enter()
        group.starting += 1
        try:
            fiber = scheduler.make(partial(fn, task_status=status), args, name, stack_size, waiting)
            fiber.pinned = pin
            status.fiber = fiber
            waiting.wait_for_members(scheduler, "the start of a fiber", fiber)
        finally:
            status.fiber = None  # the fiber's frames, which its exception may hold, refer to `status`
            if group.starting:  # else a signal handler forked meanwhile, and the group has forgotten it
                group.starting -= 1
            group.wake_waiter()
            waiting.leave(None)
        base_error, waiting.base_error = waiting.base_error, None
        failures, waiting.failures = waiting.failures, []
        if base_error is None and failures:
            base_error = failures.pop(0)
        if base_error is not None:
            for failure in failures:
                log_beside(base_error, failure)
            raise base_error
        if fiber.born_in is group:
            return status.value
        scheduler.check()
        raise RuntimeError(f"{fiber.name} ended without calling task_status.started()")

    def cancel(self, reason=None):
        """Cancel its fibers and the body: ``group.cancel_scope.cancel``. The block ends without an exception, unless one fails."""
        self.scope.set_cancelled(reason)

    @property
    def cancel_scope(self):
        """Its CancelScope: to shield it, to set a deadline, to see whether it was cancelled."""
        return self.scope

    def fibers(self):
        """A list of its fibers that have not ended, in order of creation."""
        return sorted(self.scope.members, key=fiber_id)

    def results(self):
        """An iterator over the results of its fibers as they end, until all that were spawned by then have; same as iter(group).

        Several may take from one group: each result goes to one of them. Waiting for the next parks the calling fiber, or blocks an
        OS thread without fibers.
        """
        cdef Results results = Results.__new__(Results)
        results.group = self
        return results

    def __iter__(self):
        return self.results()

    def __repr__(self):
        cdef GroupScope scope = self.scope
        state = "left" if scope.entered and scope.fiber is None else "entered" if scope.entered else "not entered"
        if scope.cancelled and scope.fiber is not None:
            state = "shutting down"
        text = f"<greenio.TaskGroup {state}, {len(scope.members)} fibers"
        if scope.held_back:
            text += f", {len(scope.held_back)} of them held back"
        return text + ">"


def fiber_id(Fiber fiber not None):
    """Its id: a sort key."""
    return fiber.id


cdef class Results:
    """What TaskGroup.results returns."""

    cdef TaskGroup group

    def __init__(self):
        raise TypeError("this is made by TaskGroup.results()")

    def __iter__(self):
        return self

    def __next__(self):
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef GroupScope scope = self.group.scope
        cdef Place place
        if scheduler is not None:
            scheduler.check()
        while not scope.finished:
            if not scope.members:
                raise StopIteration
            if scheduler is not None and <Fiber>caller_of(scheduler) in scope.members:
                raise RuntimeError("a fiber of a task group that waits for the group's results waits for its own end")
            place.item = NULL
            stand_in_line(&scope.takers, &place, scheduler, "a result of a task group", self.group, NEVER)
        result = scope.finished[0]
        if type(result) is Nones:
            (<Nones>result).count -= 1
            if (<Nones>result).count == 0:
                scope.finished.popleft()
            result = None
        else:
            scope.finished.popleft()
        if scheduler is not None:
            scheduler.spend()
        return result


cdef class TaskStatus:
    """What a function called by TaskGroup.start gets as ``task_status``."""

    def __init__(self):
        raise TypeError("this is made by TaskGroup.start(fn)")

    def started(self, value=None):
        """Ready: start() returns *value*, and this fiber belongs to the task group from now on.

        If the caller of start() was cancelled meanwhile, the fiber is cancelled with it and stays where it is.

        Raises:
            RuntimeError: called before, or the fiber has ended; or this is a forked process, and the caller of start() did not
                come along.
        """
        cdef Fiber fiber = self.fiber
        cdef GroupScope waiting = self.waiting
        cdef Fiber starter = waiting.fiber
        cdef CancelScope scope
        if self.called:
            raise RuntimeError("task_status.started() was called before")
        if fiber is None or fiber.run_state == DONE or fiber not in waiting.members:
            raise RuntimeError("task_status.started() of a fiber that has ended")
        if fiber.born_in is not waiting:
            raise RuntimeError("task_status.started() in a forked process: the caller of start() did not come along")
        self.called = True
        if starter.limit_ns != NEVER and starter.limit_ns <= starter.scheduler.seen_ns:
            waiting.expire(starter)  # it has no timer while it waits for us
        if starter.interrupts & CANCELLED:
            return
        self.value = value
        self.group.members.add(fiber)
        self.group.running += 1
        fiber.born_in = self.group
        scope = <CancelScope>fiber.limit
        if scope is waiting:
            fiber.limit = self.group
        else:
            while scope is not None and scope.parent is not waiting:
                scope = scope.parent
            if scope is not None:
                scope.parent = self.group
        waiting.members.discard(fiber)
        waiting.running -= 1
        waiting.wake_waiter()
        refresh_inside(fiber, None)

    def __repr__(self):
        return f"<greenio task status, {'started' if self.called else 'not started'}>"


# --- for _groups.py --------------------------------------------------------------------------------------------------


cdef class Bell:
    """Stays rung until silenced; any fiber and any OS thread may ring it and wait for it."""

    def ring(self):
        """Wake whoever waits."""
        self.rung = True
        serve_all(&self.line, 0)

    def silence(self):
        """Whoever waits next does wait."""
        self.rung = False

    def wait(self, reason, waiting_on, int64_t deadline_ns):
        """Wait until it is rung; False: *deadline_ns*, from moment_after, came first."""
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef Place place
        if scheduler is not None:
            scheduler.check()
        while not self.rung:
            place.item = NULL
            if stand_in_line(&self.line, &place, scheduler, reason, waiting_on, deadline_ns) == TOO_LATE:
                return self.rung
        if scheduler is not None:
            scheduler.spend()
        return True


def moment_after(timeout):
    """*timeout* seconds from now as a deadline of the calling fiber, or of this OS thread; None: never. ValueError: negative."""
    return deadline_after(current_scheduler_or_none(), timeout)


def has_failed(Fiber fiber not None):
    """Whether it has ended by an exception other than Cancelled. Does not count as asking for its result."""
    return fiber.outcome and fiber.raised is not None and not isinstance(fiber.raised, Cancelled)
