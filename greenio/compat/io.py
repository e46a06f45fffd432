"""io and builtins: open() gives files that park where reading or writing may wait; input() and the standard streams park.

Pipes, FIFOs, ttys and sockets get greenio.open's classes, everything else the C ones. Not taken: the C buffers on a raw class of ours.
They keep an OS thread's lock while the raw file reads or writes, and refuse a second fiber as a reentrant call of the same OS thread;
and they drop what they hold when the raw file raises, as it does when a fiber is cancelled. greenio's are subclasses of
io.BufferedReader, io.BufferedWriter, io.BufferedRandom and io.TextIOWrapper, so isinstance says what it did.

sys.stdin, sys.stdout and sys.stderr stay the objects they are, since logging handlers and `from sys import stdout` refer to them:
each is initialized again, on a buffer that parks. What it has read ahead moves along.
"""

import _io
import builtins
import io
import os
import select
import stat
import sys
import warnings
from collections.abc import Callable
from typing import Any

import greenio
import greenio.io
from greenio.compat.patches import Patch, stand_in

_open = builtins.open
_input = builtins.input
_fstat = os.fstat
_write = os.write
_poll = select.poll
_stat = os.stat
_get_blocking = os.get_blocking
_MEMORY_DEVICES = 1  # the major number of /dev/null, /dev/zero, /dev/urandom, …: they never wait


class WholeFile(greenio.FdIO):
    """A raw file whose write() writes all of the data, as a system call does that may wait."""

    def write(self, data: Any, /) -> int:
        """Write *data*; how many bytes: fewer after an interruption only, which then comes at the next checkpoint.

        What needs no wait is written also in a cancelled fiber: code for threads prints in its `finally`, and nothing keeps the text.
        """
        try:
            count = super().write(data)
        except greenio.Cancelled:
            with memoryview(data) as whole:
                if whole.nbytes > select.PIPE_BUF or not _is_writable(self.fileno()):
                    raise
                return _write(self.fileno(), whole)
        with memoryview(data) as whole, whole.cast("B") as view:
            try:
                while count < len(view):
                    count += super().write(view[count:])
            except (greenio.Cancelled, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise
        return count


def _is_writable(fd: int) -> bool:
    """Whether PIPE_BUF bytes can be written without waiting."""
    poll = _poll()
    poll.register(fd, select.POLLOUT)
    return any(events & select.POLLOUT for _, events in poll.poll(0))


def _may_wait(status: os.stat_result) -> bool:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFCHR:
        return os.major(status.st_rdev) != _MEMORY_DEVICES
    return kind in (stat.S_IFIFO, stat.S_IFSOCK, 0)  # 0: eventfd, inotify, …


def parks(file: Any) -> bool:
    """Whether a file opened on this path or descriptor would have to wait, and may."""
    try:
        if isinstance(file, int):
            return not isinstance(file, bool) and _may_wait(_fstat(file)) and _get_blocking(file)
        return _may_wait(_stat(file))
    except (OSError, TypeError, ValueError):
        return False


@stand_in(_open)
def open(
    file: Any,
    mode: Any = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[Any, int], int] | None = None,
) -> Any:
    if opener is not None or not greenio.can_park() or not parks(file):
        return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    if buffering == 1 and isinstance(mode, str) and "b" in mode:
        warnings.warn(
            "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
            RuntimeWarning,
            stacklevel=2,
        )
    made: Any = greenio.open(file, mode, buffering, encoding, errors, newline, closefd)
    if type(made) is greenio.FdIO:
        made.__class__ = WholeFile
    return made


@stand_in(_input)
def input(prompt: object = "", /) -> str:
    if not greenio.can_park() or not _on_terminal() or "readline" in sys.modules:
        # Not a terminal: it asks sys.stdin, which parks.
        return greenio.to_thread(_input, prompt) if greenio.can_park() and _on_terminal() else _input(prompt)
    sys.audit("builtins.input", prompt)
    sys.stderr.flush()
    sys.stdout.write(str(prompt))
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError("EOF when reading a line")
    line = line.removesuffix("\n")
    sys.audit("builtins.input/result", line)
    return line


def _on_terminal() -> bool:
    try:
        return sys.stdin.fileno() == 0 and sys.stdout.fileno() == 1 and os.isatty(0) and os.isatty(1)
    except (AttributeError, OSError, ValueError):
        return False


# --- the standard streams --------------------------------------------------------------------------------------------


def _adopt(patch: Patch, stream: Any) -> None:
    """Let *stream*, which stays the same object, park."""
    if type(stream) is not io.TextIOWrapper or stream.closed:
        return
    buffer: Any = stream.buffer
    # A raw file: python -u.
    if type(buffer) not in (io.BufferedReader, io.BufferedWriter, io.FileIO) or not parks(buffer.fileno()):
        return
    ahead = b""
    if isinstance(buffer, io.BufferedReader):
        ahead = _read_ahead(stream)
    parking = greenio.wrap_file(buffer)
    if type(parking) is greenio.FdIO:
        parking.__class__ = WholeFile
    if ahead:
        parking.unread(ahead)
    _begin_again(stream, parking)

    def undo() -> None:
        if stream.closed or stream.buffer is not parking:
            return
        if parking.writable():
            stream.flush()
        _begin_again(stream, buffer)

    patch.undo_with(undo)


def _begin_again(stream: Any, buffer: Any) -> None:
    through = stream.write_through
    if stream.writable():
        stream.flush()
    # As the interpreter makes them: "\n" is the end of a line, and stays as it is.
    io.TextIOWrapper.__init__(
        stream,
        buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=through,
    )


def _read_ahead(stream: Any) -> bytes:
    """What *stream* and its buffer have read and nobody has taken. Reads nothing: for a moment the descriptor is /dev/null."""
    fd = stream.fileno()
    inheritable = os.get_inheritable(fd)
    saved = os.dup(fd)
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, fd, inheritable)
        os.close(null)
        below = stream.buffer.read()
        text = stream.read()
    finally:
        os.dup2(saved, fd, inheritable)
        os.close(saved)
    return bytes(text.encode(stream.encoding, stream.errors) + below)


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.replace(_io, "open", open)
    patch.replace(io, "open", open)
    patch.replace(builtins, "open", open, everywhere=True)
    patch.replace(builtins, "input", input, everywhere=True)
    streams = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
    for stream in {id(each): each for each in streams if each is not None}.values():
        _adopt(patch, stream)
