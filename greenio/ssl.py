"""The standard ssl module's names, for fibers: handshakes, recv and send park instead of blocking the OS thread.

``start_tls(sock, context)`` puts TLS on a connection, with any ssl.SSLContext; ``SSLContext`` here is a standard one whose wrap_socket
makes the SSLSocket of this module.
"""

import contextlib
import errno
import os
import socket as _standard_socket
import ssl as _standard
import types as _types
import warnings as _warnings
from _ssl import ENCODING_DER as _DER
from _ssl import _SSLContext
from collections.abc import Callable
from typing import Any, Never, TypeVar

from greenio import socket as _socket
from greenio._scheduler import current_scheduler
from greenio._scopes import timeout as _timeout_scope
from greenio._socket import SocketCore
from greenio._ssl_names import *  # noqa: F403
from greenio._ssl_names import PROTOCOL_TLS_CLIENT, DER_cert_to_PEM_cert, MemoryBIO, SSLError, SSLObject, SSLSession
from greenio._ssl_names import __all__ as __all__
from greenio._tls import TLSCore
from greenio.socket import create_connection, socket

if hasattr(_standard, "match_hostname"):  # went with Python 3.12
    from ssl import RAND_pseudo_bytes as RAND_pseudo_bytes
    from ssl import match_hostname as match_hostname

__all__ = __all__.copy()
__all__ += [
    "SSLContext",
    "SSLSocket",
    "create_connection",
    "create_default_context",
    "get_server_certificate",
    "socket",
    "start_tls",
]

# As they were when this was imported: ssl's own names may be replaced by ours later.
_StandardContext = _standard.SSLContext
_standard_default_context = _standard.create_default_context
_standard_unverified_context = _standard._create_unverified_context
_standard_wrap_socket = _StandardContext.wrap_socket
_standard_wrap_bio = _StandardContext.wrap_bio

_SENDFILE_BYTES = 64 * 1024

_Context = TypeVar("_Context", bound="SSLContext")


