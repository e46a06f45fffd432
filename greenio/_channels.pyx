# _channels.pyx: channels; the contract and the invariants are in _channels.pxd. A send hands its item to the first receiver that
# waits, and a receive takes the first waiting sender's along: whoever comes later cannot get in between.
#
# The buffer is a list used as a ring, with None where no item is: the garbage collector sees what is in it, and nothing is
# allocated for a message.
#
# Not taken: a deque (a call and a block of 64 slots here and there, where a ring needs two moves of a pointer), channels
# without a bound (a receiver that is slower than its senders would be found out by the memory running out), and a receiving and
# a sending half as objects of their own (a fiber that only sends can be given channel.send).
import types
from collections import namedtuple

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from greenio._scheduler cimport NEVER, Scheduler, current_scheduler_or_none
from greenio._waiting cimport (
    SERVED, Case, Line, Outcome, Place, Selectable, line_append, line_length, serve, serve_all, stand_in_line)

from greenio._errors import ChannelClosed, WouldBlock

cdef extern from *:
    """
    /* What is in a slot for what comes into it; the references move along. */
    static inline PyObject *greenio_slot_exchange(PyObject *slots, Py_ssize_t index, PyObject *item)
    {
        PyObject *before = PyList_GET_ITEM(slots, index);
        PyList_SET_ITEM(slots, index, item);
        return before;
    }

    /* A new reference, as Cython's object. */
    #define greenio_own(item) (item)
    """
    PyObject *exchange "greenio_slot_exchange"(PyObject *slots, Py_ssize_t index, PyObject *item) noexcept
    object own "greenio_own"(PyObject *item)

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    Py_ssize_t PyList_GET_SIZE(PyObject *slots) noexcept
    int PyList_Append(PyObject *slots, PyObject *item) except -1
    int PyList_SetSlice(PyObject *slots, Py_ssize_t low, Py_ssize_t high, PyObject *items) except -1
    PyObject *Py_None
    void incref "Py_INCREF"(PyObject *) noexcept
    void decref "Py_DECREF"(PyObject *) noexcept

cdef enum:
    ROOM_AT_FIRST = 256     # items: 2 KiB; a larger capacity gets its room when it is needed
    CLOSED = 1              # a Place's outcome


ChannelStatistics = namedtuple(
    "ChannelStatistics", "waiting_senders waiting_receivers peak sent received", module="greenio._channels")
ChannelStatistics.__doc__ = """What Channel.statistics() returns.

    waiting_senders, waiting_receivers: fibers and OS threads in line now.
    peak: the most items that were ever buffered.
    sent, received: items taken over from senders, and handed to receivers, since the channel was made.
    """


cdef object closed_to_senders():
    return ChannelClosed("send on a closed channel; the item was not sent")


cdef object closed_to_receivers():
    return ChannelClosed("receive on a closed channel: nothing is left in it, and nothing will come")


