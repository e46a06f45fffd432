"""greenio.serve, listen_tcp and listen_unix: who is let in, what a handler's end means, and how a server ends."""

import contextlib
import errno
import fcntl
import functools
import gc
import logging
import math
import os
import random
import resource
import socket as standard
import stat
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child import run_child
from faults import Faults
from waiters import parked

import greenio
from greenio import Listener, Stream, connect_tcp, connect_unix, listen_tcp, listen_unix, serve, socket, spawn
from greenio.testing import VirtualClock, wait_all_parked

LOCALHOST = "127.0.0.1"


def fibers(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The test is the main fiber of a run with a virtual clock."""

    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords), clock=VirtualClock())

    return test


def echo(stream: Stream) -> None:
    while data := stream.read(65536):
        stream.write(data)


def connect(server: Any) -> Stream:
    return connect_tcp(LOCALHOST, server.port)


@contextlib.contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Only *spare* more descriptors can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The limit is one of numbers: fill the gaps below the highest one in use.
    highest = max(map(int, os.listdir("/proc/self/fd")))
    gaps = []
    while (free := os.dup(0)) <= highest:
        gaps.append(free)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in gaps:
            os.close(fd)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """No more than 200 MiB of address space can be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# --- listeners -------------------------------------------------------------------------------------------------------


@fibers
def test_listens_on_both_families_with_one_port_and_peers_have_addresses_of_their_own_kind() -> None:
    with listen_tcp() as listener:
        assert {address[1] for address in listener.addresses} == {listener.port}
        assert [address[0] for address in listener.addresses] == ["::", "0.0.0.0"]
        for host in ("::1", LOCALHOST):
            with connect_tcp(host, listener.port) as stream, listener.accept() as peer:
                assert peer.peername == stream.sockname
                assert peer.peername[0] == host
                assert peer.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        waiting = parked(listener.accept)
        with connect_tcp(LOCALHOST, listener.port), waiting.result():
            pass


@pytest.mark.parametrize("host", [None, LOCALHOST])
@pytest.mark.parametrize("nodelay", [True, False])
def test_options_are_set_on_the_listening_sockets_and_on_no_connection(
    nodelay: bool, host: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_on: list[int] = []

    class Counting(socket.socket):
        def setsockopt(self, level: int, optname: int, /, *value: Any) -> None:
            set_on.append(self.fileno())
            super().setsockopt(level, optname, *value)

    @fibers
    def main() -> None:
        with listen_tcp(host, nodelay=nodelay) as listener:
            assert {sock.fileno() for sock in listener.sockets} == set(set_on)
            asked = len(set_on)
            with standard.create_connection((LOCALHOST, listener.port)), listener.accept() as peer:
                assert bool(peer.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == nodelay
                assert isinstance(peer.socket, Counting)
            assert len(set_on) == asked

    monkeypatch.setattr(socket, "socket", Counting)
    greenio._socket.set_socket_class(Counting)
    try:
        main()
    finally:
        greenio._socket.set_socket_class(Counting.__base__)


@fibers
def test_neither_address_starves_the_other() -> None:
    with listen_tcp() as listener, contextlib.ExitStack() as stack:
        for host in ("::1", LOCALHOST):
            for _ in range(4):
                stack.enter_context(connect_tcp(host, listener.port))
        hosts = [stack.enter_context(listener.accept()).peername[0] for _ in range(8)]
        assert sorted(hosts[:2]) == sorted(hosts[2:4]) == sorted([LOCALHOST, "::1"])


@fibers
def test_several_hosts_and_families() -> None:
    with listen_tcp([LOCALHOST, "127.0.0.2"], 0) as listener:
        assert [address[0] for address in listener.addresses] == [LOCALHOST, "127.0.0.2"]
    with listen_tcp(family=socket.AF_INET) as listener:
        assert [address[0] for address in listener.addresses] == ["0.0.0.0"]
        assert repr(listener) == f"<greenio.Listener on 0.0.0.0:{listener.port}>"


@fibers
def test_address_in_use_is_named_and_nothing_stays_open() -> None:
    with listen_tcp(LOCALHOST) as listener:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match=f"127.0.0.1:{listener.port}") as caught:
            listen_tcp(["127.0.0.2", LOCALHOST], listener.port)
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match=r"192\.0\.2\.1"):
            listen_tcp("192.0.2.1")
        assert os.listdir("/proc/self/fd") == before


@fibers
def test_reuse_port_shares_a_port() -> None:
    with (
        listen_tcp(LOCALHOST, reuse_port=True) as first,
        listen_tcp(LOCALHOST, first.port, reuse_port=True) as second,
    ):
        assert first.port == second.port


@pytest.mark.parametrize("host", [LOCALHOST, None])
@fibers
def test_waiting_accept_is_cancelled_timed_out_and_closed(host: str | None) -> None:
    listener = listen_tcp(host)
    fiber = parked(listener.accept)
    fiber.cancel()
    fiber.join()
    with pytest.raises(TimeoutError), greenio.timeout(3):
        listener.accept()
    with connect_tcp(LOCALHOST, listener.port), listener.accept():
        pass
    fiber = parked(listener.accept)
    looping = parked(list, listener) if host else None
    listener.close()
    listener.close()
    with pytest.raises(OSError) as caught:
        fiber.result()
    assert caught.value.errno == errno.EBADF
    if looping is not None:
        assert looping.result() == []
    with pytest.raises(OSError, match="closed"):
        listener.accept()
    assert listener.closed
    assert listener.port > 0


@fibers
def test_iteration_accepts() -> None:
    with listen_tcp(LOCALHOST) as listener, connect_tcp(LOCALHOST, listener.port) as first:
        for stream in listener:
            with stream:
                assert stream.peername == first.sockname
            break
    with pytest.raises(ValueError):
        Listener([])


@fibers
def test_iteration_ends_with_the_error_of_a_listener_that_is_lost() -> None:
    with listen_tcp(LOCALHOST) as listener:
        fiber = parked(list, listener)
        listener.sockets[0].shutdown(socket.SHUT_RDWR)
        with pytest.raises(OSError) as caught:
            fiber.result()
        assert caught.value.errno == errno.EINVAL
        assert not listener.closed


class Elsewhere(socket.socket):
    """On a machine that differs: without a family, or where others are quick to do something around our bind."""

    without: int | None = None
    before_bind: Callable[[Any], None] = staticmethod(lambda address: None)  # type: ignore[assignment]
    after_refusal: Callable[[Any], None] = staticmethod(lambda address: None)  # type: ignore[assignment]

    def __init__(self, family: int = socket.AF_INET, *arguments: Any, **keywords: Any) -> None:
        if family == self.without:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *arguments, **keywords)

    def bind(self, address: Any) -> None:
        type(self).before_bind(address)
        try:
            super().bind(address)
        except OSError:
            type(self).after_refusal(address)
            raise


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> type[Elsewhere]:
    class Here(Elsewhere):
        pass

    monkeypatch.setattr(socket, "socket", Here)
    return Here


