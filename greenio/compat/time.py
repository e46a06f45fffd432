"""time: sleep parks."""

import operator
import time
from typing import Any

import greenio
from greenio.compat.patches import Patch, stand_in

_sleep = time.sleep
_TOO_LONG = 2.0**63 / 1e9  # seconds, of what C counts in nanoseconds


@stand_in(_sleep)
def sleep(seconds: Any, /) -> None:
    if not greenio.can_park():
        _sleep(seconds)
        return
    if isinstance(seconds, float):
        length = float(seconds)
    else:
        try:
            length = operator.index(seconds)
        except TypeError:
            length = -1.0
    if 0 < length < _TOO_LONG:
        greenio.sleep(length)
    else:
        _sleep(seconds)  # an error of its own, or no wait
        greenio.yield_now()


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.replace(time, "sleep", sleep, everywhere=True)
