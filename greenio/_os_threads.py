"""OS threads, whatever threading makes of its own: greenio's pool, its watchers, and what get_original("threading", "Thread") gives."""

import threading

from greenio._standard_threads import blocking_here, count_own_thread


class OSThread(threading.Thread):
    """A threading.Thread that is an OS thread, also where threading makes fibers."""

    is_os_thread = True  # start_new_thread() and start_joinable_thread() look for it

    def start(self) -> None:
        """Start the OS thread and wait, without parking, until it runs: no fiber runs in between."""
        with blocking_here():
            super().start()


class OwnThread(OSThread):
    """An OS thread of greenio's, which the program has not started: _thread._count() leaves it out."""

    _counted = False

    def start(self) -> None:
        """As OSThread.start."""
        self._counted = True
        count_own_thread(1)
        try:
            super().start()
        except BaseException:
            if not self._started.is_set():  # type: ignore[attr-defined]
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
