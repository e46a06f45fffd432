"""socket: the class's methods park, in place; lookups of names park."""

import socket

from greenio import standard_sockets
from greenio.compat.patches import Patch


def apply(patch: Patch) -> None:
    """Make the replacements."""
    patch.undo_with(standard_sockets.forget_companions)
    for name, method in standard_sockets.METHODS.items():
        patch.replace(socket.socket, name, method)
    for name, function in standard_sockets.FUNCTIONS.items():
        patch.replace(socket, name, function, everywhere=True)
    patch.replace(socket, "close", standard_sockets.close, everywhere=True)
