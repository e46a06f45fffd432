"""The standard socket module's names, for fibers: calls park instead of blocking the OS thread.

All of them: the class, what makes one, lookups of names, constants, and what never waits.
"""

import contextlib
import errno
import io
import os
import socket as _standard
from collections.abc import Callable
from typing import Any

from greenio._buffers import BufferedReader, BufferedRWPair, BufferedWriter
from greenio._dns import (
    getaddrinfo,
    getfqdn,
    gethostbyaddr,
    gethostbyname,
    gethostbyname_ex,
    getnameinfo,
    is_numeric,
)
from greenio._file_text import TextIOWrapper
from greenio._io import notify_closing
from greenio._messages import MessageCore
from greenio._socket import SocketCore, _close_at_once, _standard_socket, set_socket_class
from greenio._socket_names import *  # noqa: F403
from greenio._socket_names import EAGAIN as EAGAIN
from greenio._socket_names import EBADF as EBADF
from greenio._socket_names import EWOULDBLOCK as EWOULDBLOCK
from greenio._socket_names import AddressFamily, SocketKind, gaierror
from greenio._socket_names import AddressInfo as AddressInfo
from greenio._socket_names import MsgFlag as MsgFlag
from greenio._socket_names import SocketIO as SocketIO
from greenio._socket_names import __all__ as __all__
from greenio._threads import call_outside

Address = Any  # (host, port), (host, port, flowinfo, scope), or a path, by family

_GLOBAL_DEFAULT_TIMEOUT = _standard._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]  # http.client passes it

__all__ = __all__.copy()
__all__ += [
    "SocketType",
    "close",
    "create_connection",
    "create_server",
    "fromfd",
    "getaddrinfo",
    "getfqdn",
    "gethostbyaddr",
    "gethostbyname",
    "gethostbyname_ex",
    "getnameinfo",
    "socket",
    "socketpair",
]

SocketType = SocketCore


def _is_name(address: Any) -> bool:
    """Whether *address* begins with a host that must be looked up. Not if it is wrong: connect and bind say what is."""
    if not isinstance(address, tuple) or not address:
        return False
    host = address[0]
    if isinstance(host, str):
        return not is_numeric(host) and "\0" not in host
    return isinstance(host, (bytes, bytearray)) and b"\0" not in host


def _encoded(host: str | bytes | bytearray) -> bytes:
    """A name as the standard class encodes it. getaddrinfo itself raises UnicodeError for some that simply are not known."""
    if not isinstance(host, str):
        return bytes(host)
    try:
        return host.encode("ascii" if host.isascii() else "idna")
    except UnicodeError:
        raise TypeError("encoding of hostname failed") from None


