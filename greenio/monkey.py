"""The standard library parks: unchanged programs, and the libraries they use, run as fibers.

    import greenio.monkey
    greenio.monkey.patch_all()

in a program's first line, or in the middle of a running one; or `python -m greenio script.py` with nothing changed. From then on
threading.Thread makes fibers, and what blocks an OS thread parks a fiber. On an OS thread without fibers the standard functions do
what they always did.

patch_all() on the main OS thread outside of greenio.run() makes the caller a fiber, until the interpreter exits.

A distribution that has to do something of its own when a program is patched says so in its metadata, by entry points in the groups
`greenio.monkey.before` and `greenio.monkey.after`. Each names a callable, which gets the list of the standard modules that are about
to be patched, or have just been. One that fails is logged with its name; the patch goes on.

What the patch cannot reach is in docs/patching.md.
"""

import importlib
import os
import sys
from _thread import RLock
from collections.abc import Callable, Iterable
from typing import Any

import greenio
from greenio.compat.patches import Patch, replace_references, restore_references

__all__ = [
    "get_original",
    "is_patched",
    "patch__interpreters",
    "patch__thread",
    "patch_all",
    "patch_fcntl",
    "patch_io",
    "patch_multiprocessing",
    "patch_only",
    "patch_os",
    "patch_psycopg",
    "patch_psycopg2",
    "patch_queue",
    "patch_select",
    "patch_selectors",
    "patch_signal",
    "patch_socket",
    "patch_sqlite3",
    "patch_ssl",
    "patch_subprocess",
    "patch_threading",
    "patch_time",
    "patched_modules",
    "unpatch_all",
]

# In the order in which they are patched: what others build on comes first. A dotted module is written with an underscore for the
# dot where it has to be a Python name: patch_concurrent_futures.
_MODULES = (
    "time",
    "_thread",
    "threading",
    "queue",
    "select",
    "selectors",
    "socket",
    "ssl",
    "os",
    "fcntl",
    "signal",
    "io",
    "subprocess",
    "multiprocessing",
    "_interpreters",
    "sqlite3",
    "psycopg",
    "psycopg2",
)

# A Thread is made of what _thread has: neither is patched without the other.
_TOGETHER = frozenset({"_thread", "threading"})

_BEFORE = "greenio.monkey.before"
_AFTER = "greenio.monkey.after"

_lock = RLock()
_patches: dict[str, Patch] = {}
_entered: greenio.Scheduler | None = None  # what patch_all made by enter_run


def patch_all(**which: bool) -> None:
    """Patch every module that is covered, or all but those given as False: patch_all(subprocess=False).

    What is patched already stays as it is. On the main OS thread outside of greenio.run() the caller becomes a fiber, as by
    greenio.enter_run().

    Raises:
        TypeError: a name that is not covered; nothing was patched.
    """
    global _entered
    names = {_python_name(name): name for name in _MODULES}
    unknown = which.keys() - names.keys() - set(_MODULES)
    if unknown:
        raise TypeError(f"patch_all knows no {', '.join(sorted(unknown))}; it covers {', '.join(names)}")
    left_out = {name for python_name, name in names.items() if not which.get(python_name, which.get(name, True))}
    if left_out & _TOGETHER:
        left_out |= _TOGETHER
    _patch([name for name in _MODULES if name not in left_out])
    if not greenio.can_park() and _on_main_thread():
        greenio.enter_run()
        _entered = greenio.current_scheduler()


def patch_only(names: Iterable[str]) -> None:
    """Patch the modules of these names, as patch_all() does, and no others.

    Raises:
        TypeError: a name that is not covered; nothing was patched.
    """
    wanted = set(names)
    unknown = wanted - set(_MODULES)
    if unknown:
        raise TypeError(f"patch_only knows no {', '.join(sorted(unknown))}; it covers {', '.join(_MODULES)}")
    patch_all(**{_python_name(name): name in wanted for name in _MODULES})


def patch_time() -> None:
    """Patch time: sleep parks."""
    _patch(["time"])


def patch_os() -> None:
    """Patch os: what waits for descriptors, locks of files and children parks."""
    _patch(["os"])


def patch_fcntl() -> None:
    """Patch fcntl: flock and lockf park."""
    _patch(["fcntl"])


def patch_signal() -> None:
    """Patch signal: sigwait, sigwaitinfo, sigtimedwait and pause park."""
    _patch(["signal"])


def patch_io() -> None:
    """Patch io and builtins: open() of pipes, FIFOs, ttys and sockets gives files that park; input() and the standard streams park."""
    _patch(["io"])


def patch_subprocess() -> None:
    """Patch subprocess: Popen's methods and files park."""
    _patch(["subprocess"])


def patch_multiprocessing() -> None:
    """Patch multiprocessing: locks and semaphores of processes park; processes that are spawned are patched as this one."""
    _patch(["multiprocessing"])


def patch__interpreters() -> None:
    """Patch _interpreters, if it is imported now or later: what runs in another interpreter runs in another OS thread."""
    _patch(["_interpreters"])


def patch_sqlite3() -> None:
    """Patch sqlite3: waiting for a database that somebody else has locked parks."""
    _patch(["sqlite3"])


