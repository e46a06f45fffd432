# _streams.pyx: the path of a request, above _socket.pyx; the contract is in _streams.pxd.
#
# Bytes are received into one scratch buffer for the whole process, as a socket's recv does, and copied from there: into the object
# that is returned and, what is beyond it, into `held`, which a stream has only while something is left over. So ten thousand idle
# streams own no buffers; the price is a copy of what was in the cache a moment ago. Blocks larger than the read buffer are
# received into the object that is returned.
#
# What is written leaves before write returns. Not taken: asyncio's way (bytes are kept, and sent some time; errors come out
# elsewhere, and who does not call drain() has no bound). Who wants fewer and larger packets says so: corked().
import os
import socket as standard
import sys
from collections import namedtuple

from greenio._errors import IncompleteReadError, LimitExceeded
from greenio._scopes import CancelScope, move_on_after, timeout as time_limit
from greenio.socket import socket as plain_socket

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport PyObject
from libc.errno cimport (
    EBADF, ECONNABORTED, ECONNRESET, EHOSTUNREACH, ENETDOWN, ENETRESET, ENETUNREACH, ENOTCONN, EPIPE, EPROTO, ETIMEDOUT)
from libc.string cimport memchr, memcpy, memmove

from greenio._scheduler cimport caller_of, NEVER, Fiber, Scheduler, current_scheduler_or_none, current_scheduler_or_raise
from greenio._socket cimport SocketCore, bytes_of, say_bytes_sent
from greenio._waiting cimport SERVED, Place, forks, serve, stand_in_line

cdef extern from *:
    """
    #include <string.h>

    /* Not for everybody in <string.h>, and Python.h has been included by now. */
    void *memmem(const void *where, size_t size, const void *what, size_t what_size);
    """
    void *memmem(const void *where, size_t size, const void *what, size_t what_size) nogil

cdef enum:
    SCRATCH_BYTES = 256 * 1024
    READ_BUFFER = 64 * 1024
    WRITE_BUFFER = 64 * 1024
    LINE_LIMIT = 64 * 1024
    FIRST_PENDING = 4096             # bytes: `pending` at first; it doubles
    # A large block is received into room made as its bytes come, not when somebody announces them: this much at first, then double.
    FIRST_BLOCK = 1024 * 1024

# The GIL is held from the system call to the copy and nothing parks in between: one is enough.
cdef char scratch[SCRATCH_BYTES]

cdef double CLOSE_NOTIFY_SECONDS = 1.0      # that close waits for room for it

# With these the connection is gone: a later read would find the kernel's error taken and the end of the stream in its place.
cdef set FATAL = {ECONNRESET, ECONNABORTED, EPIPE, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ENETDOWN, ENETRESET}

StreamStatistics = namedtuple(
    "StreamStatistics", "bytes_received bytes_sent receives sends waits buffered unsent since", module="greenio._streams")
StreamStatistics.__doc__ = """What Stream.statistics() returns.

    bytes_received, bytes_sent: through the socket so far; over TLS, what was inside.
    receives, sends: calls of the socket that succeeded.
    waits: those of them that had to wait for the peer.
    buffered: bytes received and not yet read.
    unsent: bytes written and not yet sent.
    since: when the stream was made, in seconds on current_time()'s clock.
    """


cdef object tls_module():
    # Not before it is asked for: it loads OpenSSL.
    from greenio import ssl
    return ssl


cdef object closed_error():
    return OSError(EBADF, "the stream is closed")


cdef bint is_socket_core(sock) except *:
    # Whether the C path may be taken: not if a subclass has its own idea of sending or receiving, as TLS has.
    cdef type cls = type(sock)
    if cls is plain_socket:
        return True
    return isinstance(sock, SocketCore) and all(
        [getattr(cls, name) is getattr(plain_socket, name) for name in ("recv", "recv_into", "send", "sendall")])


cdef class Cork:
    """What Stream.corked() returns."""

    cdef Stream stream

    def __init__(self):
        raise TypeError("made by Stream.corked()")

    def __enter__(self):
        self.stream.corks += 1
        return self.stream

    def __exit__(self, kind, error, traceback):
        self.stream.corks -= 1
        if error is None and self.stream.corks == 0 and self.stream.pending_end > self.stream.pending_start:
            self.stream.flush()


cdef bint is_fatal(error) noexcept:
    return isinstance(error, OSError) and error.errno in FATAL


