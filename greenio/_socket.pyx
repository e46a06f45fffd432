# _socket.pyx: the path of a request. What is fast here is what is not done: no system call to learn what the last one told, no
# GIL let go around calls that cannot block, no copy but from the kernel to an exact bytes object.
#
# After a short read on a TCP stream the buffer is empty, so the next read parks without asking. That holds for flags 0,
# without SO_OOBINLINE, and while no FIN, hang-up, error or urgent data has been seen on the descriptor; everywhere else
# (Unix sockets end a read at descriptors passed along, an urgent mark ends one too) only EAGAIN says that nothing is left.
# A short write says nothing: the kernel reports room only to whom it has refused.
#
# What waits for a name does so in socket.py; addresses are parsed by the standard _socket.
import _socket as standard
import os
import warnings
from sys import exc_info
from types import MethodDescriptorType

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from libc.errno cimport (
    EAGAIN, EBADF, ECONNABORTED, ECONNRESET, EINPROGRESS, EINTR, ENOBUFS, ENOTCONN, errno)
from libc.stdint cimport int64_t, uint16_t, uint32_t

from greenio._scheduler cimport (
    NEVER, close_watch, current_scheduler_or_none, current_scheduler_or_raise, deadline_of, leave_io)
from greenio.pollers.poller cimport FAILED, HANG_UP, PEER_CLOSED, URGENT

cdef extern from "Python.h":
    ctypedef struct PyMethodDef:
        pass
    ctypedef struct PyMethodDescrObject:
        PyMethodDef *d_method
    object PyDescr_NewMethod(type owner, PyMethodDef *method)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        AF_VSOCK
        SOCK_STREAM
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SOL_SOCKET
        SO_ERROR
        SO_LINGER
        SO_OOBINLINE
        MSG_DONTWAIT
        MSG_ERRQUEUE
        MSG_NOSIGNAL
        MSG_OOB
        MSG_PEEK
        MSG_TRUNC
        MSG_WAITALL
    struct sockaddr:
        pass
    struct linger:
        int l_onoff
        int l_linger
    int accept4(int fd, sockaddr *address, socklen_t *length, int flags)
    int socket_call "socket"(int domain, int kind, int protocol)
    int getsockopt_call "getsockopt"(int fd, int level, int option, void *value, socklen_t *length)
    int setsockopt_call "setsockopt"(int fd, int level, int option, const void *value, socklen_t length)
    int getpeername_call "getpeername"(int fd, sockaddr *address, socklen_t *length)
    int shutdown_call "shutdown"(int fd, int how)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        pass
    enum:
        IPPROTO_TCP
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    struct in6_addr:
        pass
    struct sockaddr_in6:
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t ntohs(uint16_t value)
    uint32_t ntohl(uint32_t value)

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int domain, const void *address, char *text, socklen_t size)

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        char sun_path[108]

cdef extern from "<string.h>" nogil:
    void *memset(void *memory, int value, size_t size)
    size_t strnlen(const char *text, size_t most)

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_ULP

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_DUPFD_CLOEXEC
        F_GETFL
        O_NONBLOCK
    int fcntl(int fd, int command, ...)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLOUT
        POLLERR
        POLLHUP
    struct pollfd:
        int fd
        short events
        short revents
    int poll_call "poll"(pollfd *fds, unsigned long count, int timeout_ms)

cdef extern from "<unistd.h>" nogil:
    int close_call "close"(int fd)

cdef extern from "Python.h":
    object PyUnicode_DecodeFSDefaultAndSize(const char *text, Py_ssize_t size)
    bint PyLong_Check(object thing)
    long PyLong_AsLongAndOverflow(object number, int *overflow) except? -1

cdef extern from * nogil:
    """
    /* Macros: gcc takes a function of nothing but prefetches for one without effect, and drops the calls to it. */
    #define greenio_fetch_object(address, size) \
        do { \
            __builtin_prefetch(address); \
            __builtin_prefetch((const char *)(address) + (size)); \
            __builtin_prefetch((const char *)(address) + 2 * (size)); \
        } while (0)
    #define greenio_fetch_stream(address) \
        do { \
            for (int offset = 0; offset < 320; offset += 64) \
                __builtin_prefetch((const char *)(address) + offset); \
        } while (0)
    """
    void fetch_object "greenio_fetch_object"(const void *address, Py_ssize_t size)
    void fetch_stream "greenio_fetch_stream"(const void *address)

cdef enum:
    SCRATCH_BYTES = 128 * 1024
    BYTES_HEAD = 48               # about what a bytes object and malloc add
    BESIDE_THE_DATA = MSG_OOB | MSG_ERRQUEUE

# Received bytes land here and are copied once, into an object of their exact size. The GIL is held from the system call to the
# copy and nothing parks in between, so one is enough for the process.
cdef char scratch[SCRATCH_BYTES]

# What accept() makes: socket.py's class, set by it.
cdef type socket_class = None


