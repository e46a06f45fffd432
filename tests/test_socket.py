"""greenio.socket: what the standard module does, with fibers that park instead of OS threads that block."""

import array
import contextlib
import errno
import functools
import gc
import hashlib
import os
import random
import resource
import socket as standard
import struct
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child import run_child
from sockets import (
    FAMILIES,
    LOCALHOST,
    connected,
    fibers,
    fill,
    is_nonblocking,
    listening,
    never_accepting,
    outcome,
    receive_all,
    receive_exactly,
    refusing,
)

import greenio
import greenio.debug
from greenio import socket, spawn, yield_now
from greenio.pollers import Entry
from greenio.testing import VirtualClock, wait_all_parked

STREAM = standard.SOCK_STREAM
SCENARIOS = Path(__file__).parent / "crash" / "socket_scenarios.py"


# --- it works --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
@fibers
def test_echo(kind: str, tmp_path: Path) -> None:
    def serve(listener: Any) -> None:
        sock, _ = listener.accept()
        with sock:
            while data := sock.recv(1000):
                sock.sendall(data)

    with listening(kind, tmp_path) as listener:
        server = spawn(serve, listener)
        with socket.socket(listener.family) as client:
            client.connect(listener.getsockname())
            for size in (1, 999, 1000, 1001, 100_000):
                message = os.urandom(size)
                sender = spawn(client.sendall, message)
                assert receive_exactly(client, size) == message
                sender.result()
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        server.result()


@pytest.mark.parametrize("kind", FAMILIES)
@fibers
def test_accept_tells_the_address_that_getpeername_tells(kind: str, tmp_path: Path) -> None:
    with listening(kind, tmp_path) as listener, socket.socket(listener.family) as client:
        if kind == "unix":
            client.bind(str(tmp_path / "client"))
        client.connect(listener.getsockname())
        accepted, address = listener.accept()
        with accepted:
            assert address == accepted.getpeername() == client.getsockname()
            assert accepted.getsockname() == client.getpeername() == listener.getsockname()
            assert type(accepted) is socket.socket
            assert (accepted.family, accepted.type, accepted.proto) == (listener.family, STREAM, 0)


@fibers
def test_unix_addresses_unnamed_and_abstract() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        name = b"\0greenio-" + os.urandom(8)
        listener.bind(name)
        listener.listen()
        for mine in (None, b"\0greenio-" + os.urandom(8) + b"\0inside"):
            with socket.socket(socket.AF_UNIX) as client:
                if mine is not None:
                    client.bind(mine)
                client.connect(name)
                accepted, address = listener.accept()
                with accepted:
                    assert address == accepted.getpeername() == (mine if mine is not None else "")


@fibers
def test_create_connection_and_create_server() -> None:
    with socket.create_server(("localhost", 0)) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        with socket.create_connection(("localhost", listener.getsockname()[1]), timeout=7) as client:
            assert client.gettimeout() == 7
            listener.accept()[0].close()
            assert client.recv(1) == b""
        with socket.create_connection(listener.getsockname(), source_address=("127.0.0.1", 0)) as client:
            assert client.gettimeout() is None
            listener.accept()[0].close()
        default = standard._GLOBAL_DEFAULT_TIMEOUT  # http.client passes it along
        with socket.create_connection(listener.getsockname(), default) as client:
            assert client.gettimeout() is None


@fibers
def test_create_server_takes_both_families() -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        for host in (LOCALHOST, "::1"):
            with socket.create_connection((host, port)):
                accepted, address = listener.accept()
                accepted.close()
                assert address[0] in ("::1", "::ffff:127.0.0.1")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the standard one loses its socket at errors of the arguments
def test_create_server_fails_as_the_standard_one() -> None:
    with standard.create_server((LOCALHOST, 0)) as taken:
        address = taken.getsockname()
        for call in (
            lambda module: module.create_server(address),
            lambda module: module.create_server((LOCALHOST, 0), dualstack_ipv6=True),
            lambda module: module.create_server(("192.0.2.1", 0)),
            lambda module: module.create_server((LOCALHOST, 70000)),
            lambda module: module.create_server("nonsense"),
        ):
            assert outcome(lambda: call(socket)) == outcome(lambda: call(standard))  # noqa: B023


@fibers
def test_create_connection_fails_as_the_standard_one() -> None:
    with refusing() as address:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with pytest.raises(ExceptionGroup) as raised:
            socket.create_connection(("localhost", address[1]), all_errors=True)
        assert all(isinstance(error, OSError) for error in raised.value.exceptions)
    with never_accepting() as address, pytest.raises(TimeoutError):
        socket.create_connection(address, timeout=0.01)
    with pytest.raises(socket.gaierror):
        socket.create_connection(("no such host at all.invalid", 1))


def test_socketpair() -> None:
    def main() -> None:
        left, right = socket.socketpair()
        with left, right:
            assert left.family == socket.AF_UNIX
            assert left.type == STREAM
            left.sendall(b"x")
            assert right.recv(10) == b"x"
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with left, right:
            left.send(b"one")
            left.send(b"two")
            assert (right.recv(10), right.recv(10)) == (b"one", b"two")

    greenio.run(main)
    assert outcome(lambda: socket.socketpair(socket.AF_INET)) == outcome(lambda: standard.socketpair(socket.AF_INET))


