# _select.pyx: wait for many things, take exactly one; the contract is in _select.pxd.
#
# Fair: which of several that are ready is taken is drawn anew each time. Who has to wait stands in each line in turn, so the first
# that becomes ready is it.
#
# Not taken: a poll of the cases in turns (costs time while nothing happens), and a fiber for each case (their losers would have done
# their operation, or would have to be cancelled). Nor are cases locked, as Go locks its channels: the GIL does it.
import logging
import os
from collections import namedtuple

from greenio._errors import Cancelled

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from libc.errno cimport EBADF, errno
from libc.math cimport INFINITY, ceil
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc

from greenio._queues cimport GetCase
from greenio._scheduler cimport (
    caller_of, NEVER, Fiber, Scheduler, Watch, current_scheduler_or_none, leave_io, wait_append)
from greenio._waiting cimport (
    SERVED, TOO_LATE, Case, Line, Outcome, Place, Selectable, Waiter, deadline_after, line_append, line_remove, serve_all, wait,
    waiter_drop, waiter_init)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLPRI
        POLLOUT
        POLLNVAL
    struct pollfd:
        int fd
        short events
        short revents
    int poll_call "poll"(pollfd *fds, unsigned long count, int timeout_ms)

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>

    static inline int64_t greenio_select_now_ns(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }

    #ifndef POLLRDHUP
    #define POLLRDHUP 0x2000   /* Linux; the header shows it with _GNU_SOURCE only */
    #endif

    /* tuple.__new__(type, (first, second)), without looking it up. */
    static inline PyObject *greenio_pair(PyObject *type, PyObject *first, PyObject *second)
    {
        PyObject *made = NULL;
        PyObject *pair = PyTuple_Pack(2, first, second);
        PyObject *arguments = pair == NULL ? NULL : PyTuple_Pack(1, pair);
        if (arguments != NULL)
            made = PyTuple_Type.tp_new((PyTypeObject *)type, arguments, NULL);
        Py_XDECREF(arguments);
        Py_XDECREF(pair);
        return made;
    }
    """
    int64_t greenio_select_now_ns() nogil
    const int POLLRDHUP
    object pair_of "greenio_pair"(object type, object first, object second)

cdef enum:
    FEW = 8                  # cases whose places lie on the stack

Selected = namedtuple("Selected", "index value", module="greenio._select")
Selected.__doc__ = """What select returns: which case was taken, counted from 0 (-1: the default), and what its operation returned."""

cdef object selected_type = Selected
cdef uint64_t random_state = 0


# --- which one, of several that are ready ----------------------------------------------------------------------------


def seed_select(seed=None):
    """Begin the random choices of all selects of this process anew; with the same int, the same ones. None: from os.urandom."""
    global random_state
    cdef uint64_t state = int.from_bytes(os.urandom(8), "little") if seed is None else seed & 0xFFFFFFFFFFFFFFFF
    # splitmix64's finalizer: neighbours become strangers.
    state += 0x9E3779B97F4A7C15ULL
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9ULL
    state = (state ^ (state >> 27)) * 0x94D049BB133111EBULL
    state ^= state >> 31
    random_state = state if state != 0 else 1


cdef inline uint64_t draw(uint64_t below) noexcept:
    # xorshift64*, Vigna 2016. `below` is small, so the bias of multiply and shift is nothing.
    global random_state
    random_state ^= random_state >> 12
    random_state ^= random_state << 25
    random_state ^= random_state >> 27
    return (((random_state * 0x2545F4914F6CDD1DULL) >> 32) * below) >> 32


# --- cases -----------------------------------------------------------------------------------------------------------


cdef class Prepared(Case):
    """A case that has to run Python code before it can line up."""

    cdef int prepare(self, Scheduler scheduler) except -1:
        return 0

    cdef int undo(self) except -1:
        return 0


cdef class FiberCase(Prepared):
    """A fiber's end."""

    cdef bint attempt(self, Scheduler scheduler) except -1:
        if not self.fiber.outcome:
            return False
        self.value = self.fiber
        return True

    cdef int prepare(self, Scheduler scheduler) except -1:
        if scheduler is None:
            self.callback = self._tell
            self.fiber.add_done_callback(self.callback)
        return 0

    cdef int undo(self) except -1:
        if self.callback is not None:
            self.fiber.remove_done_callback(self.callback)
            self.callback = None
        return 0

    def _tell(self, fiber):
        serve_all(&self.line, 0)

    cdef int enlist(self, Place *place) except -1:
        if place.waiter.fiber is not NULL:
            wait_append(&self.fiber.joiners, &self.node, place.waiter.fiber)
        else:
            line_append(&self.line, place)
        return 0

    cdef int delist(self, Place *place) except -1:
        line_remove(place)
        if self.node.fiber is not NULL:
            self.node.fiber = NULL
            self.fiber.remove_joiner(&self.node)
        return 0

    cdef object finish(self, Place *place):
        return self.fiber


