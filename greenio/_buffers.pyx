# _buffers.pyx: io's buffered classes for several fibers, on raw files that park: greenio.open's, and sockets' makefile.
#
# They are subclasses of the standard classes of those names and do what these do, in a way that holds when fibers park in the middle.
# The standard ones have a lock for each OS thread, call a second fiber's call reentrant, and lose what they hold in local variables
# when the raw file raises. Here a fiber's lock keeps calls apart, first come first served, and what has been read or accepted is in
# the object before anything may park (_buffers.pxd). The sizes of raw reads are the standard ones' as well: how much of a socket
# has been read is something that others can see.
#
# Destructors come here, maybe at the interpreter's end: what they need is in C variables, not in the module's dictionary.
import io
import os
from contextlib import nullcontext

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject_TypeCheck, PyTypeObject
from libc.errno cimport EAGAIN, EINTR
from libc.string cimport memchr, memcpy, memmove

from greenio._io cimport Descriptor
from greenio._scheduler cimport current_scheduler_or_none
from greenio._sync cimport Lock

from greenio._io import FdIO
from greenio._scopes import move_on_after, shield

cdef extern from "Python.h":
    bytearray PyByteArray_FromStringAndSize(const char *data, Py_ssize_t size)
    char *PyByteArray_AS_STRING(object array)
    Py_ssize_t PyByteArray_GET_SIZE(object array)
    Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    WOULD_BLOCK = -1               # what a raw call returns where the raw file said None
    RECEIVED_BYTES = 64 * 1024     # up to which a socket's recv waits with no room of its own

cdef bytearray nothing_pending = bytearray()   # of those that do not write
cdef object UnsupportedOperation = io.UnsupportedOperation
cdef object plain_block = nullcontext
cdef object shield_block = shield
cdef object bounded_block = move_on_after
cdef object FileIO = FdIO
cdef double LAST_WRITE = 0.001     # seconds that a cancelled close may take for what there is room for; it does not wait for more room


cdef object uncancelled_block():
    return plain_block() if current_scheduler_or_none() is None else shield_block()


def uncancelled():
    """A block that is not cancelled; on an OS thread without fibers, just a block."""
    return uncancelled_block()


cdef object blocked(Py_ssize_t written):
    return BlockingIOError(EAGAIN, "write could not complete without blocking", written)