@fibers
def test_attributes() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        assert (sock.family, sock.type, sock.proto) == (socket.AF_INET6, STREAM, 0)
        assert isinstance(sock.family, socket.AddressFamily)
        assert isinstance(sock.type, socket.SocketKind)
        assert f"fd={sock.fileno()}" in repr(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == STREAM
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert not os.get_inheritable(sock.fileno())
    assert "[closed]" in repr(sock)
    assert sock.fileno() == -1
    with pytest.raises(TypeError):
        sock.__reduce__()


# --- errors are the standard module's --------------------------------------------------------------------------------

ON_ANY: dict[str, Callable[[Any], Any]] = {
    "recv 0": lambda sock: sock.recv(0),
    "recv negative": lambda sock: sock.recv(-1),
    "recv float": lambda sock: sock.recv(1.0),
    "recv nothing": lambda sock: sock.recv(),
    "recv absurd": lambda sock: sock.recv(1 << 80),
    "recv wrong flags": lambda sock: sock.recv(1, "x"),
    "recv_into": lambda sock: sock.recv_into(bytearray(1)),
    "recv_into empty": lambda sock: sock.recv_into(bytearray()),
    "recv_into bytes": lambda sock: sock.recv_into(b"x"),
    "recv_into negative": lambda sock: sock.recv_into(bytearray(1), -1),
    "recv_into too many": lambda sock: sock.recv_into(bytearray(1), 2),
    "recv": lambda sock: sock.recv(1),
    "recv oob": lambda sock: sock.recv(1, standard.MSG_OOB),
    "recv_into scattered": lambda sock: sock.recv_into(memoryview(bytearray(4))[::2]),
    "send": lambda sock: sock.send(b"x"),
    "send scattered": lambda sock: sock.send(memoryview(b"abcd")[::2]),
    "send nothing": lambda sock: sock.send(b""),
    "send str": lambda sock: sock.send("x"),
    "sendall": lambda sock: sock.sendall(b"x"),
    "sendall nothing": lambda sock: sock.sendall(b""),
    "sendall int": lambda sock: sock.sendall(5),
    "accept": lambda sock: sock.accept(),
    "shutdown": lambda sock: sock.shutdown(standard.SHUT_RDWR),
    "shutdown nonsense": lambda sock: sock.shutdown(77),
    "getpeername": lambda sock: sock.getpeername(),
    "listen": lambda sock: sock.listen("x"),
    "bind str": lambda sock: sock.bind("x"),
    "bind port": lambda sock: sock.bind((LOCALHOST, -1)),
    "bind foreign": lambda sock: sock.bind(("192.0.2.1", 0)),
    "bind NUL": lambda sock: sock.bind(("a\0b", 0)),
    "settimeout": lambda sock: sock.settimeout(5),
    "settimeout negative": lambda sock: sock.settimeout(-1),
    "settimeout nan": lambda sock: sock.settimeout(float("nan")),
    "settimeout str": lambda sock: sock.settimeout("1"),
    "setblocking": lambda sock: sock.setblocking(True),
    "getsockopt": lambda sock: sock.getsockopt(standard.SOL_SOCKET, 9999),
    "setsockopt": lambda sock: sock.setsockopt(standard.SOL_SOCKET, 9999, 1),
    "connect str": lambda sock: sock.connect("abc"),
    "connect None": lambda sock: sock.connect(None),
    "connect list": lambda sock: sock.connect([LOCALHOST, 1]),
    "connect empty": lambda sock: sock.connect(()),
    "connect host only": lambda sock: sock.connect((LOCALHOST,)),
    "connect port": lambda sock: sock.connect((LOCALHOST, 70000)),
    "connect port str": lambda sock: sock.connect((LOCALHOST, "http")),
    "connect host int": lambda sock: sock.connect((5, 5)),
    "connect host None": lambda sock: sock.connect((None, 5)),
    "connect host NUL": lambda sock: sock.connect(("a\0b", 5)),
    "connect other family": lambda sock: sock.connect(("::1", 5)),
    "connect_ex other family": lambda sock: sock.connect_ex(("::1", 5)),
    "connect host bytearray": lambda sock: sock.connect((bytearray(b"127.0.0.1"), 70000)),
    "connect_ex str": lambda sock: sock.connect_ex("abc"),
    "fileno": lambda sock: sock.fileno() >= 0,
    "detach closed": lambda sock: sock.detach() if sock.fileno() < 0 else -1,
    "dup": lambda sock: sock.dup().close(),
}


@pytest.mark.parametrize("state", ["new", "closed", "nonblocking", "peer gone"])
@pytest.mark.parametrize("name", ON_ANY)
@fibers
def test_same_outcome_as_the_standard_socket(name: str, state: str) -> None:
    def of(module: Any) -> Any:
        if state == "peer gone":
            with standard.create_server((LOCALHOST, 0)) as listener:
                sock = module.socket()
                sock.connect(listener.getsockname())
                peer = listener.accept()[0]
                peer.setsockopt(standard.SOL_SOCKET, standard.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
        else:
            sock = module.socket()
        if state == "nonblocking":
            sock.setblocking(False)
        if state == "closed":
            sock.close()
        with sock:
            return outcome(lambda: ON_ANY[name](sock)), outcome(lambda: ON_ANY[name](sock))

    if state == "peer gone" and "bind" in name:
        pytest.skip("the port it is bound to says which error")
    assert of(socket) == of(standard)


@pytest.mark.parametrize(
    "arguments",
    [
        {"family": 9999},
        {"type": 9999},
        {"proto": 9999},
        {"family": "x"},
        {"fileno": -1},
        {"fileno": "x"},
        {"fileno": 1.0},
        {"fileno": 99999},
        {"family": 2, "type": 1, "proto": 0, "fileno": 99999},
        {"fileno": os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)},
    ],
    ids=str,
)
def test_constructor_fails_as_the_standard_one(arguments: dict[str, Any]) -> None:
    assert outcome(lambda: socket.socket(**arguments)) == outcome(lambda: standard.socket(**arguments))


def test_sock_nonblock_is_a_timeout_of_zero() -> None:
    with socket.socket(type=STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        assert sock.gettimeout() == 0
        assert sock.type == STREAM
        assert not sock.getblocking()


@pytest.mark.parametrize("timeout", [None, 0, 0.01], ids=str)
@fibers
def test_connect_ex_returns_what_the_standard_one_returns(timeout: float | None) -> None:
    def of(module: Any) -> list[Any]:
        said = []
        with refusing() as address, module.socket() as sock:
            sock.settimeout(timeout)
            said.append(sock.connect_ex(address))
            if timeout != 0:
                said.append(sock.connect_ex(address))
        with standard.create_server((LOCALHOST, 0)) as listener, module.socket() as sock:
            sock.settimeout(timeout)
            said.append(sock.connect_ex(listener.getsockname()))
            said.append(sock.connect_ex(listener.getsockname()))
            said.append(sock.connect_ex(listener.getsockname()))
        if timeout is not None:
            with never_accepting() as address, module.socket() as sock:
                sock.settimeout(timeout)
                said.append(sock.connect_ex(address))
                said.append(sock.connect_ex(address))
                said.append(outcome(lambda: sock.connect(address)))
        with module.socket() as sock:
            sock.settimeout(timeout)
            sock.close()
            said.append(sock.connect_ex((LOCALHOST, 1)))
        with module.socket(standard.AF_UNIX) as sock:
            sock.settimeout(timeout)
            said.append(sock.connect_ex("/nowhere/at/all"))
        with module.socket() as sock:
            sock.settimeout(timeout)
            said.append(sock.connect_ex(("255.255.255.255", 1)))
        return said

    assert of(socket) == of(standard)


@fibers
def test_connect_ex_raises_what_is_about_the_address_and_not_from_the_system() -> None:
    def of(module: Any, family: int, address: Any) -> Any:
        with module.socket(family) as sock:
            return outcome(lambda: sock.connect_ex(address))

    for family, address in (
        (standard.AF_UNIX, "x" * 108),
        (standard.AF_UNIX, "\0" + "x" * 108),
        (standard.AF_INET6, ("<broadcast>", 1)),
    ):
        assert of(socket, family, address) == of(standard, family, address)
        with pytest.raises(OSError), socket.socket(family) as sock:
            sock.connect_ex(address)


@pytest.mark.parametrize(
    "host", ["a..b", ".", "a" * 70, "\ud800", b"\xff", bytearray(b"127.0.0.1"), b"127.0.0.1"], ids=ascii
)
@fibers
def test_a_host_that_is_no_name_fails_as_with_the_standard_class(host: Any) -> None:
    def of(module: Any) -> Any:
        with module.socket() as sock:
            return outcome(lambda: sock.bind((host, 0)))

    assert of(socket) == of(standard)


@fibers
def test_connect_raises_what_the_system_says() -> None:
    with refusing() as address, socket.socket() as sock, pytest.raises(ConnectionRefusedError) as raised:
        sock.connect(address)
    assert raised.value.args == (errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    with never_accepting() as address, socket.socket() as sock:
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError, match="timed out") as timed_out:
            sock.connect(address)
        assert timed_out.value.args == ("timed out",)
        with pytest.raises(BlockingIOError) as under_way:
            sock.connect(address)
        assert under_way.value.errno == errno.EALREADY
    with socket.socket() as sock, pytest.raises(socket.gaierror):
        sock.connect(("no such host at all.invalid", 1))


@fibers
def test_connect_ends_when_another_fiber_has_taken_its_error() -> None:
    # Whoever waits for data hears of the refusal too, and the kernel tells an error once.
    with standard.socket() as bound:
        bound.bind((LOCALHOST, 0))
        with socket.socket() as sock:
            sock.setblocking(False)
            assert sock.connect_ex(bound.getsockname()) in (errno.EINPROGRESS, errno.ECONNREFUSED)
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    with standard.create_server((LOCALHOST, 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        for _ in range(3):
            filler = stack.enter_context(standard.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        sock = stack.enter_context(socket.socket())
        connecting = spawn(sock.connect_ex, listener.getsockname())
        wait_all_parked()
        sock.shutdown(socket.SHUT_RDWR)  # fails the attempt, without an error of its own
        assert connecting.result() in (errno.ECONNABORTED, errno.ECONNRESET)


# --- timeouts --------------------------------------------------------------------------------------------------------


def test_timeouts_raise_timeout_error_and_take_nothing() -> None:
    clock = VirtualClock()

    def main() -> None:
        with listening("ipv4", Path()) as listener, connected() as (client, server):
            listener.settimeout(5)
            client.settimeout(5)
            for seconds, call in enumerate(
                (listener.accept, lambda: client.recv(10), lambda: client.recv_into(bytearray(10))), 1
            ):
                with pytest.raises(TimeoutError) as raised:
                    call()
                assert raised.value.args == ("timed out",)
                assert greenio.current_time() == pytest.approx(5 * seconds, abs=0.1)
            room = fill(client)
            with pytest.raises(TimeoutError):
                client.send(b"x")
            with pytest.raises(TimeoutError) as raised:
                client.sendall(b"x" * 10)
            assert raised.value.bytes_sent == 0
            assert len(receive_exactly(server, room)) == room
            server.sendall(b"later")
            assert client.recv(10) == b"later"

    greenio.run(main, clock=clock)


def test_a_timeout_is_for_the_whole_of_sendall() -> None:
    clock = VirtualClock()

    def main() -> None:
        with connected() as (client, server):
            client.settimeout(5)
            data = os.urandom(20_000_000)
            read = bytearray()

            def read_slowly() -> None:
                for _ in range(4):
                    greenio.sleep(1)
                    read.extend(receive_exactly(server, 1_000_000))

            reader = spawn(read_slowly)
            started = greenio.current_time()
            with pytest.raises(TimeoutError) as raised:
                client.sendall(data)
            assert greenio.current_time() - started == pytest.approx(5, abs=0.5)
            reader.result()
            client.shutdown(socket.SHUT_WR)
            read.extend(receive_all(server))
            assert read == data[: raised.value.bytes_sent]

    greenio.run(main, clock=clock)


@pytest.mark.parametrize("kind", ["ipv4", "pair"])
@fibers
def test_zero_timeout_raises_blocking_io_error(kind: str) -> None:
    with connected(kind) as (client, _server), socket.create_server((LOCALHOST, 0)) as listener:
        for sock in (client, listener):
            sock.settimeout(0)
            assert not sock.getblocking()
        for call in (lambda: client.recv(1), lambda: client.recv_into(bytearray(1)), listener.accept):
            with pytest.raises(BlockingIOError) as raised:
                call()
            assert raised.value.errno == errno.EAGAIN
        fill(client)
        client.settimeout(0)
        for call in (lambda: client.send(b"x"), lambda: client.sendall(b"x")):
            with pytest.raises(BlockingIOError):
                call()


@fibers
def test_nonblocking_sendall_says_how_much_went_out() -> None:
    with connected("pair") as (left, right):
        data = os.urandom(10_000_000)
        left.setblocking(False)
        with pytest.raises(BlockingIOError) as raised:
            left.sendall(data)
        assert 0 < raised.value.bytes_sent < len(data)
        left.close()
        assert receive_all(right) == data[: raised.value.bytes_sent]


@pytest.mark.parametrize("kind", ["ipv4", "pair"])
@fibers
def test_nonblocking_recv_sees_what_came_since_a_short_read(kind: str) -> None:
    # Nobody parks here, so nobody asks the poller: the call itself must.
    with connected(kind) as (client, server), socket.create_server((LOCALHOST, 0)) as listener:
        spawned = spawn(client.recv, 100)  # registers the descriptor
        yield_now()
        server.sendall(b"first")
        assert spawned.result() == b"first"
        client.setblocking(False)
        server.sendall(b"second")
        assert client.recv(100) == b"second"
        with pytest.raises(BlockingIOError):
            client.recv(100)
        server.sendall(b"third")
        assert client.recv(100) == b"third"
        # The same for room, and for connections.
        client.setblocking(True)
        room = fill(client)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.send(b"x")
        assert len(receive_exactly(server, room)) == room
        assert client.send(b"x") == 1
        accepting = spawn(listener.accept)
        yield_now()
        with socket.create_connection(listener.getsockname()):
            accepting.result()[0].close()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        with socket.create_connection(listener.getsockname()):
            listener.accept()[0].close()


@fibers
def test_calls_that_only_fail_let_others_run() -> None:
    with connected() as (client, server):
        client.setblocking(False)
        done = []
        spawn(lambda: (server.sendall(b"x"), done.append(True)))
        tries = 0
        while not done:
            with contextlib.suppress(BlockingIOError):
                client.recv(1)
            tries += 1
            assert tries < 1000


def test_default_timeout() -> None:
    def main() -> None:
        with socket.create_server((LOCALHOST, 0)) as listener:
            assert listener.gettimeout() == 3600
            with socket.create_connection(listener.getsockname()) as client:
                assert client.gettimeout() == 3600
                accepted, _ = listener.accept()
                with accepted:
                    assert accepted.gettimeout() == 3600
                    with pytest.raises(TimeoutError):
                        accepted.recv(1)
            with never_accepting() as address, socket.socket() as sock:
                # The standard module's own connect would block the OS thread for the default timeout.
                connecting = spawn(sock.connect, address)
                for _ in range(10):
                    yield_now()
                assert connecting.state == "parked"
                assert greenio.current_time() < 3700
                connecting.cancel()

    standard.setdefaulttimeout(3600)
    try:
        greenio.run(main, clock=VirtualClock())
    finally:
        standard.setdefaulttimeout(None)


def test_settimeout_takes_what_the_standard_one_takes() -> None:
    with socket.socket() as sock:
        for given, found in ((None, None), (0, 0.0), (5, 5.0), (True, 1.0), (1.5, 1.5)):
            sock.settimeout(given)
            assert sock.gettimeout() == found == sock.timeout
            assert sock.getblocking() is (found != 0)
        sock.setblocking(False)
        assert sock.gettimeout() == 0.0
        sock.setblocking(True)
        assert sock.gettimeout() is None


# --- cancelled, closed, detached while parked ------------------------------------------------------------------------


class Parked:
    """A call that is parked, on a socket of its own, and what is needed to go on afterwards."""

    def __init__(self, what: str, stack: contextlib.ExitStack) -> None:
        self.what = what
        if what == "accept":
            self.sock = stack.enter_context(socket.create_server((LOCALHOST, 0)))
            self.call: Callable[[], Any] = self.sock.accept
        elif what == "connect":
            address = stack.enter_context(never_accepting())
            self.sock = stack.enter_context(socket.socket())
            self.call = functools.partial(self.sock.connect, address)
        else:
            self.sock, self.peer = stack.enter_context(connected("pair" if what.startswith("send") else "ipv4"))
            self.room = 0
            if what.startswith("send"):
                self.room = fill(self.sock)
            self.call = {
                "recv": lambda: self.sock.recv(100),
                "large recv": lambda: self.sock.recv(1 << 20),
                "recv_into": lambda: self.sock.recv_into(bytearray(100)),
                "recv all": lambda: self.sock.recv(100, socket.MSG_WAITALL),
                "send": lambda: self.sock.send(b"s" * 100),
                "sendall": lambda: self.sock.sendall(b"s" * 100),
            }[what]

    def check_usable(self) -> None:
        """As if the call had never been."""
        if self.what == "accept":
            with socket.create_connection(self.sock.getsockname()):
                self.sock.accept()[0].close()
        elif self.what.startswith("send"):
            again = spawn(self.sock.sendall, b"again")
            assert receive_exactly(self.peer, self.room) == b"f" * self.room
            again.result()
            assert self.peer.recv(100) == b"again"
        elif self.what != "connect":
            self.peer.sendall(b"hello")
            assert self.sock.recv(100) == b"hello"


PARKED = ["recv", "large recv", "recv_into", "recv all", "send", "sendall", "accept", "connect"]


@pytest.mark.parametrize("what", PARKED)
@fibers
def test_cancelled_while_parked_has_not_happened(what: str) -> None:
    with contextlib.ExitStack() as stack:
        parked = Parked(what, stack)
        fiber = spawn(parked.call)
        wait_all_parked()
        assert fiber.waits_for[0].startswith("socket ")
        assert fiber.waits_for[1] is parked.sock
        fiber.cancel("enough")
        fiber.join()
        assert fiber.cancelled()
        parked.check_usable()


@fibers
def test_sendall_cancelled_says_how_much_went_out() -> None:
    with connected() as (client, server):
        data = os.urandom(30_000_000)
        told: list[int] = []

        def send() -> None:
            try:
                client.sendall(data)
            except greenio.Cancelled as cancelled:
                told.append(cancelled.bytes_sent)
                raise

        sender = spawn(send)
        wait_all_parked()
        sender.cancel()
        sender.join()
        assert 0 < told[0] < len(data)
        client.close()
        assert receive_all(server) == data[: told[0]]


@fibers
def test_sendall_of_a_cancelled_fiber_sends_nothing() -> None:
    with connected() as (client, server):
        told: list[Any] = []

        def send() -> None:
            try:
                client.sendall(b"x")
            except greenio.Cancelled as cancelled:
                told.append(cancelled.bytes_sent)

        sender = spawn(send)
        sender.cancel()
        sender.join()
        assert told == [0]
        client.close()
        assert server.recv(10) == b""
        with pytest.raises(OSError) as raised:
            client.sendall(b"x")
        assert raised.value.bytes_sent == 0


@fibers
def test_recv_all_cancelled_gives_what_had_come() -> None:
    with connected() as (client, server):
        told: list[Any] = []

        def receive() -> None:
            try:
                client.recv(100, socket.MSG_WAITALL)
            except greenio.Cancelled as cancelled:
                told.append(cancelled.received)

        fiber = spawn(receive)
        server.sendall(b"some")
        wait_all_parked()
        fiber.cancel()
        fiber.join()
        assert told == [b"some"]


@pytest.mark.parametrize("what", PARKED)
@pytest.mark.parametrize("how", ["close", "detach", "close from a thread"])
@fibers
def test_closing_wakes_all_who_wait(what: str, how: str) -> None:
    with contextlib.ExitStack() as stack:
        parked = Parked(what, stack)
        waiting = [spawn(parked.call) for _ in range(1 if what == "connect" else 4)]
        wait_all_parked()
        if how == "close":
            parked.sock.close()
        elif how == "detach":
            stack.callback(os.close, parked.sock.detach())
        else:
            thread = threading.Thread(target=parked.sock.close)
            thread.start()
            stack.callback(thread.join)
        for fiber in waiting:
            error = fiber.exception()
            assert isinstance(error, OSError)
            assert error.errno == errno.EBADF
        assert parked.sock.fileno() == -1
        with pytest.raises(OSError) as raised:
            parked.call()
        assert raised.value.errno == errno.EBADF


@fibers
def test_close_while_the_first_waiter_is_ready_and_another_is_cancelled() -> None:
    with connected() as (client, server):
        waiting = [spawn(client.recv, 1) for _ in range(4)]
        wait_all_parked()
        server.sendall(b"x")
        waiting[1].cancel()
        client.close()
        waiting[2].cancel()
        assert isinstance(waiting[0].exception(), OSError)
        waiting[1].join()
        waiting[2].join()
        assert waiting[1].cancelled()
        # It was woken by the close before it was cancelled.
        assert waiting[2].cancelled() or isinstance(waiting[2].exception(), OSError)
        assert isinstance(waiting[3].exception(), OSError)


@fibers
def test_shutdown_wakes_who_waits_for_data_and_connections() -> None:
    with connected() as (client, _server):
        reader = spawn(client.recv, 10)
        wait_all_parked()
        client.shutdown(socket.SHUT_RD)
        assert reader.result() == b""
    listener = socket.create_server((LOCALHOST, 0))
    with listener:
        accepting = spawn(listener.accept)
        wait_all_parked()
        listener.shutdown(socket.SHUT_RDWR)
        error = accepting.exception()
        assert isinstance(error, OSError)
        assert error.errno == errno.EINVAL


def test_the_end_of_main_unwinds_who_waits_on_sockets() -> None:
    unwound = []

    def wait(sock: Any) -> None:
        try:
            sock.recv(1)
        finally:
            unwound.append(sock)
            sock.close()

    def main() -> None:
        for sock in socket.socketpair():
            spawn(wait, sock)
        wait_all_parked()

    greenio.run(main)
    assert len(unwound) == 2


# --- several waiters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ipv4", "pair"])
@fibers
def test_readers_are_served_in_order(kind: str) -> None:
    with connected(kind) as (client, server):
        served: list[tuple[int, bytes]] = []
        readers = [spawn(lambda index=index: served.append((index, client.recv(1)))) for index in range(10)]
        wait_all_parked()
        server.sendall(b"0123456789")  # one event for all
        for reader in readers:
            reader.result()
        assert served == [(index, b"%d" % index) for index in range(10)]


@fibers
def test_a_newcomer_lines_up_behind_who_waits() -> None:
    with connected() as (client, server):
        first = spawn(client.recv, 1)
        wait_all_parked()
        server.sendall(b"ab")
        assert client.recv(1) == b"b"
        assert first.result() == b"a"


@fibers
def test_acceptors_are_served_in_order() -> None:
    with socket.create_server((LOCALHOST, 0)) as listener:
        acceptors = [spawn(listener.accept) for _ in range(5)]
        wait_all_parked()
        with contextlib.ExitStack() as stack:
            addresses = []
            for _ in range(5):
                client = stack.enter_context(standard.create_connection(listener.getsockname()))
                addresses.append(client.getsockname())
            found = [acceptor.result() for acceptor in acceptors]
            for sock, _ in found:
                sock.close()
            assert [address for _, address in found] == addresses


@pytest.mark.parametrize("ended", ["cancelled", "cancelled before the event", "timed out"])
def test_the_wake_up_is_passed_on(ended: str) -> None:
    # Data for both comes as one event, and the first gives up at the same instant.
    clock = VirtualClock()

    def main() -> None:
        with connected() as (client, server):
            client.settimeout(10)
            first = spawn(client.recv, 1)
            wait_all_parked()
            client.settimeout(None)
            second = spawn(client.recv, 1)
            wait_all_parked()
            if ended == "cancelled before the event":
                first.cancel()
            server.sendall(b"ab")
            if ended == "cancelled":
                spinning = [True]

                def spin() -> None:
                    while spinning:
                        yield_now()

                spawn(spin)
                while first.state == "parked":
                    yield_now()
                assert first.state == "ready"
                first.cancel()
                spinning.clear()
            elif ended == "timed out":
                clock.advance(20)
            first.join()
            got = b"" if first.cancelled() or isinstance(first.exception(), TimeoutError) else first.result()
            got += second.result()
            while len(got) < 2:
                got += client.recv(1)
            assert got == b"ab"

    greenio.run(main, clock=clock)


@pytest.mark.parametrize("seed", range(30))
@fibers
def test_cancelling_any_of_many_waiters_keeps_the_order_of_the_rest(seed: int) -> None:
    chance = random.Random(seed)
    with connected("pair") as (left, right):
        count = chance.randrange(2, 8)
        served: list[tuple[int, bytes]] = []
        readers = [spawn(lambda index=index: served.append((index, left.recv(1)))) for index in range(count)]
        wait_all_parked()
        gone = chance.sample(range(count), chance.randrange(0, count))
        data = bytes(range(count - len(gone)))
        steps: list[Callable[[], Any]] = [readers[index].cancel for index in gone]
        steps.insert(chance.randrange(len(steps) + 1), lambda: right.sendall(data))
        for step in steps:
            step()
            if chance.random() < 0.3:
                yield_now()
        wait_all_parked()
        assert [index for index, _ in served] == sorted(index for index, _ in served)
        assert b"".join(item for _, item in served) == data
        assert sum(fiber.state == "parked" for fiber in readers) == count - len(data) - sum(
            fiber.cancelled() for fiber in readers
        )
        for reader in readers:
            reader.cancel()


# --- the I/O path's exceptions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "pair"])
@fibers
def test_fin_together_with_the_last_data(kind: str, tmp_path: Path) -> None:
    for when in ("before the first read", "while it waits", "after a short read"):
        with connected(kind, tmp_path) as (client, server):
            if when == "before the first read":
                server.sendall(b"last")
                server.close()
                assert client.recv(100) == b"last"
                assert client.recv(100) == b""
                continue
            reader = spawn(lambda: (client.recv(100), client.recv(100)))
            wait_all_parked()
            if when == "after a short read":
                server.sendall(b"last")
                wait_all_parked()
                server.close()
            else:
                server.sendall(b"last")
                server.close()  # one event for both
            assert reader.result() == (b"last", b"")
            assert client.recv(100) == b""


@fibers
def test_fin_that_comes_between_the_event_and_the_short_read() -> None:
    with connected() as (client, server):
        reader = spawn(client.recv, 1)
        wait_all_parked()
        server.sendall(b"1")
        assert reader.result() == b"1"
        # The descriptor is registered and thought readable. Nobody polls from here to the end.
        server.sendall(b"last")
        server.close()
        assert client.recv(100) == b"last"
        assert client.recv(100) == b""


@fibers
def test_reads_on_unix_sockets_end_at_descriptors_passed_along() -> None:
    with connected("pair") as (left, right), open("/dev/null") as passed:
        reader = spawn(receive_exactly, left, 9)
        wait_all_parked()
        with standard.socket(fileno=os.dup(right.fileno())) as sender:
            rights = [(standard.SOL_SOCKET, standard.SCM_RIGHTS, array.array("i", [passed.fileno()]))]
            sender.send(b"one")
            sender.sendmsg([b"two"], rights)
            sender.sendmsg([b"six"], rights)
        wait_all_parked()
        assert reader.state == "done"  # and not parked with data there
        assert reader.result() == b"onetwosix"


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
@fibers
def test_reads_end_at_the_urgent_mark(inline: bool, when: str) -> None:
    with connected() as (client, server):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, inline)
        expected = b"beforeUafter" if inline else b"beforeafter"
        if when == "after":
            reader = spawn(receive_exactly, client, len(expected))
            wait_all_parked()
        server.sendall(b"before")
        server.send(b"U", socket.MSG_OOB)
        server.sendall(b"after")
        if when == "before":
            reader = spawn(receive_exactly, client, len(expected))
        wait_all_parked()
        assert reader.state == "done"
        assert reader.result() == expected
        server.sendall(b"more")
        assert client.recv(100) == b"more"


@fibers
def test_urgent_data_after_many_short_reads() -> None:
    with connected() as (client, server):
        reader = spawn(receive_all, client)
        for _ in range(20):
            server.send(b"a")
            if random.random() < 0.5:
                wait_all_parked()
            server.send(b"U", socket.MSG_OOB)
            server.send(b"b")
            if random.random() < 0.5:
                wait_all_parked()
        wait_all_parked()
        server.close()
        # An urgent byte that another one overtakes stays in the stream.
        assert reader.result().replace(b"U", b"") == b"ab" * 20


@fibers
def test_a_dup_keeps_the_connection_and_closing_one_says_nothing_of_the_other() -> None:
    with connected() as (client, server):
        client.settimeout(9)
        copy = client.dup()
        assert copy.gettimeout() == 9
        assert not os.get_inheritable(copy.fileno())
        with copy:
            one, two = spawn(client.recv, 1), spawn(copy.recv, 1)
            wait_all_parked()
            client.close()
            assert one.exception().errno == errno.EBADF
            assert two.state == "parked"
            server.sendall(b"xy")
            assert two.result() == b"x"
            assert copy.recv(10) == b"y"
            waiting = spawn(copy.recv, 10)
            wait_all_parked()
            server.close()
            assert waiting.result() == b""


class Special(socket.socket):
    pass


@fibers
def test_dup_keeps_the_class() -> None:
    with Special() as sock, sock.dup() as copy:
        assert type(copy) is Special


@pytest.mark.parametrize("how", ["close", "detach"])
@fibers
def test_a_descriptor_number_used_again_hears_nothing_of_its_former_life(how: str) -> None:
    # A copy of the old file stays open and gets data: the kernel may go on about it under the old number.
    with connected() as (old, old_peer), connected("pair") as (right, peer):
        reader = spawn(old.recv, 1)
        wait_all_parked()
        kept = os.dup(old.fileno())
        try:
            number = old.fileno()
            if how == "close":
                old.close()
            else:
                os.close(old.detach())
            assert reader.exception().errno == errno.EBADF
            os.dup2(right.fileno(), number)
            with socket.socket(fileno=number) as new:
                reader = spawn(new.recv, 10)
                wait_all_parked()
                old_peer.sendall(b"for the old one")
                wait_all_parked()
                assert reader.state == "parked"
                peer.sendall(b"for the new one")
                assert reader.result() == b"for the ne"
        finally:
            os.close(kept)


@pytest.mark.parametrize("kept_open", [False, True])
@fibers
def test_a_number_closed_behind_our_back_and_used_again_is_registered_anew(kept_open: bool) -> None:
    with connected("pair") as (right, peer), contextlib.ExitStack() as stack:
        old, _old_peer = stack.enter_context(connected())
        reader = spawn(old.recv, 1)
        wait_all_parked()
        number = old.fileno()
        if kept_open:
            stack.callback(os.close, os.dup(number))
        os.dup2(right.fileno(), number)  # closes what was there, as os.close would
        with socket.socket(fileno=number) as new:
            fresh = spawn(new.recv, 10)
            wait_all_parked()
            assert reader.exception().errno == errno.EBADF
            peer.sendall(b"hello")
            assert fresh.result() == b"hello"
            old.detach()


@fibers
def test_two_sockets_on_one_descriptor_share_what_is_known_of_it() -> None:
    with connected() as (client, server):
        twin = socket.socket(fileno=client.fileno())
        one, two = spawn(client.recv, 1), spawn(twin.recv, 1)
        wait_all_parked()
        server.sendall(b"ab")
        assert (one.result(), two.result()) == (b"a", b"b")
        waiting = spawn(twin.recv, 1)
        wait_all_parked()
        twin.detach()
        assert waiting.exception().errno == errno.EBADF
        server.sendall(b"c")
        assert client.recv(1) == b"c"


@pytest.mark.slow
def test_one_flooding_connection_does_not_starve_a_hundred_others() -> None:
    flood = b"f" * 60000
    stop = threading.Event()
    rounds = [0] * 100

    def pour(sock: Any) -> None:
        with sock, contextlib.suppress(OSError):
            while not stop.is_set():
                sock.sendall(flood)

    def drain(sock: Any) -> None:
        while sock.recv(1000):  # never all there is, so it never parks
            pass

    def answer(sock: Any) -> None:
        with contextlib.suppress(OSError):
            while data := sock.recv(10):
                sock.sendall(data)

    def ask(sock: Any, index: int) -> None:
        for _ in range(20):
            sock.sendall(b"?")
            assert sock.recv(1) == b"?"
            rounds[index] += 1

    def main() -> None:
        with contextlib.ExitStack() as stack:
            flooded, flooding = stack.enter_context(connected("ipv4"))
            thread = threading.Thread(target=pour, args=(standard.socket(fileno=os.dup(flooding.fileno())),))
            with standard.socket(fileno=os.dup(flooding.fileno())) as shared:
                shared.setblocking(True)  # the file's flag, for the thread
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
            drain_fiber = spawn(drain, flooded)
            asking = []
            for index in range(100):
                client, server = stack.enter_context(connected("pair"))
                stack.callback(spawn(answer, server).cancel)
                asking.append(spawn(ask, client, index))
            for fiber in asking:
                fiber.result()
            assert drain_fiber.state != "done"
            stop.set()
            drain_fiber.cancel()
            flooded.close()
        assert rounds == [20] * 100

    greenio.run(main)


def test_a_sendall_whose_reader_keeps_up_lets_others_run() -> None:
    # The reader is another OS thread with a huge buffer to read into: the sender may never find the buffer full.
    size = 400_000_000

    def main() -> int:
        client, server = socket.socketpair()
        with client, server, standard.socket(fileno=os.dup(server.fileno())) as reading:

            def read() -> None:
                room = bytearray(4_000_000)
                left = size
                while left:
                    left -= reading.recv_into(room)

            thread = threading.Thread(target=read)
            thread.start()
            sender = spawn(client.sendall, memoryview(bytes(4_000_000)).cast("B"))
            for _ in range(size // 4_000_000 - 1):
                sender.result()
                sender = spawn(client.sendall, bytes(4_000_000))
            turns = 0
            while not sender.done():
                yield_now()
                turns += 1
            sender.result()
            thread.join()
            return turns

    assert greenio.run(main) > 0


# --- errors in mid-flight --------------------------------------------------------------------------------------------


@fibers
def test_listener_survives_running_out_of_descriptors() -> None:
    with socket.create_server((LOCALHOST, 0)) as listener, contextlib.ExitStack() as stack:
        accepting = spawn(listener.accept)
        wait_all_parked()
        client = stack.enter_context(socket.socket())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            client.connect(listener.getsockname())
            error = accepting.exception()
            assert isinstance(error, OSError)
            assert error.errno == errno.EMFILE
            with pytest.raises(OSError) as raised:
                listener.accept()
            assert raised.value.errno == errno.EMFILE
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)
        accepted, address = listener.accept()
        accepted.close()
        assert address == client.getsockname()


@fibers
def test_reset_by_the_peer() -> None:
    for parked in (False, True):
        with connected() as (client, server):
            if parked:
                reader = spawn(client.recv, 1)
                wait_all_parked()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server.close()
            if parked:
                assert isinstance(reader.exception(), ConnectionResetError)
            else:
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            assert client.recv(1) == b""
            with pytest.raises(BrokenPipeError) as raised:
                client.sendall(b"x")
            assert raised.value.bytes_sent == 0


@fibers
def test_reset_wakes_who_waits_for_room() -> None:
    with connected() as (client, server):
        fill(client)
        waiting = [spawn(client.sendall, b"x" * 1000) for _ in range(3)]
        wait_all_parked()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        errors = [fiber.exception() for fiber in waiting]
        assert isinstance(errors[0], ConnectionResetError)
        assert all(isinstance(error, BrokenPipeError) for error in errors[1:])
        assert [error.bytes_sent for error in errors] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["ipv4", "pair"])
@fibers
def test_half_close_in_both_directions(kind: str) -> None:
    with connected(kind) as (client, server):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            client.send(b"x")
        assert receive_all(server) == b"question"
        reader = spawn(receive_all, client)
        wait_all_parked()
        server.sendall(b"answer")  # the other direction lives on
        wait_all_parked()
        server.sendall(b" and more")
        server.shutdown(socket.SHUT_WR)
        assert reader.result() == b"answer and more"
        assert client.recv(1) == server.recv(1) == b""


# --- flags and sizes -------------------------------------------------------------------------------------------------


@fibers
def test_peek_takes_nothing() -> None:
    with connected() as (client, server):
        peeking = spawn(client.recv, 3, socket.MSG_PEEK)
        wait_all_parked()
        server.sendall(b"hello")
        assert peeking.result() == b"hel"
        assert client.recv(100, socket.MSG_PEEK) == b"hello"
        assert client.recv(100, socket.MSG_PEEK) == b"hello"
        assert client.recv(100) == b"hello"
        peeking = spawn(client.recv, 3, socket.MSG_PEEK)
        wait_all_parked()
        assert peeking.state == "parked"
        server.close()
        assert peeking.result() == b""


@pytest.mark.parametrize("kind", ["ipv4", "pair"])
@fibers
def test_waitall_parks_until_all_is_there(kind: str) -> None:
    with connected(kind) as (client, server):
        size = 3_000_000
        data = os.urandom(size)
        room = bytearray(size)
        for receive in (
            lambda: client.recv(size, socket.MSG_WAITALL),
            lambda: bytes(room[: client.recv_into(room, 0, socket.MSG_WAITALL)]),
        ):
            reader = spawn(receive)
            second = spawn(client.recv, 4)
            wait_all_parked()
            for start in range(0, size, 500_001):
                server.sendall(data[start : start + 500_001])
                wait_all_parked()
                assert reader.state == ("done" if start + 500_001 >= size else "parked")
            server.sendall(b"rest")
            assert reader.result() == data
            assert second.result() == b"rest"
        reader = spawn(client.recv, 100, socket.MSG_WAITALL)
        server.sendall(b"short")
        wait_all_parked()
        server.close()
        assert reader.result() == b"short"
        assert client.recv(100, socket.MSG_WAITALL) == b""


@fibers
def test_peek_with_waitall_waits_and_takes_nothing() -> None:
    with connected() as (client, server):
        peeking = spawn(client.recv, 6, socket.MSG_PEEK | socket.MSG_WAITALL)
        server.sendall(b"abc")
        wait_all_parked()
        assert peeking.state == "parked"
        server.sendall(b"def")
        assert peeking.result() == b"abcdef"
        peeking = spawn(client.recv, 9, socket.MSG_PEEK | socket.MSG_WAITALL)
        wait_all_parked()
        server.close()
        assert peeking.result() == b"abcdef"
        assert client.recv(100) == b"abcdef"


def test_waitall_under_a_timeout_is_the_standard_modules() -> None:
    # A timeout makes the standard module's descriptor nonblocking, and the flag void.
    def main() -> bytes:
        with connected() as (client, server):
            client.settimeout(5)
            server.sendall(b"abc")
            return client.recv(100, socket.MSG_WAITALL)

    left, right = standard.socketpair()
    with left, right:
        left.settimeout(5)
        right.sendall(b"abc")
        assert greenio.run(main) == left.recv(100, standard.MSG_WAITALL) == b"abc"


@fibers
def test_out_of_band_data() -> None:
    with connected() as (client, server):
        with pytest.raises(OSError) as raised:
            client.recv(1, socket.MSG_OOB)
        assert raised.value.errno == errno.EINVAL
        server.send(b"U", socket.MSG_OOB)
        assert client.recv(1, socket.MSG_OOB) == b"U"
        server.send(b"x")
        assert client.recv(1) == b"x"


@pytest.mark.parametrize("kind", ["ipv4", "pair"])
@fibers
def test_recv_of_nothing_does_not_park(kind: str) -> None:
    with connected(kind) as (client, server):
        assert client.recv(0) == b""
        assert client.recv_into(bytearray()) == 0
        server.sendall(b"x")
        assert client.recv(0) == b""
        assert client.recv(10) == b"x"
        client.sendall(b"")
        assert client.send(b"") == 0


@fibers
def test_reads_larger_than_the_scratch_buffer() -> None:
    with connected("pair") as (left, right):
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
        data = os.urandom(10 << 20)
        sender = spawn(left.sendall, data)
        got = bytearray()
        while len(got) < len(data):
            got += right.recv(10 << 20)
        sender.result()
        assert got == data
        left.sendall(b"small")
        tracemalloc.start()
        try:
            small = right.recv(10 << 20)
            assert small == b"small"
            assert tracemalloc.get_traced_memory()[0] < 100_000  # ten bytes do not keep ten MiB
        finally:
            tracemalloc.stop()
        room = bytearray(10 << 20)
        left.sendall(b"into")
        assert right.recv_into(room) == 4
        with pytest.raises(MemoryError):
            right.recv(sys.maxsize - 100)


@fibers
def test_recv_into_takes_any_writable_buffer_and_no_more_than_asked() -> None:
    with connected("pair") as (left, right):
        left.sendall(b"0123456789")
        room = bytearray(b"." * 8)
        assert right.recv_into(room, 3) == 3
        assert right.recv_into(memoryview(room)[5:], 0) == 3
        assert room == b"012..345"
        items = array.array("i", [0, 0])
        assert right.recv_into(items) == 4
        assert items.tobytes()[:4] == b"6789"
        reading = spawn(right.recv_into, room)
        wait_all_parked()
        with pytest.raises(BufferError):
            room.append(0)  # locked while it waits
        left.sendall(b"x")
        assert reading.result() == 1
        room.append(0)


# --- Unix connections with a full backlog ----------------------------------------------------------------------------


def test_unix_connect_waits_for_room_in_the_backlog(tmp_path: Path) -> None:
    def main() -> None:
        with listening("unix", tmp_path, backlog=0) as listener, contextlib.ExitStack() as stack:
            path = listener.getsockname()
            clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(5)]
            connecting = [spawn(client.connect, path) for client in clients]
            clients[0].settimeout(None)
            for _ in range(20):
                yield_now()
            assert [fiber.done() for fiber in connecting].count(False) == 4
            for _ in range(5):
                greenio.sleep(1)
                listener.accept()[0].close()
            for fiber in connecting:
                fiber.result()

    greenio.run(main, clock=VirtualClock())


def test_unix_connect_to_a_full_backlog_times_out_is_cancelled_and_closed(tmp_path: Path) -> None:
    def main() -> None:
        with listening("unix", tmp_path, backlog=0) as listener, contextlib.ExitStack() as stack:
            path = listener.getsockname()
            filler, one, two, three = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4))
            filler.connect(path)
            one.settimeout(5)
            started = greenio.current_time()
            assert one.connect_ex(path) == errno.EAGAIN
            with pytest.raises(TimeoutError):
                one.connect(path)
            assert greenio.current_time() - started == pytest.approx(10, abs=0.001)
            one.setblocking(False)
            with pytest.raises(BlockingIOError) as raised:
                one.connect(path)
            assert raised.value.errno == one.connect_ex(path) == errno.EAGAIN
            waiting = spawn(two.connect, path)
            closing = spawn(three.connect_ex, path)
            yield_now()
            waiting.cancel()
            waiting.join()
            assert waiting.cancelled()
            three.close()
            assert closing.result() == errno.EBADF
            listener.accept()[0].close()
            two.connect(path)

    greenio.run(main, clock=VirtualClock())