cdef class Stream:
    """A connection, with buffers: what connect_tcp, connect_unix, Listener.accept and serve's handlers get.

    Reading: one fiber at a time; a second one gets RuntimeError. A read that raises Cancelled or TimeoutError has not happened: what
    had come stays in the buffer for the next one. The buffer holds at most read_buffer bytes beyond what was asked for.

    Writing: any number of fibers, each write in one piece, first come first served. A write has left when it returns: handed to
    the kernel, in one system call where there is room, as sendall does. It parks while the peer does not read, so memory stays
    flat. Only in a corked() block small writes are gathered.

    Reading and writing at the same time, by two fibers, is fine. Every wait ends with Cancelled or a timeout's end, or with OSError
    (EBADF) when the stream is closed. Once the connection is lost, each read says so anew.

    ``with stream:`` closes it: at the end of the block as close() does; where an exception leaves it, at once, and bytes that were
    gathered and not flushed are dropped.

    Args:
        sock: a connected greenio.socket.socket or greenio.ssl.SSLSocket; or what has their recv, sendall, getpeername, getsockname,
            settimeout, gettimeout, shutdown and close, and parks. The stream closes it. Its timeout becomes the stream's.
        read_buffer: bytes received at once beyond what was asked for, 1 to 262,144.
        write_buffer: bytes gathered at most in a corked() block, >= 1.
        limit: bytes of a line at most, with its end, where readline is not told another limit.
    Raises:
        TypeError: *sock* is a standard socket, which would block the OS thread. ValueError: it is no stream socket, or a number
            is out of range. Nothing has changed.
    """

    def __init__(
            self, sock, *, Py_ssize_t read_buffer=READ_BUFFER, Py_ssize_t write_buffer=WRITE_BUFFER, Py_ssize_t limit=LINE_LIMIT):
        if not 1 <= read_buffer <= SCRATCH_BYTES:
            raise ValueError(f"read_buffer must be 1 to {SCRATCH_BYTES} bytes, not {read_buffer}")
        if write_buffer < 1:
            raise ValueError(f"write_buffer must be >= 1 bytes, not {write_buffer}")
        if limit < 1:
            raise ValueError(f"limit must be >= 1 bytes, not {limit}")
        if self.sock is not None:
            raise RuntimeError("this stream has its socket already")
        self.adopt(sock)
        self.read_buffer = read_buffer
        self.write_buffer = write_buffer
        self.limit_bytes = limit
        if self.peer is None:
            try:
                self.peer = sock.getpeername()
            except OSError:
                pass                     # it has gone already, or never was: the first read tells

    cdef int adopt(self, object sock) except -1:
        cdef Scheduler scheduler = current_scheduler_or_none()
        cdef bint direct = is_socket_core(sock)
        if not direct:
            tls = sys.modules.get("ssl")
            if type(sock) is standard.socket or (tls is not None and type(sock) is tls.SSLSocket):
                raise TypeError(
                    f"{sock!r} would block the OS thread: make it with greenio.socket or greenio.ssl, or pass "
                    "greenio.socket.socket(fileno=sock.detach())")
            missing = [name for name in ("recv", "sendall", "settimeout", "gettimeout", "close") if not hasattr(sock, name)]
            if missing:
                raise TypeError(f"a stream needs a socket, not {sock!r}, which has no {', '.join(missing)}")
        kind = getattr(sock, "type", standard.SOCK_STREAM)
        if kind != standard.SOCK_STREAM:
            raise ValueError(f"a stream needs a stream socket, not {kind!r}")
        seconds = sock.gettimeout()
        if seconds is not None:
            if seconds == 0:
                raise ValueError("the socket's timeout is 0, so it never waits; a stream must: call its settimeout(None) first")
            sock.settimeout(None)
        self.timeout_seconds = seconds
        self.sock = sock
        self.core = <SocketCore>sock if direct else None
        if direct:
            self.core.above = <PyObject *>self
        self.since_ns = scheduler.now() if scheduler is not None else 0
        return 0

    def __dealloc__(self):
        PyMem_Free(self.pending)

    cdef int require_open(self) except -1:
        if self.closed_ or self.sock is None:
            raise closed_error()
        return 0

    # --- reading

    cdef Scheduler begin_reading(self):
        cdef Scheduler scheduler = current_scheduler_or_raise()
        scheduler.check()
        self.require_open()
        if self.reader is not None and self.reader_process == forks:
            raise RuntimeError(
                f"{self.reader.name} is reading from {self!r} already, and bytes that two read at once would go to neither "
                "whole; let one fiber read and hand on what it got, or take a greenio.Lock around each message")
        return scheduler

    cdef inline int take_reader(self, Scheduler scheduler) except -1:
        self.reader = <Fiber>caller_of(scheduler)
        self.reader_process = forks
        return 0

    cdef inline void drop_reader(self) noexcept:
        self.reader = None

    cdef Py_ssize_t receive(self, Scheduler scheduler, char *target, Py_ssize_t size) except -1:
        cdef unsigned int parks = (<Fiber>caller_of(scheduler)).park_count
        cdef Py_ssize_t count
        cdef Py_buffer view
        cdef bint came = False
        if self.failure:
            raise OSError(self.failure, os.strerror(self.failure))
        if self.ended:
            return 0
        try:
            if self.core is not None:
                count = self.core.receive(scheduler, target, size, 0)
            else:
                data = self.sock.recv(size)
                bytes_of(data, &view)
                count = view.len
                memcpy(target, view.buf, min(count, size))
                PyBuffer_Release(&view)
                if count > size:
                    raise ValueError(f"{self.sock!r}.recv({size}) returned {count} bytes")
            came = True
        finally:
            if not came:
                error = sys.exc_info()[1]
                self.note_loss(error)
                if self.core is not None and is_fatal(error):
                    self.failure = error.errno
        self.receives += 1
        self.received_bytes += count
        if count == 0:
            self.ended = True
        if parks != (<Fiber>caller_of(scheduler)).park_count:
            self.waits += 1
        return count

    cdef int make_room(self, Py_ssize_t size) except -1:
        # `held` has room for `size` bytes from `start` on.
        cdef Py_ssize_t have = self.end - self.start
        cdef bytes larger
        if self.held is not None and PyBytes_GET_SIZE(self.held) - self.start >= size:
            return 0
        if self.held is not None and PyBytes_GET_SIZE(self.held) >= size:
            memmove(PyBytes_AS_STRING(self.held), PyBytes_AS_STRING(self.held) + self.start, have)
        else:
            larger = PyBytes_FromStringAndSize(NULL, size)
            if have:
                memcpy(PyBytes_AS_STRING(larger), PyBytes_AS_STRING(self.held) + self.start, have)
            self.held = larger
        self.start = 0
        self.end = have
        return 0

    cdef int hold(self, const char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t have = self.end - self.start
        # Doubling only once it has grown: what is left over from a message is given its exact size.
        if self.held is None or PyBytes_GET_SIZE(self.held) - self.end < size:
            self.make_room(have + size if have < size else 2 * have)
        memcpy(PyBytes_AS_STRING(self.held) + self.end, data, size)
        self.end += size
        return 0

    cdef bint fill(self, Scheduler scheduler, Py_ssize_t wanted) except -1:
        cdef Py_ssize_t have = self.end - self.start
        cdef Py_ssize_t room
        cdef Py_ssize_t count
        if wanted <= self.read_buffer:
            count = self.receive(scheduler, scratch, self.read_buffer)
            if count:
                self.hold(scratch, count)
        else:
            if self.held is None or PyBytes_GET_SIZE(self.held) - self.end < min(wanted - have, self.read_buffer):
                self.make_room(min(wanted, max(FIRST_BLOCK, 2 * have)))
            room = min(PyBytes_GET_SIZE(self.held) - self.end, wanted - have)
            try:
                count = self.receive(scheduler, PyBytes_AS_STRING(self.held) + self.end, room)
            except BaseException:
                if have == 0:
                    self.held = None
                    self.start = self.end = 0
                raise
            self.end += count
        scheduler.spend()
        return count != 0

    cdef bytes take(self, Py_ssize_t size):
        cdef bytes data
        if self.start == 0 and size == self.end and size == PyBytes_GET_SIZE(self.held):
            data = self.held
        else:
            data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.held) + self.start, size)
        self.start += size
        if self.start == self.end:
            self.held = None
            self.start = self.end = 0
        return data

    cdef object read_some(self, Scheduler scheduler, Py_ssize_t n):
        cdef Py_ssize_t count
        cdef bytes data
        if self.end > self.start:
            data = self.take(min(n, self.end - self.start))
            scheduler.spend()
            return data
        self.take_reader(scheduler)
        try:
            count = self.receive(scheduler, scratch, min(max(n, self.read_buffer), SCRATCH_BYTES))
            if count <= n:
                data = PyBytes_FromStringAndSize(scratch, count)
                if self.core is not None:
                    self.core.note_latest(data)
            else:
                self.hold(scratch, count)
                data = self.take(n)
        finally:
            self.drop_reader()
        scheduler.spend()
        return data

    cdef object read_all(self, Scheduler scheduler, Py_ssize_t limit):
        self.take_reader(scheduler)
        try:
            while True:
                if limit >= 0 and self.end - self.start > limit:
                    raise LimitExceeded(f"the peer has sent more than {limit} bytes; they are in the buffer still", limit)
                if not self.fill(scheduler, 0):
                    return self.take(self.end - self.start) if self.end > self.start else b""
        finally:
            self.drop_reader()

    cdef object read_whole(self, Scheduler scheduler, Py_ssize_t n):
        self.take_reader(scheduler)
        try:
            while self.end - self.start < n:
                if not self.fill(scheduler, n):
                    partial = self.take(self.end - self.start) if self.end > self.start else b""
                    raise IncompleteReadError(partial, n)
        finally:
            self.drop_reader()
        return self.take(n)

    cdef object read_through(self, Scheduler scheduler, const char *separator, Py_ssize_t size, Py_ssize_t limit, bint or_end):
        cdef Py_ssize_t have
        cdef Py_ssize_t searched = 0
        cdef char *first
        cdef char *found
        self.take_reader(scheduler)
        try:
            while True:
                have = self.end - self.start
                if have > searched:
                    first = PyBytes_AS_STRING(self.held) + self.start
                    if size == 1:
                        found = <char *>memchr(first + searched, separator[0], have - searched)
                    else:
                        found = <char *>memmem(first + searched, have - searched, separator, size)
                    if found is not NULL:
                        have = found - first + size
                        if have <= limit:
                            return self.take(have)
                        raise LimitExceeded(
                            f"the next line or block has {have} bytes, above the limit of {limit}; it is in the buffer still", limit)
                    searched = max(have - size + 1, 0)
                if have >= limit:
                    raise LimitExceeded(
                        f"no {PyBytes_FromStringAndSize(separator, size)!r} within the limit of {limit} bytes; what has come is "
                        "in the buffer still", limit)
                if not self.fill(scheduler, 0):
                    partial = self.take(have) if have else b""
                    if or_end:
                        return partial
                    raise IncompleteReadError(partial, None)
        finally:
            self.drop_reader()

    cdef Py_ssize_t read_to(self, Scheduler scheduler, char *target, Py_ssize_t size) except -1:
        cdef Py_ssize_t count
        if self.end == self.start and size >= self.read_buffer:
            self.take_reader(scheduler)
            try:
                return self.receive(scheduler, target, size)
            finally:
                self.drop_reader()
        if self.end == self.start:
            self.take_reader(scheduler)
            try:
                count = self.receive(scheduler, scratch, self.read_buffer)
                if count > size:
                    self.hold(scratch + size, count - size)
                    count = size
                memcpy(target, scratch, count)
                return count
            finally:
                self.drop_reader()
        count = min(size, self.end - self.start)
        memcpy(target, PyBytes_AS_STRING(self.held) + self.start, count)
        self.start += count
        if self.start == self.end:
            self.held = None
            self.start = self.end = 0
        return count

    def read(self, Py_ssize_t n=-1, *, limit=None):
        """Read at most *n* bytes, at least one; b"" at the end. Without *n*, all until the end. Parks until there is something.

        Args:
            n: bytes, >= 0; more than 262,144 do not come at once. Below 0: until the peer has ended.
            limit: when reading until the end, how many bytes at most; None: no limit, so the peer decides about this process' memory.
        Raises:
            LimitExceeded: more than *limit* came. TimeoutError, Cancelled. All that had come is in the buffer still.
            OSError: the connection failed, or the stream is closed.
            RuntimeError: another fiber is reading.
        """
        cdef Scheduler scheduler = self.begin_reading()
        cdef Py_ssize_t most = -1
        if n == 0:
            return b""
        if n < 0 and limit is not None:
            most = limit
            if most < 0:
                raise ValueError(f"limit must be >= 0 bytes or None, not {limit!r}")
        if self.timeout_seconds is None:
            return self.read_some(scheduler, n) if n > 0 else self.read_all(scheduler, most)
        with time_limit(self.timeout_seconds):
            return self.read_some(scheduler, n) if n > 0 else self.read_all(scheduler, most)

    def read_exactly(self, Py_ssize_t n):
        """Read exactly *n* bytes. Parks until all are there. Room for them is made as they come.

        Raises:
            IncompleteReadError: the peer ended before; its `partial` has what came.
            TimeoutError, Cancelled, OSError, RuntimeError: as read; what had come is in the buffer still.
            ValueError: *n* is negative.
        """
        cdef Scheduler scheduler = self.begin_reading()
        if n < 0:
            raise ValueError(f"read_exactly wants >= 0 bytes, not {n}")
        if n == 0:
            return b""
        if self.end - self.start >= n:
            data = self.take(n)
            scheduler.spend()
            return data
        if self.timeout_seconds is None:
            return self.read_whole(scheduler, n)
        with time_limit(self.timeout_seconds):
            return self.read_whole(scheduler, n)

    def read_until(self, separator, *, limit=None):
        """Read up to and with *separator*. Parks until it has come.

        Args:
            separator: bytes, at least one.
            limit: bytes at most, *separator* among them; the stream's own limit unless given.
        Raises:
            LimitExceeded: it did not come within *limit*. Nothing was taken: what has come is in the buffer still, so read with a
                larger limit, take the bytes with read, or close.
            IncompleteReadError: the peer ended before; its `partial` has what came, `expected` is None.
            TimeoutError, Cancelled, OSError, RuntimeError: as read; what had come is in the buffer still.
            ValueError: *separator* is empty.
        """
        cdef Scheduler scheduler = self.begin_reading()
        cdef Py_buffer view
        cdef Py_ssize_t most = self.limit_of(limit)
        bytes_of(separator, &view)
        try:
            if view.len == 0:
                raise ValueError("a separator has at least one byte")
            if self.timeout_seconds is None:
                block = self.read_through(scheduler, <const char *>view.buf, view.len, most, False)
            else:
                with time_limit(self.timeout_seconds):
                    block = self.read_through(scheduler, <const char *>view.buf, view.len, most, False)
        finally:
            PyBuffer_Release(&view)
        scheduler.spend()                    # a buffer full of blocks must not starve the others
        return block

    def readline(self, *, limit=None):
        """Read a line, with its b"\\n"; what is left at the end may lack it, and is b"" if nothing is. Parks until it has come.

        Args:
            limit: bytes at most; the stream's own limit unless given.
        Raises:
            LimitExceeded, TimeoutError, Cancelled, OSError, RuntimeError: as read_until; nothing was taken.
        """
        cdef Scheduler scheduler = self.begin_reading()
        cdef Py_ssize_t most = self.limit_of(limit)
        if self.timeout_seconds is None:
            line = self.read_through(scheduler, b"\n", 1, most, True)
        else:
            with time_limit(self.timeout_seconds):
                line = self.read_through(scheduler, b"\n", 1, most, True)
        scheduler.spend()
        return line

    cdef Py_ssize_t limit_of(self, limit) except -1:
        cdef Py_ssize_t most
        if limit is None:
            return self.limit_bytes
        most = limit
        if most < 1:
            raise ValueError(f"limit must be >= 1 bytes, not {limit!r}")
        return most

    def read_into(self, buffer):
        """Read into *buffer*, as much as there is and it holds; returns how many bytes, 0 at the end. Parks as read.

        Raises:
            TimeoutError, Cancelled, OSError, RuntimeError: as read; *buffer* is as it was.
            TypeError: *buffer* cannot be written to.
        """
        cdef Scheduler scheduler = self.begin_reading()
        cdef Py_buffer view
        cdef Py_ssize_t count = 0
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except BufferError:
            raise TypeError(f"read_into wants a buffer that can be written to, not {type(buffer).__name__}") from None
        try:
            if view.len == 0:
                return 0
            if self.timeout_seconds is None:
                count = self.read_to(scheduler, <char *>view.buf, view.len)
            else:
                with time_limit(self.timeout_seconds):
                    count = self.read_to(scheduler, <char *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        scheduler.spend()
        return count

    def __iter__(self):
        """Lines until the end, as readline reads them: ``for line in stream``."""
        return self

    def __next__(self):
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def at_eof(self):
        """Whether the peer has ended, as far as has been received, and all it sent has been read. Does not look at the socket."""
        return self.ended and self.end == self.start

    # --- writing

    cdef Scheduler begin_writing(self):
        cdef Scheduler scheduler = current_scheduler_or_raise()
        scheduler.check()
        self.require_open()
        if self.half_closed:
            raise BrokenPipeError(EPIPE, "half_close has ended this direction of the stream")
        return scheduler

    cdef int take_turn(self, Scheduler scheduler) except -1:
        cdef Place place
        while self.sending and self.sender_process == forks:
            place.item = NULL
            if stand_in_line(&self.turns, &place, scheduler, "stream write", self, NEVER) == SERVED:
                return 0                 # `sending` stays set, for this one now
        self.sending = True
        self.sender_process = forks
        return 0

    cdef void end_turn(self) noexcept:
        if self.turns.first is NULL or serve(&self.turns) is NULL:
            self.sending = False
            if self.closed_:
                self.drop_pending()

    cdef void drop_pending(self) noexcept:
        PyMem_Free(self.pending)
        self.pending = NULL
        self.pending_room = 0
        self.pending_start = self.pending_end = 0

    cdef int gather(self, const char *data, Py_ssize_t size) except -1:
        # The caller has seen that there is room for it within write_buffer.
        cdef Py_ssize_t have = self.pending_end - self.pending_start
        cdef Py_ssize_t room = self.pending_room
        cdef char *larger
        if self.pending_start and self.pending_end + size > room:
            memmove(self.pending, self.pending + self.pending_start, have)
            self.pending_start = 0
            self.pending_end = have
        if have + size > room:
            room = min(max(2 * room, have + size, FIRST_PENDING), max(self.write_buffer, have + size))
            larger = <char *>PyMem_Realloc(self.pending, room)
            if larger is NULL:
                raise MemoryError(f"no room for {room} bytes that are to be sent")
            self.pending = larger
            self.pending_room = room
        memcpy(self.pending + self.pending_end, data, size)
        self.pending_end += size
        return 0

    cdef int transmit(self, Scheduler scheduler, object data, const char *start, Py_ssize_t size) except -1:
        cdef unsigned int parks = (<Fiber>caller_of(scheduler)).park_count
        cdef bint left = False
        if size == 0:
            return 0
        try:
            if self.core is not None:
                self.core.transmit(scheduler, start, size, 0, True)
            else:
                self.sock.sendall(PyBytes_FromStringAndSize(start, size) if data is None else data)
            left = True
        finally:
            if not left:
                error = sys.exc_info()[1]
                self.sent_bytes += getattr(error, "bytes_sent", 0)
                self.note_loss(error)
        self.sends += 1
        self.sent_bytes += size
        if parks != (<Fiber>caller_of(scheduler)).park_count:
            self.waits += 1
        return 0

    cdef void note_loss(self, error) noexcept:
        if is_fatal(error):
            self.lost = True

    cdef int send_pending(self, Scheduler scheduler) except -1:
        cdef Py_ssize_t size = self.pending_end - self.pending_start
        cdef Py_ssize_t sent
        try:
            self.transmit(scheduler, None, self.pending + self.pending_start, size)
        except BaseException as error:
            sent = getattr(error, "bytes_sent", 0)
            self.pending_start += min(sent, size)
            raise
        self.drop_pending()
        return 0

    cdef int send(self, Scheduler scheduler, object data, const char *start, Py_ssize_t size) except -1:
        # The caller has the turn.
        cdef Py_ssize_t before = self.pending_end - self.pending_start
        cdef Py_ssize_t taken_back
        if before and before + size <= self.write_buffer:
            self.gather(start, size)
            try:
                self.send_pending(scheduler)
            except BaseException as error:
                taken_back = min(size, self.pending_end - self.pending_start)
                self.pending_end -= taken_back
                error.bytes_sent = size - taken_back
                raise
            return 0
        if before:
            try:
                self.send_pending(scheduler)
            except BaseException as error:
                error.bytes_sent = 0
                raise
        return self.transmit(scheduler, data, start, size)

    cdef int write_bytes(self, Scheduler scheduler, object data, const char *start, Py_ssize_t size) except -1:
        cdef bint left = False
        try:
            self.take_turn(scheduler)
            try:
                if self.closed_ or self.half_closed:
                    self.begin_writing()     # raises: it was ended while this one stood in line
                if self.corks and self.pending_end - self.pending_start + size <= self.write_buffer:
                    self.gather(start, size)
                else:
                    self.send(scheduler, data, start, size)
            finally:
                self.end_turn()
            left = True
        finally:
            if not left:
                say_bytes_sent(sys.exc_info()[1])
        return 0

    cdef int flush_all(self, Scheduler scheduler) except -1:
        self.take_turn(scheduler)
        try:
            if self.pending_end > self.pending_start:
                self.send_pending(scheduler)
        finally:
            self.end_turn()
        return 0

    def write(self, data):
        """Send all of *data*, in one piece. Parks for room while the peer does not read; when it returns, the kernel has it all.

        In a corked() block, *data* may be gathered instead, and leave later.

        Raises:
            TimeoutError, Cancelled, OSError: the first bytes_sent bytes of *data* (an attribute of the exception) were sent, and no
                others will be: unless it is 0, the stream is cut in the middle of *data*. What was gathered before
                and not sent is in the buffer still.
            BrokenPipeError: half_close was called, or the peer is gone.
        """
        cdef Scheduler scheduler = self.begin_writing()
        cdef Py_buffer view
        cdef Py_ssize_t sent = 0
        if self.timeout_seconds is None and PyBytes_CheckExact(data):
            self.write_bytes(scheduler, data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            scheduler.spend()
            return
        bytes_of(data, &view)
        try:
            if self.timeout_seconds is None:
                self.write_bytes(scheduler, data, <const char *>view.buf, view.len)
            else:
                try:
                    with time_limit(self.timeout_seconds):
                        try:
                            self.write_bytes(scheduler, data, <const char *>view.buf, view.len)
                        except BaseException as error:
                            sent = error.bytes_sent
                            raise
                except TimeoutError as error:
                    error.bytes_sent = sent
                    raise
        finally:
            PyBuffer_Release(&view)
        scheduler.spend()

    def writelines(self, parts):
        """Write each of *parts*, an iterable of bytes, gathered into blocks of write_buffer bytes. Parks as write.

        What other fibers write may come between two blocks.

        Raises:
            TimeoutError, Cancelled, OSError: the first bytes_sent bytes of all parts were sent.
        """
        cdef Py_ssize_t sent = 0
        cdef Py_ssize_t size = 0
        cdef list block = []
        self.begin_writing()
        try:
            for part in parts:
                view = memoryview(part)
                block.append(view)
                size += view.nbytes
                if size >= self.write_buffer:
                    self.write(b"".join(block))
                    sent += size
                    size = 0
                    block.clear()
                view = None
            if size:
                self.write(b"".join(block))
        except BaseException as error:
            error.bytes_sent = sent + getattr(error, "bytes_sent", 0)
            raise

    def corked(self):
        """A block in which small writes are gathered, and leave together: ``with stream.corked():``. Blocks may nest.

        Bytes leave when more than write_buffer would be gathered, at flush(), and at the end of the outermost block, which may park
        for that. A block that an exception leaves sends nothing: what was gathered is sent before the next write, or by flush()
        or close(). It is the stream that is corked, whichever fiber writes.
        """
        cdef Cork cork = Cork.__new__(Cork)
        cork.stream = self
        return cork

    def flush(self):
        """Send what was gathered. Parks for room.

        Raises:
            TimeoutError, Cancelled, OSError: what was not sent is in the buffer still, and another flush goes on from there.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        scheduler.check()
        self.require_open()
        if self.timeout_seconds is None:
            self.flush_all(scheduler)
        else:
            with time_limit(self.timeout_seconds):
                self.flush_all(scheduler)
        scheduler.spend()

    # --- ends

    cdef int end_writing(self, Scheduler scheduler) except -1:
        # Once what is under way has left.
        self.take_turn(scheduler)
        try:
            if self.half_closed:
                return 0
            if self.pending_end > self.pending_start:
                self.send_pending(scheduler)
            self.half_closed = True
            try:
                if self.core is not None:
                    self.core.shutdown(standard.SHUT_WR)
                else:
                    self.end_tls()
            except OSError as error:
                if error.errno != ENOTCONN and error.errno not in FATAL:
                    raise
                self.lost = True             # it has gone: the next read tells
        finally:
            self.end_turn()
        return 0

    def half_close(self):
        """End this direction: the peer reads all that was written and then the end. Reading goes on. Parks as flush.

        Over TLS it sends close_notify, and TCP's own direction stays open.

        Raises:
            TimeoutError, Cancelled, OSError: what was gathered could not be sent; nothing has ended.
        """
        cdef Scheduler scheduler = current_scheduler_or_raise()
        scheduler.check()
        self.require_open()
        if self.timeout_seconds is None:
            self.end_writing(scheduler)
        else:
            with time_limit(self.timeout_seconds):
                self.end_writing(scheduler)

    cdef int finish(self, object linger) except -1:
        cdef Scheduler scheduler
        if self.pending_end > self.pending_start and not self.half_closed:
            scheduler = current_scheduler_or_raise()
            if self.timeout_seconds is None:
                self.flush_all(scheduler)
            else:
                with time_limit(self.timeout_seconds):
                    self.flush_all(scheduler)
        if linger is not None:
            scheduler = current_scheduler_or_raise()
            with move_on_after(linger):
                try:
                    self.end_writing(scheduler)
                    while self.receive(scheduler, scratch, SCRATCH_BYTES):
                        scheduler.spend()
                except OSError:
                    pass                     # the peer went first
        elif hasattr(self.sock, "close_notify") and not (self.half_closed or self.lost or self.sending) and (
                current_scheduler_or_none() is not None):
            # A courtesy, by which the peer tells a whole answer from one that was cut off. Not worth waiting for one that reads nothing.
            with move_on_after(CLOSE_NOTIFY_SECONDS):
                try:
                    self.end_tls()
                except (OSError, ValueError):
                    pass                     # the peer went first
        return 0

    def close(self, *, linger=None):
        """Send what was gathered, and close. Parks as flush if there is such; closes also if that raises. Again: does nothing.

        Over TLS it sends close_notify, if there is room within a second, and does not wait for the peer's. Who waits in a read or a write gets OSError (EBADF).

        Args:
            linger: seconds to wait, after ending this direction, for the peer to end the other one; what it sends meanwhile is
                thrown away. For a server that has not read all that a client sends: TCP tells of unread bytes by a reset, at
                which a client's system may drop the last answer before the client has read it. None: does not wait.
        Raises:
            TimeoutError, Cancelled, OSError: what was gathered could not be sent. The stream is closed.
        """
        if self.closed_ or self.sock is None:
            return
        try:
            self.finish(linger)
        finally:
            self.discard()

    cdef int discard(self) except -1:
        self.closed_ = True
        if self.upgrading is not None:
            self.upgrading.cancel("the stream was closed")
        if not self.sending:
            self.drop_pending()              # else by who is sending, in a moment: it gets EBADF
        self.sock.close()
        return 0

    def abort(self):
        """Close at once, without parking: what was gathered is dropped, and so is what the kernel has not sent; a TCP peer gets a reset."""
        if self.closed_ or self.sock is None:
            return
        try:
            self.sock.setsockopt(standard.SOL_SOCKET, standard.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except (OSError, AttributeError):
            pass
        self.discard()

    cdef int end_tls(self) except -1:
        # close_notify, without waiting for the peer's. What carries no TLS has an end of its own.
        notify = getattr(self.sock, "close_notify", None)
        if notify is not None:
            notify()
        else:
            self.sock.shutdown(standard.SHUT_WR)
        return 0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None:
            self.close()
        elif not self.closed_ and self.sock is not None:
            self.discard()

    def start_tls(self, context=None, *, bint server_side=False, server_hostname=None, timeout=None):
        """Continue under TLS: the handshake, over the connection as it is. Parks until it is done; what was gathered is sent first.

        Bytes that came in the clear and were not read yet are refused: an attacker on the way could have put them there,
        to be taken for what comes under TLS.

        Args:
            context: an ssl.SSLContext; None: greenio.ssl.create_default_context(), for a client.
            server_side: act as the server.
            server_hostname: the name that the server's certificate must be for.
            timeout: seconds for the handshake; None: the stream's own.
        Raises:
            OSError (EPROTO): unread bytes are there. RuntimeError: another fiber is reading or writing, or the stream is under TLS
                already. TypeError, ValueError: the arguments do not fit together. Nothing has changed.
            ssl.SSLError, OSError, TimeoutError, Cancelled: the handshake failed. The stream is closed.
        """
        cdef Scheduler scheduler = self.begin_writing()
        self.begin_reading()
        ssl = tls_module()
        if isinstance(self.sock, ssl.SSLSocket):
            raise RuntimeError(f"{self!r} is under TLS already")
        if context is None:
            if server_side:
                raise ValueError("a server needs a context with its certificate: start_tls(context, server_side=True)")
            context = ssl.create_default_context()
        self.take_reader(scheduler)
        try:
            if self.sending and self.sender_process == forks:
                raise RuntimeError(f"another fiber is writing to {self!r}; TLS starts between messages")
            self.take_turn(scheduler)
            try:
                if self.end > self.start:
                    raise OSError(
                        EPROTO, f"{self.end - self.start} bytes that came before TLS are unread; they would be taken for what comes "
                        "under it: read them first if the protocol has them, or close")
                if self.pending_end > self.pending_start:
                    with time_limit(self.timeout_seconds):
                        self.send_pending(scheduler)
                self.upgrade(context, server_side, server_hostname, self.timeout_seconds if timeout is None else timeout)
            finally:
                self.end_turn()
        finally:
            self.drop_reader()

    cdef int upgrade(self, context, bint server_side, server_hostname, timeout) except -1:
        # The handshake goes on over a socket that this stream does not have yet: who closes it meanwhile ends it by the scope.
        made = None
        self.upgrading = CancelScope()
        try:
            with self.upgrading:
                made = tls_module().start_tls(
                    self.sock, context, server_side=server_side, server_hostname=server_hostname, timeout=timeout)
        except BaseException as error:
            if isinstance(error, OSError) or not isinstance(error, (TypeError, ValueError)) or self.sock.fileno() < 0:
                self.discard()
            raise
        finally:
            self.upgrading = None
        if self.closed_:
            if made is not None:
                made.close()
            raise closed_error()
        self.sock = made
        self.core = None
        return 0

    # --- what is known about it

    @property
    def socket(self):
        """The socket below: for its options, its certificate. Reading from it passes by what the stream has buffered."""
        return self.sock

    @property
    def peername(self):
        """The peer's address as the socket module has it, also after it has gone; None if it had gone before anybody asked."""
        return self.peer

    @property
    def sockname(self):
        """The stream's own address. OSError once it is closed, unless it was asked for before."""
        if self.own is None:
            self.require_open()
            self.own = self.sock.getsockname()
        return self.own

    @property
    def timeout(self):
        """Seconds that one read or write may take as a whole, or None: for ever. TimeoutError then; see each about what was done."""
        return self.timeout_seconds

    @timeout.setter
    def timeout(self, seconds):
        cdef double number
        if seconds is None:
            self.timeout_seconds = None
            return
        number = seconds
        if not number > 0:
            raise ValueError(f"a stream's timeout must be > 0 seconds or None, not {seconds!r}")
        self.timeout_seconds = number

    @property
    def limit(self):
        """Bytes of a line or block at most, where the call does not say."""
        return self.limit_bytes

    @limit.setter
    def limit(self, limit):
        cdef Py_ssize_t most = limit
        if most < 1:
            raise ValueError(f"limit must be >= 1 bytes, not {limit!r}")
        self.limit_bytes = most

    @property
    def buffered(self):
        """Bytes received and not yet read: a read of as many does not park."""
        return self.end - self.start

    @property
    def closed(self):
        """Whether close or abort was called."""
        return self.closed_

    @property
    def connection_lost(self):
        """Whether a read or write has found the connection gone (reset, timed out, unreachable): no failure of this side."""
        return self.lost

    def fileno(self):
        """The socket's descriptor, or -1 once it is closed."""
        return self.sock.fileno() if self.sock is not None else -1

    def statistics(self):
        """What went through so far: a StreamStatistics."""
        return StreamStatistics(
            self.received_bytes, self.sent_bytes, self.receives, self.sends, self.waits, self.end - self.start,
            self.pending_end - self.pending_start, self.since_ns / 1e9)

    def __repr__(self):
        state = "closed" if self.closed_ else "half-closed" if self.half_closed else "open"
        return f"<greenio.Stream to {shown(self.peer)}, {state}>"


cdef object shown(address):
    if isinstance(address, tuple) and len(address) >= 2:
        host = address[0]
        return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
    return repr(address) if address else "an unnamed peer"


def shown_address(address):
    """An address for people: host:port, [host]:port, or a path in quotes."""
    return shown(address)


def stream_to(sock, peer):
    """A Stream on *sock*, a new one, whose peer's address is known. Without a timeout, whatever socket.setdefaulttimeout says."""
    cdef Stream stream = Stream.__new__(Stream)
    sock.settimeout(None)
    stream.adopt(sock)
    stream.peer = peer
    stream.read_buffer = READ_BUFFER
    stream.write_buffer = WRITE_BUFFER
    stream.limit_bytes = LINE_LIMIT
    return stream
