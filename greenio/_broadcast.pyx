# _broadcast.pyx: see _broadcast.pxd.
import types

from greenio._errors import ChannelClosed, WouldBlock

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from greenio._queues cimport Ring, ring_drop, ring_push, ring_reserve, ring_take
from greenio._scheduler cimport NEVER, Scheduler, current_scheduler_or_none
from greenio._waiting cimport SERVED, Case, Line, Place, Selectable, line_append, line_length, serve, serve_all, stand_in_line

cdef extern from *:
    """
    static traverseproc greenio_broadcast_fields_traverse;

    static void greenio_broadcast_collect_by(PyTypeObject *type, traverseproc traverse, inquiry clear)
    {
        greenio_broadcast_fields_traverse = type->tp_traverse;
        type->tp_traverse = traverse;
        type->tp_clear = clear;
    }
    """
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*traverseproc)(PyObject *, visitproc, void *) noexcept
    ctypedef int (*inquiry)(PyObject *) noexcept
    ctypedef struct PyTypeObject:
        pass
    traverseproc greenio_broadcast_fields_traverse
    void greenio_broadcast_collect_by(PyTypeObject *type, traverseproc traverse, inquiry clear) noexcept

cdef enum:                   # Place.outcome of one that was served. 0: the item went over
    SHUT = 1                 # closed: nothing went over
    NO_MEMORY = 2            # nor here

cdef dict policies = {"block": BLOCK, "drop_oldest": DROP_OLDEST, "disconnect": DISCONNECT}


cdef inline object adopted(PyObject *item):
    # The caller's reference becomes the result's.
    cdef object result = <object>item
    Py_DECREF(result)
    return result


cdef object send_closed():
    return ChannelClosed("send on a closed broadcast")