# --- descriptors from elsewhere --------------------------------------------------------------------------------------


@contextlib.contextmanager
def adopted(made: Any) -> Iterator[Any]:
    """*made*, a standard socket, as one of ours on the same blocking descriptor; checked to be blocking still."""
    fd = made.detach()
    watch = os.dup(fd)
    try:
        os.set_blocking(fd, True)
        with socket.socket(fileno=fd) as sock:
            assert not is_nonblocking(fd)
            yield sock
        assert not is_nonblocking(watch)
    finally:
        os.close(watch)


@fibers
def test_adopted_descriptors_park_and_keep_their_flags() -> None:
    left, right = standard.socketpair()
    with adopted(left) as one, adopted(right) as two:
        assert (one.family, one.type) == (socket.AF_UNIX, STREAM)
        reader = spawn(one.recv, 10)
        wait_all_parked()
        two.sendall(b"hello")
        assert reader.result() == b"hello"
        data = os.urandom(5_000_000)
        sender = spawn(one.sendall, data)
        wait_all_parked()
        assert receive_exactly(two, len(data)) == data
        sender.result()
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(1)
        one.settimeout(5)


@fibers
def test_adopted_listener_parks_and_keeps_its_flags() -> None:
    with adopted(standard.create_server((LOCALHOST, 0))) as listener:
        accepting = [spawn(listener.accept) for _ in range(3)]
        wait_all_parked()
        for _ in range(3):
            socket.create_connection(listener.getsockname()).close()
        for fiber in accepting:
            sock, _ = fiber.result()
            assert is_nonblocking(sock.fileno())
            assert sock.recv(1) == b""
            sock.close()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("default_timeout", [None, 30])