def set_socket_class(type cls not None):
    """What accept() and dup() make from now on: a subclass of SocketCore. What it inherits from that becomes its own.

    The interpreter calls a method of C without any detour only where it belongs to the very class of the object.
    """
    global socket_class
    socket_class = cls
    for name, method in vars(SocketCore).items():
        if type(method) is MethodDescriptorType and getattr(cls, name) is method and not name.startswith("__"):
            setattr(cls, name, PyDescr_NewMethod(cls, (<PyMethodDescrObject *><PyObject *>method).d_method))


cdef object socket_error(int number):
    return OSError(number, os.strerror(number))


cdef int say_bytes_sent(error) except -1:
    if not hasattr(error, "bytes_sent"):
        error.bytes_sent = 0


cdef int fail(Scheduler scheduler, int number) except -1:
    scheduler.spend()
    raise socket_error(number)


def _standard_socket(int family, int kind, int protocol, int fd):
    """The standard _socket.socket on *fd*, without a timeout; -1 for what it shall find out. It does not set O_NONBLOCK.

    Under a default timeout it would set the flag, on a file that others may share, and wait in connect.
    """
    default = standard.getdefaulttimeout()
    if default is None:
        return standard.socket(family, kind, protocol, fd)
    standard.setdefaulttimeout(None)   # with the GIL: nobody else sees it
    try:
        return standard.socket(family, kind, protocol, fd)
    finally:
        standard.setdefaulttimeout(default)


cdef bytes room_for(Py_ssize_t size, int flags):
    # To receive into. MSG_TRUNC does not fill what it says it has received.
    data = PyBytes_FromStringAndSize(NULL, size)
    if flags & MSG_TRUNC:
        memset(PyBytes_AS_STRING(data), 0, size)
    return data


cdef bytes cut(bytes data, Py_ssize_t size, Py_ssize_t count):
    # What was received into `size` bytes of room; MSG_TRUNC may say more.
    if count == size:
        return data
    if count > size:
        return data + bytes(count - size)
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), count)


# Those that wait, by descriptor: in a forked child they are closed, but for the forking fiber's own.
cdef dict asides_open = {}


cdef class Aside:
    # A descriptor for one call, to wait for what a socket's own cannot tell, or tells whoever stands in line.
    def __cinit__(self, SocketCore owner):
        self.owner = owner
        self.fd = -1
        self.fiber = current_scheduler_or_raise().current_fiber
        self.pause.length_ns = FIRST_PAUSE_NS
        self.pause.last_ns = NEVER
        self.deadline_ns = owner.deadline(self.fiber.scheduler)

    cdef void take(self, int fd):
        # Without one, out of descriptors as a rule, the call tries again and again.
        if fd >= 0:
            self.fd = fd
            asides_open[fd] = self
            if self.owner.asides is None:
                self.owner.asides = []
            self.owner.asides.append(self)

    cdef int open_copy(self, Scheduler scheduler) except -1:
        # Events of its own, for the same socket.
        self.take(fcntl(self.owner.fd, F_DUPFD_CLOEXEC, 0))

    cdef int wait(self, Scheduler scheduler, bint to_write, object reason) except -1:
        # Until it may be worth to try again. Raises as Scheduler.wait_io.
        cdef WaitNode node
        if self.owner.fd < 0:
            raise socket_error(EBADF)
        if self.fd < 0:
            self.owner.wait_a_moment(scheduler, &self.pause, self.deadline_ns, reason)
            return 0
        if self.watch is None:
            self.watch = scheduler.watch_for(self.fd)
        node.fiber = NULL
        try:
            scheduler.wait_io(self.watch, to_write, &node, self.deadline_ns, reason, self.owner)
        finally:
            leave_io(self.watch, to_write, &node)
        if to_write:
            self.watch.writable = False
        else:
            self.watch.readable = False

    cdef void close(self):
        cdef int fd = self.fd
        self.fd = -1
        if fd < 0:
            return
        self.owner.asides.remove(self)
        if asides_open.pop(fd, None) is self:
            close_watch(fd)
            close_call(fd)


def _close_asides_in_child():
    scheduler = current_scheduler_or_none()
    forking = None if scheduler is None else scheduler.current_fiber
    for fd, aside in list(asides_open.items()):
        if (<Aside>aside).fiber is not forking:
            (<Aside>aside).close()


cdef object address_of(int domain, sockaddr_storage *storage, socklen_t length):
    cdef char text[64]
    cdef sockaddr_in *v4
    cdef sockaddr_in6 *v6
    cdef const char *path
    cdef Py_ssize_t size
    if domain == AF_INET:
        v4 = <sockaddr_in *>storage
        inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs(v4.sin_port)
    if domain == AF_INET6:
        v6 = <sockaddr_in6 *>storage
        inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text))
        return text.decode("ascii"), ntohs(v6.sin6_port), ntohl(v6.sin6_flowinfo), v6.sin6_scope_id
    if domain == AF_UNIX:
        path = (<sockaddr_un *>storage).sun_path
        size = <Py_ssize_t>length - (path - <const char *>storage)
        if size <= 0:
            return ""
        if path[0] == 0:
            return path[:size]
        return PyUnicode_DecodeFSDefaultAndSize(path, strnlen(path, size))
    return None