class SSLSocket(TLSCore, socket):
    """A socket with TLS on it. Made by SSLContext.wrap_socket and start_tls; signatures and exceptions are those of ssl.SSLSocket.

    Several fibers may use it at once, also those of other OS threads: what one sends in one call stays in one piece, and a fiber that
    waits to receive keeps none from sending. The kernel's buffer is emptied further than one record, so whoever waits for the
    descriptor itself looks at pending() first, unless the timeout is 0: then no byte is taken beyond the current record.

    On a socket that carries TLS already, or on any object with recv, send, getpeername and close, it is TLS within that.
    """

    def __init__(self, *args: Never, **keywords: Never) -> None:
        raise TypeError(
            f"{type(self).__name__} does not have a public constructor. Instances are returned by SSLContext.wrap_socket() "
            "and start_tls()."
        )

    @classmethod
    def _create(
        cls,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        context: Any = None,
        session: SSLSession | None = None,
    ) -> "SSLSocket":
        """What ssl.SSLContext.wrap_socket calls of its sslsocket_class."""
        return cls._make(
            sock,
            context,
            through_bio=False,
            server_side=server_side,
            do_handshake_on_connect=do_handshake_on_connect,
            suppress_ragged_eofs=suppress_ragged_eofs,
            server_hostname=server_hostname,
            session=session,
        )

    @classmethod
    def _make(
        cls,
        sock: Any,
        context: Any,
        *,
        through_bio: bool,
        server_side: bool,
        do_handshake_on_connect: bool,
        suppress_ragged_eofs: bool,
        server_hostname: str | bytes | None,
        session: SSLSession | None,
    ) -> "SSLSocket":
        # through_bio: the session is made by context.wrap_bio, which a subclass may have made its own.
        if server_side and server_hostname:
            raise ValueError("server_hostname can only be specified in client mode")
        if server_side and session is not None:
            raise ValueError("session can only be specified in client mode")
        if context.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        carried = not _is_plain(sock)
        if not carried and sock.getsockopt(_standard_socket.SOL_SOCKET, _standard_socket.SO_TYPE) != (
            _standard_socket.SOCK_STREAM
        ):
            raise NotImplementedError("only stream sockets are supported")
        connected = carried or _is_connected(sock)
        if connected and do_handshake_on_connect:
            if sock.gettimeout() == 0:
                raise ValueError("do_handshake_on_connect should not be specified for non-blocking sockets")
            current_scheduler()  # or says that there is none, while *sock* is as it was
        made = cls.__new__(cls)
        made._context = context
        made._session = session
        made._through_bio = through_bio
        made._given_hostname = server_hostname
        made.server_side = server_side
        made.server_hostname = _encoded(server_hostname)
        made.do_handshake_on_connect = do_handshake_on_connect
        made.suppress_ragged_eofs = suppress_ragged_eofs
        made._connected = connected
        session_parts = None
        if connected:
            try:
                session_parts = made._new_session()
            except OSError:  # SSLError: it is a context for the other side
                sock.close()
                raise
        if carried:
            seconds = sock.gettimeout()
            made._carry(sock, seconds)
            made.settimeout(seconds)
        else:
            made._adopt(sock)
        try:
            if session_parts is not None:
                made._start(*session_parts)
                if do_handshake_on_connect:
                    made.do_handshake()
            else:
                made._refuse_early_data()
        except BaseException:
            with contextlib.suppress(OSError):
                made.close()
            raise
        return made

    def _new_session(self) -> tuple[Any, Any, Any, Any]:
        """What _start takes."""
        incoming, outgoing = MemoryBIO(), MemoryBIO()
        if self._through_bio:
            wrapper = self._context.wrap_bio(
                incoming,
                outgoing,
                server_side=self.server_side,
                server_hostname=self._given_hostname,
                session=self._session,
            )
            native = getattr(wrapper, "_sslobj", wrapper)
            with contextlib.suppress(AttributeError, TypeError):
                native.owner = self  # whom the context's callbacks get to see
            return native, wrapper, incoming, outgoing
        native = self._context._wrap_bio(
            incoming,
            outgoing,
            server_side=self.server_side,
            server_hostname=self.server_hostname,
            owner=self,
            session=self._session,
        )
        return native, None, incoming, outgoing

    def _refuse_early_data(self) -> None:
        # What was sent before the connection was shut down must not pass for what came through TLS.
        try:
            data = self._inner().recv(1, _standard_socket.MSG_DONTWAIT)
        except OSError as error:
            # EINVAL: a Unix socket that was never connected.
            if error.errno not in (errno.ENOTCONN, errno.EINVAL, errno.EAGAIN):
                raise
            return
        if data:
            reason = "Closed before TLS handshake with data in recv buffer."
            refusal: Any = SSLError(errno.ENOTCONN, reason)
            refusal.reason = reason
            refusal.library = None
            raise refusal

    # --- the session

    @property
    def context(self) -> Any:
        """The SSLContext in use. A server's sni_callback may set another one."""
        return self._context

    @context.setter
    def context(self, context: Any) -> None:
        self._context = context
        self._sslobj.context = context

    @property
    def session(self) -> SSLSession | None:
        """The session, to be resumed by another connection (``session=``). None before there is one."""
        native = self._sslobj
        return None if native is None else native.session

    @session.setter
    def session(self, session: SSLSession) -> None:
        self._session = session
        if self._sslobj is not None:
            self._sslobj.session = session

    @property
    def session_reused(self) -> bool | None:
        """Whether an earlier session was resumed."""
        native = self._sslobj
        return None if native is None else native.session_reused

    def _session_or_raise(self) -> Any:
        native = self._sslobj
        if native is None:
            if not self._connected:
                self.getpeername()
            raise ValueError(f"No SSL wrapper around {self!r}")
        return native

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The peer's certificate, as ssl.SSLSocket.getpeercert: a dict, {} if it was not verified, None without one; or DER bytes."""
        return self._session_or_raise().getpeercert(binary_form)

    def get_verified_chain(self) -> list[bytes]:
        """The peer's certificates up to a trusted one, as DER bytes."""
        return [each.public_bytes(_DER) for each in self._session_or_raise().get_verified_chain() or ()]

    def get_unverified_chain(self) -> list[bytes]:
        """The certificates that the peer sent, as DER bytes."""
        return [each.public_bytes(_DER) for each in self._session_or_raise().get_unverified_chain() or ()]

    def selected_npn_protocol(self) -> None:
        """None, as in the standard module."""
        _warnings.warn("ssl NPN is deprecated, use ALPN instead", DeprecationWarning, stacklevel=2)

    def selected_alpn_protocol(self) -> str | None:
        """The protocol agreed on by ALPN, or None."""
        answer: str | None = self._ask("selected_alpn_protocol")
        return answer

    def cipher(self) -> tuple[str, str, int] | None:
        """(name, version, secret bits) of the cipher in use, or None."""
        answer: tuple[str, str, int] | None = self._ask("cipher")
        return answer

    def shared_ciphers(self) -> list[tuple[str, str, int]] | None:
        """The ciphers that both sides know, at a server; else None."""
        answer: list[tuple[str, str, int]] | None = self._ask("shared_ciphers")
        return answer

    def compression(self) -> str | None:
        """The compression in use, or None."""
        answer: str | None = self._ask("compression")
        return answer

    def version(self) -> str | None:
        """The protocol version in use, such as "TLSv1.3", or None."""
        answer: str | None = self._ask("version")
        return answer

    def _ask(self, name: str) -> Any:
        native = self._sslobj
        return None if native is None else getattr(native, name)()

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """What identifies this connection, for authentication on top of it; None before the handshake.

        Raises:
            ValueError: *cb_type* is not among CHANNEL_BINDING_TYPES.
        """
        if self._sslobj is not None:
            binding: bytes | None = self._sslobj.get_channel_binding(cb_type)
            return binding
        if cb_type not in _standard.CHANNEL_BINDING_TYPES:
            raise ValueError(f"{cb_type} channel binding type not implemented")
        return None

    def verify_client_post_handshake(self) -> None:
        """Ask the client for a certificate now (TLS 1.3, server side). The request goes out with the next send."""
        if self._sslobj is None:
            raise ValueError(f"No SSL wrapper around {self!r}")
        self._sslobj.verify_client_post_handshake()

    # --- connections

    def connect(self, address: Any) -> None:
        """Connect to *address* and do the handshake, unless do_handshake_on_connect is off. Parks.

        Raises:
            ValueError: it is connected, or a server's. The rest: as socket.connect and do_handshake.
        """
        self._real_connect(address, super().connect)

    def connect_ex(self, address: Any) -> int:
        """As connect, but returns the errno of a failure to connect, 0 for none."""
        result: int = self._real_connect(address, super().connect_ex)
        return result

    def _real_connect(self, address: Any, connect: Callable[[Any], Any]) -> Any:
        if self.server_side:
            raise ValueError("can't connect in server-side mode")
        if self._connected or self._sslobj is not None:
            raise ValueError("attempt to connect already-connected SSLSocket!")
        failure = connect(address)
        if failure:
            return failure
        self._start(*self._new_session())
        self._connected = True
        try:
            if self.do_handshake_on_connect:
                self.do_handshake()
        except (OSError, ValueError):
            self._forget_tls()
            raise
        return failure

    def accept(self) -> "tuple[SSLSocket, Any]":
        """Wait for a connection, and do its handshake unless do_handshake_on_connect is off; returns (SSLSocket, address).

        A peer that is slow at its handshake keeps the next ones waiting: accept with a plain socket, and start_tls in a fiber for
        each connection, is what servers want.
        """
        accepted, address = super().accept()
        try:
            return _wrap(
                accepted,
                self._context,
                type(self),
                server_side=True,
                do_handshake_on_connect=self.do_handshake_on_connect,
                suppress_ragged_eofs=self.suppress_ragged_eofs,
                server_hostname=None,
                session=None,
            ), address
        except BaseException:
            accepted.close()
            raise

    def dup(self) -> Never:
        """Not possible: two sockets cannot share a TLS session."""
        raise NotImplementedError(f"Can't dup() {type(self).__name__} instances")

    # --- what datagrams and ancillary data have; in the clear only before TLS begins and after it has ended

    def _refuse(self, name: str) -> None:
        if self._sslobj is not None:
            raise ValueError(f"{name} not allowed on instances of {type(self)}")

    def sendto(self, *args: Any) -> int:
        """As socket.sendto. ValueError while there is TLS."""
        self._refuse("sendto")
        result: int = super().sendto(*args)
        return result

    def recvfrom(self, buflen: int = 1024, flags: int = 0) -> tuple[bytes, Any]:
        """As socket.recvfrom. ValueError while there is TLS."""
        self._refuse("recvfrom")
        if self._has_leftover:
            return self.recv(buflen, flags), None
        result: tuple[bytes, Any] = super().recvfrom(buflen, flags)
        return result

    def recvfrom_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> tuple[int, Any]:
        """As socket.recvfrom_into. ValueError while there is TLS."""
        self._refuse("recvfrom_into")
        if self._has_leftover:
            return self.recv_into(buffer, nbytes, flags), None
        result: tuple[int, Any] = super().recvfrom_into(buffer, nbytes or 0, flags)
        return result

    def sendmsg(self, *args: Any, **keywords: Any) -> Never:
        """Never: it would send in the clear."""
        raise NotImplementedError(f"sendmsg not allowed on instances of {type(self)}")

    def recvmsg(self, *args: Any, **keywords: Any) -> Never:
        """Never: it would receive ciphertext."""
        raise NotImplementedError(f"recvmsg not allowed on instances of {type(self)}")

    def recvmsg_into(self, *args: Any, **keywords: Any) -> Never:
        """Never: it would receive ciphertext."""
        raise NotImplementedError(f"recvmsg_into not allowed on instances of {type(self)}")

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a file from *offset* on, *count* bytes or to its end; returns how many bytes. The file is read by this OS thread.

        The file's position is behind what was sent afterwards, also when this raises: then as sendall, with ``bytes_sent`` of all.
        """
        if self._sslobj is None:
            result: int = super().sendfile(file, offset, count)
            return result
        _standard_socket.socket._check_sendfile_params(self, file, offset, count)  # type: ignore[attr-defined]
        if self.gettimeout() == 0:
            raise ValueError("non-blocking sockets are not supported")
        if offset:
            file.seek(offset)
        total = 0
        data = b""
        try:
            while count is None or total < count:
                data = file.read(_SENDFILE_BYTES if count is None else min(_SENDFILE_BYTES, count - total))
                if not data:
                    break
                self.sendall(data)
                total += len(data)
        except BaseException as error:
            with contextlib.suppress(AttributeError):
                error.bytes_sent += total  # type: ignore[attr-defined]
                total = error.bytes_sent  # type: ignore[attr-defined]
            if not total:
                with contextlib.suppress(AttributeError, TypeError, ValueError, OSError):
                    file.seek(-len(data), os.SEEK_CUR)
            raise
        finally:
            if total > 0 and hasattr(file, "seek"):
                file.seek(offset + total)
        return total

    # --- names that a transport answers for

    @property
    def family(self) -> Any:
        """The address family."""
        return super().family if self._transport is None else self._transport.family

    @property
    def type(self) -> Any:
        """The socket's kind: a stream."""
        return super().type if self._transport is None else _socket.SOCK_STREAM

    def fileno(self) -> int:
        """The descriptor, or -1 once the socket is closed."""
        if self._transport is None:
            return super().fileno()
        number: int = self._transport.fileno()
        return number

    def getsockname(self) -> Any:
        """The socket's own address."""
        return super().getsockname() if self._transport is None else self._transport.getsockname()

    def getpeername(self) -> Any:
        """The peer's address. OSError (ENOTCONN) without one."""
        return super().getpeername() if self._transport is None else self._transport.getpeername()

    def getsockopt(self, *args: Any) -> Any:
        """As socket.getsockopt."""
        return super().getsockopt(*args) if self._transport is None else self._transport.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        """As socket.setsockopt."""
        if self._transport is None:
            super().setsockopt(*args)
        else:
            self._transport.setsockopt(*args)

    def __repr__(self) -> str:
        if self._transport is not None:
            return f"<greenio.ssl.SSLSocket over {self._transport!r}>"
        return super().__repr__().replace("greenio.socket.socket", "greenio.ssl.SSLSocket", 1)


