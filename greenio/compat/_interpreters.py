"""_interpreters: what runs in another interpreter runs in another OS thread, while the fiber parks; concurrent.interpreters and
InterpreterPoolExecutor stand on it.

CPython 3.14 measures the C stack of a new thread state by the OS thread it is made in, and each entry into another interpreter makes
one: on a fiber's stack it takes itself to be beyond the end, and a new interpreter crashes as it starts. So none is entered there. It
also gives what the program wants of them: interpreters run beside fibers, each with a GIL of its own.
"""

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import greenio
import greenio.monkey
from greenio.compat.patches import Patch, stand_in

ENTERING = ("call", "create", "destroy", "exec", "run_func", "run_string", "set___main___attrs")
_allocate_lock: Callable[[], Any] = greenio.monkey.get_original("_thread", "allocate_lock")
_start_new_thread: Callable[..., int] = greenio.monkey.get_original("_thread", "start_new_thread")
# Interpreters may wait for each other: nobody's call waits for another's end.
_limiter = greenio.ThreadLimiter(sys.maxsize)


def _outside(original: Callable[..., Any]) -> Any:
    """As *original*, in another OS thread; parks. A cancellation is held back until it has ended."""

    @stand_in(original)
    def call(*args: Any, **keywords: Any) -> Any:
        if not greenio.can_park():
            return original(*args, **keywords)
        return greenio.to_thread(functools.partial(original, *args, **keywords), limiter=_limiter)

    return call


def _outside_and_waited_for(original: Callable[..., Any]) -> Any:
    """As *original*, in another OS thread, for which this one waits: finalizers call it, in the middle of anything."""

    @stand_in(original)
    def call(*args: Any, **keywords: Any) -> Any:
        if not greenio.can_park():
            return original(*args, **keywords)
        result: list[Any] = []
        failed: list[BaseException] = []
        done = _allocate_lock()
        done.acquire()

        def run() -> None:
            try:
                result.append(original(*args, **keywords))
            except BaseException as error:
                failed.append(error)
            finally:
                done.release()

        _start_new_thread(run, ())
        done.acquire()
        if failed:
            raise failed.pop()
        return result.pop()

    return call


def apply(patch: Patch) -> None:
    """Make the replacements."""

    def changed(interpreters: ModuleType) -> None:
        for name in ENTERING:
            if (original := getattr(interpreters, name, None)) is not None:
                patch.replace(interpreters, name, _outside(original), everywhere=True)
        patch.replace(interpreters, "decref", _outside_and_waited_for(interpreters.decref), everywhere=True)

    patch.when_imported("_interpreters", changed)
