"""OS threads, whatever threading makes of its own: greenio's pool, its watchers, and what get_original("threading", "Thread") gives."""

import os
import threading
from _thread import allocate_lock
from typing import Any

from greenio._standard_threads import blocking_here, count_own_thread


class OSThread(threading.Thread):
    """A threading.Thread that is an OS thread, also where threading makes fibers."""

    is_os_thread = True  # start_new_thread() and start_joinable_thread() look for it

    def start(self) -> None:
        """Start the OS thread and wait, without parking, until it runs: no fiber runs in between."""
        with blocking_here():
            super().start()


class _Begun:
    """threading.Event, as far as Thread.start() needs it. It also lets go whom a signal handler has forked meanwhile: the thread is in
    the other process, and nobody would say here that it has begun.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self._flag = False
        self._lock = allocate_lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        return self._flag

    def set(self) -> None:
        if not self._flag:
            self._flag = True
            self._lock.release()

    def wait(self) -> None:
        while not self._flag and os.getpid() == self.process:
            self._lock.acquire(timeout=_LOOK_FOR_FORK)

    def _at_fork_reinit(self) -> None:
        pass


_LOOK_FOR_FORK = 0.05  # seconds; in the process that did not fork, whoever waits is woken


class OwnThread(OSThread):
    """An OS thread of greenio's, which the program has not started: _thread._count() leaves it out."""

    _counted = False
    _handle: Any  # since CPython 3.13

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._started: Any = _Begun()

    def start(self) -> None:
        """As OSThread.start. In a child that a signal handler forks meanwhile, it returns, and there is no such thread."""
        self._counted = True
        process = self._started.process = os.getpid()
        count_own_thread(1)
        try:
            try:
                super().start()
            except RuntimeError:
                if os.getpid() == process or not hasattr(self, "_handle"):
                    raise
                # A child: early releases of CPython 3.13 take there whatever was about to begin for ended.
                self._handle = type(self._handle)()
                super().start()
        except BaseException:
            if not self._started.is_set():
                self._leave_count()
            raise

    def run(self) -> None:
        """Do the work."""
        try:
            super().run()
        finally:
            self._leave_count()

    def _leave_count(self) -> None:
        if self._counted:
            self._counted = False
            count_own_thread(-1)
