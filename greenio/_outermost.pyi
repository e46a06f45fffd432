# What _outermost.pyx gives to Python.
from collections.abc import Callable
from typing import Any, Final, TypeVar, TypeVarTuple

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")

COMMAND_IS_DEDENTED: Final[bool]
FILE_GOES_FIRST: Final[bool]

def call_outermost(fn: Callable[[*_Arguments], _Result], *args: *_Arguments) -> _Result: ...
def run_file(fd: int, name: str, globals: dict[str, Any]) -> None: ...
def run_stdin(globals: dict[str, Any]) -> None: ...
def print_outermost(exception: BaseException) -> None: ...
