# _io.pxd: descriptors that greenio did not make, and files on them: waited for by readiness, never by changing them.
#
# What a wait for readiness says is the state when it was asked (poll, level-triggered); the poller's edges tell when to ask again.
#
# Invariants:
#   - O_NONBLOCK is never set here, see `nonblocking`, and taken off only where greenio has set it;
#   - a descriptor's number is closed only when no call in another OS thread uses it any more (`calls`);
#   - a node in a Watch's line is the only one of its fiber there, and its fiber leaves the line before the call returns.
#
# Not taken: one that waits for urgent data in the same lines as readers. Whoever stands first there is told of an event, and one that
# has no use for it would keep it from the others. It has an epoll descriptor of its own, as do waits for many descriptors.
from libc.stdint cimport int64_t

from greenio._scheduler cimport Scheduler, Watch

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents

cdef enum FileKind:
    WAITED                   # poll says whether a call would block, the poller when to ask again
    SOCKET                   # the same, and MSG_DONTWAIT keeps every call from blocking
    DISK                     # regular files and block devices: always ready, and slow; another OS thread makes the calls

cdef class Descriptor:
    cdef readonly int fd              # -1 once closed
    cdef int number                   # as `fd`, until it is closed in the system's eyes as well
    cdef readonly bint owned          # close() closes it: nobody else does, behind our back
    cdef readonly bint nonblocking    # greenio made it and set O_NONBLOCK
    cdef FileKind kind
    cdef bint ask_to_read             # RWF_NOWAIT is worth trying: the kernel has not refused it for this file
    cdef bint ask_to_write
    cdef Py_ssize_t piece             # bytes that a write may have after poll said that there is room, where nothing better is known
    cdef object source                # whose calls these are, for dumps; weakly
    cdef Watch watch                  # of the scheduler that used it last, or None; only of one that is `owned`
    cdef int calls                    # in other OS threads, under way
    cdef object lock                  # DISK: keeps position and data of one call together; else None

    cdef Py_ssize_t try_read(self, char *buffer, Py_ssize_t size) noexcept
    cdef Py_ssize_t try_write(self, const char *data, Py_ssize_t size) noexcept
    cdef Watch watch_of(self, Scheduler scheduler)
    cdef Watch watch_to_wait(self, Scheduler scheduler)
    cdef Py_ssize_t transfer(self, char *buffer, Py_ssize_t size, bint to_write) except -1
    cdef Py_ssize_t transfer_waiting(self, Scheduler scheduler, char *buffer, Py_ssize_t size, bint to_write) except -1
    cdef Py_ssize_t transfer_in_thread(self, char *buffer, Py_ssize_t size, bint to_write) except -1
    cdef Py_ssize_t read_disk(self, Scheduler scheduler, char *buffer, Py_ssize_t size) except -1
    cdef Py_ssize_t write_disk(self, Scheduler scheduler, const char *data, Py_ssize_t size) except -1
    cdef void call_ended(self) noexcept

cdef class Nest:
    # One wait for many descriptors: an epoll descriptor of its own, level-triggered, that the scheduler's poller watches.
    cdef Scheduler scheduler
    cdef int epoll_fd
    cdef Watch watch
    cdef dict wanted                  # events by descriptor
    cdef set closed                   # those that were closed meanwhile

    cdef int open(self, Scheduler scheduler, pollfd *states, Py_ssize_t count) except -1
    # How many are ready, 0 when the deadline came; states[].revents says which.
    cdef int wait(self, pollfd *states, Py_ssize_t count, int64_t deadline_ns, object reason, object waiting_on) except -1
    cdef int leave(self) except -1