def patch__thread() -> None:
    """Patch _thread and threading: threads that fibers start are fibers, and standard locks park."""
    _patch(["_thread", "threading"])


def patch_threading() -> None:
    """Patch _thread and threading: threads that fibers start are fibers, and standard locks park."""
    _patch(["_thread", "threading"])


def patch_queue() -> None:
    """Patch queue: a SimpleQueue's get parks. The other queues are made of threading's locks, see patch_threading()."""
    _patch(["queue"])


def patch_select() -> None:
    """Patch select: select, poll and epoll park."""
    _patch(["select"])


def patch_selectors() -> None:
    """Patch selectors: select() of each class parks, in place."""
    _patch(["selectors"])


def patch_socket() -> None:
    """Patch socket: the class's methods park, in place; lookups of names park."""
    _patch(["socket"])


def patch_ssl() -> None:
    """Patch ssl: SSLSocket parks, in place."""
    _patch(["ssl"])


def patch_psycopg() -> None:
    """Patch psycopg 3, if it is imported now or later: the wait in C parks."""
    _patch(["psycopg"])


def patch_psycopg2() -> None:
    """Patch psycopg2, if it is imported now or later: a wait callback that parks, and turns on a connection."""
    _patch(["psycopg2"])


def _patch(names: list[str]) -> None:
    with _lock:
        wanted = [name for name in names if name not in _patches]
        if not wanted:
            return
        appliers: list[tuple[str, Callable[[Patch], None]]] = [
            (name, importlib.import_module(f"greenio.compat.{_python_name(name)}").apply) for name in wanted
        ]
        groups = _groups_there()
        if _BEFORE in groups:
            _call_entry_points(_BEFORE, wanted)
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
        if _AFTER in groups:
            _call_entry_points(_AFTER, wanted)


def unpatch_all() -> None:
    """Put everything back as it was before the first patch. Objects made meanwhile stay what they are.

    The run that patch_all() entered ends as well, by greenio.leave_run().

    Raises:
        RuntimeError: in that run other fibers are alive than the main one, or the caller is not that; nothing was put back.
    """
    global _entered
    with _lock:
        scheduler = _entered if _entered is not None and not _entered.closed else None
        if scheduler is not None:
            _check_alone(scheduler)
        restore_references(list(_patches.values()))
        for name in reversed(list(_patches)):
            _patches.pop(name).put_back()
        _entered = None
        if scheduler is not None:
            greenio.leave_run()


def is_patched(module: str) -> bool:
    """Whether *module* ("socket", "concurrent.futures", …) is patched."""
    return module in _patches


def patched_modules() -> list[str]:
    """The names of the modules that are patched, in the order in which they were."""
    return list(_patches)


def get_original(module: str, name: str) -> Any:
    """The real thing, patched or not: get_original("time", "sleep"); of a class's, get_original("threading", "Thread.start").

    get_original("threading", "Thread") makes OS threads.

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


def _python_name(module: str) -> str:
    return module.replace(".", "_")


def _on_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def _check_alone(scheduler: greenio.Scheduler) -> None:
    try:
        here: greenio.Fiber[Any] | None = greenio.current_fiber()
    except RuntimeError:
        here = None
    if here is not scheduler.main:
        raise RuntimeError(
            "unpatch_all() ends the run that patch_all() began, and is for its main fiber; this is "
            + ("an OS thread without fibers" if here is None else repr(here))
        )
    others = [fiber.name for fiber in scheduler.fibers() if fiber is not here]
    if others:
        raise RuntimeError(
            f"unpatch_all() while {len(others)} other fibers are alive: {', '.join(others[:10])}; join or cancel them first"
        )


# --- entry points ----------------------------------------------------------------------------------------------------


def _groups_there() -> set[str]:
    """Which of our groups any distribution has, or might have.

    importlib.metadata takes longer to import, and to look, than the whole patch. Nearly always there is no such group: for
    distributions in plain directories a search in their entry_points.txt says so.
    """
    both = {_BEFORE, _AFTER}
    if any(
        hasattr(finder, "find_distributions") and getattr(finder, "__name__", "") != "PathFinder"
        for finder in sys.meta_path
    ):
        return both
    found: set[str] = set()
    for folder in sys.path:
        try:
            entries = os.listdir(folder or ".")
        except NotADirectoryError:
            return both  # a zip file, which may hold one
        except OSError:
            continue
        for entry in entries:
            if entry.endswith((".dist-info", ".egg-info")):
                found |= {group for group in both if group.encode() in _entry_points_text(folder, entry)}
            elif entry.endswith(".egg"):
                return both
    return found


def _entry_points_text(folder: str, entry: str) -> bytes:
    try:
        descriptor = os.open(f"{folder or '.'}/{entry}/entry_points.txt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(descriptor, 1 << 16), b""))
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _call_entry_points(group: str, names: list[str]) -> None:
    from importlib.metadata import entry_points

    for point in entry_points(group=group):
        try:
            point.load()(list(names))
        except Exception:
            import logging

            logging.getLogger("greenio").exception(
                "the entry point %s = %s in %s failed", point.name, point.value, group
            )
