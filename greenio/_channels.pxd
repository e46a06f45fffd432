# _channels.pxd: items handed from one fiber to another.
#
# Everything wants the GIL; any OS thread may call, with or without fibers. The try_ methods never park, and neither run Python
# code nor let go of the GIL, so that who finds that it has to wait can line up at once.
#
# Invariants, true whenever no method is running, of waiters that truly wait (one that was interrupted keeps its place until it runs):
#   - a waiting receiver means an empty buffer, a waiting sender a full one;
#   - only a select that offers both can stand in both lines;
#   - once `closed`, both lines are empty and stay so;
#   - slots[head], slots[head + 1], … around the end are the `count` items, oldest first; every other slot is None.
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

from greenio._scheduler cimport Scheduler
from greenio._waiting cimport Case, Line, Place, Selectable


cdef class Channel(Selectable):
    cdef object __weakref__
    cdef readonly Py_ssize_t capacity    # items; 0: every send waits for its receive
    cdef readonly bint closed
    cdef list slots                      # a ring; its length is the room there is, up to `capacity`. None: no capacity
    cdef Py_ssize_t head
    cdef Py_ssize_t count
    cdef Py_ssize_t peak                 # the highest count so far
    cdef uint64_t received               # items handed to receivers
    cdef Line senders                    # each place's item is the sender's
    cdef Line receivers

    # False: it would have to wait. ChannelClosed; MemoryError: no room for as many items as the capacity says.
    cdef bint try_send(self, object item) except -1
    # A new reference; NULL: it would have to wait or, if `closed`, nothing will ever come.
    cdef PyObject *try_receive(self) noexcept
    # The same, waiting. NULL: closed and drained. Raises what interrupts the fiber.
    cdef PyObject *receive_or_end(self) except? NULL
    cdef PyObject *wait_for_item(self, Scheduler scheduler) except? NULL
    cdef int wait_for_room(self, Scheduler scheduler, object item) except -1

    cdef int put(self, PyObject *item) except -1
    cdef PyObject *take(self) noexcept
    cdef int grow(self) except -1


cdef class Receiving(Case):
    cdef readonly Channel channel


cdef class Sending(Case):
    cdef readonly Channel channel
    cdef readonly object item
