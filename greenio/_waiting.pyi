# What _waiting.pyx gives to Python: the classes that select's cases derive from.
from typing import Any, Final

__pyx_capi__: Final[dict[str, Any]]  # what other extension modules import

class Case:
    @property
    def value(self) -> object: ...

class Selectable: ...
