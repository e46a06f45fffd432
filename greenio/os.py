"""The standard os module, for fibers: what waits for processes, pipes, sockets and terminals parks the fiber.

That is `read write readv writev`, `waitpid wait wait3 wait4 waitid`, `system`, `popen` and the `spawn` family, to be called inside
greenio.run(). Everything else is the standard's, and so are calls on regular files.

Waiting for children installs no handler for SIGCHLD. One process is waited for through a pidfd; any child, those of a process
group, stops and continuations by an OS thread in waitid that reaps nothing. Reaping itself never waits, so of several who wait
for the same child one gets it, and the others what the system says then: ChildProcessError, or a further child. As with the
standard, wait() and waitpid(-1, …) also reap what belongs to a Popen.
"""

import errno as _errno
import os as _os
import select as _poll
import stat as _stat
import sys as _sys
from collections.abc import Callable as _Callable
from collections.abc import Iterable as _Iterable
from collections.abc import Sequence as _Sequence
from types import SimpleNamespace as _SimpleNamespace
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from greenio import subprocess as _subprocess
from greenio._children import Pidfd as _Pidfd
from greenio._children import wait_for_child as _wait_for_child
from greenio._errors import Cancelled as _Cancelled
from greenio._io import read_now as _read_now
from greenio._io import wait_readable as _wait_readable
from greenio._io import wait_writable as _wait_writable
from greenio._os_names import *  # noqa: F403
from greenio._os_names import __all__ as __all__
from greenio._scheduler import checkpoint as _checkpoint
from greenio._scheduler import running_scheduler as _running_scheduler
from greenio._scopes import move_on_after as _move_on_after

__all__ = __all__.copy()
__all__ += [
    "popen",
    "read",
    "readv",
    "spawnl",
    "spawnle",
    "spawnlp",
    "spawnlpe",
    "spawnv",
    "spawnve",
    "spawnvp",
    "spawnvpe",
    "system",
    "wait",
    "wait3",
    "wait4",
    "waitid",
    "waitpid",
    "write",
    "writev",
]

if _TYPE_CHECKING:
    import os as _standard
else:
    # As they are now: greenio.monkey puts others in their place.
    _standard = _SimpleNamespace(**vars(_os))  # type: ignore[assignment]
_pollable: _Callable[[], _Any] = _poll.poll

_RWF_NOWAIT = 0x8  # linux/fs.h; os.RWF_NOWAIT is there only if libc knows it
_NOT_NOWAIT = (_errno.EOPNOTSUPP, _errno.EINVAL, _errno.ENOSYS, _errno.EPERM, _errno.ESPIPE)
_WAITED = {_stat.S_IFIFO, _stat.S_IFSOCK, _stat.S_IFCHR, 0}  # 0: eventfd, timerfd, …
_KILL_PATIENCE = 10.0  # seconds that a killed process has to be gone
_P_WAIT = _standard.P_WAIT


def __getattr__(name: str) -> _Any:
    return getattr(_os, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_os)})


# --- descriptors -----------------------------------------------------------------------------------------------------


def _waits(fd: int) -> bool:
    """Whether a call on *fd* may wait, and is meant to."""
    kind = _stat.S_IFMT(_standard.fstat(fd).st_mode)
    # O_NONBLOCK says that its owner wants BlockingIOError; on sockets it may be greenio's own.
    return kind in _WAITED and (kind == _stat.S_IFSOCK or _standard.get_blocking(fd))


def _is_ready(fd: int, event: int) -> bool:
    poll = _pollable()
    poll.register(fd, event)
    return bool(poll.poll(0))


def _readv_now(fd: int, buffers: _Sequence[_Any]) -> int | None:
    """As readv, but None instead of waiting."""
    try:
        return _standard.preadv(fd, buffers, -1, _RWF_NOWAIT)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno not in _NOT_NOWAIT:
            raise
    # A terminal, or an old kernel. Should another process read between the two calls, the second one waits, and the OS thread with it.
    if not _is_ready(fd, _poll.POLLIN):
        return None
    try:
        return _standard.readv(fd, buffers)
    except BlockingIOError:
        return None


