"""Files that park: greenio.open, and the buffers and text on top of FdIO.

    raw (FdIO)  ->  BufferedReader, BufferedWriter, BufferedRandom  ->  TextIOWrapper, DiskText

They are subclasses of the standard classes of those names and do what these do, in a way that holds when fibers park in the middle.
The standard buffers have a lock for each OS thread and call a second fiber's call reentrant; and all of them lose what they hold in
local variables when a read below raises. Here a fiber's lock keeps calls apart, first come first served, and what has been read or
accepted is in the object before anything may park, so that a cancelled call leaves it there.

Text of pipes, ttys and sockets, and all text that is only written, is done by TextIOWrapper below, in Python. Text read from disk keeps
the standard C implementation (its position cookies, its speed) in DiskText: nothing is cancelled inside of it, for disks answer.

A print makes two writes, the text and the newline. So that lines of many fibers stay whole, a text file parks only before the first
character of a line and after the last.
"""

import codecs
import errno
import io
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal, TextIO, overload

from greenio._io import FdIO, fifo_has_writer, wait_readable, watch_opens
from greenio._scheduler import running_scheduler
from greenio._scopes import shield
from greenio._sync import RLock
from greenio._threads import to_thread
from greenio._time import sleep

if TYPE_CHECKING:
    from _typeshed import FileDescriptorOrPath, OpenBinaryMode, OpenTextMode, ReadableBuffer, WriteableBuffer

DISK_BUFFER = 128 * 1024  # bytes: each refill may cost a call in another OS thread
TEXT_CHUNK = 8192  # bytes that text asks of its buffer at once
FIRST_PAUSE = 0.001  # seconds between looks at whether a FIFO has a reader; doubled up to
LONGEST_PAUSE = 0.05


def _uncancelled() -> AbstractContextManager[object]:
    return nullcontext() if running_scheduler() is None else shield()