@fibers
def test_addresses_that_the_machine_has_not_are_left_out_while_there_are_others(elsewhere: type[Elsewhere]) -> None:
    before = os.listdir("/proc/self/fd")
    with listen_tcp([LOCALHOST, "240.0.0.1"]) as listener:
        assert [address[0] for address in listener.addresses] == [LOCALHOST]
    with pytest.raises(OSError, match=r"240\.0\.0\.1:0, 240\.0\.0\.2:0") as caught:
        listen_tcp(["240.0.0.1", "240.0.0.2"])  # nobody has these
    assert caught.value.errno == errno.EADDRNOTAVAIL
    with pytest.raises(OSError, match="no address to listen on") as caught:
        listen_tcp([])
    assert caught.value.errno == errno.EADDRNOTAVAIL
    elsewhere.without = socket.AF_INET6
    with listen_tcp() as listener:
        assert [address[0] for address in listener.addresses] == ["0.0.0.0"]
    with pytest.raises(OSError, match="::1") as caught:
        listen_tcp("::1")
    assert caught.value.errno == errno.EAFNOSUPPORT
    assert os.listdir("/proc/self/fd") == before


@fibers
def test_without_a_descriptor_nothing_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    with few_descriptors(1), pytest.raises(OSError) as caught:
        listen_tcp([LOCALHOST, "127.0.0.2"])
    assert caught.value.errno == errno.EMFILE
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("rivals", [1, 19, 1000])
@fibers
def test_a_free_port_is_looked_for_again_when_the_next_address_has_it_in_use(
    rivals: int, elsewhere: type[Elsewhere]
) -> None:
    taken: list[Any] = []

    def take(address: Any) -> None:
        # As if somebody had had it: the same port, on the second address.
        if address[1] and len(taken) < rivals:
            taken.append(stack.enter_context(standard.socket()))
            taken[-1].bind(address)

    with contextlib.ExitStack() as stack:
        elsewhere.before_bind = staticmethod(take)  # type: ignore[assignment]
        before = set(os.listdir("/proc/self/fd"))
        if rivals < 1000:
            with listen_tcp([LOCALHOST, "127.0.0.2"]) as listener:
                assert {address[1] for address in listener.addresses} == {listener.port}
                assert listener.port not in {sock.getsockname()[1] for sock in taken}
            assert len(taken) == rivals
        else:
            with pytest.raises(OSError, match=r"127\.0\.0\.2") as caught:
                listen_tcp([LOCALHOST, "127.0.0.2"])
            assert caught.value.errno == errno.EADDRINUSE
            assert len(taken) == 20
        assert len(set(os.listdir("/proc/self/fd")) - before) == len(taken)


