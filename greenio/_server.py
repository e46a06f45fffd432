"""Streams from anywhere: listen_tcp and listen_unix make a Listener, serve a Server, which runs a handler for each connection.

A Server has one fiber that accepts, whatever the number of addresses: so max_connections is exact, and a connection above it stays in
the kernel's backlog. Handshakes are the connections' own business: a client that never finishes one holds up nobody.

Invariants of a Server:
  - a connection is in `_handlers` from its acceptance until its fiber has ended, its stream is closed and its slot given back;
    that is done when the fiber ends, not by its function: one that got no stack never calls that;
  - the listener is closed before the first handler is cancelled;
  - `_closed` is set once the listener is closed, the accepting fiber has ended, and no handler is left or all were given up.
"""

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from greenio import socket
from greenio._connect import addresses_of
from greenio._errors import Cancelled
from greenio._scheduler import Fiber, current_fiber, running_scheduler, spawn
from greenio._scopes import move_on_after, shield
from greenio._scopes import timeout as time_limit
from greenio._select import readable, select
from greenio._streams import Stream, shown_address, stream_to
from greenio._switch import check_stack_size
from greenio._sync import Event, Semaphore
from greenio._time import current_time, sleep

TLS = Any  # an ssl.SSLContext, or None

log = logging.getLogger("greenio")

BACKLOG = 1024  # connections; the kernel's own bound is net.core.somaxconn
SAME_PORT_TRIES = 20  # a free port on one address may be taken on the next
STALE_LOCK_SECONDS = 5.0  # that another process may take to replace a socket's file

# accept(2): errors of the connection that was about to come, not of the listener. Whoever it was has gone.
PASSING = {
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EPERM,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.EINTR,
    errno.EAGAIN,
}
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
FIRST_PAUSE = 0.01  # seconds, after accept found no descriptor; doubles
LONGEST_PAUSE = 1.0
UNWIND_SECONDS = 10.0  # for cancelled handlers to end, in their finally blocks


