"""The standard signal module's names, for fibers: what waits for a signal parks the fiber.

That is `sigwait sigwaitinfo sigtimedwait pause`; everything else is the standard's. `greenio.signals` is another way, made for fibers.

The signals waited for are blocked in this OS thread while a fiber waits, if they are not already, as the kernel itself does it: no
handler is called for them. A handler of any other signal runs at once, on top of whatever runs; see ARCHITECTURE.md.
"""

import os as _os
import signal as _standard
from _thread import get_native_id as _native_id  # the kernel's, as it is now
from collections.abc import Iterable as _Iterable
from typing import Any as _Any

from greenio._io import becomes_readable as _becomes_readable
from greenio._io import notify_closing as _notify_closing
from greenio._io import wait_readable as _wait_readable
from greenio._scheduler import checkpoint as _checkpoint
from greenio._scheduler import current_scheduler as _current_scheduler
from greenio._signals import open_signalfd as _open_signalfd
from greenio._sync import Event as _Event

__all__ = ["pause", "sigtimedwait", "sigwait", "sigwaitinfo"]

# As they are now: greenio.monkey puts others in their place.
_sigtimedwait = _standard.sigtimedwait
_pause = _standard.pause
_read = _os.read
_close = _os.close


def __getattr__(name: str) -> _Any:
    return getattr(_standard, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_standard)})


def _wait_for(sigset: _Iterable[int], timeout: float | None) -> "_standard.struct_siginfo | None":
    _checkpoint()
    numbers = list(sigset)
    found = _sigtimedwait(numbers, 0)
    if found is not None or (timeout is not None and timeout <= 0):
        return found
    clock = _current_scheduler()
    deadline = None if timeout is None else clock.time() + timeout
    blocked = _standard.pthread_sigmask(_standard.SIG_BLOCK, numbers)
    fd = -1
    try:
        fd = _open_signalfd(numbers)
        while True:
            found = _sigtimedwait(numbers, 0)
            if found is not None:
                return found
            left = None if deadline is None else max(0.0, deadline - clock.time())
            if left == 0 or not _becomes_readable(fd, left):
                return _sigtimedwait(numbers, 0)
    finally:
        if fd >= 0:
            _notify_closing(fd)
            _close(fd)
        _standard.pthread_sigmask(_standard.SIG_UNBLOCK, set(numbers) - blocked)


def sigwait(sigset: _Iterable[int], /) -> _Any:
    """The number of the next signal of *sigset*, which is taken, as signal.sigwait. Parks until there is one.

    Raises:
        Cancelled: this fiber was cancelled. No signal was taken.
        RuntimeError: no fibers run on this OS thread.
    """
    found = sigwaitinfo(sigset).si_signo
    try:
        return _standard.Signals(found)
    except ValueError:
        return found


def sigwaitinfo(sigset: _Iterable[int], /) -> "_standard.struct_siginfo":
    """As sigwait; what the kernel says of the signal, as signal.sigwaitinfo."""
    found = _wait_for(sigset, None)
    assert found is not None
    return found


def sigtimedwait(sigset: _Iterable[int], timeout: float, /) -> "_standard.struct_siginfo | None":
    """As sigwaitinfo, for at most *timeout* seconds; None when they have passed.

    Raises:
        ValueError: *timeout* is negative. Cancelled, RuntimeError: as sigwait.
    """
    if timeout < 0:
        raise ValueError("timeout must be non-negative")
    return _wait_for(sigset, timeout)


class _Pauses:
    # Python's C-level handler writes each signal's number to the wakeup descriptor. While fibers pause, that is ours, and what comes
    # is handed on to whose it was.
    def __init__(self) -> None:
        self.count = 0
        self.reading = False
        self.turn = _Event()

    def enter(self) -> None:
        if self.count == 0:
            self.reader, self.writer = _os.pipe2(_os.O_NONBLOCK | _os.O_CLOEXEC)
            self.other = _standard.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
            self.seen = 0
        self.count += 1

    def wait(self) -> None:
        # For the next signal. One fiber reads, for all of them.
        before = self.seen
        while self.seen == before:
            if self.reading:
                self.turn.wait()
                continue
            self.reading = True
            try:
                _wait_readable(self.reader)
                self.take()
            finally:
                self.reading = False
                self.turn.set()
                self.turn = _Event()

    def take(self) -> None:
        try:
            data = _read(self.reader, 512)
        except BlockingIOError:
            return
        self.seen += 1
        if self.other != -1:
            try:
                _os.write(self.other, data)
            except OSError:
                pass

    def leave(self) -> None:
        self.count -= 1
        if self.count:
            return
        present = _standard.set_wakeup_fd(-1)
        restored = self.other if present == self.writer else present
        if restored != -1:
            try:
                _standard.set_wakeup_fd(restored, warn_on_full_buffer=False)
            except (ValueError, OSError):
                pass  # closed meanwhile
        for fd in (self.reader, self.writer):
            _notify_closing(fd)
            _close(fd)


_pauses = _Pauses()


def pause() -> None:
    """Park until a signal has come for which there is a handler in Python, and that has run, as signal.pause.

    On an OS thread other than the main one, where Python handles no signals, it stops the OS thread as the standard does.

    Raises:
        BaseException: what the handler raises, in the main fiber.
        Cancelled: this fiber was cancelled.
        RuntimeError: no fibers run on this OS thread.
    """
    _checkpoint()
    if _native_id() != _os.getpid():
        _pause()
        return
    _pauses.enter()
    try:
        _pauses.wait()
    finally:
        _pauses.leave()
