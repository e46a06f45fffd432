"""What all echo servers have in common: where they listen, how much they read, how they say so.

A server listens on a port of the kernel's choice on the loopback, prints the port as its first
line, sets TCP_NODELAY on each connection, reads up to READ_BYTES at a time and sends back what it
read.  It serves until it is killed.
"""

import socket
import ssl
from typing import Any

HOST = "127.0.0.1"
READ_BYTES = 64 * 1024
BACKLOG = 4096  # connections; the load generator opens all of its own at once


def announce(address: tuple[str, int]) -> None:
    """Tell who started this server where it listens."""
    print(address[1], flush=True)


def set_no_delay(connection: Any) -> None:
    """Send small replies at once. *connection*: a socket of any of the contenders."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def tls_context(kind: type[ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
    """A server's context with a certificate of an authority of its own. *kind*: a contender's class of contexts."""
    import trustme

    context = kind(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    return context
