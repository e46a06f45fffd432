"""_thread: threads are fibers, locks park, each fiber has an ident of its own."""

import _thread
from typing import Any

import greenio
from greenio import threading as stand_ins
from greenio.compat.patches import Patch

# What stands for what; a name that this CPython does not have is passed over.
_STAND_INS: dict[str, Any] = {
    "start_new_thread": stand_ins.start_new_thread,
    "start_new": stand_ins.start_new_thread,
    "start_joinable_thread": stand_ins.start_joinable_thread,
    "_ThreadHandle": stand_ins.ThreadHandle,
    "_make_thread_handle": stand_ins.make_thread_handle,
    "_set_sentinel": stand_ins.set_sentinel,
    "_get_main_thread_ident": stand_ins.get_main_thread_ident,
    "_count": stand_ins.count_threads,
    "get_ident": stand_ins.get_ident,
    "set_name": stand_ins.set_name,
    "stack_size": stand_ins.stack_size,
}


def apply(patch: Patch) -> None:
    """Make the replacements."""
    for name, stand_in in _STAND_INS.items():
        if hasattr(_thread, name):
            patch.replace(_thread, name, stand_in, everywhere=True)
    if (shutdown := getattr(_thread, "_shutdown", None)) is not None:

        def _shutdown() -> None:
            stand_ins.join_fiber_threads()
            if greenio.can_park():
                _join_os_threads()
            shutdown()

        patch.replace(_thread, "_shutdown", _shutdown, everywhere=True)
    # Locks change in place, so that those that exist park, too.
    patch.undo_with(stand_ins.put_locks_back)
    stand_ins.change_locks()


def _join_os_threads() -> None:
    """Park until they have ended: they may wait for fibers."""
    import threading

    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread() and thread is not threading.current_thread():
            thread.join()