def _forwarded(name: str) -> Callable[[SSLSocket], Any]:
    def ask(self: SSLSocket) -> Any:
        return self._ask(name)

    ask.__name__ = name
    ask.__qualname__ = f"SSLSocket.{name}"
    ask.__doc__ = getattr(SSLObject, name).__doc__
    return ask


for _name in ("group", "client_sigalg", "server_sigalg"):  # new in Python 3.15
    if hasattr(SSLObject, _name):
        setattr(SSLSocket, _name, _forwarded(_name))


class _Native:
    """The properties of _ssl's context, in the place where ssl.SSLContext's setters look for them.

    Those setters say ``super(SSLContext, SSLContext).options.__set__(self, value)``, where SSLContext is whatever ssl.SSLContext is
    by then. Once that is the class below, the next one in its line of bases must not be the standard class again: its setter would
    call itself for ever, for contexts of the standard class also.
    """

    __slots__ = ()

    options: Any = _SSLContext.options
    verify_flags: Any = _SSLContext.verify_flags
    verify_mode: Any = _SSLContext.verify_mode
    minimum_version: Any = _SSLContext.minimum_version
    maximum_version: Any = _SSLContext.maximum_version
    _msg_callback: Any = _SSLContext._msg_callback  # type: ignore[attr-defined]


