"""greenio: ordinary blocking Python, run as fibers.

A fiber is a Python thread without the kernel thread: a C stack of its own, a Python thread state of its own, and a switch that is a
handful of instructions. `run(main)` starts the first one, `spawn(fn, *args)` the others; what would block parks the fiber,
and the next one runs.
"""

import os as _os
import sys as _sys
from importlib import import_module as _import_module
from threading import BrokenBarrierError, local
from typing import TYPE_CHECKING as _TYPE_CHECKING

if (
    _sys.platform != "linux"
    or _os.uname().machine != "x86_64"
    or _sys.implementation.name != "cpython"
    or not (3, 11) <= _sys.version_info[:2] <= (3, 15)
    or "t" in _sys.abiflags  # a free-threaded build; what is compiled for it is not this, even while its GIL is on
    or not getattr(_sys, "_is_gil_enabled", lambda: True)()
):
    import platform as _platform

    raise ImportError(
        "greenio supports CPython 3.11 to 3.15 with the GIL on Linux on x86-64; this is "
        f"{_platform.python_implementation()} {_platform.python_version()}{' (free-threaded)' if 't' in _sys.abiflags else ''}"
        f" on {_platform.system()} on {_os.uname().machine}"
    )

from greenio import from_thread, socket
from greenio._broadcast import Broadcast, Subscription
from greenio._channels import Channel, ChannelStatistics, receiving, sending
from greenio._connect import connect_tcp, connect_unix
from greenio._errors import (
    Cancelled,
    ChannelClosed,
    DeadlockError,
    GreenioError,
    IncompleteReadError,
    InternalError,
    LimitExceeded,
    RunFinishedError,
    WouldBlock,
)
from greenio._files import open, wrap_file
from greenio._groups import FiberPoolExecutor, as_completed, wait
from greenio._io import FdIO, notify_closing, wait_priority, wait_readable, wait_writable
from greenio._lookups import configure_lookups
from greenio._queues import LifoQueue, PriorityQueue, Queue, QueueStatistics, ShutDown, SimpleQueue
from greenio._run import enter_run, leave_run, run
from greenio._scheduler import (
    Clock,
    Fiber,
    Schedule,
    Scheduler,
    can_park,
    checkpoint,
    current_fiber,
    current_scheduler,
    on_big_stack,
    spawn,
    yield_now,
)
from greenio._scopes import (
    CancelScope,
    Timeout,
    current_deadline,
    move_on_after,
    move_on_at,
    shield,
    timeout,
    timeout_at,
)
from greenio._sections import atomic, pin
from greenio._select import Selected, after, at, readable, writable
from greenio._server import DrainReport, Listener, Server, ServerStatistics, listen_tcp, listen_unix, serve
from greenio._signals import SignalSubscription, signals
from greenio._streams import Stream, StreamStatistics
from greenio._sync import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore
from greenio._task_groups import TaskGroup
from greenio._threads import ThreadLimiter, configure_threads, current_default_limiter, to_thread
from greenio._time import current_time, sleep, sleep_until

_LATE = frozenset({"io", "os", "selectors", "ssl", "subprocess"})

if _TYPE_CHECKING:
    from greenio import io, os, selectors, ssl, subprocess
    from greenio._select_module import SelectModule as _SelectModule

    select: _SelectModule  # a module that can be called, which type checkers do not know
else:
    from greenio import select  # type: ignore[assignment]

    def _late(name: str) -> object:
        """A mirror that loads much, OpenSSL among it: when it is asked for."""
        if name in _LATE:
            return _import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    # Not by `def`, which type checkers see here as well: they would take any name for one of ours.
    globals()["__getattr__"] = _late


__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Broadcast",
    "BrokenBarrierError",
    "CancelScope",
    "Cancelled",
    "Channel",
    "ChannelClosed",
    "ChannelStatistics",
    "Clock",
    "Condition",
    "DeadlockError",
    "DrainReport",
    "Event",
    "FdIO",
    "Fiber",
    "FiberPoolExecutor",
    "GreenioError",
    "IncompleteReadError",
    "InternalError",
    "LifoQueue",
    "LimitExceeded",
    "Listener",
    "Lock",
    "PriorityQueue",
    "Queue",
    "QueueStatistics",
    "RLock",
    "RunFinishedError",
    "Schedule",
    "Scheduler",
    "Selected",
    "Semaphore",
    "Server",
    "ServerStatistics",
    "ShutDown",
    "SignalSubscription",
    "SimpleQueue",
    "Stream",
    "StreamStatistics",
    "Subscription",
    "TaskGroup",
    "ThreadLimiter",
    "Timeout",
    "WouldBlock",
    "after",
    "as_completed",
    "at",
    "atomic",
    "can_park",
    "checkpoint",
    "configure_lookups",
    "configure_threads",
    "connect_tcp",
    "connect_unix",
    "current_deadline",
    "current_default_limiter",
    "current_fiber",
    "current_scheduler",
    "current_time",
    "enter_run",
    "from_thread",
    "io",
    "leave_run",
    "listen_tcp",
    "listen_unix",
    "local",
    "move_on_after",
    "move_on_at",
    "notify_closing",
    "on_big_stack",
    "open",
    "os",
    "pin",
    "readable",
    "receiving",
    "run",
    "select",
    "selectors",
    "sending",
    "serve",
    "shield",
    "signals",
    "sleep",
    "sleep_until",
    "socket",
    "spawn",
    "subprocess",
    "ssl",
    "timeout",
    "timeout_at",
    "to_thread",
    "wait",
    "wait_priority",
    "wait_readable",
    "wait_writable",
    "wrap_file",
    "writable",
    "yield_now",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
