"""Streams to somewhere: connect_tcp races the addresses of a name (RFC 8305, "happy eyeballs"), connect_unix has only one.

The attempts are fibers of one task group, so that whatever ends the race, whoever lost has closed its socket before connect_tcp
returns or raises. Not taken: a poll of several sockets by one fiber; it would save a few microseconds of a round trip.

Left out of RFC 8305: §3, asking for AAAA and A records at once and not waiting for the slower answer. Names are libc's business
here, and it waits for both. The order it gives (RFC 6724) is kept within each family.
"""

import errno
import os
from collections.abc import Sequence
from typing import Any, cast

from greenio import socket
from greenio._errors import Cancelled
from greenio._scopes import timeout as time_limit
from greenio._streams import Stream, shown_address, stream_to
from greenio._sync import Event
from greenio._task_groups import TaskGroup

TLS = Any  # None, True or an ssl.SSLContext: greenio.ssl is imported only where it is asked for
Target = tuple[int, int, int, Any]  # family, kind, protocol, address

# What says more about this machine than about the service: told only if nothing else went wrong.
UNTOLD = {errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTUNREACH}


def connect_tcp(
    host: str,
    port: int | str,
    *,
    tls: TLS = None,
    server_hostname: str | None = None,
    timeout: float | None = None,
    local_address: tuple[str | None, int] | None = None,
    family: int = 0,
    happy_eyeballs_delay: float | None = 0.25,
    nodelay: bool = True,
) -> Stream:
    """Connect to a TCP service. Parks until one of the host's addresses has answered, and the TLS handshake is done.

    IPv6 and IPv4 addresses are tried in turns, beginning with the kind that the system puts first: the next one when
    *happy_eyeballs_delay* has passed without an answer, or at once when an attempt fails. The first that answers is taken, the
    others are closed. TCP_NODELAY is set, so that small writes leave at once.

    Args:
        host: a name or an address.
        port: a number, or a service's name.
        tls: True: with greenio.ssl.create_default_context(); or an ssl.SSLContext; None or False: in the clear.
        server_hostname: the name that the certificate must be for; *host* unless given.
        timeout: seconds for everything: the name, the connection, the handshake. None: as long as the system tries.
        local_address: (host, port) to connect from; None and 0 leave it to the system. Addresses of another family are left out.
        family: socket.AF_INET or AF_INET6 to use no other.
        happy_eyeballs_delay: seconds between attempts; None: the next one only when the one before has failed.
        nodelay: False leaves TCP_NODELAY unset, and small writes to Nagle's algorithm.
    Raises:
        gaierror: the name is not known.
        OSError: no address answered; the text names each with its failure, `__cause__` is an ExceptionGroup of them, and errno is
            that of the most telling one (ConnectionRefusedError, …).
        ssl.SSLError: the handshake failed, by the certificate for one.
        TimeoutError: *timeout* passed; the text tells what was under way. Cancelled: this fiber was cancelled.
        In each case nothing is left open. OverflowError, ValueError: an argument is out of range.
    """
    if happy_eyeballs_delay is not None and not happy_eyeballs_delay >= 0:
        raise ValueError(f"happy_eyeballs_delay must be >= 0 seconds or None, not {happy_eyeballs_delay!r}")
    if isinstance(port, int) and not 0 <= port <= 65535:
        raise OverflowError(f"port must be 0 to 65535, not {port}")
    race = _Race(f"{host!r} port {port}", happy_eyeballs_delay, nodelay)
    limit = time_limit(timeout)
    try:
        with limit:
            targets = _targets(host, port, family)
            race.sources = _sources(local_address)
            race.phase = "connecting"
            sock, address = race.run(interleaved(targets))
            race.phase = "the TLS handshake"
            stream = _finished(sock, address, tls, server_hostname or host)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise race.too_late(timeout) from error
    return stream


def connect_unix(
    path: str | bytes | os.PathLike[str],
    *,
    tls: TLS = None,
    server_hostname: str | None = None,
    timeout: float | None = None,
) -> Stream:
    """Connect to a Unix stream socket. Parks until the listener has room, and the TLS handshake is done.

    Args:
        path: of the socket's file; a first character of NUL makes it an abstract name.
        tls, server_hostname: as connect_tcp; TLS needs a name to look for, or a context that looks for none.
        timeout: seconds for everything; None: for ever.
    Raises:
        OSError: FileNotFoundError, ConnectionRefusedError (nobody listens), PermissionError …, with the path as `filename`.
        ssl.SSLError, TimeoutError, Cancelled: as connect_tcp. Nothing is left open.
    """
    address = path if isinstance(path, bytes) else os.fspath(path)
    limit = time_limit(timeout)
    try:
        with limit:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(None)
                sock.connect(address)
            except BaseException as error:
                sock.close()
                if isinstance(error, OSError) and error.errno is not None and error.filename is None:
                    raise OSError(error.errno, error.strerror, address) from None
                raise
            stream = _finished(sock, address, tls, server_hostname)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeoutError(f"no connection to {address!r} within {timeout:g} seconds") from error
    return stream


