"""What the standard _thread and threading modules are made of, for fibers: greenio.monkey puts these in their place.

Programs use greenio.spawn, greenio.Lock and their like, or the standard modules, patched. The functions here do on an OS thread
without fibers what the standard ones do.
"""

from greenio._os_threads import OSThread, OwnThread
from greenio._standard_threads import (
    ThreadHandle,
    acquire_shielded,
    blocking_here,
    change_locks,
    change_queues,
    count_threads,
    get_ident,
    get_main_thread_ident,
    get_name,
    get_native_id,
    join_fiber_threads,
    make_thread_handle,
    put_locks_back,
    put_queues_back,
    runs_as_fiber,
    runs_thread,
    set_name,
    set_sentinel,
    stack_size,
    start_joinable_thread,
    start_new_thread,
    thread_ends,
    watch_sentinel,
)

__all__ = [
    "OSThread",
    "OwnThread",
    "ThreadHandle",
    "acquire_shielded",
    "blocking_here",
    "change_locks",
    "change_queues",
    "count_threads",
    "get_ident",
    "get_main_thread_ident",
    "get_name",
    "get_native_id",
    "join_fiber_threads",
    "make_thread_handle",
    "put_locks_back",
    "put_queues_back",
    "runs_as_fiber",
    "runs_thread",
    "set_name",
    "set_sentinel",
    "stack_size",
    "start_joinable_thread",
    "start_new_thread",
    "thread_ends",
    "watch_sentinel",
]
