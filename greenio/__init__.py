"""greenio: ordinary blocking Python, run as fibers.

A fiber is a Python thread without the kernel thread: a C stack of its own, a Python thread state of its own, and a switch that is a
handful of instructions. `run(main)` starts the first one, `spawn(fn, *args)` the others; what would block parks the fiber,
and the next one runs.
"""

import platform as _platform
import sys as _sys

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

from greenio import socket
from greenio._errors import (
    Cancelled,
    ChannelClosed,
    DeadlockError,
    GreenioError,
    InternalError,
    RunFinishedError,
    WouldBlock,
)
from greenio._groups import FiberPoolExecutor, as_completed, wait
from greenio._run import run
from greenio._scheduler import (
    Clock,
    Fiber,
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
from greenio._task_groups import TaskGroup
from greenio._time import current_time, sleep, sleep_until

__all__ = [
    "CancelScope",
    "Cancelled",
    "ChannelClosed",
    "Clock",
    "DeadlockError",
    "Fiber",
    "FiberPoolExecutor",
    "GreenioError",
    "InternalError",
    "RunFinishedError",
    "Scheduler",
    "TaskGroup",
    "Timeout",
    "WouldBlock",
    "as_completed",
    "checkpoint",
    "current_deadline",
    "current_fiber",
    "current_scheduler",
    "current_time",
    "move_on_after",
    "move_on_at",
    "on_big_stack",
    "run",
    "shield",
    "sleep",
    "sleep_until",
    "socket",
    "spawn",
    "timeout",
    "timeout_at",
    "wait",
    "yield_now",
]
