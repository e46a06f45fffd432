"""The standard library parks: unchanged programs, and the libraries they use, run as fibers.

    import greenio.monkey
    greenio.monkey.patch_all()

in a program's first line, or in the middle of a running one; or `python -m greenio script.py` with nothing changed. From then on
threading.Thread makes fibers, and what blocks an OS thread parks a fiber. On an OS thread without fibers the standard functions do
what they always did.

patch_all() on the main OS thread outside of greenio.run() makes the caller a fiber, until the interpreter exits.
"""

import importlib
import threading
from collections.abc import Callable
from typing import Any

import greenio
from greenio.compat.patches import Patch, replace_references

__all__ = ["get_original", "is_patched", "patch_all", "patched_modules", "unpatch_all"]

# In the order in which they are patched: what others build on comes first.
_MODULES = (
    "time",
    "psycopg",
    "psycopg2",
)

_patches: dict[str, Patch] = {}


def patch_all(**which: bool) -> None:
    """Patch every module that is covered, or all but those given as False: patch_all(subprocess=False).

    What is patched already stays as it is. On the main OS thread outside of greenio.run() the caller becomes a fiber, as by
    greenio.enter_run().

    Raises:
        TypeError: a name that is not covered; nothing was patched.
    """
    unknown = which.keys() - set(_MODULES)
    if unknown:
        raise TypeError(f"patch_all knows no {', '.join(sorted(unknown))}; it covers {', '.join(_MODULES)}")
    _patch([name for name in _MODULES if which.get(name, True)])
    if not greenio.can_park() and threading.current_thread() is threading.main_thread():
        greenio.enter_run()


def patch_time() -> None:
    """Patch time: sleep parks."""
    _patch(["time"])


def patch_psycopg() -> None:
    """Patch psycopg 3, if it is imported now or later: the wait in C parks."""
    _patch(["psycopg"])


def patch_psycopg2() -> None:
    """Patch psycopg2, if it is imported now or later: a wait callback that parks, and turns on a connection."""
    _patch(["psycopg2"])


def _patch(names: list[str]) -> None:
    wanted = [name for name in names if name not in _patches]
    appliers: list[tuple[str, Callable[[Patch], None]]] = [
        (name, importlib.import_module(f"greenio.compat.{name.replace('.', '_')}").apply) for name in wanted
    ]
    made: list[Patch] = []
    try:
        for name, apply in appliers:
            patch = Patch(name)
            made.append(patch)
            apply(patch)
        replace_references(made)
    except BaseException:
        for patch in reversed(made):
            patch.put_back()
        raise
    _patches.update({patch.name: patch for patch in made})


def unpatch_all() -> None:
    """Put everything back as it was before the first patch. Objects made meanwhile stay what they are."""
    for name in reversed(list(_patches)):
        _patches.pop(name).put_back()


def is_patched(module: str) -> bool:
    """Whether *module* ("socket", …) is patched."""
    return module in _patches


def patched_modules() -> list[str]:
    """The names of the modules that are patched, in the order in which they were."""
    return list(_patches)


def get_original(module: str, name: str) -> Any:
    """The real thing, patched or not: get_original("time", "sleep"); of a class's, get_original("threading", "Thread.start").

    Raises:
        AttributeError, ImportError: there is no such thing.
    """
    owner: Any = importlib.import_module(module)
    *classes, name = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    for patch in _patches.values():
        try:
            return patch.original(owner, name)
        except AttributeError:
            continue
    return getattr(owner, name)
