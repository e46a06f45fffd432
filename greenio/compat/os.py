"""os: what waits for descriptors and children parks.

Builtin functions cannot be changed in place, so os and posix get others of the same names. A call that cannot wait (regular files,
O_NONBLOCK, WNOHANG) goes straight to the original. POSIX and BSD locks are tried again after growing pauses: in another OS thread a
wait could not be called off, and a lock that came too late would be taken.
"""

import os
import posix
import stat
from collections.abc import Callable, Sequence
from typing import Any

import greenio
import greenio.io
import greenio.os
from greenio.compat.patches import Patch, stand_in

FIRST_PAUSE = 0.0005  # seconds between two tries for a lock; half as much again each time, up to
LONGEST_PAUSE = 0.02
_CHUNK = 1 << 18  # bytes that sendfile sends at once to a socket that blocks
_SPLICE_F_NONBLOCK = 2

_close = os.close
_closerange = os.closerange
_dup2 = os.dup2
_open = os.open
_read = os.read
_readv = os.readv
_sendfile = os.sendfile
_write = os.write
_writev = os.writev
_wait = os.wait
_waitpid = os.waitpid
_waitid = os.waitid
_wait3 = os.wait3
_wait4 = os.wait4
_system = os.system
_popen = os.popen
_lockf = os.lockf
_fstat = os.fstat
_get_blocking = os.get_blocking
_WAITED = {stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, 0}  # 0: eventfd, timerfd, …


def waits(fd: int) -> bool:
    """Whether reads and writes of *fd* may wait: no regular file, and without O_NONBLOCK."""
    return stat.S_IFMT(_fstat(fd).st_mode) in _WAITED and _get_blocking(fd)


def try_until(attempt: Callable[[], Any]) -> Any:
    """What attempt() returns once it raises no BlockingIOError or PermissionError; parks between, longer each time."""
    pause = FIRST_PAUSE
    while True:
        try:
            return attempt()
        except (BlockingIOError, PermissionError):
            pass
        greenio.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE)


# --- descriptors -----------------------------------------------------------------------------------------------------


@stand_in(_read)
def read(fd: int, length: int, /) -> bytes:
    return greenio.os.read(fd, length) if greenio.can_park() else _read(fd, length)


@stand_in(_readv)
def readv(fd: int, buffers: Sequence[Any], /) -> int:
    return greenio.os.readv(fd, buffers) if greenio.can_park() else _readv(fd, buffers)


@stand_in(_write)
def write(fd: int, data: Any, /) -> int:
    return greenio.os.write(fd, data) if greenio.can_park() else _write(fd, data)


@stand_in(_writev)
def writev(fd: int, buffers: Sequence[Any], /) -> int:
    return greenio.os.writev(fd, buffers) if greenio.can_park() else _writev(fd, buffers)


@stand_in(_sendfile)
def sendfile(out_fd: int, in_fd: int, offset: int | None, count: int) -> int:
    if not greenio.can_park() or not stat.S_ISREG(_fstat(in_fd).st_mode):
        return _sendfile(out_fd, in_fd, offset, count)
    if not waits(out_fd):
        return _sendfile(out_fd, in_fd, offset, count)
    # Such a descriptor cannot be told not to wait, by sendfile. What has been written counts, also after an interruption.
    greenio.wait_writable(out_fd)
    position = os.lseek(in_fd, 0, os.SEEK_CUR) if offset is None else offset
    data = os.pread(in_fd, min(count, _CHUNK), position)
    sent = greenio.os.write(out_fd, data) if data else 0
    if offset is None:
        os.lseek(in_fd, position + sent, os.SEEK_SET)
    return sent


if hasattr(os, "splice"):
    _splice = os.splice

    @stand_in(_splice)
    def splice(
        src: int,
        dst: int,
        count: int,
        offset_src: int | None = None,
        offset_dst: int | None = None,
        flags: int = 0,
    ) -> int:
        if not greenio.can_park() or flags & _SPLICE_F_NONBLOCK:
            return _splice(src, dst, count, offset_src, offset_dst, flags)
        into, out_of = waits(dst), waits(src)
        if not into and not out_of:
            return _splice(src, dst, count, offset_src, offset_dst, flags)
        while True:
            if out_of:
                greenio.wait_readable(src)
            if into:
                greenio.wait_writable(dst)
            try:
                return _splice(src, dst, count, offset_src, offset_dst, flags | _SPLICE_F_NONBLOCK)
            except BlockingIOError:
                # A pipe that poll calls writable has a page free; what splice wants besides comes with the reader's next read.
                greenio.sleep(FIRST_PAUSE)


if hasattr(os, "eventfd_read"):
    _eventfd_read = os.eventfd_read
    _eventfd_write = os.eventfd_write

    @stand_in(_eventfd_read)
    def eventfd_read(fd: int) -> int:
        if greenio.can_park() and waits(fd):
            greenio.wait_readable(fd)
        return _eventfd_read(fd)

    @stand_in(_eventfd_write)
    def eventfd_write(fd: int, value: int) -> None:
        if greenio.can_park() and waits(fd):
            greenio.wait_writable(fd)
        _eventfd_write(fd, value)


@stand_in(_open)
def open(
    path: Any,
    flags: int,
    mode: int = 0o777,
    *,
    dir_fd: int | None = None,
) -> int:
    if greenio.can_park() and not flags & os.O_NONBLOCK and flags & os.O_ACCMODE != os.O_RDWR:
        try:
            is_fifo = stat.S_ISFIFO(os.stat(path, dir_fd=dir_fd).st_mode)
        except (OSError, TypeError, ValueError):
            is_fifo = False
        if is_fifo:
            return _open_fifo(path, flags, dir_fd)
    return _open(path, flags, mode, dir_fd=dir_fd)


