# _sync.pxd: what threading has, for fibers: locks, semaphores, events, conditions, barriers. Places in lines (_waiting.pxd), nothing else.
#
# Everything wants the GIL and may be called from any fiber and any OS thread. The name of a caller, as an owner or in a place
# that waits for a lock, is its Fiber, or the ident (an int) of an OS thread without fibers.
#
# Invariants, true whenever no method is running:
#   - a lock that nobody owns, a semaphore above 0 and an event that is set have nobody in line who could be served: what is
#     given back goes straight to the first, so that nobody who comes later gets it before;
#   - whoever was served owns the lock from that moment on, before it runs.
from libc.stdint cimport int64_t, uint64_t

from greenio._scheduler cimport Scheduler
from greenio._waiting cimport Case, Line, Place, Selectable


cdef class Event(Selectable):
    cdef object __weakref__
    cdef bint flag
    cdef uint64_t sets             # calls of set so far
    cdef Line line                 # in wait()


cdef class OwnedLock(Selectable):
    # What Lock and RLock share, and what Condition needs of either.
    cdef object __weakref__
    cdef object holder             # a caller's name, or None: free
    cdef Py_ssize_t depth          # while held: acquires not yet released; more than 1 in an RLock only
    cdef Line line                 # in acquire(); a place's `item` is the name of its caller

    # To its end: the lock is the caller's (True), or the deadline came. RuntimeError: the caller would wait for itself for ever.
    cdef bint acquire_waiting(self, Scheduler scheduler, bint blocking, object timeout) except -1
    cdef bint stand(self, Scheduler scheduler, int64_t deadline_ns) except -1
    # The owner gives it up, however deep.
    cdef void hand_over(self) noexcept
    # The caller owns it again when this ends: cancellation waits, what is thrown in meanwhile is raised at the end. Not so after a
    # DeadlockError, or a second exception.
    cdef int take_back(self, Scheduler scheduler, Py_ssize_t depth) except -1
    # RuntimeError: the caller is not the owner.
    cdef int require_owner(self, Scheduler scheduler, str what) except -1


cdef class Lock(OwnedLock):
    cdef bint enter(self, Scheduler scheduler) except -1      # True: acquired without waiting; False: it has to wait
    cdef int leave(self) except -1                            # release


cdef class RLock(OwnedLock):
    cdef bint enter(self, Scheduler scheduler) except -1
    cdef int leave(self) except -1


cdef class Semaphore(Selectable):
    cdef object __weakref__
    cdef Py_ssize_t value
    cdef Py_ssize_t highest        # that release may bring it to; -1: any
    cdef Line line                 # in acquire()
    cdef bint enter(self, Scheduler scheduler, bint blocking, double seconds) except -1


cdef class BoundedSemaphore(Semaphore):
    pass


cdef class Condition:
    cdef object __weakref__
    cdef OwnedLock lock
    cdef Line line                 # in wait(), without the lock
    # True: notified, or it may have been. The caller owns the lock before and after, also when this raises.
    cdef bint wait_until(self, Scheduler scheduler, int64_t deadline_ns) except -1


cdef class Barrier:
    # Who has arrived stands in `line` until the last one comes, who settles for all of them. While that one runs the action, the
    # line is full (`acting`), and those of the next round stand outside.
    cdef object __weakref__
    cdef readonly Py_ssize_t parties
    cdef object action             # or None
    cdef double seconds            # a wait's timeout unless it has its own; inf: none
    cdef bint is_broken
    cdef bint acting
    cdef bint spoiled              # abort or reset came during the action
    cdef Line line
    cdef Line outside
    # Until the action has ended, or the barrier is broken.
    cdef int wait_outside(self, Scheduler scheduler, int64_t deadline_ns) except -1
    # What came of it (_sync.pyx); UNDECIDED: this is a forked child now, where nobody has come.
    cdef int wait_inside(self, Scheduler scheduler, int64_t deadline_ns) except -1
    cdef int arrive_last(self) except -1
    cdef void settle(self, int outcome) noexcept
    cdef void break_up(self) noexcept
    cdef void break_outside(self) noexcept