@cython.final
cdef class Buffer:
    """What a buffered file holds, and what its methods do."""

    def __init__(self, raw, Py_ssize_t size, bint reads, bint writes, bint whole, bint receives):
        if size <= 0:
            raise ValueError("invalid buffer size")
        self.raw = raw
        self.descriptor = raw._core if PyObject_TypeCheck(raw, <PyTypeObject *>FileIO) else None   # isinstance asks io's metaclass
        self.on_disk = self.descriptor is not None and raw.on_disk
        self.lock = Lock()
        self.size = size
        self.pending = bytearray() if writes else nothing_pending
        self.reads = reads
        self.writes = writes
        self.whole = whole
        self.receives = receives

    cdef int require_attached(self) except -1:
        if self.raw is None:
            raise ValueError("raw stream has been detached")
        return 0

    cdef bint is_closed(self) except -1:
        self.require_attached()
        if self.descriptor is not None:
            return self.descriptor.fd < 0
        return self.raw.closed

    cdef int require_open(self, str what) except -1:
        if self.is_closed():
            raise ValueError(f"{what} closed file")
        return 0

    cdef object call(self, object method, object argument):
        # Of the raw file; again if a signal interrupted it. Parks; with the lock.
        while True:
            try:
                if self.whole:
                    with uncancelled_block():
                        return method(argument)
                return method(argument)
            except OSError as error:
                if error.errno != EINTR:
                    raise

    # --- reading

    cdef object taken(self, Py_ssize_t count):
        # The next *count* bytes of those ahead, out of them.
        cdef object data
        if self.room == 0 and count and count == PyBytes_GET_SIZE(self.ahead):
            data = self.ahead              # as it came
        else:
            data = PyBytes_FromStringAndSize(self.at + self.start, count)
        self.drop(count)
        return data

    cdef inline void drop(self, Py_ssize_t count) noexcept:
        self.start += count
        if self.start == self.end:
            self.start = self.end = 0
            if self.receives or self.room > self.size:
                self.ahead = None
                self.at = NULL
                self.room = 0

    cdef int make_room(self, Py_ssize_t size) except -1:
        # For *size* bytes behind those ahead.
        cdef Py_ssize_t have = self.end - self.start
        cdef bytearray larger
        if self.room - self.end >= size:
            return 0
        if self.room - have >= size:
            memmove(self.at, self.at + self.start, have)
        else:
            if size > PY_SSIZE_T_MAX - have:
                raise MemoryError
            larger = PyByteArray_FromStringAndSize(NULL, max(self.size, have + size))
            if have:
                memcpy(PyByteArray_AS_STRING(larger), self.at + self.start, have)
            self.ahead = larger
            self.at = PyByteArray_AS_STRING(larger)
            self.room = PyByteArray_GET_SIZE(larger)
        self.start = 0
        self.end = have
        return 0

    cdef int hold(self, const char *data, Py_ssize_t count) except -1:
        # *data*, behind what is ahead.
        self.make_room(count)
        memcpy(self.at + self.end, data, count)
        self.end += count
        return 0

    cdef int put_back(self, bytes data) except -1:
        # *data*, in front of what is ahead.
        cdef bytes rest = self.taken(self.end - self.start)
        self.hold(data, len(data))
        return self.hold(rest, len(rest))

    cdef Py_ssize_t copy_out(self, char *target, Py_ssize_t count) noexcept:
        # The next *count* bytes of those ahead.
        if count:
            memcpy(target, self.at + self.start, count)
            self.drop(count)
        return count

    cdef Py_ssize_t raw_read(self, object target, Py_ssize_t size) except -2:
        # One read into *target*, a memoryview of *size* bytes. Parks; with the lock.
        cdef Py_ssize_t count
        self.require_attached()
        result = self.call(self.raw.readinto, target)
        if result is None:
            return WOULD_BLOCK
        try:
            count = result
        except Exception as error:
            raise OSError("raw readinto() failed") from error
        if count < 0 or count > size:
            raise OSError(f"raw readinto() returned invalid length {count} (should have been between 0 and {size})")
        return count

    cdef object receive(self, Py_ssize_t size):
        # What SocketIO.readinto does, which must be given the room before it waits: bytes, or None. Parks; with the lock.
        cdef object raw = self.raw
        if raw.closed:
            raise ValueError("I/O operation on closed file.")
        if raw._timeout_occurred:
            raise OSError("cannot read from timed out object")
        try:
            return raw._sock.recv(size)
        except TimeoutError:
            raw._timeout_occurred = True
            raise
        except OSError as error:
            if error.errno == EAGAIN:
                return None
            raise

    cdef Py_ssize_t fill(self, Py_ssize_t wanted) except -2:
        # One read of at most *wanted* bytes, behind what is ahead. 0: the end. Parks; with the lock.
        cdef bytearray room
        cdef object data = None
        cdef Py_ssize_t count
        self.require_attached()
        if self.receives and wanted <= RECEIVED_BYTES:
            data = self.receive(wanted)
            count = WOULD_BLOCK if data is None else PyBytes_GET_SIZE(data)
        else:
            self.make_room(wanted)
            room = self.ahead
            count = self.raw_read(memoryview(room)[self.end:self.end + wanted], wanted)
        if self.given_up:
            raise ValueError("I/O operation on closed file")  # meanwhile
        if count > 0 and data is None:
            self.end += count
        elif count > 0 and self.start < self.end:
            self.hold(PyBytes_AS_STRING(data), count)
        elif count > 0:
            self.ahead = data
            self.at = PyBytes_AS_STRING(data)
            self.room = 0
            self.start = 0
            self.end = count
        return count

    cdef int begin_reading(self) except -1:
        # With the lock, which may have come after a wait.
        if self.writes:
            self.drain_to(0)
        return 0

    cdef object read(self, Py_ssize_t size):
        if size < -1:
            raise ValueError("read length must be non-negative or -1")
        if 0 < size <= self.end - self.start and self.lock.holder is None:
            return self.taken(size)
        if self.start == self.end:
            self.require_open("read of")
        if size < 0:
            return self.read_all()
        if size == 0:
            return b""
        with self.lock:
            return self.read_waiting(size)

    cdef object read_all(self):
        cdef Py_ssize_t count = 0
        with self.lock:
            self.begin_reading()
            while True:
                count = self.fill(max(self.size, self.end - self.start))
                if count <= 0:
                    break
            if count == WOULD_BLOCK and self.start == self.end:
                return None
            return self.taken(self.end - self.start)

    cdef object read_waiting(self, Py_ssize_t size):
        cdef Py_ssize_t count
        cdef Py_ssize_t missing
        cdef Py_ssize_t last = 0       # bytes of the last bufferful that have come
        self.begin_reading()
        while True:
            missing = size - (self.end - self.start)
            if missing <= 0:
                return self.taken(size)
            if missing >= self.size:
                count = self.fill(missing - missing % self.size)
            else:
                count = self.fill(self.size - last)
                last += max(0, count)
            if count <= 0:
                if count == WOULD_BLOCK and self.start == self.end:
                    return None
                return self.taken(self.end - self.start)

    cdef object read1(self, Py_ssize_t size):
        if size < 0:
            size = self.size
        if self.start < self.end and self.lock.holder is None:
            return self.taken(min(size, self.end - self.start))
        if self.start == self.end:
            self.require_open("read of")
        if size == 0:
            return b""
        with self.lock:
            self.begin_reading()
            if self.start == self.end:
                self.fill(max(self.size, size) if self.on_disk else size)
            return self.taken(min(size, self.end - self.start))

    cdef object read_into(self, object target, bint once):
        cdef Py_buffer view
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t last = 0       # as in read_waiting
        cdef char *bytes
        try:
            PyObject_GetBuffer(target, &view, PyBUF_WRITABLE)
        except BufferError:
            raise TypeError(f"readinto() argument must be read-write bytes-like object, not {type(target).__name__}") from None
        try:
            bytes = <char *>view.buf
            if self.start == self.end:
                self.require_open("readinto of")
            elif view.len <= self.end - self.start and self.lock.holder is None:
                return self.copy_out(bytes, view.len)
            with self.lock:
                self.begin_reading()
                try:
                    while True:
                        done += self.copy_out(bytes + done, min(view.len - done, self.end - self.start))
                        # Of one that is larger than the buffer the standard class makes a raw read then, which may wait.
                        if done == view.len or (once and done):
                            break
                        if view.len - done > self.size:
                            count = self.raw_read(memoryview(target).cast("B")[done:], view.len - done)
                            done += max(0, count)
                        else:
                            count = self.fill(self.size - last)
                            last += max(0, count)
                        if count <= 0:
                            break
                except BaseException:
                    self.hold(bytes, done)
                    raise
            return None if count == WOULD_BLOCK and not done else done
        finally:
            PyBuffer_Release(&view)

    cdef object peek(self):
        if self.start == self.end:
            self.require_open("peek of")
        with self.lock:
            self.begin_reading()
            if self.start == self.end:
                self.fill(self.size)
            return PyBytes_FromStringAndSize(self.at + self.start, self.end - self.start)

    cdef object readline(self, Py_ssize_t limit):
        cdef Py_ssize_t count = self.end - self.start
        cdef const char *bytes
        cdef const char *found
        if count and self.lock.holder is None:
            if 0 <= limit < count:
                count = limit
            bytes = self.at + self.start
            found = <const char *>memchr(bytes, c"\n", count)
            if found is not NULL:
                return self.taken(found - bytes + 1)
            if count == limit:
                return self.taken(count)
        if self.start == self.end:
            self.require_open("readline of")
        if limit == 0:
            return b""
        with self.lock:
            return self.readline_waiting(limit)

    cdef object readline_waiting(self, Py_ssize_t limit):
        cdef Py_ssize_t seen = 0
        cdef Py_ssize_t count
        cdef const char *bytes
        cdef const char *found
        self.begin_reading()
        while True:
            count = self.end - self.start
            if 0 <= limit < count:
                count = limit
            if count > seen:
                bytes = self.at + self.start
                found = <const char *>memchr(bytes + seen, c"\n", count - seen)
                if found is not NULL:
                    return self.taken(found - bytes + 1)
                seen = count
            if count == limit or self.fill(self.size) <= 0:
                return self.taken(count)

    # --- writing

    cdef Py_ssize_t raw_write(self, object data, Py_ssize_t size) except -2:
        # One write of *data*, which has *size* bytes. Parks; with the lock.
        cdef Py_ssize_t count
        result = self.call(self.raw.write, data)
        if result is None:
            return WOULD_BLOCK
        count = result
        if count < 0 or count > size:
            raise OSError(f"raw write() returned invalid length {count} (should have been between 0 and {size})")
        return count

    cdef int drain_to(self, Py_ssize_t target) except -1:
        # Write until at most *target* bytes are pending, or as many have been written as there were. Parks; with the lock.
        cdef Py_ssize_t size = PyByteArray_GET_SIZE(self.pending)
        cdef Py_ssize_t count
        if size <= target:
            return 0
        data = memoryview(bytes(self.pending))
        while size and PyByteArray_GET_SIZE(self.pending) > target:
            count = self.raw_write(data, size)
            if count == WOULD_BLOCK:
                raise blocked(0)
            size -= count
            data = data[count:]
            del self.pending[:count]
            PyErr_CheckSignals()
        return 0

    cdef int rewind(self) except -1:
        # To where the reader of what is ahead is. With the lock.
        if self.start < self.end:
            self.raw.seek(self.start - self.end, os.SEEK_CUR)
            self.start = self.end = 0
        return 0

    cdef inline bint has_room(self, Py_ssize_t size) noexcept:
        # Whether *size* bytes are just added to those that are pending.
        return self.takes_all or (
            PyByteArray_GET_SIZE(self.pending) + size <= self.size and self.start == self.end and self.lock.holder is None)

    cdef object write(self, object data):
        cdef Py_buffer view
        cdef Py_ssize_t accepted = 0
        if type(data) is bytes and not self.is_closed() and self.has_room(len(<bytes>data)):
            self.pending += <bytes>data
            return len(<bytes>data)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.require_open("write to")
            if view.len == 0:
                return 0
            plain = memoryview(data).cast("B")
            if self.has_room(view.len):
                self.pending += plain
                return view.len
            try:
                with self.lock:
                    self.write_waiting(plain, view.len, &accepted)
            except BaseException as error:
                if not isinstance(error, BlockingIOError):
                    error.characters_written = accepted
                raise
            return accepted
        finally:
            PyBuffer_Release(&view)

    cdef int write_waiting(self, object data, Py_ssize_t size, Py_ssize_t *accepted) except -1:
        # `accepted`: how many of *data*'s bytes, so far. Parks; with the lock.
        cdef Py_ssize_t count
        self.require_open("write to")
        self.rewind()
        try:
            while PyByteArray_GET_SIZE(self.pending) and PyByteArray_GET_SIZE(self.pending) + size > self.size:
                self.drain_to(0)
        except BlockingIOError:
            accepted[0] = max(0, min(size, self.size - PyByteArray_GET_SIZE(self.pending)))
            self.pending += data[:accepted[0]]
            if accepted[0] < size:
                raise blocked(accepted[0])
            return 0
        while size - accepted[0] > self.size:
            count = self.raw_write(data[accepted[0]:], size - accepted[0])
            if count == WOULD_BLOCK:
                self.pending += data[accepted[0]:accepted[0] + self.size]
                accepted[0] += self.size
                raise blocked(accepted[0])
            accepted[0] += count
            PyErr_CheckSignals()
        self.pending += data[accepted[0]:]
        accepted[0] = size
        return 0

    @property
    def is_full(self):
        """Whether as much is pending as the buffer is meant to hold, or more."""
        return PyByteArray_GET_SIZE(self.pending) >= self.size

    def drain(self, bint wholly):
        """Write what is pending, *wholly* or until the buffer is not full any more. Parks.

        Raises:
            Cancelled, OSError: what was not written is pending still.
        """
        with self.lock:
            if not wholly:
                self.drain_to(self.size - 1)
            while wholly and PyByteArray_GET_SIZE(self.pending) >= self.size:
                self.require_open("write to")
                self.drain_to(0)

    cdef int flush(self) except -1:
        self.require_open("flush of")
        if not self.writes:
            self.raw.flush()
        elif not self.takes_all and (PyByteArray_GET_SIZE(self.pending) or self.lock.holder is not None):
            with self.lock:
                self.drain_to(0)
        return 0

    # --- position

    cdef object tell(self):
        self.require_attached()
        return self.raw.tell() - (self.end - self.start) + PyByteArray_GET_SIZE(self.pending)

    cdef object seek(self, offset, whence):
        cdef Py_ssize_t ahead
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
            raise ValueError(f"whence value {whence} unsupported")
        self.require_open("seek of")
        if not self.raw.seekable():
            raise UnsupportedOperation("File or stream is not seekable.")
        with self.lock:
            self.drain_to(0)
            ahead = self.end - self.start
            if whence == os.SEEK_CUR:
                offset += self.raw.tell() - ahead
                whence = os.SEEK_SET
            if whence == os.SEEK_SET and ahead:
                skipped = offset - (self.raw.tell() - ahead)
                if 0 <= skipped <= ahead:
                    self.drop(skipped)
                    return offset
            position = self.raw.seek(offset, whence)
            self.start = self.end = 0
            return position

    cdef object truncate(self, size):
        self.require_open("truncate of")
        if not self.writes:
            raise UnsupportedOperation("truncate")
        with self.lock:
            self.drain_to(0)
            self.rewind()
            return self.call(self.raw.truncate, self.raw.tell() if size is None else size)

    # --- the end

    cdef void forget(self) noexcept:
        self.given_up = True
        self.ahead = None
        self.at = NULL
        self.room = 0
        self.start = self.end = 0
        if self.writes:
            self.pending = bytearray()     # another one: a write that was under way may add to it

    cdef int close(self, object file) except -1:
        cdef object raw = self.raw
        if self.is_closed():
            return 0
        if file._finalizing:
            try:
                raw._dealloc_warn(file)
            except Exception:
                pass
        try:
            if not self.writes:
                raw.flush()
            elif PyByteArray_GET_SIZE(self.pending) or (self.on_disk and self.lock.holder is not None):
                with uncancelled_block() if self.on_disk else plain_block():
                    file.flush()
        except BaseException:
            if PyByteArray_GET_SIZE(self.pending) and self.lock.holder is None:
                self.write_last(raw)
            raise
        finally:
            self.forget()
            raw.close()
        return 0

    cdef int write_last(self, object raw) except -1:
        # What there is room for, before the file is closed although it could not be flushed.
        if self.descriptor is not None:
            self.descriptor.write_now(bytes(self.pending))
        elif current_scheduler_or_none() is not None:
            try:
                with bounded_block(LAST_WRITE, shield=True):
                    raw.write(bytes(self.pending))
            except Exception:
                pass  # the flush has failed already, and says why
        return 0