def _open_fifo(path: Any, flags: int, dir_fd: int | None) -> int:
    if dir_fd is not None:
        path = os.path.join(f"/proc/self/fd/{dir_fd}", os.fsdecode(path))
    mode: Any = "wb" if flags & os.O_ACCMODE == os.O_WRONLY else "rb"
    with greenio.open(path, mode, buffering=0) as file:
        os.set_blocking(file.fileno(), True)
        return os.dup(file.fileno())


@stand_in(_close)
def close(fd: int) -> None:
    _tell(fd)
    _close(fd)


def _tell(fd: Any) -> None:
    if isinstance(fd, int) and 0 <= fd < 1 << 31:
        greenio.notify_closing(fd)


@stand_in(_closerange)
def closerange(fd_low: int, fd_high: int, /) -> None:
    for name in os.listdir("/proc/self/fd"):
        if fd_low <= int(name) < fd_high:
            greenio.notify_closing(int(name))
    _closerange(fd_low, fd_high)


@stand_in(_dup2)
def dup2(fd: int, fd2: int, inheritable: bool = True) -> int:
    if fd != fd2:
        _tell(fd2)
    return _dup2(fd, fd2, inheritable)


@stand_in(_lockf)
def lockf(fd: int, command: int, length: int, /) -> None:
    if not greenio.can_park() or command != os.F_LOCK:
        return _lockf(fd, command, length)
    try_until(lambda: _lockf(fd, os.F_TLOCK, length))
    return None


# --- children --------------------------------------------------------------------------------------------------------


@stand_in(_waitpid)
def waitpid(pid: int, options: int, /) -> tuple[int, int]:
    return (
        _waitpid(pid, options) if options & os.WNOHANG or not greenio.can_park() else greenio.os.waitpid(pid, options)
    )


@stand_in(_wait)
def wait() -> tuple[int, int]:
    return greenio.os.wait() if greenio.can_park() else _wait()


@stand_in(_wait3)
def wait3(options: int) -> tuple[int, int, Any]:
    return _wait3(options) if options & os.WNOHANG or not greenio.can_park() else greenio.os.wait3(options)


@stand_in(_wait4)
def wait4(pid: int, options: int) -> tuple[int, int, Any]:
    return _wait4(pid, options) if options & os.WNOHANG or not greenio.can_park() else greenio.os.wait4(pid, options)


@stand_in(_waitid)
def waitid(idtype: int, id: int, options: int, /) -> Any:
    if options & os.WNOHANG or not greenio.can_park():
        return _waitid(idtype, id, options)
    return greenio.os.waitid(idtype, id, options)


@stand_in(_system)
def system(command: Any) -> int:
    return greenio.os.system(command) if greenio.can_park() else _system(command)


@stand_in(_popen)
def popen(cmd: str, mode: str = "r", buffering: int = -1) -> Any:
    return greenio.os.popen(cmd, mode, buffering) if greenio.can_park() else _popen(cmd, mode, buffering)


def _spawner(name: str) -> Any:
    original = getattr(os, name)
    parking = getattr(greenio.os, name)

    @stand_in(original)
    def spawn(mode: int, file: Any, *rest: Any) -> int:
        return parking(mode, file, *rest) if mode == os.P_WAIT and greenio.can_park() else original(mode, file, *rest)

    return spawn


_SPAWNERS = {
    name: _spawner(name)
    for name in ("spawnv", "spawnve", "spawnvp", "spawnvpe", "spawnl", "spawnle", "spawnlp", "spawnlpe")
}
_BUILTIN = (
    "close",
    "closerange",
    "dup2",
    "eventfd_read",
    "eventfd_write",
    "lockf",
    "open",
    "read",
    "readv",
    "sendfile",
    "splice",
    "system",
    "wait",
    "wait3",
    "wait4",
    "waitid",
    "waitpid",
    "write",
    "writev",
)


def apply(patch: Patch) -> None:
    """Make the replacements."""
    for name in _BUILTIN:
        if hasattr(posix, name):
            patch.replace(posix, name, globals()[name])
            _say_alike(patch, getattr(os, name), globals()[name])
            patch.replace(os, name, globals()[name], everywhere=True)
    patch.replace(os, "popen", popen, everywhere=True)
    for name, spawn in _SPAWNERS.items():
        patch.replace(os, name, spawn, everywhere=True)
    _replace_defaults(patch)


def _say_alike(patch: Patch, original: Any, new: Any) -> None:
    for functions in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
        if original in functions:
            functions.add(new)
            patch.undo_with(lambda functions=functions: functions.discard(new))


def _replace_defaults(patch: Patch) -> None:
    # Connection's methods hold os.read and os.write as default arguments.
    def changed(connection: Any) -> None:
        kind = connection.Connection
        if kind._read is _read:
            patch.replace(kind, "_read", read)
            patch.replace(kind, "_write", write)
            for method in (kind._send, kind._recv, kind._close):
                before = method.__defaults__
                after = tuple(
                    {id(_read): read, id(_write): write, id(_close): close}.get(id(each), each) for each in before
                )
                method.__defaults__ = after
                patch.undo_with(lambda method=method, before=before: setattr(method, "__defaults__", before))

    patch.when_imported("multiprocessing.connection", changed)