cdef class FutureCase(Prepared):
    """The end of a concurrent.futures.Future."""

    cdef bint attempt(self, Scheduler scheduler) except -1:
        if not self.ended and (self.callback is not None or not self.future.done()):
            return False
        self.value = self.future
        return True

    cdef int prepare(self, Scheduler scheduler) except -1:
        self.callback = self._tell
        self.future.add_done_callback(self.callback)    # it calls at once if it is done
        return 0

    cdef int undo(self) except -1:
        callback, self.callback = self.callback, None
        if callback is None:
            return 0
        remove = getattr(self.future, "remove_done_callback", None)
        if remove is not None:
            remove(callback)
            return 0
        # The standard class has no public way; these names have been the same since Python 3.2. A new list: another OS
        # thread may be on its way through the present one.
        with self.future._condition:
            self.future._done_callbacks = [kept for kept in self.future._done_callbacks if kept is not callback]
        return 0

    def _tell(self, future):
        self.ended = True
        serve_all(&self.line, 0)

    cdef int enlist(self, Place *place) except -1:
        line_append(&self.line, place)
        return 0

    cdef object finish(self, Place *place):
        return self.future


cdef class DescriptorCase(Prepared):
    """A descriptor's readiness. What the kernel says when asked counts; the poller's events tell when to ask again."""

    cdef bint attempt(self, Scheduler scheduler) except -1:
        cdef pollfd state
        if self.watch is not None and self.watch.closed:
            raise OSError(EBADF, f"the descriptor was closed while a select waited for {self.source!r}")
        state.fd = self.fd
        state.events = POLLOUT if self.to_write else POLLIN | POLLPRI | POLLRDHUP
        state.revents = 0
        if poll_call(&state, 1, 0) < 0:
            raise OSError(errno, os.strerror(errno))
        if state.revents & POLLNVAL:
            raise OSError(EBADF, f"{os.strerror(EBADF)}: {self.fd}")
        if state.revents & ~POLLPRI:
            self.value = self.source
            return True
        if self.watch is not None:
            # Also where something urgent is all there is: more will bring an event of its own. Left set, whoever leaves the line to
            # look would wake the next one, and that one him, for ever.
            if self.to_write:
                self.watch.writable = False
            else:
                self.watch.readable = False
        return False

    cdef int prepare(self, Scheduler scheduler) except -1:
        self.watch = scheduler.watch_for(self.fd)
        return 0

    cdef int enlist(self, Place *place) except -1:
        wait_append(&self.watch.writers if self.to_write else &self.watch.readers, &self.node, place.waiter.fiber)
        self.watch.scheduler.io_waiting += 1
        return 0

    cdef int delist(self, Place *place) except -1:
        if self.node.fiber is not NULL:
            self.watch.scheduler.io_waiting -= 1
            leave_io(self.watch, self.to_write, &self.node)
        return 0


