"""The standard module select, with waits that park the fiber; and, called, greenio's own select over channels and the rest.

    greenio.select(channel, greenio.after(1))        # one of many cases
    greenio.select.epoll()                           # the standard module's names: select, poll, epoll, error, POLLIN, EPOLLIN, …
    from greenio.select import epoll

The module object itself is what is called, so that it does not matter which of the two somebody has imported first.
"""

import os as _os
import select as _standard
import sys as _sys
from collections.abc import Callable, Iterable
from errno import EBADF as _EBADF
from select import (
    EPOLL_CLOEXEC,
    EPOLLERR,
    EPOLLET,
    EPOLLEXCLUSIVE,
    EPOLLHUP,
    EPOLLIN,
    EPOLLMSG,
    EPOLLONESHOT,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDBAND,
    EPOLLRDHUP,
    EPOLLRDNORM,
    EPOLLWRBAND,
    EPOLLWRNORM,
    PIPE_BUF,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLMSG,
    POLLNVAL,
    POLLOUT,
    POLLPRI,
    POLLRDBAND,
    POLLRDHUP,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
    error,
)
from types import TracebackType
from typing import Any, Self, TypeVar

from greenio._io import becomes_readable as _becomes_readable
from greenio._io import notify_closing as _notify_closing
from greenio._io import wait_many as _wait_many
from greenio._scheduler import checkpoint as _checkpoint
from greenio._select_module import HasFileno as _HasFileno
from greenio._select_module import SelectModule as _SelectModule
from greenio._time import current_time as _current_time

__all__ = [
    "EPOLLERR",
    "EPOLLET",
    "EPOLLEXCLUSIVE",
    "EPOLLHUP",
    "EPOLLIN",
    "EPOLLMSG",
    "EPOLLONESHOT",
    "EPOLLOUT",
    "EPOLLPRI",
    "EPOLLRDBAND",
    "EPOLLRDHUP",
    "EPOLLRDNORM",
    "EPOLLWRBAND",
    "EPOLLWRNORM",
    "EPOLL_CLOEXEC",
    "PIPE_BUF",
    "POLLERR",
    "POLLHUP",
    "POLLIN",
    "POLLMSG",
    "POLLNVAL",
    "POLLOUT",
    "POLLPRI",
    "POLLRDBAND",
    "POLLRDHUP",
    "POLLRDNORM",
    "POLLWRBAND",
    "POLLWRNORM",
    "epoll",
    "error",
    "poll",
    "select",
]

# Constants that only newer versions have.
globals().update({name: value for name, value in vars(_standard).items() if name.startswith("EPOLL")})

# Kept, for a program may put ours in their place.
_new_poll: Callable[[], Any] = _standard.poll
_Epoll = _standard.epoll

_Source = int | _HasFileno
_R = TypeVar("_R", bound=_Source)
_W = TypeVar("_W", bound=_Source)
_X = TypeVar("_X", bound=_Source)

_READ = POLLIN | _standard.POLLRDNORM | _standard.POLLRDBAND | POLLHUP | POLLERR
_WRITE = POLLOUT | _standard.POLLWRNORM | _standard.POLLWRBAND | POLLERR
_NUMBERS = (int, float)
_HUNG_UP_PAUSE = 0.05  # seconds, see select


def _descriptor(source: object) -> int:
    """As the standard module finds it, and with its exceptions."""
    fd = source
    if not isinstance(fd, int):
        try:
            fileno: Any = source.fileno  # type: ignore[attr-defined]
        except AttributeError:
            raise TypeError("argument must be an int, or have a fileno() method.") from None
        fd = fileno()
        if not isinstance(fd, int):
            raise TypeError("fileno() returned a non-integer")
    if fd < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({fd})")
    return fd


def _seconds(timeout: float | None, unit: float) -> float | None:
    """A timeout of the standard module's in seconds; None: for ever. Below zero it stays."""
    if timeout is None:
        return None
    if type(timeout) in _NUMBERS and -1e9 < timeout < 1e9:
        return timeout * unit
    if not hasattr(type(timeout), "__float__") and not hasattr(type(timeout), "__index__"):
        raise TypeError(f"timeout must be a number or None, not {timeout!r}")
    seconds = float(timeout) * unit
    if seconds != seconds:
        raise ValueError("Invalid value NaN (not a number)")
    if abs(seconds) > 9.2e9:
        raise OverflowError("timeout is too large")
    return seconds


