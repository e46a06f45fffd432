"""socket: the class's methods park, in place; lookups of names park."""

import functools
import socket
from collections.abc import Callable
from typing import Any

import greenio
import greenio.socket
from greenio import standard_sockets
from greenio.compat.patches import Patch

_LOOKUPS = ("getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getfqdn")


def _parking(name: str) -> Callable[..., Any]:
    original = getattr(socket, name)
    ours = getattr(greenio.socket, name)

    @functools.wraps(original)
    def look_up(*args: Any, **keywords: Any) -> Any:
        if not greenio.can_park():
            return original(*args, **keywords)
        return ours(*args, **keywords)

    return look_up


_replacements = {name: _parking(name) for name in _LOOKUPS}


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.undo_with(standard_sockets.forget_companions)
    for name, method in standard_sockets.METHODS.items():
        patch.replace(socket.socket, name, method)
    for name, function in _replacements.items():
        patch.replace(socket, name, function, everywhere=True)
    patch.replace(socket, "close", standard_sockets.close, everywhere=True)
