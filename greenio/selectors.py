"""The standard module selectors, whose select() parks the fiber.

An asyncio event loop on one of these runs inside a fiber, beside other fibers and other loops:

    loop = asyncio.SelectorEventLoop(greenio.selectors.DefaultSelector())
"""

import selectors as _standard
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, SelectorKey
from typing import Any

from greenio import select as _select

__all__ = [
    "BaseSelector",
    "DefaultSelector",
    "EVENT_READ",
    "EVENT_WRITE",
    "EpollSelector",
    "PollSelector",
    "SelectSelector",
    "SelectorKey",
]


class SelectSelector(_standard.SelectSelector):
    """As selectors.SelectSelector; descriptors of any number."""

    def _select(self, rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None) -> Any:
        return _select.select(rlist, wlist, xlist, timeout)


class PollSelector(_standard.PollSelector):
    """As selectors.PollSelector."""

    _selector_cls = _select.poll


class EpollSelector(_standard.EpollSelector):
    """As selectors.EpollSelector."""

    _selector_cls = _select.epoll


DefaultSelector = EpollSelector
