# _socket.pxd: a socket's system calls: tried first, parked on EAGAIN.
#
# Invariants:
#   - a descriptor is registered with a scheduler's poller at its first EAGAIN there, once, edge-triggered, for both directions;
#   - in each direction fibers are served first come first served: whoever finds others waiting lines up;
#   - O_NONBLOCK is set on descriptors made here and on no others: it sits on the open file, which others may share. recv and
#     send ask for it by MSG_DONTWAIT, so they need no such flag;
#   - a registered descriptor is taken out of every poller before it is closed;
#   - what may be refused while others of its direction succeed (an urgent byte, a datagram to one of many) does not stand in line.
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t

from greenio._scheduler cimport Scheduler, WaitNode, Watch

cdef extern from "socket_calls.h":
    Py_ssize_t recv_call "greenio_recv"(int fd, void *buffer, size_t size, int flags)
    Py_ssize_t send_call "greenio_send"(int fd, const void *data, size_t size, int flags)
    int bytes_of "greenio_bytes_of"(object data, Py_buffer *view) except -1

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr_storage:
        unsigned short ss_family

cdef enum:
    # Where no event tells when there is room, a call is tried again: after this, then after twice as long, and so on.
    FIRST_PAUSE_NS = 500_000
    LONGEST_PAUSE_NS = 20_000_000
    # ENOBUFS may pass, when a device's queue has emptied; or not, when a datagram is larger than any room. So long it gets.
    NO_BUFFERS_NS = 1_000_000_000


# What is raised to who sent all of something: `bytes_sent` is 0 unless it says otherwise.
cdef int say_bytes_sent(error) except -1


cdef struct Pause:                    # between two tries, where no event tells
    int64_t length_ns                 # of the next
    int64_t last_ns                   # when to give up; NEVER: not known yet


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
    cdef char *latest                 # where the object was that recv returned last; it may be gone: only ever fetched into the cache
    cdef Py_ssize_t latest_bytes
    cdef PyObject *above              # the stream on top of it, as it may be gone; or NULL
    cdef list asides                  # of Aside: calls that wait, each on a descriptor of its own; or None
    cdef public int _io_refs          # files from makefile that are open
    cdef public bint _closed          # close was called; the descriptor lives until the last such file is closed

    cdef bint is_tcp(self) noexcept
    cdef bint never_waits(self) noexcept
    cdef bint waits_for_all(self, int flags) noexcept
    # Whether the caller's MSG_DONTWAIT asks for the kernel's answer of now. With a timeout it is void, as in the standard module.
    cdef bint wants_no_wait(self, int flags) noexcept
    cdef Watch watch_of(self, Scheduler scheduler)
    cdef int64_t deadline(self, Scheduler scheduler) except? -2
    cdef Watch watch_to_wait(self, Scheduler scheduler)
    cdef Py_ssize_t receive(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1
    cdef void note_latest(self, bytes data) noexcept
    cdef Py_ssize_t receive_now(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1
    cdef Py_ssize_t receive_aside(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1
    cdef Py_ssize_t receive_waiting(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1
    cdef recv_whole(self, Scheduler scheduler, Py_ssize_t size, int flags)
    cdef Py_ssize_t receive_whole(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1
    cdef Py_ssize_t transmit(self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags, bint whole) except -1
    cdef Py_ssize_t transmit_now(self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags, bint whole) except -1
    cdef int transmit_whole(self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags) except -1
    cdef Py_ssize_t transmit_waiting(
        self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags, bint whole, Py_ssize_t sent) except -1
    # Whether a refusal with that errno may pass by itself; the wait for it, in tries. OSError: it did not.
    cdef bint may_find_buffers(self, int number) noexcept
    cdef int wait_for_buffers(self, Scheduler scheduler, Pause *pause, int64_t deadline_ns) except -1
    cdef int wait_a_moment(self, Scheduler scheduler, Pause *pause, int64_t deadline_ns, object reason) except -1
    cdef void note_short_read(self, Watch watch, Py_ssize_t count, Py_ssize_t size, int flags) noexcept
    cdef int try_accept(self, sockaddr_storage *address, socklen_t *length) noexcept
    cdef int accept_waiting(self, Scheduler scheduler, sockaddr_storage *address, socklen_t *length) except -1
    cdef int connect_to_full_backlog(self, Scheduler scheduler, address) except -1
    cdef int connect_waiting(self, Scheduler scheduler) except -1


cdef class Aside:
    # A descriptor for one call, to wait for what the socket's own cannot tell, or tells whoever stands in line. The socket's close
    # ends the wait. Its maker closes it, whatever happens.
    cdef int fd                       # -1: there was none to be had, and the call is tried again after pauses
    cdef SocketCore owner
    cdef Watch watch                  # None before the first wait
    cdef object fiber                 # whose call it is
    cdef int64_t deadline_ns
    cdef Pause pause

    cdef void take(self, int fd)      # a descriptor to wait on, owned from now on
    cdef int open_copy(self, Scheduler scheduler) except -1
    # Parks until the call may be worth another try. Raises EBADF, TimeoutError, what interrupts the fiber.
    cdef int wait(self, Scheduler scheduler, bint to_write, object reason) except -1
    cdef void close(self)


cdef object socket_error(int number)
# For a call that has not parked: it counts against the budget too, or who tries again and again would starve the others.
cdef int fail(Scheduler scheduler, int number) except -1
# An address as the standard module has it; None for what only it knows.
cdef object address_of(int domain, sockaddr_storage *storage, socklen_t length)
# To receive `size` bytes into; and what was received there, `count` bytes, more than `size` where MSG_TRUNC says so.
cdef bytes room_for(Py_ssize_t size, int flags)
cdef bytes cut(bytes data, Py_ssize_t size, Py_ssize_t count)