# --- io's classes ----------------------------------------------------------------------------------------------------


class _Buffered:
    """What the three kinds of buffers share."""

    __slots__ = ()
    _reads = False
    _writes = False

    def __init__(self, raw, buffer_size=io.DEFAULT_BUFFER_SIZE, *, whole=False, receives=False):
        self._buffer = Buffer(raw, buffer_size, self._reads, self._writes, whole, receives)
        super().__init__(raw, 1)  # the standard class, whose own buffer is not used

    def __reduce_ex__(self, protocol):
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def __repr__(self):
        # As programs know it from the standard class. That names the type as it was made, which has no module in C.
        text = super().__repr__()
        return "<_io." + text[1:] if text.startswith("<Buffered") else text

    def flush(self):
        """Write what is pending. Parks.

        Raises:
            Cancelled, OSError: what was not written is kept for the next flush.
        """
        (<Buffer?>self._buffer).flush()

    def tell(self):
        """The position in bytes."""
        return (<Buffer?>self._buffer).tell()

    def seek(self, offset, whence=os.SEEK_SET, /):
        """Move to a position in bytes; returns the new one. Parks if something is pending."""
        return (<Buffer?>self._buffer).seek(offset, whence)

    def truncate(self, size=None, /):
        """Cut or extend the file to *size* bytes, the position unless given; returns the size. Parks."""
        return (<Buffer?>self._buffer).truncate(size)

    def close(self):
        """Write what is pending and close the raw file. Again: does nothing.

        Whoever waits on a file of greenio.open gets OSError (EBADF). A socket's file lets go of the socket; who waits in a read goes on
        waiting unless that closes the socket.

        To a disk everything is written, also when this fiber is cancelled. To a pipe, tty or socket it may take for ever, so
        Cancelled ends that: what there is room for is written, the rest is lost, and the file is closed.

        Raises:
            OSError, Cancelled: the file is closed, and what was pending is lost, in whole or in part.
        """
        (<Buffer?>self._buffer).close(self)

    def detach(self):
        """The raw file, once what is pending is written; this buffer is of no use any more. What is ahead is lost."""
        cdef Buffer buffer = self._buffer
        raw = super().detach()
        buffer.raw = None
        buffer.forget()
        return raw


