# _threads.pyx: see _threads.pxd.
#
# The pool is trio's thread cache: a stack of idle threads, each asleep on a lock of its own, so that the warmest one gets the next
# call and the rest time out. Threads are daemons: a program ends although a call that nobody waits for still blocks.
#
# from_thread.run does not start a fiber: the one that waits in to_thread calls the function. So it runs in the caller's cancel
# scopes and under its locks, and is cancelled with it, as if there were no thread between.
#
# Not taken: concurrent.futures.ThreadPoolExecutor (its queue is one lock for all, its threads never go, and it is joined at exit).
import os
import time

from libc.stdint cimport int64_t

from greenio._scheduler cimport (
    caller_of, CANCELLED, NEVER, TIMED_OUT, WOKEN, Fiber, Scheduler, current_scheduler_or_none, deadline_of, unpark)
from greenio._waiting cimport (
    SERVED, Line, Place, PyThread_type_lock, forks, line_length, serve, serve_all, stand_in_line)

from greenio._errors import Cancelled, RunFinishedError
from greenio._os_threads import OwnThread
from greenio._scheduler import _end_process, threads_that_wait_for_work

cdef extern from "pythread.h" nogil:
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int interruptible)
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
    void PyThread_release_lock(PyThread_type_lock lock)
    unsigned long PyThread_get_thread_ident()

cdef extern from "Python.h":
    object PyContext_CopyCurrent()

cdef enum:
    DEFAULT_TOTAL = 40            # places of the default limiter: trio's and anyio's figure. Most calls wait for a disk
    FORK_PATIENCE = 200           # looks at whether a retired thread has gone
    LONGEST_IDLE = 10             # seconds

cdef double idle_seconds = 5
cdef list idle = threads_that_wait_for_work()   # workers, the longest idle first
cdef Py_ssize_t threads = 0       # workers that have been started and have not retired
cdef Py_ssize_t queued = 0        # calls that wait for a place of their limiter
cdef unsigned long long started = 0
cdef unsigned long long retired = 0
cdef dict calls = {}              # the Call that runs, by the OS thread's ident


cdef object name_of(object fn):
    # For threads' names and dumps: functools.partial has no name of its own.
    try:
        fn = getattr(fn, "func", fn)
        return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)
    except Exception:
        return type(fn).__name__


# --- how many calls at once ------------------------------------------------------------------------------------------


cdef class ThreadLimiter:
    """How many calls may be in OS threads at once. One may be shared by any calls, of any OS threads' runs; first come, first served.

    A call has its place until its function has ended, also if nobody waits for that any more: what blocks for ever keeps it.

    Args:
        total: places, >= 1.
    Raises:
        ValueError: *total* < 1.

    Attributes:
        total: places. May be set at any time: more let those that wait in at once; fewer take nobody's place away.
        borrowed: places that are taken; for a while more than *total*, if that was lowered.
        waiting: fibers that wait for a place.
    """

    def __init__(self, total):
        self.bound = checked_total(total)
        self.process = forks

    @property
    def total(self):
        return self.bound

    @total.setter
    def total(self, total):
        self.bound = checked_total(total)
        self.renew()
        while self.taken < self.bound and serve(&self.line) is not NULL:
            self.taken += 1

    @property
    def borrowed(self):
        self.renew()
        return self.taken

    @property
    def waiting(self):
        return line_length(&self.line)

    cdef void renew(self) noexcept:
        # In a forked child: the calls are the parent's.
        if self.process != forks:
            self.process = forks
            self.taken = 0

    cdef int take(self, Scheduler scheduler) except -1:
        global queued
        cdef Place place
        cdef unsigned int process = forks
        scheduler.check()
        self.renew()
        while self.taken >= self.bound:
            queued += 1
            try:
                # To its end: the place in line is passed on as it is, so who comes meanwhile does not overtake.
                if stand_in_line(&self.line, &place, scheduler, "a place for a call in an OS thread", self, NEVER) == SERVED:
                    return 0
            finally:
                if process == forks:
                    queued -= 1
            process = forks
            self.renew()
        self.taken += 1
        return 0

    cdef int give_back(self) except -1:
        self.renew()
        if self.taken > self.bound or serve(&self.line) is NULL:
            self.taken -= 1
        return 0

    def __repr__(self):
        return f"<greenio.ThreadLimiter {self.borrowed} of {self.bound} places taken, {line_length(&self.line)} wait>"