cdef class MappedCase(Prepared):
    """Another case, and a function for its value. Taken means taken: what the function then does, it does once."""

    cdef bint attempt(self, Scheduler scheduler) except -1:
        if not self.inner.attempt(scheduler):
            return False
        value, self.inner.value = self.inner.value, None
        self.value = self.fn(value)
        return True

    cdef int prepare(self, Scheduler scheduler) except -1:
        return (<Prepared>self.inner).prepare(scheduler) if isinstance(self.inner, Prepared) else 0

    cdef int undo(self) except -1:
        return (<Prepared>self.inner).undo() if isinstance(self.inner, Prepared) else 0

    cdef int enlist(self, Place *place) except -1:
        return self.inner.enlist(place)

    cdef int delist(self, Place *place) except -1:
        return self.inner.delist(place)

    cdef object finish(self, Place *place):
        return self.fn(self.inner.finish(place))


cdef class MomentCase(Case):
    """A moment: no line, the deadline of the wait itself."""

    cdef bint attempt(self, Scheduler scheduler) except -1:
        return self.due

    cdef int enlist(self, Place *place) except -1:
        return 0


cdef class Mapped(Selectable):
    """A case with another value: Mapped(thing, fn) is *thing* for `select`, and fn(value) what is taken. For classes' __select__."""

    def __init__(self, thing, fn):
        self.thing = thing
        self.fn = fn

    cdef Case as_case(self):
        cdef MappedCase case = MappedCase.__new__(MappedCase)
        case.inner = case_of(self.thing, current_scheduler_or_none())
        if isinstance(case.inner, (GetCase, MomentCase)):
            raise TypeError(f"a queue and a moment cannot get another value: {self.thing!r}")   # select knows these two itself
        case.fn = self.fn
        return case

    def __repr__(self):
        return f"Mapped({self.thing!r}, {self.fn!r})"


cdef class Readiness(Selectable):
    """What readable and writable return."""

    def __init__(self):
        raise TypeError("made by greenio.readable(source) and greenio.writable(source)")

    cdef Case as_case(self):
        cdef DescriptorCase case = DescriptorCase.__new__(DescriptorCase)
        if current_scheduler_or_none() is None:
            raise RuntimeError(
                f"no fibers run on this OS thread, so there is no poller to wait for {self!r}: call select inside greenio.run(main)")
        case.source = self.source
        case.fd = fd_of(self.source)
        case.to_write = self.to_write
        return case

    def __repr__(self):
        return f"{'writable' if self.to_write else 'readable'}({self.source!r})"


cdef class Moment(Selectable):
    """What after and at return."""

    def __init__(self):
        raise TypeError("made by greenio.after(seconds) and greenio.at(deadline)")

    cdef Case as_case(self):
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef MomentCase case = MomentCase.__new__(MomentCase)
        cdef int64_t now_ns = greenio_select_now_ns() if scheduler is None else scheduler.now()
        cdef double at_ns = ceil(self.seconds * 1e9)     # current_time() must not be below the moment when it has come
        if self.relative:
            at_ns += now_ns
        case.deadline_ns = NEVER if at_ns >= 9e18 else <int64_t>at_ns if at_ns > 0 else 0
        case.due = case.deadline_ns != NEVER and case.deadline_ns <= now_ns
        return case

    def __repr__(self):
        return f"{'after' if self.relative else 'at'}({self.seconds:g})"


cdef int fd_of(object source) except -1:
    fd = source if isinstance(source, int) else source.fileno()
    if not isinstance(fd, int):
        raise TypeError(f"fileno() of {source!r} returned {fd!r}, not an int")
    if fd < 0 and fd is not source:
        raise OSError(EBADF, f"{source!r} is closed")
    if not 0 <= fd <= 0x7FFFFFFF:
        raise ValueError(f"a descriptor is an int >= 0, not {fd}")
    return fd


cdef Readiness readiness(object source, bint to_write):
    cdef Readiness made = Readiness.__new__(Readiness)
    if not isinstance(source, int) and not callable(getattr(source, "fileno", None)):
        raise TypeError(f"a socket, a file or a descriptor's number can become ready, not {source!r}")
    made.source = source
    made.to_write = to_write
    return made


