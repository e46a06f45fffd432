"""Waiting until something has happened to a child process; reaping it is left to whoever asked.

A process's end is waited for through a pidfd, which parks the fiber. What a pidfd does not tell — that any child of several has
ended, that one was stopped or goes on, or anything where the kernel gives no pidfd — is waited for by an OS thread of its own, in
waitid(…, WNOWAIT): it takes nothing away, so whoever asked tries again, and may be too late.

Such an OS thread is started when somebody waits, and is shared by all who wait for the same. It cannot be called off: after its
last waiter has left (cancelled), it goes on until something happens to those children, and serves whoever asks meanwhile. It
is a daemon, and is not in a forked process.

Not taken: SIGCHLD (its handler is the program's; signalfd wants it blocked in every OS thread); an OS thread for all children
(WNOWAIT tells it the same dead child again and again until somebody reaps that); /proc (misses children that are born later).
"""

import os
from collections.abc import Callable
from typing import TypeVar

from greenio._io import becomes_readable, notify_closing
from greenio._os_threads import OwnThread
from greenio._scheduler import checkpoint
from greenio._sync import Event

Result = TypeVar("Result")
Key = tuple[int, int, int]  # idtype, id and flags of waitid

_watchers: dict[Key, "_Watcher"] = {}


class Pidfd:
    """A process by its descriptor, which is open as long as this object: whoever waits refers to it, so its number stays its own."""

    def __init__(self, fd: int, pid: int) -> None:
        self.fd = fd
        self.pid = pid

    def __del__(
        self, notify_closing: Callable[[int], None] = notify_closing, close: Callable[[int], None] = os.close
    ) -> None:
        notify_closing(self.fd)
        close(self.fd)

    def __repr__(self) -> str:
        return f"process {self.pid}"

    def fileno(self) -> int:
        """The descriptor's number."""
        return self.fd

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the process has ended within *timeout* seconds; None: for ever. Parks until then.

        Raises:
            Cancelled: this fiber was cancelled.
        """
        try:
            return becomes_readable(self, None if timeout is None else max(timeout, 0.0))
        finally:
            del self  # whoever keeps an exception keeps this frame, and the descriptor would stay open


class _Watcher:
    """An OS thread in waitid, and the event that it sets."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.happened = Event()
        self.error: OSError | None = None

    def __repr__(self) -> str:
        kind, number, _ = self.key
        return {os.P_ALL: "any child", os.P_PGID: f"children of process group {number}"}.get(kind, f"process {number}")

    def work(self) -> None:
        kind, number, flags = self.key
        try:
            os.waitid(kind, number, flags | os.WNOWAIT)
        except ChildProcessError:
            pass  # who waits finds that out for themselves
        except OSError as error:
            self.error = error
        finally:
            if _watchers.get(self.key) is self:
                del _watchers[self.key]
            self.happened.set()


def open_pidfd(pid: int) -> Pidfd | None:
    """A Pidfd of the process *pid*; None: it is gone, or the kernel, a sandbox or the limit of descriptors refuses."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    return Pidfd(fd, pid)


def watch_children(kind: int, number: int, flags: int) -> _Watcher:
    """An OS thread that waits until something may have happened to the children, then sets `happened`.

    Args:
        kind, number, flags: as waitid's; *flags* has no WNOHANG.
    Raises:
        RuntimeError: an OS thread was wanted and could not be started.
    """
    key = (int(kind), int(number), int(flags))
    watcher = _watchers.get(key)
    if watcher is None:
        watcher = _Watcher(key)
        thread = OwnThread(target=watcher.work, name=f"greenio wait for {watcher!r}", daemon=True)
        _watchers[key] = watcher
        try:
            thread.start()
        except BaseException:
            if _watchers.get(key) is watcher:
                del _watchers[key]
            watcher.happened.set()  # whoever has found it meanwhile asks again
            raise
    return watcher


def wait_for_change(kind: int, number: int, flags: int, timeout: float | None = None) -> bool:
    """Park until something may have happened to the children; False when *timeout* seconds passed first.

    Raises:
        OSError: the system refuses to wait.
        Cancelled: this fiber was cancelled.
        RuntimeError: as watch_children.
    """
    watcher = watch_children(kind, number, flags)
    if not watcher.happened.wait(timeout):
        return False
    if watcher.error is not None:
        raise OSError(watcher.error.errno, watcher.error.strerror)
    return True


def wait_for_child(attempt: Callable[[], Result | None], kind: int, number: int, flags: int) -> Result:
    """What attempt() returns once that is not None; it is called again whenever something may have happened to the children.

    Args:
        attempt: a call that does not wait; it raises ChildProcessError if there is no such child.
        kind, number, flags: what it waits for, as waitid's.
    Raises:
        Cancelled: this fiber was cancelled. Nothing was reaped.
        RuntimeError: no fibers run on this OS thread; or an OS thread was wanted and could not be started.
    """
    checkpoint()
    by_pidfd = flags == os.WEXITED and kind in (os.P_PID, os.P_PIDFD)
    while True:
        found = attempt()
        if found is not None:
            return found
        pidfd = None
        if by_pidfd:
            by_pidfd = False  # if it has exited but cannot be reaped yet (a debugger holds it), the OS thread waits on
            pidfd = open_pidfd(number) if kind == os.P_PID else Pidfd(os.dup(number), number)  # closed by its end
        try:
            if pidfd is not None:
                pidfd.wait()
            else:
                wait_for_change(kind, number, flags)
        finally:
            del pidfd  # also if somebody keeps what is raised


def after_fork_in_child() -> None:
    """The OS threads did not come along."""
    _watchers.clear()


os.register_at_fork(after_in_child=after_fork_in_child)