cdef Py_ssize_t checked_total(object total) except -1:
    cdef Py_ssize_t value = total
    if value < 1:
        raise ValueError(f"a ThreadLimiter has >= 1 places, not {total!r}")
    return value


cdef ThreadLimiter default_limiter = ThreadLimiter(DEFAULT_TOTAL)


def current_default_limiter():
    """The ThreadLimiter of every to_thread that is given none, in the whole process: 40 places, unless its `total` was set."""
    return default_limiter


# --- the pool --------------------------------------------------------------------------------------------------------


cdef class Job:
    @property
    def owner(self):
        """The ident of the OS thread that does it, for the wait graph; None before and after."""
        return self.ident if self.ident else None

    cdef int work(self) except -1:
        raise NotImplementedError

    cdef int deliver(self) except -1:
        raise NotImplementedError

    cdef object title(self):
        raise NotImplementedError


cdef class Worker:
    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError("no lock for an OS thread to wait on")
        PyThread_acquire_lock(self.lock, 0)

    def __dealloc__(self):
        if self.lock is not NULL:
            PyThread_release_lock(self.lock)
            PyThread_free_lock(self.lock)

    def run(self):
        global threads, started, retired
        cdef Job job = self.take_job()
        self.process = forks
        if job is not None and job.process != forks:
            job = None      # a signal's handler has forked before this began: the other process does it
        threads += 1
        started += 1
        while job is not None:
            self.do(job)
            job = None
            job = self.next_job()
        threads -= 1
        retired += 1

    cdef int rename(self, Job job) except -1:
        try:
            self.thread.name = "greenio: idle" if job is None else f"greenio: {job.title()}"
        except Exception:
            pass    # the repr of somebody's argument
        return 0

    cdef void do(self, Job job) noexcept:
        self.rename(job)
        job.ident = PyThread_get_thread_ident()
        job.work()
        job.ident = 0
        if self.process != forks:
            # It has forked, and this is the child: of the program there is nothing but this thread.
            end_forked_child(job)
        self.rename(None)
        # Idle before it is told: who called can have the same thread for its next call.
        idle.append(self)
        job.deliver()

    cdef Job take_job(self):
        cdef Job job = self.job
        self.job = None
        if job is not None:
            job.begun = True
        return job

    cdef Job next_job(self):
        # None: nothing has come for long enough, or it was told to go.
        cdef PyLockStatus status
        cdef long long microseconds = <long long>(idle_seconds * 1e6)
        with nogil:
            status = PyThread_acquire_lock_timed(self.lock, microseconds, 0)
        if status != PY_LOCK_ACQUIRED:
            if self in idle:
                idle.remove(self)
                return None
            PyThread_acquire_lock(self.lock, 1)   # released by whoever took it out of `idle`: this does not wait
        return self.take_job()


cdef int start_job(Job job, object what) except -1:
    cdef Worker worker
    if idle:
        worker = <Worker>idle.pop()
        worker.job = job
        PyThread_release_lock(worker.lock)
        return 0
    worker = Worker()
    worker.job = job
    worker.thread = OwnThread(target=worker.run, name="greenio: new", daemon=True)
    try:
        worker.thread.start()
    except BaseException as error:
        # Also a KeyboardInterrupt while start() waits for the thread to begin. One that begins later finds nothing to do.
        worker.job = None
        if not job.begun and isinstance(error, (RuntimeError, MemoryError)):
            raise RuntimeError(
                f"no OS thread could be started for {what}, which was not called: {error}; {threads} of greenio's own threads "
                "are alive (greenio.debug.thread_stats): the process or its container may have a lower bound than the limiter"
            ) from error
        raise
    return 0


cdef int end_forked_child(Job job) except -1:
    cdef Fiber fiber = Fiber.__new__(Fiber)
    fiber.observed = True
    if isinstance(job, Call):
        fiber.raised = (<Call>job).error
    try:
        _end_process(fiber)
    finally:
        os._exit(1)
    return 0


def configure_threads(*, idle_seconds):
    """Set how long a thread of to_thread's pool waits for its next call before it ends. Those that are idle now end.

    Threads start when a call finds none idle, so that there are at most as many as calls at once; how many those may be, a
    ThreadLimiter says.

    Args:
        idle_seconds: 0 to 10; 5 at first.
    Raises:
        ValueError: it is not; nothing was changed.
    """
    set_idle_seconds(idle_seconds)


cdef int set_idle_seconds(object seconds) except -1:
    global idle_seconds
    cdef double value = seconds
    if not 0 <= value <= LONGEST_IDLE:
        raise ValueError(f"idle_seconds must be 0 to {LONGEST_IDLE} seconds, not {seconds!r}")
    idle_seconds = value
    retire_idle()
    return 0


