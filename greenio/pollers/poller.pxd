# poller.pxd: what asks the kernel which descriptors are ready. The contract, and the table of descriptors.
#
# A poller belongs to one OS thread; add, remove and wake may be called from others, with the GIL. It knows no fiber: readiness
# is told to the Entry.
#
# Invariants:
#   - a descriptor is registered once, for both directions, edge-triggered; it is told at once if it is ready already;
#   - table[fd] is the entry registered under fd, or NULL. An event whose generation is not the entry's was meant for
#     an earlier life of the number (a dup keeps the file open, so the kernel still reports it) and is dropped.
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t

cpdef enum:
    READABLE = 1       # data, a connection, end of stream: the next read does not wait
    WRITABLE = 2
    URGENT = 4         # out-of-band data
    PEER_CLOSED = 8    # the peer has shut down its writing side
    HANG_UP = 16       # both directions are closed
    FAILED = 32        # an error is pending on the descriptor

cdef class Entry:
    cdef readonly int fd               # -1 once it was removed
    cdef uint32_t generation           # which life of the number
    # Called by the poller's wait, on its OS thread: readiness changed to `flags` (an edge, not a state).
    cpdef int ready(self, int flags) except -1

cdef class Poller:
    cdef PyObject **table              # by descriptor; each owns a reference, until it is removed
    cdef Py_ssize_t table_size
    cdef uint32_t generation           # of the newest entry
    cdef readonly Py_ssize_t registered

    # Register entry.fd. OSError, ValueError (already registered under that number): nothing has changed.
    cpdef int add(self, Entry entry) except -1
    # Take it out, before the descriptor is closed. Nothing is said of it any more. Again: does nothing.
    cpdef int remove(self, Entry entry) except -1
    # Whether the kernel still has it. Not if its descriptor was closed without remove(): the number may be another file's by now.
    cpdef bint holds(self, Entry entry) except -1
    # Tell the entries what has happened; wait at most `timeout_ns` (0: do not wait, < 0: for ever) if nothing has. Lets the
    # GIL go only to wait. Returns how many events came; 0 also when woken or interrupted by a signal. What an entry
    # raises comes out once all have been told: no edge is told twice.
    cpdef Py_ssize_t wait(self, int64_t timeout_ns) except -1
    # End a wait that is under way, or the next one. From any OS thread, and without the GIL through wake_fd.
    cpdef int wake(self) except -1
    cpdef int close(self) except -1
    # In a forked child: a new kernel object; what was registered is forgotten, and the old one closed unheard.
    cpdef int after_fork(self) except -1
    cdef readonly int wake_fd          # an eventfd: eight bytes written here wake; -1 if it has none
    cdef readonly int poll_fd          # a descriptor that is readable when there is something to tell; -1 if it has none

    cdef int put(self, Entry entry) except -1
    cdef int take(self, Entry entry) except -1
    cdef Entry find(self, int fd, uint32_t generation)
    cdef void forget_all(self) noexcept
