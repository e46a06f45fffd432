# _broadcast.pxd: one sender's side, many independent receivers.
#
# Everything wants the GIL, any OS thread may call. A send is one step: every subscriber gets the item, or, while one of them has
# no room and the policy says to wait, none. A sender that waits is served by whoever makes the last room, also by a
# subscription's destructor; so what runs then runs no Python code.
#
# Invariants, true whenever no method is running:
#   - `first` links the subscriptions that get what is sent: those whose state is OPEN. The links are borrowed both ways, a
#     subscription takes itself out when it is closed or freed;
#   - `full_count` of them have `capacity` items;
#   - a sender waits only under "block" and while full_count > 0;
#   - a receiver waits only while its subscription is empty and OPEN.
from cpython.ref cimport PyObject

from greenio._queues cimport Ring
from greenio._scheduler cimport Scheduler
from greenio._waiting cimport Case, Line, Place, Selectable

cdef enum Policy:            # for an item that a subscriber has no room for
    BLOCK
    DROP_OLDEST
    DISCONNECT

cdef enum State:             # of a subscription
    OPEN
    ENDED                    # the broadcast was closed: what is there may still be received
    CUT_OFF                  # by DISCONNECT: the same, and then an error
    LEFT                     # closed by itself


cdef class Broadcast:
    cdef object __weakref__
    cdef readonly Py_ssize_t capacity  # items that each subscriber may be behind, >= 1
    cdef readonly bint closed
    cdef Policy how
    cdef PyObject *first               # Subscription, the oldest
    cdef PyObject *last
    cdef Py_ssize_t count              # of them
    cdef Py_ssize_t full_count
    cdef Line senders                  # each place with its item

    # To everybody, now. False: somebody has no room, under BLOCK.
    cdef bint try_send(self, object item) except -1
    # All have room (or the policy makes it, giving `dropped` room for full_count items) and ring_reserve has been done.
    cdef void deliver(self, PyObject *item, PyObject **dropped) noexcept
    cdef bint reserve(self) noexcept
    # There may be room: the first senders in line send.
    cdef void advance(self) noexcept
    cdef void link(self, Subscription subscription) noexcept


cdef class Subscription(Selectable):
    # Select's case is receive.
    cdef object __weakref__
    cdef readonly Broadcast broadcast
    cdef readonly Py_ssize_t dropped   # items that it lost to DROP_OLDEST
    cdef State state
    cdef PyObject *next                # in the broadcast's list
    cdef PyObject *previous
    cdef Ring ring                     # items that were sent and not yet received
    cdef Line receivers

    # Out of the broadcast's list; once and for all.
    cdef void unlink(self, State state) noexcept
    # Takes an item, with its reference. False: there is none yet. Raises ChannelClosed.
    cdef bint try_take(self, PyObject **item) except -1
    # The receiver at that place was served: its item, or ChannelClosed.
    cdef object finish_take(self, Place *place)
    cdef object closed_error(self)
    cdef object take_or_wait(self, bint wait)


cdef class ReceiveCase(Case):
    cdef Subscription subscription