cdef list retire_idle():
    # Lets every idle worker end; returns their threads.
    cdef Worker worker
    going = []
    while idle:
        worker = <Worker>idle.pop()
        going.append(worker.thread)
        PyThread_release_lock(worker.lock)
    return going


def thread_stats():
    """The OS threads of to_thread and of name lookups, now.

    Returns:
        A dict: threads (alive), busy, idle; queued (calls that wait for a place of their limiter); started and retired (threads,
        since the program began).
    """
    return {
        "threads": threads, "busy": threads - len(idle), "idle": len(idle), "queued": queued, "started": started,
        "retired": retired,
    }


# --- there -----------------------------------------------------------------------------------------------------------


cdef class Call(Job):
    def __repr__(self):
        return f"{name_of(self.fn)}()"

    cdef object title(self):
        return name_of(self.fn)

    cdef int work(self) except -1:
        cdef unsigned long ident = self.ident
        calls[ident] = self
        try:
            self.value = self.context.run(self.fn, *self.arguments)
        except BaseException as error:
            self.error = error
        finally:
            if self.process == forks:
                calls.pop(ident, None)
            self.arguments = None
            self.context = None
        return 0

    cdef int deliver(self) except -1:
        self.done = True
        if self.limiter is not None:
            self.limiter.give_back()
        if self.abandoned:
            self.drop_outcome()
        elif self.fiber.waiting_on is self:
            unpark(self.fiber, WOKEN)
        return 0

    cdef int abandon(self) except -1:
        # The fiber leaves, by an exception; fn goes on, or has just ended.
        cdef Request request = self.request
        self.abandoned = True
        self.request = None
        if request is not None:
            request.error = Cancelled("the caller of to_thread has left")
            request.finish()
        if self.done:
            self.drop_outcome()
        return 0

    cdef int drop_outcome(self) except -1:
        error, self.error = self.error, None
        self.value = None
        if error is not None:
            import logging
            logging.getLogger("greenio").debug(
                "a call of %s in an OS thread failed after its caller had left", name_of(self.fn), exc_info=error)
        return 0

    cdef int wait(self, Scheduler scheduler, int64_t deadline_ns) except -1:
        cdef Fiber fiber = self.fiber
        cdef bint parked = False
        try:
            while not self.done:
                if self.process != forks:
                    raise RunFinishedError(
                        f"{self!r} runs in an OS thread of the process that this one was forked from; its result stays there")
                if self.request is not None:
                    self.serve_request()
                    continue
                parked = True
                if self.park(scheduler, deadline_ns) == TIMED_OUT and not self.done:
                    raise TimeoutError("timed out")
        except BaseException:
            self.abandon()
            raise
        if not parked:
            scheduler.spend()
        return 0

    cdef int park(self, Scheduler scheduler, int64_t deadline_ns) except -1:
        if not self.cancellable:
            self.fiber.shield += 1
        scheduler.outside_calls += 1
        try:
            return scheduler.park(self.reason, self, deadline_ns)
        finally:
            if self.process == forks:
                scheduler.outside_calls -= 1
            if not self.cancellable:
                self.fiber.shield -= 1

    cdef int serve_request(self) except -1:
        cdef Request request = self.request
        self.request = None
        try:
            request.value = request.context.run(request.fn, *request.arguments)
        except BaseException as error:
            request.error = error
        request.finish()
        return 0

    cdef object result(self):
        error, self.error = self.error, None
        value, self.value = self.value, None
        if error is not None:
            raise error
        return value

    cdef object interruption(self):
        cdef Fiber fiber = self.fiber
        cdef int shield = fiber.shield
        if self.process != forks or self.abandoned:
            return Cancelled("the caller of to_thread has left")
        if not self.cancellable and fiber.waiting_on is self:
            shield -= 1    # ours, of park
        if shield > 0:
            return None
        if fiber.limit_ns != NEVER and fiber.limit_ns <= fiber.scheduler.now():
            fiber.limit.expire(fiber)    # its timer is not armed while it is shielded
        if fiber.interrupts & CANCELLED:
            return Cancelled(fiber.cancel_reason if fiber.limit is None else fiber.limit.reason(fiber))
        return None


