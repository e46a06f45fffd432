# _socket.pxd: a socket's system calls: tried first, parked on EAGAIN.
#
# Invariants:
#   - a descriptor is registered with a scheduler's poller at its first EAGAIN there, once, edge-triggered, for both directions;
#   - in each direction fibers are served first come first served: whoever finds others waiting lines up;
#   - O_NONBLOCK is set on descriptors made here and on no others: it sits on the open file, which others may share. recv and
#     send ask for it by MSG_DONTWAIT, so they need no such flag;
#   - a registered descriptor is taken out of every poller before it is closed.
from libc.stdint cimport int64_t

from greenio._scheduler cimport Scheduler, WaitNode, Watch

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr_storage:
        unsigned short ss_family

cdef class SocketCore:
    cdef readonly int fd              # -1 once closed or detached
    cdef int domain                   # AF_…, SOCK_… and protocol as plain numbers
    cdef int kind
    cdef int protocol
    cdef bint nonblocking             # O_NONBLOCK is set, by us
    cdef bint short_means_drained     # TCP, no SO_OOBINLINE: a short read has emptied the buffer
    cdef object timeout_seconds       # float, or None: for ever
    cdef Watch watch                  # of the scheduler that used it last, or None
    cdef object inner                 # _socket.socket on the same descriptor, for calls that never wait; made on first use
    cdef public int _io_refs          # files from makefile that are open
    cdef public bint _closed          # close was called; the descriptor lives until the last such file is closed

    cdef bint is_tcp(self) noexcept
    cdef bint never_waits(self) noexcept
    cdef bint waits_for_all(self, int flags) noexcept
    cdef Watch watch_of(self, Scheduler scheduler)
    cdef int64_t deadline(self, Scheduler scheduler) except? -2
    cdef Watch watch_to_wait(self, Scheduler scheduler)
    cdef Py_ssize_t receive(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1
    cdef Py_ssize_t receive_waiting(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1
    cdef recv_whole(self, Scheduler scheduler, Py_ssize_t size, int flags)
    cdef Py_ssize_t receive_whole(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1
    cdef Py_ssize_t transmit(self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags, bint whole) except -1
    cdef Py_ssize_t transmit_waiting(
        self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags, bint whole, Py_ssize_t sent) except -1
    cdef void note_short_read(self, Watch watch, Py_ssize_t count, Py_ssize_t size, int flags) noexcept
    cdef int try_accept(self, sockaddr_storage *address, socklen_t *length) noexcept
    cdef int accept_waiting(self, Scheduler scheduler, sockaddr_storage *address, socklen_t *length) except -1
    cdef int connect_to_full_backlog(self, Scheduler scheduler, address) except -1
    cdef int connect_waiting(self, Scheduler scheduler) except -1
