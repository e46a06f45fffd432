# _queues.pxd: the queues of the standard module `queue`, and the ring of items that they and _broadcast keep.
#
# Everything wants the GIL, any OS thread may call. Two kinds of queue share one protocol:
#   - direct (Queue, LifoQueue, SimpleQueue): no Python code runs in an operation, so whoever makes room moves the first waiting
#     putter's item in by itself;
#   - the others (PriorityQueue, which compares, and subclasses with a _put or _get of their own): whoever makes room keeps it
#     for the first waiting putter (`reserved`), who puts the item in as its own fiber, where errors belong.
#
# Invariants, true whenever no method is running:
#   - a getter waits only while there is no item, a putter only while `is_full()`;
#   - an item is in the ring or with one getter or with one putter, never in two places and never in none;
#   - ring.count <= ring.room; the slots in use each own one reference.
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_XDECREF, PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    PyObject *PyList_New(Py_ssize_t length) noexcept
    void PyList_SET_ITEM(PyObject *list, Py_ssize_t index, PyObject *item) noexcept
    void PyErr_Clear() noexcept

from greenio._scheduler cimport Scheduler
from greenio._waiting cimport Case, Line, Place, Selectable


cdef struct Ring:            # items in order. Zeroed memory is an empty ring
    PyObject **slots         # NULL while room is 0
    size_t room              # slots: 0 or a power of two
    size_t head              # of the oldest item, modulo room
    size_t count             # items

cdef enum:
    FIRST_ROOM = 8           # slots
    KEPT_ROOM = 64           # an empty ring gives larger ones back


cdef inline bint ring_reserve(Ring *ring) noexcept:
    # Room for one item more. False: no memory, and nothing has changed. Runs no Python code, as all of these.
    cdef size_t room, first
    cdef PyObject **slots
    if ring.count < ring.room:
        return True
    room = ring.room * 2 if ring.room else FIRST_ROOM
    slots = <PyObject **>PyMem_Malloc(room * sizeof(PyObject *))
    if slots is NULL:
        return False
    if ring.count:
        first = ring.room - ring.head
        memcpy(slots, ring.slots + ring.head, first * sizeof(PyObject *))
        memcpy(slots + first, ring.slots, ring.head * sizeof(PyObject *))
    PyMem_Free(ring.slots)
    ring.slots = slots
    ring.room = room
    ring.head = 0
    return True


cdef inline void ring_push(Ring *ring, PyObject *item) noexcept:
    # There is room; the caller's reference to the item becomes the ring's.
    ring.slots[(ring.head + ring.count) & (ring.room - 1)] = item
    ring.count += 1


cdef inline void ring_give_back(Ring *ring) noexcept:
    if ring.count == 0:
        ring.head = 0
        if ring.room > KEPT_ROOM:
            PyMem_Free(ring.slots)
            ring.slots = NULL
            ring.room = 0


cdef inline PyObject *ring_take(Ring *ring) noexcept:
    # The oldest item, of which there is one; its reference becomes the caller's.
    cdef PyObject *item = ring.slots[ring.head]
    ring.head = (ring.head + 1) & (ring.room - 1)
    ring.count -= 1
    ring_give_back(ring)
    return item


cdef inline PyObject *ring_take_newest(Ring *ring) noexcept:
    cdef PyObject *item
    ring.count -= 1
    item = ring.slots[(ring.head + ring.count) & (ring.room - 1)]
    ring_give_back(ring)
    return item


cdef inline void ring_drop(Ring *ring) noexcept:
    # Empties it and lets go of the items, the oldest first; their destructors may already use the empty ring. No error may be set.
    # A list lets go of them: of a queue in a queue in a queue, any number, it takes apart only a few within one another, where a loop
    # of our own would take them all, to the end of the C stack.
    cdef Ring old = ring[0]
    cdef size_t index
    cdef PyObject *item
    cdef PyObject *items
    ring.slots = NULL
    ring.room = ring.head = ring.count = 0
    if old.count:
        items = PyList_New(<Py_ssize_t>old.count)
        if items is NULL:
            PyErr_Clear()
        for index in range(old.count):
            item = old.slots[(old.head + index) & (old.room - 1)]
            if items is NULL:
                Py_XDECREF(item)
            else:
                PyList_SET_ITEM(items, <Py_ssize_t>(old.count - 1 - index), item)    # it lets go of its last one first
        Py_XDECREF(items)
    PyMem_Free(old.slots)