def to_thread(fn, *args, bint cancellable=False, ThreadLimiter limiter=None):
    """Call fn(*args) in another OS thread, for what would block all fibers, and return what it returns. Parks the calling fiber.

    The call sees a copy of the caller's contextvars. Nothing can stop a function in another OS thread, so a cancellation or a
    timeout that comes while fn runs is held back until it has ended: fn has then happened, what it returned or raised is delivered,
    and Cancelled comes at the next checkpoint. fn can look for it, by greenio.from_thread.check_cancelled. A run that ends
    waits for its calls likewise. A KeyboardInterrupt or SystemExit that is raised in the waiting fiber leaves at once.
    An interpreter that exits waits for none: the threads are daemons.

    On an OS thread without fibers, calls fn there.

    Args:
        fn: any callable; keyword arguments by functools.partial.
        cancellable: a cancellation or timeout leaves at once; fn goes on unheard and keeps its place in the limiter until it
            ends. What it raises then is logged, at debug level.
        limiter: what bounds how many such calls there are at once; None: current_default_limiter(). A cancellation or timeout
            while waiting for it leaves at once, and fn is not called.
    Returns:
        What fn returns.
    Raises:
        TypeError: *fn* is not callable.
        RuntimeError: no OS thread could be started, fn was not called; or a signal handler on top of the idle loop calls this.
        Cancelled: this fiber was cancelled before fn was called; or, *cancellable*, while it ran.
        RunFinishedError: in a forked child, if the fiber waited here as a signal handler forked: fn runs in the parent.
        BaseException: what fn raises, with its traceback.
    """
    cdef Scheduler scheduler = current_scheduler_or_none()
    if not callable(fn):
        raise TypeError(f"to_thread wants a callable and its arguments, not {fn!r}")
    if scheduler is None:
        return fn(*args)
    return call_in_thread(
        scheduler, fn, args, default_limiter if limiter is None else limiter, cancellable, "a call in an OS thread", NEVER)


def call_outside(fn, str reason not None, timeout=None):
    """What fn() returns, called in another OS thread without a bound on their number, while this fiber is parked for *reason*.

    Cancellable. On an OS thread without fibers, calls fn there.

    Raises:
        TimeoutError: *timeout* seconds passed; the call goes on unheard, as after Cancelled.
    """
    cdef Scheduler scheduler = current_scheduler_or_none()
    if scheduler is None:
        return fn()
    return call_in_thread(scheduler, fn, (), None, True, reason, deadline_of(scheduler, timeout))


cdef object call_in_thread(
        Scheduler scheduler, object fn, tuple args, ThreadLimiter limiter, bint cancellable, str reason, int64_t deadline_ns):
    cdef Call call = Call.__new__(Call)
    check_not_hosting(scheduler, reason)
    call.fiber = <Fiber>caller_of(scheduler)
    call.reason = reason
    call.fn = fn
    call.arguments = args
    call.context = PyContext_CopyCurrent()
    call.limiter = limiter
    call.cancellable = cancellable
    if limiter is None:
        scheduler.check()
    else:
        limiter.take(scheduler)
    call.process = forks
    try:
        start_job(call, fn)
    except BaseException:
        if call.begun:
            call.abandon()
        elif limiter is not None:
            limiter.give_back()
        raise
    call.wait(scheduler, deadline_ns)
    return call.result()


cdef int check_not_hosting(Scheduler scheduler, str reason) except -1:
    # As park says it; before there is a call whose answer nobody could wait for.
    if scheduler.hosting:
        raise RuntimeError(
            f"a signal handler cannot wait ({reason}): no fiber runs, it was called on top of the idle loop; let it set something, "
            "or spawn a fiber")
    return 0


# --- and back --------------------------------------------------------------------------------------------------------


cdef class Request:
    cdef int finish(self) except -1:
        self.done = True
        self.fn = None
        self.arguments = None
        self.context = None
        serve_all(&self.line, 0)
        return 0


cdef Call current_call(str function):
    cdef Call call = calls.get(PyThread_get_thread_ident())
    if call is None or current_scheduler_or_none() is not None:
        raise RuntimeError(
            f"from_thread.{function}: " + (
                "this OS thread runs fibers; call the function directly" if current_scheduler_or_none() is not None else
                "not in a function that to_thread called; give it scheduler=, what greenio.current_scheduler() returned in the run"))
    return call


cdef Scheduler checked_scheduler(object given):
    if not isinstance(given, Scheduler):
        raise TypeError(f"scheduler= wants what greenio.current_scheduler() returned, not {given!r}")
    return <Scheduler>given


