"""What is said when a run stands still: one log record that names the fiber, what it sits in, and its Python stack.

The monitor thread notices (monitor.h), an assistant thread comes here with the GIL. So a fiber that holds the GIL in a C call is told
of when it lets it go, if it stalls still.

A record is written once the stall has lasted `stall_after` seconds, and again each time that it has doubled. Of stalls at the same
place in the program the first is told, then the second, the fourth and so on, or one a minute.
"""

import contextlib
import os
import threading
import time
from typing import Any

from greenio._scheduler import Fiber, Scheduler

MINUTE = 60.0
PLACES = 1000  # kept in mind; then all are forgotten

_stalls = 0
_records = 0
_handoffs = 0
_longest = 0.0
_present: dict[Scheduler, tuple[int, bool]] = {}  # of each run: its newest stall, and whether that one is told
_places: dict[object, tuple[int, float]] = {}  # by place in the program: stalls there, and when one was told last


def stall_stats() -> dict[str, Any]:
    """How often runs stood still.

    Returns:
        stalls: times that no fiber was switched to for `stall_after` seconds though one could run; records: log records written
        about them; handoffs: how many of them ended by another OS thread that runs the other fibers (run(stall="handoff")); longest:
        seconds that the longest had lasted when it was looked at.
    """
    return {"stalls": _stalls, "records": _records, "handoffs": _handoffs, "longest": _longest}


def tell(
    scheduler: Scheduler, fiber: Fiber, seconds: float, call: tuple[int, str | None, int], which: int, beside: bool
) -> None:
    """Note that *scheduler* stands still, and log it if it is time to: what _scheduler.tell_stalls_to is given."""
    global _stalls, _records, _handoffs, _longest
    _longest = max(_longest, seconds)
    stack = fiber.stack
    last = stack[-1] if stack else None
    place = (last.filename, last.lineno) if last is not None else fiber.spawned_at or fiber.name
    present, told = _present.get(scheduler, (0, False))
    _handoffs += beside
    if present != which:
        _stalls += 1
        told = _is_worth_telling(place)
        for each in list(_present):
            if each.closed:
                _present.pop(each, None)
        _present[scheduler] = (which, told)
    if not told:
        return
    _records += 1
    began = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
    text = "".join(stack.format()).rstrip()
    others = "the others run beside it now, on another OS thread" if beside else f"{_others(scheduler)} could run"
    _log(
        "the run has stood still for %.3f s, since %s: fiber %d (%s) %s, and %s\n%s",
        *(seconds, began, fiber.id, fiber.name, describe_call(call), others, text or "  (no Python stack)"),
    )


def _is_worth_telling(place: object) -> bool:
    count, told = _places.get(place, (0, -MINUTE))
    now = time.monotonic()
    count += 1
    worth = count & (count - 1) == 0 or now - told >= MINUTE
    if len(_places) >= PLACES:
        _places.clear()
    _places[place] = (count, now if worth else told)
    return worth


def _log(text: str, *values: object) -> None:
    import logging  # not at the start of each program, most of which need none

    before = threading.get_ident() in threading._active  # type: ignore[attr-defined]
    try:
        logging.getLogger("greenio").warning(text, *values)
    finally:
        # The record asks for the thread's name, and threading remembers a stranger for ever.
        if not before:
            threading._active.pop(threading.get_ident(), None)  # type: ignore[attr-defined]


def _others(scheduler: Scheduler) -> str:
    ready = scheduler.ready_count
    if ready == 0:
        return "others"
    return "one fiber" if ready == 1 else f"{ready} fibers"


def describe_call(call: tuple[int, str | None, int]) -> str:
    """In words, what tell_stalls_to says of a system call."""
    number, name, descriptor = call
    if number == -2:
        return "did not come back"
    if number == -1:
        return "computes"
    if name == "futex":
        return "waits for a lock outside of greenio, or for the GIL (system call futex)"
    text = f"sits in the system call {name or number}"
    return text if descriptor < 0 else f"{text} on {describe_descriptor(descriptor)}"


def describe_descriptor(descriptor: int) -> str:
    """What a descriptor is open on: a path, or a socket's kind and peer."""
    try:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return f"descriptor {descriptor}"
    if target.startswith("socket:"):
        import socket

        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            kinds = {socket.SOCK_STREAM: "TCP socket", socket.SOCK_DGRAM: "UDP socket"}
            kind = "Unix socket" if one.family == socket.AF_UNIX else kinds.get(one.type, "socket")
            target = _describe_socket(kind, one)
    return f"descriptor {descriptor} ({target})"


def _describe_socket(kind: str, one: Any) -> str:
    try:
        return f"{kind} to {_address(one.getpeername())}"
    except OSError:
        return f"{kind} at {_address(one.getsockname())}"


def _address(address: object) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return repr(address) if address else "nobody named"


def _after_fork_in_child() -> None:
    _present.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
