"""multiprocessing: locks and semaphores of processes park; processes that are spawned are patched as this one.

Everything else of it stands on os, select, socket, threading and time, which are patched themselves.

A semaphore of processes is a C object that waits in sem_wait. Here a fiber tries, and is woken by a release in this process at once, by
one in another process within LONGEST_PAUSE: the first in line looks at growing intervals. Not taken: an OS thread in sem_wait for each
that waits. It cannot be called off, takes the semaphore for a fiber that has gone, and C's recursive locks know their owner by the OS
thread. For the same reason the owner of such a lock is kept here: the fibers of one OS thread are different owners.
"""

import atexit
import gc
import importlib
import os
import sys
import types
from collections import deque
from typing import Any

import greenio
import greenio.monkey
from greenio.compat.patches import Patch, stand_in

FIRST_PAUSE = 0.0002  # seconds between two looks at a semaphore that another process may release, half as much again each time, up to
LONGEST_PAUSE = 0.01
_multiprocessing = importlib.import_module("_multiprocessing")
_SemLock: Any = _multiprocessing.SemLock
_RECURSIVE = 0  # synchronize.RECURSIVE_MUTEX


class SemLock:
    """What _multiprocessing.SemLock is, and parks."""

    SEM_VALUE_MAX = _SemLock.SEM_VALUE_MAX

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> None:
        self._begin(_SemLock(kind, value, maxvalue, name, unlink))

    @classmethod
    def _rebuild(cls, *state: Any) -> "SemLock":
        return cls._of(_SemLock._rebuild(*state))

    @classmethod
    def _of(cls, below: Any) -> "SemLock":
        made = cls.__new__(cls)
        made._begin(below)
        return made

    def _begin(self, below: Any) -> None:
        self._below = below
        self._owner: greenio.Fiber[Any] | None = None  # the fiber that acquired it last, if it was one
        self._waiting: deque[greenio.Event] = deque()  # fibers of this process, first come first served
        # What multiprocessing asks for; all but handle stay what they are.
        self.handle = below.handle
        self.kind = below.kind
        self.maxvalue = below.maxvalue
        self.name = below.name
        self._get_value = below._get_value
        self._is_zero = below._is_zero
        self._count = below._count

    def _try(self, me: Any) -> bool:
        if self.kind == _RECURSIVE and self._owner is not me and self._below._is_mine():
            return False  # another fiber of this OS thread has it
        if not self._below.acquire(False):
            return False
        self._owner = me
        return True

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it; False if that is not possible, within *timeout* seconds. Parks until then."""
        if not greenio.can_park():
            got: bool = self._below.acquire(block, timeout)
            if got:
                self._owner = None
            return got
        me = greenio.current_fiber()
        if not block:
            return self._try(me)
        greenio.checkpoint()
        if (not self._waiting or self._owner is me) and self._try(me):
            return True
        deadline = None if timeout is None else greenio.current_time() + timeout
        pause = FIRST_PAUSE
        turn = greenio.Event()
        self._waiting.append(turn)
        try:
            while True:
                left = None if deadline is None else deadline - greenio.current_time()
                if left is not None and left <= 0:
                    return self._try(me)
                # Those behind the first need not look for what other processes do.
                wait = pause if self._waiting and self._waiting[0] is turn else 10 * LONGEST_PAUSE
                woken = turn.wait(wait if left is None else min(wait, left))
                if self._try(me):
                    return True
                if woken:  # another process, or OS thread, was faster
                    turn.clear()
                    self._waiting.appendleft(turn)
                    pause = FIRST_PAUSE
                else:
                    pause = min(1.5 * pause, LONGEST_PAUSE)
        except BaseException:
            if turn.is_set():
                self._wake()  # the turn that this fiber got is the next one's
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def release(self) -> None:
        """Let it go."""
        if (
            self.kind == _RECURSIVE
            and self._owner is not None
            and greenio.can_park()
            and self._owner is not greenio.current_fiber()
        ):
            raise AssertionError("attempt to release recursive lock not owned by thread")
        self._below.release()
        if self._count() <= 0:
            self._owner = None
        self._wake()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()

    def __enter__(self) -> bool:
        return self.acquire(True, None)

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_mine(self) -> bool:
        if not self._below._is_mine():
            return False
        return self._owner is None or not greenio.can_park() or self._owner is greenio.current_fiber()

    def _after_fork(self) -> None:
        self._below._after_fork()
        self._owner = None
        self._waiting.clear()


class _PatchedAlike:
    # In what a process that is spawned, or served by a fork server, is told first of all: unpickled, it patches.
    def __reduce__(self) -> Any:
        place = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        names = tuple(greenio.monkey.patched_modules())
        return (
            exec,
            (
                f"import sys\nsys.path.append({place!r})\ntry:\n import greenio.monkey\n greenio.monkey.patch_only({names!r})\n"
                "except ImportError:\n pass\nfinally:\n sys.path.pop()",
            ),
        )


def _spawn_patched(patch: Patch, spawn: Any) -> None:
    original = spawn.get_preparation_data

    @stand_in(original)
    def get_preparation_data(name: str) -> Any:
        return {"greenio": _PatchedAlike(), **original(name)}

    for module in (
        spawn,
        sys.modules.get("multiprocessing.popen_spawn_posix"),
        sys.modules.get("multiprocessing.popen_forkserver"),
    ):
        if isinstance(module, types.ModuleType) and getattr(module, "get_preparation_data", None) is original:
            patch.replace(module, "get_preparation_data", get_preparation_data)


def _adopt(synchronize: Any) -> None:
    for each in gc.get_objects():
        if isinstance(each, synchronize.SemLock) and type(each._semlock) is _SemLock:
            each._semlock = SemLock._of(each._semlock)
            each._make_methods()


def _exit_with_fibers() -> None:
    # At the exit, multiprocessing joins the threads that feed its queues. What is registered first comes last, and where this was
    # before greenio's own these are fibers, and gone by then, with what they had to send.
    util = sys.modules.get("multiprocessing.util")
    if (leave := getattr(util, "_exit_function", None)) is not None:
        atexit.unregister(leave)
        atexit.register(leave)


def apply(patch: Patch) -> None:
    """Make the replacements."""
    _exit_with_fibers()
    patch.replace(_multiprocessing, "SemLock", SemLock, everywhere=True)
    patch.when_imported("multiprocessing.spawn", lambda spawn: _spawn_patched(patch, spawn))
    synchronize = sys.modules.get("multiprocessing.synchronize")
    if synchronize is not None:
        _adopt(synchronize)