def test_adopting_under_a_default_timeout_keeps_the_flags(default_timeout: float | None) -> None:
    def main() -> None:
        left, right = standard.socketpair()
        right.setblocking(True)
        with adopted(left) as one, right:
            assert one.gettimeout() == default_timeout
            one.getsockname()
            right.sendall(b"x")
            assert one.recv(1) == b"x"

    standard.setdefaulttimeout(default_timeout)
    try:
        greenio.run(main)
        assert standard.getdefaulttimeout() == default_timeout
    finally:
        standard.setdefaulttimeout(None)


def end_attempt(sock: Any) -> None:
    """End the system's connect that another OS thread is in, or is about to call."""
    while True:
        try:
            sock.shutdown(socket.SHUT_RDWR)
            return
        except OSError:
            greenio.sleep(0.001)


@fibers
def test_connect_on_an_adopted_descriptor_does_not_block_the_os_thread() -> None:
    with never_accepting() as address, adopted(standard.socket()) as sock:
        connecting = spawn(sock.connect, address)
        for _ in range(10):
            yield_now()  # the OS thread is free
        assert connecting.state == "parked"
        assert connecting.waits_for[0] == "socket connect"
        connecting.cancel()
        connecting.join()
        end_attempt(sock)
    with never_accepting() as address, adopted(standard.socket()) as sock:
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.connect(address)
        end_attempt(sock)
    with never_accepting() as address, adopted(standard.socket()) as sock:
        sock.settimeout(0)
        assert sock.connect_ex(address) == errno.EINPROGRESS
        end_attempt(sock)
    with refusing() as address, adopted(standard.socket()) as sock, pytest.raises(ConnectionRefusedError):
        sock.connect(address)
    with standard.create_server((LOCALHOST, 0)) as listener, adopted(standard.socket()) as sock:
        sock.connect(listener.getsockname())
        with listener.accept()[0] as peer:
            peer.sendall(b"x")
            assert sock.recv(1) == b"x"
    while greenio.debug.thread_stats()["busy"]:
        greenio.sleep(0.001)


