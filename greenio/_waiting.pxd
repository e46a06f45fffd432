# _waiting.pxd: standing in line. What channels, locks, events, queues and select are made of, above park and unpark.
#
# A Waiter is one call that waits: a fiber's, or that of an OS thread without fibers. It has one Place for each thing it waits for
# (select: several), in that thing's Line. Who has something to give serves the first place in the line: the operation has
# then happened, on behalf of the waiter, and cannot be lost: a waiter is served once, and only while it truly waits. One
# that was cancelled, or whose deadline came, a moment before cannot be served any more, though its place may still be there.
#
# Everything wants the GIL, and each step from finding out that one has to wait to being parked runs without letting it go: so
# nothing is missed, whatever OS threads take part. Waiters and places lie on C stacks (select's places on the heap).
#
# Invariants:
#   - a place is in the line that it names, or names none;
#   - a place is out of its line when it has been served, and before its call returns;
#   - a line of an earlier process (fork) is empty: its waiters have not come along.
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t

from greenio._scheduler cimport Fiber, Scheduler

cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock

cdef enum Outcome:           # of standing in line
    SERVED
    TOO_LATE                 # the deadline came
    AGAIN                    # woken for another reason: try the operation from its start


cdef struct Waiter:
    PyObject *fiber          # borrowed; NULL: an OS thread
    unsigned int park_number # the fiber's park that may be ended
    PyThread_type_lock lock  # an OS thread's: held until somebody serves it
    Place *served            # NULL so far

cdef struct Place:
    Place *next
    Place *previous
    Line *line               # NULL: in none
    Waiter *waiter
    PyObject *item           # sending: what is offered, borrowed from the sender; receiving: what was given, owned by the place
    int outcome              # from whoever served it, with a meaning of the line's owner: 0, or that it was closed, …
    int index                # which of select's cases
    unsigned int process     # the line's, when it lined up: in a forked child it stands in no line any more

cdef struct Line:            # first come, first served. Zeroed memory is an empty line
    Place *first
    Place *last
    Py_ssize_t count
    unsigned int process     # how many forks lie behind the process it belongs to


# Forks that lie behind this process, since the module was imported.
cdef unsigned int forks


cdef inline void line_renew(Line *line) noexcept:
    line.first = NULL
    line.last = NULL
    line.count = 0
    line.process = forks


cdef inline void line_append(Line *line, Place *place) noexcept:
    if line.process != forks:
        line_renew(line)
    place.line = line
    place.process = forks
    place.next = NULL
    place.previous = line.last
    if line.last is NULL:
        line.first = place
    else:
        line.last.next = place
    line.last = place
    line.count += 1


cdef inline void line_remove(Place *place) noexcept:
    cdef Line *line = place.line
    if line is NULL:
        return
    place.line = NULL
    if place.process != forks:
        return
    if place.previous is NULL:
        line.first = place.next
    else:
        place.previous.next = place.next
    if place.next is NULL:
        line.last = place.previous
    else:
        place.next.previous = place.previous
    line.count -= 1


cdef inline Py_ssize_t line_length(Line *line) noexcept:
    # Of those whose place is still there: some may have been interrupted and not yet run to leave it.
    return line.count if line.process == forks else 0


# The first place whose waiter could be woken, out of its line now, or NULL. The caller gives it its `item` or `outcome` before
# it lets go of the GIL.
cdef Place *serve(Line *line) noexcept

# The same for all of them, with that outcome and no item. Returns how many.
cdef Py_ssize_t serve_all(Line *line, int outcome) noexcept

# The waiter of a call by the current fiber, or, `scheduler` being None, by this OS thread; before its places are lined up.
# OS threads: MemoryError.
cdef int waiter_init(Waiter *waiter, Scheduler scheduler) except -1
# After the call, whatever happened; its places are out of their lines.
cdef void waiter_drop(Waiter *waiter) noexcept

# Waits; nothing may come between line_append and this. Raises what interrupts the fiber. Places are as they were, but for the one
# served. AGAIN: the caller takes its places out, calls PyErr_CheckSignals, and tries anew: some may have left their lines, passed over.
cdef Outcome wait(Waiter *waiter, Scheduler scheduler, object reason, object waiting_on, int64_t deadline_ns) except *

# All of that for one place: `place.item` is set, the rest is done here. Raises what interrupts the fiber, or a signal handler.
cdef Outcome stand_in_line(
    Line *line, Place *place, Scheduler scheduler, object reason, object waiting_on, int64_t deadline_ns) except *

# A timeout's deadline, for `scheduler`'s current fiber or, None, for this OS thread. ValueError: negative.
cdef int64_t deadline_after(Scheduler scheduler, object timeout) except? -2


cdef class Case:
    # One of the things that a select waits for; made anew for each select.
    cdef readonly object value           # once attempt said True: what the operation returned
    # Do it, if that takes no waiting. Raises what the operation would: then it was this case's turn.
    cdef bint attempt(self, Scheduler scheduler) except -1
    # Line up; attempt has just said False, and nothing came in between.
    cdef int enlist(self, Place *place) except -1
    # Out of wherever enlist put it. Must do for a place that has been served, and for one that was never enlisted.
    cdef int delist(self, Place *place) except -1
    # The place was served: what the operation returns, or raises.
    cdef object finish(self, Place *place)


cdef class Selectable:
    # What has one obvious operation for select: a channel's receive, an event's wait, a lock's acquire.
    cdef Case as_case(self)
