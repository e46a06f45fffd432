# _queues.pyx: see _queues.pxd.
#
# PriorityQueue compares items, which may run any Python code: raise, park, or use the same queue. There is no lock against
# that. An operation compares first and moves afterwards, if nobody moved meanwhile; else it starts over. So a comparison that
# raises has changed nothing, and one that parks keeps nobody out. (`heapq` on a list moves and compares in turns.)
#
# The garbage collector is shown the ring by hand: Cython writes tp_traverse and tp_clear for object fields only.
import queue as standard
import types
from collections import namedtuple

from greenio import _errors

from cpython.object cimport Py_LT, PyObject_RichCompareBool
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint64_t

from greenio._scheduler cimport caller_of, NEVER, Scheduler, current_scheduler_or_none
from greenio._waiting cimport (
    SERVED, TOO_LATE, Case, Line, Outcome, Place, deadline_after, forks, line_append, line_length, serve, serve_all,
    stand_in_line)

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil

cdef extern from *:
    """
    static traverseproc greenio_queues_fields_traverse;

    /* All of these types have the fields of the first one and no object fields of their own. */
    static void greenio_queues_collect_by(PyTypeObject *first, PyTypeObject *type, traverseproc traverse, inquiry clear)
    {
        if (type == first)
            greenio_queues_fields_traverse = first->tp_traverse;
        type->tp_traverse = traverse;
        type->tp_clear = clear;
    }
    """
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*traverseproc)(PyObject *, visitproc, void *) noexcept
    ctypedef int (*inquiry)(PyObject *) noexcept
    ctypedef struct PyTypeObject:
        pass
    traverseproc greenio_queues_fields_traverse
    void greenio_queues_collect_by(PyTypeObject *first, PyTypeObject *type, traverseproc traverse, inquiry clear) noexcept

cdef enum:                   # Place.outcome of one that was served. 0: the item went over
    SHUT = 1                 # by shutdown: nothing went over
    KEPT = 2                 # a place, or an item, is kept for it

Empty = standard.Empty
Full = standard.Full
# CPython 3.11 and 3.12 have none.
ShutDown = getattr(standard, "ShutDown", _errors.ShutDown)

QueueStatistics = namedtuple("QueueStatistics", "size waiting_getters waiting_putters peak unfinished")
QueueStatistics.__module__ = __name__


cdef inline object adopted(PyObject *item):
    # The caller's reference becomes the result's.
    cdef object result = <object>item
    Py_DECREF(result)
    return result


cdef bint has_hooks(object kind) except -1:
    # Whether that subclass of Queue has a _put or the like of its own.
    cdef object base
    for base in kind.__mro__:
        if base is PriorityQueue or base is LifoQueue or base is Queue:
            break
    return any([getattr(kind, name) is not getattr(base, name) for name in ("_init", "_put", "_get", "_qsize")])


cdef void *asking():
    # Who has, or wants, a lock on the hooks.
    cdef Scheduler scheduler = current_scheduler_or_none()
    if scheduler is not None:
        return <void *>caller_of(scheduler)
    return <void *><size_t>PyThread_get_thread_ident()


cdef object shut_down(str asked):
    return ShutDown(f"{asked} on a queue that was shut down")


