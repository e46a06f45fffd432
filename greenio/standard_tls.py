"""TLS sockets of the standard class, parking: what greenio.monkey puts into ssl.SSLContext and ssl.SSLSocket.

A standard SSLSocket reads, writes and shakes hands through its `_sslobj`, which its context's `_wrap_socket` makes. In a fiber, that
is a `Session` here: OpenSSL between two memory BIOs and what moves bytes between them and the descriptor, as in greenio.ssl. No more
is taken from the descriptor than the current record, so select and poll on it say what they always said.

Invariants:
    - where no fiber runs, `_wrap_socket` makes what it always made;
    - a session keeps no reference to its SSLSocket, whose timeout it asks for at every call;
    - a session that is used on an OS thread without fibers opens a run of its own for the call.

A connection on which TLS began outside of fibers has OpenSSL on the descriptor itself. In a fiber its calls are made in another OS
thread, once there is something to read.
"""

import socket as _socket
import ssl as _standard
import weakref
from _ssl import _SSLContext
from _ssl import _SSLSocket as _Native  # type: ignore[attr-defined]
from collections.abc import Callable
from typing import Any

from greenio import _plain_sockets
from greenio._io import becomes_readable
from greenio._run import run
from greenio._scheduler import can_park, running_scheduler
from greenio._threads import call_outside
from greenio.ssl import MemoryBIO, SSLEOFError, SSLSocket, SSLWantReadError

__all__ = ["METHODS", "Session", "wrap_socket"]

_wrap_socket: Any = _SSLContext._wrap_socket  # type: ignore[attr-defined]

_RECORD_BYTES = 16384  # the most that one record holds


class _Companion(SSLSocket):
    """A greenio.ssl.SSLSocket on the descriptor of a standard one, which it never closes."""

    __slots__ = ()

    def __init__(self, sock: Any) -> None:
        _plain_sockets.adopt(self, sock)
        self.suppress_ragged_eofs = False  # the standard class does that
        self.do_handshake_on_connect = False
        self._connected = True

    def __del__(self) -> None:
        _plain_sockets.forget(self)

    def __repr__(self) -> str:
        return super().__repr__().replace("greenio.ssl.SSLSocket", "ssl.SSLSocket", 1)


class Session:
    """What stands in an SSLSocket for what _ssl makes, whose other names it has as well."""

    __slots__ = ("__weakref__", "_ahead", "_companion", "_native", "_sock")

    def __init__(self, sock: Any, native: Any, incoming: MemoryBIO, outgoing: MemoryBIO) -> None:
        self._sock = weakref.ref(sock)
        self._native = native
        self._ahead = b""  # read before anybody asked for it
        self._companion = _Companion(sock)
        self._companion._start(native, None, incoming, outgoing)
        self._companion._be_careful()
        _plain_sockets.add_tls_companion(sock, self._companion)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    @property
    def context(self) -> Any:
        """The SSLContext in use."""
        return self._native.context

    @context.setter
    def context(self, context: Any) -> None:
        self._native.context = context

    @property
    def session(self) -> Any:
        """The session, to be resumed by another connection."""
        return self._native.session

    @session.setter
    def session(self, session: Any) -> None:
        self._native.session = session

    @property
    def owner(self) -> Any:
        """Whom the context's callbacks get to see."""
        return self._native.owner

    @owner.setter
    def owner(self, owner: Any) -> None:
        self._native.owner = owner

    def do_handshake(self) -> None:
        """Agree with the peer on keys. Parks."""
        self._wait(self._companion.do_handshake)

    def read(self, len: int, buffer: Any = None, /) -> Any:
        """At most *len* bytes; into *buffer*, if given. Parks."""
        if self._ahead and len > 0:
            data, self._ahead = self._ahead[:len], self._ahead[len:]
            if buffer is None:
                return data
            size = min(memoryview(buffer).nbytes, data.__len__())
            memoryview(buffer).cast("B")[:size] = data[:size]
            self._ahead = data[size:] + self._ahead
            return size
        if buffer is None:
            return self._wait(self._companion.read, len)
        return self._wait(self._companion.read, len, buffer)

    def write(self, data: Any, /) -> int:
        """Send *data*, all of it; returns how many bytes. Parks. With a timeout of 0, some of it, a record at most.

        A peer that has told why it closed the connection is heard: its alert is raised instead of what the system says.
        """
        try:
            sent: int = self._wait(self._write, data)
        except (BrokenPipeError, ConnectionResetError):
            self._hear()
            raise
        return sent

    def _write(self, data: Any) -> int:
        # As OpenSSL on a descriptor that waits: programs know that send() leaves nothing over.
        companion = self._companion
        if companion.gettimeout() == 0:
            return companion.write(data)
        companion.sendall(data)
        return memoryview(data).nbytes

    def _hear(self) -> None:
        # Without waiting, and without losing what else the peer has sent.
        _plain_sockets.set_timeout(self._companion, 0.0)
        try:
            while data := self._companion.read(_RECORD_BYTES):
                self._ahead += data
        except (SSLWantReadError, SSLEOFError, ConnectionError):
            return

    def shutdown(self) -> Any:
        """End TLS both ways; returns the SSLSocket. Parks."""
        sock = self._sock()
        self._wait(self._companion.unwrap)
        return sock

    def pending(self) -> int:
        """Bytes that read returns without looking at the descriptor."""
        return len(self._ahead) or self._companion.pending()

    def _wait(self, call: Callable[..., Any], *arguments: Any) -> Any:
        sock = self._sock()
        if sock is not None:  # else it is on its way out
            _plain_sockets.set_timeout(self._companion, _socket.socket.gettimeout(sock))
        if running_scheduler() is None:
            return run(call, *arguments)
        return call(*arguments)


