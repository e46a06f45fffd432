"""Files that park: greenio.open and wrap_file. Raw files are in _io.pyx, buffers in _buffers.pyx, text in _file_text.py.

Opening a FIFO waits for its other side without an OS thread: with O_NONBLOCK a reader's open succeeds at once, and inotify tells of
others' opens; a writer's fails (ENXIO) until there is a reader, and one who blocks in his own open is seen only by trying again.
"""

import codecs
import errno
import io
import os
import stat
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal, TextIO, overload

from greenio._buffers import BufferedRandom, BufferedReader, BufferedWriter
from greenio._file_text import DiskText, TextIOWrapper
from greenio._io import FdIO, becomes_readable, fifo_has_writer, wait_readable, watch_opens
from greenio._scheduler import running_scheduler
from greenio._threads import to_thread
from greenio._time import sleep

_File = int | str | bytes | os.PathLike[str] | os.PathLike[bytes]
if TYPE_CHECKING:
    _TextMode = Literal["r", "w", "a", "x", "r+", "w+", "a+", "x+", "rt", "wt", "at", "xt", "r+t", "w+t", "rt+", "wt+"]
    _BinaryMode = Literal[
        "rb", "wb", "ab", "xb", "r+b", "w+b", "a+b", "x+b", "rb+", "wb+", "ab+", "xb+", "br", "bw", "ba"
    ]

DISK_BUFFER = 128 * 1024  # bytes: each refill may cost a call in another OS thread
FIRST_PAUSE = 0.001  # seconds between looks at whether a FIFO has a reader; doubled up to
LONGEST_PAUSE = 0.05


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
            elif becomes_readable(told, pause):
                os.read(told, 4096)
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
    file: _File,
    mode: "_TextMode" = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> TextIO: ...
@overload
def open(  # type: ignore[overload-overlap]
    file: _File,
    mode: "_BinaryMode",
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> FdIO: ...
@overload
def open(
    file: _File,
    mode: "_BinaryMode",
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> BinaryIO: ...
@overload
def open(
    file: _File,
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

    What it opens by name, other than files on disks, gets O_NONBLOCK, which another process gets with the descriptor; what
    greenio.subprocess is given as stdin, stdout or stderr loses it again. A descriptor given by number is left as it is.

    The file may be shared by fibers and OS threads: each call is one piece, and lines that are printed to it stay whole. On
    an OS thread without fibers it blocks the thread.

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