@fibers
def test_dup_and_adoption_of_our_own_descriptors_connect_without_a_thread() -> None:
    with standard.create_server((LOCALHOST, 0)) as listener, socket.socket() as sock, sock.dup() as copy:
        assert is_nonblocking(copy.fileno())
        before = threading.active_count()
        copy.connect(listener.getsockname())
        assert threading.active_count() == before
        assert sock.getpeername() == listener.getsockname()


# --- makefile --------------------------------------------------------------------------------------------------------


@fibers
def test_makefile_lines_both_ways() -> None:
    with connected() as (client, server):

        def serve() -> None:
            with server.makefile("rwb") as stream:
                for line in stream:
                    stream.write(line.upper())
                    stream.flush()

        fiber = spawn(serve)
        with client.makefile("rw", encoding="utf-8", newline="\n") as text:
            for word in ("hello\n", "world\n"):
                text.write(word)
                text.flush()
                assert text.readline() == word.upper()
        client.shutdown(socket.SHUT_WR)
        fiber.result()


@fibers
def test_makefile_unbuffered_and_modes() -> None:
    with connected() as (client, server):
        with client.makefile("wb", buffering=0) as out, server.makefile("rb", buffering=0) as source:
            assert out.write(b"abc") == 3
            assert source.read(2) == b"ab"
            assert source.read(2) == b"c"
            assert out.fileno() == client.fileno()
            assert source.readable()
            assert not source.writable()
        with pytest.raises(ValueError, match="unbuffered"):
            client.makefile("w", buffering=0)
        with pytest.raises(ValueError, match="mode"):
            client.makefile("q")
        with client.makefile("rb") as source:
            server.sendall(b"all of it")
            server.close()
            assert source.read() == b"all of it"


