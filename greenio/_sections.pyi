# What _sections.pyx gives to Python.
from types import TracebackType
from typing import Never

class Pin:
    def __init__(self, *args: Never, **kwargs: Never) -> None: ...  # pin() returns the one there is
    def __enter__(self) -> None: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

class Atomic:
    def __init__(self, *args: Never, **kwargs: Never) -> None: ...  # atomic() returns the one there is
    def __enter__(self) -> None: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

def pin() -> Pin: ...
def atomic() -> Atomic: ...
