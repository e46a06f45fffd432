"""What was replaced in which module or class, and how it was before."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

_MISSING = object()

Owner = ModuleType | type


class Patch:
    """The replacements made for one standard module's sake, in order, so that they can be put back.

    Args:
        name: the standard module.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._replaced: list[tuple[Any, str, Any]] = []
        self._moved: dict[int, tuple[Any, Any]] = {}  # by the original's id: the original, what stands for it

    def replace(self, owner: Owner, name: str, new: Any, *, everywhere: bool = False) -> None:
        """Make *new* the attribute *name* of a module or class.

        Args:
            everywhere: also wherever else a module's global is the original: after `from time import sleep`.
        """
        original = vars(owner).get(name, _MISSING)
        self._replaced.append((owner, name, original))
        setattr(owner, name, new)
        if everywhere and original is not _MISSING:
            self._moved[id(original)] = (original, new)

    def undo_with(self, undo: Callable[[], object]) -> None:
        """Call *undo()* on the way back, between what was replaced after this and what was before."""
        self._replaced.append((undo, "", _MISSING))

    def original(self, owner: Owner, name: str) -> Any:
        """What the attribute was before; AttributeError if it was not replaced, or was not there."""
        for its_owner, its_name, original in self._replaced:
            if its_owner is owner and its_name == name and original is not _MISSING:
                return original
        raise AttributeError(name)

    def put_back(self) -> None:
        """Leave every module and class as it was."""
        while self._replaced:
            owner, name, original = self._replaced.pop()
            if not name:
                owner()
            elif original is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        self._moved.clear()


def replace_references(patches: list[Patch]) -> None:
    """Let other modules' globals that are originals be what stands for them."""
    moved = {identity: (patch, new) for patch in patches for identity, (_, new) in patch._moved.items()}
    for module in _foreign_modules():
        for name, value in list(vars(module).items()):
            if (found := moved.get(id(value))) is not None:
                patch, new = found
                patch.replace(module, name, new)


def _foreign_modules() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        # greenio's own stand on the originals, and so do those that gevent and eventlet keep for themselves.
        if isinstance(module, ModuleType) and name.partition(".")[0] not in ("greenio", "gevent", "eventlet"):
            yield module