cdef Moment moment(double seconds, bint relative):
    cdef Moment made = Moment.__new__(Moment)
    made.seconds = seconds
    made.relative = relative
    return made


def readable(source, /):
    """A case for `select`: a read from *source* would not wait: data, a connection, the end of the stream, or an error is there.

    Its value is *source*. Nothing is read: whoever else reads there may be faster.

    Args:
        source: a socket, anything with fileno(), or a descriptor's number.
    Raises:
        TypeError: *source* is nothing of the kind.
        OSError: from the select, EBADF: it is closed, or was closed meanwhile.
        RuntimeError: from a select on an OS thread without fibers.
    """
    return readiness(source, False)


def writable(source, /):
    """A case for `select`: a write to *source* would not wait, or a connect is over. As `readable` otherwise."""
    return readiness(source, True)


def after(seconds, /):
    """A case for `select`: *seconds* have passed since the select began. Its value is None.

    Raises:
        ValueError: *seconds* is negative or not a number.
    """
    cdef double value = seconds
    if not value >= 0:
        raise ValueError(f"after wants seconds >= 0, not {seconds!r}")
    return moment(value, True)


def at(deadline, /):
    """A case for `select`: current_time() has reached *deadline*, in seconds. Its value is None.

    On an OS thread without fibers *deadline* is on the clock of time.monotonic().

    Raises:
        ValueError: *deadline* is not a number.
    """
    cdef double value = deadline
    if value != value:
        raise ValueError("a deadline is a moment in seconds, not nan")
    return moment(value, False)


cdef Case case_of(object thing, Scheduler scheduler):
    cdef FiberCase ends
    cdef FutureCase future
    if isinstance(thing, Selectable):
        return (<Selectable>thing).as_case()
    if isinstance(thing, Case):
        return <Case>thing
    if isinstance(thing, Fiber):
        if (<Fiber>thing).scheduler is None:
            raise RuntimeError("this fiber was never spawned; fibers are made by greenio.spawn(fn, *args)")
        if scheduler is not None and <PyObject *>thing is caller_of(scheduler):
            raise RuntimeError(f"{thing.name} cannot wait for its own end")
        ends = FiberCase.__new__(FiberCase)
        ends.fiber = <Fiber>thing
        return ends
    stands_for = getattr(type(thing), "__select__", None)
    if stands_for is not None:
        return case_of(stands_for(thing), scheduler)
    from concurrent.futures import Future   # whoever has one has imported it
    if isinstance(thing, Future):
        future = FutureCase.__new__(FutureCase)
        future.future = thing
        return future
    raise TypeError(
        "select takes channels, receiving(channel), sending(channel, item), events, locks, semaphores, fibers, futures, processes, "
        f"signals, readable(socket), writable(socket), after(seconds) and at(deadline), not {thing!r}")


# --- the select itself -----------------------------------------------------------------------------------------------


cdef object selected(Py_ssize_t index, object value):
    return pair_of(selected_type, index, value)


cdef object taken(Case case, Py_ssize_t index):
    # attempt() said True.
    value = case.value
    case.value = None
    return selected(index, value)


cdef int blame(object error, Py_ssize_t index) except -1:
    # `error` is what the case's operation raised.
    try:
        error.index = index
    except (AttributeError, TypeError):
        pass                 # a class with slots
    return 0