cdef bint lingers(int fd) noexcept:
    # Whether close waits for the peer: SO_LINGER, which O_NONBLOCK does not soften.
    cdef linger option
    cdef socklen_t length = sizeof(option)
    return getsockopt_call(fd, SOL_SOCKET, SO_LINGER, &option, &length) == 0 and option.l_onoff != 0 and option.l_linger != 0


cdef void drop_linger(int fd) noexcept:
    # The kernel sends what is left, and nobody is told whether it arrives.
    cdef linger option
    if lingers(fd):
        memset(&option, 0, sizeof(option))
        setsockopt_call(fd, SOL_SOCKET, SO_LINGER, &option, sizeof(option))


def _close_at_once(int fd):
    """Close a socket's descriptor without SO_LINGER's wait."""
    drop_linger(fd)
    close_descriptor(fd)


cdef int close_descriptor(int fd) except -1:
    # ECONNRESET: the peer was faster. The descriptor is closed all the same.
    if close_call(fd) < 0 and errno != EINTR and errno != ECONNRESET:
        raise socket_error(errno)
    return 0


cdef bint read_int(object thing, int *number) except -1:
    # False: no int, or none that C's has room for. The standard module says what is wrong with it.
    cdef int overflow
    cdef long value
    if not PyLong_Check(thing):
        return False
    value = PyLong_AsLongAndOverflow(thing, &overflow)
    number[0] = <int>value
    return not overflow and number[0] == value


cdef bint is_plain(known) except *:
    # No urgent data among the rest, and no protocol such as TLS on top of TCP, which ends a read at the end of a record.
    if known.getsockopt(SOL_SOCKET, SO_OOBINLINE):
        return False
    try:
        return not known.getsockopt(IPPROTO_TCP, TCP_ULP, 16).strip(b"\0")
    except OSError:
        return True