def select(
    rlist: Iterable[_R], wlist: Iterable[_W], xlist: Iterable[_X], timeout: float | None = None, /
) -> tuple[list[_R], list[_W], list[_X]]:
    """Park until one of the descriptors is ready; as select.select, with descriptors of any number (no FD_SETSIZE).

    Args:
        rlist, wlist, xlist: what to wait for to be readable, writable, in an exceptional condition: numbers, or things with fileno().
        timeout: seconds, or None for ever; 0 does not park.
    Returns:
        Three lists: those of each that are ready. All empty after *timeout*.
    Raises:
        ValueError: *timeout* is negative, or a descriptor.
        TypeError: something is no descriptor.
        OSError: EBADF: one is not open, or was closed meanwhile.
        Cancelled: this fiber was cancelled.
        RuntimeError: no fibers run on this OS thread.
    """
    seconds = _seconds(timeout, 1)
    if seconds is not None and seconds < 0:
        raise ValueError("timeout must be non-negative")
    try:
        lists: list[list[tuple[Any, int]]] = [
            [(source, _descriptor(source)) for source in sources] for sources in (rlist, wlist, xlist)
        ]
    except TypeError as problem:
        if "iterable" in str(problem):
            raise TypeError("arguments 1-3 must be sequences") from None
        raise
    wanted: dict[int, int] = {}
    for sources, events in zip(lists, (_READ, _WRITE, POLLPRI), strict=True):
        for _, fd in sources:
            wanted[fd] = wanted.get(fd, 0) | events
    deadline = None if seconds is None else _current_time() + seconds
    idle: set[int] = set()
    while True:
        asked = [(fd, events) for fd, events in wanted.items() if fd not in idle]
        # One that has hung up, in whose list that does not count, would end each wait at once. Seldom enough to look from time to time.
        patience = _HUNG_UP_PAUSE if idle and (seconds is None or seconds > _HUNG_UP_PAUSE) else seconds
        found = dict(_wait_many(asked, patience, "select.select", (rlist, wlist, xlist)))
        if any(events & POLLNVAL for events in found.values()):
            raise OSError(_EBADF, _os.strerror(_EBADF))
        ready = tuple(
            [source for source, fd in sources if found.get(fd, 0) & events]
            for sources, events in zip(lists, (_READ, _WRITE, POLLPRI), strict=True)
        )
        if any(ready):
            return ready  # type: ignore[return-value]
        idle = set() if idle and not found else idle | set(found)
        if deadline is not None:
            seconds = max(0.0, deadline - _current_time())
            if seconds == 0:
                return [], [], []


class poll:
    """The standard select.poll() object, whose poll() parks. Several fibers may wait in one."""

    def __init__(self) -> None:
        self._checked = _new_poll()
        self._wanted: dict[int, int] = {}

    def register(self, fd: _Source, eventmask: int = POLLIN | POLLPRI | POLLOUT, /) -> None:
        """Wait for these events of *fd*, a number or something with fileno(), from the next poll() on."""
        self._checked.register(fd, eventmask)
        self._wanted[_descriptor(fd)] = eventmask

    def modify(self, fd: _Source, eventmask: int, /) -> None:
        """Other events of a descriptor that is registered. OSError (ENOENT) if it is not."""
        self._checked.modify(fd, eventmask)
        self._wanted[_descriptor(fd)] = eventmask

    def unregister(self, fd: _Source, /) -> None:
        """No events of *fd* any more. KeyError if it is not registered."""
        self._checked.unregister(fd)
        del self._wanted[_descriptor(fd)]

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Park until something registered is ready.

        Args:
            timeout: milliseconds; None or below 0 for ever, 0 does not park.
        Returns:
            A list of (descriptor's number, POLL* events); POLLNVAL for one that is not open, or was closed meanwhile.
        Raises:
            Cancelled: this fiber was cancelled.
            RuntimeError: no fibers run on this OS thread.
        """
        seconds = _seconds(timeout, 1e-3)
        return _wait_many(list(self._wanted.items()), None if seconds is None or seconds < 0 else seconds, "poll", self)


class epoll:
    """The standard select.epoll object, whose poll() parks. Several fibers, and runs on several OS threads, may wait in one.

    A wait lasts, as with the standard one, when a descriptor in it is closed.

    Args:
        sizehint, flags: as select.epoll; they mean nothing any more.
    Raises:
        OSError: EMFILE, …: there is no descriptor left.
    """

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        self._epoll = _Epoll(sizehint, flags)

    @classmethod
    def fromfd(cls, fd: int, /) -> Self:
        """One on an epoll descriptor that is open; it will close it."""
        made = cls.__new__(cls)
        made._epoll = _Epoll.fromfd(fd)
        return made

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._epoll.closed

    def fileno(self) -> int:
        """The epoll descriptor's number. ValueError once closed."""
        return self._epoll.fileno()

    def register(self, fd: _Source, eventmask: int = EPOLLIN | EPOLLPRI | EPOLLOUT) -> None:
        """Add a descriptor. OSError as epoll_ctl says: EEXIST: it is there; EPERM: it is a regular file; EBADF."""
        self._epoll.register(fd, eventmask)

    def modify(self, fd: _Source, eventmask: int) -> None:
        """Other events of a descriptor that is registered. OSError (ENOENT) if it is not."""
        self._epoll.modify(fd, eventmask)

    def unregister(self, fd: _Source) -> None:
        """Take a descriptor out. OSError (ENOENT) if it is not registered."""
        self._epoll.unregister(fd)

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Park until something registered is ready.

        Args:
            timeout: seconds; None or below 0 for ever, 0 does not park.
            maxevents: the most events to take, > 0, or -1: FD_SETSIZE - 1.
        Returns:
            A list of (descriptor's number, EPOLL* events). Empty after *timeout*.
        Raises:
            Cancelled: this fiber was cancelled. No event was taken.
            ValueError: it is closed; *maxevents* is none.
            OSError: EBADF: it was closed meanwhile.
            RuntimeError: no fibers run on this OS thread.
        """
        seconds = _seconds(timeout, 1)
        if seconds is not None and seconds < 0:
            seconds = None
        _checkpoint()
        found = self._epoll.poll(0, maxevents)
        if found or seconds == 0:
            return found
        deadline = None if seconds is None else _current_time() + seconds
        while True:
            over = not _becomes_readable(
                self._epoll, None if deadline is None else max(0.0, deadline - _current_time())
            )
            found = self._epoll.poll(0, maxevents)
            if found or over:
                return found

    def close(self) -> None:
        """Close it; whoever waits in it gets OSError (EBADF). Again: does nothing."""
        if not self._epoll.closed:
            _notify_closing(self._epoll)
            self._epoll.close()

    def __enter__(self) -> Self:
        self._epoll.fileno()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        exc_tb: TracebackType | None = None,
        /,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_epoll") and not self._epoll.closed:
            self.close()


_sys.modules[__name__].__class__ = _SelectModule