class SSLContext(_Native, _StandardContext):
    """An ssl.SSLContext whose wrap_socket makes this module's SSLSocket. It is a standard one in all else."""

    sslsocket_class = SSLSocket  # type: ignore[assignment]


for _name in ("options", "verify_flags", "verify_mode", "minimum_version", "maximum_version", "_msg_callback"):
    setattr(SSLContext, _name, _StandardContext.__dict__[_name])
del _name


class _Chooser:
    """In place of a standard context's sslsocket_class: our class for our sockets, the context's own for all others."""

    def __init__(self, other: Any) -> None:
        self._other = other

    def _create(self, sock: Any, **keywords: Any) -> Any:
        chosen = SSLSocket if isinstance(sock, SocketCore) else self._other
        return chosen._create(sock=sock, **keywords)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)


def _is_plain(sock: Any) -> bool:
    """Whether *sock* is a descriptor and nothing on top."""
    if isinstance(sock, TLSCore):
        return not sock._has_tls and sock._transport is None
    if isinstance(sock, SocketCore):
        return True
    return isinstance(sock, _standard_socket.socket) and getattr(sock, "_sslobj", None) is None


def _is_connected(sock: Any) -> bool:
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return False
    return True


def _encoded(hostname: str | bytes | None) -> str | None:
    if hostname is None:
        return None
    if isinstance(hostname, str):
        return hostname.encode("idna").decode("ascii")
    return hostname.decode("ascii")


