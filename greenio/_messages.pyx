# _messages.pyx: messages with addresses and ancillary data, and whole files.
#
# One system call each way serves all of them, recvmsg and sendmsg, made with the GIL held: they do not block, and nobody can close
# the descriptor and open another one under its number in between. sendfile may block on a disk, so it lets the GIL go, on a copy
# of the descriptor for that reason.
#
# Room at a Unix datagram's receiver is told by no event of a sender that is not connected to it. So a second socket is connected there
# and waited on instead: the kernel wakes that one when the receiver reads. Not taken: to try again after pauses, which is what
# is left when no descriptor can be had.
import io
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from greenio._scheduler cimport NEVER, WaitNode, Watch, current_scheduler_or_raise, leave_io
from greenio._socket cimport FIRST_PAUSE_NS, Pause, address_of, cut, fail, room_for, socket_error
from greenio.pollers.poller cimport FAILED, HANG_UP, PEER_CLOSED

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        SOCK_STREAM
        SOCK_SEQPACKET
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SOL_SOCKET
        SCM_RIGHTS
        MSG_CMSG_CLOEXEC
        MSG_DONTWAIT
        MSG_ERRQUEUE
        MSG_NOSIGNAL
        MSG_OOB
        MSG_PEEK
        MSG_TRUNC
        MSG_WAITALL
    struct sockaddr:
        pass
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *item)
    unsigned char *CMSG_DATA(cmsghdr *item)
    size_t CMSG_LEN(size_t size)
    size_t CMSG_SPACE(size_t size)
    int socket_call "socket"(int domain, int kind, int protocol)
    int connect_call "connect"(int fd, const sockaddr *address, socklen_t length)

cdef extern from *:
    """
    #include <sys/sendfile.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* Not libc's: see _socket.pyx. */
    static inline Py_ssize_t recvmsg_call(int fd, struct msghdr *message, int flags)
    {
        return syscall(SYS_recvmsg, fd, message, flags);
    }

    static inline Py_ssize_t sendmsg_call(int fd, const struct msghdr *message, int flags)
    {
        return syscall(SYS_sendmsg, fd, message, flags);
    }
    """
    Py_ssize_t recvmsg_call(int fd, msghdr *message, int flags)
    Py_ssize_t sendmsg_call(int fd, const msghdr *message, int flags)
    Py_ssize_t sendfile_call "sendfile64"(int to, int source, int64_t *offset, size_t size) nogil

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct in6_addr:
        pass
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t htons(uint16_t value)
    uint32_t htonl(uint32_t value)

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int domain, const char *text, void *address)

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_DUPFD_CLOEXEC
        F_GETFL
        O_NONBLOCK
    int fcntl(int fd, int command, ...)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLOUT
    struct pollfd:
        int fd
        short events
        short revents
    int poll_call "poll"(pollfd *fds, unsigned long count, int timeout_ms)

cdef extern from "<unistd.h>" nogil:
    int close_call "close"(int fd)

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyTuple_CheckExact(object thing)
    bint PyUnicode_CheckExact(object thing)
    bint PyLong_CheckExact(object thing)
    long PyLong_AsLongAndOverflow(object number, int *overflow) except? -1

cdef enum:
    SCRATCH_BYTES = 128 * 1024
    BESIDE_THE_DATA = MSG_OOB | MSG_ERRQUEUE
    CONTROL_WORDS = 64                # of ancillary data that need no memory of their own, aligned as the kernel aligns them
    FILE_BYTES = 1024 * 1024          # of one sendfile call: others get their turn between two
    PIECE_BYTES = 8192                # of a file that sendfile cannot read
    CANNOT = -1                       # sendfile does not take these two
    NO_DESCRIPTOR = -2                # to call it with

# Received bytes land here and are copied once, as in _socket.pyx.
cdef char scratch[SCRATCH_BYTES]


# --- addresses -------------------------------------------------------------------------------------------------------


cdef bint read_number(object number, long most, long *value) except -1:
    cdef int overflow
    if not PyLong_CheckExact(number):
        return False
    value[0] = PyLong_AsLongAndOverflow(number, &overflow)
    return not overflow and 0 <= value[0] <= most


cdef bint read_host(int domain, object host, void *address) except -1:
    cdef const char *text
    cdef Py_ssize_t size
    cdef Py_ssize_t index
    if not PyUnicode_CheckExact(host) or not (<str>host).isascii():
        return False
    text = PyUnicode_AsUTF8AndSize(host, &size)
    for index in range(size):
        if text[index] == 0:
            return False
    return inet_pton(domain, text, address) == 1


