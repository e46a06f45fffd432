# _task_groups.pxd: task groups. A group is a cancel scope that fibers are born into, and whose exit waits until they have ended.
#
# spawn, cancel and the iteration over results may be used from any OS thread, the rest by fibers of the group's own scheduler.
# Everything wants the GIL.
#
# Invariants of a GroupScope, true whenever nothing here is running:
#   - `running` is the number of `members` that are not in `held_back`; with `max_running` somebody is held back only while
#     that many run or more (what start() brings in does not queue);
#   - a fiber is in `held_back` exactly until its turn has come or it has ended; until then its function is a HeldBack;
#   - whoever waits for the last member has `waiter` set, and is unparked by the end of each that may be the last.
from libc.stdint cimport int64_t

from greenio._scheduler cimport Fiber, Limit, Scheduler
from greenio._scopes cimport CancelScope
from greenio._waiting cimport Line


cdef class Nones:
    # So many results that were None: a group that serves for months, and that nobody asks for results, does not grow.
    cdef Py_ssize_t count


cdef class GroupScope(CancelScope):
    cdef list failures                 # what children raised, and what was thrown into the fiber that waits for them, as they came
    cdef object base_error             # the first SystemExit or KeyboardInterrupt among these, which is not in `failures`; or None
    cdef bint cut_short                # a member ended by cancellation
    cdef Py_ssize_t max_running        # 0: no bound
    cdef Py_ssize_t running
    cdef object held                   # deque: `held_back` first come first served, and some that have ended. None: nobody ever
    cdef set held_back                 # None: nobody ever
    cdef Py_ssize_t starting           # calls of start() under way
    cdef Fiber waiter                  # in wait_for_members, or None
    cdef object finished               # deque of results not taken yet, of Nones a count; None: never kept
    cdef Nones last_nones              # the last in `finished`, if that is one and not taken yet; else None, or with a count of 0
    cdef Line takers                   # who waits for a result

    # Waits until all members have ended; what is thrown in meanwhile cancels them and is a failure. Returns whether it had to wait.
    cdef bint wait_for_members(self, Scheduler scheduler, object reason, object waiting_on) except -1
    cdef int child_ended(self, Fiber fiber) except -1
    cdef int keep_result(self, object result) except -1
    cdef int take_failure(self, object error, object reason) except -1
    cdef int let_in(self) except -1
    cdef void wake_waiter(self) noexcept


cdef class TaskGroup:
    cdef object __weakref__
    cdef GroupScope scope

    cdef int check_open(self) except -1
    cdef bint conclude(self, Scheduler scheduler, object exception, bint waited, bint stray) except -1


cdef class TaskStatus:
    cdef GroupScope group              # that it moves to
    cdef GroupScope waiting            # where it is until then
    cdef Fiber fiber                   # None until it is made
    cdef bint called
    cdef object value


cdef class Bell:
    # An event for what is made of Python here: any fiber and any OS thread may wait.
    cdef bint rung
    cdef Line line
