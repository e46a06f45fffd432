"""Patching a module that may not be imported yet, without importing it."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from greenio.compat.patches import Patch

_Patcher = Callable[[ModuleType], None]


def when_imported(patch: Patch, name: str, fn: _Patcher) -> None:
    """Call fn(module) once the module *name* is there: now, or at the end of its import, before whoever imports it sees it.

    An error that fn raises is the import's. With the patch's end, fn is forgotten.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        fn(module)
        return
    finder = _Finder(name, fn)
    patch.undo_with(finder.forget)
    sys.meta_path.insert(0, finder)


class _Finder:
    """In sys.meta_path until the module is imported: finds it as the others do, and gives it a loader that calls fn."""

    def __init__(self, name: str, fn: _Patcher) -> None:
        self.name = name
        self.fn = fn

    def forget(self) -> bool:
        """Whether it was still there."""
        there = self in sys.meta_path
        if there:
            sys.meta_path.remove(self)
        return there

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            # Another one of ours for the same module finds it through those behind it, so that each gets its turn.
            if finder is self or find_spec is None:
                continue
            spec: ModuleSpec | None = find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """As the real loader, which it gives back to the module before it calls fn."""

    def __init__(self, real: Loader, finder: _Finder) -> None:
        self._real = real
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        module.__loader__ = self._real
        self._real.exec_module(module)
        if self._finder.forget():
            self._finder.fn(module)
