"""time: sleep parks."""

import time
from typing import Any

import greenio
from greenio.compat.patches import Patch

_sleep = time.sleep


def sleep(seconds: Any, /) -> None:
    """As time.sleep; parks the fiber where there is one."""
    if not greenio.can_park():
        _sleep(seconds)
    elif isinstance(seconds, float | int) and seconds > 0:
        greenio.sleep(seconds)
    else:
        _sleep(seconds)  # an error of its own, or no wait
        greenio.yield_now()


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.replace(time, "sleep", sleep, everywhere=True)
