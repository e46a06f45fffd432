"""greenio.ssl: what the standard module does, with fibers that park; with the standard module itself as peer and as judge."""

import _ssl
import contextlib
import ctypes
import errno
import fcntl
import functools
import gc
import hashlib
import inspect
import io
import os
import random
import shutil
import socket as standard_socket
import ssl as standard
import struct
import subprocess
import sys
import termios
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child import run_child
from faults import Faults

import greenio
from greenio import socket, spawn, ssl
from greenio.testing import VirtualClock, wait_all_parked

trustme = pytest.importorskip("trustme", reason="certificates for tests: pip install trustme")

LOCALHOST = "127.0.0.1"
CA = trustme.CA()
CERTIFICATE = CA.issue_cert("localhost", LOCALHOST)
OTHER_CERTIFICATE = CA.issue_cert("other.example")
CLIENT_CERTIFICATE = CA.issue_cert("client@example.org")
STRANGER = trustme.CA()


def server_context(make: Any = standard.SSLContext, certificate: Any = CERTIFICATE) -> Any:
    context = make(standard.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def client_context(make: Any = ssl.SSLContext, trusted: Any = CA) -> Any:
    context = make(standard.PROTOCOL_TLS_CLIENT)
    trusted.configure_trust(context)
    return context


def fibers(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The test is the main fiber of a run."""

    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        before = len(os.listdir("/proc/self/fd"))
        result = greenio.run(functools.partial(fn, *args, **keywords), clock=VirtualClock())
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before, "descriptors are left open"
        return result

    return test


def tcp_pair() -> tuple[Any, Any]:
    with socket.create_server((LOCALHOST, 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
        left.settimeout(None)
    return left, right


def serve_tls(sock: Any, context: Any) -> Any:
    return ssl.start_tls(sock, context, server_side=True)


@contextlib.contextmanager
def connected(
    client: Any = None, server: Any = None, pair: Any = tcp_pair, **keywords: Any
) -> Iterator[tuple[Any, Any]]:
    """(client, server), both ours, after the handshake."""
    left, right = pair()
    accepting = spawn(serve_tls, right, server or server_context())
    keywords.setdefault("server_hostname", "localhost")
    try:
        made = ssl.start_tls(left, client or client_context(), **keywords)
    except BaseException:
        with contextlib.suppress(OSError):
            accepting.result().close()
        raise
    with made, accepting.result() as other:
        yield made, other


def receive_exactly(sock: Any, count: int) -> bytes:
    parts = []
    while count:
        data = sock.recv(min(count, 65536))
        assert data, f"the stream ended {count} bytes early"
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def block(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


class Peer:
    """A standard peer in an OS thread: script(its socket), for one connection."""

    def __init__(self, script: Callable[[Any], Any]) -> None:
        self.listener = standard_socket.create_server((LOCALHOST, 0))
        self.address = self.listener.getsockname()
        self.script = script
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self.work)

    def work(self) -> None:
        try:
            connection, _ = self.listener.accept()
            connection.settimeout(30)
            with connection:
                self.script(connection)
        except BaseException as error:
            self.failure = error

    def __enter__(self) -> "Peer":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.thread.join()
        self.listener.close()


def outcome(fn: Callable[[], Any]) -> Any:
    """What fn() returns, or what its exception says that programs look at."""
    try:
        return fn()
    except Exception as error:
        said = [type(error)]
        if isinstance(error, standard.SSLError):
            said += [error.args[0], error.reason, error.library]
        elif isinstance(error, OSError) and not isinstance(error, TimeoutError):
            said.append(error.errno)
        if isinstance(error, standard.SSLCertVerificationError):
            said += [error.verify_code, error.verify_message]
        return said


def both(script: Callable[[Any], Any], use: Callable[[Any, Any, Any], Any]) -> Any:
    """The same use(module of sockets, module of TLS, the peer's address) with the standard modules and with ours; they must agree."""
    results = []
    for sockets, tls in ((standard_socket, standard), (socket, ssl)):
        with Peer(script) as peer:
            run = greenio.run if tls is ssl else (lambda fn: fn())
            results.append(run(lambda s=sockets, t=tls, a=peer.address: outcome(lambda: use(s, t, a))))
    assert results[0] == results[1], "the standard module's outcome, and ours"
    return results[1]


def tls_server(then: Callable[[Any], Any], **settings: Any) -> Callable[[Any], Any]:
    def script(connection: Any) -> None:
        context = server_context()
        for name, value in settings.items():
            setattr(context, name, value)
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
            then(wrapped)

    return script


def connect_tls(
    sockets: Any, tls: Any, address: Any, hostname: str = "localhost", trusted: Any = CA, **keywords: Any
) -> Any:
    context = client_context(tls.SSLContext, trusted)
    for name in [name for name in keywords if hasattr(context, name)]:
        setattr(context, name, keywords.pop(name))
    sock = sockets.create_connection(address)
    try:
        return context.wrap_socket(sock, server_hostname=hostname, **keywords)
    except BaseException:
        sock.close()
        raise


def echo_until_end(wrapped: Any) -> None:
    while data := wrapped.recv(65536):
        wrapped.sendall(data)


def wait_for_end(wrapped: Any) -> None:
    while wrapped.recv(65536):
        pass


# --- as the standard module ------------------------------------------------------------------------------------------


def test_every_public_name_of_the_standard_module_is_there() -> None:
    wanted = {
        name
        for name in dir(standard)
        if not name.startswith("_") and not isinstance(getattr(standard, name), types.ModuleType)
    } - {"namedtuple"}
    assert wanted - set(dir(ssl)) == set()
    assert wanted - {"socket", "create_connection"} <= set(ssl.__all__) | {"socket_error"}
    assert {name for name in ssl.__all__ if not hasattr(ssl, name)} == set()
    assert set(dir(standard.SSLSocket)) - set(dir(ssl.SSLSocket)) - set(dir(standard_socket.socket)) == {
        "_check_connected",
        "_checkClosed",
    }


@pytest.mark.parametrize(
    "name",
    [
        "do_handshake",
        "unwrap",
        "recv",
        "recv_into",
        "read",
        "write",
        "send",
        "sendall",
        "sendfile",
        "pending",
        "getpeercert",
    ],
)
def test_signatures_are_the_standard_ones(name: str) -> None:
    ours = inspect.signature(getattr(ssl.SSLSocket, name)).parameters
    theirs = inspect.signature(getattr(standard.SSLSocket, name)).parameters
    assert [(each.name, each.default) for each in ours.values()] == [
        (each.name, each.default) for each in theirs.values()
    ]


def test_a_session_looks_the_same() -> None:
    def use(sockets: Any, tls: Any, address: Any) -> Any:
        with connect_tls(sockets, tls, address) as wrapped:
            wrapped.sendall(b"hello")
            return (
                wrapped.recv(100),
                wrapped.version(),
                wrapped.cipher(),
                wrapped.shared_ciphers(),
                wrapped.compression(),
                wrapped.selected_alpn_protocol(),
                wrapped.getpeercert(),
                len(wrapped.getpeercert(True)),
                wrapped.server_hostname,
                wrapped.server_side,
                wrapped.session_reused,
                type(wrapped.session),
                len(wrapped.get_channel_binding()),
                wrapped.pending(),
                wrapped.gettimeout(),
            )

    seen = both(tls_server(echo_until_end), use)
    assert seen[0] == b"hello"


def one_mebibyte(wrapped: Any) -> None:
    wrapped.sendall(block(1 << 20))
    wait_for_end(wrapped)


@pytest.mark.parametrize("size", [1, 1000, 16383, 16384, 16385, 65536, 1 << 20])
def test_any_read_size_brings_every_byte(size: int) -> None:
    def use(sockets: Any, tls: Any, address: Any) -> Any:
        total = 1 << 20 if size > 1 else 3000
        with connect_tls(sockets, tls, address) as wrapped:
            into = bytearray(size)
            got = bytearray()
            while len(got) < total:
                if len(got) % 2:
                    got += wrapped.recv(size)
                else:
                    got += into[: wrapped.recv_into(into)]
            assert block(1 << 20).startswith(got)
            return wrapped.recv(0), wrapped.recv_into(bytearray(0)) if size > 1 else None

    both(tls_server(one_mebibyte), use)


def takes_any_end_for_regular() -> bool:
    """Whether this interpreter's _ssl takes an end without close_notify for one with it, as CPython 3.11.2's does."""
    client, server = standard.MemoryBIO(), standard.MemoryBIO()
    to_client, to_server = standard.MemoryBIO(), standard.MemoryBIO()
    one = client_context().wrap_bio(client, to_server, server_hostname="localhost")
    other = server_context().wrap_bio(server, to_client, server_side=True)
    for each in (one, other) * 4:
        with contextlib.suppress(standard.SSLWantReadError):
            each.do_handshake()
        server.write(to_server.read())
        client.write(to_client.read())
    client.write_eof()
    try:
        return one.read(1) == b""
    except standard.SSLEOFError:
        return False


@pytest.mark.parametrize("suppress", [True, False])
@pytest.mark.parametrize("how", ["close_notify", "cut", "reset", "cut within a record"])
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_the_end_of_the_stream(how: str, suppress: bool, version: str) -> None:
    def end(wrapped: Any) -> None:
        wrapped.sendall(b"last words")
        wrapped.recv(1)
        if how == "close_notify":
            wrapped.setblocking(False)
            with contextlib.suppress(OSError):
                wrapped.unwrap()
        elif how == "reset":
            wrapped.setsockopt(standard_socket.SOL_SOCKET, standard_socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "cut within a record":
            os.write(wrapped.fileno(), b"\x17\x03\x03\x01\x00half of it")

    def use(sockets: Any, tls: Any, address: Any) -> Any:
        pinned = {
            "minimum_version": getattr(standard.TLSVersion, version),
            "maximum_version": getattr(standard.TLSVersion, version),
        }
        with connect_tls(sockets, tls, address, suppress_ragged_eofs=suppress, **pinned) as wrapped:
            first = receive_exactly(wrapped, 10)
            wrapped.sendall(b".")
            return (
                first,
                outcome(lambda: wrapped.recv(100)),
                outcome(lambda: wrapped.recv(100)),
                outcome(lambda: wrapped.read(100)),
            )

    if how != "reset":
        both(tls_server(end), use)
    else:
        # Before Python 3.13 the standard module takes a reset for an end (and suppresses that).
        with Peer(tls_server(end)) as peer:
            found = greenio.run(lambda: use(socket, ssl, peer.address))
        end_of_it: Any = b"" if suppress or takes_any_end_for_regular() else [standard.SSLEOFError, 8, None, None]
        assert found[:2] == (b"last words", [ConnectionResetError, errno.ECONNRESET])
        assert found[2][:2] == end_of_it[:2] == found[3][:2]


@pytest.mark.parametrize("hostname", ["wrong.example", "127.0.0.2"])
def test_a_certificate_for_another_host_is_refused_as_by_the_standard_module(hostname: str) -> None:
    found = both(tls_server(wait_for_end), lambda *where: connect_tls(*where, hostname=hostname))
    assert found[0] is standard.SSLCertVerificationError


def test_a_certificate_of_nobody_trusted_is_refused_as_by_the_standard_module() -> None:
    found = both(tls_server(wait_for_end), lambda *where: connect_tls(*where, trusted=STRANGER))
    assert found[0] is standard.SSLCertVerificationError


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"HTTP/1.0 400 Bad Request\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x16\x03\x03\x40\x00ab",
        b"SSH-2.0-x\r\n",
    ],
)
def test_a_peer_that_speaks_no_tls(nonsense: bytes) -> None:
    def talk(connection: Any) -> None:
        connection.recv(65536)
        connection.sendall(nonsense)
        connection.shutdown(standard_socket.SHUT_WR)
        with contextlib.suppress(OSError):
            connection.recv(65536)

    found = both(talk, connect_tls)
    assert issubclass(found[0], OSError)


def test_versions_that_do_not_meet() -> None:
    found = both(
        tls_server(wait_for_end, minimum_version=standard.TLSVersion.TLSv1_3),
        lambda *where: connect_tls(*where, maximum_version=standard.TLSVersion.TLSv1_2),
    )
    assert issubclass(found[0], standard.SSLError)


def test_a_record_that_was_tampered_with() -> None:
    def tamper(wrapped: Any) -> None:
        wrapped.sendall(b"true")
        wrapped.recv(1)
        os.write(wrapped.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
        wait_for_end(wrapped)

    def use(*where: Any) -> Any:
        with connect_tls(*where) as wrapped:
            first = receive_exactly(wrapped, 4)
            wrapped.sendall(b".")
            return first, outcome(lambda: wrapped.recv(100))

    first, failure = both(tls_server(tamper), use)
    assert first == b"true" and failure[0] is standard.SSLError


def test_the_c_level_bases_of_both_parents_are_one() -> None:
    # Else a method in C of the one would be taken for another one's of the other.
    assert ssl.TLSCore.__base__ is socket.socket.__base__


def test_the_peer_hears_why_a_handshake_failed() -> None:
    heard: list[Any] = []

    def serve(connection: Any) -> None:
        heard.append(outcome(lambda: server_context().wrap_socket(connection, server_side=True).recv(1)))

    both(serve, lambda *where: connect_tls(*where, trusted=STRANGER))
    assert heard[0] == heard[1]
    assert heard[1][2] == "TLSV1_ALERT_UNKNOWN_CA"


def test_what_a_closed_or_plain_one_says() -> None:
    def use(sockets: Any, tls: Any, address: Any) -> Any:
        wrapped = connect_tls(sockets, tls, address)
        refused = [
            outcome(lambda: wrapped.recv(10, 2)),
            outcome(lambda: wrapped.recv_into(bytearray(3), 1, 2)),
            outcome(lambda: wrapped.send(b"a", 2)),
            outcome(lambda: wrapped.sendall(b"a", 2)),
            outcome(lambda: wrapped.recvfrom(1)),
            outcome(lambda: wrapped.recvfrom_into(bytearray(2))),
            outcome(lambda: wrapped.sendto(b"a", ("127.0.0.1", 1))),
            outcome(lambda: wrapped.sendmsg([b"a"])),
            outcome(lambda: wrapped.recvmsg(1)),
            outcome(lambda: wrapped.recvmsg_into([bytearray(1)])),
            outcome(lambda: wrapped.dup()),
            outcome(lambda: wrapped.recv(-1)),
            outcome(lambda: wrapped.send("text")),
            outcome(lambda: wrapped.sendall("text")),
            outcome(lambda: wrapped.send(b"")),
            outcome(lambda: wrapped.sendall(b"")),
            outcome(lambda: wrapped.connect(address)),
            outcome(lambda: wrapped.get_channel_binding("nonsense")),
            outcome(lambda: tls.SSLSocket()),
        ]
        wrapped.close()
        return refused, [
            outcome(lambda: wrapped.recv(10)),
            outcome(lambda: wrapped.read(10)),
            outcome(lambda: wrapped.write(b"x")),
            outcome(lambda: wrapped.send(b"x")),
            outcome(lambda: wrapped.unwrap()),
            wrapped.version(),
            wrapped.cipher(),
            wrapped.session,
            wrapped.selected_alpn_protocol(),
            wrapped.pending(),
            wrapped.fileno(),
            wrapped.get_channel_binding(),
            outcome(lambda: wrapped.get_channel_binding("nonsense")),
            outcome(lambda: wrapped.verify_client_post_handshake()),
        ]

    refused, _ = both(tls_server(wait_for_end), use)
    assert next(each[0] for each in refused if isinstance(each, list)) is ValueError


def test_arguments_that_do_not_fit_together() -> None:
    def use(sockets: Any, tls: Any, address: Any) -> Any:
        client, server = client_context(tls.SSLContext), server_context(tls.SSLContext)
        with sockets.create_connection(address) as sock, sockets.socket(type=sockets.SOCK_DGRAM) as datagrams:
            found = [
                outcome(lambda: client.wrap_socket(sock)),
                outcome(lambda: server.wrap_socket(sock, server_side=True, server_hostname="x")),
                outcome(lambda: server.wrap_socket(sock, server_side=True, session=3)),
                outcome(lambda: client.wrap_socket(datagrams, server_hostname="localhost")),
            ]
            sock.sendall(b"still there")
            return found

    found = both(lambda connection: connection.recv(100), use)
    assert [each[0] for each in found] == [ValueError, ValueError, ValueError, NotImplementedError]


def test_a_context_for_the_other_side_is_refused_and_the_socket_closed() -> None:
    def use(sockets: Any, tls: Any, address: Any) -> Any:
        with sockets.create_connection(address) as sock:
            return outcome(lambda: server_context(tls.SSLContext).wrap_socket(sock)), sock.fileno()

    failure, fd = both(lambda connection: connection.recv(100), use)
    assert failure[0] is standard.SSLError and fd == -1


@fibers
def test_a_connection_that_was_reset_cannot_be_wrapped() -> None:
    left, right = tcp_pair()
    with left:
        left.sendall(b"unread")
        right.close()
        wait_all_parked()
        with pytest.raises(ConnectionResetError):
            client_context().wrap_socket(left, server_hostname="localhost")


def test_a_session_is_set_before_the_handshake() -> None:
    server = server_context()
    server.maximum_version = standard.TLSVersion.TLSv1_2

    def accept_two(connection: Any) -> None:
        with server.wrap_socket(connection, server_side=True) as wrapped:
            echo_until_end(wrapped)
        with server.wrap_socket(peers[0].listener.accept()[0], server_side=True) as wrapped:
            echo_until_end(wrapped)

    def use(sockets: Any, tls: Any, address: Any) -> Any:
        context = client_context(tls.SSLContext)
        context.maximum_version = standard.TLSVersion.TLSv1_2
        sock = sockets.create_connection(address)
        with context.wrap_socket(sock, server_hostname="localhost") as first:
            session = first.session
        with context.wrap_socket(
            sockets.create_connection(address), server_hostname="localhost", do_handshake_on_connect=False
        ) as second:
            second.session = session
            second.do_handshake()
            return session is not None, second.session_reused, second.session == session

    results = []
    for sockets, tls, run in ((standard_socket, standard, lambda fn: fn()), (socket, ssl, greenio.run)):
        peers: list[Peer] = [Peer(accept_two)]
        with peers[0]:
            results.append(run(lambda s=sockets, t=tls, a=peers[0].address: use(s, t, a)))
        assert peers[0].failure is None
    assert results[0] == results[1]
    assert results[1][:2] == (True, True)


def test_a_later_connection_that_fails_its_handshake_can_connect_to_another() -> None:
    def use(sockets: Any, tls: Any, address: Any) -> Any:
        context = client_context(tls.SSLContext, STRANGER)
        with context.wrap_socket(sockets.socket(), server_hostname="localhost") as late:
            found = outcome(lambda: late.connect(address))
            return found, late.version(), late.session, outcome(lambda: late.session_reused)

    assert both(tls_server(wait_for_end), use)[0][0] is standard.SSLCertVerificationError


@fibers
def test_a_client_that_speaks_no_tls_fails_accept_and_not_the_next_one() -> None:
    with socket.create_server((LOCALHOST, 0)) as listener:
        with server_context(ssl.SSLContext).wrap_socket(listener, server_side=True) as secure:
            for _ in range(2):
                with socket.create_connection(secure.getsockname()) as plain:
                    accepting = spawn(secure.accept)
                    plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    assert outcome(accepting.result)[:2] == [standard.SSLError, 1]
            accepting = spawn(secure.accept)
            client = connect_tls(socket, ssl, secure.getsockname())
            with client, accepting.result()[0] as accepted:
                spawn(client.sendall, b"x")
                assert accepted.recv(1) == b"x"


def test_before_tls_begins_it_is_a_plain_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"from a file")

    def use(sockets: Any, tls: Any, address: Any) -> Any:
        standard_socket.create_connection(address).close()  # the peer waits for one
        with client_context(tls.SSLContext).wrap_socket(sockets.socket(), server_hostname="localhost") as late:
            with path.open("rb") as file:
                found = [
                    late.session,
                    late.session_reused,
                    late.version(),
                    late.pending(),
                    outcome(lambda: late.sendto(b"x", address)),
                    outcome(lambda: late.recvfrom(3)),
                    outcome(lambda: late.recvfrom_into(bytearray(3), 2)),
                    outcome(lambda: late.sendfile(file)),
                    outcome(late.getpeercert),
                ]
            with pytest.warns(DeprecationWarning, match="NPN"):
                found.append(late.selected_npn_protocol())
            return found

    found = both(lambda connection: None, use)
    assert found[4][0] is BrokenPipeError and found[8][0] is OSError


def test_pending_says_what_is_left_of_a_record() -> None:
    def use(*where: Any) -> Any:
        with connect_tls(*where) as wrapped:
            return (
                wrapped.recv(4),
                wrapped.pending(),
                wrapped.recv(3),
                wrapped.pending(),
                wrapped.read(),
                wrapped.pending(),
            )

    def say(wrapped: Any) -> None:
        wrapped.sendall(b"a record's content")
        wait_for_end(wrapped)

    assert both(tls_server(say), use) == (b"a re", 14, b"cor", 11, b"d's content", 0)


@pytest.mark.parametrize("peer_answers", [True, False])
def test_unwrap_ends_tls_and_the_plain_stream_goes_on(peer_answers: bool) -> None:
    def script(wrapped: Any) -> None:
        assert wrapped.recv(10) == b"hello"
        if peer_answers:
            plain = wrapped.unwrap()
            plain.sendall(b"in the clear" * 1000)
            assert plain.recv(100) == b"thanks"
        else:
            wrapped.sendall(b"never mind")
            wrapped.recv(1)

    def use(*where: Any) -> Any:
        with connect_tls(*where) as wrapped:
            wrapped.sendall(b"hello")
            plain = outcome(wrapped.unwrap)
            if not peer_answers:
                return plain
            assert plain is wrapped and wrapped.version() is None
            got = receive_exactly(plain, 12000)
            plain.sendall(b"thanks")
            return got, plain.recv(1)

    both(tls_server(script), use)


def test_a_timeout_of_zero_never_waits() -> None:
    go = threading.Event()

    def script(connection: Any) -> None:
        go.wait()
        with server_context().wrap_socket(connection, server_side=True) as wrapped:
            wrapped.sendall(b"x" * 100000)
            wait_for_end(wrapped)

    def use(sockets: Any, tls: Any, address: Any) -> Any:
        go.clear()
        sock = sockets.create_connection(address)
        sock.setblocking(False)
        context = client_context(tls.SSLContext)
        seen = [outcome(lambda: context.wrap_socket(sock, server_hostname="localhost"))]
        if tls is standard:  # which has closed it
            go.set()
            return seen
        wrapped = context.wrap_socket(sock, server_hostname="localhost", do_handshake_on_connect=False)
        with wrapped:
            with pytest.raises(standard.SSLWantReadError):
                wrapped.do_handshake()
            go.set()
            while True:
                try:
                    wrapped.do_handshake()
                    break
                except standard.SSLWantReadError:
                    greenio.select(greenio.readable(wrapped))
            got = 0
            while got < 100000:
                # As programs with select do: one recv of more than a record for each time that the descriptor is readable.
                greenio.select(greenio.readable(wrapped))
                with contextlib.suppress(standard.SSLWantReadError):
                    got += len(wrapped.recv(65536))
            with pytest.raises(standard.SSLWantReadError):
                wrapped.recv(1)
        return seen

    assert both(script, use)[0][0] is ValueError


@fibers
def test_a_send_that_cannot_wait_is_repeated_with_the_same_data() -> None:
    with connected() as (client, server):
        client.settimeout(0)
        data = block(1 << 24)
        sent = 0
        refused = 0
        reader = None
        while sent < len(data):
            try:
                sent += client.send(data[sent : sent + 100_000])
            except standard.SSLWantWriteError as error:
                refused += 1 + error.bytes_sent * len(data)  # which says that nothing was
                reader = reader or spawn(receive_exactly, server, len(data))
                greenio.select(greenio.writable(client))
        assert 0 < refused < len(data) and reader
        client.setblocking(True)
        spawn(client.sendall, b"end")
        assert hashlib.sha256(reader.result()).digest() == hashlib.sha256(data).digest()
        assert receive_exactly(server, 3) == b"end"


@fibers
def test_a_send_repeated_with_less_is_an_error() -> None:
    with connected() as (client, server):
        client.settimeout(0)
        with pytest.raises(standard.SSLWantWriteError):
            while True:
                client.send(b"x" * 16384)
        spawn(wait_for_end, server)
        while True:
            try:
                client.send(b"x")
            except standard.SSLWantWriteError:
                greenio.select(greenio.writable(client))
            except standard.SSLError as error:
                said = str(error)
                break
        assert "16384" in said
        client.setblocking(True)
        client.sendall(b"x" * 16384)


# --- contexts --------------------------------------------------------------------------------------------------------


def test_a_context_is_a_standard_one() -> None:
    for context in (
        ssl.SSLContext(standard.PROTOCOL_TLS_CLIENT),
        ssl.create_default_context(),
        ssl._create_unverified_context(),
    ):
        assert isinstance(context, standard.SSLContext) and type(context) is ssl.SSLContext
        context.options |= standard.OP_NO_TICKET
        context.minimum_version = standard.TLSVersion.TLSv1_2
        context.maximum_version = standard.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = standard.CERT_NONE
        context.verify_flags |= standard.VERIFY_X509_STRICT
        assert context.options & standard.OP_NO_TICKET and type(context.options) is standard.Options
        assert context.minimum_version is standard.TLSVersion.TLSv1_2
        assert context.verify_mode is standard.CERT_NONE
    ours, theirs = ssl.create_default_context(), standard.create_default_context()
    for name in ("options", "verify_flags", "verify_mode", "check_hostname", "minimum_version", "protocol"):
        assert getattr(ours, name) == getattr(theirs, name), name
    with pytest.raises(TypeError):
        ssl.create_default_context("server")


REPLACED = """
    import ssl, sys
    from ssl import SSLContext as Early              # before anything is replaced, as urllib3 does
    early_instance = Early(ssl.PROTOCOL_TLS_CLIENT)

    class EarlySubclass(Early):
        @property
        def options(self):
            return super().options
        @options.setter
        def options(self, value):
            Early.options.__set__(self, value)

    import greenio
    from greenio import ssl as ours
    ssl.SSLContext = ours.SSLContext
    ssl.SSLSocket = ours.SSLSocket
    ssl.create_default_context = ours.create_default_context
    from ssl import SSLContext as Late

    class LateSubclass(Late):
        def __init__(self, protocol):
            self.minimum_version = ssl.TLSVersion.TLSv1_2

        def wrap_socket(self, sock, **keywords):
            return super().wrap_socket(sock, **keywords)

    original_super = super(Early, Early)

    class Truststore(Early):
        # As truststore: a context that forwards to another one.
        def __init__(self, protocol):
            self._ctx = Early(protocol)
        @property
        def __class__(self):
            return Early
        @property
        def options(self):
            return self._ctx.options
        @options.setter
        def options(self, value):
            original_super.options.__set__(self._ctx, value)
        @property
        def minimum_version(self):
            return self._ctx.minimum_version
        @minimum_version.setter
        def minimum_version(self, value):
            original_super.minimum_version.__set__(self._ctx, value)

    sys.setrecursionlimit(200)
    contexts = [early_instance, Early(ssl.PROTOCOL_TLS_CLIENT), EarlySubclass(ssl.PROTOCOL_TLS_CLIENT), Late(ssl.PROTOCOL_TLS_CLIENT),
                LateSubclass(ssl.PROTOCOL_TLS_CLIENT), ssl.create_default_context(), ssl._create_unverified_context(),
                ssl._create_default_https_context(), ours.create_default_context(), Truststore(ssl.PROTOCOL_TLS_CLIENT)]
    for context in contexts:
        assert isinstance(context, Early), context
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.maximum_version = ssl.TLSVersion.TLSv1_3
        context.options |= ssl.OP_NO_TICKET
        assert context.options & ssl.OP_NO_TICKET
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        assert context.verify_mode is ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
        context._msg_callback = lambda *args: None
        assert context._msg_callback is not None
        context._msg_callback = None
        context.set_alpn_protocols(["h2"])
    for context in contexts[3:7] + contexts[8:9]:
        assert isinstance(context, ssl.SSLContext), context
    print("ok")
"""


def test_contexts_work_with_the_standard_class_replaced() -> None:
    assert run_child(REPLACED).stdout == "ok\n"


def test_patching_the_one_attribute_of_the_standard_class_is_enough() -> None:
    child = run_child(
        """
        import ssl, sys
        from ssl import SSLContext, create_default_context
        import trustme
        import greenio
        from greenio import socket, ssl as ours
        SSLContext.sslsocket_class = ours.SSLSocket
        ca = trustme.CA()
        server = SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost").configure_cert(server)
        client = create_default_context()
        ca.configure_trust(client)

        def main():
            left, right = socket.socketpair()
            accepting = greenio.spawn(lambda: server.wrap_socket(right, server_side=True))
            with client.wrap_socket(left, server_hostname="localhost") as one, accepting.result() as other:
                assert type(one) is type(other) is ours.SSLSocket
                greenio.spawn(one.sendall, b"hello")
                assert other.recv(10) == b"hello"

        greenio.run(main)
        print("ok")
        """
    )
    assert child.stdout == "ok\n"


class Verifying(standard.SSLContext):
    """Verifies in its own wrap_socket, after the handshake."""

    refuses = False

    def wrap_socket(self, *args: Any, **keywords: Any) -> Any:
        wrapped = super().wrap_socket(*args, **keywords)
        if self.refuses:
            wrapped.close()
            raise standard.SSLCertVerificationError(1, "not to my taste")
        return wrapped


class Astray(standard.SSLContext):
    """Its wrap_socket makes a socket of another kind."""

    def wrap_socket(self, sock: Any, **keywords: Any) -> Any:
        return sock


@fibers
def test_a_context_whose_wrap_socket_returns_no_tls_socket_of_ours_is_refused() -> None:
    left, right = tcp_pair()
    with right:
        with pytest.raises(TypeError, match="would block the OS thread"):
            ssl.start_tls(left, client_context(Astray), server_hostname="localhost")
        assert right.recv(1) == b""  # what it has made is closed


@fibers
def test_a_closed_socket_cannot_be_wrapped() -> None:
    for closed in (socket.socket(), standard_socket.socket()):
        closed.close()
        for wrap in (client_context().wrap_socket, functools.partial(ssl.start_tls, context=client_context())):
            with pytest.raises(OSError) as caught:
                wrap(closed, server_hostname="localhost")
            assert caught.value.errno == errno.EBADF


def test_a_context_has_its_own_class_of_sockets_after_greenio_has_used_it() -> None:
    context = client_context(Verifying)

    @fibers
    def ours() -> None:
        with connected(context, server_hostname=b"localhost") as (client, server):
            assert client.server_hostname == "localhost"
            spawn(server.sendall, b"x")
            assert client.recv(1) == b"x"

    ours()
    assert context.sslsocket_class.__name__ == "SSLSocket"
    assert context.sslsocket_class.__mro__[1] is standard_socket.socket


class Trusting(standard.SSLContext):
    """As truststore's: forwards to an inner context, and verifies after the handshake, in its object's do_handshake."""

    def __init__(self, protocol: int) -> None:
        verified = self.verified = []  # type: ignore[var-annotated]

        class Object(standard.SSLObject):
            def do_handshake(self) -> None:
                super().do_handshake()
                verified.append(self._sslobj.get_unverified_chain())  # type: ignore[attr-defined]
                if outer.refuses:
                    raise standard.SSLCertVerificationError(1, "not to my taste")

        outer = self
        self.refuses = False
        self._inner = standard.SSLContext(protocol)
        self._inner.sslobject_class = Object
        self._inner.check_hostname = False
        self._inner.verify_mode = standard.CERT_NONE

    @property
    def __class__(self) -> Any:
        return standard.SSLContext

    def wrap_bio(self, *args: Any, **keywords: Any) -> Any:
        return self._inner.wrap_bio(*args, **keywords)

    def wrap_socket(self, sock: Any, **keywords: Any) -> Any:
        raise AssertionError("blocks the OS thread")


@pytest.mark.parametrize("kind", [standard.SSLContext, ssl.SSLContext, Verifying, Trusting])
@fibers
def test_start_tls_takes_any_context(kind: Any) -> None:
    context = kind(standard.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    with connected(context, server_context(kind if kind is not Trusting else standard.SSLContext)) as (client, server):
        assert type(client) is ssl.SSLSocket
        greenio.spawn(client.sendall, b"x" * 50000)
        assert receive_exactly(server, 50000) == b"x" * 50000
        spawn(server.unwrap)
        client.unwrap()
    if kind is Trusting:
        assert len(context.verified) == 1


@pytest.mark.parametrize("kind", [Verifying, Trusting])
@fibers
def test_what_a_context_refuses_after_the_handshake_is_refused(kind: Any) -> None:
    context = client_context(kind)
    context.refuses = True
    with pytest.raises(standard.SSLCertVerificationError, match="not to my taste"), connected(context):
        pass


def test_a_context_that_verifies_still_makes_standard_sockets_of_standard_ones() -> None:
    context = client_context(Verifying)

    @fibers
    def ours() -> None:
        with connected(context):
            pass

    ours()
    with Peer(tls_server(echo_until_end)) as peer, standard_socket.create_connection(peer.address) as sock:
        with context.wrap_socket(sock, server_hostname="localhost") as wrapped:
            assert type(wrapped) is standard.SSLSocket
            wrapped.sendall(b"x")
            assert wrapped.recv(1) == b"x"


def test_truststore_itself() -> None:
    truststore = pytest.importorskip("truststore", reason="a context of another make: pip install truststore")
    context = truststore.SSLContext(standard.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)

    @fibers
    def trusted() -> None:
        with connected(context) as (client, server):
            spawn(client.sendall, b"x")
            assert server.recv(1) == b"x"

    trusted()


@fibers
def test_start_tls_leaves_the_socket_alone_when_the_arguments_are_wrong() -> None:
    with connected() as (client, server):
        server.sendall(b"x")
        client.recv(1)
        foreign = client.session
    left, right = tcp_pair()
    with left, right:
        for arguments in (
            {"context": client_context(), "server_hostname": "localhost", "session": foreign},
            {"context": client_context(standard.SSLContext), "server_hostname": "localhost", "session": foreign},
            {"context": client_context(), "server_hostname": "localhost", "session": "no session"},
            {"context": client_context(), "server_hostname": "local\0host"},
            {"context": object()},
            {"context": client_context()},
            {"context": server_context(), "server_side": True, "server_hostname": "x"},
            {"context": client_context(), "server_hostname": "localhost", "timeout": -1},
        ):
            with pytest.raises((TypeError, ValueError)):
                ssl.start_tls(left, **arguments)
        with socket.socket() as lonely, pytest.raises(OSError) as caught:
            ssl.start_tls(lonely, client_context(), server_hostname="localhost")
        assert caught.value.errno == errno.ENOTCONN
        left.sendall(b"still there")
        assert right.recv(100) == b"still there"


def test_outside_run_it_says_what_to_do() -> None:
    with Peer(lambda connection: connection.recv(100)) as peer:
        with standard_socket.create_connection(peer.address) as sock:
            with pytest.raises(RuntimeError, match=r"greenio\.run"):
                ssl.start_tls(sock, client_context(), server_hostname="localhost")
            with pytest.raises(RuntimeError, match=r"greenio\.run"):
                client_context().wrap_socket(sock, server_hostname="localhost")
            sock.sendall(b"still there")


# --- what sessions can do --------------------------------------------------------------------------------------------


@fibers
def test_what_newer_interpreters_tell_of_a_session() -> None:
    with connected() as (client, server):
        for name in ("group", "client_sigalg", "server_sigalg"):
            if hasattr(standard.SSLObject, name):
                assert getattr(client, name)() == getattr(server, name)()
                assert getattr(ssl.SSLSocket, name).__name__ == name
        assert {name for name in ("group", "client_sigalg") if hasattr(client, name)} == {
            name for name in ("group", "client_sigalg") if hasattr(standard.SSLSocket, name)
        }


@fibers
def test_alpn() -> None:
    client, server = client_context(), server_context()
    client.set_alpn_protocols(["http/1.1", "h2"])
    server.set_alpn_protocols(["h2", "http/1.1"])
    with connected(client, server) as (one, other):
        assert one.selected_alpn_protocol() == other.selected_alpn_protocol() is not None


@pytest.mark.parametrize("through", [standard.SSLContext, ssl.SSLContext])
@pytest.mark.parametrize("setter", ["sni_callback", "set_servername_callback"])
@fibers
def test_a_server_switches_its_context_by_the_name_asked_for(setter: str, through: Any) -> None:
    named = server_context(through, OTHER_CERTIFICATE)
    server = server_context(through)
    seen = []

    def choose(sock: Any, name: str | None, context: Any) -> int | None:
        seen.append((type(sock), name, context is server))
        if name == "nobody.example":
            return standard.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        if name == "other.example":
            sock.context = named
        return None

    if setter == "sni_callback":
        server.sni_callback = choose
    else:
        server.set_servername_callback(choose)
    with connected(None, server, server_hostname="other.example") as (client, accepted):
        assert accepted.context is named
        assert client.getpeercert()["subjectAltName"] == (("DNS", "other.example"),)
    with connected(None, server) as (client, accepted):
        assert accepted.context is server
    left, right = tcp_pair()
    accepting = spawn(serve_tls, right, server)
    with pytest.raises(standard.SSLError, match=r"(?i)unrecognized.name"):
        ssl.start_tls(left, client_context(), server_hostname="nobody.example")
    assert isinstance(accepting.exception(), standard.SSLError)
    assert seen == [
        (ssl.SSLSocket, "other.example", True),
        (ssl.SSLSocket, "localhost", True),
        (ssl.SSLSocket, "nobody.example", True),
    ]


@fibers
def test_a_callback_may_park_meanwhile_other_connections_go_on() -> None:
    server = server_context()
    may_go = greenio.Event()
    server.sni_callback = lambda *args: may_go.wait() and None
    left, right = tcp_pair()
    slow = spawn(serve_tls, right, server)
    connecting = spawn(lambda: ssl.start_tls(left, client_context(), server_hostname="localhost"))
    wait_all_parked()
    with connected() as (client, other):
        spawn(client.sendall, b"meanwhile")
        assert other.recv(100) == b"meanwhile"
        may_go.set()
        with slow.result() as one, connecting.result() as two:
            spawn(one.sendall, b"late")
            assert two.recv(100) == b"late"


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
@fibers
def test_a_handshake_interrupted_in_a_callback_says_so(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reported.append(args.exc_type))  # _ssl's, of any callback
    server = server_context()
    server.sni_callback = lambda *args: greenio.Event().wait() and None
    left, right = tcp_pair()
    accepting = spawn(lambda: ssl.start_tls(right, server, server_side=True, timeout=5 if how == "timed out" else None))
    connecting = spawn(lambda: ssl.start_tls(left, client_context(), server_hostname="localhost"))
    wait_all_parked()
    if how == "cancelled":
        accepting.cancel()
        accepting.join()
        assert accepting.cancelled()
    else:
        with pytest.raises(TimeoutError):
            accepting.result()
    with pytest.raises((standard.SSLError, OSError)):
        connecting.result()
    assert reported == [greenio.Cancelled]


@fibers
def test_a_callback_that_uses_its_own_connection_is_told_so() -> None:
    server = server_context()
    found = []

    def wrong(sock: Any, name: Any, context: Any) -> None:
        try:
            sock.recv(1)
        except RuntimeError as error:
            found.append(str(error))

    server.sni_callback = wrong
    with connected(None, server):
        assert "in the middle of an operation" in found[0]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@fibers
def test_mutual_authentication(version: str) -> None:
    server = server_context()
    server.verify_mode = standard.CERT_REQUIRED
    CA.configure_trust(server)
    client = client_context()
    client.maximum_version = getattr(standard.TLSVersion, version)
    CLIENT_CERTIFICATE.configure_cert(client)
    with connected(client, server) as (one, other):
        assert other.getpeercert()["subjectAltName"] == (("email", "client@example.org"),)
        assert other.get_unverified_chain()[0] == other.get_verified_chain()[0] == other.getpeercert(True)
        assert len(other.get_verified_chain()) == 2
    left, right = tcp_pair()
    accepting = spawn(serve_tls, right, server)
    with left, pytest.raises(standard.SSLError):
        with ssl.start_tls(left, client_context(), server_hostname="localhost") as one:
            one.recv(1)
    error = accepting.exception()
    assert isinstance(error, standard.SSLError) and error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@fibers
def test_a_session_is_resumed(version: str) -> None:
    server, client = server_context(), client_context()
    client.maximum_version = getattr(standard.TLSVersion, version)
    with connected(client, server) as (one, other):
        spawn(other.sendall, b"with the tickets")
        one.recv(100)
        session = one.session
        assert one.session_reused is False and session.has_ticket
    with connected(client, server, session=session) as (one, other):
        assert one.session_reused is True and other.session_reused is True
        spawn(one.sendall, b"x")
        assert other.recv(1) == b"x"


@fibers
def test_post_handshake_authentication() -> None:
    server, client = server_context(), client_context()
    server.post_handshake_auth = client.post_handshake_auth = True
    server.verify_mode = standard.CERT_REQUIRED
    CA.configure_trust(server)
    CLIENT_CERTIFICATE.configure_cert(client)
    with connected(client, server) as (one, other):
        assert other.getpeercert() is None
        other.verify_client_post_handshake()
        answering = spawn(one.recv, 100)  # which writes, too
        other.sendall(b"who are you?")
        assert answering.result() == b"who are you?"
        spawn(one.sendall, b"me")
        assert other.recv(100) == b"me"
        assert other.getpeercert()["subjectAltName"] == (("email", "client@example.org"),)


@fibers
def test_starttls_and_back() -> None:
    left, right = tcp_pair()

    def serve() -> None:
        assert right.recv(100) == b"STARTTLS\n"
        right.sendall(b"go\n")
        for _ in range(2):
            secure = ssl.start_tls(serving[-1], server_context(), server_side=True)
            serving.append(secure)
            secure.sendall(secure.recv(100))
            secure.unwrap()
            secure.sendall(b"plain")

    serving = [right]
    fiber = spawn(serve)
    left.sendall(b"STARTTLS\n")
    assert left.recv(100) == b"go\n"
    for _ in range(2):
        secure = ssl.start_tls(left, client_context(), server_hostname="localhost")
        assert left.fileno() == -1
        secure.sendall(b"secret")
        assert secure.recv(100) == b"secret"
        left = secure.unwrap()
        # What came along with the close_notify has not been lost, nor taken for TLS.
        assert left.recv(3) == b"pla"
        assert left.recv(3, socket.MSG_PEEK) == b"in"
        buffer = bytearray(10)
        assert left.recv_into(buffer) == 2 and buffer[:2] == b"in"
        assert left.version() is None
    left.close()
    fiber.join()
    serving[-1].close()


@fibers
def test_close_notify_closes_one_direction() -> None:
    with connected() as (client, server):
        server.sendall(b"a" * 40000)  # some of it is with OpenSSL already, and none may be lost
        wait_all_parked()
        assert client.recv(10) == b"a" * 10
        client.close_notify()
        assert server.recv(100) == b""
        server.sendall(b"b" * 100)
        with pytest.raises(standard.SSLError):
            client.send(b"too late")
        assert receive_exactly(client, 40090) == b"a" * 39990 + b"b" * 100
        server.close_notify()
        assert client.recv(100) == b"" == client.recv(100)
        assert client.unwrap() is client


@fibers
def test_unwrap_while_another_fiber_reads() -> None:
    with connected() as (client, server):
        reading = spawn(client.recv, 100)
        wait_all_parked()
        ending = spawn(client.unwrap)
        wait_all_parked()
        server.unwrap()
        assert reading.result() == b""
        assert ending.result() is client


@fibers
def test_wrapped_first_and_connected_later() -> None:
    with socket.create_server((LOCALHOST, 0)) as listener:
        secure = server_context(ssl.SSLContext).wrap_socket(listener, server_side=True)
        with secure, client_context().wrap_socket(socket.socket(), server_hostname="localhost") as client:
            with pytest.raises(OSError) as caught:
                client.getpeercert()
            assert caught.value.errno == errno.ENOTCONN
            accepting = spawn(secure.accept)
            client.connect(secure.getsockname())
            accepted, address = accepting.result()
            assert type(accepted) is ssl.SSLSocket and address == client.getsockname()
            with accepted, pytest.raises(ValueError, match="already"):
                client.connect(secure.getsockname())
            with pytest.raises(ValueError, match="server-side"):
                secure.connect(address)
        with client_context().wrap_socket(socket.socket(), server_hostname="localhost") as late:
            assert late.connect_ex((LOCALHOST, 1)) == errno.ECONNREFUSED


@fibers
def test_makefile_and_sendfile(tmp_path: Path) -> None:
    content = b"".join(b"line %d\n" % number for number in range(20000))
    path = tmp_path / "file"
    path.write_bytes(content)
    with connected() as (client, server):

        def send() -> None:
            with path.open("rb") as file:
                assert client.sendfile(file, 7, 100_000) == 100_000
                assert file.tell() == 100_007
            with io.BytesIO(b"and this") as memory:
                assert client.sendfile(memory) == 8
            with path.open("r") as text, pytest.raises(ValueError):
                client.sendfile(text)
            client.close_notify()

        spawn(send)
        with server.makefile("rb") as file:
            assert file.read() == content[7:100_007] + b"and this"


@fibers
def test_a_makefile_over_tls_loses_nothing_and_is_shared() -> None:
    with connected() as (client, server), server.makefile("rwb") as file, client.makefile("rw") as other:
        for part in (b"one ", b"two "):
            waiting = spawn(file.readline)
            client.sendall(part)
            wait_all_parked()
            waiting.cancel()
            waiting.join()
            assert waiting.cancelled()
        readers = [spawn(file.readline) for _ in range(3)]
        wait_all_parked()
        other.write("three\nfour\nfive\n")
        other.flush()
        assert [reader.result() for reader in readers] == [b"one two three\n", b"four\n", b"five\n"]
        file.write(b"back\n")
        file.flush()
        assert other.readline() == "back\n"


@fibers
def test_a_plain_end_before_connecting_does_not_let_early_data_through() -> None:
    left, right = tcp_pair()
    with left:
        right.sendall(b"forged")
        right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        right.close()
        with pytest.raises(OSError):
            client_context().wrap_socket(left, server_hostname="localhost")


@fibers
def test_a_server_certificate_is_fetched() -> None:
    with socket.create_server((LOCALHOST, 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                sock, _ = listener.accept()
                with contextlib.suppress(OSError), ssl.start_tls(sock, server_context(), server_side=True) as secure:
                    secure.recv(1)
                sock.close()

        serving = spawn(serve)
        found = ssl.get_server_certificate(listener.getsockname())
        assert found.strip() == CERTIFICATE.cert_chain_pems[0].bytes().decode().strip()
        with CA.cert_pem.tempfile() as trusted:
            assert ssl.get_server_certificate(listener.getsockname(), ca_certs=trusted) == found
        serving.join()


# --- TLS within TLS, and over anything -------------------------------------------------------------------------------


class Relay:
    """Socket-like and no more: recv and send, a few bytes at a time."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def recv(self, count: int) -> bytes:
        return self.sock.recv(min(count, 777))

    def send(self, data: bytes) -> int:
        return self.sock.send(data[:555])

    def __getattr__(self, name: str) -> Any:
        if name in ("getpeername", "close", "settimeout", "gettimeout", "fileno"):
            return getattr(self.sock, name)
        raise AttributeError(name)


def relayed_pair() -> tuple[Any, Any]:
    left, right = tcp_pair()
    return Relay(left), Relay(right)


@pytest.mark.parametrize("layers", [2, 3])
@fibers
def test_tls_within_tls(layers: int) -> None:
    with contextlib.ExitStack() as stack:
        one, other = stack.enter_context(connected())
        address = one.getpeername()
        for _ in range(layers - 1):
            one, other = stack.enter_context(connected(pair=lambda one=one, other=other: (one, other)))
        assert one.getpeername() == address and one.fileno() >= 0 and one.type == socket.SOCK_STREAM
        assert "over" in repr(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        one.settimeout(0)
        with pytest.raises(ValueError, match="non-blocking"):
            one.sendfile(io.BytesIO(b"x"))
        one.settimeout(None)
        data = block(300_000)
        there = spawn(one.sendall, data)
        back = spawn(other.sendall, data)
        first = spawn(receive_exactly, one, len(data))
        assert receive_exactly(other, len(data)) == data == first.result()
        there.join()
        back.join()
        ending = spawn(other.unwrap)
        assert one.unwrap() is one
        ending.join()
        spawn(one.sendall, b"one layer less")
        assert other.recv(100) == b"one layer less"
        one.settimeout(5)
        with pytest.raises(TimeoutError):
            one.recv(1)


@fibers
def test_a_timeout_in_the_middle_of_layers_leaves_the_stream_whole() -> None:
    with connected() as (one, other), connected(pair=lambda: (one, other)) as (inner, far):
        data = block(20_000_000)
        inner.settimeout(3)
        with pytest.raises(TimeoutError, match="write operation timed out") as caught:
            inner.sendall(data)
        position = caught.value.bytes_sent  # type: ignore[attr-defined]
        assert 0 < position < len(data)
        inner.settimeout(None)
        spawn(inner.sendall, data[position:])
        assert hashlib.sha256(receive_exactly(far, len(data))).digest() == hashlib.sha256(data).digest()


@fibers
def test_tls_over_an_object_with_recv_and_send() -> None:
    with connected(pair=relayed_pair) as (client, server):
        data = block(100_000)
        spawn(client.sendall, data)
        assert receive_exactly(server, len(data)) == data
        client.settimeout(3)
        with pytest.raises(TimeoutError, match="read operation timed out"):
            client.recv(1)
        reading = spawn(server.recv, 1)
        wait_all_parked()
        reading.cancel()
        wait_all_parked()
        client.sendall(b"!")
        assert server.recv(1) == b"!"


class Gate(Relay):
    """Its send parks while it is closed."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.open = greenio.Event()
        self.open.set()

    def recv(self, count: int) -> bytes:
        return self.sock.recv(count)

    def send(self, data: bytes) -> int:
        self.open.wait()
        return self.sock.send(data)


@pytest.mark.parametrize("into", [False, True])
@fibers
def test_a_receive_interrupted_while_it_answers_the_peer_keeps_what_came(into: bool) -> None:
    server, client = server_context(), client_context()
    server.post_handshake_auth = client.post_handshake_auth = True
    server.verify_mode = standard.CERT_REQUIRED
    CA.configure_trust(server)
    CLIENT_CERTIFICATE.configure_cert(client)

    def gated_pair() -> tuple[Any, Any]:
        left, right = socket.socketpair()
        return Gate(left), right

    with connected(client, server, gated_pair) as (one, other):
        one._transport.open.clear()
        other.verify_client_post_handshake()
        other.sendall(b"who are you?")
        buffer = bytearray(12)

        def receive() -> bytes:
            if into:
                assert one.recv_into(buffer) == 12
            return bytes(buffer) if into else one.recv(100)

        with pytest.raises(TimeoutError), greenio.timeout(1):
            receive()
        with greenio.timeout(1):
            assert receive() == b"who are you?"
        one._transport.open.set()
        spawn(one.sendall, b"me")
        assert other.recv(100) == b"me"
        assert other.getpeercert()["subjectAltName"] == (("email", "client@example.org"),)


# --- waits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["socket timeout", "scope", "start_tls"])
@pytest.mark.parametrize("side", ["client", "server"])
@fibers
def test_a_handshake_has_a_deadline_however_the_peer_trickles(what: str, side: str) -> None:
    left, right = tcp_pair()
    began = greenio.current_time()

    def trickle() -> None:
        # A record of 4,000 bytes, one byte a second.
        right.sendall(b"\x16\x03\x01\x0f\xa0")
        with contextlib.suppress(OSError):
            while True:
                greenio.sleep(1)
                right.sendall(b"\x00" if side == "client" else b"\x01")

    trickling = spawn(trickle)
    context = client_context() if side == "client" else server_context(ssl.SSLContext)
    keywords = {"server_hostname": "localhost"} if side == "client" else {"server_side": True}
    with right, pytest.raises(TimeoutError) as caught:
        if what == "socket timeout":
            left.settimeout(10)
            context.wrap_socket(left, **keywords)
        elif what == "scope":
            with greenio.timeout(10):
                context.wrap_socket(left, **keywords)
        else:
            ssl.start_tls(left, context, timeout=10, **keywords)
    assert 10 <= greenio.current_time() - began < 11
    if what == "socket timeout":
        assert "handshake operation timed out" in str(caught.value)
    assert left.fileno() == -1
    trickling.cancel()


@fibers
def test_a_handshake_that_timed_out_can_go_on() -> None:
    left, right = tcp_pair()
    client = client_context().wrap_socket(left, server_hostname="localhost", do_handshake_on_connect=False)
    with client:
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.do_handshake()
        client.settimeout(None)
        shaking = spawn(client.do_handshake)
        wait_all_parked()
        shaking.cancel()
        shaking.join() if shaking.done() else wait_all_parked()
        assert shaking.cancelled()
        accepting = spawn(serve_tls, right, server_context())
        client.do_handshake()
        with accepting.result() as server:
            spawn(server.sendall, b"hello")
            assert client.recv(10) == b"hello"


@pytest.mark.parametrize("how", ["timeout", "cancel", "scope"])
@fibers
def test_a_receive_that_was_interrupted_has_taken_nothing(how: str) -> None:
    with connected() as (client, server):
        if how == "timeout":
            client.settimeout(2)
            with pytest.raises(TimeoutError, match="read operation timed out"):
                client.recv(100)
            client.settimeout(None)
        elif how == "scope":
            with greenio.move_on_after(2) as scope:
                client.recv(100)
            assert scope.cancelled_caught
        else:
            reading = spawn(client.recv, 100)
            wait_all_parked()
            reading.cancel()
            wait_all_parked()
            assert reading.cancelled()
        server.sendall(b"all of it")
        assert client.recv(100) == b"all of it"


@fibers
def test_half_a_record_survives_cancellation() -> None:
    left, near = tcp_pair()
    far, right = tcp_pair()
    # client - near | this test | far - server: bytes go on when the test says.

    def relay(source: Any, target: Any) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    there, back = spawn(relay, near, far), spawn(relay, far, near)
    with near, far, connected(pair=lambda: (left, right)) as (client, server):
        spawn(server.sendall, b"the tickets come first")
        assert client.recv(100) == b"the tickets come first"
        back.cancel()
        wait_all_parked()
        server.sendall(b"a whole record")
        record = far.recv(65536)
        for index in range(len(record)):
            reading = spawn(client.recv, 100)
            near.sendall(record[index : index + 1])
            wait_all_parked()
            if index < len(record) - 1:
                reading.cancel()
                wait_all_parked()
                assert reading.cancelled(), index
        assert reading.result() == b"a whole record"
        there.cancel()


@pytest.mark.parametrize("how", ["timeout", "cancel"])
@pytest.mark.parametrize("call", ["send", "sendall"])
@fibers
def test_a_send_that_was_interrupted_says_how_far_it_got_and_the_stream_goes_on(how: str, call: str) -> None:
    with connected() as (client, server):
        data = block(20_000_000)
        position = 0
        errors = []

        def push() -> None:
            nonlocal position
            try:
                while position < len(data):
                    piece = data[position : position + (100_000 if call == "send" else len(data))]
                    position += getattr(client, call)(piece) or len(piece)
            except BaseException as error:
                errors.append(error)
                position += error.bytes_sent  # type: ignore[attr-defined]
                raise

        client.settimeout(5 if how == "timeout" else None)
        pushing = spawn(push)
        wait_all_parked()
        if how == "timeout":
            assert isinstance(pushing.exception(), TimeoutError)
            assert "write operation timed out" in str(errors[0])
        else:
            pushing.cancel()
            wait_all_parked()
            assert pushing.cancelled()
        assert 0 < position < len(data)
        client.settimeout(None)
        spawn(client.sendall, data[position:])
        got = receive_exactly(server, len(data))
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


@fibers
def test_what_an_interrupted_send_left_behind_goes_out_while_another_fiber_waits_to_receive() -> None:
    with connected() as (client, server):
        taken = []

        def push() -> None:
            try:
                client.sendall(bytes(20_000_000))
            except BaseException as error:
                taken.append(error.bytes_sent)  # type: ignore[attr-defined]
                raise

        answer = spawn(client.recv, 100)
        pushing = spawn(push)
        wait_all_parked()
        pushing.cancel()
        wait_all_parked()
        assert len(receive_exactly(server, taken[0])) == taken[0]
        server.sendall(b"all there")
        assert answer.result() == b"all there"


@fibers
def test_plaintext_that_came_along_with_the_end_of_tls_is_kept() -> None:
    with connected() as (client, server):
        server.sendall(b"last words")
        server.close_notify()
        os.write(server.fileno(), b"in the clear")
        wait_all_parked()
        assert client.recv(100) == b"last words"
        assert client.recv(100) == b""
        assert client.unwrap().recv(5) == b"in th"
        assert client.recvfrom(100) == (b"e clear", None)
        spawn(server.sendall, b"!")


@fibers
def test_after_the_end_of_tls_it_is_a_plain_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"from a file")
    with connected() as (client, server):
        ending = spawn(server.unwrap)
        client.unwrap()
        ending.join()
        os.write(server.fileno(), b"abcdef")
        wait_all_parked()
        assert client.recvfrom(2) == (b"ab", None)
        buffer = bytearray(9)
        assert client.recvfrom_into(buffer, 3) == (3, None) and buffer[:3] == b"cde"
        assert client.recvfrom_into(buffer) == (1, None) and buffer[:1] == b"f"
        client.sendto(b"!", ("127.0.0.1", 1))
        assert server.recv(10) == b"!"
        with path.open("rb") as file:
            assert client.sendfile(file) == 11
        assert receive_exactly(server, 11) == b"from a file"
        with pytest.raises(ValueError, match="No SSL wrapper"):
            client.getpeercert()


@fibers
def test_recvfrom_into_begins_with_what_came_along_with_the_end_of_tls() -> None:
    with connected() as (client, server):
        server.close_notify()
        os.write(server.fileno(), b"in the clear")
        wait_all_parked()
        assert client.recv(100) == b""
        client.unwrap()
        buffer = bytearray(5)
        assert client.recvfrom_into(buffer) == (5, None) and buffer == b"in th"
        assert client.recvfrom_into(buffer, 3) == (3, None) and buffer == b"e cth"
        assert client.recv(100) == b"lear"
        server.close()


@fibers
def test_what_one_fiber_sends_in_a_call_stays_in_one_piece() -> None:
    with connected() as (client, server):
        size = 1_000_000
        pieces = [bytes([number]) * size for number in range(20)]
        senders = [spawn(client.sendall, piece) for piece in pieces]
        wait_all_parked()
        assert not senders[18].done()
        senders[18].cancel()  # in line: nothing of it was sent
        got = receive_exactly(server, 19 * size)
        runs = [got[index : index + size] for index in range(0, len(got), size)]
        assert sorted(runs) == sorted(pieces[:18] + pieces[19:])
        assert senders[18].cancelled()


@fibers
def test_readers_are_served_first_come_first_served() -> None:
    with connected() as (client, server):
        readers = [spawn(client.recv, 5) for _ in range(5)]
        wait_all_parked()
        server.sendall(b"".join(b"%05d" % number for number in range(5)))  # one record
        assert [reader.result() for reader in readers] == [b"%05d" % number for number in range(5)]


@fibers
def test_both_directions_at_once_with_full_buffers() -> None:
    with connected() as (client, server):
        data = block(5_000_000)
        senders = [spawn(each.sendall, data) for each in (client, server)]
        wait_all_parked()  # both are stuck: nobody reads yet
        readers = [spawn(receive_exactly, each, len(data)) for each in (client, server)]
        for fiber in (*senders, *readers):
            fiber.join()
        assert readers[0].result() == readers[1].result() == data


@pytest.mark.parametrize("how", ["close", "shutdown"])
@fibers
def test_closing_wakes_who_waits(how: str) -> None:
    with connected() as (client, server):
        readers = [spawn(lambda: outcome(lambda: client.recv(100))) for _ in range(2)]
        writers = [spawn(lambda: outcome(lambda: client.sendall(b"x" * 20_000_000))) for _ in range(2)]
        wait_all_parked()
        if how == "close":
            client.close()
            wait_all_parked()
            assert [each.result() for each in (*readers, *writers)] == [[OSError, errno.EBADF]] * 4
        else:
            client.shutdown(socket.SHUT_RDWR)
            wait_all_parked()
            assert all(each.done() for each in (*readers, *writers))
        del server


@fibers
def test_a_peer_that_does_not_read_holds_memory_flat() -> None:
    with connected() as (client, server):
        client.settimeout(1)
        with pytest.raises(TimeoutError) as caught:
            client.sendall(bytes(200_000_000))
        sent = caught.value.bytes_sent  # type: ignore[attr-defined]
        assert sent < 30_000_000  # the kernel's buffers, and one piece
        del server


@pytest.mark.slow
def test_a_peer_that_asks_for_answers_and_reads_none_holds_memory_flat() -> None:
    openssl = ctypes.CDLL(_ssl.__file__)  # its libraries' functions are found through it
    if not hasattr(openssl, "SSL_key_update"):
        pytest.skip("OpenSSL's functions cannot be reached: _ssl is linked statically")
    pointer = ctypes.c_void_p
    openssl.TLS_client_method.restype = openssl.SSL_CTX_new.restype = openssl.SSL_new.restype = pointer
    with standard_socket.create_server((LOCALHOST, 0)) as listener:
        listener.setsockopt(standard_socket.SOL_SOCKET, standard_socket.SO_RCVBUF, 16_384)
        far = standard_socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    near.setsockopt(standard_socket.SOL_SOCKET, standard_socket.SO_SNDBUF, 16_384)
    far.setsockopt(standard_socket.SOL_SOCKET, standard_socket.SO_SNDBUF, 16_384)
    limit = 60_000  # 1.6 MB of requests, and as much of answers
    asked = 0

    def ask() -> None:
        nonlocal asked
        session = pointer(openssl.SSL_new(pointer(openssl.SSL_CTX_new(pointer(openssl.TLS_client_method())))))
        openssl.SSL_set_fd(session, far.fileno())
        assert openssl.SSL_connect(session) == 1
        while asked < limit and openssl.SSL_key_update(session, 1) == 1 and openssl.SSL_do_handshake(session) == 1:
            asked += 1

    asking = threading.Thread(target=ask)
    asking.start()

    def rest() -> int:
        before = -1
        while asked != before and asked < limit:
            before = asked
            greenio.sleep(0.5)
        return asked

    def main() -> None:
        server = ssl.start_tls(socket.socket(fileno=near.detach()), server_context(), server_side=True)
        reading = spawn(server.recv, 100)
        stuck = rest()
        assert 0 < stuck < limit  # the kernel's buffers, and some
        for _ in range(4):
            far.recv(1_000_000)
            greenio.sleep(0.1)
        assert asked > stuck  # there is room again for answers
        reading.cancel()
        server.close()

    try:
        greenio.run(main)
    finally:
        with contextlib.suppress(OSError):
            far.shutdown(standard_socket.SHUT_RDWR)
        asking.join()
        far.close()


@pytest.mark.parametrize("seed", range(4))
@fibers
def test_cancellation_at_any_moment_loses_no_byte(seed: int) -> None:
    chance = random.Random(seed)
    with connected(pair=socket.socketpair) as (client, server):
        data = block(600_000, seed)
        for writer, reader in ((client, server), (server, client)):
            for sock in (writer, reader):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)
        state = {"sent": [0, 0], "got": [bytearray(), bytearray()]}

        def send(index: int, sock: Any) -> None:
            start = state["sent"][index]
            piece = data[start : start + chance.randrange(1, 100_000)]  # at last nothing: what was left behind goes out
            try:
                if chance.random() < 0.5:
                    count = sock.send(piece)
                else:
                    sock.sendall(piece)
                    count = len(piece)
            except BaseException as error:
                state["sent"][index] += error.bytes_sent
                raise
            state["sent"][index] += count

        def receive(index: int, sock: Any) -> None:
            if chance.random() < 0.5:
                state["got"][index] += sock.recv(chance.randrange(1, 30_000))
            else:
                into = bytearray(chance.randrange(1, 30_000))
                state["got"][index] += into[: sock.recv_into(into)]

        jobs: dict[Any, Any] = {}
        while any(len(each) < len(data) for each in state["got"]):
            for index, (writer, reader) in enumerate(((client, server), (server, client))):
                if (index, "send") not in jobs or jobs[index, "send"].done():
                    jobs[index, "send"] = spawn(send, index, writer)
                idle = (index, "receive") not in jobs or jobs[index, "receive"].done()
                if idle and len(state["got"][index]) < len(data):
                    jobs[index, "receive"] = spawn(receive, index, reader)
            for _ in range(chance.randrange(3)):
                greenio.yield_now()
            if chance.random() < 0.3:
                victim = chance.choice(list(jobs.values()))
                victim.cancel()
                with contextlib.suppress(BaseException):
                    victim.join()
            elif chance.random() < 0.5:
                greenio.sleep(0.001)
        assert state["got"] == [data, data]
        for job in jobs.values():
            job.cancel()


@fibers
def test_records_without_data_do_not_keep_other_fibers_waiting() -> None:
    many = server_context()
    many.num_tickets = 600
    with connected(None, many, socket.socketpair) as (client, server):
        server.sendall(b"x")  # behind all the tickets, which are there by now
        reading = spawn(client.recv, 10)
        others = 0

        def count() -> None:
            nonlocal others
            while not reading.done():
                others += 1
                greenio.yield_now()

        spawn(count).join()
        assert reading.result() == b"x"
        assert others > 0


# A child's main fiber, up to where another one waits to receive from `one`; `other` is the peer.
READING_CHILD = """
        import os, ssl, time
        import trustme
        import greenio
        from greenio import socket, ssl as ours
        ca = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost").configure_cert(server)
        client = ours.create_default_context()
        ca.configure_trust(client)

        def main():
            left, right = socket.socketpair()
            accepting = greenio.spawn(lambda: ours.start_tls(right, server, server_side=True))
            one = ours.start_tls(left, client, server_hostname="localhost")
            other = accepting.result()
            reading = greenio.spawn(one.recv, 100)
            greenio.sleep(0.01)
"""


def test_a_reader_goes_on_when_who_also_wanted_input_was_interrupted_and_has_not_run_since() -> None:
    child = run_child(
        READING_CHILD
        + """
            ending = greenio.spawn(one.unwrap)
            greenio.sleep(0.01)
            # The reader becomes ready by these, before the other one by being cancelled.
            below = socket.socket(fileno=other.detach())
            below.sendall(bytes.fromhex("1703030100616263"))
            greenio.spawn(ending.cancel)
            time.sleep(0.002)
            greenio.yield_now()
            greenio.sleep(0.01)
            assert ending.cancelled()
            assert not reading.done()
            reading.cancel()
            one.close(), below.close()

        greenio.run(main)
        print("ok")
        """,
    )
    assert child.stdout == "ok\n"


# --- the peer asks for writes during reads ---------------------------------------------------------------------------


@contextlib.contextmanager
def openssl_server(tmp_path: Path, *options: str) -> Iterator[tuple[Any, int]]:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl, the program (Debian: apt-get install openssl)")
    path = tmp_path / "server.pem"
    CERTIFICATE.private_key_and_cert_chain_pem.write_to_path(path)
    with standard_socket.create_server((LOCALHOST, 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        [program, "s_server", "-accept", f"{LOCALHOST}:{port}", "-cert", str(path), "-naccept", "1", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield process, port
        finally:
            process.kill()


def connect_when_up(port: int) -> Any:
    for _ in range(500):
        try:
            return standard_socket.create_connection((LOCALHOST, port))
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise AssertionError("openssl s_server does not come up")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options", "version"), [("K", [], "TLSv1.3"), ("k", [], "TLSv1.3"), ("R", ["-tls1_2"], "TLSv1.2")]
)
def test_key_updates_and_renegotiation_while_one_fiber_reads_and_others_write(
    tmp_path: Path, command: str, options: list[str], version: str
) -> None:
    rounds = 15
    with openssl_server(tmp_path, *options) as (process, port):
        sock = connect_when_up(port)
        output = bytearray()

        def listen() -> None:
            while data := os.read(process.stdout.fileno(), 65536):
                output.extend(data)

        listening = threading.Thread(target=listen)
        listening.start()

        def main() -> None:
            client = ssl.start_tls(sock, client_context(), server_hostname="localhost", timeout=30)
            assert client.version() == version
            lines: list[bytes] = []

            def read() -> None:
                file = client.makefile("rb")
                lines.extend(file.readline() for _ in range(rounds))

            def write(name: int) -> None:
                for number in range(rounds * 20):
                    client.sendall(b"<%d:%d>" % (name, number) * 3 + b"\n")
                    if number % 20 == 0:
                        greenio.sleep(0.005)

            def command_peer() -> None:
                # It looks for a command at the beginning of what it reads at once.
                for number in range(rounds):
                    for line in (command.encode() + b"\n", b"line %d\n" % number):
                        os.write(process.stdin.fileno(), line)
                        while fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, bytes(4)) != bytes(4):
                            greenio.sleep(0.001)
                        greenio.sleep(0.005)

            with greenio.timeout(30):
                jobs = [spawn(read), spawn(write, 0), spawn(write, 1), spawn(command_peer)]
                for job in jobs:
                    job.join()
            assert lines == [b"line %d\n" % number for number in range(rounds)]
            for _ in range(1000):
                if output.count(b">\n") >= 2 * rounds * 20:
                    break
                greenio.sleep(0.01)
            client.close()

        greenio.run(main)
        process.kill()
        listening.join()
    for name in range(2):
        for number in range(rounds * 20):
            assert b"<%d:%d>" % (name, number) * 3 in output


@pytest.mark.slow
def test_a_writer_gets_through_a_renegotiation_while_another_fiber_only_waits_to_receive(tmp_path: Path) -> None:
    with openssl_server(tmp_path, "-tls1_2") as (process, port):
        sock = connect_when_up(port)
        listening = threading.Thread(target=process.stdout.read)
        listening.start()

        def main() -> None:
            client = ssl.start_tls(sock, client_context(), server_hostname="localhost", timeout=30)
            reading = spawn(client.recv, 100)  # the peer never sends data
            with greenio.timeout(20):
                for _ in range(20):
                    os.write(process.stdin.fileno(), b"R\n")
                    for number in range(100):
                        client.sendall(b"line %d\n" % number)
                        greenio.sleep(0.0001)
            assert not reading.done()
            reading.cancel()
            client.close()

        greenio.run(main)
        process.kill()
        listening.join()


# --- faults ----------------------------------------------------------------------------------------------------------

SCENARIO = Path(__file__).parent / "crash" / "tls_faults.py"
EVERYTHING = "recv=EINTR:0.1,EAGAIN:0.2,short:0.3;send=EINTR:0.1,EAGAIN:0.2,short:0.3;epoll=EINTR:0.1,spurious:0.3"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "recv=EINTR:0.3;send=EINTR:0.3",
        "recv=EAGAIN:0.6",
        "send=EAGAIN:0.6",
        "recv=short:0.7",
        "send=short:0.7",
        EVERYTHING,
    ],
)
def test_no_byte_is_lost_or_changed_under_faults(faults: Faults, text: str) -> None:
    child = faults.run(SCENARIO, text, "1", "0", seed=1)
    assert child.stdout.endswith("ok\n") and child.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_byte_is_lost_or_changed_under_faults_and_cancellation(faults: Faults, seed: int) -> None:
    child = faults.run(SCENARIO, EVERYTHING, str(seed), "600", seed=seed)
    assert child.stdout.endswith("ok\n") and child.stderr == ""


# --- OS threads, forks, what is left behind --------------------------------------------------------------------------


def test_a_connection_used_from_two_os_threads() -> None:
    data = block(3_000_000)
    results: list[Any] = []

    def main() -> None:
        with connected() as (client, server):

            def elsewhere() -> None:
                results.append(greenio.run(lambda: receive_exactly(client, len(data))))

            def write_elsewhere() -> None:
                greenio.run(lambda: client.sendall(data))

            threads = [threading.Thread(target=elsewhere), threading.Thread(target=write_elsewhere)]
            for thread in threads:
                thread.start()
            sending = spawn(server.sendall, data)
            results.append(receive_exactly(server, len(data)))
            sending.join()
            while any(thread.is_alive() for thread in threads):
                greenio.sleep(0.001)

    greenio.run(main)
    assert results == [data, data]


def test_a_forked_child_uses_the_connection_though_another_fiber_was_reading() -> None:
    child = run_child(
        READING_CHILD
        + """
            pid = os.fork()
            if pid == 0:
                one.sendall(b"from the child")
                data = one.recv(100)
                os._exit(0 if data == b"to the child" else 1)
            assert other.recv(100) == b"from the child"
            reading.cancel()
            other.sendall(b"to the child")
            status = greenio.os.waitpid(pid, 0)[1]
            assert status == 0, status
            one.close(), other.close()

        greenio.run(main)
        print("ok")
        """,
        flags=("-W", "error", "-W", "ignore::DeprecationWarning"),
    )
    assert child.stdout == "ok\n"


def test_sessions_leave_no_reference_behind() -> None:
    seen = []

    @fibers
    def use() -> None:
        for _ in range(3):
            with connected() as (client, server):
                spawn(client.sendall, b"x")
                server.recv(1)
                seen.extend([weakref.ref(client), weakref.ref(server)])

    gc.disable()
    try:
        use()
        assert [ref() for ref in seen] == [None] * 6
    finally:
        gc.enable()


@fibers
def test_an_unclosed_one_warns_and_is_closed() -> None:
    left, right = tcp_pair()
    accepting = spawn(serve_tls, right, server_context())
    forgotten = [ssl.start_tls(left, client_context(), server_hostname="localhost")]
    accepting.result().close()
    with pytest.warns(ResourceWarning, match=r"unclosed <greenio\.ssl\.SSLSocket"):
        forgotten.clear()


@fibers
def test_a_failed_handshake_closes_the_connection_on_both_sides() -> None:
    left, right = tcp_pair()
    accepting = spawn(serve_tls, right, server_context())
    with pytest.raises(standard.SSLCertVerificationError):
        ssl.start_tls(left, client_context(trusted=STRANGER), server_hostname="localhost")
    assert isinstance(accepting.exception(), standard.SSLError)
    assert left.fileno() == right.fileno() == -1


@pytest.mark.skipif(sys.platform != "linux", reason="O_NONBLOCK")
@fibers
def test_a_blocking_standard_socket_is_taken_over_and_its_flag_left_alone() -> None:
    one, other = standard_socket.socketpair()
    with connected(pair=lambda: (one, other)) as (client, server):
        assert one.fileno() == -1 and os.get_blocking(client.fileno())
        reading = spawn(receive_exactly, client, 1_000_000)
        server.sendall(bytes(1_000_000))  # more than there is room for: it parks
        assert reading.result() == bytes(1_000_000)
        assert os.get_blocking(client.fileno())
