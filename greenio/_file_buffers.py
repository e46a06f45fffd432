"""Buffers on raw files that park, for several fibers: what greenio.open returns for binary files.

They are subclasses of the standard classes of those names and do what these do, in a way that holds when fibers park in the middle.
The standard ones have a lock for each OS thread, call a second fiber's call reentrant, and lose what they hold in local variables
when the raw file raises. Here a fiber's lock keeps calls apart, first come first served, and what has been read or accepted is in the
object before anything may park, so that a cancelled call leaves it there.
"""

import io
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from greenio._io import FdIO
from greenio._scheduler import running_scheduler
from greenio._scopes import shield
from greenio._sync import RLock


def uncancelled(
    running_scheduler: Callable[[], object] = running_scheduler,
    nullcontext: Callable[[], AbstractContextManager[object]] = nullcontext,
    shield: Callable[[], AbstractContextManager[object]] = shield,
) -> AbstractContextManager[object]:
    """A block that is not cancelled; on an OS thread without fibers, just a block.

    Destructors run it, maybe at the interpreter's end: it and its callers refer to no name of a module.
    """
    return nullcontext() if running_scheduler() is None else shield()


_Block = Callable[[], AbstractContextManager[object]]


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
        self._takes_all = (
            False  # whatever is written is accepted, and flush does nothing: text is handed over, and nothing parks
        )
        # Its `fd` tells whether the file is open, for little.
        self._core = raw._core  # type: ignore[attr-defined]
        self._writes = raw.writable()
        self._whole = whole  # calls to the raw file are not cancelled: DiskText is on top

    def _raw_call(self, fn: Callable[..., Any], *args: Any, uncancelled: _Block = uncancelled) -> Any:
        if self._whole:
            with uncancelled():
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

    def unread(self, data: bytes) -> None:
        """Put *data* back: whoever reads next gets it first."""
        self._ahead[:0] = data

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
        ahead = self._ahead
        if 0 < size <= len(ahead) and not self._lock.locked():
            data = bytes(ahead[:size])
            del ahead[:size]
            return data
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

    def readinto(self, buffer: Any, /) -> int:
        """As read, into *buffer*; how many bytes."""
        with memoryview(buffer) as view, view.cast("B") as plain:
            data = self.read(len(plain))
            plain[: len(data)] = data
            return len(data)

    def readinto1(self, buffer: Any, /) -> int:
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
            ahead = self._ahead
            end = ahead.find(b"\n") + 1
            if end and (limit < 0 or end <= limit):
                line = bytes(ahead[:end])
                del ahead[:end]
                return line
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

    def _check_writable(self) -> None:
        self._check_open()
        if not self.raw.writable():
            raise io.UnsupportedOperation("not writable")

    def write(self, data: Any, /) -> int:
        """Accept *data*: all of it, in one piece. Parks for room while the buffer is full.

        Returns:
            Its length in bytes.
        Raises:
            Cancelled, OSError: the first `characters_written` bytes (the exception's attribute) were accepted: none, unless *data* is
                larger than the buffer. What was accepted before is kept, and written by the next flush.
        """
        if type(data) is bytes and self._writes and self._core.fd >= 0:
            # As below, at a fraction of the cost.
            pending = self._pending
            size = len(data)
            if self._takes_all or (len(pending) + size <= self._size and not self._ahead and not self._lock.locked()):
                pending += data
                return size
        self._check_writable()
        with memoryview(data) as view, view.cast("B") as plain:
            size = len(plain)
            if self._takes_all or (
                len(self._pending) + size <= self._size and not self._ahead and not self._lock.locked()
            ):
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
        if (self._pending or self._lock.locked()) and not self._takes_all:
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

    def close(self, *, uncancelled: _Block = uncancelled, nullcontext: _Block = nullcontext) -> None:
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
                with uncancelled() if raw.on_disk else nullcontext():
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
        self._writes = False
        return raw


class BufferedReader(_Buffered, io.BufferedReader):  # type: ignore[misc]
    """io.BufferedReader that fibers can share: reads park, each gets its bytes in one piece, first come first served."""


class BufferedWriter(_Buffered, io.BufferedWriter):  # type: ignore[misc]
    """io.BufferedWriter that fibers can share: writes park, each is written in one piece."""


class BufferedRandom(_Buffered, io.BufferedRandom):  # type: ignore[misc]
    """io.BufferedRandom that fibers can share."""
