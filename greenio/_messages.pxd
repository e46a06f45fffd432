# _messages.pxd: what comes and goes with an address or ancillary data, and files: recvfrom, sendto, recvmsg, sendmsg, sendfile.
#
# On top of _socket.pyx, with the same lines, and its invariants. IPv4, IPv6 and Unix addresses are read and written here; calls on
# sockets of any other family are the standard module's, told not to wait (MSG_DONTWAIT), and tried again when there is an event.
#
# Invariants:
#   - received descriptors are close-on-exec, and belong to the caller once a call has returned, to nobody if it has raised;
#   - a Unix datagram to a receiver that has no room waits for that receiver, and holds up no other one.
from libc.stdint cimport int64_t

from greenio._scheduler cimport Scheduler
from greenio._socket cimport Aside, SocketCore, sockaddr_storage, socklen_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags

cdef class MessageCore(SocketCore):
    # Whether addresses are read and written here.
    cdef bint is_known_family(self) noexcept
    # May change the message's buffers; with flags and lengths as the kernel left them after it.
    cdef Py_ssize_t receive_message(self, Scheduler scheduler, msghdr *message, int flags) except -1
    cdef Py_ssize_t receive_message_waiting(self, Scheduler scheduler, msghdr *message, int flags) except -1
    cdef Py_ssize_t receive_message_aside(self, Scheduler scheduler, msghdr *message, int flags) except -1
    cdef Py_ssize_t receive_whole_message(self, Scheduler scheduler, msghdr *message, int flags) except -1
    cdef Py_ssize_t transmit_message(self, Scheduler scheduler, msghdr *message, int flags) except -1
    cdef Py_ssize_t transmit_message_waiting(self, Scheduler scheduler, msghdr *message, int flags) except -1
    # A Unix datagram with an address.
    cdef Py_ssize_t transmit_to_one(self, Scheduler scheduler, msghdr *message, int flags) except -1
    cdef Aside toward(self, Scheduler scheduler, msghdr *message)
    # recvmsg and recvmsg_into, from where their arguments have been looked at. `room`: what the bytes are received into; None: not needed.
    cdef object receive_with_control(
        self, Scheduler scheduler, iovec *vector, Py_ssize_t vectors, bytes room, Py_ssize_t control_size, int flags)
    # Bytes sent; below 0: none, in pieces then. What it raises has bytes_sent.
    cdef int64_t send_file(self, Scheduler scheduler, int source, object offset, object count) except -3
    # `descriptor`: to read the file by; None: by its own read().
    cdef object send_pieces(self, Scheduler scheduler, object file, object descriptor, object offset, object count)
    # A method of the standard socket on the same descriptor, with arguments that say MSG_DONTWAIT; `flags` are the caller's.
    cdef object by_standard(
        self, Scheduler scheduler, bint to_write, str name, tuple arguments, dict keywords, int flags)
