"""signal: waiting for a signal parks. Handlers are untouched: they run at once, on top of whatever runs."""

import _signal
import signal
from collections.abc import Iterable
from typing import Any

import greenio
import greenio.signal
from greenio.compat.patches import Patch, stand_in

_sigwait = signal.sigwait
_sigwaitinfo = signal.sigwaitinfo
_sigtimedwait = signal.sigtimedwait
_pause = signal.pause


@stand_in(_sigwait)
def sigwait(sigset: Iterable[int]) -> Any:
    return greenio.signal.sigwait(sigset) if greenio.can_park() else _sigwait(sigset)


@stand_in(_sigwaitinfo)
def sigwaitinfo(sigset: Iterable[int], /) -> Any:
    return greenio.signal.sigwaitinfo(sigset) if greenio.can_park() else _sigwaitinfo(sigset)


@stand_in(_sigtimedwait)
def sigtimedwait(sigset: Iterable[int], timeout: float, /) -> Any:
    return greenio.signal.sigtimedwait(sigset, timeout) if greenio.can_park() else _sigtimedwait(sigset, timeout)


@stand_in(_pause)
def pause() -> None:
    if greenio.can_park():
        greenio.signal.pause()
    else:
        _pause()


def apply(patch: Patch) -> None:
    """Make the replacements."""
    for name in ("sigwaitinfo", "sigtimedwait", "pause"):
        globals()[name].__module__ = "signal"  # as functions that are not built in say it there
        patch.replace(_signal, name, globals()[name])
        patch.replace(signal, name, globals()[name], everywhere=True)
    patch.replace(signal, "sigwait", sigwait, everywhere=True)
