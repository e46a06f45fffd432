"""OS threads, whatever threading makes of its own: greenio's pool, its watchers, and what get_original("threading", "Thread") gives."""

import threading

from greenio._standard_threads import blocking_here


class OSThread(threading.Thread):
    """A threading.Thread that is an OS thread, also where threading makes fibers."""

    is_os_thread = True  # start_new_thread() and start_joinable_thread() look for it

    def start(self) -> None:
        """Start the OS thread and wait, without parking, until it runs: no fiber runs in between."""
        with blocking_here():
            super().start()
