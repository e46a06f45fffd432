"""What tests of waiting share: a fiber that has parked, and OS threads without fibers."""

import itertools
import os
import threading

import greenio
from greenio.testing import wait_all_parked


def parked(fn, *args, **kwargs):
    """A fiber that has run fn(*args) up to where it waits."""
    fiber = greenio.spawn(lambda: fn(*args, **kwargs))
    wait_all_parked()
    assert fiber.state == "parked", fiber
    return fiber


def in_thread(fn, *args, **kwargs):
    """An OS thread without fibers that has begun to call fn(*args); its `outcome` is a list with the result or exception."""
    outcome = []

    def call():
        try:
            outcome.append(fn(*args, **kwargs))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.outcome = outcome
    thread.start()
    return thread


def until(condition):
    """Wait, in an OS thread without fibers, for what another one does next."""
    for _ in itertools.count():
        if condition():
            return
        os.sched_yield()