def _finished(sock: socket.socket, address: Any, tls: TLS, server_hostname: str | None) -> Stream:
    """A stream on *sock*, under TLS if wanted; or *sock* is closed."""
    try:
        stream = stream_to(sock, address)
        if tls is not None and tls is not False:
            stream.start_tls(None if tls is True else tls, server_hostname=server_hostname)
        return stream
    except BaseException:
        sock.close()
        raise


def addresses_of(host: str | None, port: int | str, family: int = 0, flags: int = 0) -> list[Any]:
    """As getaddrinfo, for streams. A text that cannot be a name is one that is not known: gaierror, not UnicodeError."""
    try:
        return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, flags)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} cannot be a name: {error}") from None


def _targets(host: str, port: int | str, family: int) -> list[Target]:
    found = addresses_of(host, port, family)
    targets = [(int(family), int(kind), proto, address) for family, kind, proto, _, address in found]
    if not targets:
        raise OSError(errno.EADDRNOTAVAIL, f"no address for {host!r}")
    return list(dict.fromkeys(targets))


def _sources(local: tuple[str | None, int] | None) -> dict[int, Any] | None:
    """Addresses to bind to, by family; None: no wish."""
    if local is None:
        return None
    sources: dict[int, Any] = {}
    for family, _, _, _, address in addresses_of(local[0] or None, local[1], flags=socket.AI_PASSIVE):
        sources.setdefault(int(family), address)
    return sources


def interleaved(targets: Sequence[Target]) -> list[Target]:
    """RFC 8305 §4: families in turns, the first one's first; the order within each is kept."""
    queues: dict[int, list[Target]] = {}
    for target in targets:
        queues.setdefault(target[0], []).append(target)
    longest = max(map(len, queues.values()), default=0)
    return [queue[index] for index in range(longest) for queue in queues.values() if index < len(queue)]


class _Race:
    """One connect_tcp: attempts, one after the other, side by side, until one has won."""

    def __init__(self, what: str, delay: float | None, nodelay: bool) -> None:
        self.what = what
        self.delay = delay
        self.nodelay = nodelay
        self.sources: dict[int, Any] | None = None
        self.phase = "looking up the name"
        self.news = Event()  # an attempt has failed, or won
        self.given_up: list[Any] = []  # addresses that had not answered when time was up
        self.failed: list[tuple[Any, OSError]] = []
        self.won: tuple[socket.socket, Any] | None = None

    def run(self, targets: list[Target]) -> tuple[socket.socket, Any]:
        """The winner's socket, and its address. Raises OSError if there is none."""
        try:
            if len(targets) == 1:
                self.attempt(targets[0])
            else:
                self.run_side_by_side(targets)
        except BaseException:
            if self.won is not None:
                self.won[0].close()
            raise
        if self.won is None:
            raise self.failure()
        return self.won

    def run_side_by_side(self, targets: list[Target]) -> None:
        with TaskGroup() as group:
            for target in targets:
                self.news = Event()
                group.spawn(self.run_attempt, target, group, name=f"connect to {shown_address(target[3])}")
                self.news.wait(self.delay)
                if self.won is not None:
                    break

    def run_attempt(self, target: Target, group: TaskGroup) -> None:
        if self.attempt(target):
            group.cancel("another address has answered")
        self.news.set()

    def attempt(self, target: Target) -> bool:
        """Whether it won. Its socket is closed if not."""
        family, kind, proto, address = target
        sock = None
        try:
            sock = self.connected(family, kind, proto, address)
            if self.won is None:
                self.won = (sock, address)
                sock = None
                return True
        except Cancelled:
            self.given_up.append(address)
            raise
        except OSError as error:
            self.failed.append((address, error))
        finally:
            if sock is not None:
                sock.close()
        return False

    def connected(self, family: int, kind: int, proto: int, address: Any) -> socket.socket:
        sock = socket.socket(family, kind, proto)
        try:
            sock.settimeout(None)
            if self.sources is not None:
                if family not in self.sources:
                    raise OSError(errno.EADDRNOTAVAIL, "the local address is of another family")
                sock.bind(self.sources[family])
            if self.nodelay:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address)
            return sock
        except BaseException:
            sock.close()
            raise

    def story(self) -> str:
        told = [f"{shown_address(address)}: {error.strerror or error}" for address, error in self.failed]
        return "; ".join(told + [f"{shown_address(address)}: no answer" for address in self.given_up])

    def failure(self) -> OSError:
        errors = [error for _, error in self.failed]
        told = next((error for error in errors if error.errno not in UNTOLD), errors[0])
        failure = OSError(told.errno or errno.ECONNREFUSED, f"no connection to {self.what}: {self.story()}")
        failure.__cause__ = told if len(errors) == 1 else ExceptionGroup("all attempts failed", errors)
        self.failed.clear()  # an error's traceback holds this object
        return failure

    def too_late(self, timeout: float | None) -> TimeoutError:
        seconds = cast(float, timeout)
        story = self.story()
        self.failed.clear()
        return TimeoutError(
            f"no connection to {self.what} within {seconds:g} seconds: {self.phase} took too long{f' ({story})' if story else ''}"
        )