class _Elsewhere:
    """What _ssl made on a descriptor, called in other OS threads."""

    __slots__ = ("_native", "_sock")

    def __init__(self, sock: Any, native: Any) -> None:
        self._sock = weakref.ref(sock)
        self._native = native

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def do_handshake(self) -> None:
        self._call(self._native.do_handshake)

    def read(self, len: int, buffer: Any = None, /) -> Any:
        sock = self._sock()
        if sock is not None and can_park() and not self._native.pending():
            timeout = sock.gettimeout()
            if timeout != 0 and not becomes_readable(sock, timeout):
                raise TimeoutError("The read operation timed out")
        return self._call(self._native.read, len) if buffer is None else self._call(self._native.read, len, buffer)

    def write(self, data: Any, /) -> Any:
        return self._call(self._native.write, data)

    def shutdown(self) -> Any:
        return self._call(self._native.shutdown)

    def _call(self, call: Callable[..., Any], *arguments: Any) -> Any:
        sock = self._sock()
        if sock is None or sock.gettimeout() == 0 or not can_park():
            return call(*arguments)
        return call_outside(lambda: call(*arguments), "TLS in another OS thread")


def wrap_socket(
    self: Any,
    sock: Any,
    server_side: bool,
    server_hostname: str | None = None,
    *,
    owner: Any = None,
    session: Any = None,
) -> Any:
    """As _ssl's _wrap_socket: what an SSLSocket reads and writes through."""
    if not can_park() or not isinstance(sock, _socket.socket):
        return _wrap_socket(self, sock, server_side, server_hostname, owner=owner, session=session)
    incoming, outgoing = MemoryBIO(), MemoryBIO()
    native = self._wrap_bio(
        incoming, outgoing, server_side=server_side, server_hostname=server_hostname, owner=owner, session=session
    )
    return Session(sock, native, incoming, outgoing)


def _migrating(name: str) -> Any:
    original = getattr(_standard.SSLSocket, name)

    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        native = self._sslobj
        if type(native) is _Native and can_park():
            self._sslobj = _Elsewhere(self, native)
        return original(self, *args, **keywords)

    method.__name__ = name
    method.__qualname__ = original.__qualname__
    method.__module__ = original.__module__
    method.__doc__ = original.__doc__
    method.__wrapped__ = original  # type: ignore[attr-defined]  # its signature
    return method


wrap_socket.__name__ = wrap_socket.__qualname__ = "_wrap_socket"

METHODS: dict[str, Any] = {name: _migrating(name) for name in ("do_handshake", "read", "send", "unwrap", "write")}