class _Reading(_Buffered):
    __slots__ = ()
    _reads = True

    def read(self, size=-1, /):
        """*size* bytes, fewer only at the end; None or -1: all up to the end. Parks until they are there.

        From a raw file that does not wait (a socket with timeout 0): what has come, None if nothing has.

        Raises:
            Cancelled, TimeoutError, OSError: what has come meanwhile is kept for the next read. OSError is as the system says; EBADF
                if the file is closed while it waits.
        """
        return (<Buffer?>self._buffer).read(-1 if size is None else size)

    def read1(self, size=-1, /):
        """What is there, at most *size* bytes (-1: a bufferful); parks only if there is nothing. b"" at the end. Raises as read."""
        return (<Buffer?>self._buffer).read1(size)

    def readinto(self, buffer, /):
        """As read, into *buffer*; how many bytes. Of what an exception interrupts *buffer* may have a copy."""
        return (<Buffer?>self._buffer).read_into(buffer, False)

    def readinto1(self, buffer, /):
        """As read1, into *buffer*; how many bytes."""
        return (<Buffer?>self._buffer).read_into(buffer, True)

    def peek(self, Py_ssize_t size=0, /):
        """What is ahead, without taking it; parks only if there is nothing. b"" at the end. Raises as read."""
        return (<Buffer?>self._buffer).peek()

    def unread(self, bytes data not None, /):
        """Put *data* back: whoever reads next gets it first."""
        (<Buffer?>self._buffer).put_back(data)

    def readline(self, size=-1, /):
        """Up to and with the next newline, at most *size* bytes; without one only at the end. Parks and raises as read."""
        cdef Py_ssize_t limit = -1 if size is None else size
        return (<Buffer?>self._buffer).readline(limit)