cdef socklen_t plain_address(int domain, object address, sockaddr_storage *storage) except? 0:
    # Writes an address whose host is a number, or a path; returns its length. 0: the standard module has to see it.
    cdef sockaddr_in *v4 = <sockaddr_in *>storage
    cdef sockaddr_in6 *v6 = <sockaddr_in6 *>storage
    cdef sockaddr_un *local = <sockaddr_un *>storage
    cdef long value
    cdef Py_ssize_t count
    cdef Py_ssize_t start
    cdef bytes path
    if domain == AF_UNIX:
        if type(address) is str:
            path = os.fsencode(address)
        elif type(address) is bytes:
            path = address
        else:
            return 0
        count = len(path)
        if count == 0 or count >= <Py_ssize_t>sizeof(local.sun_path):
            return 0
        start = <char *>&local.sun_path - <char *>local
        local.sun_family = AF_UNIX
        memcpy(local.sun_path, PyBytes_AS_STRING(path), count + 1)
        # A path with the NUL at its end; an abstract name begins with one, and has no end but its length.
        return start + count + (1 if local.sun_path[0] else 0)
    if not PyTuple_CheckExact(address):
        return 0
    count = len(<tuple>address)
    if domain == AF_INET:
        if count != 2 or not read_number((<tuple>address)[1], 65535, &value):
            return 0
        memset(v4, 0, sizeof(sockaddr_in))
        v4.sin_family = AF_INET
        v4.sin_port = htons(value)
        return sizeof(sockaddr_in) if read_host(AF_INET, (<tuple>address)[0], &v4.sin_addr) else 0
    if not 2 <= count <= 4 or not read_number((<tuple>address)[1], 65535, &value):
        return 0
    memset(v6, 0, sizeof(sockaddr_in6))
    v6.sin6_family = AF_INET6
    v6.sin6_port = htons(value)
    if count > 2:
        if not read_number((<tuple>address)[2], 0xfffff, &value):
            return 0
        v6.sin6_flowinfo = htonl(value)
    if count > 3:
        if not read_number((<tuple>address)[3], 0xffffffff, &value):
            return 0
        v6.sin6_scope_id = value
    return sizeof(sockaddr_in6) if read_host(AF_INET6, (<tuple>address)[0], &v6.sin6_addr) else 0


cdef object sender_of(sockaddr_storage *storage, socklen_t length):
    # As the standard module has it; None: the kernel told none.
    cdef int family
    if length == 0:
        return None
    family = storage.ss_family
    if family in (AF_INET, AF_INET6, AF_UNIX):
        return address_of(family, storage, length)
    return family, PyBytes_FromStringAndSize(<char *>storage + 2, 14)


# --- messages --------------------------------------------------------------------------------------------------------


cdef class _Buffers:
    # Python buffers as the kernel's vector of them; held until it goes.
    cdef Py_buffer *views
    cdef iovec *vector
    cdef Py_ssize_t count
    cdef Py_ssize_t size              # bytes of all

    def __dealloc__(self):
        cdef Py_ssize_t index
        for index in range(self.count):
            PyBuffer_Release(&self.views[index])
        PyMem_Free(self.views)
        PyMem_Free(self.vector)

    cdef int take(self, list pieces, int kind) except -1:
        # Raises as PyObject_GetBuffer; with as many taken as self.count says.
        cdef Py_ssize_t most = len(pieces)
        self.views = <Py_buffer *>PyMem_Calloc(most + 1, sizeof(Py_buffer))
        self.vector = <iovec *>PyMem_Calloc(most + 1, sizeof(iovec))
        if self.views is NULL or self.vector is NULL:
            raise MemoryError()
        for piece in pieces:
            PyObject_GetBuffer(piece, &self.views[self.count], kind)
            self.vector[self.count].iov_base = self.views[self.count].buf
            self.vector[self.count].iov_len = self.views[self.count].len
            self.size += self.views[self.count].len
            self.count += 1


cdef void begin(msghdr *message, iovec *vector, Py_ssize_t count, sockaddr_storage *address) noexcept:
    memset(message, 0, sizeof(msghdr))
    message.msg_iov = vector
    message.msg_iovlen = count
    if address is not NULL:
        memset(address, 0, sizeof(sockaddr_storage))
        message.msg_name = address
        message.msg_namelen = sizeof(sockaddr_storage)


cdef size_t room_of(msghdr *message) noexcept:
    cdef size_t room = 0
    cdef size_t index
    for index in range(message.msg_iovlen):
        room += message.msg_iov[index].iov_len
    return room


cdef void skip(msghdr *message, size_t count) noexcept:
    # The first `count` bytes of its buffers are full.
    while count >= message.msg_iov[0].iov_len and message.msg_iovlen > 1:
        count -= message.msg_iov[0].iov_len
        message.msg_iov += 1
        message.msg_iovlen -= 1
    message.msg_iov[0].iov_base = <char *>message.msg_iov[0].iov_base + count
    message.msg_iov[0].iov_len -= count


cdef object gathered(iovec *vector, size_t vectors, size_t count):
    # A copy of the first `count` bytes.
    cdef size_t index
    cdef size_t size
    parts = []
    for index in range(vectors):
        size = min(count, vector[index].iov_len)
        parts.append(PyBytes_FromStringAndSize(<char *>vector[index].iov_base, size))
        count -= size
    return b"".join(parts)


cdef size_t data_size(msghdr *message, cmsghdr *item) noexcept:
    # Of an item of ancillary data, as far as it is there.
    cdef size_t there = <char *>message.msg_control + message.msg_controllen - <char *>CMSG_DATA(item)
    return min(item.cmsg_len - CMSG_LEN(0), there) if item.cmsg_len >= CMSG_LEN(0) else 0