cdef class ItemQueue(Selectable):
    """What the queues have in common."""

    # Queue[int], in annotations: a queue of ints.
    __class_getitem__ = classmethod(types.GenericAlias)

    def __dealloc__(self):
        ring_drop(&self.ring)

    cdef bint try_take(self, PyObject **item) except -1:
        raise NotImplementedError

    cdef bint finish_take(self, Place *place, PyObject **item) except -1:
        if place.outcome == SHUT:
            raise shut_down("get")
        item[0] = place.item
        return True

    cdef object take_or_wait(self, bint block, object timeout):
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef int64_t deadline_ns = NEVER
        cdef PyObject *item = NULL
        cdef object result
        cdef bint parked = False
        cdef Place place
        cdef Outcome outcome
        if scheduler is not None:
            scheduler.check()
        if block and timeout is not None:
            deadline_ns = deadline_after(scheduler, timeout)
            block = <double>timeout > 0
        try:
            while not self.try_take(&item):
                if not block:
                    raise Empty
                parked = True
                place.item = NULL
                outcome = stand_in_line(&self.getters, &place, scheduler, "queue get", self, deadline_ns)
                if outcome == SERVED:
                    if self.finish_take(&place, &item):
                        break
                elif outcome == TOO_LATE:
                    block = False      # one may have come at the same moment
            result = adopted(item)
            return result
        finally:
            # Also if it raises: who asks again and again would starve the others.
            if scheduler is not None and not parked:
                scheduler.spend()

    cdef bint runs_python(self) noexcept:
        return False

    cdef bint has_news(self) noexcept:
        return self.ring.count != 0

    cdef bint is_busy(self) noexcept:
        return False

    cdef Case as_case(self):
        cdef GetCase case = GetCase.__new__(GetCase)
        case.queue = self
        return case


cdef class GetCase(Case):
    """A queue's get, for select."""

    cdef bint attempt(self, Scheduler scheduler) except -1:
        cdef PyObject *item = NULL
        if self.at_once and self.queue.is_busy():
            return False
        if not self.queue.try_take(&item):
            return False
        self.value = adopted(item)
        return True

    cdef int enlist(self, Place *place) except -1:
        place.item = NULL
        line_append(&self.queue.getters, place)
        return 0

    cdef object finish(self, Place *place):
        cdef PyObject *item = NULL
        self.again = not self.queue.finish_take(place, &item)
        return None if self.again else adopted(item)


cdef class SimpleQueue(ItemQueue):
    """An unbounded queue, first in first out, like queue.SimpleQueue: little more than put and get.

    put never parks, never raises Cancelled and gives nobody else a turn, so it may be used from destructors and signal handlers, in
    the middle of anything. Everything may be called from any fiber and any OS thread. In a select it means get.
    """

    def put(self, item, bint block=True, timeout=None):
        """Append *item*, or hand it to the getter that has waited longest. *block* and *timeout* mean nothing here."""
        cdef Place *place
        if self.getters.first is not NULL:
            place = serve(&self.getters)
            if place is not NULL:
                Py_INCREF(item)
                place.item = <PyObject *>item
                return
        if not ring_reserve(&self.ring):
            raise MemoryError("no room for another item")
        Py_INCREF(item)
        ring_push(&self.ring, <PyObject *>item)

    def put_nowait(self, item):
        """put, which never waits anyway."""
        self.put(item)

    cdef bint try_take(self, PyObject **item) except -1:
        if self.ring.count == 0:
            return False
        item[0] = ring_take(&self.ring)
        return True

    def get(self, bint block=True, timeout=None):
        """Take the oldest item; parks while there is none. A checkpoint.

        Args:
            block: False does not park.
            timeout: seconds to wait; None waits for ever, 0 does not park.
        Raises:
            queue.Empty: there is no item, or none came within *timeout*.
            ValueError: *timeout* is negative.
            Cancelled: the surrounding scope was cancelled; nothing was taken.
        """
        return self.take_or_wait(block, timeout)

    def get_nowait(self):
        """get(block=False)"""
        return self.take_or_wait(False, None)

    def qsize(self):
        """The number of items."""
        return <Py_ssize_t>self.ring.count

    def empty(self):
        """Whether there is no item now."""
        return self.ring.count == 0

    def __repr__(self):
        return (f"<{type(self).__name__} at {<size_t><void *>self:#x}: {self.ring.count} items, "
                f"{line_length(&self.getters)} getters wait>")


