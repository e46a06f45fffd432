"""The way back from another OS thread: what a function that `to_thread` called does among the fibers.

    def fetch(url):                                  # in an OS thread
        data = download(url)
        from_thread.run(results.send, data)          # parks the fiber that waits in to_thread
        from_thread.check_cancelled()                # raises Cancelled if that fiber was cancelled

`run` and `spawn` also take ``scheduler=``, from any OS thread.
"""

from greenio._threads import check_cancelled, run, spawn

run_sync = run  # as trio and anyio call it: every function is one here

__all__ = ["check_cancelled", "run", "run_sync", "spawn"]
