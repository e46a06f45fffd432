"""Text on the buffers of _buffers.pyx: what greenio.open returns for text files, and a socket's makefile.

Text of pipes, ttys and sockets, and all text that is only written, is TextIOWrapper's. The standard class encodes for it, into a buffer
that takes everything and does not park meanwhile; reading is done here, in Python. Text that is read from a disk keeps the standard
implementation (its position cookies, its speed) in DiskText: nothing is cancelled inside of it, for disks answer.

A print makes two writes, the text and the newline. So that lines of many fibers stay whole, TextIOWrapper parks only before the first
character of a line and after the last.

Not taken: the standard TextIOWrapper for everything. It drops what it has read of a line, and what it was about to write, when the
buffer below raises, as it does when a fiber is cancelled.
"""

import codecs
import errno
import io
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from greenio._buffers import BufferedRandom, BufferedReader, uncancelled
from greenio._sync import Event, RLock

TEXT_CHUNK = 8192  # bytes that text asks of its buffer at once

standard_write = io.TextIOWrapper.write
standard_readline = io.TextIOWrapper.readline


class TextIOWrapper(io.TextIOWrapper):
    """io.TextIOWrapper that fibers can share, on pipes, ttys and sockets, and wherever text is only written.

    A cancelled read or readline has taken nothing: what has come is kept. Lines are written whole: it parks only between them.
    """

    buffer: Any  # BufferedReader, BufferedWriter, BufferedRandom or BufferedRWPair
    _finalizing: bool

    def __init__(
        self,
        buffer: Any,
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
        self._flushing: Event | None = None  # set when a flush in the middle of a line, under way, is over
        self._through = line_buffering or write_through
        self._below_me = buffer
        below = getattr(buffer, "_writer", buffer)._buffer
        self._out = below if below.writes else None  # where text goes
        self._make_decoder()

    def _make_decoder(self) -> None:
        self._decoder: codecs.IncrementalDecoder | io.IncrementalNewlineDecoder | None = None
        if self.buffer.readable():
            self._decoder = codecs.getincrementaldecoder(self.encoding)(self.errors or "strict")
            if not self._newline:
                self._decoder = io.IncrementalNewlineDecoder(self._decoder, self._newline is None)

    def _below(self) -> Any:
        if self.closed:  # ValueError if it is detached
            raise ValueError("I/O operation on closed file")
        return self.buffer

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
            self._make_decoder()
        self._through = self.line_buffering or self.write_through

    # --- writing

    def write(self, text: str, /) -> int:
        """Write *text*, in one piece. Parks while the buffer is full, or to flush it at the end of a line.

        Returns:
            Its length in characters.
        Raises:
            Cancelled, OSError: `characters_written` (the exception's attribute) is 0 if *text* was not accepted, and its length if it
                was and only the flush failed: then it is in the buffer.
        """
        out = self._out
        if out is None:
            return standard_write(self, text)  # which says why not
        accepted = 0
        try:
            while (other := self._flushing) is not None:
                other.wait()
            if out.is_full and not self._line_open:
                out.drain(wholly=True)
            # From here to the end of the line nothing parks: another fiber's text would come in between.
            out.takes_all = True
            try:
                accepted = standard_write(self, text)
            finally:
                out.takes_all = False
            if text:
                self._line_open = text[-1:] != "\n"
            if self._through and (self.write_through or "\n" in text or "\r" in text):
                self._flush_line()
            elif out.is_full and not self._line_open:
                out.drain(wholly=False)
        except BaseException as error:
            error.characters_written = accepted  # type: ignore[attr-defined]
            raise
        return accepted

    def _flush_line(self) -> None:
        if not self._line_open:
            self.flush()
            return
        # In the middle of a line: nobody else goes on with it. Who tries to waits for us, and runs after us.
        self._flushing = over = Event()
        try:
            self.flush()
        finally:
            self._flushing = None
            over.set()

    def _hand_over(self) -> None:
        """What the standard class has encoded, to the buffer, without parking."""
        out = self._out
        if out is None:
            return
        out.takes_all = True
        try:
            super().flush()
        finally:
            out.takes_all = False

    def flush(self) -> None:
        """Write what is pending. Parks. Cancelled, OSError: what was not written is kept."""
        self._hand_over()
        self._below_me.flush()

    # --- reading

    def _check_readable(self) -> None:
        self._below()
        if self._decoder is None:
            raise io.UnsupportedOperation("not readable")

    def _more(self, size: int = TEXT_CHUNK) -> bool:
        """One read from the buffer; False at the end. Parks; with the lock. What there is stays in _text."""
        assert self._decoder is not None
        self._begun = True
        data = self.buffer.read1(size)
        text = self._decoder.decode(data, not data)
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
                if data is None:  # of a socket that does not wait
                    raise BlockingIOError(errno.EAGAIN, "Read returned None.")
                text = self._text + self._decoder.decode(data, True)
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

    def close(self) -> None:
        """As the buffer's close: write what is pending, and close the file."""
        if self.closed:  # ValueError if it is detached
            return
        if self._finalizing and (warn := getattr(getattr(self.buffer, "raw", None), "_dealloc_warn", None)) is not None:
            warn(self)
        try:
            self._hand_over()
        finally:
            self._below_me.close()

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
        lock = self._lock
        lock.acquire()
        try:
            return standard_readline(self, -1 if size is None else size)
        finally:
            lock.release()

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

    def close(self, *, uncancelled: Callable[[], AbstractContextManager[object]] = uncancelled) -> None:
        """Write what is pending and close the file, also when this fiber is cancelled. Again: does nothing."""
        with uncancelled(), self._lock:
            super().close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")
