"""_interpreters: what runs in another interpreter runs in another OS thread, while the fiber parks; concurrent.interpreters and
InterpreterPoolExecutor stand on it.

CPython 3.14 measures the C stack of a new thread state by the OS thread it is made in, and each entry into another interpreter makes
one: on a fiber's stack it takes itself to be beyond the end, and a new interpreter crashes as it starts. So none is entered there. It
also gives what the program wants of them: interpreters run beside fibers, each with a GIL of its own.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import greenio
import greenio.monkey
from greenio.compat.patches import Patch, stand_in

ENTERING = ("call", "create", "destroy", "exec", "run_func", "run_string", "set___main___attrs")
_thread = importlib.import_module("_thread")
_allocate_lock: Callable[[], Any] = greenio.monkey.get_original("_thread", "allocate_lock")
_start_new_thread: Callable[..., int] = greenio.monkey.get_original("_thread", "start_new_thread")
_set_name: Callable[[str], None] | None = None
_get_name: Callable[[], str] | None = None
if hasattr(_thread, "set_name") and hasattr(_thread, "_get_name"):  # since CPython 3.14
    _set_name = greenio.monkey.get_original("_thread", "set_name")
    _get_name = greenio.monkey.get_original("_thread", "_get_name")
# Interpreters may wait for each other: nobody's call waits for another's end.
_limiter = greenio.ThreadLimiter(sys.maxsize)


def _named(name: str, fn: Callable[[], Any]) -> Any:
    # The kernel has the name of the thread whose call it is.
    assert _set_name is not None and _get_name is not None
    before = _get_name()
    _set_name(name)
    try:
        return fn()
    finally:
        _set_name(before)


def _outside(original: Callable[..., Any]) -> Any:
    """As *original*, in another OS thread; parks. A cancellation is held back until it has ended."""

    @stand_in(original)
    def call(*args: Any, **keywords: Any) -> Any:
        if not greenio.can_park():
            return original(*args, **keywords)
        here = functools.partial(original, *args, **keywords)
        if _set_name is not None:
            here = functools.partial(_named, _thread._get_name(), here)
        return greenio.to_thread(here, limiter=_limiter)

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
        decref = interpreters.decref
        patch.replace(interpreters, "decref", _outside_and_waited_for(decref), everywhere=True)
        # Its finalizer's default is the original, if it came first.
        if (above := sys.modules.get("concurrent.interpreters")) is not None:
            defaults: dict[str, Any] = above.Interpreter._decref.__kwdefaults__ or {}
            for name in [name for name, value in defaults.items() if value is decref]:
                defaults[name] = interpreters.decref
                patch.undo_with(functools.partial(defaults.__setitem__, name, decref))

    patch.when_imported("_interpreters", changed)
