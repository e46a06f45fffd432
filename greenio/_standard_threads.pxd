# _standard_threads.pxd: the standard library's locks, simple queues and threads, for fibers.
#
# Everything wants the GIL and may be called from any fiber and any OS thread.
#
# Invariants, true whenever no method is running:
#   - of a lock in `lines` that is free, either nobody in its line could be served, or somebody is `woken`, and on its way to it;
#   - who was served as the owner holds the lock from that moment on;
#   - an RLock's owner is the thread id of its holder's thread state, and 0 while it is free.
from greenio._scheduler cimport Fiber
from greenio._waiting cimport Line


cdef class WaitingLine:
    # Beside one lock or queue, as long as anybody waits for it; or beside the import lock.
    cdef Line line
    cdef Py_ssize_t users          # calls that stand in it, or are about to
    cdef bint woken                # somebody was served who has to try for itself, and has not yet run


cdef class ThreadHandle:
    cdef int state                 # HandleState, of a fiber's
    cdef unsigned long thread_ident  # 0: not started
    cdef Fiber fiber               # None before its start and after its end
    cdef object native             # the real handle, of a thread that is an OS thread; else None
    cdef Line line                 # in join()

    cdef int end(self) except -1   # the thread has ended: whoever joins it goes on


cdef class FiberThread:
    # What a thread's fiber calls, from start to end; while it runs, its fiber's `function`.
    cdef object function           # the thread's own, until it has returned
    cdef object arguments          # its tuple,
    cdef object keywords           # and its dict, or None
    cdef ThreadHandle handle       # or None
    cdef bytes system_name         # what the kernel would call it, or None
    cdef object sentinel           # a lock, held until the thread has ended; or None
