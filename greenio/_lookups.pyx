# _lookups.pyx: see _lookups.pxd.
#
# Not taken: a cache. The C library does not tell how long an answer holds, so one is shared only among those who waited for it; a
# resolver on this machine caches what may be cached.
import os
import socket
from collections import OrderedDict

from libc.stdint cimport int64_t

from greenio._scheduler cimport NEVER, Scheduler, current_scheduler_or_none
from greenio._threads cimport Job, check_not_hosting, start_job
from greenio._waiting cimport TOO_LATE, Line, Place, forks, serve_all, stand_in_line

cdef enum:
    DEFAULT_THREADS = 16          # each that asks a dead name server sits there for 5 to 30 s, with 100 KiB; the rest go on
    MOST_THREADS = 1000
    NO_BOUND = -1

cdef Py_ssize_t first_max_threads = DEFAULT_THREADS   # or what the environment says
cdef Py_ssize_t max_threads = DEFAULT_THREADS
cdef Py_ssize_t max_queued = NO_BOUND
cdef Py_ssize_t running = 0       # lookups that have a thread
cdef dict under_way = {}
cdef object queue = OrderedDict() # lookups without a thread, first come first served; the keys of it, for those that leave from the middle
cdef unsigned long long asked = 0
cdef unsigned long long shared = 0
cdef unsigned long long refused = 0


cdef class Lookup(Job):
    def __repr__(self):
        return f"{self.fn.__name__}({', '.join(map(repr, self.arguments))})"

    cdef object title(self):
        return repr(self)

    cdef int work(self) except -1:
        try:
            self.value = self.fn(*self.arguments)
        except BaseException as error:
            self.error = error
        return 0

    cdef int deliver(self) except -1:
        global running
        running -= 1
        self.finish()
        start_queued()
        return 0

    cdef int finish(self) except -1:
        self.done = True
        if self.key is not None and under_way.get(self.key) is self:
            del under_way[self.key]
        serve_all(&self.callers, 0)
        return 0

    cdef int leave(self) except -1:
        self.caller_count -= 1
        if self.caller_count == 0 and self.queued:
            self.queued = False
            del queue[self]
            if self.key is not None and under_way.get(self.key) is self:
                del under_way[self.key]
        return 0

    cdef object answer(self):
        if self.error is None:
            return own_value(self.value)
        raise self.error if self.caller_count == 1 else own_error(self.error)


cdef object own_value(object value):
    # The lists in it are the caller's to change.
    if type(value) is list:
        return value.copy()
    if type(value) is tuple:
        return tuple([own_value(each) for each in value])
    return value


cdef object own_error(object error):
    # Raised by several fibers at once, each would add to the others' traceback, context and notes.
    try:
        copy = type(error)(*error.args)
    except Exception:
        return error
    copy.__cause__ = error.__cause__
    copy.__context__ = error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)


cdef int start(Lookup lookup) except -1:
    # It has no thread. If none is to be had, it waits until one that runs is free; if none runs, everybody is told.
    global running, asked
    running += 1
    try:
        start_job(lookup, lookup)
    except BaseException as error:
        if lookup.begun:
            raise      # an interruption of the caller's
        running -= 1
        if not isinstance(error, Exception):
            lookup.error = RuntimeError(f"{lookup!r} was interrupted before it began, by another fiber that asked the same")
            lookup.finish()
            raise
        if running:
            enqueue(lookup)
            queue.move_to_end(lookup, last=False)
            return 0
        lookup.error = error
        lookup.finish()
        return 0
    asked += 1
    return 0


cdef int enqueue(Lookup lookup) except -1:
    lookup.queued = True
    queue[lookup] = None
    return 0


cdef int start_queued() except -1:
    cdef Lookup lookup
    while queue and running < max_threads:
        lookup = <Lookup>queue.popitem(last=False)[0]
        lookup.queued = False
        start(lookup)
        if lookup.queued:
            return 0   # no thread for it now
    return 0