@fibers
def test_the_descriptor_lives_until_the_last_file_is_closed() -> None:
    with connected() as (client, server):
        one, two = client.makefile("rb"), client.makefile("wb")
        client.close()
        assert client.fileno() >= 0
        two.write(b"still")
        two.close()
        assert server.recv(10) == b"still"
        assert client.fileno() >= 0
        server.sendall(b"here\n")
        assert one.readline() == b"here\n"
        one.close()
        one.close()
        assert client.fileno() == -1
        assert server.recv(1) == b""
    with connected() as (client, server):
        stream = client.makefile("rb")
        stream.close()
        assert client.fileno() >= 0
        client.close()
        assert client.fileno() == -1


@fibers
def test_makefile_obeys_the_timeout_and_cancellation() -> None:
    with connected() as (client, server), client.makefile("rb", buffering=0) as stream:
        waiting = spawn(stream.read, 10)
        wait_all_parked()
        waiting.cancel()
        waiting.join()
        assert waiting.cancelled()
        server.sendall(b"x")
        assert stream.read(10) == b"x"
        client.settimeout(0)
        assert stream.read(10) is None
        client.settimeout(0.001)
        with pytest.raises(TimeoutError):
            stream.read(10)
        with pytest.raises(OSError, match="timed out"):
            stream.read(10)


