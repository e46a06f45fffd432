# _select.pxd: one of many. The cases that are no primitive's own: a fiber's end, a future, a descriptor's readiness, a moment.
#
# A select tries its cases in a random order and takes the first that can be done. If there is none, it lines up in all, waits, and
# leaves all lines again. Who serves one of its places has done that operation for it, and no other place of it can be served; when
# it is woken by anything else it tries all of them anew. Between the last attempt and the wait no Python code runs.
#
# Some queues' attempts run Python code, which may even park (comparisons, hooks). Then a second round follows, in which these are only
# asked for news, in C; the others are attempted again. What it finds sends the select back to the first round.
#
# Everything wants the GIL. Cases are made for one select, by its own call, and hold what they put elsewhere until it has ended.
from libc.stdint cimport int64_t

from greenio._scheduler cimport Fiber, Scheduler, Watch, WaitNode
from greenio._waiting cimport Case, Line, Place, Selectable


cdef class Prepared(Case):
    # A case that has to run Python code before it can line up. attempt() may run some too, before prepare, but not after it.
    cdef int prepare(self, Scheduler scheduler) except -1
    # Takes back whatever prepare did. Also after a prepare that failed, or was never called.
    cdef int undo(self) except -1


cdef class FiberCase(Prepared):
    cdef Fiber fiber
    cdef WaitNode node             # among the fiber's joiners, if a fiber waits; node.fiber NULL: not there
    cdef Line line                 # an OS thread's place, served by `callback`
    cdef object callback           # what the fiber was given, or None


cdef class FutureCase(Prepared):
    cdef object future
    cdef bint ended                # said by the callback
    cdef Line line
    cdef object callback           # what the future was given, or None


cdef class DescriptorCase(Prepared):
    cdef object source             # as the caller has it
    cdef int fd
    cdef bint to_write
    cdef Watch watch               # once prepared
    cdef WaitNode node             # among its readers or writers; node.fiber NULL: not there


cdef class MappedCase(Prepared):
    # Another case, whose value goes through a function once it was taken.
    cdef Case inner
    cdef object fn


cdef class MomentCase(Case):
    cdef int64_t deadline_ns       # on the scheduler's clock, an OS thread's by CLOCK_MONOTONIC; or NEVER
    cdef bint due


cdef class Mapped(Selectable):
    cdef readonly object thing     # what select takes
    cdef readonly object fn        # called with the value of its case; must not park


cdef class Readiness(Selectable):
    cdef readonly object source
    cdef readonly bint to_write


cdef class Moment(Selectable):
    cdef readonly double seconds   # from the select's start, or on current_time's clock
    cdef readonly bint relative