class Listener:
    """Listening sockets, as one: what listen_tcp and listen_unix return. ``for stream in listener`` accepts until it is closed.

    Args:
        sockets: greenio.socket.socket objects that listen already, at least one; the listener closes them.
        path: of a Unix socket's file, if the listener shall remove it when it is closed.
    Raises:
        ValueError: no sockets.
    """

    def __init__(self, sockets: Sequence[socket.socket], *, path: str | bytes | None = None) -> None:
        if not sockets:
            raise ValueError("a listener needs at least one socket that listens")
        self._sockets = list(sockets)
        self._addresses = [each.getsockname() for each in self._sockets]
        self._next = 0
        # With several, accept asks each without waiting and waits for all of them together.
        for each in self._sockets:
            each.settimeout(None if len(self._sockets) == 1 else 0)
        self._file = None if path is None else (path, _identity(path), os.getpid())

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets, for their options."""
        return list(self._sockets)

    @property
    def addresses(self) -> list[Any]:
        """The addresses that it listens on, or did, as the socket module has them."""
        return list(self._addresses)

    @property
    def port(self) -> int:
        """The TCP port, the same for all addresses unless they were given otherwise. ValueError: it listens on a Unix socket."""
        address = self._addresses[0]
        if not isinstance(address, tuple):
            raise ValueError(f"{self!r} has no port")
        return cast(int, address[1])

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        return not self._sockets

    def accept(self) -> Stream:
        """Wait for a connection. With several addresses, each gets its turn.

        Raises:
            OSError: as the system says (EMFILE, ECONNABORTED, …): the listener goes on listening; EBADF: it is closed.
            Cancelled: this fiber was cancelled; no connection was taken.
        """
        while True:
            sockets = self._sockets  # close() puts another list there, and wakes us
            if not sockets:
                raise OSError(errno.EBADF, "the listener is closed")
            if len(sockets) == 1:
                sock, peer = sockets[0].accept()
                return self._stream(sock, peer)
            for _ in sockets:
                self._next = (self._next + 1) % len(sockets)
                try:
                    sock, peer = sockets[self._next].accept()
                except BlockingIOError:
                    continue
                return self._stream(sock, peer)
            select(*[readable(each) for each in sockets])

    @staticmethod
    def _stream(sock: socket.socket, peer: Any) -> Stream:
        try:
            return stream_to(sock, peer)
        except BaseException:
            sock.close()
            raise

    def __iter__(self) -> Iterator[Stream]:
        while self._sockets:
            try:
                stream = self.accept()
            except OSError as error:
                if error.errno in PASSING or (error.errno == errno.EBADF and self.closed):
                    continue
                raise
            yield stream

    def close(self) -> None:
        """Stop listening: connections that nobody has accepted are reset. Who waits in accept gets OSError (EBADF).

        A Unix socket's file is removed, if it is still the one that was made, and this the process that made it.
        """
        sockets, self._sockets = self._sockets, []
        file, self._file = self._file, None
        try:
            if file is not None and file[2] == os.getpid() and _identity(file[0]) == file[1]:
                with contextlib.suppress(OSError):
                    os.unlink(file[0])
        finally:
            for each in sockets:
                each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        where = ", ".join(map(shown_address, self._addresses))
        return f"<greenio.Listener on {where}{', closed' if self.closed else ''}>"


def _identity(path: str | bytes) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def listen_tcp(
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    backlog: int = BACKLOG,
    reuse_port: bool = False,
    family: int = 0,
    nodelay: bool = True,
) -> Listener:
    """Listen for TCP connections, on all addresses of *host*. Parks only to look up a name.

    IPv6 and IPv4 get sockets of their own, so that peers have addresses of their own kind. SO_REUSEADDR is set, and
    TCP_NODELAY for the connections.

    Args:
        host: a name or an address, or several; None or "": all addresses of this machine.
        port: 0 takes a free one, the same on all addresses.
        backlog: connections that may wait to be accepted; net.core.somaxconn is the kernel's own bound.
        reuse_port: let other processes listen on the same port; the kernel spreads the connections.
        family: socket.AF_INET or AF_INET6 to use no other.
        nodelay: False leaves TCP_NODELAY unset.
    Raises:
        OSError: an address cannot be had, as errno says; addresses of families that this machine has switched off are left out
            while there are others. gaierror: the name is not known. Nothing is left open.
    """
    targets = _listen_targets(host, port, family)
    for _ in range(SAME_PORT_TRIES - 1):
        try:
            return Listener(_listening(targets, port, backlog, reuse_port, nodelay))
        except OSError as error:
            if port != 0 or error.errno != errno.EADDRINUSE or len(targets) == 1:
                raise
    return Listener(_listening(targets, port, backlog, reuse_port, nodelay))


def _listen_targets(host: str | Sequence[str] | None, port: int, family: int) -> list[tuple[int, Any]]:
    hosts = [host] if host is None or isinstance(host, str) else list(host)
    targets: list[tuple[int, Any]] = []
    for each in hosts:
        found = addresses_of(each or None, port, family, socket.AI_PASSIVE)
        targets += [(int(kind), address) for kind, _, _, _, address in found]
    targets = list(dict.fromkeys(targets))
    if not targets:
        raise OSError(errno.EADDRNOTAVAIL, f"no address to listen on for {host!r}")
    return sorted(targets, key=lambda target: target[0] != socket.AF_INET6) if None in hosts or "" in hosts else targets


def _listening(
    targets: list[tuple[int, Any]], port: int, backlog: int, reuse_port: bool, nodelay: bool
) -> list[socket.socket]:
    made: list[socket.socket] = []
    left_out: OSError | None = None
    try:
        for family, address in targets:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                left_out = error
                continue
            made.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if nodelay:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Linux: accepted sockets inherit it
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and len(made) > 1:
                address = (address[0], made[0].getsockname()[1], *address[2:])
            try:
                sock.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and len(targets) > 1:
                    left_out = error
                    made.pop().close()
                    continue
                raise OSError(error.errno, f"{error.strerror} (listening on {shown_address(address)})") from None
        if not made:
            assert left_out is not None
            raise OSError(
                left_out.errno, f"{left_out.strerror} (listening on {', '.join(shown_address(a) for _, a in targets)})"
            )
        for sock in made:
            sock.listen(backlog)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def listen_unix(
    path: str | bytes | os.PathLike[str], *, mode: int | None = None, backlog: int = BACKLOG, replace: bool = True
) -> Listener:
    """Listen on a Unix stream socket. Its file is removed when the listener is closed.

    Args:
        path: of the socket's file; a first character of NUL makes it an abstract name, which has no file.
        mode: the file's permissions, 0o600 for instance: who may write to it may connect. Never wider for a moment. None: the
            umask decides.
        backlog: connections that may wait to be accepted.
        replace: take the place of a socket's file that a dead process has left behind. Not that of one at which
            somebody listens, nor of another kind of file. Processes that do this at the same moment wait for each other; it may park.
    Raises:
        OSError: EADDRINUSE: somebody listens there, or the file is no socket; others as bind says, with the path. The file is
            as it was, and nothing is left open.
    """
    address = path if isinstance(path, bytes) else os.fspath(path)
    abstract = address[:1] in ("\0", b"\0")
    if abstract and mode is not None:
        raise ValueError("an abstract name has no file, and so no mode; anybody in the network namespace may connect")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        with contextlib.nullcontext() if abstract or not replace else _folder_lock(address):
            if mode is not None:
                os.fchmod(sock.fileno(), mode)  # Linux: bind makes the file with these, less the umask
            try:
                sock.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or abstract or not replace:
                    raise OSError(error.errno or errno.EINVAL, error.strerror or str(error), address) from None
                _remove_stale(address)
                sock.bind(address)
            bound = not abstract
            if mode is not None:
                os.chmod(address, mode)
            sock.listen(backlog)
        return Listener([sock], path=None if abstract else address)
    except BaseException:
        if bound:
            with contextlib.suppress(OSError):
                os.unlink(address)
        sock.close()
        raise


@contextlib.contextmanager
def _folder_lock(path: str | bytes) -> Iterator[None]:
    """Only one process at a time looks at the folder's sockets, removes a stale one and makes its own.

    The lock is on the folder itself, so that no file is left. Where it may not be opened there is none, and no harm but the race.
    """
    try:
        fd = os.open(os.path.dirname(path) or ("." if isinstance(path, str) else b"."), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        until = current_time() + STALE_LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if current_time() >= until:
                    raise OSError(
                        errno.EADDRINUSE,
                        f"another process has the folder locked for more than {STALE_LOCK_SECONDS:g} s",
                        path,
                    ) from None
                sleep(0.01)
            except OSError:
                break  # a file system without locks
        yield
    finally:
        os.close(fd)


def _remove_stale(path: str | bytes) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EADDRINUSE, "there is a file that is no socket; it was not touched", path)
    except FileNotFoundError:
        return  # removed meanwhile
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)
        found = probe.connect_ex(path)
    if found == errno.ECONNREFUSED:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    elif found != errno.ENOENT:
        raise OSError(errno.EADDRINUSE, "somebody listens there already", path)


class DrainReport(NamedTuple):
    """What became of the connections that were open when a server began to drain.

    Attributes:
        finished: their handlers ended by themselves within the grace period.
        cancelled: their handlers were cancelled, and have ended.
        stuck: their handlers were cancelled and have not ended within 10 seconds; they are left to themselves.
        seconds: how long all of it took.
    """

    finished: int
    cancelled: int
    stuck: int
    seconds: float


class ServerStatistics(NamedTuple):
    """What Server.statistics() returns.

    Attributes:
        accepted: connections, so far.
        active: connections now.
        finished, failed, cancelled: handlers that returned, raised, were cancelled.
        lost: handlers ended by the peer's going away; not among the failed.
        handshakes_failed: connections that never got to a handler.
        accept_pauses: times that accepting paused for lack of descriptors or memory.
        since: when the server began, in seconds on current_time()'s clock.
    """

    accepted: int
    active: int
    finished: int
    failed: int
    cancelled: int
    lost: int
    handshakes_failed: int
    accept_pauses: int
    since: float


def serve(
    handler: Callable[[Stream], object],
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    path: str | bytes | os.PathLike[str] | None = None,
    mode: int | None = None,
    listener: Listener | None = None,
    max_connections: int | None = None,
    backlog: int = BACKLOG,
    reuse_port: bool = False,
    tls: TLS = None,
    handshake_timeout: float | None = 30.0,
    grace: float = 10.0,
    stack_size: int | None = None,
) -> "Server":
    """Accept connections, and call *handler* with each one's Stream, in a fiber of its own. Returns at once.

        with greenio.serve(handle, "127.0.0.1", 8000) as server, greenio.signals(SIGTERM, SIGINT) as received:
            next(received)

    The end of the block stops accepting, gives busy handlers *grace* seconds, and cancels those that are left.

    When the handler returns, its stream is closed. What it raises is logged on "greenio", with the connection and the
    traceback, and ends only that connection; that the peer went away is logged as information. SystemExit and KeyboardInterrupt end
    the run. Running out of descriptors or memory is logged once, and accepting goes on in growing pauses until there are some.

    Args:
        handler: called with a Stream.
        host, port, backlog, reuse_port: as listen_tcp.
        path, mode: a Unix socket instead, as listen_unix.
        listener: an own one instead; the server closes it.
        max_connections: how many handlers at most; more connections wait in the kernel's backlog. None: no bound.
        tls: a server's ssl.SSLContext, with its certificate. Handshakes are done in the connection's own fiber, and count as
            connections.
        handshake_timeout: seconds for one; None: no bound.
        grace: seconds that handlers get when the server drains; math.inf: all they need.
        stack_size: bytes of stack for a handler, as spawn has it.
    Returns:
        A Server, accepting.
    Raises:
        OSError, gaierror: as listen_tcp and listen_unix. ValueError, TypeError: the arguments do not fit together.
        RuntimeError: no fibers run here. Nothing is left open.
    """
    if running_scheduler() is None:
        raise RuntimeError("serve needs fibers to run handlers in: call it inside greenio.run(main)")
    if not callable(handler):
        raise TypeError(f"the handler must be callable with a Stream, not {handler!r}")
    if max_connections is not None and max_connections < 1:
        raise ValueError(f"max_connections must be >= 1 or None, not {max_connections!r}")
    if handshake_timeout is not None and not handshake_timeout > 0:
        raise ValueError(f"handshake_timeout must be > 0 seconds or None, not {handshake_timeout!r}")
    if not grace >= 0:
        raise ValueError(f"grace must be >= 0 seconds, not {grace!r}")
    check_stack_size(stack_size)
    if (path is not None) + (listener is not None) + (host is not None or port != 0) > 1:
        raise ValueError("give one of: host and port, path, listener")
    if mode is not None and path is None:
        raise ValueError("mode is for the file of a Unix socket: give a path")
    if tls is not None and not hasattr(tls, "wrap_bio"):
        raise TypeError(f"tls must be an ssl.SSLContext with the server's certificate, not {tls!r}")
    if listener is None:
        if path is not None:
            listener = listen_unix(path, mode=mode, backlog=backlog)
        else:
            listener = listen_tcp(host, port, backlog=backlog, reuse_port=reuse_port)
    try:
        return Server(handler, listener, max_connections, tls, handshake_timeout, grace, stack_size)
    except BaseException:
        listener.close()
        raise


class Server:
    """What serve returns: handlers, a fiber each, and what accepts for them. A context manager whose end drains."""

    def __init__(
        self,
        handler: Callable[[Stream], object],
        listener: Listener,
        max_connections: int | None,
        tls: TLS,
        handshake_timeout: float | None,
        grace: float,
        stack_size: int | None,
    ) -> None:
        self._handler = handler
        self._handler_name = getattr(handler, "__name__", type(handler).__name__)
        self._listener = listener
        self._slots = None if max_connections is None else Semaphore(max_connections)
        self._tls = tls
        self._handshake_timeout = handshake_timeout
        self._grace = grace
        self._stack_size = stack_size
        self._handlers: dict[Fiber[None], Stream] = {}
        self._unstarted: BaseException | None = None  # why a handler's fiber could not begin
        self._draining = False
        self._drainers: set[Fiber[Any]] = set()  # in drain: of handlers that drain, none waits for another
        self._closed = Event()
        self._failure: BaseException | None = None
        self._accepted = self._finished = self._failed = self._cancelled = self._lost = 0
        self._handshakes_failed = self._accept_pauses = 0
        self._since = current_time()
        self._process = os.getpid()
        self._acceptor = spawn(self._accept_all, name=f"accept for {self._handler_name}")

    # --- what is known about it

    @property
    def listener(self) -> Listener:
        """What it accepts from."""
        return self._listener

    @property
    def addresses(self) -> list[Any]:
        """The addresses that it listens on, or did."""
        return self._listener.addresses

    @property
    def port(self) -> int:
        """The TCP port. ValueError: it listens on a Unix socket."""
        return self._listener.port

    @property
    def connections(self) -> int:
        """How many there are now, those in their handshake among them."""
        return len(self._handlers)

    @property
    def draining(self) -> bool:
        """Whether it has stopped accepting. A handler between two requests of a lasting connection looks here, and returns."""
        return self._draining

    @property
    def closed(self) -> bool:
        """Whether it has stopped, and waits for no handler any more."""
        return self._closed.is_set()

    def statistics(self) -> ServerStatistics:
        """What it has done so far."""
        return ServerStatistics(
            self._accepted,
            len(self._handlers),
            self._finished,
            self._failed,
            self._cancelled,
            self._lost,
            self._handshakes_failed,
            self._accept_pauses,
            self._since,
        )

    def __repr__(self) -> str:
        state = "closed" if self.closed else "draining" if self._draining else "open"
        where = ", ".join(map(shown_address, self.addresses))
        return f"<greenio.Server {self._handler_name} on {where}, {state}, {self.connections} connections>"

    # --- accepting

    def _accept_all(self) -> None:
        pause = 0.0
        paused_at = 0.0
        try:
            while not self._draining:
                if self._slots is not None:
                    self._slots.acquire()
                error: BaseException
                try:
                    stream = self._listener.accept()
                except OSError as caught:
                    self._give_slot_back()
                    if caught.errno in PASSING:
                        continue
                    if caught.errno not in EXHAUSTED:
                        raise
                    error = caught
                except BaseException:
                    self._give_slot_back()
                    raise
                else:
                    failure = self._begin(stream) if not self._draining else self._turn_away(stream)
                    if failure is None:
                        if pause:
                            log.info("%r accepts again, after %.3g s", self, current_time() - paused_at)
                            pause = 0.0
                        continue
                    error = failure
                if not pause:
                    paused_at = current_time()
                    self._accept_pauses += 1
                    log.warning(
                        "%r cannot accept for now (%s) with %d connections open; new ones wait in the backlog. If it lasts, raise "
                        "the limits (ulimit -n, memory), or bound the server with max_connections",
                        self,
                        error,
                        len(self._handlers),
                    )
                pause = min(2 * pause, LONGEST_PAUSE) if pause else FIRST_PAUSE
                error = None  # type: ignore[assignment]  # its traceback holds this frame
                sleep(pause)
        except Cancelled:
            raise
        except OSError as error:
            if self._draining and error.errno == errno.EBADF:
                return
            self._fail(error)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Accepting is over, by no wish of ours; the handlers go on, and wait() tells."""
        log.error("%r cannot accept any more", self, exc_info=error)
        self._failure = error
        self._draining = True
        self._listener.close()
        if not self._handlers:
            self._closed.set()

    def _give_slot_back(self) -> None:
        if self._slots is not None:
            self._slots.release()

    def _begin(self, stream: Stream) -> BaseException | None:
        """A fiber for the connection; or what came in the way, and the connection is closed. Or came in the way of one before."""
        try:
            fiber = spawn(
                self._handle,
                stream,
                name=f"{self._handler_name} {shown_address(stream.peername)}",
                stack_size=self._stack_size,
            )
        except BaseException as error:
            self._give_slot_back()
            stream.abort()
            if not isinstance(error, (MemoryError, OSError)):
                raise
            return error
        self._handlers[fiber] = stream
        fiber.add_done_callback(self._ended)
        self._accepted += 1
        unstarted, self._unstarted = self._unstarted, None
        return unstarted

    def _turn_away(self, stream: Stream) -> None:
        # It was accepted at the very moment at which that ended.
        self._give_slot_back()
        stream.abort()

    def _ended(self, fiber: Fiber[None]) -> None:
        stream = self._handlers.pop(fiber)
        try:
            if not stream.closed:
                # It never began: cancelled before, or there was no stack for it.
                if fiber.cancelled():
                    self._cancelled += 1
                else:
                    self._failed += 1
                    self._unstarted = MemoryError("no stack for a handler")
                stream.abort()
        finally:
            self._give_slot_back()
            if self._failure is not None and not self._handlers:
                self._closed.set()

    # --- one connection

    def _handle(self, stream: Stream) -> None:
        error = None
        try:
            if self._tls is None or self._shake_hands(stream):
                self._handler(stream)
                stream.close()
                self._finished += 1
        except Cancelled:
            self._cancelled += 1
            raise
        except Exception as caught:
            error = caught
        finally:
            stream.__exit__(Cancelled, Cancelled(), None)  # at once; nothing is left to do if close() was called
        if error is not None:
            try:
                self._tell(stream, error)
            finally:
                error = None  # its traceback holds this frame

    def _shake_hands(self, stream: Stream) -> bool:
        try:
            with time_limit(self._handshake_timeout):
                stream.start_tls(self._tls, server_side=True)
            return True
        except OSError as error:  # ssl.SSLError, TimeoutError
            self._handshakes_failed += 1
            log.info("TLS handshake with %s failed: %s", shown_address(stream.peername), error)
            return False

    def _tell(self, stream: Stream, error: Exception) -> None:
        if stream.connection_lost and isinstance(error, OSError):
            self._lost += 1
            log.info("%s has lost its connection to %s: %s", self._handler_name, shown_address(stream.peername), error)
            return
        self._failed += 1
        log.error(
            "%s failed, serving %s on %s",
            self._handler_name,
            shown_address(stream.peername),
            self._where(),
            exc_info=error,
        )

    def _where(self) -> str:
        return ", ".join(map(shown_address, self.addresses))

    # --- the end

    def wait(self) -> None:
        """Park until the server is closed: by close or drain, or because it cannot accept any more.

        Raises:
            OSError: that. Cancelled: this fiber was cancelled; the server goes on.
        """
        self._closed.wait()
        if self._failure is not None:
            raise self._failure

    def drain(self, grace: float | None = None) -> DrainReport:
        """Stop accepting; let busy handlers finish within *grace* seconds; cancel those that are left, and wait for them to end.

        Connections that wait in the backlog are reset. May be called by a handler: its own connection is not counted,
        and ends when it returns; nor is that of another one that drains already. In a forked child, which has no handlers, it
        closes the child's copies and no connection.

        Args:
            grace: seconds; None: as given to serve.
        Returns:
            A DrainReport.
        Raises:
            ValueError: *grace* is negative. Cancelled, KeyboardInterrupt: came while it waited; the grace period was cut short: the
                handlers were cancelled, and got a moment to end. The server is closed.
        """
        if grace is not None and not grace >= 0:
            raise ValueError(f"grace must be >= 0 seconds or None, not {grace!r}")
        if os.getpid() != self._process:
            return self._leave_to_the_parent()
        began = current_time()
        self._stop_accepting()
        me = current_fiber()
        waiting = self._others(me)
        self._drainers.add(me)
        try:
            if waiting:
                with move_on_after(self._grace if grace is None else grace):
                    for fiber in waiting:
                        fiber.join()
        finally:
            try:
                self._cancel_all(me)
            finally:
                self._drainers.discard(me)
                self._closed.set()
        left = sum(not fiber.done() for fiber in waiting)
        cancelled = sum(fiber.done() and fiber.cancelled() for fiber in waiting)
        if left:
            log.warning(
                "%r leaves %d handlers that did not end within %g s of being cancelled", self, left, UNWIND_SECONDS
            )
        return DrainReport(len(waiting) - cancelled - left, cancelled, left, current_time() - began)

    def close(self) -> DrainReport:
        """As drain with no grace: stop accepting, cancel the handlers, wait for them to end. Again: does nothing."""
        return self.drain(0)

    def _leave_to_the_parent(self) -> DrainReport:
        """In a forked child there are no handlers; the sockets are copies, and closing those ends no connection."""
        self._draining = True
        self._listener.close()
        me = current_fiber()
        for fiber, stream in list(self._handlers.items()):
            if fiber is not me:
                del self._handlers[fiber]
                stream.__exit__(Cancelled, Cancelled(), None)
        self._closed.set()
        return DrainReport(0, 0, 0, 0.0)

    def _stop_accepting(self) -> None:
        self._draining = True
        self._acceptor.cancel("the server has stopped accepting")
        self._listener.close()

    def _others(self, me: Fiber[Any]) -> list[Fiber[None]]:
        """Whom a drain by *me* waits for: handlers. Not for those that drain too, if it is one: they would wait for each other."""
        left_out = self._drainers if me in self._handlers else ()
        return [fiber for fiber in self._handlers if fiber is not me and fiber not in left_out]

    def _cancel_all(self, me: Fiber[Any]) -> None:
        """Cancels the handlers that are left and waits for them, a bounded time."""
        left = self._others(me)
        for fiber in left:
            fiber.cancel("the server closes")
        with shield(), move_on_after(UNWIND_SECONDS):
            for fiber in [*left, self._acceptor]:
                fiber.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.closed:
            return
        # Also where the block was left by Cancelled: the grace period is its bound.
        with shield():
            self.drain()
