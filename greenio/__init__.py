"""greenio: ordinary blocking Python, run as fibers.

A fiber is a Python thread without the kernel thread: a C stack of its own, a Python thread state of its own, and a switch that is a
handful of instructions. `run(main)` starts the first one, `spawn(fn, *args)` the others; what would block parks the fiber,
and the next one runs.
"""

import platform as _platform
import sys as _sys
from threading import BrokenBarrierError, local

if (
    _sys.platform != "linux"
    or _platform.machine() != "x86_64"
    or _sys.implementation.name != "cpython"
    or not (3, 11) <= _sys.version_info[:2] <= (3, 15)
    or not getattr(_sys, "_is_gil_enabled", lambda: True)()
):
    raise ImportError(
        "greenio supports CPython 3.11 to 3.15 with the GIL on Linux on x86-64; this is "
        f"{_platform.python_implementation()} {_platform.python_version()} on {_platform.system()} on {_platform.machine()}"
    )

from greenio import socket, ssl
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
from greenio._groups import FiberPoolExecutor, as_completed, wait
from greenio._queues import LifoQueue, PriorityQueue, Queue, QueueStatistics, ShutDown, SimpleQueue
from greenio._run import run
from greenio._scheduler import (
    Clock,
    Fiber,
    Schedule,
    Scheduler,
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
from greenio._select import Selected, after, at, readable, select, writable
from greenio._server import DrainReport, Listener, Server, ServerStatistics, listen_tcp, listen_unix, serve
from greenio._streams import Stream, StreamStatistics
from greenio._sync import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore
from greenio._task_groups import TaskGroup
from greenio._time import current_time, sleep, sleep_until

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
    "SimpleQueue",
    "Stream",
    "StreamStatistics",
    "Subscription",
    "TaskGroup",
    "Timeout",
    "WouldBlock",
    "after",
    "as_completed",
    "at",
    "checkpoint",
    "connect_tcp",
    "connect_unix",
    "current_deadline",
    "current_fiber",
    "current_scheduler",
    "current_time",
    "listen_tcp",
    "listen_unix",
    "local",
    "move_on_after",
    "move_on_at",
    "on_big_stack",
    "readable",
    "receiving",
    "run",
    "select",
    "sending",
    "serve",
    "shield",
    "sleep",
    "sleep_until",
    "socket",
    "spawn",
    "ssl",
    "timeout",
    "timeout_at",
    "wait",
    "writable",
    "yield_now",
]
