"""What the program is doing: every fiber with its stack, who waits for whom, and the memory that stacks take.

From outside, ``run(main, dump_signal=signal.SIGUSR1)`` or GREENIO_DUMP_SIGNAL=USR1 in the environment make ``kill -USR1`` write
the same to the standard error, even while a fiber sits in a C call: see greenio.run.
"""

import sys
from typing import Any, TextIO

from greenio import _scheduler, _switch
from greenio._explain import Node, WaitGraph, format_stacks, wait_graph_of
from greenio._explain import live_fibers as fibers
from greenio._lookups import lookup_stats
from greenio._threads import thread_stats
from greenio._watch import stall_stats

__all__ = [
    "Node",
    "WaitGraph",
    "dump",
    "fibers",
    "format_stacks",
    "lookup_stats",
    "set_stack_pool",
    "stack_stats",
    "stall_stats",
    "thread_stats",
    "wait_graph",
]


def wait_graph() -> WaitGraph:
    """Who waits for whom, now: a node for each fiber that has not ended, of all OS threads' runs.

    Works from any fiber and any OS thread, and needs no deadlock: ``wait_graph().cycles()`` finds the fibers that wait for one
    another in a circle while others go on. An object that fibers wait on says who must act first by an attribute `owner` (a
    Fiber, or an OS thread's ident) or `owners` (several, all of them needed); greenio's locks do, and so may yours.

    Returns:
        A WaitGraph; str() of it is a text for a person.
    """
    return wait_graph_of(_scheduler.live_schedulers())


def dump(file: TextIO | None = None) -> None:
    """Write `format_stacks` to *file*, by default the standard error."""
    print(format_stacks(), file=sys.stderr if file is None else file, end="", flush=True)


def stack_stats() -> dict[str, Any]:
    """The memory that fibers' stacks take.

    Returns:
        guard: what a new stack is guarded with, "madvise", "mprotect" or "canary"; overflowing: fibers that ran out of
        C stack and have not come back up; then sums over all sizes of
        in_use, pooled (finished, kept warm), cold (address space only), slabs, reserved_bytes (address space);
        and sizes: a list with the same and more for each size of stack: stack_bytes (usable), slot_bytes (with
        guard and data area), in_use_peak, high_water (most kept warm for good), acquired_total, reused_total, given_back_total
        (times that pages went back to the kernel), guards (slots by kind).
    """
    sizes = _switch.stack_classes()
    sums = {key: sum(row[key] for row in sizes) for key in ("in_use", "pooled", "cold", "slabs", "reserved_bytes")}
    return {"guard": _switch.guard_kind(), "overflowing": _switch.overflowing(), **sums, "sizes": sizes}


def set_stack_pool(slots: int) -> None:
    """Keep at most *slots* finished stacks of each size warm for the next fibers, and give back what is above now.

    Raises:
        ValueError: *slots* < 0.
    """
    _switch.set_stack_pool(slots)