def look_up(fn, *args):
    """What fn(*args) returns, called in an OS thread while this fiber is parked; once for all who ask the same at the same time.

    On an OS thread without fibers, calls fn there.

    Args:
        fn: a function that changes nothing. What it returns may be, or be tuples of, lists of immutable things: each caller gets his own.
    Raises:
        gaierror: EAI_AGAIN: the queue is full (configure_lookups).
        RuntimeError: no OS thread could be started, and none runs.
        Cancelled: this fiber was cancelled; the others who ask the same notice nothing.
        BaseException: what fn raises; each caller gets an instance of his own.
    """
    global shared, refused
    cdef Scheduler scheduler = current_scheduler_or_none()
    cdef Lookup lookup
    cdef Place place
    cdef object key
    cdef bint parked = False
    if scheduler is None:
        return fn(*args)
    check_not_hosting(scheduler, "name resolution")
    scheduler.check()
    # With the types: 80 and 80.0 are equal, and one of them is an error.
    key = (fn, args, tuple([type(each) for each in args]))
    try:
        lookup = under_way.get(key)
    except TypeError:     # a bytearray cannot be a key
        key = lookup = None
    if lookup is None:
        if running >= max_threads and max_queued != NO_BOUND and <Py_ssize_t>len(queue) >= max_queued:
            refused += 1
            raise socket.gaierror(
                socket.EAI_AGAIN, f"{len(queue)} lookups wait for one of {max_threads} threads already (greenio.configure_lookups)")
        lookup = Lookup.__new__(Lookup)
        lookup.process = forks
        lookup.key = key
        lookup.fn = fn
        lookup.arguments = args
        lookup.caller_count = 1
        if key is not None:
            under_way[key] = lookup
        if running < max_threads and not queue:
            try:
                start(lookup)
            except BaseException:
                lookup.caller_count -= 1
                raise
        else:
            enqueue(lookup)
    else:
        shared += 1
        lookup.caller_count += 1
    scheduler.outside_calls += 1
    try:
        while not lookup.done and lookup.process == forks:
            place.item = NULL
            parked = True
            stand_in_line(&lookup.callers, &place, scheduler, "name resolution", lookup, NEVER)
        if lookup.done:
            if not parked:
                scheduler.spend()
            return lookup.answer()
    finally:
        if lookup.process == forks:
            scheduler.outside_calls -= 1
            lookup.leave()
    # In a forked child: the thread that asked is the parent's.
    return look_up(fn, *args)


def configure_lookups(*, max_threads=None, max_queued=None):
    """Set how many name lookups may be under way at once, and how many more may wait for that. What is not given is as it was at first.

    Lookups are getaddrinfo, gethostbyname and their like, of greenio.socket, and what they are used for: connecting to a
    name. Those of the same name at the same time count once.

    Args:
        max_threads: the most OS threads, 1 to 1,000; None: 16, or GREENIO_LOOKUP_THREADS of the environment. They start when they
            are needed. Fewer end no lookup that runs.
        max_queued: the most lookups that wait for a thread, >= 0; one more raises gaierror, EAI_AGAIN. None: any number; each
            fiber's own timeouts bound its wait.
    Raises:
        TypeError, ValueError: an argument is wrong; nothing was changed.
    """
    set_bounds(
        first_max_threads if max_threads is None else checked_threads(max_threads, "max_threads"), checked_queue(max_queued))


cdef Py_ssize_t checked_threads(object value, str what) except -1:
    cdef Py_ssize_t threads = value
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"{what} must be 1 to {MOST_THREADS}, not {value!r}")
    return threads


cdef Py_ssize_t checked_queue(object value) except -2:
    cdef Py_ssize_t queued
    if value is None:
        return NO_BOUND
    queued = value
    if queued < 0:
        raise ValueError(f"max_queued must be >= 0 lookups or None, not {value!r}")
    return queued


cdef int set_bounds(Py_ssize_t threads, Py_ssize_t queued) except -1:
    global max_threads, max_queued
    max_threads = threads
    max_queued = queued
    return start_queued()


def lookup_stats():
    """Name lookups, now.

    Returns:
        A dict: running (in OS threads), queued (wait for a thread), waiting (fibers that wait for either); max_threads, max_queued (or
        None); asked (times that the system was asked), shared (callers who joined a lookup under way), refused (the queue
        was full), since the program began.
    """
    cdef Lookup lookup
    cdef Py_ssize_t waiting = 0
    for lookup in under_way.values():
        waiting += lookup.caller_count
    return {
        "running": running, "queued": len(queue), "waiting": waiting, "max_threads": max_threads,
        "max_queued": None if max_queued == NO_BOUND else max_queued, "asked": asked, "shared": shared, "refused": refused,
    }


def _after_fork_in_child():
    global running, asked, shared, refused
    running = 0
    asked = shared = refused = 0
    under_way.clear()
    queue.clear()


def _set_up():
    global first_max_threads
    text = os.environ.get("GREENIO_LOOKUP_THREADS")
    if text:
        try:
            first_max_threads = checked_threads(int(text), "GREENIO_LOOKUP_THREADS")
        except ValueError:
            raise ValueError(f"GREENIO_LOOKUP_THREADS of the environment must be 1 to {MOST_THREADS} threads, not {text!r}") from None
        set_bounds(first_max_threads, NO_BOUND)
    os.register_at_fork(after_in_child=_after_fork_in_child)


_set_up()