class _Writing(_Buffered):
    __slots__ = ()
    _writes = True

    def write(self, data, /):
        """Accept *data*: all of it, in one piece. Parks for room while the buffer is full.

        Returns:
            Its length in bytes.
        Raises:
            Cancelled, OSError: the first `characters_written` bytes (the exception's attribute) were accepted: none, unless *data* is
                larger than the buffer. What was accepted before is kept, and written by the next flush.
        """
        return (<Buffer?>self._buffer).write(data)


class BufferedReader(_Reading, io.BufferedReader):
    """io.BufferedReader that fibers can share: reads park, each gets its bytes in one piece, first come first served."""

    __slots__ = ("_buffer",)


class BufferedWriter(_Writing, io.BufferedWriter):
    """io.BufferedWriter that fibers can share: writes park, each is written in one piece."""

    __slots__ = ("_buffer",)


class BufferedRandom(_Reading, _Writing, io.BufferedRandom):
    """io.BufferedRandom that fibers can share."""

    __slots__ = ("_buffer",)


class BufferedRWPair(io.BufferedRWPair):
    """io.BufferedRWPair that fibers can share: a BufferedReader and a BufferedWriter; readers and writers do not wait for each other."""

    __slots__ = ("_reader", "_writer")

    def __init__(self, reader, writer, buffer_size=io.DEFAULT_BUFFER_SIZE, /, *, receives=False):
        self._reader = BufferedReader(reader, buffer_size, receives=receives)
        self._writer = BufferedWriter(writer, buffer_size)

    def __reduce_ex__(self, protocol):
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    @property
    def closed(self):
        """Whether the writer is closed."""
        return self._writer.closed

    def readable(self):
        """Whether it can be read from."""
        return self._reader.readable()

    def writable(self):
        """Whether it can be written to."""
        return self._writer.writable()

    def isatty(self):
        """Whether either is a terminal."""
        return self._writer.isatty() or self._reader.isatty()

    def read(self, size=-1, /):
        """As BufferedReader.read."""
        return self._reader.read(size)

    def read1(self, size=-1, /):
        """As BufferedReader.read1."""
        return self._reader.read1(size)

    def readinto(self, buffer, /):
        """As BufferedReader.readinto."""
        return self._reader.readinto(buffer)

    def readinto1(self, buffer, /):
        """As BufferedReader.readinto1."""
        return self._reader.readinto1(buffer)

    def peek(self, size=0, /):
        """As BufferedReader.peek."""
        return self._reader.peek(size)

    def readline(self, size=-1, /):
        """As BufferedReader.readline."""
        return self._reader.readline(size)

    def write(self, data, /):
        """As BufferedWriter.write."""
        return self._writer.write(data)

    def flush(self):
        """As BufferedWriter.flush."""
        self._writer.flush()

    def close(self):
        """As BufferedWriter.close, and closes the reader."""
        try:
            self._writer.close()
        finally:
            self._reader.close()