@cython.final
@cython.no_gc_clear      # the list breaks the cycles; the ring must not lose it before its end
cdef class Channel(Selectable):
    """Items from fibers that send to fibers that receive: each to one receiver, in the order in which they were sent.

    Senders and receivers are served first come, first served. May be used by the fibers of any OS thread, and by OS threads
    without fibers; made anywhere. Go's channels, but for this:

    - receive on a closed and drained channel raises ChannelClosed, where Go gives a zero value; iteration ends, as Go's range does;
    - send on a closed channel raises ChannelClosed, also in a sender that waits already, where Go panics: the item was not sent;
    - to close a channel twice does nothing, where Go panics;
    - there is no nil channel: leave the case out of the select.

    A channel is true, also when no item is in it. In annotations, Channel[T] is one whose items are Ts.

    Args:
        capacity: items that are held until somebody receives them, an int >= 0; a send waits while there are as many. 0: every
            send waits for its receive. There are no unbounded channels.
    Raises:
        ValueError: *capacity* is negative, too large, or asks for no bound (None, math.inf).
        TypeError: *capacity* is no int.

    Attributes:
        capacity: as it was given.
        closed: close() was called.
    """

    def __cinit__(self, capacity=0):
        if capacity is None or capacity == float("inf"):
            raise ValueError(f"a channel has a bound, so capacity is an int >= 0 (items), not {capacity!r}")
        if not isinstance(capacity, int):
            raise TypeError(f"capacity is an int >= 0 (items), not {capacity!r}")
        if not 0 <= capacity <= PY_SSIZE_T_MAX // 16:
            raise ValueError(f"capacity must be >= 0 items and <= {PY_SSIZE_T_MAX // 16}, not {capacity}")
        self.capacity = capacity
        if self.capacity > 0:
            self.slots = [None] * min(self.capacity, <Py_ssize_t>ROOM_AT_FIRST)

    # Channel[int], in annotations.
    __class_getitem__ = classmethod(types.GenericAlias)

    # --- the ring

    cdef inline int put(self, PyObject *item) except -1:
        # There are fewer items than `capacity`. Takes a reference of its own.
        cdef PyObject *slots = <PyObject *>self.slots
        cdef Py_ssize_t room = PyList_GET_SIZE(slots)
        cdef Py_ssize_t index
        if self.count >= room:
            self.grow()
            room = PyList_GET_SIZE(slots)
        index = self.head + self.count
        if index >= room:
            index -= room
        incref(item)
        decref(exchange(slots, index, item))
        self.count += 1
        if self.count > self.peak:
            self.peak = self.count
        return 0

    cdef inline PyObject *take(self) noexcept:
        # There is an item; its reference goes to the caller. NULL: there is none after all.
        cdef PyObject *slots = <PyObject *>self.slots
        cdef PyObject *item
        cdef Py_ssize_t room = PyList_GET_SIZE(slots)
        if room == 0:        # the garbage collector, before its end, has emptied the list
            self.count = 0
            return NULL
        incref(Py_None)
        item = exchange(slots, self.head, Py_None)
        self.head += 1
        if self.head == room:
            self.head = 0
        self.count -= 1
        return item

    cdef int grow(self) except -1:
        # Twice the room. Nothing here makes an object, so no garbage collection and no other code runs. MemoryError: as it was.
        cdef PyObject *slots = <PyObject *>self.slots
        cdef Py_ssize_t before = PyList_GET_SIZE(slots)
        cdef Py_ssize_t room = min(max(2 * before, <Py_ssize_t>ROOM_AT_FIRST), self.capacity)
        cdef Py_ssize_t index
        if before == 0:      # see take
            self.count = 0
            self.head = 0
        try:
            while PyList_GET_SIZE(slots) < room:
                PyList_Append(slots, Py_None)
        except MemoryError:
            PyList_SetSlice(slots, before, PyList_GET_SIZE(slots), NULL)
            raise
        # What stood from the head to the end stands at the new end.
        if self.head > 0:
            for index in range(before - 1, self.head - 1, -1):
                exchange(slots, index, exchange(slots, index + room - before, exchange(slots, index, NULL)))
            self.head += room - before
        return 0

    # --- try, else stand in line

    cdef bint try_send(self, object item) except -1:
        cdef Place *place
        if self.closed:
            raise closed_to_senders()
        if self.receivers.first is not NULL:
            place = serve(&self.receivers)
            if place is not NULL:
                Py_INCREF(item)
                place.item = <PyObject *>item
                self.received += 1
                return True
        if self.count >= self.capacity:
            return False
        self.put(<PyObject *>item)
        return True

    cdef PyObject *try_receive(self) noexcept:
        cdef PyObject *item = NULL
        cdef Place *place
        if self.count > 0:
            item = self.take()
        if self.senders.first is not NULL:
            place = serve(&self.senders)
            if place is not NULL:
                if self.capacity > 0:
                    self.put(place.item)     # does not fail: one item has just left
                else:
                    # SAFETY: the sender holds the item until it runs, which it cannot before the GIL is let go.
                    item = place.item
                    incref(item)
        if item is not NULL:
            self.received += 1
        return item

    cdef PyObject *receive_or_end(self) except? NULL:
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef PyObject *item
        if scheduler is None:
            item = self.try_receive()
            return item if item is not NULL or self.closed else self.wait_for_item(None)
        scheduler.check()
        item = self.try_receive()
        if item is NULL and not self.closed:
            return self.wait_for_item(scheduler)
        scheduler.spend()
        return item

    cdef PyObject *wait_for_item(self, Scheduler scheduler) except? NULL:
        cdef Place place
        cdef PyObject *item
        while True:
            place.item = NULL
            if stand_in_line(&self.receivers, &place, scheduler, "channel receive", self, NEVER) == SERVED:
                return place.item        # NULL: it was closed
            item = self.try_receive()
            if item is not NULL or self.closed:
                return item

    cdef int wait_for_room(self, Scheduler scheduler, object item) except -1:
        cdef Place place
        while True:
            place.item = <PyObject *>item
            if stand_in_line(&self.senders, &place, scheduler, "channel send", self, NEVER) == SERVED:
                if place.outcome == CLOSED:
                    raise closed_to_senders()
                return 0
            if self.try_send(item):
                return 0

    # --- calls from Python. Without keywords, what has no argument is METH_NOARGS, the shortest call.

    def send(self, item, /):
        """Hand *item* to a receiver, or leave it in the buffer. Parks while there is neither a receiver nor room.

        Raises:
            ChannelClosed: the channel is closed, also if it was closed meanwhile. The item was not sent.
            Cancelled: this fiber was cancelled. The item was not sent.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        if scheduler is None:
            if not self.try_send(item):
                self.wait_for_room(None, item)
            return
        scheduler.check()
        if self.closed:
            scheduler.spend()    # a loop that goes on sending has to let the others run
        if self.try_send(item):
            scheduler.spend()
            return
        self.wait_for_room(scheduler, item)

    @cython.always_allow_keywords(False)
    def receive(self):
        """Take the oldest item. Parks while there is none.

        Raises:
            ChannelClosed: the channel is closed and no item is left, now and for good.
            Cancelled: this fiber was cancelled. Nothing was taken.
        """
        cdef PyObject *item = self.receive_or_end()
        if item is NULL:
            raise closed_to_receivers()
        return own(item)

    def send_nowait(self, item, /):
        """Hand *item* to a receiver that waits, or leave it in the buffer. Never parks, and is no checkpoint.

        Raises:
            WouldBlock: there is neither a receiver nor room. The item was not sent.
            ChannelClosed: the channel is closed. The item was not sent.
        """
        if not self.try_send(item):
            raise WouldBlock(
                f"the channel is full ({self.count} items); send() waits" if self.capacity > 0
                else "no receiver waits on the channel, which holds no items; send() waits")

    @cython.always_allow_keywords(False)
    def receive_nowait(self):
        """Take the oldest item. Never parks, and is no checkpoint.

        Raises:
            WouldBlock: there is no item.
            ChannelClosed: the channel is closed and no item is left, now and for good.
        """
        cdef PyObject *item = self.try_receive()
        if item is not NULL:
            return own(item)
        if self.closed:
            raise closed_to_receivers()
        raise WouldBlock("no item is in the channel, and no sender waits; receive() waits")

    @cython.always_allow_keywords(False)
    def close(self):
        """Let nothing be sent any more. What is in the buffer can still be received.

        Receivers that wait get ChannelClosed, or the end of their iteration; senders that wait get ChannelClosed, and their
        items were not sent. Never parks; closing again does nothing.
        """
        if not self.closed:
            self.closed = True
            serve_all(&self.receivers, CLOSED)
            serve_all(&self.senders, CLOSED)

    @cython.always_allow_keywords(False)
    def statistics(self):
        """Who waits, and how much went through: a ChannelStatistics."""
        return ChannelStatistics(
            line_length(&self.senders), line_length(&self.receivers), self.peak, self.received + self.count, self.received)

    def __iter__(self):
        """Items until the channel is closed and none is left: ``for item in channel``."""
        return self

    def __next__(self):
        cdef PyObject *item = self.receive_or_end()
        if item is NULL:
            raise StopIteration
        return own(item)

    def __len__(self):
        """The items in the buffer."""
        return self.count

    def __bool__(self):
        return True

    def __repr__(self):
        text = f"{self.count} of {self.capacity} items" if self.capacity > 0 else "unbuffered"
        for waiting, who in ((line_length(&self.senders), "sender"), (line_length(&self.receivers), "receiver")):
            if waiting:
                text += f", {waiting} {who}{'s wait' if waiting > 1 else ' waits'}"
        return f"<greenio.Channel {text}{', closed' if self.closed else ''}>"

    cdef Case as_case(self):
        cdef Receiving case = Receiving.__new__(Receiving)
        case.channel = self
        return case


@cython.final
cdef class Receiving(Case):
    """A select's case: receive from `channel`."""

    def __init__(self):
        raise TypeError("made by greenio.receiving(channel)")

    cdef bint attempt(self, Scheduler scheduler) except -1:
        cdef PyObject *item = self.channel.try_receive()
        if item is not NULL:
            self.value = own(item)
            return True
        if self.channel.closed:
            raise closed_to_receivers()
        return False

    cdef int enlist(self, Place *place) except -1:
        place.item = NULL
        line_append(&self.channel.receivers, place)
        return 0

    cdef object finish(self, Place *place):
        if place.outcome == CLOSED:
            raise closed_to_receivers()
        return own(place.item)

    def __repr__(self):
        return f"receiving({self.channel!r})"


@cython.final
cdef class Sending(Case):
    """A select's case: send `item` to `channel`."""

    def __init__(self):
        raise TypeError("made by greenio.sending(channel, item)")

    cdef bint attempt(self, Scheduler scheduler) except -1:
        return self.channel.try_send(self.item)

    cdef int enlist(self, Place *place) except -1:
        place.item = <PyObject *>self.item
        line_append(&self.channel.senders, place)
        return 0

    cdef object finish(self, Place *place):
        if place.outcome == CLOSED:
            raise closed_to_senders()
        return None

    def __repr__(self):
        return f"sending({self.channel!r}, {self.item!r})"


def receiving(Channel channel not None):
    """A case for `select`: receive from *channel*. Its value is the item. The channel itself, as a case, means the same."""
    return channel.as_case()


def sending(Channel channel not None, item):
    """A case for `select`: send *item* to *channel*, if nothing else comes first. Its value is None."""
    cdef Sending case = Sending.__new__(Sending)
    case.channel = channel
    case.item = item
    return case