# --- much data, many fibers ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ipv4", "pair"])
@fibers
def test_large_sendalls_are_not_interleaved(kind: str) -> None:
    with connected(kind) as (client, server):
        messages = [bytes([65 + index]) * (50_000_000 if index == 0 else 1_000_003) for index in range(6)]
        senders = [spawn(client.sendall, message) for message in messages]
        expected = hashlib.sha256(b"".join(messages)).digest()
        total = sum(map(len, messages))
        found = hashlib.sha256()
        reads = 0
        while total:
            data = server.recv(100_000)
            found.update(data)
            total -= len(data)
            reads += 1
            if reads % 16 == 0:
                yield_now()
        for sender in senders:
            sender.result()
        assert found.digest() == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["ipv4", "pair", "ipv6"])
def test_random_traffic_loses_and_changes_nothing(kind: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(f"{kind} {seed}")

    def send(sock: Any, data: bytes, chance: random.Random) -> None:
        start = 0
        while start < len(data):
            size = min(len(data) - start, int(2 ** chance.uniform(0, 19)))
            piece = data[start : start + size]
            way = chance.randrange(4)
            if way == 0:
                start += sock.send(piece)
            elif way == 1:
                sock.settimeout(0)
                with contextlib.suppress(BlockingIOError):
                    start += sock.send(piece)
                sock.settimeout(None)
            elif way == 2:
                fiber = spawn(sock.sendall, memoryview(piece))
                for _ in range(chance.randrange(3)):
                    yield_now()
                fiber.result()
                start += size
            else:
                sock.sendall(piece)
                start += size
            if chance.random() < 0.2:
                yield_now()
        sock.shutdown(socket.SHUT_WR)

    def receive(sock: Any, chance: random.Random) -> bytes:
        with sock.dup() as own:  # with a timeout of its own: the other direction is somebody else's
            own.settimeout(None)
            return receive_randomly(own, chance)

    def receive_randomly(sock: Any, chance: random.Random) -> bytes:
        found = bytearray()
        while True:
            size = int(2 ** chance.uniform(0, 19))
            way = chance.randrange(5)
            if way == 0:
                data = sock.recv(size)
            elif way == 1:
                room = bytearray(size)
                data = bytes(room[: sock.recv_into(room)])
            elif way == 2:
                sock.settimeout(0)
                try:
                    data = sock.recv(size)
                except BlockingIOError:
                    continue
                finally:
                    sock.settimeout(None)
            elif way == 3:
                data = sock.recv(size, socket.MSG_WAITALL)
            else:
                peeked = sock.recv(size, socket.MSG_PEEK)
                data = sock.recv(size)
                assert data.startswith(peeked)
            if not data:
                return bytes(found)
            found += data
            if chance.random() < 0.2:
                yield_now()
            if chance.random() < 0.05:
                victim = spawn(sock.recv, 1)
                yield_now()
                victim.cancel()
                victim.join()
                if not victim.cancelled():
                    found += victim.result()

    def main() -> None:
        with contextlib.ExitStack() as stack:
            jobs = []
            for _ in range(8):
                for one, other in [stack.enter_context(connected(kind, tmp_path))]:
                    for sender, receiver in ((one, other), (other, one)):
                        data = chance.randbytes(chance.randrange(1, 2_000_000))
                        spawned = spawn(send, sender, data, random.Random(chance.random()))
                        jobs.append((data, spawned, spawn(receive, receiver, random.Random(chance.random()))))
            for data, sending, receiving in jobs:
                assert receiving.result() == data
                sending.result()

    greenio.run(main)


@fibers
def test_many_connections_at_once() -> None:
    def serve(listener: Any) -> None:
        while True:
            sock, _ = listener.accept()
            spawn(echo, sock)

    def echo(sock: Any) -> None:
        with sock:
            while data := sock.recv(100):
                sock.sendall(data)

    def ask(address: Any, index: int) -> None:
        with socket.create_connection(address) as sock:
            for turn in range(3):
                message = b"%d %d" % (index, turn)
                sock.sendall(message)
                assert sock.recv(100) == message

    with socket.create_server((LOCALHOST, 0), backlog=300) as listener:
        servers = [spawn(serve, listener) for _ in range(3)]
        asking = [spawn(ask, listener.getsockname(), index) for index in range(200)]
        for fiber in asking:
            fiber.result()
        for fiber in servers:
            fiber.cancel()


# --- OS threads ------------------------------------------------------------------------------------------------------


def test_a_socket_used_by_two_schedulers() -> None:
    left, right = socket.socketpair()
    found: list[bytes] = []
    ready = [threading.Event(), threading.Event()]

    def read(index: int) -> None:
        def main() -> None:
            reader = spawn(receive)
            wait_all_parked()
            ready[index].set()
            reader.result()

        def receive() -> None:
            while (data := left.recv(3)) not in (b"", b"end"):
                found.append(data)

        greenio.run(main)

    with left, right:
        threads = [threading.Thread(target=read, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for event in ready:
            assert event.wait(30)

        def send() -> None:
            for number in range(900):
                right.sendall(b"%03d" % number)
                if number % 50 == 0:
                    yield_now()
            right.sendall(b"endend")

        greenio.run(send)
        for thread in threads:
            thread.join(30)
        assert sorted(found) == [b"%03d" % number for number in range(900)]


def test_a_number_used_again_is_registered_anew_also_by_the_scheduler_that_knew_the_old_file() -> None:
    numbers: greenio.Queue[int] = greenio.Queue()
    reused: greenio.Queue[Any] = greenio.Queue()
    found: list[bytes] = []

    def knew_the_old_one() -> None:
        def main() -> None:
            left, right = socket.socketpair()
            with left:
                reader = spawn(right.recv, 1)
                wait_all_parked()
                reader.cancel()
                numbers.put(right.fileno())
                with greenio.move_on_after(5):
                    found.append(reused.get().recv(10))
                right.detach()

        greenio.run(main)

    def main() -> None:
        number = numbers.get(timeout=30)
        left, right = standard.socketpair()
        with right:
            os.dup2(left.fileno(), number)  # closes what was there, as os.close would
            left.close()
            with socket.socket(fileno=number) as new:
                reader = spawn(new.recv, 1)
                wait_all_parked()
                reader.cancel()
                wait_all_parked()
                right.sendall(b"hello")
                reused.put(new)
                greenio.to_thread(thread.join)

    thread = threading.Thread(target=knew_the_old_one)
    thread.start()
    greenio.run(main)
    assert found == [b"hello"]


def test_closing_wakes_the_waiters_of_every_scheduler() -> None:
    left, right = socket.socketpair()
    ready = [threading.Event(), threading.Event()]
    errors: list[Any] = []

    def wait(index: int) -> None:
        def main() -> None:
            waiting = [spawn(left.recv, 1) for _ in range(3)]
            wait_all_parked()
            ready[index].set()
            errors.extend(fiber.exception() for fiber in waiting)

        greenio.run(main)

    with right:
        threads = [threading.Thread(target=wait, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for event in ready:
            assert event.wait(30)
        left.close()
        for thread in threads:
            thread.join(30)
    assert [error.errno for error in errors] == [errno.EBADF] * 6


def test_a_socket_serves_one_run_after_another() -> None:
    left, right = socket.socketpair()

    def once(message: bytes) -> bytes:
        reader = spawn(left.recv, 10)
        wait_all_parked()
        right.sendall(message)
        return reader.result()

    with left, right:
        for _ in range(3):
            assert greenio.run(once, b"hello") == b"hello"


def test_calls_that_wait_say_what_to_do_outside_a_run() -> None:
    with socket.create_server((LOCALHOST, 0)) as listener, socket.socket() as sock:
        assert "fd=" in repr(listener)
        for call in (
            listener.accept,
            lambda: sock.recv(1),
            lambda: sock.recv_into(bytearray(1)),
            lambda: sock.send(b"x"),
            lambda: sock.sendall(b"x"),
            lambda: sock.connect(listener.getsockname()),
            lambda: sock.connect_ex(listener.getsockname()),
            lambda: socket.create_connection(listener.getsockname()),
        ):
            with pytest.raises(RuntimeError, match=r"greenio\.run"):
                call()
        assert socket.getaddrinfo("localhost", 80)
    left, right = socket.socketpair()
    copy = left.dup()
    for each in (left, right, copy):
        each.settimeout(1)
        each.shutdown(socket.SHUT_RDWR)
        each.close()


# --- names -----------------------------------------------------------------------------------------------------------


@fibers
def test_lookups_do_not_block_the_others() -> None:
    def look_up(host: str) -> Any:
        return socket.getaddrinfo(host, 80, type=STREAM)

    lookups = [spawn(look_up, host) for host in ["localhost"] * 20 + ["no such host at all.invalid"]]
    found = [outcome(fiber.result) for fiber in lookups]
    assert found[:-1] == [standard.getaddrinfo("localhost", 80, type=STREAM)] * 20
    assert found[-1][0] is socket.gaierror
    assert socket.getaddrinfo("127.0.0.1", 80) == standard.getaddrinfo("127.0.0.1", 80)
    assert socket.getaddrinfo(None, 80) == standard.getaddrinfo(None, 80)


@fibers
def test_connect_and_bind_look_names_up() -> None:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        listener.listen()
        assert listener.getsockname()[0] == LOCALHOST
        for host in ("localhost", b"localhost", "127.1"):
            with socket.socket() as client:
                client.connect((host, listener.getsockname()[1]))
                listener.accept()[0].close()


def test_the_virtual_clock_stands_still_while_a_lookup_is_out() -> None:
    def main() -> float:
        socket.getaddrinfo("localhost", 80)
        spawn(socket.getaddrinfo, "localhost", 80)
        return greenio.current_time()

    assert greenio.run(main, clock=VirtualClock()) == 0.0


# --- the poller ------------------------------------------------------------------------------------------------------


@fibers
def test_an_entry_that_raises_keeps_no_other_from_being_told() -> None:
    # Edges are told once: whoever comes after it in the same batch would wait for ever.
    class Loud(Entry):
        def ready(self, flags: int) -> int:
            told.append(flags)
            raise ZeroDivisionError

    poller = greenio.current_scheduler().poller
    told: list[int] = []
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(connected("pair")) for _ in range(6)]
        readers = [spawn(left.recv, 1) for left, _ in pairs[:3]]
        wait_all_parked()
        entries = [Loud(left.fileno()) for left, _ in pairs[3:]]
        for entry in entries:
            poller.add(entry)
        for _, right in reversed(pairs):
            right.sendall(b"x")
        with pytest.raises(ZeroDivisionError):
            poller.wait(0)
        assert len(told) == 3
        assert [reader.result() for reader in readers] == [b"x"] * 3
        for entry in entries:
            poller.remove(entry)


@fibers
def test_a_poller_knows_what_the_kernel_still_has() -> None:
    poller = greenio.current_scheduler().poller
    with connected("pair") as (left, right):
        entry = Entry(os.dup(left.fileno()))
        assert not poller.holds(entry)
        poller.add(entry)
        assert poller.holds(entry)
        os.dup2(right.fileno(), entry.fd)  # closes what was registered
        assert not poller.holds(entry)
        os.close(entry.fd)
        assert not poller.holds(entry)
        poller.remove(entry)


# --- nothing is left behind ------------------------------------------------------------------------------------------


def test_a_forgotten_socket_warns_and_is_closed() -> None:
    sock = socket.socket()
    fd = sock.fileno()
    with pytest.warns(ResourceWarning, match=rf"unclosed <greenio.socket.socket fd={fd}"):
        del sock
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_forgotten_socket_is_closed_even_if_the_warning_is_an_error() -> None:
    sock = socket.socket()
    fd = sock.fileno()
    unraisable = []
    before, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del sock
            gc.collect()
    finally:
        sys.unraisablehook = before
    assert len(unraisable) == 1
    unraisable.clear()
    with pytest.raises(OSError):
        os.fstat(fd)


@fibers
def test_a_forgotten_socket_that_was_waited_on_is_taken_out_of_the_poller() -> None:
    left, right = socket.socketpair()
    reader = spawn(left.recv, 1)
    wait_all_parked()
    right.sendall(b"x")
    reader.result()
    registered = greenio.current_scheduler().poller.registered
    del reader
    with pytest.warns(ResourceWarning):
        del left
    assert greenio.current_scheduler().poller.registered == registered - 1
    right.close()


@fibers
def test_sockets_leave_no_references() -> None:
    def once() -> None:
        with connected("pair") as (left, right):
            readers = [spawn(left.recv, 1) for _ in range(3)]
            wait_all_parked()
            right.sendall(b"x")
            readers[1].cancel()
            readers[0].result()
            left.close()
            readers[2].join()
            readers[2].exception()

    once()
    gc.collect()
    before = sum(isinstance(each, (socket.socket, greenio.Fiber)) for each in gc.get_objects())
    for _ in range(20):
        once()
    gc.collect()
    assert sum(isinstance(each, (socket.socket, greenio.Fiber)) for each in gc.get_objects()) == before
    assert greenio.current_scheduler().poller.registered <= 1  # signals


@contextlib.contextmanager
def lingering(seconds: int) -> Iterator[tuple[Any, Any]]:
    """(a socket whose close waits so long for its peer, the peer, which has not read)."""
    with connected() as (sock, peer):
        sock.setsockopt(standard.SOL_SOCKET, standard.SO_LINGER, struct.pack("ii", 1, seconds))
        fill(sock)
        yield sock, peer


@fibers
def test_a_lingering_close_parks_until_the_peer_has_everything() -> None:
    with lingering(10) as (sock, peer):
        number = sock.fileno()
        closing = spawn(sock.close)
        for _ in range(10):
            yield_now()  # the OS thread is free
        assert closing.waits_for[0] == "socket close"
        assert sock.fileno() == -1
        received = receive_all(peer)
        assert len(received) > 0
        peer.close()
        closing.result()
        assert not os.path.exists(f"/proc/self/fd/{number}")


@fibers
def test_a_lingering_close_that_is_cancelled_or_never_waited_for_closes_all_the_same() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with lingering(10) as (sock, peer):
        closing = spawn(sock.close)
        yield_now()
        assert closing.waits_for[0] == "socket close"
        closing.cancel()
        closing.join()
        assert closing.cancelled()
        peer.close()
    with lingering(10) as (sock, peer):
        with greenio.CancelScope() as scope:
            scope.cancel()
            sock.close()
        assert scope.cancelled_caught
        assert sock.fileno() == -1
    with lingering(10) as (sock, peer):
        copy = socket.socket(fileno=sock.detach())
        with pytest.warns(ResourceWarning, match="unclosed"):
            del copy
        assert receive_all(peer)
    while greenio.debug.thread_stats()["busy"]:
        yield_now()
    assert len(os.listdir("/proc/self/fd")) == before


@fibers
def test_close_takes_any_descriptor_as_the_standard_one() -> None:
    reading, writing = os.pipe()
    waiter = spawn(greenio.wait_readable, reading)
    wait_all_parked()
    socket.close(reading)
    assert waiter.exception().errno == errno.EBADF
    socket.close(writing)
    for wrong in (-1, writing, 1.0, "1"):
        assert (
            outcome(functools.partial(socket.close, wrong))[0] == outcome(functools.partial(standard.close, wrong))[0]
        )


@fibers
def test_closing_twice_and_using_what_is_closed() -> None:
    sock = socket.socket()
    sock.close()
    sock.close()
    assert sock.detach() == -1
    with sock:
        pass
    closed_below = socket.socket()
    os.close(closed_below.fileno())
    with pytest.raises(OSError) as raised:
        closed_below.close()
    assert raised.value.errno == errno.EBADF
    assert closed_below.fileno() == -1


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "fork_registers_anew",
        "fork_leaves_the_parents_poller_alone",
        "fork_in_a_signal_handler_on_top_of_the_idle_loop",
        "fork_with_many_waiters",
        "close_storm",
        "signals_while_waiting",
    ],
)
def test_in_a_process_of_its_own(name: str) -> None:
    child = run_child(SCENARIOS, name, PYTHONMALLOC="debug")
    assert child.stdout.endswith("done\n")
    assert child.stderr == ""


def test_servers_share_a_port_as_the_standard_ones_and_refuse_what_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def outcomes(module: Any) -> list[Any]:
        found: list[Any] = []
        with module.create_server((LOCALHOST, 0), reuse_port=True) as one:
            found.append(one.getsockopt(standard.SOL_SOCKET, standard.SO_REUSEPORT))
            with module.create_server(one.getsockname(), reuse_port=True) as other:
                found.append(other.getsockname() == one.getsockname())
            with pytest.raises(OSError) as caught:
                module.create_server(one.getsockname())
            found.append(caught.value.errno)
        with pytest.raises(ValueError) as refused:
            module.create_server(("", 0), family=standard.AF_INET6, dualstack_ipv6=True)
        return [*found, str(refused.value)]

    monkeypatch.setattr(standard, "has_dualstack_ipv6", lambda: False)
    assert greenio.run(outcomes, socket) == outcomes(standard)


@fibers
def test_connect_ex_gives_the_number_of_what_went_wrong() -> None:
    with refusing() as address, socket.socket() as mine, standard.socket() as theirs:
        assert mine.connect_ex(address) == theirs.connect_ex(address) == errno.ECONNREFUSED


def test_methods_belong_to_the_class_itself() -> None:
    # Only then does the interpreter call them directly.
    for name in ("recv", "recv_into", "send", "sendall", "getsockopt", "fileno"):
        assert vars(socket.socket)[name].__objclass__ is socket.socket
    assert socket.socket.recv.__qualname__ == "socket.recv"