def _writev_now(fd: int, buffers: _Sequence[_Any]) -> int | None:
    try:
        return _standard.pwritev(fd, buffers, -1, _RWF_NOWAIT)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno not in _NOT_NOWAIT:
            raise
    if not _is_ready(fd, _poll.POLLOUT):
        return None
    try:
        # A pipe with room has room for PIPE_BUF bytes.
        return _standard.write(fd, _joined(buffers, _poll.PIPE_BUF))
    except BlockingIOError:
        return None


def _views(buffers: _Iterable[_Any]) -> list[memoryview]:
    return [memoryview(buffer).cast("B") for buffer in buffers]


def _joined(buffers: _Iterable[_Any], limit: int) -> bytes:
    joined = bytearray()
    for view in _views(buffers):
        joined += view[: limit - len(joined)]
    return bytes(joined)


def read(fd: int, length: int, /) -> bytes:
    """At most *length* bytes from a descriptor, b"" at its end, as os.read. Parks while there are none.

    A descriptor with O_NONBLOCK raises BlockingIOError instead, unless it is a socket: greenio's own have the flag.

    Raises:
        Cancelled: this fiber was cancelled. Nothing was read.
        OSError: as the system says; EBADF if it is closed meanwhile (see notify_closing).
        RuntimeError: no fibers run on this OS thread.
    """
    if length <= 0 or not _waits(fd):
        return _standard.read(fd, length)
    _checkpoint()
    while True:
        found = _read_now(fd, length)
        if found is not None:
            return found
        _wait_readable(fd)


def readv(fd: int, buffers: _Sequence[_Any], /) -> int:
    """Read into *buffers* in turn, as os.readv; returns how many bytes. Parks and raises as `read`."""
    if not _waits(fd):
        return _standard.readv(fd, buffers)
    _checkpoint()
    while True:
        count = _readv_now(fd, buffers)
        if count is not None:
            return count
        _wait_readable(fd)


def write(fd: int, data: _Any, /) -> int:
    """Write *data* to a descriptor, as os.write: all of it, where the standard would wait for room; parks while there is none.

    Interrupted after the first bytes, it returns how many were written, as a system call does that a signal interrupts; Cancelled
    then comes at the next checkpoint. A descriptor with O_NONBLOCK never waits, unless it is a socket: greenio's own have the flag.

    Returns:
        How many bytes were written: fewer than given after an interruption, or as the system says.
    Raises:
        Cancelled: this fiber was cancelled. Nothing was written.
        OSError: as the system says. Nothing was written.
        RuntimeError: no fibers run on this OS thread.
    """
    return writev(fd, [data])


def writev(fd: int, buffers: _Sequence[_Any], /) -> int:
    """Write *buffers* one after the other, as os.writev. Parks, returns and raises as `write`."""
    if not _waits(fd):
        return _standard.writev(fd, buffers)
    left = [view for view in _views(buffers) if view]
    if not left:
        return _standard.writev(fd, buffers)
    _checkpoint()
    written = 0
    try:
        while left:
            count = _writev_now(fd, left)
            if count is None:
                _wait_writable(fd)
                continue
            written += count
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if left:
                left[0] = left[0][count:]
    except (_Cancelled, OSError) as error:
        if not written or isinstance(error, TimeoutError):
            raise
    return written


# --- children --------------------------------------------------------------------------------------------------------


def _selector(pid: int) -> tuple[int, int]:
    # The idtype and id of waitid for what waitpid calls pid.
    if pid > 0:
        return _standard.P_PID, pid
    if pid == -1:
        return _standard.P_ALL, 0
    return _standard.P_PGID, _standard.getpgrp() if pid == 0 else -pid


def _flags(options: int) -> int:
    return (options & ~_standard.WNOHANG) | _standard.WEXITED


