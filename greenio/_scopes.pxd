# _scopes.pxd: cancel scopes. A tree: a scope's parent is the one it was entered in or, for the outermost of a fiber that a task
# group spawned, the group's.
#
# Nothing is kept that can be worked out: whether a fiber is interrupted, when it will be, and why, is read off its chain of
# scopes, from the innermost outwards, up to a shield, whenever something in the chain changes. The result is CANCELLED in the
# fiber's `interrupts`, its `limit_ns` and its timer, which is all that the scheduler looks at; so a timeout around something
# that does not wait touches no heap.
#
# Everything wants the GIL. cancel, deadline and shield may be used from any OS thread, the rest by the scope's own fiber.
#
# Invariants:
#   - fiber.limit is the innermost scope that the fiber is in; from there to the first scope of another fiber, or None, the
#     chain is the fiber's own;
#   - a scope is in a fiber's chain exactly between its entry and its exit, and has that fiber as `fiber`;
#   - every fiber that was born in a scope and has not ended is among its `members`.
from libc.stdint cimport int64_t

from greenio._scheduler cimport Fiber, Limit, Scheduler


cdef class CancelScope(Limit):
    cdef CancelScope parent
    cdef Fiber fiber                   # that is in it; None before and after
    cdef bint entered                  # once and for all
    cdef bint cancelled                # cancel() was called, or the deadline came
    cdef bint past_deadline            # by the deadline
    cdef bint shielded
    cdef readonly bint cancelled_caught
    cdef bint relative                 # `seconds` counts from the entry
    cdef double seconds                # the deadline, from the entry or on current_time's clock; inf: none
    cdef int64_t deadline_ns           # on the scheduler's clock, once entered; NEVER: none
    cdef object cancel_reason
    cdef set members                   # fibers born in it; None: it is no group's

    # `except -1`: RuntimeError where the caller is in the wrong place.
    cdef int enter(self) except -1
    # Takes it out of the fiber's chain. True: *exception* ends here (cancelled_caught says so); may raise what is left of a group.
    cdef bint leave(self, object exception) except -1
    cdef int set_cancelled(self, object reason) except -1
    # Something that fibers inside see has changed.
    cdef int changed(self) except -1
    cdef int place_deadline(self, Scheduler scheduler) except -1
    cdef bint absorb(self, object exception) except -1
    cdef int take_out(self) except -1
    # In a forked child: no member has come along.
    cdef int forget_members(self) except -1


cdef class Timeout(CancelScope):
    pass


# The fiber's state after its chain has changed: CANCELLED, limit_ns, timer; unparks it if it is interrupted now.
cdef int refresh(Fiber fiber) except -1

# The same for the fiber, for all that were born in its scopes up to `outermost` (None: in any of its own), and in theirs.
cdef int refresh_inside(Fiber fiber, CancelScope outermost) except -1