def _wrap(sock: Any, context: Any, cls: type[SSLSocket], **keywords: Any) -> SSLSocket:
    """An SSLSocket on *sock*, whatever kind of context *context* is."""
    wrap_socket = getattr(type(context), "wrap_socket", None)
    own_bio = (
        getattr(type(context), "wrap_bio", None) is not _standard_wrap_bio
        or getattr(context, "sslobject_class", SSLObject) is not SSLObject
    )
    if isinstance(context, SSLContext) or (wrap_socket is not _standard_wrap_socket and not own_bio):
        if not isinstance(context, SSLContext) and not isinstance(context.sslsocket_class, _Chooser):
            context.sslsocket_class = _Chooser(context.sslsocket_class)
        made = context.wrap_socket(sock, **keywords)
        if not isinstance(made, SSLSocket):
            made.close()
            raise TypeError(
                f"wrap_socket of {context!r} returned {made!r}, which would block the OS thread: let it call the wrap_socket of "
                "ssl.SSLContext with the socket that it was given"
            )
        return made
    return cls._make(sock, context, through_bio=own_bio, **keywords)


def start_tls(
    sock: Any,
    context: _standard.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | bytes | None = None,
    timeout: float | None = None,
    session: SSLSession | None = None,
) -> SSLSocket:
    """Put TLS on the connection *sock* and do the handshake, which parks; returns the SSLSocket, which takes the connection over.

    A context of this module makes it by its wrap_socket, a standard one by what wrap_socket would do. One that has a wrap_bio or
    sslobject_class of its own, as truststore's, makes the session by that and verifies in its object's do_handshake.

    Args:
        sock: a connected socket, of greenio's or a standard one, which is detached; one that carries TLS already, or any object with
            recv, send, gettimeout, settimeout, getpeername and close: it carries the TLS from now on.
        context: any ssl.SSLContext.
        server_side: be the server; the context has a certificate.
        server_hostname: whom to connect to: for SNI, and verified if the context says check_hostname.
        timeout: seconds for the handshake, in addition to the socket's own timeout; None: no limit.
        session: an earlier connection's session, to be resumed.
    Raises:
        TypeError, ValueError: the arguments do not fit together. OSError: *sock* is not connected. *sock* is as it was.
        SSLCertVerificationError, SSLError, OSError: the handshake failed. The connection is closed.
        TimeoutError: it took longer than *timeout*, or the socket's own. Cancelled: this fiber was cancelled. The connection is closed.
    """
    if not isinstance(context, _StandardContext):
        raise TypeError(f"context must be an ssl.SSLContext, not {context!r}")
    if _is_plain(sock):
        sock.getpeername()
    with _timeout_scope(timeout):
        made = _wrap(
            sock,
            context,
            SSLSocket,
            server_side=server_side,
            do_handshake_on_connect=True,
            suppress_ragged_eofs=True,
            server_hostname=server_hostname,
            session=session,
        )
    return made  # noqa: RET504 (mypy knows of no return in the block)


