"""The standard socket module's names, for fibers: calls park instead of blocking the OS thread.

All of them: the class, what makes one, lookups of names, constants, and what never waits. A name is looked up by the standard
library in another OS thread; addresses that are numbers are not.
"""

import errno
import os
import socket as _standard
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from greenio._messages import MessageCore
from greenio._scheduler import current_fiber, park_here, running_scheduler, unpark_fiber
from greenio._socket import SocketCore, _standard_socket, set_socket_class
from greenio._socket_names import *  # noqa: F403
from greenio._socket_names import EAGAIN as EAGAIN
from greenio._socket_names import EBADF as EBADF
from greenio._socket_names import EWOULDBLOCK as EWOULDBLOCK
from greenio._socket_names import NI_NUMERICHOST, AddressFamily, SocketKind, gaierror
from greenio._socket_names import AddressInfo as AddressInfo
from greenio._socket_names import MsgFlag as MsgFlag
from greenio._socket_names import SocketIO as SocketIO
from greenio._socket_names import __all__ as __all__

Result = TypeVar("Result")
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


class _OutsideCall:
    """A call in an OS thread of its own, and the fiber that waits for it."""

    def __init__(self, fn: Callable[[], Any], what: str) -> None:
        self.fn = fn
        self.what = what
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.fiber = current_fiber()

    def __repr__(self) -> str:
        return self.what

    def work(self) -> None:
        try:
            self.value = self.fn()
        except BaseException as error:
            self.error = error
        self.done = True
        unpark_fiber(self.fiber, self)


def _in_thread(fn: Callable[[], Result], reason: str, what: str, timeout: float | None = None) -> Result:
    """What fn() returns, called in another OS thread while this fiber is parked; here, if there are no fibers.

    Raises:
        TimeoutError: *timeout* seconds passed; the call goes on unheard, as after Cancelled.
    """
    scheduler = running_scheduler()
    if scheduler is None:
        return fn()
    call = _OutsideCall(fn, what)
    scheduler.outside_call(1)
    try:
        threading.Thread(target=call.work, name=f"greenio {what}", daemon=True).start()
        while not call.done:
            if not park_here(reason, call, timeout) and not call.done:
                raise TimeoutError("timed out")
    finally:
        scheduler.outside_call(-1)
    try:
        if call.error is not None:
            raise call.error
        value: Result = call.value
        return value
    finally:
        call.error = None  # its traceback holds this frame


def _is_numeric(host: Any) -> bool:
    for family in (AddressFamily.AF_INET, AddressFamily.AF_INET6):
        try:
            _standard.inet_pton(family, host)
            return True
        except (OSError, TypeError, ValueError):
            continue
    return host in (None, "", "<broadcast>")


def _is_name(address: Any) -> bool:
    """Whether *address* begins with a host that must be looked up. Not if it is wrong: connect and bind say what is."""
    if not isinstance(address, tuple) or not address:
        return False
    host = address[0]
    if isinstance(host, str):
        return not _is_numeric(host) and "\0" not in host
    return isinstance(host, (bytes, bytearray)) and b"\0" not in host


def getaddrinfo(
    host: bytes | str | None,
    port: bytes | str | int | None,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> list[tuple[AddressFamily, SocketKind, int, str, Any]]:
    """As socket.getaddrinfo, in another OS thread while this fiber is parked, unless *host* is a number.

    Raises:
        gaierror: the name is not known.
        Cancelled: this fiber was cancelled; the lookup goes on unheard.
    """

    def look_up() -> list[tuple[AddressFamily, SocketKind, int, str, Any]]:
        found: list[Any] = _standard.getaddrinfo(host, port, family, type, proto, flags)
        return found

    if _is_numeric(host):
        return look_up()
    return _in_thread(look_up, "name resolution", f"lookup of {host!r}")


def gethostbyname(hostname: str) -> str:
    """The IPv4 address of a host, as text. Looked up as by getaddrinfo, with its exceptions."""
    if _is_numeric(hostname):
        return _standard.gethostbyname(hostname)
    return _in_thread(lambda: _standard.gethostbyname(hostname), "name resolution", f"lookup of {hostname!r}")


def gethostbyname_ex(hostname: str) -> tuple[str, list[str], list[str]]:
    """(name, other names, IPv4 addresses) of a host. Looked up as by getaddrinfo, with its exceptions."""
    return _in_thread(lambda: _standard.gethostbyname_ex(hostname), "name resolution", f"lookup of {hostname!r}")


def gethostbyaddr(ip_address: str) -> tuple[str, list[str], list[str]]:
    """(name, other names, addresses) of the host with this address, by name resolution in another OS thread.

    Raises:
        herror, gaierror: no name is known, or the address is none.
        Cancelled: this fiber was cancelled; the lookup goes on unheard.
    """
    return _in_thread(lambda: _standard.gethostbyaddr(ip_address), "name resolution", f"lookup of {ip_address!r}")


def getfqdn(name: str = "") -> str:
    """The full name of a host, of this one unless given; *name* itself if none is known. In another OS thread."""
    return _in_thread(lambda: _standard.getfqdn(name), "name resolution", f"lookup of {name!r}")


def getnameinfo(sockaddr: Any, flags: int) -> tuple[str, str]:
    """(host, port) as text for an address, as socket.getnameinfo; in another OS thread unless NI_NUMERICHOST is among *flags*.

    Raises:
        gaierror: no name is known, with NI_NAMEREQD; the address is none.
        Cancelled: this fiber was cancelled; the lookup goes on unheard.
    """
    if flags & NI_NUMERICHOST:
        return _standard.getnameinfo(sockaddr, flags)
    return _in_thread(lambda: _standard.getnameinfo(sockaddr, flags), "name resolution", f"lookup of {sockaddr!r}")


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
            return error.errno or errno.EINVAL

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
            return _in_thread(connect, "socket connect", f"connect to {address!r}", self.gettimeout())
        except TimeoutError:
            if self.gettimeout() == 0:
                return errno.EINPROGRESS
            raise

    def _looked_up(self, address: Address) -> Address:
        if self.family not in (AddressFamily.AF_INET, AddressFamily.AF_INET6) or not _is_name(address):
            return address
        found = getaddrinfo(address[0], None, self.family, self.type, self.proto)
        return (found[0][4][0], *address[1:])

    def bind(self, address: Address) -> None:
        """As socket.bind; a host that is a name is looked up as connect does."""
        super().bind(self._looked_up(address))

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
        """A file on the socket, as socket.makefile; it parks as the socket does, and obeys its timeout."""
        makefile: Any = _standard.socket.makefile  # made for its own class; asks for no more than ours has
        return makefile(self, mode, buffering, encoding=encoding, errors=errors, newline=newline)

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
    """Close a socket's descriptor; who waits on it gets OSError (EBADF). A socket object that has it does not know: detach it first.

    Raises:
        OSError: *fd* is no open socket.
    """
    socket(fileno=fd).close()


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
