"""selectors: the classes park, in place, and so do selectors made before."""

import functools
import select
import selectors
from collections.abc import Callable
from typing import Any

import greenio
from greenio.compat import select as compat_select
from greenio.compat.patches import Patch


def _poll_like(selector: Any) -> Any:
    masks = ((selectors.EVENT_READ, select.POLLIN), (selectors.EVENT_WRITE, select.POLLOUT))
    wanted = {
        fd: sum(mask for event, mask in masks if key.events & event) for fd, key in list(selector._fd_to_key.items())
    }
    return compat_select.poll_like(wanted)


def _adopting(original: Callable[..., Any], from_before: type, adopted: Callable[[Any], Any]) -> Callable[..., Any]:
    """select() of a class whose objects have a `_selector`: one *from_before* the patch is replaced first of all."""

    @functools.wraps(original)
    def parking_select(self: Any, timeout: Any = None) -> Any:
        if type(self._selector) is from_before and greenio.can_park():
            self._selector = adopted(self)
        return original(self, timeout)

    return parking_select


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.replace(selectors.SelectSelector, "_select", staticmethod(compat_select.select_))
    patch.replace(selectors.PollSelector, "_selector_cls", staticmethod(compat_select.poll))
    patch.replace(
        selectors.PollSelector, "select", _adopting(selectors.PollSelector.select, compat_select.Poll, _poll_like)
    )
    patch.replace(selectors.EpollSelector, "_selector_cls", compat_select.epoll)
    patch.replace(
        selectors.EpollSelector,
        "select",
        _adopting(
            selectors.EpollSelector.select,
            compat_select.Epoll,
            lambda selector: compat_select.epoll_like(selector._selector),
        ),
    )