cdef class SocketCore:
    """A socket whose calls park the fiber instead of blocking the OS thread. greenio.socket.socket is the public one."""

    def __cinit__(self):
        self.fd = -1

    def __init__(self, int family=-1, int type=-1, int proto=-1, fileno=None):
        cdef int fd
        if fileno is None:
            self.domain = AF_INET if family == -1 else family
            self.kind = SOCK_STREAM if type == -1 else type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)
            self.protocol = 0 if proto == -1 else proto
            fd = socket_call(self.domain, self.kind | SOCK_NONBLOCK | SOCK_CLOEXEC, self.protocol)
            if fd < 0:
                raise socket_error(errno)
            self.fd = fd
            self.nonblocking = True
            self.short_means_drained = self.is_tcp()
        else:
            if isinstance(fileno, float):
                raise TypeError("integer argument expected, got float")
            fd = fileno
            if fd < 0:
                raise ValueError("negative file descriptor")
            known = _standard_socket(family, type if type == -1 else type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC), proto, fd)
            self.inner = known
            self.domain = known.family
            self.kind = known.type
            self.protocol = known.proto
            self.short_means_drained = self.is_tcp() and is_plain(known)
            self.fd = fd
        self.timeout_seconds = 0.0 if type != -1 and type & SOCK_NONBLOCK else standard.getdefaulttimeout()

    cdef bint is_tcp(self) noexcept:
        # The others that are streams on IP, SCTP among them, end a read at the end of a message.
        return self.kind == SOCK_STREAM and self.domain in (AF_INET, AF_INET6) and self.protocol in (0, IPPROTO_TCP)

    def __del__(self):
        if self.fd >= 0:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:
                drop_linger(self.fd)         # whoever lets go of the last reference does not wait
                self._real_close()

    cdef inline Watch watch_of(self, Scheduler scheduler):
        # The one in the caller's scheduler, if it has one: another OS thread may have used the socket last. It may be of an
        # earlier file under that number, which was closed behind our back; watch_to_wait finds that out.
        cdef Watch watch = self.watch
        if watch is not None and (watch.scheduler is not scheduler or watch.fd < 0):
            watch = scheduler.watches.get(self.fd)
        return watch

    cdef int64_t deadline(self, Scheduler scheduler) except? -2:
        if self.timeout_seconds is None:
            return NEVER
        return deadline_of(scheduler, self.timeout_seconds)

    cdef bint never_waits(self) noexcept:
        return self.timeout_seconds is not None and <double>self.timeout_seconds == 0

    cdef bint wants_no_wait(self, int flags) noexcept:
        return flags & MSG_DONTWAIT != 0 and self.timeout_seconds is None

    cdef Watch watch_to_wait(self, Scheduler scheduler):
        # As watch_of, registered if need be; for a call that is about to wait.
        cdef Watch watch
        if self.fd < 0:
            fail(scheduler, EBADF)
        if self.never_waits():
            fail(scheduler, EAGAIN)
        watch = self.watch
        if watch is None or watch.scheduler is not scheduler or watch.fd < 0:
            watch = self.watch = scheduler.watch_for(self.fd)
        return watch

    # --- receive

    cdef inline Py_ssize_t receive(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1:
        cdef Watch watch
        cdef Py_ssize_t count
        scheduler.check()
        if flags & (BESIDE_THE_DATA | MSG_DONTWAIT):
            if self.wants_no_wait(flags):
                return self.receive_now(scheduler, buffer, size, flags)
            if flags & BESIDE_THE_DATA:
                return self.receive_aside(scheduler, buffer, size, flags)
        watch = self.watch_of(scheduler)
        # With flags the kernel may have an answer although there are no data.
        if watch is None or (watch.readers.first is NULL and (watch.readable or flags or self.never_waits())):
            count = recv_call(self.fd, buffer, size, flags | MSG_DONTWAIT)
            if count >= 0:
                self.note_short_read(watch, count, size, flags)
                return count
            if errno == EAGAIN:
                self.watch_to_wait(scheduler).readable = False
            elif errno != EINTR:
                fail(scheduler, errno)
        return self.receive_waiting(scheduler, buffer, size, flags)

    cdef Py_ssize_t receive_now(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1:
        cdef Py_ssize_t count = recv_call(self.fd, buffer, size, flags)
        if count < 0:
            fail(scheduler, errno)
        return count

    cdef inline void note_short_read(self, Watch watch, Py_ssize_t count, Py_ssize_t size, int flags) noexcept:
        if (0 < count < size and self.short_means_drained and flags == 0 and watch is not None
                and not watch.seen & (PEER_CLOSED | HANG_UP | FAILED | URGENT)):
            watch.readable = False

    cdef inline void note_latest(self, bytes data) noexcept:
        self.latest = <char *><PyObject *>data
        self.latest_bytes = PyBytes_GET_SIZE(data)

    cdef Py_ssize_t receive_waiting(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1:
        cdef WaitNode node
        cdef int64_t deadline_ns = self.deadline(scheduler)
        cdef Py_ssize_t count
        cdef Watch watch = self.watch_to_wait(scheduler)
        node.fiber = NULL
        try:
            while True:
                scheduler.wait_io(watch, False, &node, deadline_ns, "socket receive", self)
                # With many connections, what the caller touches next is cold; the system call hides the wait for it. Most callers
                # drop the last message for the next one, which looks at its head and at the heap behind it and its neighbour.
                fetch_object(self.latest, self.latest_bytes + BYTES_HEAD)
                if self.above is not NULL:
                    fetch_stream(self.above)
                count = recv_call(self.fd, buffer, size, flags | MSG_DONTWAIT)
                if count >= 0:
                    self.note_short_read(watch, count, size, flags)
                    return count
                if errno == EAGAIN:
                    watch.readable = False
                elif errno == EINTR:
                    PyErr_CheckSignals()
                else:
                    raise socket_error(errno)
        finally:
            leave_io(watch, False, &node)

    cdef Py_ssize_t receive_aside(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1:
        # The urgent byte, or errors: there may be data and none of these, and nobody waits in line for them.
        cdef Aside aside = None
        cdef Py_ssize_t count
        try:
            while True:
                count = recv_call(self.fd, buffer, size, flags | MSG_DONTWAIT)
                if count >= 0:
                    return count
                if errno == EINTR:
                    PyErr_CheckSignals()
                    continue
                if errno != EAGAIN or self.never_waits():
                    fail(scheduler, errno)
                if aside is None:
                    aside = Aside(self)
                    aside.open_copy(scheduler)
                aside.wait(scheduler, False, "socket receive")
        finally:
            if aside is not None:
                aside.close()

    def recv(self, Py_ssize_t bufsize, int flags=0):
        """Receive at most *bufsize* bytes; b"" at the end of the stream. Parks while there are none.

        With MSG_WAITALL, on a stream without a timeout, it parks until all *bufsize* bytes are there or the stream ends; what had
        come is then the attribute `received` of the exception. With MSG_TRUNC the result is as long as the datagram was, filled up
        with zeros; of a TCP stream, bytes are thrown away, and the result has only their number.

        Raises:
            TimeoutError: the socket's timeout passed. Nothing was taken.
            Cancelled: this fiber was cancelled. Nothing was taken.
            OSError: as the system call says; EBADF if the socket is closed, also while it waits.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Py_ssize_t count
        cdef object data
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if bufsize == 0:
            scheduler.check()
            return b""
        if flags & MSG_WAITALL and self.waits_for_all(flags):
            return self.recv_whole(scheduler, bufsize, flags)
        if bufsize <= SCRATCH_BYTES and not flags & MSG_TRUNC:
            count = self.receive(scheduler, scratch, bufsize, flags)
            data = PyBytes_FromStringAndSize(scratch, count)
            self.note_latest(data)
        else:
            data = room_for(bufsize, flags)
            count = self.receive(scheduler, PyBytes_AS_STRING(data), bufsize, flags)
            data = cut(data, bufsize, count)
        scheduler.spend()
        return data

    cdef bint waits_for_all(self, int flags) noexcept:
        # As in the standard module, where a timeout makes the descriptor nonblocking and the flag void.
        return self.kind == SOCK_STREAM and self.timeout_seconds is None and not flags & (BESIDE_THE_DATA | MSG_DONTWAIT)

    cdef recv_whole(self, Scheduler scheduler, Py_ssize_t size, int flags):
        data = room_for(size, flags)
        data = cut(data, size, self.receive_whole(scheduler, PyBytes_AS_STRING(data), size, flags))
        scheduler.spend()
        return data

    cdef Py_ssize_t receive_whole(self, Scheduler scheduler, char *buffer, Py_ssize_t size, int flags) except -1:
        # MSG_WAITALL, which MSG_DONTWAIT makes void in the kernel. In line until all is there.
        cdef WaitNode node
        cdef Py_ssize_t received = 0
        cdef Py_ssize_t count
        cdef Watch watch
        scheduler.check()
        watch = self.watch_to_wait(scheduler)
        watch.readable = True   # the first look costs less than an event
        node.fiber = NULL
        try:
            while True:
                scheduler.wait_io(watch, False, &node, NEVER, "socket receive", self)
                count = recv_call(self.fd, buffer + received, size - received, flags | MSG_DONTWAIT)
                if count == 0:
                    return received
                if count > 0 and not flags & MSG_PEEK:
                    received += count
                    if received == size:
                        return received
                    scheduler.spend()
                    scheduler.check()
                elif count > 0:
                    # What was looked at stays: begin again when there is more.
                    if count == size or watch.seen & (PEER_CLOSED | HANG_UP | FAILED):
                        return count
                    watch.readable = False
                elif errno == EAGAIN:
                    watch.readable = False
                elif errno == EINTR:
                    PyErr_CheckSignals()
                else:
                    raise socket_error(errno)
        except BaseException as error:
            error.received = PyBytes_FromStringAndSize(buffer, received)
            raise
        finally:
            leave_io(watch, False, &node)

    def recv_into(self, buffer, Py_ssize_t nbytes=0, int flags=0):
        """Receive into *buffer*, at most *nbytes* or as much as it holds; returns how many bytes, 0 at the end. Parks as recv.

        Raises:
            ValueError: *nbytes* is negative or more than *buffer* holds.
            TimeoutError, Cancelled, OSError: as recv; *buffer* is as it was.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Py_buffer view
        cdef Py_ssize_t count
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except BufferError:
            raise TypeError(
                f"recv_into() argument 1 must be read-write bytes-like object, not {type(buffer).__name__}") from None
        try:
            if nbytes < 0:
                raise ValueError("negative buffersize in recv_into")
            if nbytes > view.len:
                raise ValueError("buffer too small for requested bytes")
            nbytes = nbytes or view.len
            if nbytes == 0:
                scheduler.check()
                return 0
            if flags & MSG_WAITALL and self.waits_for_all(flags):
                count = self.receive_whole(scheduler, <char *>view.buf, nbytes, flags)
            else:
                count = self.receive(scheduler, <char *>view.buf, nbytes, flags)
        finally:
            PyBuffer_Release(&view)
        scheduler.spend()
        return count

    # --- send

    cdef inline Py_ssize_t transmit(
            self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags, bint whole) except -1:
        # One system call where it takes everything, or something if not `whole`. The rest in transmit_waiting.
        cdef Watch watch
        cdef Py_ssize_t count = 0
        scheduler.check()
        if self.wants_no_wait(flags):
            return self.transmit_now(scheduler, data, size, flags, whole)
        watch = self.watch_of(scheduler)
        if watch is None or (watch.writers.first is NULL and (watch.writable or self.never_waits())):
            count = send_call(self.fd, data, size, flags | MSG_DONTWAIT | MSG_NOSIGNAL)
            if count == size or (count >= 0 and not whole):
                return count
            if count < 0:
                if errno == EAGAIN:
                    self.watch_to_wait(scheduler).writable = False
                elif errno != EINTR and not self.may_find_buffers(errno):
                    fail(scheduler, errno)
                count = 0
        return self.transmit_waiting(scheduler, data, size, flags, whole, count)

    cdef Py_ssize_t transmit_now(self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags, bint whole) except -1:
        cdef Py_ssize_t sent = 0
        cdef Py_ssize_t count
        while True:
            count = send_call(self.fd, data + sent, size - sent, flags | MSG_NOSIGNAL)
            if count < 0:
                fail(scheduler, errno)
            sent += count
            if sent == size or not whole:
                return sent

    cdef Py_ssize_t transmit_waiting(
            self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags, bint whole, Py_ssize_t sent) except -1:
        # In line from here to the end, so that what others send does not come in between.
        cdef WaitNode node
        cdef Pause pause
        cdef int64_t deadline_ns
        cdef Py_ssize_t count
        cdef Watch watch = None
        node.fiber = NULL
        try:
            deadline_ns = self.deadline(scheduler)
            pause.length_ns = FIRST_PAUSE_NS
            pause.last_ns = NEVER
            watch = self.watch_to_wait(scheduler)
            while True:
                scheduler.wait_io(watch, True, &node, deadline_ns, "socket send", self)
                count = send_call(self.fd, data + sent, size - sent, flags | MSG_DONTWAIT | MSG_NOSIGNAL)
                if count >= 0:
                    sent += count
                    if sent == size or not whole:
                        return sent
                    scheduler.spend()   # a peer that reads as fast as we write would never let us park
                    scheduler.check()
                elif errno == EAGAIN:
                    watch.writable = False
                elif errno == EINTR:
                    PyErr_CheckSignals()
                elif self.may_find_buffers(errno):
                    self.wait_for_buffers(scheduler, &pause, deadline_ns)
                else:
                    raise socket_error(errno)
        except BaseException as error:
            if whole:
                error.bytes_sent = sent
            raise
        finally:
            if watch is not None:
                leave_io(watch, True, &node)

    cdef inline int transmit_whole(self, Scheduler scheduler, const char *data, Py_ssize_t size, int flags) except -1:
        # For sockets without TLS. What it raises says `bytes_sent`. Not by an except clause, which would keep what is being handled
        # for each call that succeeds.
        cdef bint sent = False
        try:
            self.transmit(scheduler, data, size, flags, True)
            sent = True
        finally:
            if not sent:
                say_bytes_sent(exc_info()[1])

    def send(self, data, int flags=0):
        """Send some of *data*, as much as there is room for; returns how many bytes. Parks while there is no room.

        Raises:
            TimeoutError, Cancelled: nothing was sent.
            OSError: as the system call says; EBADF if the socket is closed, also while it waits.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Py_buffer view
        cdef Py_ssize_t count
        if PyBytes_CheckExact(data):
            count = self.transmit(scheduler, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), flags, False)
        else:
            bytes_of(data, &view)
            try:
                count = self.transmit(scheduler, <const char *>view.buf, view.len, flags, False)
            finally:
                PyBuffer_Release(&view)
        scheduler.spend()
        return count

    def sendall(self, data, int flags=0):
        """Send all of *data*, in one piece: what other fibers send on this socket comes before or after. Parks for room.

        Raises:
            TimeoutError, Cancelled, OSError: the first bytes_sent bytes (an attribute of the exception) were sent; the
                stream is cut in the middle of *data* unless it is 0. The timeout is for the whole.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef Py_buffer view
        if PyBytes_CheckExact(data):
            self.transmit_whole(scheduler, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), flags)
        else:
            bytes_of(data, &view)
            try:
                self.transmit_whole(scheduler, <const char *>view.buf, view.len, flags)
            finally:
                PyBuffer_Release(&view)
        scheduler.spend()

    cdef bint may_find_buffers(self, int number) noexcept:
        # Devices, CAN buses above all, refuse a datagram while their queue is full, and no event tells when it is not.
        return number == ENOBUFS and self.kind != SOCK_STREAM and not self.never_waits()

    cdef int wait_for_buffers(self, Scheduler scheduler, Pause *pause, int64_t deadline_ns) except -1:
        cdef int64_t now_ns = scheduler.now()
        if pause.last_ns == NEVER:
            pause.last_ns = now_ns + NO_BUFFERS_NS
        elif now_ns >= pause.last_ns:
            raise socket_error(ENOBUFS)
        self.wait_a_moment(scheduler, pause, deadline_ns, "socket send")

    cdef int wait_a_moment(self, Scheduler scheduler, Pause *pause, int64_t deadline_ns, object reason) except -1:
        cdef int64_t again_ns = scheduler.now()
        if deadline_ns != NEVER and again_ns >= deadline_ns:
            raise TimeoutError("timed out")
        again_ns += pause.length_ns
        if deadline_ns != NEVER and again_ns > deadline_ns:
            again_ns = deadline_ns
        scheduler.park(reason, self, again_ns)
        pause.length_ns = min(2 * pause.length_ns, LONGEST_PAUSE_NS)

    # --- connections

    cdef int try_accept(self, sockaddr_storage *address, socklen_t *length) noexcept:
        # A new descriptor, or an errno below zero.
        cdef pollfd ready
        cdef int found
        cdef int fd = self.fd
        length[0] = sizeof(sockaddr_storage)
        if not self.nonblocking:
            ready.fd = fd
            ready.events = POLLIN
            found = poll_call(&ready, 1, 0)
            if found <= 0:
                return -EAGAIN if found == 0 else -errno   # EINTR comes without a wait, too
            # Should another process be faster now, this blocks: the OS thread, but not those that wait for the GIL.
            with nogil:
                fd = accept4(fd, <sockaddr *>address, length, SOCK_NONBLOCK | SOCK_CLOEXEC)
                if fd < 0:
                    fd = -errno
            return fd
        fd = accept4(self.fd, <sockaddr *>address, length, SOCK_NONBLOCK | SOCK_CLOEXEC)
        return fd if fd >= 0 else -errno

    cdef int accept_waiting(self, Scheduler scheduler, sockaddr_storage *address, socklen_t *length) except -1:
        cdef WaitNode node
        cdef int64_t deadline_ns = self.deadline(scheduler)
        cdef int fd
        cdef Watch watch = self.watch_to_wait(scheduler)
        node.fiber = NULL
        try:
            while True:
                scheduler.wait_io(watch, False, &node, deadline_ns, "socket accept", self)
                fd = self.try_accept(address, length)
                if fd >= 0:
                    return fd
                if fd == -EAGAIN:
                    watch.readable = False
                elif fd == -EINTR:
                    PyErr_CheckSignals()
                else:
                    raise socket_error(-fd)
        finally:
            leave_io(watch, False, &node)

    def accept(self):
        """Wait for a connection; returns (socket, address of the peer).

        On a listener from elsewhere that is not O_NONBLOCK and from which other processes accept too, it may block the OS
        thread when they are faster: set the flag where the listener is made.

        Raises:
            TimeoutError: the socket's timeout passed. Cancelled: this fiber was cancelled. No connection was taken.
            OSError: as the system call says (EMFILE, ECONNABORTED, …); EBADF if the socket is closed, also while it waits.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef sockaddr_storage address
        cdef socklen_t length
        cdef int fd = -EINTR
        cdef Watch watch
        cdef SocketCore accepted
        scheduler.check()
        watch = self.watch_of(scheduler)
        if watch is None or (watch.readers.first is NULL and (watch.readable or self.never_waits())):
            fd = self.try_accept(&address, &length)
            if fd == -EAGAIN:
                self.watch_to_wait(scheduler).readable = False
            elif fd < 0 and fd != -EINTR:
                fail(scheduler, -fd)
        if fd < 0:
            fd = self.accept_waiting(scheduler, &address, &length)
        try:
            accepted = <SocketCore>socket_class.__new__(socket_class)
            accepted.domain = self.domain
            accepted.kind = self.kind
            accepted.protocol = self.protocol
            accepted.short_means_drained = self.short_means_drained
            accepted.nonblocking = True
            accepted.timeout_seconds = standard.getdefaulttimeout()
            peer = address_of(self.domain, &address, length)
        except BaseException:
            close_call(fd)
            raise
        accepted.fd = fd
        if peer is None:
            try:
                peer = accepted.getpeername()
            except BaseException:
                accepted.close()
                raise
        scheduler.spend()
        return accepted, peer

    def _connect_numeric(self, address):
        """Connect to an address whose host is a number already; returns 0 or an errno. Parks until it is settled.

        None if the descriptor came from elsewhere and the system's connect would block on it: nothing was done.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef int error
        scheduler.check()
        answer = self._connect_now(address)
        if answer is None:
            return None
        error = answer
        if self.fd < 0:
            return EBADF
        if error == EAGAIN and self.domain == AF_UNIX and not self.never_waits():
            return self.connect_to_full_backlog(scheduler, address)
        if error != EINPROGRESS or self.never_waits():
            scheduler.spend()
            return error
        error = self.connect_waiting(scheduler)
        if self.timeout_seconds is None and self.fd >= 0:
            # To the kernel it is under way until somebody asks by another connect. One that blocks has asked.
            self._connect_now(address)
        return error

    def _connect_now(self, address):
        """The system's connect: 0 or an errno, EINPROGRESS among them. None: it would block, nothing was done."""
        inner = self._inner()
        if not self.nonblocking and not fcntl(self.fd, F_GETFL) & O_NONBLOCK:
            return None
        return inner.connect_ex(address)

    cdef int connect_to_full_backlog(self, Scheduler scheduler, address) except -1:
        # No event tells when a Unix listener has room again.
        cdef Pause pause
        cdef int64_t deadline_ns = self.deadline(scheduler)
        cdef int error = EAGAIN
        pause.length_ns = FIRST_PAUSE_NS
        while error == EAGAIN:
            self.wait_a_moment(scheduler, &pause, deadline_ns, "socket connect")
            error = self._connect_now(address)
        return error

    cdef int connect_waiting(self, Scheduler scheduler) except -1:
        cdef WaitNode node
        cdef int64_t deadline_ns = self.deadline(scheduler)
        cdef int error
        cdef socklen_t length
        cdef sockaddr_storage peer
        cdef pollfd state
        cdef Watch watch = self.watch_to_wait(scheduler)
        watch.writable = False
        node.fiber = NULL
        try:
            while True:
                scheduler.wait_io(watch, True, &node, deadline_ns, "socket connect", self)
                state.fd = self.fd
                state.events = POLLOUT
                state.revents = 0
                poll_call(&state, 1, 0)
                length = sizeof(error)
                if getsockopt_call(self.fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0:
                    return errno
                if error != 0:
                    return error
                length = sizeof(peer)
                if getpeername_call(self.fd, <sockaddr *>&peer, &length) == 0:
                    return 0
                if errno != ENOTCONN:
                    return errno
                if state.revents & (POLLERR | POLLHUP):
                    return ECONNABORTED   # it has failed, and somebody else was told why
                watch.writable = False
        finally:
            leave_io(watch, True, &node)

    # --- never waits

    def _inner(self):
        """The standard _socket.socket on the same descriptor, for calls that never wait."""
        if self.fd < 0:
            # A closed one, for the errors of bad arguments come before EBADF.
            closed = standard.socket(self.domain, self.kind, self.protocol)
            closed.close()
            return closed
        if self.inner is None:
            self.inner = _standard_socket(self.domain, self.kind, self.protocol, self.fd)
        return self.inner

    def get_inheritable(self):
        """Whether programs that this process executes get the descriptor."""
        return os.get_inheritable(self.fd)

    def set_inheritable(self, inheritable):
        """Let programs that this process executes get the descriptor, or not; not is what every socket begins with."""
        os.set_inheritable(self.fd, inheritable)

    def fileno(self):
        """The descriptor, or -1 once the socket is closed."""
        return self.fd

    def _let_block(self):
        """Take O_NONBLOCK off again, as another process gets the descriptor too, and go on as with one that came from elsewhere."""
        if self.fd >= 0 and self.nonblocking and not self.never_waits():
            os.set_blocking(self.fd, True)
            self.nonblocking = False

    def bind(self, address):
        """As socket.bind; a host that is a name is looked up by the OS thread itself: use a number in fibers."""
        self._inner().bind(address)

    def listen(self, *backlog):
        """Let connections in; *backlog* may wait for accept (the system's default unless given)."""
        self._inner().listen(*backlog)

    def shutdown(self, int how):
        """Close one direction, or both: SHUT_RD, SHUT_WR, SHUT_RDWR. Wakes who waits for data or room."""
        if shutdown_call(self.fd, how) < 0:
            raise socket_error(errno)

    def getsockname(self):
        """The socket's own address."""
        return self._inner().getsockname()

    def getpeername(self):
        """The peer's address. OSError (ENOTCONN) without one."""
        return self._inner().getpeername()

    def getsockopt(self, level, optname, /, *buflen):
        """As socket.getsockopt."""
        return self._inner().getsockopt(level, optname, *buflen)

    def setsockopt(self, level, optname, /, *value):
        """As socket.setsockopt."""
        cdef int numbers[3]
        # VSOCK has options that are wider than an int.
        if (len(value) == 1 and self.domain != AF_VSOCK and read_int(level, &numbers[0]) and read_int(optname, &numbers[1])
                and read_int(value[0], &numbers[2])):
            if setsockopt_call(self.fd, numbers[0], numbers[1], &numbers[2], sizeof(int)) < 0:
                raise socket_error(errno)
        else:
            self._inner().setsockopt(level, optname, *value)
        if (level == SOL_SOCKET and optname == SO_OOBINLINE) or (level == IPPROTO_TCP and optname == TCP_ULP):
            self.short_means_drained = False

    def settimeout(self, timeout):
        """How long one call may wait, in seconds: None for ever, 0 not at all (BlockingIOError instead).

        For calls from now on: one that waits already, in another fiber, keeps the time it began with.

        Raises:
            ValueError: *timeout* is negative. OSError (EBADF): the socket is closed.
        """
        cdef double seconds
        if timeout is None:
            new = None
        else:
            seconds = timeout
            if not seconds >= 0:
                raise ValueError("Timeout value out of range")
            new = seconds
        if self.fd < 0:
            raise socket_error(EBADF)
        self.timeout_seconds = new

    def gettimeout(self):
        """Seconds that one call may wait, or None."""
        return self.timeout_seconds

    @property
    def timeout(self):
        """Seconds that one call may wait, or None."""
        return self.timeout_seconds

    def setblocking(self, flag):
        """settimeout(None) if *flag*, else settimeout(0). The fiber waits, never the OS thread."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self):
        """Whether calls wait at all."""
        return self.timeout_seconds is None or self.timeout_seconds > 0

    def _number_of(self, str what):
        return {"family": self.domain, "type": self.kind, "proto": self.protocol}[what]

    @property
    def proto(self):
        """The protocol number."""
        return self.protocol

    def close(self):
        """Close it: who waits on it gets OSError (EBADF). Open makefile() files keep the descriptor until they are closed.

        Where SO_LINGER asks for that, it parks until the peer has got everything or the time is over. Cancelled ends the wait; the
        socket is closed all the same.
        """
        self._closed = True
        if self._io_refs <= 0:
            self._real_close()

    def _decref_socketios(self):
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._closed:
            self.close()

    def _real_close(self):
        fd = self.detach()
        if fd < 0:
            return
        if self.kind == SOCK_STREAM and self.domain != AF_UNIX and lingers(fd):
            self._close_lingering(fd)
        else:
            close_descriptor(fd)

    def _close_lingering(self, fd):
        """Close *fd*, which has been detached; the one that can wait for SO_LINGER elsewhere overrides this."""
        _close_at_once(fd)

    def detach(self):
        """Give the descriptor away, open, and forget it; who waits on it gets OSError (EBADF). -1 if it is closed."""
        cdef int fd = self.fd
        self._closed = True
        self.fd = -1
        if fd < 0:
            return -1
        if self.inner is not None:
            self.inner.detach()
            self.inner = None
        close_watch(fd)
        self.watch = None
        if self.asides is not None:
            for aside in self.asides:
                close_watch((<Aside>aside).fd)
        return fd

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


os.register_at_fork(after_in_child=_close_asides_in_child)