def waitpid(pid: int, options: int, /) -> tuple[int, int]:
    """(pid, status) of a child that has ended, or been stopped or continued, as os.waitpid. Parks until there is one.

    Args:
        pid: of a child; -1: any child; 0: any of this process group; below -1: any of the process group with that number, negated.
        options: WUNTRACED, WCONTINUED; with WNOHANG it does not park, and (0, 0) says that there is none yet.
    Raises:
        ChildProcessError: there is no such child, or somebody else has reaped it meanwhile.
        Cancelled: this fiber was cancelled. Nothing was reaped.
        RuntimeError: no fibers run on this OS thread.
    """
    if options & _standard.WNOHANG:
        _checkpoint()
        return _standard.waitpid(pid, options)

    def attempt() -> tuple[int, int] | None:
        found = _standard.waitpid(pid, options | _standard.WNOHANG)
        return found if found[0] else None

    return _wait_for_child(attempt, *_selector(pid), _flags(options))


def wait() -> tuple[int, int]:
    """(pid, status) of any child that has ended. As waitpid(-1, 0)."""
    return waitpid(-1, 0)


def wait4(pid: int, options: int) -> tuple[int, int, _Any]:
    """As waitpid, with the resources that the child has used as a third value."""
    if options & _standard.WNOHANG:
        _checkpoint()
        return _standard.wait4(pid, options)

    def attempt() -> tuple[int, int, _Any] | None:
        found = _standard.wait4(pid, options | _standard.WNOHANG)
        return found if found[0] else None

    return _wait_for_child(attempt, *_selector(pid), _flags(options))


def wait3(options: int) -> tuple[int, int, _Any]:
    """As wait4(-1, options)."""
    return wait4(-1, options)


def waitid(idtype: int, id: int, options: int, /) -> "_os.waitid_result | None":
    """What has happened to a child, as os.waitid. Parks until something has.

    Args:
        idtype, id: P_PID and a pid, P_PGID and a process group, P_ALL, or P_PIDFD and a descriptor.
        options: WEXITED, WSTOPPED, WCONTINUED, WNOWAIT; with WNOHANG it does not park, and None says that nothing has happened yet.
    Raises:
        ChildProcessError, Cancelled, RuntimeError: as waitpid.
        BlockingIOError: a pidfd with O_NONBLOCK, and it has not ended.
    """
    if options & _standard.WNOHANG or (idtype == _standard.P_PIDFD and not _standard.get_blocking(id)):
        _checkpoint()
        return _standard.waitid(idtype, id, options)

    own = _Pidfd(_standard.dup(id), id) if idtype == _standard.P_PIDFD else None  # the number may be closed meanwhile
    number = id if own is None else own.fd

    def attempt() -> "_os.waitid_result | None":
        return _standard.waitid(idtype, number, options | _standard.WNOHANG)

    try:
        return _wait_for_child(attempt, idtype, number, options & ~_standard.WNOWAIT)
    finally:
        del own  # closes it, also if somebody keeps what is raised


def _kill_and_reap(pid: int) -> None:
    # It is ours and not reaped, so the number is still its own.
    scheduler = _running_scheduler()
    assert scheduler is not None
    try:
        _standard.kill(pid, 9)
    except OSError:
        pass
    scheduler.outside_call(1)  # a virtual clock stands still meanwhile
    try:
        with _move_on_after(_KILL_PATIENCE, shield=True):
            waitpid(pid, 0)
    except ChildProcessError:
        pass  # somebody else was faster
    finally:
        scheduler.outside_call(-1)