cdef class Queue(ItemQueue):
    """A queue, first in first out, like queue.Queue: same methods, arguments and errors, for fibers and OS threads alike.

    First come, first served: an item that is put goes to the getter that has waited longest, and the room that a get makes to the
    putter that has waited longest. A put or get that raises, for whatever reason, has not happened. In a select it means get.

    As with queue.Queue, a subclass may have its own `_init`, `_put`, `_get` and `_qsize`. They run one at a time and
    may park; then whatever else uses the queue parks until they are through, also `qsize`, `put_nowait` and the like.
    What other methods of the subclass do to its items, the next operation sees. The items are no attribute `queue` unless the
    subclass makes it one, and there is no `mutex`.

    Args:
        maxsize: most items that are there at a time; <= 0 for no bound.
    """

    def __cinit__(self):
        cdef object kind = type(self)
        self.direct = True
        if kind is not Queue and kind is not LifoQueue and kind is not PriorityQueue:
            self.derived = True
            self.hooked = has_hooks(kind)
            self.direct = not self.hooked

    def __init__(self, Py_ssize_t maxsize=0):
        self.maximum = maxsize
        if self.hooked:
            self._init(maxsize)

    @property
    def maxsize(self):
        """Most items that are there at a time; <= 0 for no bound. May be set: more room lets waiting putters in."""
        return self.maximum

    @maxsize.setter
    def maxsize(self, Py_ssize_t maxsize):
        self.maximum = maxsize
        self.admit()

    @property
    def unfinished_tasks(self):
        """Items that were put and that no task_done has reported yet."""
        return self.unfinished

    @property
    def is_shutdown(self):
        """Whether shutdown was called."""
        return self.is_down

    # --- items

    cdef bint store(self, PyObject *item) except -1:
        if not ring_reserve(&self.ring):
            raise MemoryError("no room for another item")
        Py_INCREF(<object>item)
        ring_push(&self.ring, item)
        return True

    cdef bint take(self, PyObject **item) except -1:
        item[0] = ring_take(&self.ring)
        return True

    cdef Py_ssize_t length(self) noexcept:
        return self.hook_count if self.hooked else <Py_ssize_t>self.ring.count

    cdef bint is_full(self) noexcept:
        if self.maximum <= 0:
            return False
        if self.kept_process != forks:
            self.renew()
        return self.length() + self.reserved >= self.maximum

    cdef void renew(self) noexcept:
        # In a forked child: for whom something was kept has not come along.
        self.kept_process = forks
        self.reserved = 0
        self.promised = 0
        self.locked = False

    cdef void count_in(self) noexcept:
        self.unfinished += 1
        if self.length() > self.peak:
            self.peak = self.length()

    # --- put

    cdef bint try_put(self, object item, bint granted) except -1:
        cdef Place *place
        if self.hooked:
            return self.put_by_hook(item, granted)
        while True:
            if self.is_down:
                raise shut_down("put")
            if self.getters.first is not NULL:
                place = serve(&self.getters)
                if place is not NULL:
                    Py_INCREF(item)
                    place.item = <PyObject *>item
                    self.unfinished += 1
                    return True
            if not granted and self.is_full():
                return False
            if self.store(<PyObject *>item):
                self.count_in()
                return True

    cdef int put_or_wait(self, object item, bint block, object timeout) except -1:
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef int64_t deadline_ns = NEVER
        cdef bint timed = block and timeout is not None and self.maximum > 0     # else, as the standard's, it is not looked at
        cdef bint parked = False
        cdef Place place
        cdef Outcome outcome
        if scheduler is not None:
            scheduler.check()
        if timed:
            deadline_ns = deadline_after(scheduler, timeout)
            block = <double>timeout > 0
        try:
            while not self.try_put(item, False):
                if block and timeout is not None and not timed:      # maxsize was set while a hook or a comparison ran
                    timed = True
                    deadline_ns = deadline_after(scheduler, timeout)
                    block = <double>timeout > 0
                if not block:
                    raise Full
                parked = True
                place.item = <PyObject *>item
                outcome = stand_in_line(&self.putters, &place, scheduler, "queue put", self, deadline_ns)
                if outcome == SERVED:
                    if place.outcome == SHUT:
                        raise shut_down("put")
                    if place.outcome == KEPT:
                        self.put_granted(item)
                    return 0
                if outcome == TOO_LATE:
                    block = False      # there may be room since the same moment
            return 0
        finally:
            if scheduler is not None and not parked:
                scheduler.spend()

    cdef int put_granted(self, object item) except -1:
        try:
            self.try_put(item, True)
        finally:
            if self.kept_process == forks and self.reserved > 0:
                self.reserved -= 1
            self.admit()
        return 0

    cdef void admit(self) noexcept:
        cdef Place *place
        cdef Place *getter
        cdef bint direct
        while self.putters.first is not NULL and not self.is_full():
            direct = self.direct and ring_reserve(&self.ring)
            place = serve(&self.putters)
            if place is NULL:
                return
            if not direct:
                self.reserved += 1
                place.outcome = KEPT
                continue
            Py_INCREF(<object>place.item)
            getter = serve(&self.getters)
            if getter is NULL:
                ring_push(&self.ring, place.item)
                self.count_in()
            else:
                getter.item = place.item
                self.unfinished += 1

    def put(self, item, bint block=True, timeout=None):
        """Put *item* in, or hand it to the getter that has waited longest; parks while the queue is full. A checkpoint.

        Args:
            block: False does not park.
            timeout: seconds to wait; None waits for ever, 0 does not park. Without a bound it means nothing.
        Raises:
            queue.Full: there is no room, or there was none within *timeout*.
            ShutDown: the queue was shut down.
            ValueError: *timeout* is negative, and there is a bound.
            Cancelled: the surrounding scope was cancelled; the item was not put in.
        """
        self.put_or_wait(item, block, timeout)

    def put_nowait(self, item):
        """put(item, block=False)"""
        if self.derived:
            return self.put(item, block=False)
        self.put_or_wait(item, False, None)

    # --- get

    cdef bint try_take(self, PyObject **item) except -1:
        if self.hooked:
            return self.take_by_hook(item, False)
        while self.ring.count:
            if self.take(item):
                if self.putters.first is not NULL:
                    self.admit()
                return True
        if self.is_down:
            raise shut_down("get")
        return False

    cdef bint finish_take(self, Place *place, PyObject **item) except -1:
        if place.outcome != KEPT:
            return ItemQueue.finish_take(self, place, item)
        try:
            return self.take_by_hook(item, True)
        finally:
            if self.kept_process == forks and self.promised > 0:
                self.promised -= 1
            self.offer()

    def get(self, bint block=True, timeout=None):
        """Take the next item; parks while there is none. A checkpoint.

        Args:
            block: False does not park.
            timeout: seconds to wait; None waits for ever, 0 does not park.
        Raises:
            queue.Empty: there is no item, or none came within *timeout*.
            ShutDown: the queue was shut down and is empty.
            ValueError: *timeout* is negative.
            Cancelled: the surrounding scope was cancelled; nothing was taken.
        """
        return self.take_or_wait(block, timeout)

    def get_nowait(self):
        """get(block=False)"""
        if self.derived:
            return self.get(block=False)
        return self.take_or_wait(False, None)

    # --- the rest of the interface

    def qsize(self):
        """The number of items."""
        self.ask_count()
        return self.length()

    def empty(self):
        """Whether there is no item now."""
        self.ask_count()
        return self.length() == 0

    def full(self):
        """Whether a put would have to wait now."""
        self.ask_count()
        return self.is_full()

    def task_done(self):
        """Report that one item that was taken has been dealt with. When it was the last one, join returns.

        Raises:
            ValueError: called more often than items were put in.
        """
        if self.unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self.unfinished -= 1
        if self.unfinished == 0:
            serve_all(&self.joiners, 0)

    def join(self):
        """Park until every item that was put in has been reported by task_done. A checkpoint.

        Raises:
            Cancelled: the surrounding scope was cancelled.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef Place place
        if scheduler is not None:
            scheduler.check()
        while self.unfinished:
            place.item = NULL
            if stand_in_line(&self.joiners, &place, scheduler, "queue join", self, NEVER) == SERVED:
                return
        if scheduler is not None:
            scheduler.spend()

    def shutdown(self, bint immediate=False):
        """From now on put raises ShutDown, and get does once the queue is empty; so do those that wait in them.

        Args:
            immediate: drop the items that are there. They count as done: if nothing else is unfinished, join returns.
        """
        cdef Ring dropped
        dropped.slots = NULL
        dropped.room = dropped.head = dropped.count = 0
        self.is_down = True
        if isinstance(self, PriorityQueue):
            (<PriorityQueue>self).version += 1     # a put that compares now starts over, and finds it shut down
        try:
            if immediate and self.hooked:
                self.drain_by_hook()
            elif immediate:
                dropped = self.ring
                self.ring.slots = NULL
                self.ring.room = self.ring.head = self.ring.count = 0
                self.unfinished = max(self.unfinished - <Py_ssize_t>dropped.count, 0)
        finally:
            serve_all(&self.putters, SHUT)
            serve_all(&self.getters, SHUT)
            if self.unfinished == 0:
                serve_all(&self.joiners, 0)
        ring_drop(&dropped)

    def statistics(self):
        """A named tuple: size, waiting_getters, waiting_putters, peak (most items there ever were), unfinished."""
        self.ask_count()
        return QueueStatistics(
            self.length(), line_length(&self.getters), line_length(&self.putters), self.peak, self.unfinished)

    def __repr__(self):
        bound = f" of {self.maximum}" if self.maximum > 0 else ""
        return (f"<{type(self).__name__} at {<size_t><void *>self:#x}: {self.length()}{bound} items, "
                f"{line_length(&self.getters)} getters and {line_length(&self.putters)} putters wait"
                f"{', shut down' if self.is_down else ''}>")

    # --- what subclasses may replace, and how they are then called

    def _init(self, maxsize):
        pass

    def _qsize(self):
        return <Py_ssize_t>self.ring.count

    def _put(self, item):
        while not self.store(<PyObject *>item):
            pass

    def _get(self):
        cdef PyObject *item = NULL
        while self.ring.count:
            if self.take(&item):
                return adopted(item)
        raise IndexError("_get from an empty queue")

    cdef int lock(self) except -1:
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef void *me = asking()
        cdef Place place
        if self.kept_process != forks:
            self.renew()
        if self.locked and self.lock_owner is me:
            raise RuntimeError(f"_put, _get or _qsize of {type(self).__name__} uses the queue that called it")
        while self.locked:
            place.item = NULL
            if stand_in_line(&self.lockers, &place, scheduler, "queue hook", self, NEVER) == SERVED:
                break
        self.locked = True
        self.lock_owner = me
        return 0

    cdef void unlock(self) noexcept:
        self.lock_owner = NULL
        if serve(&self.lockers) is NULL:
            self.locked = False
        self.offer()
        self.admit()

    cdef int lock_and_count(self) except -1:
        self.lock()
        try:
            self.hook_count = self._qsize()
        except:
            self.unlock()
            raise
        return 0

    cdef int ask_count(self) except -1:
        # For Python, which wants to know how many there are. A hook that asks has the lock.
        if self.hooked and not (self.is_busy() and self.lock_owner is asking()):
            self.lock()
            self.recount()
        return 0

    cdef int recount(self) except -1:
        # With the lock, which it gives up.
        try:
            self.hook_count = self._qsize()
        finally:
            self.unlock()
        return 0

    cdef bint put_by_hook(self, object item, bint granted) except -1:
        self.lock_and_count()
        if self.is_down:
            self.unlock()
            raise shut_down("put")
        if not granted and self.is_full():
            self.unlock()
            return False
        try:
            self._put(item)
        finally:
            self.recount()
        self.count_in()
        return True

    cdef bint take_by_hook(self, PyObject **item, bint promised) except -1:
        cdef object found
        self.lock_and_count()
        if self.hook_count - self.promised + promised <= 0:
            self.unlock()
            if self.is_down:
                raise shut_down("get")
            return False
        try:
            found = self._get()
        finally:
            self.recount()
        Py_INCREF(found)
        item[0] = <PyObject *>found
        return True

    cdef bint runs_python(self) noexcept:
        return not self.direct

    cdef bint has_news(self) noexcept:
        if self.kept_process != forks:
            self.renew()
        return self.is_down or (self.hook_count - self.promised > 0 if self.hooked else self.ring.count != 0)

    cdef bint is_busy(self) noexcept:
        if self.kept_process != forks:
            self.renew()
        return self.locked

    cdef void offer(self) noexcept:
        # There may be an item: keep one each for the first getters in line.
        cdef Place *place
        while self.getters.first is not NULL and self.hook_count - self.promised > 0:
            place = serve(&self.getters)
            if place is NULL:
                return
            self.promised += 1
            place.outcome = KEPT

    cdef int drain_by_hook(self) except -1:
        self.lock()
        try:
            while self._qsize():
                self._get()
                self.unfinished -= self.unfinished > 0
        finally:
            self.recount()
        return 0


cdef class LifoQueue(Queue):
    """A Queue that gives the newest item first."""

    cdef bint take(self, PyObject **item) except -1:
        item[0] = ring_take_newest(&self.ring)
        return True


cdef class PriorityQueue(Queue):
    """A Queue that gives the smallest item first; equal ones in any order. Usually of tuples (priority, item).

    Comparing may run any code. If it raises, the put or get that compared raises that and the queue is as it was.
    """

    def __cinit__(self):
        self.direct = False

    cdef int less(self, PyObject *one, PyObject *other) except -1:
        # Whoever takes an item out meanwhile may hold its last other reference.
        cdef object first = <object>one
        cdef object second = <object>other
        return PyObject_RichCompareBool(first, second, Py_LT)

    cdef bint store(self, PyObject *item) except -1:
        cdef uint64_t version = self.version
        cdef size_t position = self.ring.count
        cdef size_t hole, parent
        cdef bint less
        if not ring_reserve(&self.ring):
            raise MemoryError("no room for another item")
        while position > 0:
            parent = (position - 1) >> 1
            less = self.less(item, self.ring.slots[parent])
            if self.version != version:
                return False
            if not less:
                break
            position = parent
        hole = self.ring.count
        while hole > position:
            parent = (hole - 1) >> 1
            self.ring.slots[hole] = self.ring.slots[parent]
            hole = parent
        Py_INCREF(<object>item)
        self.ring.slots[position] = item
        self.ring.count += 1
        self.version += 1
        return True

    cdef bint take(self, PyObject **item) except -1:
        cdef uint64_t version = self.version
        cdef size_t count = self.ring.count - 1
        cdef PyObject *last = self.ring.slots[count]
        cdef size_t path[64]           # where the hole goes: down to a leaf along the smaller children
        cdef int depth = 0
        cdef int step
        cdef size_t hole = 0
        cdef size_t child
        cdef bint less
        while 2 * hole + 1 < count:
            child = 2 * hole + 1
            if child + 1 < count:
                less = self.less(self.ring.slots[child + 1], self.ring.slots[child])
                if self.version != version:
                    return False
                child += less
            path[depth] = child
            depth += 1
            hole = child
        while depth > 0:               # and up again, to where the last item belongs: as a rule not far
            less = self.less(last, self.ring.slots[path[depth - 1]])
            if self.version != version:
                return False
            if not less:
                break
            depth -= 1
        item[0] = self.ring.slots[0]
        hole = 0
        for step in range(depth):
            self.ring.slots[hole] = self.ring.slots[path[step]]
            hole = path[step]
        self.ring.slots[hole] = last
        self.ring.count = count
        self.version += 1
        ring_give_back(&self.ring)
        return True


# --- garbage collection ----------------------------------------------------------------------------------------------


cdef int traverse(PyObject *self, visitproc visit, void *argument) noexcept:
    # SAFETY: only types that begin like ItemQueue have it; the cast takes no reference.
    cdef Ring *ring = &(<ItemQueue>self).ring
    cdef size_t index
    cdef int stop = greenio_queues_fields_traverse(self, visit, argument)
    for index in range(ring.count):
        if stop:
            break
        stop = visit(ring.slots[(ring.head + index) & (ring.room - 1)], argument)
    return stop


cdef int clear(PyObject *self) noexcept:
    ring_drop(&(<ItemQueue>self).ring)
    return 0


for _kind in (ItemQueue, SimpleQueue, Queue, LifoQueue, PriorityQueue):
    greenio_queues_collect_by(<PyTypeObject *>ItemQueue, <PyTypeObject *>_kind, traverse, clear)
del _kind