cdef void close_received(msghdr *message):
    # Descriptors that came along, and will not reach the caller.
    cdef cmsghdr *item = CMSG_FIRSTHDR(message) if message.msg_controllen else NULL
    cdef int *descriptors
    cdef size_t index
    while item is not NULL:
        if item.cmsg_level == SOL_SOCKET and item.cmsg_type == SCM_RIGHTS:
            descriptors = <int *>CMSG_DATA(item)
            for index in range(data_size(message, item) // sizeof(int)):
                close_call(descriptors[index])
        item = CMSG_NXTHDR(message, item)


cdef object control_items(msghdr *message):
    # [(level, type, data)].
    cdef cmsghdr *item = CMSG_FIRSTHDR(message) if message.msg_controllen else NULL
    found = []
    while item is not NULL:
        data = PyBytes_FromStringAndSize(<char *>CMSG_DATA(item), data_size(message, item))
        found.append((item.cmsg_level, item.cmsg_type, data))
        item = CMSG_NXTHDR(message, item)
    return found


cdef object control_of(list items):
    # The block of ancillary data that says `items`; None if only the standard module can tell what they are, or are not.
    cdef msghdr message
    cdef cmsghdr *item
    cdef bytes block
    cdef Py_buffer view
    cdef size_t size = 0
    for each in items:
        if type(each) is not tuple or len(each) != 3 or type(each[0]) is not int or type(each[1]) is not int:
            return None
        if not -0x80000000 <= each[0] <= 0x7fffffff or not -0x80000000 <= each[1] <= 0x7fffffff:
            return None
        try:
            PyObject_GetBuffer(each[2], &view, PyBUF_SIMPLE)
        except (TypeError, BufferError):
            return None
        size += CMSG_SPACE(view.len)
        PyBuffer_Release(&view)
        if size > 0x7fffffff:
            return None
    block = bytes(size)
    memset(&message, 0, sizeof(message))
    message.msg_control = PyBytes_AS_STRING(block)
    message.msg_controllen = size
    item = CMSG_FIRSTHDR(&message)
    for each in items:
        PyObject_GetBuffer(each[2], &view, PyBUF_SIMPLE)
        try:
            if item is NULL or <char *>CMSG_DATA(item) + view.len > PyBytes_AS_STRING(block) + size:
                return None           # a buffer that has grown meanwhile
            item.cmsg_level = each[0]
            item.cmsg_type = each[1]
            item.cmsg_len = CMSG_LEN(view.len)
            memcpy(CMSG_DATA(item), view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        item = CMSG_NXTHDR(&message, item)
    return block


cdef list listed(object pieces, str complaint):
    try:
        pieces = iter(pieces)
    except TypeError:
        raise TypeError(complaint) from None
    return list(pieces)


cdef tuple without_our_flag(tuple result, int flags):
    return (*result[:2], result[2] & (~MSG_CMSG_CLOEXEC | flags), result[3])


cdef void move(object file, object offset, object sent) except *:
    if sent > 0 and hasattr(file, "seek"):
        file.seek(offset + sent)


cdef int unread(object file, object data) except -1:
    # None of what was read from it was sent: where it stood before, `move` does not know.
    try:
        file.seek(-len(data), os.SEEK_CUR)
    except (AttributeError, TypeError, ValueError, OSError):
        pass    # it cannot go back
    return 0


cdef bint has_room(int fd) noexcept:
    # To send, or an error to be told.
    cdef pollfd state
    state.fd = fd
    state.events = POLLOUT
    state.revents = 0
    return poll_call(&state, 1, 0) > 0


cdef class MessageCore(SocketCore):
    """A socket with all that has addresses, ancillary data or files; greenio.socket.socket is the public one."""

    cdef bint is_known_family(self) noexcept:
        return self.domain in (AF_INET, AF_INET6, AF_UNIX)

    def _looked_up(self, address):
        """*address* with a number for its host."""
        return address

    # --- receive

    cdef Py_ssize_t receive_message(self, Scheduler scheduler, msghdr *message, int flags) except -1:
        cdef Watch watch
        cdef Py_ssize_t count
        cdef socklen_t name_length = message.msg_namelen
        cdef size_t control_length = message.msg_controllen
        flags |= MSG_CMSG_CLOEXEC
        scheduler.check()
        if self.wants_no_wait(flags):
            count = recvmsg_call(self.fd, message, flags)
            if count < 0:
                fail(scheduler, errno)
            return count
        if flags & BESIDE_THE_DATA:
            return self.receive_message_aside(scheduler, message, flags)
        if flags & MSG_WAITALL and self.waits_for_all(flags):
            return self.receive_whole_message(scheduler, message, flags)
        watch = self.watch_of(scheduler)
        if watch is None or (watch.readers.first is NULL and (
                watch.readable or flags & ~MSG_CMSG_CLOEXEC or self.never_waits())):
            count = recvmsg_call(self.fd, message, flags | MSG_DONTWAIT)
            if count >= 0:
                return count
            if errno == EAGAIN:
                self.watch_to_wait(scheduler).readable = False
            elif errno != EINTR:
                fail(scheduler, errno)
            message.msg_namelen = name_length
            message.msg_controllen = control_length
        return self.receive_message_waiting(scheduler, message, flags)

    cdef Py_ssize_t receive_message_waiting(self, Scheduler scheduler, msghdr *message, int flags) except -1:
        cdef WaitNode node
        cdef Py_ssize_t count
        cdef int64_t deadline_ns = self.deadline(scheduler)
        cdef socklen_t name_length = message.msg_namelen
        cdef size_t control_length = message.msg_controllen
        cdef Watch watch = self.watch_to_wait(scheduler)
        node.fiber = NULL
        try:
            while True:
                scheduler.wait_io(watch, False, &node, deadline_ns, "socket receive", self)
                count = recvmsg_call(self.fd, message, flags | MSG_DONTWAIT)
                if count >= 0:
                    return count
                message.msg_namelen = name_length
                message.msg_controllen = control_length
                if errno == EAGAIN:
                    watch.readable = False
                elif errno == EINTR:
                    PyErr_CheckSignals()
                else:
                    raise socket_error(errno)
        finally:
            leave_io(watch, False, &node)

    cdef Py_ssize_t receive_message_aside(self, Scheduler scheduler, msghdr *message, int flags) except -1:
        cdef Aside aside = None
        cdef Py_ssize_t count
        cdef socklen_t name_length = message.msg_namelen
        cdef size_t control_length = message.msg_controllen
        try:
            while True:
                count = recvmsg_call(self.fd, message, flags | MSG_DONTWAIT)
                if count >= 0:
                    return count
                message.msg_namelen = name_length
                message.msg_controllen = control_length
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

    cdef Py_ssize_t receive_whole_message(self, Scheduler scheduler, msghdr *message, int flags) except -1:
        # MSG_WAITALL on a stream, as receive_whole. Ancillary data end a read in the kernel, and here.
        cdef WaitNode node
        cdef Py_ssize_t received = 0
        cdef Py_ssize_t count
        cdef Py_ssize_t size = room_of(message)
        cdef socklen_t name_length = message.msg_namelen
        cdef size_t control_length = message.msg_controllen
        cdef iovec *vector = message.msg_iov
        cdef iovec whole
        cdef size_t vectors = message.msg_iovlen
        cdef Watch watch = self.watch_to_wait(scheduler)
        cdef _Buffers kept = _Buffers()
        # What is left of them moves along in `vector`: a copy shows where all of them are.
        kept.vector = <iovec *>PyMem_Malloc((vectors + 1) * sizeof(iovec))
        if kept.vector is NULL:
            raise MemoryError()
        memcpy(kept.vector, vector, vectors * sizeof(iovec))
        watch.readable = True
        node.fiber = NULL
        try:
            while True:
                scheduler.wait_io(watch, False, &node, NEVER, "socket receive", self)
                message.msg_namelen = name_length
                message.msg_controllen = control_length
                count = recvmsg_call(self.fd, message, flags | MSG_DONTWAIT)
                if count == 0:
                    return received
                if count > 0 and not flags & MSG_PEEK:
                    received += count
                    if received >= size or message.msg_controllen or message.msg_flags & ~MSG_CMSG_CLOEXEC:
                        return received
                    skip(message, count)
                    scheduler.spend()
                    scheduler.check()
                elif count > 0:
                    if count >= size or message.msg_controllen or watch.seen & (PEER_CLOSED | HANG_UP | FAILED):
                        return count
                    watch.readable = False
                elif errno == EAGAIN:
                    watch.readable = False
                elif errno == EINTR:
                    PyErr_CheckSignals()
                else:
                    raise socket_error(errno)
        except BaseException as error:
            error.received = gathered(kept.vector, vectors, received)
            raise
        finally:
            leave_io(watch, False, &node)

    def recvfrom(self, Py_ssize_t bufsize, int flags=0):
        """Receive at most *bufsize* bytes, of one datagram or of the stream: (bytes, address of the sender). Parks while there are none.

        The address is None where the system tells none, as on a connected stream. What a datagram has beyond *bufsize* is lost.

        Raises:
            TimeoutError: the socket's timeout passed. Cancelled: this fiber was cancelled. Nothing was taken; but for
                MSG_WAITALL, see recv.
            OSError: as the system call says; EBADF if the socket is closed, also while it waits.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef msghdr message
        cdef iovec vector
        cdef sockaddr_storage address
        cdef Py_ssize_t count
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        if not self.is_known_family():
            return self.by_standard(scheduler, False, "recvfrom", (bufsize, flags | MSG_DONTWAIT), {}, flags)
        vector.iov_len = bufsize
        begin(&message, &vector, 1, &address)
        if bufsize <= SCRATCH_BYTES and not flags & (MSG_TRUNC | MSG_WAITALL):
            vector.iov_base = scratch
            count = self.receive_message(scheduler, &message, flags)
            data = PyBytes_FromStringAndSize(scratch, count)
        else:
            room = room_for(bufsize, flags)
            vector.iov_base = PyBytes_AS_STRING(room)
            data = cut(room, bufsize, self.receive_message(scheduler, &message, flags))
        scheduler.spend()
        return data, sender_of(&address, message.msg_namelen)

    def recvfrom_into(self, buffer, Py_ssize_t nbytes=0, int flags=0):
        """As recvfrom, into *buffer*, at most *nbytes* or as much as it holds: (how many bytes, address of the sender).

        Raises:
            ValueError: *nbytes* is negative or more than *buffer* holds.
            TimeoutError, Cancelled, OSError: as recvfrom; *buffer* is as it was.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef msghdr message
        cdef iovec vector
        cdef sockaddr_storage address
        cdef Py_ssize_t count
        cdef _Buffers into = _Buffers()
        try:
            into.take([buffer], PyBUF_WRITABLE)
        except (BufferError, TypeError):
            raise TypeError(
                f"recvfrom_into() argument 1 must be read-write bytes-like object, not {type(buffer).__name__}") from None
        if nbytes < 0:
            raise ValueError("negative buffersize in recvfrom_into")
        if nbytes > into.size:
            raise ValueError("nbytes is greater than the length of the buffer")
        if not self.is_known_family():
            return self.by_standard(
                scheduler, False, "recvfrom_into", (buffer, nbytes, flags | MSG_DONTWAIT), {}, flags)
        if nbytes:
            into.vector[0].iov_len = nbytes
        begin(&message, into.vector, 1, &address)
        count = self.receive_message(scheduler, &message, flags)
        scheduler.spend()
        return count, sender_of(&address, message.msg_namelen)

    def recvmsg(self, Py_ssize_t bufsize, Py_ssize_t ancbufsize=0, int flags=0):
        """Receive at most *bufsize* bytes and *ancbufsize* bytes of ancillary data. Parks while there is nothing.

        Descriptors among the ancillary data are close-on-exec, and the caller's from now on.

        Returns:
            (bytes, [(level, type, bytes)], flags such as MSG_TRUNC and MSG_CTRUNC, address of the sender or None).
        Raises:
            TimeoutError, Cancelled, OSError: as recvfrom. No descriptor was received.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef iovec vector
        if bufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        room = room_for(bufsize, flags)
        vector.iov_base = PyBytes_AS_STRING(room)
        vector.iov_len = bufsize
        if not self.is_known_family():
            return without_our_flag(self.by_standard(
                scheduler, False, "recvmsg", (bufsize, ancbufsize, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC), {}, flags), flags)
        return self.receive_with_control(scheduler, &vector, 1, room, ancbufsize, flags)

    def recvmsg_into(self, buffers, Py_ssize_t ancbufsize=0, int flags=0):
        """As recvmsg, into *buffers*, an iterable of writable ones that are filled one after another.

        Returns:
            (how many bytes, ancillary data, flags, address), as recvmsg.
        Raises:
            TimeoutError, Cancelled, OSError: as recvmsg; the buffers are as they were.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef _Buffers into = _Buffers()
        cdef list pieces = listed(buffers, "recvmsg_into() argument 1 must be an iterable")
        try:
            into.take(pieces, PyBUF_WRITABLE)
        except (BufferError, TypeError):
            raise TypeError(
                "recvmsg_into() argument 1 must be an iterable of single-segment read-write buffers") from None
        if not self.is_known_family():
            return without_our_flag(self.by_standard(
                scheduler, False, "recvmsg_into", (pieces, ancbufsize, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC), {}, flags), flags)
        return self.receive_with_control(scheduler, into.vector, into.count, None, ancbufsize, flags)

    cdef object receive_with_control(
            self, Scheduler scheduler, iovec *vector, Py_ssize_t vectors, bytes room, Py_ssize_t control_size, int flags):
        # `room`: what to make the result's bytes of; None: they are where `vector` says.
        cdef msghdr message
        cdef sockaddr_storage address
        cdef size_t own[CONTROL_WORDS]
        cdef char *control = <char *>own
        cdef Py_ssize_t count
        if not 0 <= control_size <= 0x7fffffff:
            raise ValueError("invalid ancillary data buffer length")
        begin(&message, vector, vectors, &address)
        if control_size > <Py_ssize_t>sizeof(own):
            control = <char *>PyMem_Malloc(control_size)
            if control is NULL:
                raise MemoryError()
        if control_size:
            message.msg_control = control
            message.msg_controllen = control_size
        size = room_of(&message)
        try:
            count = self.receive_message(scheduler, &message, flags)
            try:
                result = (
                    count if room is None else cut(room, size, count),
                    control_items(&message),
                    message.msg_flags & (~MSG_CMSG_CLOEXEC | flags),
                    sender_of(&address, message.msg_namelen))
            except BaseException:
                close_received(&message)
                raise
        finally:
            if control is not <char *>own:
                PyMem_Free(control)
        scheduler.spend()
        return result

    # --- send

    cdef Py_ssize_t transmit_message(self, Scheduler scheduler, msghdr *message, int flags) except -1:
        cdef Watch watch
        cdef Py_ssize_t count
        flags |= MSG_NOSIGNAL
        scheduler.check()
        if self.wants_no_wait(flags):
            count = sendmsg_call(self.fd, message, flags)
            if count < 0:
                fail(scheduler, errno)
            return count
        flags |= MSG_DONTWAIT
        if self.domain == AF_UNIX and message.msg_name is not NULL and self.kind not in (SOCK_STREAM, SOCK_SEQPACKET):
            return self.transmit_to_one(scheduler, message, flags)
        watch = self.watch_of(scheduler)
        if watch is None or (watch.writers.first is NULL and (watch.writable or self.never_waits())):
            count = sendmsg_call(self.fd, message, flags)
            if count >= 0:
                return count
            if errno == EAGAIN:
                self.watch_to_wait(scheduler).writable = False
            elif errno != EINTR and not self.may_find_buffers(errno):
                fail(scheduler, errno)
        return self.transmit_message_waiting(scheduler, message, flags)

    cdef Py_ssize_t transmit_message_waiting(self, Scheduler scheduler, msghdr *message, int flags) except -1:
        cdef WaitNode node
        cdef Pause pause
        cdef Py_ssize_t count
        cdef int64_t deadline_ns = self.deadline(scheduler)
        cdef Watch watch = self.watch_to_wait(scheduler)
        pause.length_ns = FIRST_PAUSE_NS
        pause.last_ns = NEVER
        node.fiber = NULL
        try:
            while True:
                scheduler.wait_io(watch, True, &node, deadline_ns, "socket send", self)
                count = sendmsg_call(self.fd, message, flags)
                if count >= 0:
                    return count
                if errno == EAGAIN:
                    watch.writable = False
                elif errno == EINTR:
                    PyErr_CheckSignals()
                elif self.may_find_buffers(errno):
                    self.wait_for_buffers(scheduler, &pause, deadline_ns)
                else:
                    raise socket_error(errno)
        finally:
            leave_io(watch, True, &node)

    cdef Py_ssize_t transmit_to_one(self, Scheduler scheduler, msghdr *message, int flags) except -1:
        # EAGAIN: that receiver's queue is full, or this socket's own buffer, with datagrams that nobody has read. An event tells of
        # the second only. Not in line: a receiver that does not read must not hold up what goes to others.
        cdef WaitNode node
        cdef Aside aside = None
        cdef Watch watch = None
        cdef Py_ssize_t count
        cdef unsigned int contradictions = 0
        node.fiber = NULL
        try:
            while True:
                count = sendmsg_call(self.fd, message, flags)
                if count >= 0:
                    return count
                if errno == EINTR:
                    PyErr_CheckSignals()
                    continue
                if self.may_find_buffers(errno):
                    if aside is None:
                        aside = self.toward(scheduler, message)
                    self.wait_for_buffers(scheduler, &aside.pause, aside.deadline_ns)
                    continue
                if errno != EAGAIN or self.never_waits():
                    fail(scheduler, errno)
                if aside is None:
                    aside = self.toward(scheduler, message)
                if aside.fd < 0 or not has_room(aside.fd):
                    if watch is not None:
                        leave_io(watch, True, &node)
                    aside.wait(scheduler, True, "socket send")
                elif has_room(self.fd):
                    # It was read in between. Should the kernel ever go on like that, this must not.
                    contradictions += 1
                    if contradictions % 8 == 0:
                        self.wait_a_moment(scheduler, &aside.pause, aside.deadline_ns, "socket send")
                    scheduler.spend()
                    scheduler.check()
                else:
                    if node.fiber is NULL:
                        watch = self.watch_to_wait(scheduler)
                    watch.writable = False
                    scheduler.wait_io(watch, True, &node, aside.deadline_ns, "socket send", self)
        finally:
            if watch is not None:
                leave_io(watch, True, &node)
            if aside is not None:
                aside.close()

    cdef Aside toward(self, Scheduler scheduler, msghdr *message):
        # A socket connected to where the message goes. The caller closes it.
        cdef Aside aside = Aside(self)
        cdef int fd = socket_call(AF_UNIX, self.kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if fd >= 0 and connect_call(fd, <sockaddr *>message.msg_name, message.msg_namelen) < 0:
            close_call(fd)   # it has gone, as the next try will say
            fd = -1
        aside.take(fd)
        return aside

    def sendto(self, data, *flags_and_address):
        """sendto(data, address) or sendto(data, flags, address): send *data* to *address*; returns how many bytes.

        Parks while there is no room: in this socket's buffer, at the receiver of a Unix datagram, or, for at most a second, in a
        device's queue (ENOBUFS). A host that is a name is looked up as connect does.

        Raises:
            TimeoutError, Cancelled: nothing was sent.
            OSError: as the system call says; EBADF if the socket is closed, also while it waits. gaierror: the name is not known.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef msghdr message
        cdef sockaddr_storage storage
        cdef _Buffers pieces
        cdef Py_ssize_t count
        cdef int flags = 0
        if len(flags_and_address) == 2:
            flags = flags_and_address[0]
        elif len(flags_and_address) != 1:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(flags_and_address)} given)")
        pieces = _Buffers()
        pieces.take([data], PyBUF_SIMPLE)
        begin(&message, pieces.vector, 1, NULL)
        address = flags_and_address[len(flags_and_address) - 1]
        message.msg_namelen = plain_address(self.domain, address, &storage) if self.is_known_family() else 0
        if message.msg_namelen == 0:
            address = self._looked_up(address)
            message.msg_namelen = plain_address(self.domain, address, &storage) if self.is_known_family() else 0
        if message.msg_namelen == 0:
            return self.by_standard(scheduler, True, "sendto", (data, flags | MSG_DONTWAIT | MSG_NOSIGNAL, address), {}, flags & MSG_DONTWAIT)
        message.msg_name = &storage
        count = self.transmit_message(scheduler, &message, flags)
        scheduler.spend()
        return count

    def sendmsg(self, buffers, ancdata=(), int flags=0, address=None):
        """Send the bytes of *buffers*, one after another, as one message, with ancillary data; returns how many bytes.

        On a stream it may be fewer than there are, as with send; the ancillary data have gone with the first. Parks as sendto.

        Args:
            buffers: an iterable of bytes-like objects.
            ancdata: an iterable of (level, type, bytes-like).
            address: where to; None: the peer.
        Raises:
            TimeoutError, Cancelled: nothing was sent, no descriptor passed.
            OSError, gaierror: as sendto.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef msghdr message
        cdef sockaddr_storage storage
        cdef _Buffers pieces = _Buffers()
        cdef list parts = listed(buffers, "sendmsg() argument 1 must be an iterable")
        cdef list items
        cdef Py_ssize_t count
        cdef bytes control
        cdef bint plain = self.is_known_family()
        pieces.take(parts, PyBUF_SIMPLE)
        items = listed(ancdata, "sendmsg() argument 2 must be an iterable")
        control = control_of(items)
        begin(&message, pieces.vector, pieces.count, NULL)
        if address is not None and plain:
            message.msg_namelen = plain_address(self.domain, address, &storage)
            if message.msg_namelen == 0:
                address = self._looked_up(address)
                message.msg_namelen = plain_address(self.domain, address, &storage)
            message.msg_name = &storage
            plain = message.msg_namelen != 0
        if not plain or control is None:
            return self.by_standard(
                scheduler, True, "sendmsg", (parts, items, flags | MSG_DONTWAIT | MSG_NOSIGNAL, address), {}, flags & MSG_DONTWAIT)
        if control:
            message.msg_control = PyBytes_AS_STRING(control)
            message.msg_controllen = len(control)
        count = self.transmit_message(scheduler, &message, flags)
        scheduler.spend()
        return count

    def sendmsg_afalg(self, msg=(), **keywords):
        """sendmsg_afalg([msg], *, op[, iv[, assoclen[, flags]]]): as the standard module's, for AF_ALG. Parks while there is no room.

        Raises:
            TimeoutError, Cancelled: nothing was sent. OSError: as the system call says.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef int flags = keywords.get("flags", 0)
        keywords["flags"] = flags | MSG_DONTWAIT
        parts = listed(msg, "sendmsg() argument 1 must be an iterable")
        return self.by_standard(scheduler, True, "sendmsg_afalg", (parts,), keywords, flags & MSG_DONTWAIT)

    # --- files

    def sendfile(self, file, offset=0, count=None):
        """Send *file*, a regular one opened in binary mode, from *offset* on, to its end or *count* bytes; returns how many bytes.

        By sendfile(2) where that can read the file: nothing is copied, and what other fibers send comes before or after. Any other
        object with read() is sent in pieces. Parks for room; reading a file may block the OS thread, as everywhere. The socket's
        timeout is for each wait, not for the whole. The file's position is behind what was sent, also when this raises.

        Raises:
            ValueError: the file is not binary, the socket no stream or its timeout 0, *count* is not > 0. Nothing was sent.
            TimeoutError, Cancelled, OSError: the first bytes_sent bytes (an attribute of the exception) were sent.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        cdef int64_t sent
        if "b" not in getattr(file, "mode", "b"):
            raise ValueError("file should be opened in binary mode")
        if not self.kind & SOCK_STREAM:
            raise ValueError("only SOCK_STREAM type sockets are supported")
        if count is not None:
            if not isinstance(count, int):
                raise TypeError(f"count must be a positive integer (got {count!r})")
            if count <= 0:
                raise ValueError(f"count must be a positive integer (got {count!r})")
        scheduler.check()
        try:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
        except (AttributeError, io.UnsupportedOperation, OSError):
            descriptor = None
        if descriptor is not None and size == 0:
            return 0
        if self.never_waits():
            raise ValueError("non-blocking sockets are not supported")
        if descriptor is not None and (self.nonblocking or fcntl(self.fd, F_GETFL) & O_NONBLOCK):
            try:
                sent = self.send_file(scheduler, descriptor, offset, count)
            except BaseException as error:
                move(file, offset, error.bytes_sent)
                raise
            if sent >= 0:
                move(file, offset, sent)
                return sent
            descriptor = None if sent == CANNOT else descriptor
        return self.send_pieces(scheduler, file, descriptor, offset, count)

    cdef int64_t send_file(self, Scheduler scheduler, int source, object offset, object count) except -3:
        cdef WaitNode node
        cdef int64_t position = offset
        cdef int64_t left = NEVER if count is None else min(count, 1 << 62)
        cdef int64_t sent = 0
        cdef int64_t deadline_ns
        cdef Py_ssize_t done
        cdef size_t size
        cdef int number
        cdef int copy = -1
        cdef Watch watch = None
        node.fiber = NULL
        try:
            deadline_ns = self.deadline(scheduler)
            watch = self.watch_to_wait(scheduler)
            if watch.writers.first is NULL:
                watch.writable = True   # the first look costs less than an event
            # While the GIL is free, another OS thread may close the socket and open another under its number.
            copy = fcntl(self.fd, F_DUPFD_CLOEXEC, 0)
            if copy < 0:
                return NO_DESCRIPTOR
            while left != 0:
                scheduler.wait_io(watch, True, &node, deadline_ns, "socket send", self)
                size = FILE_BYTES if left == NEVER else min(left, FILE_BYTES)
                with nogil:
                    done = sendfile_call(copy, source, &position, size)
                    number = errno
                if done > 0:
                    sent += done
                    if left != NEVER:
                        left -= done
                    deadline_ns = self.deadline(scheduler)
                    scheduler.spend()
                    scheduler.check()
                elif done == 0:
                    break
                elif number == EAGAIN:
                    watch.writable = False
                elif number == EINTR:
                    PyErr_CheckSignals()
                elif sent == 0:
                    return CANNOT
                else:
                    raise socket_error(number)
            return sent
        except BaseException as error:
            error.bytes_sent = sent
            raise
        finally:
            if copy >= 0:
                close_call(copy)
            if watch is not None:
                leave_io(watch, True, &node)

    cdef object send_pieces(self, Scheduler scheduler, object file, object descriptor, object offset, object count):
        cdef _Buffers piece
        sent = 0
        data = b""
        size = PIECE_BYTES
        if offset and descriptor is None:
            file.seek(offset)
        try:
            while True:
                if count is not None:
                    size = min(PIECE_BYTES, count - sent)
                    if size <= 0:
                        break
                data = file.read(size) if descriptor is None else os.pread(descriptor, size, offset + sent)
                piece = _Buffers()
                piece.take([data], PyBUF_SIMPLE)
                if piece.size == 0:
                    break
                self.transmit(scheduler, <char *>piece.vector[0].iov_base, piece.size, 0, True)
                sent += piece.size
                scheduler.spend()
            return sent
        except BaseException as error:
            sent += getattr(error, "bytes_sent", 0)
            error.bytes_sent = sent
            if sent == 0 and descriptor is None:
                unread(file, data)
            raise
        finally:
            move(file, offset, sent)

    # --- other families

    cdef object by_standard(
            self, Scheduler scheduler, bint to_write, str name, tuple arguments, dict keywords, int flags):
        cdef WaitNode node
        cdef Pause pause
        cdef Aside aside = None
        cdef int number
        cdef int64_t deadline_ns
        cdef Watch watch
        cdef bint waits = not self.never_waits() and not self.wants_no_wait(flags)
        reason = "socket send" if to_write else "socket receive"
        scheduler.check()
        deadline_ns = self.deadline(scheduler)
        pause.length_ns = FIRST_PAUSE_NS
        pause.last_ns = NEVER
        node.fiber = NULL
        watch = self.watch_of(scheduler)
        try:
            if watch is not None and not flags & BESIDE_THE_DATA and waits and (
                    watch.writers.first if to_write else watch.readers.first) is not NULL:
                scheduler.wait_io(watch, to_write, &node, deadline_ns, reason, self)
            while True:
                try:
                    result = getattr(self._inner(), name)(*arguments, **keywords)
                    break
                except OSError as error:
                    number = error.errno or 0
                    if (number != EAGAIN or not waits) and not (to_write and waits and self.may_find_buffers(number)):
                        scheduler.spend()
                        raise
                if number == ENOBUFS:
                    self.wait_for_buffers(scheduler, &pause, deadline_ns)
                elif flags & BESIDE_THE_DATA:
                    if aside is None:
                        aside = Aside(self)
                        aside.open_copy(scheduler)
                    aside.wait(scheduler, to_write, reason)
                else:
                    if node.fiber is NULL:
                        watch = self.watch_to_wait(scheduler)
                    if to_write:
                        watch.writable = False
                    else:
                        watch.readable = False
                    scheduler.wait_io(watch, to_write, &node, deadline_ns, reason, self)
        finally:
            if watch is not None:
                leave_io(watch, to_write, &node)
            if aside is not None:
                aside.close()
        scheduler.spend()
        return result