def run(fn, *args, scheduler=None):
    """From a function that to_thread called: call fn(*args) back among the fibers, and return what it returns.

    The fiber that waits in to_thread calls it: within its cancel scopes, timeouts and locks, as current_fiber(). It is cancelled
    when that fiber is, even if the to_thread was not cancellable. Contextvars are a copy of this OS thread's. The OS thread is
    blocked meanwhile.

    With *scheduler*, from any other OS thread: a fiber of its own calls it, which is cancelled when the run ends; and if the
    calling fiber is, should the OS thread be one that runs fibers of another scheduler.

    Args:
        fn: any callable; it may park.
        scheduler: what greenio.current_scheduler() returned among the fibers; None: the one that called to_thread.
    Raises:
        TypeError: *fn* is not callable.
        RuntimeError: not in a function that to_thread called, and no *scheduler* is given; or fibers of the same scheduler run on
            this OS thread, which would wait for itself. fn was not called.
        RunFinishedError: that run has ended; fn was not called.
        Cancelled: the fiber that called to_thread was cancelled: fn got that at its first checkpoint, or had none and returned; or
            that fiber has left already, from a cancellable call, then fn was not called.
        concurrent.futures.CancelledError: with *scheduler*: the run has ended meanwhile.
        BaseException: what fn raises.
    """
    cdef Call call
    cdef Request request
    cdef Place place
    if not callable(fn):
        raise TypeError(f"from_thread.run wants a callable and its arguments, not {fn!r}")
    if scheduler is not None:
        return run_elsewhere(fn, args, checked_scheduler(scheduler))
    call = current_call("run")
    request = Request.__new__(Request)
    request.fn = fn
    request.arguments = args
    request.context = PyContext_CopyCurrent()
    if call.abandoned or call.process != forks:
        raise Cancelled("the caller of to_thread has left")
    call.request = request
    if call.fiber.waiting_on is call:
        unpark(call.fiber, WOKEN)
    while not request.done:
        place.item = NULL
        stand_in_line(&request.line, &place, None, "a call back among the fibers", request, NEVER)
    error, request.error = request.error, None
    if error is not None:
        raise error
    return request.value


cdef object run_elsewhere(object fn, tuple args, Scheduler scheduler):
    cdef Fiber fiber
    if current_scheduler_or_none() is scheduler:
        raise RuntimeError("from_thread.run: this OS thread runs that scheduler's fibers; call the function directly")
    fiber = scheduler.make(fn, args, f"from_thread {name_of(fn)}", None, None)
    try:
        return fiber.result()
    except BaseException:
        if not fiber.outcome:
            fiber.cancel("the OS thread that called from_thread.run has left")
        raise


def spawn(fn, *args, scheduler=None, name=None):
    """As greenio.spawn, from another OS thread: fn(*args) begins as a new fiber, and the OS thread goes on.

    Args:
        fn: any callable; contextvars are a copy of this OS thread's.
        scheduler: what greenio.current_scheduler() returned among the fibers; None: the one that called to_thread.
        name: for dumps and logs.
    Returns:
        The Fiber, whose `result` may be waited for here.
    Raises:
        TypeError: *fn* is not callable.
        RuntimeError: not in a function that to_thread called, and no *scheduler* is given.
        RunFinishedError: that run has ended, or is ending.
    """
    if scheduler is None:
        return current_call("spawn").fiber.scheduler.make(fn, args, name, None, None)
    return checked_scheduler(scheduler).make(fn, args, name, None, None)


def check_cancelled():
    """In a function that to_thread called: raise Cancelled if the calling fiber was cancelled, or its timeout is over.

    For functions that take long, to end early. Cancelled then goes through to_thread to the scope that was cancelled.

    Raises:
        Cancelled: as said; also if the caller has left, a cancellable call's.
        RuntimeError: not in a function that to_thread called.
    """
    interruption = current_call("check_cancelled").interruption()
    if interruption is not None:
        raise interruption


# --- fork ------------------------------------------------------------------------------------------------------------


def _before_fork():
    # os.fork warns of live threads from CPython 3.12 on, so those that only wait for work end first.
    for thread in retire_idle():
        thread.join(1)
        for _ in range(FORK_PATIENCE):
            # Up to CPython 3.12, join returns a moment before the kernel's thread has gone.
            if not os.path.exists(f"/proc/self/task/{thread.native_id}"):
                break
            time.sleep(0.00005)


def _after_fork_in_child():
    global threads, started, retired, queued
    threads = started = retired = queued = 0
    idle.clear()
    calls.clear()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