cdef class ItemQueue(Selectable):
    # What a getter can wait for. Select's case is get.
    cdef object __weakref__
    cdef object collected              # None. It makes the type one that the garbage collector visits: see _queues.pyx
    cdef Ring ring
    cdef Line getters

    # Takes an item, with its reference, if there is one. Raises ShutDown if none will come.
    cdef bint try_take(self, PyObject **item) except -1
    # The getter at that place was served: its item, with its reference. False: it has to try anew.
    cdef bint finish_take(self, Place *place, PyObject **item) except -1
    cdef object take_or_wait(self, bint block, object timeout)
    # For select. Whether try_take may run Python code, or park.
    cdef bint runs_python(self) noexcept
    # Whether try_take would do more than say False. Runs no Python code, whatever try_take does.
    cdef bint has_news(self) noexcept
    # Whether try_take would have to park before it knows.
    cdef bint is_busy(self) noexcept


cdef class SimpleQueue(ItemQueue):
    pass


cdef class Queue(ItemQueue):
    cdef Py_ssize_t maximum            # items; <= 0: no bound
    cdef Py_ssize_t unfinished         # items put and not yet reported by task_done
    cdef Py_ssize_t peak               # most items there ever were
    cdef bint is_down                  # shutdown() was called
    cdef bint derived                  # a subclass: put_nowait goes through put
    cdef bint hooked                   # with a _put, _get, _qsize or _init of its own
    cdef bint direct                   # see above
    cdef Py_ssize_t reserved           # places kept for putters that were served and have not run yet
    cdef unsigned int kept_process     # forks behind the process that `reserved`, `promised` and `locked` are about
    cdef Line putters                  # each place with its item
    cdef Line joiners
    # Of hooked ones only. The hooks run one at a time.
    cdef Py_ssize_t hook_count         # what _qsize said last: at the end of the last operation
    cdef Py_ssize_t promised           # items kept for getters that were served and have not run yet
    cdef bint locked
    cdef void *lock_owner              # fiber, or ident of an OS thread: only compared. NULL: handed over just now
    cdef Line lockers

    # Both are asked only if there is room, an item. False: others used the queue meanwhile (comparing runs Python code), and nothing
    # was done. What they raise leaves the queue as it was.
    cdef bint store(self, PyObject *item) except -1
    cdef bint take(self, PyObject **item) except -1
    cdef Py_ssize_t length(self) noexcept
    cdef bint is_full(self) noexcept
    cdef void renew(self) noexcept
    cdef void count_in(self) noexcept
    # False: full. `granted`: a place is kept for it.
    cdef bint try_put(self, object item, bint granted) except -1
    cdef int put_or_wait(self, object item, bint block, object timeout) except -1
    cdef int put_granted(self, object item) except -1
    # There may be room: in with the first putters in line.
    cdef void admit(self) noexcept
    cdef int lock(self) except -1
    # Serves whoever waits for what hook_count says now.
    cdef void unlock(self) noexcept
    # Takes the lock and asks _qsize. With -1 the lock is free.
    cdef int lock_and_count(self) except -1
    cdef bint put_by_hook(self, object item, bint granted) except -1
    cdef bint take_by_hook(self, PyObject **item, bint promised) except -1
    cdef int recount(self) except -1
    cdef int ask_count(self) except -1
    cdef void offer(self) noexcept
    cdef int drain_by_hook(self) except -1


cdef class LifoQueue(Queue):
    pass


cdef class PriorityQueue(Queue):
    # The ring is a heap: head 0, ring.slots[i] not above its children 2i + 1 and 2i + 2.
    cdef uint64_t version              # counts what changes it

    cdef int less(self, PyObject *one, PyObject *other) except -1


cdef class GetCase(Case):
    cdef ItemQueue queue
    cdef bint at_once                  # the select does not wait: a queue that is busy cannot give anything now
    cdef bint again                    # finish found nothing after all: the select tries anew