class socket(MessageCore):
    """A socket whose calls park the fiber; signatures and exceptions are those of socket.socket.

    Args:
        family, type, proto: as socket.socket; AF_INET, SOCK_STREAM and 0 unless given.
        fileno: an open descriptor to use; family, type and proto are asked of it unless given. O_NONBLOCK is not set on it.
    """

    __slots__ = ("__weakref__",)

    @property
    def family(self) -> AddressFamily:
        """The address family."""
        family: AddressFamily = _as_enum(self._number_of("family"), AddressFamily)
        return family

    @property
    def type(self) -> SocketKind:
        """The socket's kind, without flags."""
        kind: SocketKind = _as_enum(self._number_of("type"), SocketKind)
        return kind

    def connect(self, address: Address) -> None:
        """Connect to *address*, parking until it is settled.

        Raises:
            TimeoutError, Cancelled: the socket's timeout passed; this fiber was cancelled. The attempt may be under way still: close.
            OSError: as the system says (ConnectionRefusedError, …). gaierror: the name is not known.
        """
        error = self._connect(address)
        if error:
            raise OSError(error, os.strerror(error))

    def connect_ex(self, address: Address) -> int:
        """As connect, but returns the errno of a failure of the system's, 0 for none."""
        try:
            return self._connect(address)
        except gaierror:
            raise
        except TimeoutError:
            return errno.EAGAIN
        except OSError as error:
            if error.errno is None:  # about the address; nothing was asked of the system
                raise
            return error.errno

    def _connect(self, address: Address) -> int:
        address = self._looked_up(address)
        error = self._connect_numeric(address)
        return self._connect_in_thread(address) if error is None else error

    def _connect_in_thread(self, address: Address) -> int:
        # The system's connect would block: O_NONBLOCK is not set, and is not ours to set. The copy keeps the number from
        # becoming another file's before the call is made.
        connecting = _standard_socket(self.family, self.type, self.proto, os.dup(self.fileno()))

        def connect() -> int:
            try:
                result: int = connecting.connect_ex(address)
                return result
            finally:
                connecting.close()

        try:
            return call_outside(connect, "socket connect", self.gettimeout())
        except TimeoutError:
            if self.gettimeout() == 0:
                return errno.EINPROGRESS
            raise

    def _looked_up(self, address: Address) -> Address:
        if self.family not in (AddressFamily.AF_INET, AddressFamily.AF_INET6) or not _is_name(address):
            return address
        found = getaddrinfo(_encoded(address[0]), None, self.family, self.type, self.proto)
        return (found[0][4][0], *address[1:])

    def bind(self, address: Address) -> None:
        """As socket.bind; a host that is a name is looked up as connect does."""
        super().bind(self._looked_up(address))

    def _close_lingering(self, fd: int) -> None:
        # The system's close waits, up to the time that SO_LINGER says: in another OS thread.
        left = [fd]

        def close() -> None:
            with contextlib.suppress(IndexError, ConnectionResetError):
                os.close(left.pop())

        try:
            call_outside(close, "socket close")
        except RuntimeError:
            if not left:
                raise
        finally:
            if left:  # it did not begin: this fiber is cancelled, or there is no thread to be had
                _close_at_once(left.pop())

    def dup(self) -> "socket":
        """A second socket on a copy of the descriptor; both are one connection."""
        copy = os.dup(self.fileno())
        try:
            made = self.__class__(int(self.family), int(self.type), self.proto, fileno=copy)
        except BaseException:
            os.close(copy)
            raise
        made.settimeout(self.gettimeout())
        return made

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file on the socket, as socket.makefile; it parks as the socket does, and obeys its timeout.

        Fibers may share it: each call is one piece, first come first served. A call that ends with Cancelled or TimeoutError loses
        nothing: what had come is there for the next one, and what was not written goes out with the next flush. But after the
        socket's own timeout the file reads no more than what it holds then (OSError), as the standard one; greenio.timeout has no such
        effect.

        Args:
            mode: "r", "w" or "rw", and "b" for bytes.
            buffering: the buffer's size in bytes; None or below 0: io.DEFAULT_BUFFER_SIZE; 0: none, for bytes only.
            encoding, errors, newline: of text, as io.TextIOWrapper.
        Returns:
            A SocketIO with buffering=0; else an io.BufferedReader, io.BufferedWriter or io.BufferedRWPair for bytes, an
            io.TextIOWrapper for text. The socket is closed once it and all of its files are.
        Raises:
            ValueError, LookupError: the arguments are wrong, or do not fit together.
        """
        receives = type(self).recv is socket.recv and type(self).recv_into is socket.recv_into
        return make_file(self, mode, buffering, encoding, errors, newline, receives)

    def __repr__(self) -> str:
        state = "[closed] " if self.fd < 0 else ""
        text = f"<greenio.socket.socket {state}fd={self.fd}, family={self.family!s}, type={self.type!s}, proto={self.proto}"
        if self.fd >= 0:
            for name, ask in (("laddr", self.getsockname), ("raddr", self.getpeername)):
                try:
                    text += f", {name}={ask()}"
                except OSError:
                    continue
        return text + ">"

    def __reduce__(self) -> Any:
        raise TypeError("a socket cannot be pickled")


def make_file(
    sock: Any,
    mode: str,
    buffering: int | None,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    receives: bool,
) -> Any:
    """What makefile returns, for *sock*, a socket of ours or of the standard class, or what has the names that SocketIO uses.

    *receives*: its recv is ours, which takes from the kernel what its recv_into would, and needs no room while it waits.
    """
    if not set(mode) <= {"r", "w", "b"}:
        raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
    writing = "w" in mode
    reading = "r" in mode or not writing
    binary = "b" in mode
    if buffering == 0 and not binary:
        raise ValueError("unbuffered streams must be binary")
    raw: Any = SocketIO(sock, "r" * reading + "w" * writing)  # type: ignore[arg-type]
    sock._io_refs += 1
    if buffering == 0:
        return raw
    try:
        size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
        buffer: Any
        if reading and writing:
            buffer = BufferedRWPair(raw, raw, size, receives=receives)
        elif reading:
            buffer = BufferedReader(raw, size, receives=receives)
        else:
            buffer = BufferedWriter(raw, size)
        if binary:
            return buffer
        text: Any = TextIOWrapper(buffer, io.text_encoding(encoding, 3), errors, newline)
        text.mode = mode
        return text
    except BaseException:
        raw.close()
        raise


set_socket_class(socket)


def _as_enum(number: int, kind: Callable[[int], Any]) -> Any:
    try:
        return kind(number)
    except ValueError:
        return number


def fromfd(fd: int, family: int, type: int, proto: int = 0) -> socket:
    """A socket on a copy of the descriptor *fd*, which stays open. O_NONBLOCK is not set on it.

    Raises:
        OSError: *fd* is no open socket. Nothing is left open.
    """
    copy = os.dup(fd)
    try:
        return socket(int(family), int(type), int(proto), fileno=copy)
    except BaseException:
        os.close(copy)
        raise


def close(fd: int) -> None:
    """Close a descriptor; who waits on it gets OSError (EBADF). A socket object that has it does not know: detach it first.

    Raises:
        OSError: *fd* is not open.
    """
    if fd >= 0:
        notify_closing(fd)
    os.close(fd)


def create_connection(
    address: tuple[str | None, int],
    timeout: float | object | None = _GLOBAL_DEFAULT_TIMEOUT,
    source_address: tuple[str, int] | None = None,
    *,
    all_errors: bool = False,
) -> socket:
    """Connect to a TCP service: each address of the host in turn, until one answers. As socket.create_connection.

    Args:
        address: (host, port).
        timeout: seconds for each attempt, and for the socket's calls afterwards; the default timeout unless given.
        source_address: (host, port) to bind to first; "" and 0 leave it to the system.
        all_errors: raise all failures as an ExceptionGroup instead of the last one.
    Raises:
        OSError, gaierror, TimeoutError: no address answered. Nothing is left open.
    """
    host, port = address
    errors: list[Exception] = []
    for family, kind, proto, _, target in getaddrinfo(host, port, 0, SocketKind.SOCK_STREAM):
        made = None
        try:
            made = socket(family, kind, proto)
            if timeout is not _GLOBAL_DEFAULT_TIMEOUT:
                made.settimeout(timeout)  # type: ignore[arg-type]
            if source_address:
                made.bind(source_address)
            made.connect(target)
            return made
        except BaseException as error:
            if made is not None:
                made.close()
            if not isinstance(error, OSError):
                raise
            errors.append(error)
    try:
        if not errors:
            raise OSError(f"no address for {host!r}")
        if all_errors:
            raise ExceptionGroup("create_connection failed", errors)
        raise errors[-1]
    finally:
        errors.clear()  # an error's traceback holds this list


def create_server(
    address: Address,
    *,
    family: int = AddressFamily.AF_INET,
    backlog: int | None = None,
    reuse_port: bool = False,
    dualstack_ipv6: bool = False,
) -> socket:
    """A TCP socket that listens on *address*, as socket.create_server.

    Args:
        address: (host, port); port 0 takes a free one.
        family: AF_INET or AF_INET6.
        backlog: connections that may wait for accept; None: the system's choice.
        reuse_port: let several processes listen on the port.
        dualstack_ipv6: take IPv4 too, on AF_INET6.
    Raises:
        OSError: as bind says, with the address. ValueError: the arguments do not fit together. Nothing is left open.
    """
    if dualstack_ipv6:
        if not _standard.has_dualstack_ipv6():
            raise ValueError("dualstack_ipv6 not supported on this platform")
        if family != AddressFamily.AF_INET6:
            raise ValueError("dualstack_ipv6 requires AF_INET6 family")
    made = socket(family, SocketKind.SOCK_STREAM)
    try:
        made.setsockopt(_standard.SOL_SOCKET, _standard.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(_standard.SOL_SOCKET, _standard.SO_REUSEPORT, 1)
        if family == AddressFamily.AF_INET6:
            made.setsockopt(_standard.IPPROTO_IPV6, _standard.IPV6_V6ONLY, 0 if dualstack_ipv6 else 1)
        try:
            made.bind(address)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} (while attempting to bind on address {address!r})") from None
        made.listen(*(() if backlog is None else (backlog,)))
        return made
    except BaseException:
        made.close()
        raise


def socketpair(family: int | None = None, type: int = SocketKind.SOCK_STREAM, proto: int = 0) -> tuple[socket, socket]:
    """Two connected sockets; Unix ones unless *family* says otherwise."""
    one, other = _standard.socketpair(AddressFamily.AF_UNIX if family is None else family, type, proto)
    with one, other:
        made = fromfd(one.fileno(), one.family, one.type, one.proto)
        try:
            return made, fromfd(other.fileno(), other.family, other.type, other.proto)
        except BaseException:
            made.close()
            raise