class _Buffered:
    """What the three kinds of buffers share. `_ahead`: read and not yet taken; `_pending`: accepted and not yet written.

    At most one of the two has anything in it.
    """

    raw: FdIO
    _finalizing: bool

    def __init__(self, raw: FdIO, buffer_size: int = io.DEFAULT_BUFFER_SIZE, *, whole: bool = False) -> None:
        if buffer_size <= 0:
            raise ValueError("invalid buffer size")
        super().__init__(raw, 1)  # type: ignore[call-arg]  # the standard class, whose own buffer is not used
        self._size = buffer_size
        self._lock = RLock()
        self._ahead = bytearray()
        self._pending = bytearray()
        self._whole = whole  # calls to the raw file are not cancelled: DiskText is on top

    def _raw_call(self, fn: Callable[..., Any], *args: Any) -> Any:
        if self._whole:
            with _uncancelled():
                return fn(*args)
        return fn(*args)

    def _check_open(self) -> None:
        if self.closed:  # type: ignore[attr-defined]
            raise ValueError("I/O operation on closed file")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    # --- reading

    def _more(self, size: int) -> bool:
        """One read from the raw file, appended to what is ahead. False at the end. Parks."""
        part = self._raw_call(self.raw.read, size)
        self._ahead += part
        return bool(part)

    def _take(self, size: int) -> bytes:
        ahead = self._ahead
        if size >= len(ahead):
            data = bytes(ahead)
            ahead.clear()
            return data
        data = bytes(ahead[:size])
        del ahead[:size]
        return data

    def _check_readable(self) -> None:
        self._check_open()
        if not self.raw.readable():
            raise io.UnsupportedOperation("not readable")

    def read(self, size: int | None = -1, /) -> bytes:
        """*size* bytes, fewer only at the end; None or -1: all up to the end. Parks until they are there.

        Raises:
            Cancelled: this fiber was cancelled. What has come meanwhile is kept for the next read.
            OSError: as the system says; EBADF if the file is closed while it waits.
        """
        if size is None:
            size = -1
        if size < -1:
            raise ValueError("read length must be non-negative or -1")
        if 0 <= size <= len(self._ahead) and not self._lock.locked():
            return self._take(size)
        self._check_readable()
        with self._lock:
            self._drain()
            if size < 0:
                while self._more(max(self._size, len(self._ahead))):
                    pass
                return self._take(len(self._ahead))
            while len(self._ahead) < size and self._more(max(self._size, size - len(self._ahead))):
                pass
            return self._take(size)

    def read1(self, size: int = -1, /) -> bytes:
        """What is there, at most *size* bytes (-1: a bufferful); parks only if there is nothing. b"" at the end. Raises as read."""
        self._check_readable()
        if size < 0:
            size = self._size
        if size == 0:
            return b""
        with self._lock:
            self._drain()
            if not self._ahead:
                self._more(max(self._size, size))
            return self._take(size)

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """As read, into *buffer*; how many bytes."""
        with memoryview(buffer) as view, view.cast("B") as plain:
            data = self.read(len(plain))
            plain[: len(data)] = data
            return len(data)

    def readinto1(self, buffer: "WriteableBuffer", /) -> int:
        """As read1, into *buffer*; how many bytes."""
        with memoryview(buffer) as view, view.cast("B") as plain:
            data = self.read1(len(plain))
            plain[: len(data)] = data
            return len(data)

    def peek(self, size: int = 0, /) -> bytes:
        """What is ahead, without taking it; parks only if there is nothing. b"" at the end. Raises as read."""
        self._check_readable()
        with self._lock:
            self._drain()
            if not self._ahead:
                self._more(self._size)
            return bytes(self._ahead)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Up to and with the next newline, at most *size* bytes; without one only at the end. Parks and raises as read."""
        limit = -1 if size is None or size < 0 else size
        if not self._lock.locked():
            end = self._ahead.find(b"\n") + 1
            if end and (limit < 0 or end <= limit):
                return self._take(end)
        self._check_readable()
        with self._lock:
            self._drain()
            seen = 0
            while True:
                end = self._ahead.find(b"\n", seen) + 1
                seen = len(self._ahead)
                if not end and (limit < 0 or seen < limit) and self._more(self._size):
                    continue
                end = end or seen
                return self._take(end if limit < 0 else min(end, limit))

    # --- writing

    def _drain(self, target: int = 0) -> None:
        """Write until at most *target* bytes are pending, or as many have been written as there were. With the lock. Parks."""
        pending = self._pending
        if len(pending) <= target:
            return
        data = memoryview(bytes(pending))
        while data and len(pending) > target:
            count = self._raw_call(self.raw.write, data)
            data = data[count:]
            del pending[:count]

    def _rewind(self) -> None:
        """To where the reader of what is ahead is. With the lock."""
        if self._ahead:
            self.raw.seek(-len(self._ahead), os.SEEK_CUR)
            self._ahead.clear()

    def _append(self, data: bytes) -> None:
        """Accept *data*, however much is pending, without parking. For text, which sees to it that it is drained."""
        self._pending += data

    def _check_writable(self) -> None:
        self._check_open()
        if not self.raw.writable():
            raise io.UnsupportedOperation("not writable")

    def write(self, data: "ReadableBuffer", /) -> int:
        """Accept *data*: all of it, in one piece. Parks for room while the buffer is full.

        Returns:
            Its length in bytes.
        Raises:
            Cancelled, OSError: the first `characters_written` bytes (the exception's attribute) were accepted: none, unless *data* is
                larger than the buffer. What was accepted before is kept, and written by the next flush.
        """
        self._check_writable()
        with memoryview(data) as view, view.cast("B") as plain:
            size = len(plain)
            if len(self._pending) + size <= self._size and not self._ahead and not self._lock.locked():
                self._pending += plain
                return size
            accepted = 0
            try:
                with self._lock:
                    self._check_open()
                    self._rewind()
                    while self._pending and len(self._pending) + size > self._size:
                        self._drain()
                    while size - accepted > self._size:
                        with plain[accepted:] as rest:
                            accepted += self._raw_call(self.raw.write, rest)
                    self._pending += plain[accepted:]
            except BaseException as error:
                error.characters_written = accepted  # type: ignore[attr-defined]
                raise
            return size

    def flush(self) -> None:
        """Write what is pending. Parks.

        Raises:
            Cancelled, OSError: what was not written is kept for the next flush.
        """
        self._check_open()
        if self._pending or self._lock.locked():
            with self._lock:
                self._drain()

    # --- position

    def tell(self) -> int:
        """The position in bytes."""
        self._check_open()
        return self.raw.tell() - len(self._ahead) + len(self._pending)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position in bytes; returns the new one. Parks if something is pending."""
        self._check_open()
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
            raise ValueError(f"whence value {whence} unsupported")
        if not self.raw.seekable():
            raise io.UnsupportedOperation("File or stream is not seekable.")
        with self._lock:
            self._drain()
            ahead = len(self._ahead)
            if whence == os.SEEK_CUR:
                offset += self.raw.tell() - ahead
                whence = os.SEEK_SET
            if whence == os.SEEK_SET and ahead:
                skipped = offset - (self.raw.tell() - ahead)
                if 0 <= skipped <= ahead:
                    del self._ahead[:skipped]
                    return offset
            position = self.raw.seek(offset, whence)
            self._ahead.clear()
            return position

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file to *size* bytes, the position unless given; returns the size. Parks."""
        self._check_writable()
        with self._lock:
            self._drain()
            self._rewind()
            count: int = self._raw_call(self.raw.truncate, self.raw.tell() if size is None else size)
            return count

    # --- the end

    def close(self) -> None:
        """Write what is pending and close the file; whoever waits on it gets OSError (EBADF). Again: does nothing.

        To a disk everything is written, also when this fiber is cancelled. To a pipe, tty or socket it may take for ever, so
        Cancelled ends that: what there is room for is written, the rest is lost, and the file is closed.

        Raises:
            OSError, Cancelled: the file is closed, and what was pending is lost, in whole or in part.
        """
        raw = self.raw
        if raw is None or raw.closed:
            return
        if self._finalizing:
            raw._dealloc_warn(self)
        try:
            if self._pending or (self._lock.locked() and raw.on_disk):
                with _uncancelled() if raw.on_disk else nullcontext():
                    self.flush()
        except BaseException:
            if self._pending and not self._lock.locked():
                del self._pending[: raw.write_now(bytes(self._pending))]
            raise
        finally:
            self._pending.clear()
            self._ahead.clear()
            raw.close()

    def detach(self) -> FdIO:
        """The raw file, once what is pending is written; this buffer is of no use any more. What is ahead is lost."""
        self.flush()
        raw: FdIO = super().detach()  # type: ignore[misc]
        return raw


class BufferedReader(_Buffered, io.BufferedReader):  # type: ignore[misc]
    """io.BufferedReader that fibers can share: reads park, each gets its bytes in one piece, first come first served."""


class BufferedWriter(_Buffered, io.BufferedWriter):  # type: ignore[misc]
    """io.BufferedWriter that fibers can share: writes park, each is written in one piece."""


class BufferedRandom(_Buffered, io.BufferedRandom):  # type: ignore[misc]
    """io.BufferedRandom that fibers can share."""


class TextIOWrapper(io.TextIOWrapper):
    """io.TextIOWrapper that fibers can share, on pipes, ttys and sockets, and wherever text is only written.

    A cancelled read or readline has taken nothing: what has come is kept. Lines are written whole: it parks only between them.
    """

    buffer: BufferedReader | BufferedWriter | BufferedRandom
    _finalizing: bool

    def __init__(
        self,
        buffer: BufferedReader | BufferedWriter | BufferedRandom,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        line_buffering: bool = False,
        write_through: bool = False,
    ) -> None:
        super().__init__(buffer, encoding, errors, newline, line_buffering, write_through)
        self._lock = RLock()  # of readers
        self._newline = newline
        self._held: list[str] = []  # read and without the end of a line; before
        self._text = ""  # what was read last, and
        self._at = 0  # how much of it has been taken
        self._begun = False  # anything was read
        self._line_open = False  # the last character written was not a newline
        self._make_coders()

    def _make_coders(self) -> None:
        self._encoder: codecs.IncrementalEncoder | None = None
        self._decoder: codecs.IncrementalDecoder | io.IncrementalNewlineDecoder | None = None
        if self.buffer.writable():
            self._encoder = codecs.getincrementalencoder(self.encoding)(self.errors or "strict")
            if self.buffer.seekable() and self.buffer.tell():
                self._encoder.setstate(0)  # no byte order mark in the middle
        if self.buffer.readable():
            self._decoder = codecs.getincrementaldecoder(self.encoding)(self.errors or "strict")
            if not self._newline:
                self._decoder = io.IncrementalNewlineDecoder(self._decoder, self._newline is None)

    @property
    def newlines(self) -> str | tuple[str, ...] | None:  # type: ignore[override]
        """The kinds of line ends seen so far, where they are translated or told apart; else None."""
        return getattr(self._decoder, "newlines", None)

    def reconfigure(self, **changes: Any) -> None:
        """As io.TextIOWrapper.reconfigure: encoding, errors, newline, line_buffering, write_through. Parks to flush."""
        if self._begun and changes.keys() & {"encoding", "errors", "newline"}:
            raise io.UnsupportedOperation(
                "It is not possible to set the encoding or newline of stream after the first read"
            )
        super().reconfigure(**changes)
        if "newline" in changes:
            self._newline = changes["newline"]
        if changes.keys() & {"encoding", "errors", "newline"}:
            self._make_coders()

    # --- writing

    def write(self, text: str, /) -> int:
        """Write *text*, in one piece. Parks while the buffer is full, or to flush it at the end of a line.

        Returns:
            Its length in characters.
        Raises:
            Cancelled, OSError: `characters_written` (the exception's attribute) is 0 if *text* was not accepted, and its length if it
                was and only the flush failed: then it is in the buffer.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        buffer = self.buffer
        buffer._check_open()
        encoder = self._encoder
        if encoder is None:
            raise io.UnsupportedOperation("not writable")
        accepted = 0
        try:
            if not self._line_open:
                while len(buffer._pending) >= buffer._size:
                    with buffer._lock:
                        buffer._drain()
                    buffer._check_open()
            end = text.endswith("\n")
            if self._newline and self._newline != "\n":
                data = encoder.encode(text.replace("\n", self._newline))
            else:
                data = encoder.encode(text)
            # From here to the end of the line nothing parks: another fiber's text would come in between.
            buffer._append(data)
            accepted = len(text)
            if accepted:
                self._line_open = not end
            if self.write_through or (self.line_buffering and ("\n" in text or "\r" in text)):
                buffer.flush()
            elif end and len(buffer._pending) >= buffer._size:
                with buffer._lock:
                    buffer._drain(buffer._size - 1)
        except BaseException as error:
            error.characters_written = accepted  # type: ignore[attr-defined]
            raise
        return accepted

    def flush(self) -> None:
        """Write what is pending. Parks. Cancelled, OSError: what was not written is kept."""
        self.buffer.flush()

    # --- reading

    def _check_readable(self) -> None:
        self.buffer._check_open()
        if self._decoder is None:
            raise io.UnsupportedOperation("not readable")

    def _more(self, size: int = TEXT_CHUNK) -> bool:
        """One read from the buffer; False at the end. Parks; with the lock. What there is stays in _text."""
        assert self._decoder is not None
        self._begun = True
        data = self.buffer.read1(size)
        text = self._decoder.decode(data, not data)
        if not data:
            self._decoder.reset()  # a tty goes on after its end
        self._text = self._text[self._at :] + text
        self._at = 0
        return bool(data)

    def _gather(self) -> None:
        if self._held or self._at:
            self._text = "".join([*self._held, self._text[self._at :]])
            self._held.clear()
            self._at = 0

    def read(self, size: int | None = -1, /) -> str:
        """*size* characters, fewer only at the end; None or below 0: all up to the end. Parks until they are there.

        Raises:
            Cancelled: this fiber was cancelled. What has come meanwhile is kept for the next read.
            OSError: as the system says; EBADF if the file is closed while it waits. UnicodeDecodeError.
        """
        self._check_readable()
        with self._lock:
            self._gather()
            if size is None or size < 0:
                assert self._decoder is not None
                self._begun = True
                data = self.buffer.read()
                text = self._text + self._decoder.decode(data, True)
                self._decoder.reset()
                self._text = ""
                return text
            while len(self._text) - self._at < size and self._more(max(TEXT_CHUNK, size - len(self._text))):
                pass
            text = self._text[self._at : self._at + size]
            self._at += len(text)
            return text

    def _line_end(self, start: int) -> int:
        """Where in _text, from *start* on, the first line ends; 0: not there."""
        text = self._text
        if self._newline is None or self._newline == "\n":
            return text.find("\n", start) + 1
        if self._newline:
            found = text.find(self._newline, start)
            return found + len(self._newline) if found >= 0 else 0
        feed = text.find("\n", start)
        back = text.find("\r", start) if feed < 0 else text.find("\r", start, feed)
        if back < 0:
            return feed + 1
        return back + 2 if text.startswith("\n", back + 1) else back + 1

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        """Up to and with the next line end, at most *size* characters; without one only at the end. Parks and raises as read."""
        self._check_readable()
        limit = -1 if size is None or size < 0 else size
        with self._lock:
            if limit >= 0 or self._newline == "\r\n":
                # Whose end may lie between two reads; or which may end before the line does.
                self._gather()
                while not (end := self._line_end(self._at)) and (limit < 0 or len(self._text) - self._at < limit):
                    if not self._more():
                        end = len(self._text)
                        break
                end = end or len(self._text)
                if limit >= 0:
                    end = min(end, self._at + limit)
            else:
                while not (end := self._line_end(self._at)):
                    rest = self._text[self._at :]
                    if rest:
                        self._held.append(rest)
                    self._text = ""
                    self._at = 0
                    if not self._more():
                        end = self._line_end(0) or len(self._text)
                        break
            line = self._text[self._at : end]
            self._at = end
            if self._held:
                line = "".join([*self._held, line])
                self._held.clear()
            return line

    # --- position, where there is one: in files that are only written

    def tell(self) -> int:
        """The position, for seek. Parks to flush."""
        if self._decoder is not None or not self.seekable():
            raise io.UnsupportedOperation("underlying stream is not seekable")
        self.flush()
        return self.buffer.tell()

    def seek(self, cookie: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to where tell was called, or with whence 2 and 0 to the end; returns the position. Parks to flush."""
        if self._decoder is not None or not self.seekable():
            raise io.UnsupportedOperation("underlying stream is not seekable")
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if whence != os.SEEK_SET and cookie:
            kind = "cur" if whence == os.SEEK_CUR else "end"
            raise io.UnsupportedOperation(f"can't do nonzero {kind}-relative seeks")
        if cookie < 0:
            raise ValueError(f"negative seek position {cookie!r}")
        self.flush()
        position = self.buffer.seek(cookie, whence)
        self._line_open = False
        if self._encoder is not None:
            if position:
                self._encoder.setstate(0)
            else:
                self._encoder.reset()
        return position

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file to *size* bytes, the position unless given; returns the size. Parks."""
        self.flush()
        return self.buffer.truncate(size)

    def close(self) -> None:
        """As the buffer's close: write what is pending, and close the file."""
        buffer = self.buffer
        if buffer is None or buffer.closed:
            return
        if self._finalizing:
            buffer.raw._dealloc_warn(self)
        buffer.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


class DiskText(io.TextIOWrapper):
    """The standard io.TextIOWrapper on a file that is read and has positions, shared by fibers one call at a time.

    Cancelled comes before a call does anything: one that has begun is seen to its end.
    """

    buffer: BufferedReader | BufferedRandom
    _finalizing: bool

    def __init__(self, buffer: BufferedReader | BufferedRandom, *args: Any, **keywords: Any) -> None:
        self._lock = RLock()  # the standard class calls its own flush
        super().__init__(buffer, *args, **keywords)

    def read(self, size: int | None = -1, /) -> str:
        """*size* characters, fewer only at the end; None or below 0: all up to the end. Parks."""
        with self._lock:
            return super().read(size)

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        """Up to and with the next line end, at most *size* characters. Parks."""
        with self._lock:
            return super().readline(-1 if size is None else size)

    def write(self, text: str, /) -> int:
        """Write *text*, in one piece. Parks when the buffer is full."""
        with self._lock:
            return super().write(text)

    def flush(self) -> None:
        """Write what is pending. Parks."""
        with self._lock:
            super().flush()

    def tell(self) -> int:
        """The position, for seek."""
        with self._lock:
            return super().tell()

    def seek(self, cookie: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to where tell was called, or with whence 2 and 0 to the end."""
        with self._lock:
            return super().seek(cookie, whence)

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file to *size* bytes, the position unless given; returns the size."""
        with self._lock:
            return super().truncate(size)

    def reconfigure(self, **changes: Any) -> None:
        """As io.TextIOWrapper.reconfigure."""
        with self._lock:
            super().reconfigure(**changes)

    def close(self) -> None:
        """Write what is pending and close the file, also when this fiber is cancelled. Again: does nothing."""
        with _uncancelled(), self._lock:
            super().close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


# --- opening ---------------------------------------------------------------------------------------------------------


def _flags_of(mode: str) -> int:
    flags = os.O_RDWR if "+" in mode else os.O_RDONLY if "r" in mode else os.O_WRONLY
    if "w" in mode:
        flags |= os.O_CREAT | os.O_TRUNC
    elif "x" in mode:
        flags |= os.O_CREAT | os.O_EXCL
    elif "a" in mode:
        flags |= os.O_CREAT | os.O_APPEND
    return flags | os.O_CLOEXEC


def _is_fifo(path: Any) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _open_now(path: Any, flags: int) -> tuple[int, bool]:
    """(descriptor, whether O_NONBLOCK is left set on it); or (-1, …): a FIFO without a reader. In another OS thread.

    With O_NONBLOCK, so that no FIFO and no serial line keeps it. On a disk it means nothing but that a lease is not waited for.
    """
    try:
        fd = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO and _is_fifo(path):
            return -1, True
        if error.errno != errno.EWOULDBLOCK:
            raise
        fd = os.open(path, flags, 0o666)
    try:
        nonblocking = not stat.S_ISREG(mode := os.fstat(fd).st_mode) and not stat.S_ISBLK(mode)
        os.set_blocking(fd, not nonblocking)
    except BaseException:
        os.close(fd)
        raise
    return fd, nonblocking


class _Opening:
    """One opening in another OS thread, which closes what it has opened when nobody waits for it any more."""

    def __init__(self, path: Any, flags: int) -> None:
        self.path = path
        self.flags = flags
        self.opened = -1
        self.left = False

    def __call__(self) -> tuple[int, bool]:
        fd, nonblocking = _open_now(self.path, self.flags)
        if self.left:
            if fd >= 0:
                os.close(fd)
            return -1, True
        self.opened = fd
        return fd, nonblocking


def _open_path(path: Any, flags: int) -> tuple[int, bool]:
    opening = _Opening(path, flags)
    try:
        return to_thread(opening, cancellable=True)
    except BaseException:
        opening.left = True
        if opening.opened >= 0:
            os.close(opening.opened)
        raise


def _wait_for_writer(fd: int, path: Any) -> None:
    """Park until somebody has opened the FIFO at *path* for writing, which *fd* reads."""
    if fifo_has_writer(fd):
        return
    pause = FIRST_PAUSE
    told = watch_opens(path)
    try:
        while not fifo_has_writer(fd):
            if told < 0:
                sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                wait_readable(told)
                os.read(told, 4096)
    finally:
        if told >= 0:
            os.close(told)


def _open_for_writing(path: Any, flags: int) -> tuple[int, bool]:
    """Open a FIFO once somebody reads it. A reader who blocks in his own open tells nobody, so it looks again and again."""
    pause = FIRST_PAUSE
    told = watch_opens(path)
    try:
        while True:
            fd, nonblocking = _open_path(path, flags)
            if fd >= 0:
                return fd, nonblocking
            if told < 0:
                sleep(pause)
            else:
                try:
                    wait_readable(told, pause)
                    os.read(told, 4096)
                except TimeoutError:
                    pass
            pause = min(2 * pause, LONGEST_PAUSE)
    finally:
        if told >= 0:
            os.close(told)


def _open_raw(file: Any, mode: str, closefd: bool, opener: Callable[[Any, int], int] | None) -> FdIO:
    if isinstance(file, int):
        return FdIO(file, mode, closefd=closefd)
    if not closefd:
        raise ValueError("Cannot use closefd=False with file name")
    flags = _flags_of(mode)
    nonblocking = False
    if opener is not None:
        fd = to_thread(opener, file, flags)
        if not isinstance(fd, int):
            raise TypeError("expected integer from opener")
        if fd < 0:
            raise ValueError(f"opener returned {fd}")
        os.set_inheritable(fd, False)
    elif running_scheduler() is None:
        fd = os.open(file, flags, 0o666)
    else:
        fd, nonblocking = _open_path(file, flags)
        if fd < 0:
            fd, nonblocking = _open_for_writing(file, flags)
    try:
        if nonblocking and flags & os.O_ACCMODE == os.O_RDONLY and stat.S_ISFIFO(os.fstat(fd).st_mode):
            _wait_for_writer(fd, file)
        return FdIO(fd, mode, name=file, nonblocking=nonblocking)
    except BaseException:
        os.close(fd)
        raise


def layers(
    raw: FdIO,
    *,
    text: bool,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    line_buffering: bool = False,
    write_through: bool = False,
) -> Any:
    """A buffer on *raw*, and text on that if asked; buffering and the rest as in open. 0 gives *raw* itself."""
    if buffering == 0:
        return raw
    if buffering == 1 or (buffering < 0 and raw.isatty()):
        line_buffering = True
        buffering = -1
    if buffering < 0:
        buffering = DISK_BUFFER if raw.on_disk else io.DEFAULT_BUFFER_SIZE
    readable = raw.readable()
    on_disk_text = text and readable and raw.seekable()
    kind: Any = BufferedReader
    if raw.writable():
        kind = BufferedRandom if readable else BufferedWriter
    buffer = kind(raw, buffering, whole=on_disk_text)
    if not text:
        return buffer
    return (DiskText if on_disk_text else TextIOWrapper)(
        buffer, encoding, errors, newline, line_buffering, write_through
    )


@overload
def open(
    file: "FileDescriptorOrPath",
    mode: "OpenTextMode" = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> TextIO: ...
@overload
def open(  # type: ignore[overload-overlap]
    file: "FileDescriptorOrPath",
    mode: "OpenBinaryMode",
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> FdIO: ...
@overload
def open(
    file: "FileDescriptorOrPath",
    mode: "OpenBinaryMode",
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> BinaryIO: ...
@overload
def open(
    file: "FileDescriptorOrPath",
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> IO[Any]: ...
def open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> Any:
    """Open a file whose operations park the fiber instead of blocking the OS thread; signature and results as builtins.open.

    Files on disks are read and written by other OS threads (greenio.to_thread), a bufferful at a time; what the kernel has at hand
    is read without one. Pipes, FIFOs, ttys, sockets and devices are waited for by readiness. A FIFO is open when its other side
    is there, as ever; to wait for a reader it looks up to 20 times a second.

    What it opens by name, other than files on disks, gets O_NONBLOCK, which a child process would inherit with the descriptor;
    of a descriptor given by number it is left as it is. The file may be shared by fibers and OS threads: each call is one
    piece, and lines that are printed to it stay whole. On an OS thread without fibers it blocks the thread.

    Args:
        file: a path, or the number of an open descriptor.
        mode, buffering, encoding, errors, newline, closefd: as builtins.open.
        opener: as builtins.open; called in another OS thread.
    Returns:
        A text file (an io.TextIOWrapper), a binary one (io.BufferedReader, …), or with buffering=0 a raw one (FdIO).
    Raises:
        OSError, ValueError, TypeError: as builtins.open. Nothing is left open.
        Cancelled: this fiber was cancelled. Nothing is left open; a file that "w" or "x" creates may exist.
    """
    if not isinstance(file, int):
        file = os.fspath(file)
    for value, kind, name in ((mode, str, "mode"), (encoding, str, "encoding"), (errors, str, "errors")):
        if not isinstance(value, kind) and (value is not None or name == "mode"):
            raise TypeError(f"open() argument {name!r} must be str, not {type(value).__name__}")
    if set(mode) - set("axrwb+t") or len(mode) > len(set(mode)):
        raise ValueError(f"invalid mode: {mode!r}")
    binary = "b" in mode
    if "t" in mode and binary:
        raise ValueError("can't have text and binary mode at once")
    if sum(letter in mode for letter in "rwax") != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    for value, name in ((encoding, "an encoding"), (errors, "an errors"), (newline, "a newline")):
        if binary and value is not None:
            raise ValueError(f"binary mode doesn't take {name} argument")
    if buffering < -1:
        raise ValueError("invalid buffering size")
    if not binary:
        if buffering == 0:
            raise ValueError("can't have unbuffered text I/O")
        if newline not in (None, "", "\n", "\r", "\r\n"):
            raise ValueError(f"illegal newline value: {newline!r}")
    if binary and buffering == 1:
        buffering = -1
    if not binary:
        encoding = io.text_encoding(encoding)
        if encoding not in (None, "locale"):
            codecs.lookup(encoding)  # before anything is opened or created
    raw = _open_raw(file, mode.replace("t", ""), closefd, opener)
    try:
        made = layers(raw, text=not binary, buffering=buffering, encoding=encoding, errors=errors, newline=newline)
        if not binary:
            made.mode = mode
        return made
    except BaseException:
        raw.close()
        raise


def wrap_file(file: Any) -> Any:
    """A file that parks, on the descriptor of one that is open already, such as sys.stdin or sys.stdout.

    It has the same kind and settings (text or binary, encoding, line buffering) and leaves the descriptor open when it is closed.
    O_NONBLOCK is not set on it. What *file* has accepted is flushed first; what it has read ahead stays with it.

        print("hello", file=greenio.wrap_file(sys.stdout))

    Args:
        file: anything of io with a descriptor. It is kept alive.
    Raises:
        TypeError: it is no file. OSError, ValueError: it has no descriptor, or is closed.
    """
    if not isinstance(file, io.IOBase):
        raise TypeError(f"wrap_file wants an open file, not {file!r}")
    writable = file.writable()
    if writable:
        file.flush()
    mode = ("r+" if file.readable() else "w") if writable else "r"
    raw = FdIO(file.fileno(), mode, closefd=False, name=getattr(file, "name", None))
    raw._wrapped = file  # type: ignore[attr-defined]
    if isinstance(file, io.RawIOBase):
        return raw
    if isinstance(file, io.TextIOBase):
        made = layers(
            raw,
            text=True,
            encoding=file.encoding,
            errors=file.errors,
            line_buffering=getattr(file, "line_buffering", False),
            write_through=getattr(file, "write_through", False),
        )
        made.mode = getattr(file, "mode", mode)
        return made
    return layers(raw, text=False)
