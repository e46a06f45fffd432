"""Streams over TLS: connect_tcp and serve with contexts, STARTTLS, and both ways to an end."""

import contextlib
import errno
import functools
import logging
import random
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

trustme = pytest.importorskip("trustme", reason="trustme makes the certificates (pip install trustme)")

from waiters import parked  # noqa: E402

import greenio  # noqa: E402
from greenio import IncompleteReadError, Stream, connect_tcp, connect_unix, listen_tcp, serve, socket, spawn  # noqa: E402
from greenio.testing import VirtualClock, wait_all_parked  # noqa: E402

LOCALHOST = "127.0.0.1"


def fibers(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The test is the main fiber of a run with a virtual clock."""

    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords), clock=VirtualClock())

    return test


@pytest.fixture(scope="module", params=["standard", "greenio"])
def contexts(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """(a client's, a server's)."""
    module: Any = ssl if request.param == "standard" else greenio.ssl
    authority = trustme.CA()
    server = module.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(LOCALHOST, "localhost").configure_cert(server)
    client = module.create_default_context()
    authority.configure_trust(client)
    return client, server


@contextlib.contextmanager
def streams(contexts: Any, **options: Any) -> Iterator[tuple[Stream, Stream]]:
    """(client, server) of one TLS connection."""
    with listen_tcp(LOCALHOST) as listener:
        accepted = spawn(listener.accept)
        with connect_tcp(LOCALHOST, listener.port) as left, accepted.result() as right:
            other = spawn(functools.partial(right.start_tls, contexts[1], server_side=True))
            left.start_tls(contexts[0], server_hostname=LOCALHOST)
            other.result()
            yield left, right


def echo(stream: Stream) -> None:
    for line in stream:
        stream.write(line)


@fibers
def test_client_and_server_by_contexts(contexts: Any) -> None:
    client, server_context = contexts
    with serve(echo, LOCALHOST, tls=server_context) as server:
        for host in (LOCALHOST, "localhost"):
            with connect_tcp(host, server.port, tls=client, timeout=10) as stream:
                stream.write(b"hello\n")
                assert stream.readline() == b"hello\n"
                assert stream.socket.version() == "TLSv1.3"
                assert stream.peername == (LOCALHOST, server.port)


@fibers
def test_alpn_is_agreed_on() -> None:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(LOCALHOST).configure_cert(server_context)
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.set_alpn_protocols(["http/1.1"])

    def handler(stream: Stream) -> None:
        stream.write(stream.socket.selected_alpn_protocol().encode())

    with serve(handler, LOCALHOST, tls=server_context) as server:
        with connect_tcp(LOCALHOST, server.port, tls=client) as stream:
            assert stream.read() == b"http/1.1"
            assert stream.socket.selected_alpn_protocol() == "http/1.1"


@fibers
def test_certificate_error_is_the_standard_one_and_leaves_nothing_open(contexts: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    with serve(echo, LOCALHOST, tls=contexts[1]) as server:
        for keywords in ({"tls": True}, {"tls": contexts[0], "server_hostname": "example.org"}):
            with pytest.raises(ssl.SSLCertVerificationError):
                connect_tcp(LOCALHOST, server.port, **keywords)
        wait_all_parked()
        assert server.connections == 0
        seen = server.statistics()
        assert (seen.handshakes_failed, seen.failed, seen.finished) == (2, 0, 0)
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 2


@fibers
def test_client_that_never_shakes_hands_holds_up_nobody_and_is_cut_off(contexts: Any) -> None:
    with serve(echo, LOCALHOST, tls=contexts[1], handshake_timeout=20) as server:
        with connect_tcp(LOCALHOST, server.port) as slow:
            with connect_tcp(LOCALHOST, server.port, tls=contexts[0]) as stream:
                stream.write(b"hello\n")
                assert stream.readline() == b"hello\n"
                assert server.connections == 2
            assert slow.read() == b""
            assert greenio.current_time() == pytest.approx(20)
        assert server.statistics().handshakes_failed == 1


@fibers
def test_handshakes_count_as_connections(contexts: Any) -> None:
    with serve(echo, LOCALHOST, tls=contexts[1], max_connections=1, handshake_timeout=20) as server:
        with connect_tcp(LOCALHOST, server.port) as slow, connect_tcp(LOCALHOST, server.port):
            wait_all_parked()
            assert server.connections == server.statistics().accepted == 1
            slow.close()
            wait_all_parked()
            assert server.statistics().accepted == 2


@fibers
def test_connect_times_out_in_the_handshake(contexts: Any) -> None:
    with listen_tcp(LOCALHOST) as listener:
        with pytest.raises(TimeoutError, match="the TLS handshake took too long"):
            connect_tcp(LOCALHOST, listener.port, tls=contexts[0], timeout=3)
        fiber = parked(connect_tcp, LOCALHOST, listener.port, tls=contexts[0])
        fiber.cancel()
        fiber.join()
        assert fiber.cancelled()


@fibers
def test_unix_with_tls(contexts: Any, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serve(echo, path=path, tls=contexts[1]):
        with connect_unix(path, tls=contexts[0], server_hostname="localhost") as stream:
            stream.write(b"hello\n")
            assert stream.readline() == b"hello\n"
        with pytest.raises(ValueError):
            connect_unix(path, tls=contexts[0])


# --- STARTTLS --------------------------------------------------------------------------------------------------------


@fibers
def test_starttls_goes_on_under_tls(contexts: Any) -> None:
    def handler(stream: Stream) -> None:
        assert stream.readline() == b"STARTTLS\n"
        stream.write(b"go\n")
        stream.start_tls(contexts[1], server_side=True)
        stream.write(stream.readline())

    with serve(handler, LOCALHOST) as server, connect_tcp(LOCALHOST, server.port) as stream:
        name = stream.sockname
        stream.write(b"STARTTLS\n")
        assert stream.readline() == b"go\n"
        stream.start_tls(contexts[0], server_hostname=LOCALHOST)
        stream.write(b"secret\n")
        assert stream.read() == b"secret\n"
        assert stream.sockname == name
        with pytest.raises(RuntimeError, match="under TLS already"):
            stream.start_tls(contexts[0], server_hostname=LOCALHOST)


@fibers
def test_bytes_from_before_tls_are_refused(contexts: Any) -> None:
    with listen_tcp(LOCALHOST) as listener:
        accepted = spawn(listener.accept)
        with connect_tcp(LOCALHOST, listener.port) as left, accepted.result() as right:
            left.write(b"STARTTLS\nEVIL COMMAND\n")
            assert right.readline() == b"STARTTLS\n"
            with pytest.raises(OSError, match="13 bytes that came before TLS") as caught:
                right.start_tls(contexts[1], server_side=True)
            assert caught.value.errno == errno.EPROTO
            assert right.readline() == b"EVIL COMMAND\n"


@fibers
def test_bytes_from_before_tls_that_are_still_in_the_kernel_end_the_handshake(contexts: Any) -> None:
    with listen_tcp(LOCALHOST) as listener:
        accepted = spawn(listener.accept)
        with connect_tcp(LOCALHOST, listener.port) as left, accepted.result() as right:
            left.write(b"EVIL COMMAND\n")
            with pytest.raises(ssl.SSLError):
                right.start_tls(contexts[1], server_side=True)
            assert right.closed


@fibers
def test_start_tls_between_reads_and_writes_only(contexts: Any) -> None:
    with listen_tcp(LOCALHOST) as listener:
        accepted = spawn(listener.accept)
        with connect_tcp(LOCALHOST, listener.port) as left, accepted.result() as right:
            reader = parked(left.readline)
            with pytest.raises(RuntimeError, match="is reading"):
                left.start_tls(contexts[0], server_hostname=LOCALHOST)
            right.write(b"x\n")
            reader.join()
            writer = parked(left.write, b"x" * 30_000_000)
            with pytest.raises(RuntimeError, match="is writing"):
                left.start_tls(contexts[0], server_hostname=LOCALHOST)
            writer.cancel()
            writer.join()
            with pytest.raises(ValueError, match="certificate"):
                left.start_tls(server_side=True)
            assert not left.closed


@pytest.mark.parametrize("how", ["cancelled", "timeout", "closed"])
@fibers
def test_interrupted_handshake_closes_the_stream(how: str, contexts: Any) -> None:
    with listen_tcp(LOCALHOST) as listener:
        accepted = spawn(listener.accept)
        with connect_tcp(LOCALHOST, listener.port) as left, accepted.result():
            fiber = parked(
                left.start_tls, contexts[0], server_hostname=LOCALHOST, timeout=5 if how == "timeout" else None
            )
            if how == "cancelled":
                fiber.cancel()
            elif how == "closed":
                left.close()
            fiber.join()
            if how == "cancelled":
                assert fiber.cancelled()
            else:
                assert isinstance(fiber.exception(), TimeoutError if how == "timeout" else OSError)
            assert left.closed
            with pytest.raises(OSError, match="closed"):
                left.read(1)


# --- under TLS -------------------------------------------------------------------------------------------------------


@fibers
def test_half_close_and_end(contexts: Any) -> None:
    with streams(contexts) as (left, right):
        left.write(b"question")
        left.half_close()
        with pytest.raises(BrokenPipeError):
            left.write(b"more")
        assert right.read() == b"question"
        right.write(b"answer")
        right.close()
        assert left.read() == b"answer"
        assert left.at_eof()


@fibers
def test_bytes_survive_sizes_and_directions(contexts: Any) -> None:
    generator = random.Random(9)
    message = generator.randbytes(3_000_000)
    with streams(contexts) as (left, right):

        def send(stream: Stream) -> None:
            at = 0
            while at < len(message):
                size = generator.choice([1, 100, 16_384, 16_385, 200_000])
                stream.write(message[at : at + size])
                at += size
            stream.half_close()

        senders = [spawn(send, left), spawn(send, right)]

        def receive(stream: Stream) -> bytes:
            taken = b""
            with contextlib.suppress(IncompleteReadError):
                while not stream.at_eof():
                    size = generator.choice([1, 1000, 300_000])
                    part = (
                        stream.read(size)
                        if generator.random() < 0.5
                        else stream.read_exactly(min(size, len(message) - len(taken)))
                    )
                    taken += part
            return taken

        receivers = [spawn(receive, left), spawn(receive, right)]
        for sender in senders:
            sender.result()
        assert all(receiver.result() == message for receiver in receivers)


@fibers
def test_interrupted_reads_lose_nothing(contexts: Any) -> None:
    with streams(contexts) as (left, right):
        left.write(b"part")
        for read in (lambda: right.read_exactly(100), right.readline, lambda: right.read_until(b"end"), right.read):
            fiber = parked(read)
            fiber.cancel()
            fiber.join()
            with pytest.raises(TimeoutError), greenio.timeout(3):
                read()
        left.write(b" and line\n")
        assert right.readline() == b"part and line\n"


@fibers
def test_peer_that_does_not_read_parks_the_writer_and_close_does_not_wait_for_it(contexts: Any) -> None:
    with streams(contexts) as (left, right):
        left.timeout = 2
        with pytest.raises(TimeoutError):
            left.write(b"x" * 30_000_000)
        began = greenio.current_time()
        left.close()
        assert greenio.current_time() - began <= 1
        right.abort()


@fibers
def test_closing_wakes_the_reader(contexts: Any) -> None:
    with streams(contexts) as (left, right):
        reader = parked(left.readline)
        left.close()
        with pytest.raises(OSError) as caught:
            reader.result()
        assert caught.value.errno == errno.EBADF
        assert right.read() == b""


@fibers
def test_reset_under_tls_is_the_peers_doing(contexts: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    with serve(echo, LOCALHOST, tls=contexts[1]) as server:
        stream = connect_tcp(LOCALHOST, server.port, tls=contexts[0])
        stream.write(b"x\n")
        assert stream.readline() == b"x\n"
        stream.abort()
        wait_all_parked()
        assert server.connections == 0
        assert server.statistics().lost == 1
    assert [record.levelno for record in caplog.records] == [logging.INFO]


@fibers
def test_stream_on_a_tls_socket(contexts: Any) -> None:
    with serve(echo, LOCALHOST, tls=contexts[1]) as server:
        sock = socket.create_connection((LOCALHOST, server.port))
        with Stream(greenio.ssl.start_tls(sock, contexts[0], server_hostname=LOCALHOST)) as stream:
            with stream.corked():
                stream.write(b"one ")
                stream.write(b"line\n")
            assert stream.readline() == b"one line\n"
            assert stream.statistics().bytes_received == 9