@fibers
def test_unix_listener_makes_and_removes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    for mode in (0o600, 0o666):
        with listen_unix(path, mode=mode) as listener:
            assert stat.S_IMODE(path.stat().st_mode) == mode
            assert listener.addresses == [str(path)]
            with pytest.raises(ValueError, match="no port"):
                _ = listener.port
        assert not path.exists()
    with listen_unix(path) as listener:
        path.rename(tmp_path / "elsewhere")
        path.write_text("somebody else's")
    assert path.exists()
    path.unlink()
    with listen_unix(path):
        path.unlink()  # the file's end is not the listener's business


@fibers
def test_unix_listener_that_cannot_be_leaves_no_file(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(TypeError):
        listen_unix(tmp_path / "socket", backlog="many")  # type: ignore[arg-type]  # told by listen, when the file is there
    assert os.listdir(tmp_path) == []
    assert os.listdir("/proc/self/fd") == before


@fibers
def test_unix_listener_without_a_descriptor_for_the_folders_lock_does_without(tmp_path: Path) -> None:
    with few_descriptors(1):
        listener = listen_unix(tmp_path / "socket")
    with listener:
        connect_unix(tmp_path / "socket").close()


@fibers
def test_unix_listeners_of_other_processes_in_the_folder_are_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        fiber = spawn(listen_unix, path)
        greenio.sleep(3)
        assert not fiber.done()
        fcntl.flock(other, fcntl.LOCK_UN)
        fiber.result().close()
        assert greenio.current_time() < 3.1
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="locked for more than 5 s") as caught:
            listen_unix(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert os.listdir(tmp_path) == []
        with listen_unix(path, replace=False):  # that asks nobody
            pass
    finally:
        os.close(other)


@fibers
def test_stale_unix_socket_that_its_owner_removes_meanwhile_is_no_hindrance(
    tmp_path: Path, elsewhere: type[Elsewhere]
) -> None:
    path = tmp_path / "socket"
    with standard.socket(standard.AF_UNIX) as dead:
        dead.bind(str(path))
    elsewhere.after_refusal = staticmethod(os.unlink)  # type: ignore[assignment]
    with listen_unix(path):
        connect_unix(path).close()


@fibers
def test_stale_unix_socket_is_replaced_a_living_one_and_other_files_are_not(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with standard.socket(standard.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(OSError) as caught:
        listen_unix(path, replace=False)
    assert caught.value.errno == errno.EADDRINUSE
    with listen_unix(path):
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match="somebody listens") as caught:
            listen_unix(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert os.listdir("/proc/self/fd") == before
        connect_unix(path).close()
    path.write_text("precious")
    with pytest.raises(OSError, match="no socket") as caught:
        listen_unix(path)
    assert path.read_text() == "precious"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        listen_unix(tmp_path / "nowhere" / "socket")
    with pytest.raises(ValueError, match="abstract"):
        listen_unix("\0greenio-test", mode=0o600)


def test_unix_listener_in_a_forked_child_leaves_the_file(tmp_path: Path) -> None:
    run_child(
        """
        import os, sys, greenio

        def main():
            with greenio.listen_unix(sys.argv[1]) as listener:
                child = os.fork()
                if child == 0:
                    listener.close()
                    os._exit(0)
                os.waitpid(child, 0)
                assert os.path.exists(sys.argv[1])

        greenio.run(main)
        """,
        str(tmp_path / "socket"),
        flags=("-W", "ignore"),
    )


# --- serving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "both", "unix"])
@fibers
def test_each_connection_gets_a_handler(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    where: dict[str, Any] = {"tcp": {"host": LOCALHOST}, "both": {}, "unix": {"path": path}}[kind]
    with serve(echo, **where) as server:
        streams = [connect_unix(path) if kind == "unix" else connect(server) for _ in range(5)]
        for index, stream in enumerate(streams):
            stream.write(b"%d\n" % index)
        assert [stream.readline() for stream in streams] == [b"%d\n" % index for index in range(5)]
        assert server.connections == 5
        for stream in streams:
            stream.half_close()
            assert stream.read() == b""
            stream.close()
        wait_all_parked()
        assert server.connections == 0
        seen = server.statistics()
        assert (seen.accepted, seen.finished, seen.failed, seen.cancelled) == (5, 5, 0, 0)
    assert server.closed


@fibers
def test_handler_end_sends_what_was_gathered_and_closes() -> None:
    def handler(stream: Stream) -> None:
        stream.corked().__enter__()
        stream.write(b"bye")

    with serve(handler, LOCALHOST) as server, connect(server) as stream:
        assert stream.read() == b"bye"


@fibers
def test_handler_failure_is_logged_with_connection_and_traceback_and_ends_only_that(caplog: Any) -> None:
    def handler(stream: Stream) -> None:
        if stream.readline() == b"fail\n":
            raise ZeroDivisionError("on request")
        stream.write(b"fine")

    with serve(handler, LOCALHOST) as server:
        with connect(server) as stream:
            stream.write(b"fail\n")
            assert stream.read() == b""
            host, port = stream.sockname
        with connect(server) as stream:
            stream.write(b"work\n")
            assert stream.read() == b"fine"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.name == "greenio"
    assert f"{host}:{port}" in record.getMessage()
    assert "ZeroDivisionError: on request" in caplog.text
    assert server.statistics().failed == 1


@fibers
def test_failed_handler_leaves_no_reference_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failure(Exception):
        pass

    def handler(_: Stream) -> None:
        error = Failure()
        left.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    left: list[weakref.ref[Failure]] = []
    monkeypatch.setattr(logging.getLogger("greenio"), "disabled", True)  # pytest keeps records
    gc.disable()
    try:
        with serve(handler, LOCALHOST) as server, connect(server) as stream:
            assert stream.read() == b""
        assert [each() for each in left] == [None]
    finally:
        gc.enable()


@fibers
def test_peer_that_goes_away_is_no_failure(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    with serve(echo, LOCALHOST) as server:
        stream = connect(server)
        wait_all_parked()
        stream.abort()
        wait_all_parked()
        assert server.connections == 0
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.exc_info is None
    assert (server.statistics().lost, server.statistics().failed) == (1, 0)


def test_system_exit_in_a_handler_ends_the_run() -> None:
    def handler(stream: Stream) -> None:
        raise SystemExit(5)

    def main() -> None:
        with serve(handler, LOCALHOST) as server:
            connect(server).close()
            server.wait()

    with pytest.raises(SystemExit):
        greenio.run(main)


@pytest.mark.parametrize("host", [LOCALHOST, None])
@fibers
def test_max_connections_is_exact_and_the_rest_wait_in_the_backlog(host: str | None) -> None:
    most = 0

    def handler(stream: Stream) -> None:
        nonlocal most
        most = max(most, server.connections)
        stream.write(stream.readline())

    with serve(handler, host, max_connections=2) as server:
        hosts = [LOCALHOST, "::1" if host is None else LOCALHOST]
        streams = [connect_tcp(hosts[index % 2], server.port) for index in range(6)]
        wait_all_parked()
        assert (server.connections, server.statistics().accepted) == (2, 2)
        for stream in streams:
            stream.write(b"x\n")
        for stream in streams:
            assert stream.read() == b"x\n"
            stream.close()
        wait_all_parked()
        assert most == 2
        assert server.statistics().accepted == 6


# --- drain -----------------------------------------------------------------------------------------------------------


@fibers
def test_drain_lets_the_busy_finish_cancels_the_rest_and_reports() -> None:
    ends = []

    def handler(stream: Stream) -> None:
        seconds = float(stream.readline())
        try:
            greenio.sleep(seconds)
        finally:
            ends.append(seconds)

    with serve(handler, LOCALHOST, grace=10) as server, contextlib.ExitStack() as stack:
        streams = [stack.enter_context(connect(server)) for _ in range(4)]
        for stream, seconds in zip(streams, (1, 5, 50, 100), strict=True):
            stream.write(b"%d\n" % seconds)
        wait_all_parked()
        report = server.drain()
        assert (report.finished, report.cancelled, report.stuck) == (2, 2, 0)
        assert report.seconds == pytest.approx(10)
        assert sorted(ends) == [1, 5, 50, 100]
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        assert all(stream.read() == b"" for stream in streams)
        assert server.draining
        assert server.closed
        server.wait()
        assert server.drain() == (0, 0, 0, 0)


@fibers
def test_drain_ends_as_soon_as_the_last_handler_has() -> None:
    with serve(lambda stream: greenio.sleep(2), LOCALHOST) as server, connect(server):
        wait_all_parked()
        report = server.drain(math.inf)
        assert (report.finished, report.cancelled, report.seconds) == (1, 0, pytest.approx(2))


@fibers
def test_close_cancels_at_once() -> None:
    with serve(echo, LOCALHOST) as server, connect(server):
        wait_all_parked()
        assert server.close() == (0, 1, 0, 0)
        assert server.statistics().cancelled == 1


@pytest.mark.parametrize("how", ["end", "error", "cancelled", "timeout"])
@fibers
def test_leaving_the_block_drains(how: str) -> None:
    finished = []

    def handler(stream: Stream) -> None:
        greenio.sleep(3)
        finished.append(stream)

    def serving() -> None:
        with serve(handler, LOCALHOST, grace=5) as server, connect(server):
            wait_all_parked()
            if how == "error":
                raise ZeroDivisionError
            if how == "cancelled":
                server.wait()
            if how == "timeout":
                with greenio.timeout(1):
                    server.wait()

    fiber = spawn(serving)
    if how == "cancelled":
        greenio.sleep(0.5)
        fiber.cancel()
    fiber.join()
    assert len(finished) == 1
    assert fiber.cancelled() == (how == "cancelled")
    if how != "cancelled":
        assert type(fiber.exception()) is {"end": type(None), "error": ZeroDivisionError, "timeout": TimeoutError}[how]


@fibers
def test_cancelled_drain_cuts_the_grace_period_short() -> None:
    unwound = []

    def handler(stream: Stream) -> None:
        try:
            greenio.sleep(1000)
        finally:
            with greenio.shield():
                greenio.sleep(1)
            unwound.append(greenio.current_time())

    with serve(handler, LOCALHOST) as server, connect(server):
        wait_all_parked()
        with pytest.raises(TimeoutError), greenio.timeout(2):
            server.drain(100)
        assert unwound == [pytest.approx(3)]
        assert server.closed


@fibers
def test_handler_that_does_not_end_is_reported_stuck(caplog: Any) -> None:
    def handler(stream: Stream) -> None:
        with greenio.shield():
            greenio.sleep(60)

    with serve(handler, LOCALHOST) as server, connect(server):
        wait_all_parked()
        report = server.close()
        assert (report.finished, report.cancelled, report.stuck) == (0, 0, 1)
        assert "leaves 1 handlers" in caplog.text
        greenio.sleep(60)


@fibers
def test_handler_may_drain_the_server() -> None:
    def handler(stream: Stream) -> None:
        stream.readline()
        report = server.drain(0)
        stream.write(b"%d cancelled\n" % report.cancelled)

    with serve(handler, LOCALHOST) as server, connect(server) as first, connect(server):
        wait_all_parked()
        first.write(b"stop\n")
        assert first.readline() == b"1 cancelled\n"
        server.wait()


@pytest.mark.parametrize("grace", [0, 5])
@fibers
def test_handlers_that_drain_at_the_same_moment_do_not_wait_for_each_other(grace: float) -> None:
    reports = []

    def handler(stream: Stream) -> None:
        stream.readline()
        reports.append(server.drain(grace))

    began = greenio.current_time()
    with serve(handler, LOCALHOST) as server, contextlib.ExitStack() as stack:
        streams = [stack.enter_context(connect(server)) for _ in range(3)]
        wait_all_parked()
        for stream in streams:
            stream.write(b"stop\n")
        server.wait()
        wait_all_parked()
    assert server.connections == 0
    assert reports
    assert sum(report.stuck for report in reports) == 0
    assert greenio.current_time() == began


@fibers
def test_leaving_the_block_waits_for_a_handler_that_drains() -> None:
    ended = []

    def handler(stream: Stream) -> None:
        if stream.readline() == b"stop\n":
            server.drain()
            greenio.sleep(1)
        else:
            greenio.sleep(3)
        ended.append(greenio.current_time())

    with serve(handler, LOCALHOST) as server, connect(server) as one, connect(server) as two:
        began = greenio.current_time()
        one.write(b"stop\n")
        two.write(b"go\n")
        wait_all_parked()
    assert ended == [began + 3, began + 4]


def at_one_look(first: Any, then: Any, fn: Callable[[], Any]) -> Any:
    """What first() and then() bring about is found by one look at the descriptors, in that order; the one that is None has fn() called.

    Returns what that returns.
    """
    reader, writer = os.pipe()

    def act() -> Any:
        greenio.wait_readable(reader)
        return fn()

    try:
        fiber = parked(act)
        for each in (first, then):
            if each is None:
                os.write(writer, b"x")
            else:
                each()
        return fiber.result()
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("first", ["the end", "the connection"])
@fibers
def test_connection_of_the_moment_of_closing_is_ended_and_keeps_no_place(first: str) -> None:
    handled: list[bytes] = []

    def handler(stream: Stream) -> None:
        handled.append(stream.read(1))

    def close_without_a_glance() -> None:
        greenio.current_fiber().cancel()  # else the handler would begin while it is waited for
        with contextlib.suppress(greenio.Cancelled):
            server.close()

    with serve(handler, LOCALHOST, max_connections=3) as server, standard.socket() as client:
        connect_now = functools.partial(client.connect, (LOCALHOST, server.port))
        if first == "the end":  # it is accepted by a fiber that is cancelled already
            at_one_look(None, connect_now, server.close)
        else:  # its handler is cancelled before it has begun
            at_one_look(connect_now, None, close_without_a_glance)
        client.settimeout(0)
        with pytest.raises(ConnectionResetError) if first == "the end" else contextlib.nullcontext():
            assert client.recv(1) == b""
        seen = server.statistics()
        assert (handled, seen.active, seen.finished) == ([], 0, 0)
        assert seen.accepted == seen.cancelled == (first != "the end")
        assert server.closed


@fibers
def test_wait_parks_until_it_is_closed_and_cancelling_that_changes_nothing() -> None:
    with serve(echo, LOCALHOST) as server:
        fiber = parked(server.wait)
        fiber.cancel()
        fiber.join()
        fiber = parked(server.wait)
        with connect(server) as stream:
            stream.write(b"still there\n")
            assert stream.readline() == b"still there\n"
        server.close()
        fiber.result()


@fibers
def test_lost_listener_ends_accepting_and_wait_says_why(caplog: Any) -> None:
    server = serve(echo, LOCALHOST)
    with connect(server) as stream:
        wait_all_parked()
        server.listener.sockets[0].shutdown(socket.SHUT_RDWR)
        stream.write(b"goes on\n")
        assert stream.readline() == b"goes on\n"
    with pytest.raises(OSError) as caught:
        server.wait()
    assert caught.value.errno == errno.EINVAL
    assert "cannot accept any more" in caplog.text


def test_first_interrupt_drains_and_the_second_cuts_it_short() -> None:
    child = run_child(
        """
        import os, signal, threading, time, greenio

        serving = threading.Event()

        def interrupt():
            serving.wait()
            while not server.draining:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
            print("draining", flush=True)
            os.kill(os.getpid(), signal.SIGINT)

        def handler(stream):
            serving.set()
            try:
                greenio.sleep(1000)
            finally:
                print("unwound", flush=True)

        def main():
            global server
            with greenio.serve(handler, "127.0.0.1", grace=500) as server:
                greenio.connect_tcp("127.0.0.1", server.port)
                server.wait()

        threading.Thread(target=interrupt).start()
        try:
            greenio.run(main)
        except KeyboardInterrupt:
            print("interrupted")
        """,
        flags=("-W", "ignore"),
    )
    assert child.stdout == "draining\nunwound\ninterrupted\n"


@fibers
def test_wrong_arguments_leave_nothing_open(tmp_path: Path) -> None:
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (TypeError, {"handler": None}),
        (TypeError, {"tls": True}),
        (ValueError, {"max_connections": 0}),
        (TypeError, {"max_connections": 1.5}),
        (ValueError, {"stack_size": 5}),
        (TypeError, {"stack_size": "big"}),
        (ValueError, {"handshake_timeout": 0}),
        (ValueError, {"grace": -1}),
        (ValueError, {"host": LOCALHOST, "path": str(tmp_path / "s")}),
        (ValueError, {"mode": 0o600}),
    ]
    before = os.listdir("/proc/self/fd")
    for error, keywords in wrong:
        with pytest.raises(error):
            serve(**{"handler": echo, **keywords})
    with serve(echo, LOCALHOST) as server, pytest.raises(ValueError, match="grace"):
        server.drain(-1)
    assert os.listdir("/proc/self/fd") == before


def test_needs_fibers() -> None:
    with pytest.raises(RuntimeError, match="run"):
        serve(echo, LOCALHOST)


def test_forked_child_that_leaves_the_block_ends_nothing() -> None:
    run_child(
        """
        import os, greenio

        def handler(stream):
            while line := stream.readline():
                stream.write(line)

        def main():
            with greenio.serve(handler, "127.0.0.1") as server:
                stream = greenio.connect_tcp("127.0.0.1", server.port)
                stream.write(b"before\\n")
                assert stream.readline() == b"before\\n"
                child = os.fork()
                if child == 0:
                    assert server.drain() == (0, 0, 0, 0)
                    assert server.connections == 0
                    os._exit(7)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
                stream.write(b"after\\n")
                assert stream.readline() == b"after\\n"
                stream.close()
                with greenio.connect_tcp("127.0.0.1", server.port) as stream:
                    stream.write(b"new\\n")
                    assert stream.readline() == b"new\\n"

        greenio.run(main)
        """,
        flags=("-W", "ignore"),
    )


# --- accept under trouble --------------------------------------------------------------------------------------------


@fibers
def test_no_descriptors_left_is_logged_once_and_accepting_goes_on_later(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    with serve(echo, LOCALHOST) as server, connect(server) as busy, contextlib.ExitStack() as clients:
        busy.write(b"x")
        assert busy.read(1) == b"x"
        made = [clients.enter_context(standard.socket()) for _ in range(5)]
        with few_descriptors(1):
            for each in made:
                each.connect(("127.0.0.1", server.port))
            greenio.sleep(30)  # pauses grow up to a second
            assert server.statistics().accepted == 2
            assert server.statistics().accept_pauses == 1
            busy.write(b"y")
            assert busy.read(1) == b"y"
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "Too many open files" in warnings[0].getMessage()
        greenio.sleep(2)
        assert server.statistics().accepted == 6
        assert [record.getMessage() for record in caplog.records if "accepts again" in record.getMessage()]
        server.close()


class Troubled(Listener):
    """Before it accepts, it raises what is on its list."""

    troubles: list[BaseException]

    def accept(self) -> Stream:
        if self.troubles:
            raise self.troubles.pop(0)
        return super().accept()


def troubled(*troubles: BaseException) -> Listener:
    listener = listen_tcp(LOCALHOST)
    listener.__class__ = Troubled
    listener.troubles = list(troubles)  # type: ignore[attr-defined]
    return listener


@pytest.mark.parametrize("error", [errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH, errno.EPERM])
@fibers
def test_connection_that_fails_before_it_is_accepted_takes_no_place_and_no_pause(error: int, caplog: Any) -> None:
    troubles = [OSError(error, os.strerror(error)) for _ in range(3)]
    began = greenio.current_time()
    with serve(echo, listener=troubled(*troubles), max_connections=1) as server, connect(server) as stream:
        stream.write(b"x\n")
        assert stream.readline() == b"x\n"
        assert greenio.current_time() == began
        seen = server.statistics()
        assert (seen.accepted, seen.accept_pauses) == (1, 0)
        server.close()
    assert caplog.records == []
    with troubled(OSError(error, "gone")) as listener, connect(listener) as stream:
        with next(iter(listener)) as accepted:
            assert accepted.peername == stream.sockname


@fibers
def test_listener_of_ones_own_that_fails_ends_accepting_and_wait_says_why(caplog: Any) -> None:
    with serve(echo, listener=troubled(ZeroDivisionError("in accept"))) as server:
        with pytest.raises(ZeroDivisionError, match="in accept"):
            server.wait()
        assert server.closed
        assert server.listener.closed
    assert "cannot accept any more" in caplog.text


@fibers
def test_no_memory_for_a_handlers_stack_is_logged_and_accepting_goes_on_later(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    with serve(echo, LOCALHOST, stack_size=1 << 32, max_connections=2) as server, contextlib.ExitStack() as clients:
        with little_memory():
            lost = [clients.enter_context(connect(server)) for _ in range(2)]
            for each in lost:
                with pytest.raises(ConnectionResetError):
                    each.read()
            wait_all_parked()
        assert (server.connections, server.statistics().failed, server.statistics().accept_pauses) == (0, 2, 1)
        for _ in range(2):  # with the first one comes the news of the last that failed
            with connect(server) as stream:
                stream.write(b"x\n")
                assert stream.readline() == b"x\n"
        server.close()
    assert [record.levelno for record in caplog.records if "accept" in record.getMessage()] == [
        logging.WARNING,
        logging.INFO,
    ]


FAULTS = """
import greenio, faults, os, sys
from greenio import connect_tcp, serve

def handler(stream):
    stream.write(stream.readline())

def main():
    with serve(handler, "127.0.0.1") as server:
        served = refused = 0
        with faults.active():
            for _ in range(200):
                try:
                    with connect_tcp("127.0.0.1", server.port) as stream, greenio.timeout(20):
                        stream.write(b"x\\n")
                        assert stream.readline() == b"x\\n"
                        served += 1
                except ConnectionError:
                    refused += 1
        assert served + refused == 200 and served > 100, (served, refused)
        assert faults.count("accept", sys.argv[1]) > 0
        assert server.statistics().accepted >= served
    assert server.connections == 0

greenio.run(main)
"""


@pytest.mark.parametrize("fault", ["ECONNABORTED", "EMFILE", "ENOBUFS", "EINTR"])
def test_accept_survives_injected(fault: str, faults: Faults) -> None:
    faults.run(FAULTS, f"accept={fault}:0.1", fault, seed=3)


# --- all at once -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_thousands_of_connections_of_every_kind_lose_nothing_and_leave_nothing() -> None:
    """Random sizes to 1 MB, half-closes, resets, slow readers. Memory by tracemalloc (Python's and the buffers of streams)."""
    connections = 2000
    at_once = 100
    checked = 0
    resets = 0

    def handler(stream: Stream) -> None:
        # A message: its size, a newline, its bytes. The answer is the same. The end: the end.
        while line := stream.readline():
            size = int(line)
            if size > 300_000:
                stream.write(line)
                while size:
                    part = stream.read(min(size, 50_000))
                    assert part
                    stream.write(part)
                    size -= len(part)
            else:
                with stream.corked():
                    stream.write(line)
                    stream.write(stream.read_exactly(size))

    def client(seed: int, server: Any) -> None:
        nonlocal checked, resets
        generator = random.Random(seed)
        with connect(server) as stream:
            for _ in range(generator.randrange(1, 4)):
                size = int(10 ** generator.uniform(0, 6)) if generator.random() < 0.5 else generator.randrange(3000)
                message = b"%d\n" % size + generator.randbytes(size)
                kind = generator.random()
                writer = spawn(stream.write, message)
                try:
                    if kind < 0.1:
                        stream.read(1)
                        writer.cancel()
                        writer.join()
                        stream.abort()
                        resets += 1
                        return
                    if kind < 0.2:  # a slow reader
                        data = b""
                        while len(data) < len(message):
                            part = stream.read(generator.randrange(1, 100_000))
                            assert part
                            data += part
                            greenio.yield_now()
                        assert data == message
                    else:
                        assert stream.read_exactly(len(message)) == message
                    checked += len(message)
                finally:
                    writer.join()
            if generator.random() < 0.5:
                stream.half_close()
                assert stream.read() == b""

    def main() -> None:
        descriptors = os.listdir("/proc/self/fd")
        with serve(handler, LOCALHOST, max_connections=at_once) as server:
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            try:
                with greenio.TaskGroup(max_running=at_once) as group:
                    for seed in range(connections):
                        group.spawn(client, seed, server)
                peak = tracemalloc.get_traced_memory()[1] - before
                report = server.drain(20)
                left = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
            seen = server.statistics()
        assert report.stuck == report.cancelled == 0
        assert seen.accepted == connections
        assert seen.failed == 0
        assert seen.finished + seen.lost == connections
        assert os.listdir("/proc/self/fd") == descriptors
        assert checked > 10_000_000
        assert resets > 50
        # A connection has at most a message here and there, its echo and parts: 4 MB, were all at their largest at once.
        assert peak < at_once * 4_000_000
        assert left < 3_000_000

    greenio.run(main)


@pytest.mark.slow
def test_peers_that_do_not_read_hold_memory_flat() -> None:
    def handler(stream: Stream) -> None:
        while True:
            stream.write(b"x" * 100_000)

    def main() -> None:
        with serve(handler, LOCALHOST) as server, contextlib.ExitStack() as stack:
            for _ in range(50):
                stack.enter_context(connect(server))
            wait_all_parked()
            tracemalloc.start()
            try:
                for _ in range(20):
                    greenio.sleep(0.01)
                assert tracemalloc.get_traced_memory()[1] < 1_000_000
            finally:
                tracemalloc.stop()
            server.close()

    greenio.run(main)


def test_servers_in_two_os_threads_share_a_listener() -> None:
    served: list[int] = []
    stop = greenio.Event()

    def handler(stream: Stream) -> None:
        served.append(threading.get_ident())
        stream.write(stream.readline())

    def elsewhere(listener: Listener) -> None:
        def main() -> None:
            with serve(handler, listener=listener):
                stop.wait()

        greenio.run(main)

    def main() -> None:
        listener = listen_tcp(LOCALHOST)
        shared = Listener([each.dup() for each in listener.sockets])
        thread = threading.Thread(target=elsewhere, args=(shared,))
        thread.start()
        with serve(handler, listener=listener) as server:
            for _ in range(50):
                with connect(server) as stream:
                    stream.write(b"x\n")
                    assert stream.readline() == b"x\n"
            stop.set()
        thread.join()
        assert len(served) == 50

    greenio.run(main)