def _as_ours(context: Any) -> Any:
    if type(context) is _StandardContext:
        context.__class__ = SSLContext
    return context


def create_default_context(
    purpose: Any = _standard.Purpose.SERVER_AUTH,
    *,
    cafile: Any = None,
    capath: Any = None,
    cadata: Any = None,
) -> SSLContext:
    """A context with the settings of ssl.create_default_context, for clients (SERVER_AUTH) or servers (CLIENT_AUTH)."""
    made: SSLContext = _as_ours(_standard_default_context(purpose, cafile=cafile, capath=capath, cadata=cadata))
    return made


def _create_unverified_context(*args: Any, **keywords: Any) -> SSLContext:
    made: SSLContext = _as_ours(_standard_unverified_context(*args, **keywords))
    return made


_create_default_https_context = create_default_context
_create_stdlib_context = _create_unverified_context


def get_server_certificate(
    addr: tuple[str, int],
    ssl_version: int = PROTOCOL_TLS_CLIENT,
    ca_certs: Any = None,
    timeout: Any = _socket._GLOBAL_DEFAULT_TIMEOUT,
) -> str:
    """The certificate of the server at *addr*, (host, port), as PEM text. Parks.

    Args:
        ssl_version: the protocol, as for SSLContext.
        ca_certs: a file of certificates to verify it with; None: it is not verified.
        timeout: seconds for the connection and each step of the handshake.
    Raises:
        OSError, SSLError, TimeoutError: as create_connection and the handshake. Nothing is left open.
    """
    context = _create_unverified_context(
        ssl_version,
        cert_reqs=_standard.CERT_NONE if ca_certs is None else _standard.CERT_REQUIRED,
        cafile=ca_certs,
    )
    with create_connection(addr, timeout=timeout) as sock:
        with _wrap(
            sock,
            context,
            SSLSocket,
            server_side=False,
            do_handshake_on_connect=True,
            suppress_ragged_eofs=True,
            server_hostname=addr[0],
            session=None,
        ) as wrapped:
            certificate = wrapped.getpeercert(True)
    return DER_cert_to_PEM_cert(certificate)


# What this version of Python has beyond the names that all of them have.
for _each in dir(_standard):
    if (
        not _each.startswith("_")
        and _each not in {"namedtuple", "wrap_socket", *globals()}
        and not isinstance(getattr(_standard, _each), _types.ModuleType)
    ):
        globals()[_each] = getattr(_standard, _each)
        __all__.append(_each)
del _each

if hasattr(_standard, "wrap_socket"):  # went with Python 3.12
    __all__ += ["RAND_pseudo_bytes", "match_hostname", "wrap_socket"]

    def wrap_socket(
        sock: Any,
        keyfile: Any = None,
        certfile: Any = None,
        server_side: bool = False,
        cert_reqs: int = _standard.CERT_NONE,
        ssl_version: int = _standard.PROTOCOL_TLS,
        ca_certs: Any = None,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        ciphers: str | None = None,
    ) -> SSLSocket:
        """As ssl.wrap_socket, deprecated: SSLContext.wrap_socket and start_tls are the ways."""
        _warnings.warn(
            "ssl.wrap_socket() is deprecated, use SSLContext.wrap_socket()", DeprecationWarning, stacklevel=2
        )
        if server_side and not certfile:
            raise ValueError("certfile must be specified for server-side operations")
        if keyfile and not certfile:
            raise ValueError("certfile must be specified")
        context = SSLContext(ssl_version)
        context.verify_mode = cert_reqs
        if ca_certs:
            context.load_verify_locations(ca_certs)
        if certfile:
            context.load_cert_chain(certfile, keyfile)
        if ciphers:
            context.set_ciphers(ciphers)
        made: Any = context.wrap_socket(
            sock,
            server_side=server_side,
            do_handshake_on_connect=do_handshake_on_connect,
            suppress_ragged_eofs=suppress_ragged_eofs,
        )
        wrapped: SSLSocket = made
        return wrapped
