"""fcntl: a lock that another process holds parks the fiber, which tries again after growing pauses."""

import fcntl
from typing import Any

import greenio
from greenio.compat.os import try_until
from greenio.compat.patches import Patch, stand_in

_flock = fcntl.flock
_lockf = fcntl.lockf
_fcntl = fcntl.fcntl
_TRIES = {
    fcntl.F_SETLKW: fcntl.F_SETLK,
    # Their numbers are the kernel's; the names came with Python 3.9.
    getattr(fcntl, "F_OFD_SETLKW", 38): getattr(fcntl, "F_OFD_SETLK", 37),
}


def _waits(operation: int) -> bool:
    return not operation & (fcntl.LOCK_NB | fcntl.LOCK_UN) and greenio.can_park()


@stand_in(_flock)
def flock(fd: Any, operation: int, /) -> None:
    if _waits(operation):
        try_until(lambda: _flock(fd, operation | fcntl.LOCK_NB))
    else:
        _flock(fd, operation)


@stand_in(_lockf)
def lockf(fd: Any, cmd: int, len: int = 0, start: int = 0, whence: int = 0, /) -> Any:
    if _waits(cmd):
        return try_until(lambda: _lockf(fd, cmd | fcntl.LOCK_NB, len, start, whence))
    return _lockf(fd, cmd, len, start, whence)


@stand_in(_fcntl)
def _fcntl_call(fd: Any, cmd: int, arg: Any = 0, /) -> Any:
    if cmd in _TRIES and greenio.can_park():
        return try_until(lambda: _fcntl(fd, _TRIES[cmd], arg))
    return _fcntl(fd, cmd, arg)


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.replace(fcntl, "flock", flock, everywhere=True)
    patch.replace(fcntl, "lockf", lockf, everywhere=True)
    patch.replace(fcntl, "fcntl", _fcntl_call, everywhere=True)
