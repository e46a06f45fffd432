"""What was replaced in which module or class, and how it was before."""

import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any

_MISSING = object()

Owner = ModuleType | type


def stand_in(original: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: the function looks like *original*, and as an attribute of a class it does not become a method if that would not.

    `class Reader: _read = os.read` is common, and self._read(fd, 1) has two arguments.
    """

    def decorated(fn: Callable[..., Any]) -> Any:
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(fn, name, getattr(original, name))
        return fn if isinstance(original, FunctionType) else _Builtin(fn)

    return decorated


class _Builtin(staticmethod):  # type: ignore[type-arg]
    # Like a built-in function it can be called, never becomes a method, and is pickled and copied by its name.
    def __reduce__(self) -> str:
        return str(self.__qualname__)

    def __repr__(self) -> str:
        return f"<built-in function {self.__name__}>"


class Patch:
    """The replacements made for one standard module's sake, in order, so that they can be put back.

    Args:
        name: the standard module.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._replaced: list[tuple[Any, str, Any]] = []
        self._moved: dict[int, tuple[Any, Any]] = {}  # by the original's id: the original, what stands for it
        self._known: list[tuple[Any, str, Any]] = []  # what get_original gives besides, and has nothing to put back

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

    def when_imported(self, name: str, change: Callable[[ModuleType], None]) -> None:
        """Call change(module) with the module *name*: now if it is imported already, else right after it will be."""
        module = sys.modules.get(name)
        if module is not None:
            change(module)
            return
        finder = _Finder(name, change)
        sys.meta_path.insert(0, finder)
        self.undo_with(finder.remove)

    def keep(self, owner: Owner, name: str, original: Any) -> None:
        """Of an attribute that changes in place: what get_original() gives for it."""
        self._known.append((owner, name, original))

    def original(self, owner: Owner, name: str) -> Any:
        """What the attribute was before; AttributeError if it was not replaced, or was not there."""
        for its_owner, its_name, original in [*self._known, *self._replaced]:
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
        self._known.clear()


def replace_references(patches: list[Patch]) -> None:
    """Let other modules' globals that are originals be what stands for them."""
    moved = {identity: (patch, new) for patch in patches for identity, (_, new) in patch._moved.items()}
    for module in _foreign_modules():
        for name, value in list(vars(module).items()):
            if (found := moved.get(id(value))) is not None:
                patch, new = found
                patch.replace(module, name, new)


def restore_references(patches: list[Patch]) -> None:
    """Let globals be originals again that modules took from a patched one since: by `from time import sleep` after the patch."""
    moved = {id(new): original for patch in patches for original, new in patch._moved.values()}
    for module in _foreign_modules():
        for name, value in list(vars(module).items()):
            if id(value) in moved:
                setattr(module, name, moved[id(value)])


def _foreign_modules() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        # greenio's own stand on the originals, and so do those that gevent and eventlet keep for themselves.
        if isinstance(module, ModuleType) and name.partition(".")[0] not in ("greenio", "gevent", "eventlet"):
            yield module


class _Finder:
    """On sys.meta_path until the module *name* is imported: finds it where the others do, and sees its import to the end."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self.name = name
        self.change = change

    def remove(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        for finder in list(sys.meta_path):
            find = None if isinstance(finder, _Finder) and finder.name == name else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    self._add_to(spec.loader)
                return spec
        return None

    def _add_to(self, loader: Any) -> None:
        # An attribute of this one loader, which loads this one module.
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            load(module)
            if self in sys.meta_path:  # else unpatched since
                self.remove()
                self.change(module)

        loader.exec_module = exec_module
