# What _lookups.pyx gives to Python.
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from greenio._threads import Job

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")

class Lookup(Job): ...

def look_up(fn: Callable[[*_Arguments], _Result], *args: *_Arguments) -> _Result: ...
def configure_lookups(*, max_threads: int | None = None, max_queued: int | None = None) -> None: ...
def lookup_stats() -> dict[str, int | None]: ...
