"""What the program is doing: every fiber with its stack and what it waits for, and the memory that stacks take."""

import sys
from typing import Any, TextIO

from greenio import _scheduler, _switch
from greenio._scheduler import Fiber, describe_fiber

__all__ = ["dump", "fibers", "format_stacks", "set_stack_pool", "stack_stats"]


def fibers() -> list[Fiber]:
    """Every fiber that has not ended, of all OS threads' schedulers, oldest first within each."""
    return [fiber for scheduler in _scheduler.live_schedulers() for fiber in scheduler.fibers()]


def format_stacks() -> str:
    """A text for a person: each fiber, what it waits for and since when, where it was spawned, and its Python stack."""
    alive = fibers()
    if not alive:
        return "no fibers\n"
    return "\n".join(describe_fiber(fiber) for fiber in alive)


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
        guard and data area), in_use_peak, high_water (most kept warm), acquired_total, reused_total, given_back_total
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
