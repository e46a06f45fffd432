# _lookups.pxd: blocking questions that several fibers may ask at once, such as name lookups: each is asked once, in an OS
# thread, and the answer goes to all who wait for it. At most `max_threads` run at once; the rest wait in line.
#
# The threads are those of _threads.pxd's pool, the bound is its own: a dead name server holds up lookups and nothing else.
# Everything wants the GIL.
#
# Invariants, true whenever no method is running:
#   - a lookup is in `under_way`, if it can be shared, from its first caller until its answer has come, or its last caller has left
#     it while it had no thread yet;
#   - a lookup is in the queue exactly while it has no thread, and somebody waits for it;
#   - with somebody in the queue, `max_threads` lookups run or more; or some run, and the system had no thread for one more.
from greenio._scheduler cimport Scheduler
from greenio._threads cimport Job
from greenio._waiting cimport Line


cdef class Lookup(Job):
    cdef object key                    # in `under_way`; None: not shared
    cdef object fn
    cdef tuple arguments
    cdef Line callers                  # who waits for the answer
    cdef Py_ssize_t caller_count       # and has not left
    cdef bint queued
    cdef bint done
    cdef object value
    cdef object error                  # what fn raised, or None

    cdef int finish(self) except -1
    cdef int leave(self) except -1
    # The value, or raises the error. A copy of it, unless the caller is alone.
    cdef object answer(self)
