"""psycopg 3, in C and in Python: waiting for the server parks.

The Python functions of psycopg.waiting park by themselves, for they wait with select and selectors. The one in C waits inside libc,
so psycopg.waiting.wait is another one for fibers.

A fiber that is cancelled in a query leaves its connection as Ctrl-C does: the server is asked to cancel, and the connection can be
used once the transaction is rolled back. If the server does not answer within SECONDS_TO_CANCEL, the connection is closed.
"""

import functools
from types import ModuleType
from typing import Any

import greenio
from greenio.compat.imports import when_imported
from greenio.compat.patches import Patch, replace_references

SECONDS_TO_CANCEL = 5.0


def apply(patch: Patch) -> None:
    """Make the replacements, now or when psycopg is imported."""
    when_imported(patch, "psycopg.waiting", lambda module: _patch_waiting(patch, module))
    when_imported(patch, "psycopg.connection", lambda module: _patch_connection(patch, module))


def _patch_waiting(patch: Patch, waiting: ModuleType) -> None:
    wait_in_c = getattr(waiting, "wait_c", None)
    if wait_in_c is None or not hasattr(waiting, "wait_poll"):
        return  # without the C library; what it waits with is patched

    @functools.wraps(wait_in_c)
    def wait(*args: Any, **keywords: Any) -> Any:
        # wait_poll calls select.poll: patched, or else it does not park.
        return (waiting.wait_poll if greenio.can_park() else wait_in_c)(*args, **keywords)

    if waiting.wait is wait_in_c:
        patch.replace(waiting, "wait", wait, everywhere=True)
    patch.replace(waiting, "wait_c", wait, everywhere=True)
    replace_references([patch])


def _patch_connection(patch: Patch, connection: ModuleType) -> None:
    original = connection.Connection.wait

    @functools.wraps(original)
    def wait(self: Any, gen: Any, *args: Any, **keywords: Any) -> Any:
        try:
            return original(self, gen, *args, **keywords)
        except greenio.Cancelled:
            if self.pgconn.transaction_status == connection.pq.TransactionStatus.ACTIVE:
                _cancel_query(self, original, gen)
            raise

    patch.replace(connection.Connection, "wait", wait)


def _cancel_query(connection: Any, wait: Any, gen: Any) -> None:
    done = False
    try:
        with greenio.shield(), greenio.move_on_after(SECONDS_TO_CANCEL):
            try:
                # In the server's own protocol where libpq has that without blocking.
                getattr(connection, "cancel_safe", connection.cancel)()
                wait(connection, gen)
            except Exception as error:
                # What the server says to a query that was cancelled, or that it was too late for that.
                done = getattr(error, "sqlstate", None) is not None
            else:
                done = True
    finally:
        if not done:
            connection.pgconn.finish()