def system(command: "_os.PathLike[_Any] | str | bytes") -> int:
    """Run a command in the shell, and return its wait status (see waitstatus_to_exitcode), as os.system. Parks until it has ended.

    Unlike the C function it does not ignore SIGINT and SIGQUIT meanwhile: other fibers may want them.

    Returns:
        The wait status; 127 << 8 if there is no shell or the command is too long for it, -1 if no process could be made or something
        else has reaped it.
    Raises:
        Cancelled: this fiber was cancelled; the shell was killed and reaped, what it has started goes on.
        RuntimeError: no fibers run on this OS thread.
    """
    text = _standard.fsencode(command)
    if b"\0" in text:
        raise ValueError("embedded null byte")
    _checkpoint()
    _sys.audit("os.system", text)
    try:
        pid = _standard.posix_spawn("/bin/sh", [b"sh", b"-c", text], _standard.environ)
    except OSError as error:
        return 127 << 8 if error.errno in (_errno.ENOENT, _errno.EACCES, _errno.ENOEXEC, _errno.E2BIG) else -1
    try:
        return waitpid(pid, 0)[1]
    except ChildProcessError:
        return -1
    except BaseException:
        _kill_and_reap(pid)
        raise


def popen(cmd: str, mode: str = "r", buffering: int = -1) -> _Any:
    """A text file from, or with mode "w" to, a command of the shell's, as os.popen. Its calls park.

    close() waits for the command, and returns None for status 0, else the status << 8 (a signal's negated number likewise).

    Raises:
        ValueError, TypeError: as os.popen. RuntimeError: no fibers run on this OS thread.
    """
    if not isinstance(cmd, str):
        raise TypeError(f"invalid cmd type ({type(cmd)}, expected string)")
    if mode not in ("r", "w"):
        raise ValueError(f"invalid mode {mode!r}")
    if buffering == 0 or buffering is None:
        raise ValueError("popen() does not support unbuffered streams")
    end: dict[str, _Any] = {"stdout" if mode == "r" else "stdin": _subprocess.PIPE}
    process = _subprocess.Popen(cmd, shell=True, text=True, bufsize=buffering, **end)
    file: _Any = process.stdout if mode == "r" else process.stdin
    return _standard._wrap_close(file, process)


# --- spawn -----------------------------------------------------------------------------------------------------------


def _spawn(start: _Callable[..., int], mode: int, file: _Any, *rest: _Any) -> int:
    """A function of the standard's spawn family; with P_WAIT, the waiting is ours."""
    if mode != _P_WAIT:
        return start(mode, file, *rest)
    _checkpoint()
    pid = start(_standard.P_NOWAIT, file, *rest)
    try:
        while True:
            status = waitpid(pid, 0)[1]
            if not _standard.WIFSTOPPED(status):
                return _standard.waitstatus_to_exitcode(status)
    except ChildProcessError:
        raise
    except BaseException:
        _kill_and_reap(pid)
        raise


_Path = _Any
_Arguments = _Sequence[_Any]


def spawnv(mode: int, file: _Path, args: _Arguments) -> int:
    """As os.spawnv. With P_WAIT it parks until the program has ended; cancelled then, the process is killed and reaped."""
    return _spawn(_standard.spawnv, mode, file, args)


def spawnve(mode: int, file: _Path, args: _Arguments, env: _Any) -> int:
    """As os.spawnve; see spawnv."""
    return _spawn(_standard.spawnve, mode, file, args, env)


def spawnvp(mode: int, file: _Path, args: _Arguments) -> int:
    """As os.spawnvp; see spawnv."""
    return _spawn(_standard.spawnvp, mode, file, args)


def spawnvpe(mode: int, file: _Path, args: _Arguments, env: _Any) -> int:
    """As os.spawnvpe; see spawnv."""
    return _spawn(_standard.spawnvpe, mode, file, args, env)


def spawnl(mode: int, file: _Path, *args: _Any) -> int:
    """As os.spawnl; see spawnv."""
    return spawnv(mode, file, args)


def spawnle(mode: int, file: _Path, *args: _Any) -> int:
    """As os.spawnle, the environment last; see spawnv."""
    return spawnve(mode, file, args[:-1], args[-1])


def spawnlp(mode: int, file: _Path, *args: _Any) -> int:
    """As os.spawnlp; see spawnv."""
    return spawnvp(mode, file, args)


def spawnlpe(mode: int, file: _Path, *args: _Any) -> int:
    """As os.spawnlpe, the environment last; see spawnv."""
    return spawnvpe(mode, file, args[:-1], args[-1])
