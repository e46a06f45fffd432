"""select: select, poll and epoll park."""

import contextlib
import select
from collections.abc import Callable
from typing import Any, Self

import greenio
from greenio.compat.patches import Patch
from greenio.select import epoll as _ParkingEpoll
from greenio.select import poll as _ParkingPoll
from greenio.select import select as _parking_select

_select = select.select
_new_poll: Callable[[], Any] = select.poll
Poll: Any = type(select.poll())
Epoll: Any = select.epoll
_NUMBERS = (int, float)
_LONGEST_MS = 0x7FFFFFFF  # what a C int holds


def select_(rlist: Any, wlist: Any, xlist: Any, timeout: Any = None, /) -> Any:
    """As select.select; parks the fiber where there is one."""
    if not greenio.can_park():
        return _select(rlist, wlist, xlist, timeout)
    if timeout is not None and timeout == 0:
        greenio.checkpoint()
        # Asked often, by connection pools for each idle connection. A number above FD_SETSIZE is none of its.
        with contextlib.suppress(ValueError):
            return _select(rlist, wlist, xlist, 0)
    return _parking_select(rlist, wlist, xlist, timeout)


class _Polling(_ParkingPoll):
    """As what select.poll() returns; its poll() parks the fiber where there is one."""

    def __new__(cls) -> Self:
        raise TypeError("cannot create 'select.poll' instances")

    def __init__(self) -> None:
        super().__init__()
        self._polling = False

    def poll(self, timeout: Any = None, /) -> Any:
        """Wait until something registered is ready; as the standard object's."""
        if self._polling:
            raise RuntimeError("concurrent poll() invocation")
        if isinstance(timeout, _NUMBERS) and abs(timeout) > _LONGEST_MS:
            raise OverflowError("timeout is too large")
        self._polling = True
        try:
            if not greenio.can_park():
                return self._checked.poll(timeout)
            if timeout is not None and timeout == 0:
                greenio.checkpoint()
                return self._checked.poll(0)
            return super().poll(timeout)
        finally:
            self._polling = False


def poll() -> Any:
    """As select.poll(): an object whose poll() parks the fiber where there is one."""
    made = object.__new__(_Polling)
    made.__init__()  # type: ignore[misc]
    return made


class epoll(_ParkingEpoll):
    """As select.epoll; poll() parks the fiber where there is one."""

    def poll(self, timeout: Any = None, maxevents: int = -1) -> Any:
        if greenio.can_park():
            return super().poll(timeout, maxevents)
        return self._epoll.poll(timeout, maxevents)


for _each, _name in ((select_, "select"), (poll, "poll"), (_Polling, "poll"), (epoll, "epoll")):
    _each.__name__ = _each.__qualname__ = _name
    _each.__module__ = "select"


def poll_like(wanted: dict[int, int]) -> Any:
    """A poll object that parks, for one from before the patch with those descriptors and events."""
    ours = poll()
    for fd, events in wanted.items():
        ours.register(fd, events)
    return ours


def epoll_like(made: Any) -> Any:
    """An epoll object that parks, for *made*, which is one from before the patch: on its descriptor."""
    ours = epoll.__new__(epoll)
    ours._epoll = made
    return ours


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.replace(select, "select", select_, everywhere=True)
    patch.replace(select, "poll", poll, everywhere=True)
    patch.replace(select, "epoll", epoll, everywhere=True)