cdef Py_ssize_t attempt_any(list cases, Place *places, Scheduler scheduler, bint *quiet) except -2:
    # In a random order, as far as one needs to go. The index of the case that was taken, or -1. Uses places[].index.
    # `quiet`, with True: no Python code may run, and it stays True if nothing that would need some can be done. With False: it
    # becomes whether none has run.
    cdef Py_ssize_t count = len(cases)
    cdef bint still = quiet[0]
    cdef Case case
    cdef Py_ssize_t tried
    cdef Py_ssize_t drawn
    cdef Py_ssize_t index = 0
    quiet[0] = True
    for tried in range(count):
        places[tried].index = tried
    try:
        for tried in range(count):
            drawn = tried
            if count - tried > 1:
                drawn += draw(count - tried)
            index = places[drawn].index
            places[drawn].index = places[tried].index
            case = <Case>cases[index]
            if isinstance(case, GetCase) and (<GetCase>case).queue.runs_python():
                if not still:
                    quiet[0] = False
                elif (<GetCase>case).queue.has_news():
                    quiet[0] = False
                    return -1
                else:
                    continue
            if case.attempt(scheduler):
                return index
    except Exception as error:
        blame(error, index)
        raise
    return -1


cdef Outcome wait_in_all(
        tuple given, list cases, Place *places, Waiter *waiter, Scheduler scheduler, int64_t deadline_ns) except *:
    cdef Py_ssize_t count = len(cases)
    cdef Py_ssize_t index
    for index in range(count):
        places[index].line = NULL
        places[index].waiter = waiter
        places[index].item = NULL
        places[index].outcome = 0
        places[index].index = index
    waiter_init(waiter, scheduler)
    try:
        for index in range(count):
            (<Case>cases[index]).enlist(&places[index])
        return wait(waiter, scheduler, "select", given, deadline_ns)
    finally:
        for index in range(count):
            (<Case>cases[index]).delist(&places[index])
        waiter_drop(waiter)


cdef object take_one(tuple given, list cases, Place *places, Scheduler scheduler, bint tried, int64_t deadline_ns, object timeout):
    # `tried`: none could be done a moment ago, and no Python code has run since, nor in those attempts.
    cdef Waiter waiter
    cdef Outcome outcome
    cdef Py_ssize_t index
    cdef Case case
    cdef MomentCase moment
    cdef bint quiet
    cdef int64_t nearest_ns = deadline_ns
    for case in cases:
        # NEVER is the greatest unsigned number.
        if isinstance(case, MomentCase) and <uint64_t>(<MomentCase>case).deadline_ns < <uint64_t>nearest_ns:
            nearest_ns = (<MomentCase>case).deadline_ns
    while True:
        while not tried:
            quiet = False
            index = attempt_any(cases, places, scheduler, &quiet)
            if index < 0 and not quiet:
                quiet = True
                index = attempt_any(cases, places, scheduler, &quiet)
            if index >= 0:
                return taken(cases[index], index)
            tried = quiet
        tried = False
        outcome = wait_in_all(given, cases, places, &waiter, scheduler, nearest_ns)
        if outcome == SERVED:
            index = waiter.served.index
            case = <Case>cases[index]
            try:
                value = case.finish(waiter.served)
            except Exception as error:
                blame(error, index)
                raise
            if isinstance(case, GetCase) and (<GetCase>case).again:
                continue
            return selected(index, value)
        if outcome == TOO_LATE:
            for case in cases:
                if isinstance(case, MomentCase):
                    moment = <MomentCase>case
                    moment.due = moment.deadline_ns != NEVER and moment.deadline_ns <= nearest_ns
            # Something may have come at the same moment, or while this fiber waited for its turn.
            quiet = False
            index = attempt_any(cases, places, scheduler, &quiet)
            if index >= 0:
                return taken(cases[index], index)
            raise too_late(given, timeout)
        if scheduler is None:
            PyErr_CheckSignals()


cdef int undo_all(list cases) except -1:
    # To the end, and with the result kept, if there is one: what was taken is taken. Only what is to end the program comes through.
    ends = None
    for case in cases:
        if isinstance(case, Prepared):
            try:
                (<Prepared>case).undo()
            except Cancelled:
                pass                     # comes again at the next checkpoint
            except Exception:
                logging.getLogger("greenio").exception("a select left a callback behind: %r could not be undone", case)
            except BaseException as error:
                ends = error
    if ends is not None:
        raise ends
    return 0