cdef class Broadcast:
    """Sends each item to every subscriber. A subscriber gets, in order, what is sent after it subscribed; one item is one object for all.

    Each subscriber has a buffer of its own. The policy says what a send does about one whose buffer is full:

    - "block": parks until every subscriber has room. All or nothing: a send that raises reached nobody.
    - "drop_oldest": the subscriber loses the oldest item of its buffer, and `Subscription.dropped` counts it.
    - "disconnect": the subscriber is cut off: it can still receive what it has, then receive raises ChannelClosed.

    An item that is sent while there is no subscriber is dropped. A subscription that nobody holds any more has left. Everything may
    be called from any fiber and any OS thread; senders are served first come, first served.

    Args:
        capacity: items that a subscriber may be behind, >= 1. Each holds at most that many.
        policy: one of the three.
    Attributes:
        closed: whether close was called.
    """

    # Broadcast[int], in annotations: of ints.
    __class_getitem__ = classmethod(types.GenericAlias)

    def __init__(self, Py_ssize_t capacity, policy="block"):
        if self.capacity:
            raise RuntimeError("a Broadcast is made once: __init__ was called again")
        if policy not in policies:
            raise ValueError(f"policy is 'block', 'drop_oldest' or 'disconnect', not {policy!r}")
        if capacity < 1:
            raise ValueError(f"capacity is >= 1 items, not {capacity}")
        self.how = policies[policy]
        self.capacity = capacity

    @property
    def policy(self):
        """What it was made with."""
        return next(name for name, how in policies.items() if how == self.how)

    @property
    def subscribers(self):
        """How many there are now."""
        return self.count

    def subscribe(self):
        """A new Subscription, which gets what is sent from now on, also by senders that wait now.

        Raises:
            ChannelClosed: the broadcast is closed.
        """
        cdef Subscription subscription
        if self.closed:
            raise ChannelClosed("subscribe to a closed broadcast")
        if not self.capacity:
            raise RuntimeError("Broadcast.__init__ was not called")
        subscription = Subscription.__new__(Subscription)
        subscription.broadcast = self
        if self.closed:                # by a destructor that the collector called just now
            raise ChannelClosed("subscribe to a closed broadcast")
        self.link(subscription)
        return subscription

    cdef void link(self, Subscription subscription) noexcept:
        subscription.state = OPEN
        subscription.previous = self.last
        if self.last is NULL:
            self.first = <PyObject *>subscription
        else:
            (<Subscription>self.last).next = <PyObject *>subscription
        self.last = <PyObject *>subscription
        self.count += 1

    # --- sending

    cdef bint reserve(self) noexcept:
        cdef PyObject *each = self.first
        while each is not NULL:
            if <Py_ssize_t>(<Subscription>each).ring.count < self.capacity and not ring_reserve(&(<Subscription>each).ring):
                return False
            each = (<Subscription>each).next
        return True

    cdef void deliver(self, PyObject *item, PyObject **dropped) noexcept:
        cdef PyObject *each = self.first
        cdef PyObject *next
        cdef Place *place
        cdef Ring *ring
        cdef Py_ssize_t index = 0
        while each is not NULL:
            next = (<Subscription>each).next
            ring = &(<Subscription>each).ring
            if <Py_ssize_t>ring.count == self.capacity:
                if self.how == DISCONNECT:
                    (<Subscription>each).unlink(CUT_OFF)
                    each = next
                    continue
                dropped[index] = ring_take(ring)
                index += 1
                (<Subscription>each).dropped += 1
                self.full_count -= 1
            Py_INCREF(<object>item)
            place = serve(&(<Subscription>each).receivers)
            if place is not NULL:
                place.item = item
            else:
                ring_push(ring, item)
                if <Py_ssize_t>ring.count == self.capacity:
                    self.full_count += 1
            each = next

    cdef bint try_send(self, object item) except -1:
        cdef PyObject **dropped = NULL
        cdef Py_ssize_t drop_count = 0
        cdef Py_ssize_t index
        if self.closed:
            raise send_closed()
        if self.full_count:
            if self.how == BLOCK:
                return False
            if self.how == DROP_OLDEST:
                drop_count = self.full_count
                dropped = <PyObject **>PyMem_Malloc(drop_count * sizeof(PyObject *))
                if dropped is NULL:
                    raise MemoryError("no room for what the subscribers are to lose")
        if not self.reserve():
            PyMem_Free(dropped)
            raise MemoryError("no room for another item")
        self.deliver(<PyObject *>item, dropped)
        for index in range(drop_count):        # destructors run here, when all is in order
            Py_DECREF(<object>dropped[index])
        PyMem_Free(dropped)
        return True

    cdef void advance(self) noexcept:
        cdef Place *place
        cdef bint ready
        while self.senders.first is not NULL and self.full_count == 0:
            ready = self.reserve()
            place = serve(&self.senders)
            if place is NULL:
                return
            if ready:
                self.deliver(place.item, NULL)
            else:
                place.outcome = NO_MEMORY

    def send(self, item):
        """Send *item* to every subscriber. Under "block", parks until all have room. A checkpoint.

        Raises:
            ChannelClosed: the broadcast is closed, or was while this waited. The item reached nobody.
            Cancelled: the surrounding scope was cancelled. The item reached nobody.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef bint parked = False
        cdef Place place
        if scheduler is not None:
            scheduler.check()
        try:
            while not self.try_send(item):
                parked = True
                place.item = <PyObject *>item
                if stand_in_line(&self.senders, &place, scheduler, "broadcast send", self, NEVER) == SERVED:
                    if place.outcome == SHUT:
                        raise send_closed()
                    if place.outcome == NO_MEMORY:
                        raise MemoryError("no room for another item")
                    return
        finally:
            # Also if it raises: who asks again and again would starve the others.
            if scheduler is not None and not parked:
                scheduler.spend()

    def send_nowait(self, item):
        """send that never parks.

        Raises:
            WouldBlock: under "block", a subscriber has no room. The item reached nobody.
            ChannelClosed: the broadcast is closed.
            Cancelled: the surrounding scope was cancelled.
        """
        cdef Scheduler scheduler = current_scheduler_or_none()
        if scheduler is not None:
            scheduler.check()
        try:
            if not self.try_send(item):
                raise WouldBlock(f"{self.full_count} of {self.count} subscribers have no room")
        finally:
            if scheduler is not None:
                scheduler.spend()

    def close(self):
        """No more items: subscribers receive what they have and then end, senders that wait get ChannelClosed. Again: does nothing."""
        cdef PyObject *each
        self.closed = True
        serve_all(&self.senders, SHUT)
        while self.first is not NULL:
            each = self.first
            (<Subscription>each).unlink(ENDED)

    def __repr__(self):
        return (f"<Broadcast at {<size_t><void *>self:#x}: {self.count} subscribers, {self.full_count} without room for more than "
                f"{self.capacity} items, {line_length(&self.senders)} senders wait{', closed' if self.closed else ''}>")


cdef class Subscription(Selectable):
    """What one subscriber receives of a Broadcast; made by `Broadcast.subscribe`.

    Leaving it as a context manager closes it. Iterating receives until the broadcast is closed and everything that was sent before has
    been received; a subscriber that was cut off gets ChannelClosed then. len() is the number of items that are
    there. In a select it means receive.

    Attributes:
        broadcast: what it subscribes to.
        dropped: items that it lost because it was too slow ("drop_oldest").
    """

    # Subscription[int], in annotations: of ints.
    __class_getitem__ = classmethod(types.GenericAlias)

    def __cinit__(self):
        self.state = LEFT

    def __init__(self):
        raise TypeError("subscriptions are made by Broadcast.subscribe()")

    def __dealloc__(self):
        if self.state == OPEN:
            self.unlink(LEFT)
        ring_drop(&self.ring)

    cdef void unlink(self, State state) noexcept:
        cdef Broadcast broadcast = self.broadcast
        self.state = state
        if self.previous is NULL:
            broadcast.first = self.next
        else:
            (<Subscription>self.previous).next = self.next
        if self.next is NULL:
            broadcast.last = self.previous
        else:
            (<Subscription>self.next).previous = self.previous
        self.next = NULL
        self.previous = NULL
        broadcast.count -= 1
        if <Py_ssize_t>self.ring.count == broadcast.capacity:
            broadcast.full_count -= 1
        serve_all(&self.receivers, SHUT)
        broadcast.advance()

    @property
    def closed(self):
        """Whether nothing more comes in: it or the broadcast was closed, or it was cut off. What is there can be received."""
        return self.state != OPEN

    @property
    def disconnected(self):
        """Whether it was cut off, being too slow ("disconnect"). Stays true when it is closed then."""
        return self.state == CUT_OFF

    # --- receiving

    cdef object closed_error(self):
        if self.state == CUT_OFF:
            return ChannelClosed(
                f"receive on a subscription that was cut off: it was {self.broadcast.capacity} items behind when another was sent")
        if self.state == ENDED:
            return ChannelClosed("receive on a closed broadcast")
        return ChannelClosed("receive on a closed subscription")

    cdef bint try_take(self, PyObject **item) except -1:
        if self.ring.count == 0:
            if self.state == OPEN:
                return False
            raise self.closed_error()
        item[0] = ring_take(&self.ring)
        if self.state == OPEN and <Py_ssize_t>self.ring.count + 1 == self.broadcast.capacity:
            self.broadcast.full_count -= 1
            if self.broadcast.senders.first is not NULL:
                self.broadcast.advance()
        return True

    cdef object finish_take(self, Place *place):
        if place.outcome == SHUT:
            raise self.closed_error()
        return adopted(place.item)

    cdef object take_or_wait(self, bint wait):
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef PyObject *item = NULL
        cdef bint parked = False
        cdef object result
        cdef Place place
        if scheduler is not None:
            scheduler.check()
        try:
            while not self.try_take(&item):
                if not wait:
                    raise WouldBlock("nothing to receive")
                parked = True
                place.item = NULL
                if stand_in_line(&self.receivers, &place, scheduler, "broadcast receive", self, NEVER) == SERVED:
                    return self.finish_take(&place)
            result = adopted(item)
            return result
        finally:
            if scheduler is not None and not parked:
                scheduler.spend()

    def receive(self):
        """Take the oldest item; parks while there is none. A checkpoint.

        Raises:
            ChannelClosed: there is none and none will come: the broadcast or this subscription was closed, or this was cut off.
            Cancelled: the surrounding scope was cancelled; nothing was taken.
        """
        return self.take_or_wait(True)

    def receive_nowait(self):
        """receive that never parks.

        Raises:
            WouldBlock: there is no item.
            ChannelClosed, Cancelled: as receive.
        """
        return self.take_or_wait(False)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return self.take_or_wait(True)
        except ChannelClosed:
            if self.state == CUT_OFF:
                raise
            raise StopIteration from None

    def __len__(self):
        return <Py_ssize_t>self.ring.count

    def __bool__(self):
        # Not whether it holds items: `if subscription:` asks whether there is one.
        return True

    def close(self):
        """Leave: drops what is there; whoever waits in receive gets ChannelClosed. Again: does nothing."""
        if self.state == OPEN:
            self.unlink(LEFT)
        elif self.state == ENDED:
            self.state = LEFT
        ring_drop(&self.ring)

    def __enter__(self):
        return self

    def __exit__(self, exception_type, exception, traceback):
        self.close()

    cdef Case as_case(self):
        cdef ReceiveCase case = ReceiveCase.__new__(ReceiveCase)
        case.subscription = self
        return case

    def __repr__(self):
        state = {OPEN: "", ENDED: ", closed by the broadcast", CUT_OFF: ", cut off", LEFT: ", closed"}[self.state]
        return (f"<Subscription at {<size_t><void *>self:#x}: {self.ring.count} items, {self.dropped} dropped, "
                f"{line_length(&self.receivers)} receivers wait{state}>")


cdef class ReceiveCase(Case):
    """A subscription's receive, for select."""

    cdef bint attempt(self, Scheduler scheduler) except -1:
        cdef PyObject *item = NULL
        if not self.subscription.try_take(&item):
            return False
        self.value = adopted(item)
        return True

    cdef int enlist(self, Place *place) except -1:
        place.item = NULL
        line_append(&self.subscription.receivers, place)
        return 0

    cdef object finish(self, Place *place):
        return self.subscription.finish_take(place)


# --- garbage collection ----------------------------------------------------------------------------------------------


cdef int traverse(PyObject *self, visitproc visit, void *argument) noexcept:
    # SAFETY: Subscription has no subclasses' fields behind its own; the cast takes no reference.
    cdef Ring *ring = &(<Subscription>self).ring
    cdef size_t index
    cdef int stop = greenio_broadcast_fields_traverse(self, visit, argument)
    for index in range(ring.count):
        if stop:
            break
        stop = visit(ring.slots[(ring.head + index) & (ring.room - 1)], argument)
    return stop


cdef int clear(PyObject *self) noexcept:
    # Not the broadcast: leaving it takes __dealloc__, and it refers to nothing.
    if (<Subscription>self).state == OPEN:
        (<Subscription>self).unlink(LEFT)
    ring_drop(&(<Subscription>self).ring)
    return 0


greenio_broadcast_collect_by(<PyTypeObject *>Subscription, traverse, clear)