cdef object too_late(tuple given, object timeout):
    return TimeoutError(f"none of {len(given)} cases came within {timeout} seconds")


def select(*cases, timeout=None, default=...):
    """Wait until one of *cases* can be done, do that one and no other. Parks while none can.

    Of several that can be done at once, one is drawn at random. The others leave no trace: no item is taken or sent, no lock
    acquired, nobody's place in a line is lost to them.

    Who compares a PriorityQueue's items, or a Queue subclass' own `_get` and `_qsize`, may park, and so may the select then, even
    with a default; it looks at the clock and at the other cases when they are through. A subclass' queue that somebody else is in
    the middle of using has nothing now, with a default or a timeout of 0; otherwise the select waits until they are through.

    A closed channel's receive, once it is drained, and a closed channel's send are cases that can be done: they raise
    ChannelClosed. (In Go the first gives a zero value and the second panics; a nil channel, which Go never takes, is a case left
    out here.) What a case raises has the case's number as its attribute ``index``.

    On an OS thread without fibers it blocks the thread; readable and writable cases do not work there.

    Args:
        cases: each one of
            a Channel, or receiving(channel): the value is the item;
            sending(channel, item);
            an Event, to wait for; a Lock or a Semaphore, to acquire;
            a Fiber or a concurrent.futures.Future, to end: the value is itself, and its result or exception stays in it;
            a subprocess.Popen of greenio's, to end: the value is its return code;
            what signals(...) gives, to receive one: the value is its number;
            readable(source), writable(source): a socket or a descriptor;
            after(seconds), at(deadline).
            The same object may be in several.
        timeout: seconds, or None for ever; 0 does not park.
        default: if none can be done now, Selected(-1, default) is returned without parking. Any object but ``...``.
    Returns:
        A named tuple Selected(index, value): which case, from 0, and what its operation returned.
    Raises:
        ValueError: no cases, and neither a timeout nor a default: it would never end. *timeout* is negative.
        TypeError: something else is among the cases. Nothing was done.
        TimeoutError: none could be done within *timeout*. Nothing was done.
        ChannelClosed: the case ``error.index`` is on a closed channel.
        Cancelled: this fiber was cancelled. Nothing was done.
    """
    cdef Scheduler scheduler = current_scheduler_or_none()
    cdef Place few[FEW]
    cdef Place *places = few
    cdef Py_ssize_t index
    cdef list line_up
    cdef int64_t deadline_ns = NEVER
    cdef bint at_once = default is not ...
    cdef bint tried = False
    cdef bint parks = False
    if scheduler is not None:
        scheduler.check()
    if not cases and timeout is None and not at_once:
        raise ValueError("select without cases would wait for ever; give it a case, a timeout or a default")
    line_up = [case_of(thing, scheduler) for thing in cases]
    if timeout is not None:
        deadline_ns = deadline_after(scheduler, timeout)
        at_once = at_once or timeout == 0
    if at_once:
        for case in line_up:
            if isinstance(case, GetCase):
                (<GetCase>case).at_once = True
    if len(line_up) > FEW:
        places = <Place *>malloc(len(line_up) * sizeof(Place))
        if places is NULL:
            raise MemoryError(f"no room for {len(line_up)} cases")
    try:
        index = attempt_any(line_up, places, scheduler, &tried)
        if index < 0 and not at_once:
            parks = True
            for case in line_up:
                if isinstance(case, Prepared):
                    tried = False
                    (<Prepared>case).prepare(scheduler)
            return take_one(cases, line_up, places, scheduler, tried, deadline_ns, timeout)
        if index >= 0:
            return taken(line_up[index], index)
    finally:
        if places is not few:
            free(places)
        undo_all(line_up)
        # Whatever came of it: who asks again and again would starve the others.
        if scheduler is not None and not parks:
            scheduler.spend()
    if default is not ...:
        return selected(-1, default)
    raise too_late(cases, timeout)


seed_select()
