"""greenio.connect_tcp and connect_unix: which address wins, and that losers leave nothing."""

import contextlib
import errno
import functools
import os
import shutil
import socket as standard
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child import command, environment
from waiters import parked

import greenio
from greenio import connect_tcp, connect_unix, socket
from greenio._connect import _Race, interleaved
from greenio.testing import VirtualClock

LOCALHOST = "127.0.0.1"
V4, V6 = int(standard.AF_INET), int(standard.AF_INET6)


def fibers(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The test is the main fiber of a run with a virtual clock."""

    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords), clock=VirtualClock())

    return test


@contextlib.contextmanager
def answering() -> Iterator[tuple[str, int]]:
    """The address of a listener."""
    with standard.create_server((LOCALHOST, 0)) as listener:
        yield listener.getsockname()


@contextlib.contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """The address of a TCP listener whose backlog is full: to connect there takes for ever."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(standard.create_server((LOCALHOST, 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(standard.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


@contextlib.contextmanager
def refusing() -> Iterator[tuple[str, int]]:
    """An address at which nobody listens."""
    with standard.socket() as bound:
        bound.bind((LOCALHOST, 0))
        yield bound.getsockname()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """names(address, …): from now on the host "service" has these addresses."""

    def script(*addresses: Any, delay: float = 0, also: Any = ()) -> None:
        def getaddrinfo(host: Any, port: Any, *args: Any, **keywords: Any) -> list[Any]:
            assert host == "service"
            greenio.sleep(delay)
            return [
                (standard.AF_INET6 if len(address) == 4 else standard.AF_INET, standard.SOCK_STREAM, 6, "", address)
                for address in addresses
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return script


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def test_families_take_turns_and_keep_their_order() -> None:
    def target(family: int, name: str) -> Any:
        return (family, 1, 6, name)

    six = [target(V6, name) for name in "abc"]
    four = [target(V4, name) for name in "xyz"]
    order = interleaved([*six, *four])
    assert "".join(name for *_, name in order) == "axbycz"
    assert "".join(name for *_, name in interleaved([four[0], *six])) == "xabc"
    assert interleaved(six) == six
    assert interleaved([]) == []


@pytest.mark.parametrize("host", [LOCALHOST, "::1", "localhost"])
@fibers
def test_connects_to_names_and_numbers_of_both_kinds(host: str) -> None:
    with greenio.listen_tcp(host) as listener:
        with connect_tcp(host, listener.port) as stream, listener.accept() as peer:
            assert stream.peername == stream.socket.getpeername() == peer.sockname
            assert stream.sockname == peer.peername
            assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert stream.timeout is None
            stream.write(b"hello\n")
            assert peer.readline() == b"hello\n"
        with connect_tcp(host, str(listener.port), nodelay=False) as stream, listener.accept():
            assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0


@fibers
def test_next_address_at_once_when_one_refuses(names: Any) -> None:
    with refusing() as first, answering() as second:
        names(first, second)
        with connect_tcp("service", 80) as stream:
            assert stream.peername == second
        assert greenio.current_time() == 0


@fibers
def test_next_address_after_the_delay_when_one_is_silent(names: Any) -> None:
    with silent() as first, answering() as second:
        names(first, second)
        before = descriptors()
        with connect_tcp("service", 80) as stream:
            assert stream.peername == second
            assert len(descriptors()) == len(before) + 1
        assert greenio.current_time() == pytest.approx(0.25)
        with connect_tcp("service", 80, happy_eyeballs_delay=2):
            pass
        assert greenio.current_time() == pytest.approx(2.25)
        assert descriptors() == before


@fibers
def test_refusal_while_an_older_attempt_is_silent_starts_the_next_at_once(names: Any) -> None:
    with silent() as first, refusing() as second, silent() as third, answering() as fourth:
        names(first, second, third, fourth)
        with connect_tcp("service", 80) as stream:
            assert stream.peername == fourth
        assert greenio.current_time() == pytest.approx(0.5)


@fibers
def test_older_attempt_may_still_win(names: Any) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOCALHOST, 0)))
        second = stack.enter_context(silent())
        names(listener.getsockname(), second)
        with connect_tcp("service", 80, happy_eyeballs_delay=0) as stream:
            assert stream.peername == listener.getsockname()


@fibers
def test_all_attempts_failed_names_each(names: Any) -> None:
    with refusing() as first, refusing() as second:
        names(first, ("::1", first[1], 0, 0), second)
        before = descriptors()
        with pytest.raises(ConnectionRefusedError) as caught:
            connect_tcp("service", 80)
        assert descriptors() == before
        text = str(caught.value)
        assert "'service' port 80" in text
        for host, port in (first, second):
            assert f"{host}:{port}: Connection refused" in text
        assert f"[::1]:{first[1]}: " in text
        cause = caught.value.__cause__
        assert isinstance(cause, ExceptionGroup)
        assert len(cause.exceptions) == 3
        names(first)
        with pytest.raises(ConnectionRefusedError, match="Connection refused") as caught:
            connect_tcp("service", 80)


@fibers
def test_timeout_covers_all_attempts_and_says_what_was_tried(names: Any) -> None:
    with silent() as first, refusing() as second, silent() as third:
        names(first, second, third)
        before = descriptors()
        with pytest.raises(TimeoutError) as caught:
            connect_tcp("service", 80, timeout=3)
        assert greenio.current_time() == pytest.approx(3)
        assert descriptors() == before
        text = str(caught.value)
        assert "'service' port 80 within 3 seconds: connecting took too long" in text
        assert f"{second[0]}:{second[1]}: Connection refused" in text
        assert f"{first[0]}:{first[1]}: no answer" in text
        assert f"{third[0]}:{third[1]}: no answer" in text


@fibers
def test_timeout_covers_the_name(names: Any) -> None:
    names((LOCALHOST, 1), delay=100)
    with pytest.raises(TimeoutError, match="looking up the name took too long"):
        connect_tcp("service", 80, timeout=2)
    assert greenio.current_time() == pytest.approx(2)


@fibers
def test_outer_timeout_is_the_callers_own(names: Any) -> None:
    with silent() as first:
        names(first)
        with pytest.raises(TimeoutError, match="not done within 1 seconds"), greenio.timeout(1):
            connect_tcp("service", 80, timeout=3)


@fibers
def test_without_a_delay_addresses_are_tried_one_by_one(names: Any) -> None:
    with silent() as first, answering() as second:
        names(first, second)
        with pytest.raises(TimeoutError):
            connect_tcp("service", 80, timeout=100, happy_eyeballs_delay=None)
        names(second, first)
        with connect_tcp("service", 80, happy_eyeballs_delay=None):
            pass


@pytest.mark.parametrize("count", [1, 3])
@fibers
def test_cancelled_attempt_leaves_nothing(count: int, names: Any) -> None:
    with contextlib.ExitStack() as stack:
        names(*[stack.enter_context(silent()) for _ in range(count)])
        before = descriptors()
        fiber = parked(connect_tcp, "service", 80)
        fiber.cancel()
        fiber.join()
        assert fiber.cancelled()
        assert descriptors() == before


@fibers
def test_cancelled_while_it_wins_leaves_nothing(names: Any) -> None:
    # Whatever comes first, each moment of the race is cut at once.
    with answering() as first, answering() as second:
        names(first, second)
        before = descriptors()
        for turns in range(12):
            fiber = greenio.spawn(connect_tcp, "service", 80)
            for _ in range(turns):
                greenio.yield_now()
            fiber.cancel()
            fiber.join()
            if not fiber.cancelled():
                fiber.result().close()
            assert descriptors() == before


@fibers
def test_second_to_answer_is_closed() -> None:
    with answering() as first, answering() as second:
        before = descriptors()
        race = _Race("service", None, True)
        assert race.attempt((V4, int(standard.SOCK_STREAM), 6, first))
        assert not race.attempt((V4, int(standard.SOCK_STREAM), 6, second))
        assert len(descriptors()) == len(before) + 1
        assert race.won is not None
        assert race.won[1] == first
        race.won[0].close()


@fibers
def test_unknown_name() -> None:
    with pytest.raises(socket.gaierror):
        connect_tcp("no such name", 80)


@pytest.mark.parametrize("host", ["a..b", ".", "a" * 70, "\ud800"], ids=ascii)
@fibers
def test_text_that_cannot_be_a_name_is_a_name_that_is_not_known(host: str) -> None:
    for fn in (
        lambda: connect_tcp(host, 80),
        lambda: connect_tcp(LOCALHOST, 80, local_address=(host, 0)),
        lambda: greenio.listen_tcp(host),
        lambda: greenio.serve(print, host),
    ):
        with pytest.raises(socket.gaierror) as caught:
            fn()
        assert caught.value.errno == socket.EAI_NONAME
        assert repr(host) in str(caught.value)


@fibers
def test_local_address_is_bound_and_other_families_are_left_out(names: Any) -> None:
    with answering() as first:
        names(("::1", 9, 0, 0), first)
        real = standard.getaddrinfo
        scripted = socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any) -> Any:
            return scripted(host, *args) if host == "service" else real(host, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", getaddrinfo)
            with connect_tcp("service", 80, local_address=("127.0.0.2", 0)) as stream:
                assert stream.sockname[0] == "127.0.0.2"
            with pytest.raises(OSError, match="another family"):
                connect_tcp("service", 80, local_address=("::1", 0), happy_eyeballs_delay=100)


@fibers
def test_wrong_arguments() -> None:
    with pytest.raises(OverflowError, match="port"):
        connect_tcp(LOCALHOST, 65536)
    with pytest.raises(ValueError, match="happy_eyeballs_delay"):
        connect_tcp(LOCALHOST, 1, happy_eyeballs_delay=-1)
    with pytest.raises(ValueError, match="timeout"):
        connect_tcp(LOCALHOST, 1, timeout=-1)


def test_needs_fibers() -> None:
    with pytest.raises(RuntimeError, match="run"):
        connect_tcp(LOCALHOST, 1)
    with pytest.raises(RuntimeError, match="run"):
        connect_unix("/nowhere")


# --- Unix ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["str", "bytes", "path", "abstract", "abstract bytes"])
@fibers
def test_unix_paths_and_abstract_names(kind: str, tmp_path: Path) -> None:
    abstract = "\0greenio-" + os.urandom(6).hex()
    path: Any = {
        "str": str(tmp_path / "s"),
        "bytes": os.fsencode(tmp_path / "s"),
        "path": tmp_path / "s",
        "abstract": abstract,
        "abstract bytes": abstract.encode(),
    }[kind]
    with greenio.listen_unix(path) as listener, connect_unix(path) as stream, listener.accept() as peer:
        stream.write(b"hello\n")
        assert peer.readline() == b"hello\n"
        assert os.fsencode(stream.peername) == os.fsencode(path)


@fibers
def test_unix_failures_name_the_path(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with pytest.raises(FileNotFoundError, match=r"/s'"):
        connect_unix(path)
    with standard.socket(standard.AF_UNIX) as bound:
        bound.bind(path)
        with pytest.raises(ConnectionRefusedError, match=r"/s'"):
            connect_unix(path)


@fibers
def test_unix_listener_without_room_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with standard.socket(standard.AF_UNIX) as listener, standard.socket(standard.AF_UNIX) as filler:
        listener.bind(path)
        listener.listen(0)
        filler.connect(path)
        before = descriptors()
        with pytest.raises(TimeoutError, match="within 5 seconds"):
            connect_unix(path, timeout=5)
        fiber = parked(connect_unix, path)
        fiber.cancel()
        fiber.join()
        assert descriptors() == before
        fiber = parked(connect_unix, path)
        listener.accept()[0].close()
        fiber.result().close()


# --- in a network of its own -----------------------------------------------------------------------------------------

# What is sent to 2001:db8:9:: comes in again and is not for this machine: nobody ever answers.
PREPARE = """
set -e
ip link set lo up
ip -6 addr add 2001:db8:8::1/128 dev lo nodad
ip -6 route add 2001:db8:9::/64 dev lo
"""

NAME_SERVER = """
import socket as standard, struct, threading, time

RECORDS = {}      # name -> {1: [IPv4, ...], 28: [IPv6, ...]}

def answer(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]])
        at += 1 + query[at]
    kind = struct.unpack_from("!H", query, at + 1)[0]
    found = RECORDS.get(b".".join(labels).decode())
    records = (found or {}).get(kind, [])
    head = query[:2] + struct.pack("!HHHHH", 0x8180 | (0 if found else 3), 1, len(records), 0, 0)
    text = head + query[12 : at + 5]
    for record in records:
        data = standard.inet_pton(standard.AF_INET if kind == 1 else standard.AF_INET6, record)
        text += struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(data)) + data
    return text

def name_server():
    sock = standard.socket(standard.AF_INET, standard.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 53))
    def serve():
        while True:
            query, who = sock.recvfrom(2000)
            sock.sendto(answer(query), who)
    threading.Thread(target=serve, daemon=True).start()
"""


def in_network(script: str, *, prepare: str = PREPARE, names: bool = False) -> None:
    """Run Python in a network namespace of its own; with *names*, it is its own name server too."""
    for tool, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("mount", "mount")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing (Debian: apt-get install {package})")
    lines = [prepare]
    if names:
        lines += [
            "folder=$(mktemp -d)",
            "trap 'rm -rf \"$folder\"' EXIT",
            "echo 'nameserver 127.0.0.1' > $folder/resolv.conf",
            "echo 'hosts: dns' > $folder/nsswitch.conf",
            "mount --bind $folder/resolv.conf /etc/resolv.conf",
            "mount --bind $folder/nsswitch.conf /etc/nsswitch.conf",
        ]
        script = NAME_SERVER + script
    arguments = ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    prepared = subprocess.run(
        [*arguments, "sh", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=30, check=False
    )
    if prepared.returncode:
        pytest.skip(f"no network namespace can be prepared here (root in a container may): {prepared.stderr.strip()}")
    child = subprocess.run(
        [*arguments, "sh", "-c", "\n".join([*lines, '"$@"']), "sh", *command(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr


@pytest.mark.slow
def test_black_holed_ipv6_costs_the_delay_and_no_more() -> None:
    in_network(
        """
import greenio, os, time

def main():
    name_server()
    RECORDS["service.test"] = {1: ["127.0.0.1"], 28: ["2001:db8:9::2", "2001:db8:9::3"]}
    RECORDS["dead.test"] = {28: ["2001:db8:9::2", "2001:db8:9::3"]}
    RECORDS["four.test"] = {1: ["127.0.0.1"]}
    with greenio.listen_tcp("127.0.0.1") as listener:
        greenio.socket.getaddrinfo("service.test", 80)
        before = os.listdir("/proc/self/fd")
        began = time.monotonic()
        with greenio.connect_tcp("service.test", listener.port, timeout=20) as stream:
            took = time.monotonic() - began
            assert stream.peername[0] == "127.0.0.1", stream
            assert 0.25 <= took < 1, took
        began = time.monotonic()
        with greenio.connect_tcp("four.test", listener.port):
            assert time.monotonic() - began < 0.2
        try:
            greenio.connect_tcp("dead.test", listener.port, timeout=0.6)
        except TimeoutError as error:
            assert "[2001:db8:9::2]" in str(error) and "[2001:db8:9::3]" in str(error), error
        else:
            raise AssertionError
        try:
            greenio.connect_tcp("unknown.test", listener.port)
        except greenio.socket.gaierror:
            pass
        else:
            raise AssertionError
        assert os.listdir("/proc/self/fd") == before

greenio.run(main)
""",
        names=True,
    )


@pytest.mark.slow
def test_unreachable_network_is_passed_over_at_once() -> None:
    in_network(
        """
import greenio, time

def main():
    name_server()
    RECORDS["service.test"] = {1: ["10.1.2.3", "127.0.0.1"], 28: ["2001:db8:77::1"]}
    with greenio.listen_tcp("127.0.0.1") as listener:
        began = time.monotonic()
        with greenio.connect_tcp("service.test", listener.port) as stream:
            assert stream.peername[0] == "127.0.0.1"
        assert time.monotonic() - began < 0.2

greenio.run(main)
""",
        prepare="set -e\nip link set lo up\n",
        names=True,
    )


@pytest.mark.slow
def test_bytes_survive_delay_loss_and_reordering() -> None:
    if shutil.which("tc") is None:
        pytest.skip("tc is missing (Debian: apt-get install iproute2)")
    in_network(
        """
import greenio, hashlib, os

def handle(stream):
    size = int(stream.readline())
    stream.write(hashlib.sha256(stream.read_exactly(size)).hexdigest().encode() + b"\\n")

def main():
    with greenio.serve(handle, "127.0.0.1") as server:
        def client(size):
            with greenio.connect_tcp("127.0.0.1", server.port, timeout=50) as stream:
                data = os.urandom(size)
                stream.write(b"%d\\n" % size)
                stream.write(data)
                assert stream.readline().strip().decode() == hashlib.sha256(data).hexdigest()
        with greenio.TaskGroup() as group:
            for size in (1, 1000, 30_000, 200_000):
                group.spawn(client, size)

greenio.run(main)
""",
        prepare="set -e\nip link set lo up\ntc qdisc add dev lo root netem delay 5ms 3ms loss 2% reorder 10%\n",
    )


def test_errors_have_their_numbers() -> None:
    def main() -> None:
        with refusing() as address, pytest.raises(ConnectionRefusedError) as caught:
            connect_tcp(*address)
        assert caught.value.errno == errno.ECONNREFUSED

    greenio.run(main)


@fibers
def test_a_name_without_addresses_and_the_systems_own_timeouts_are_told(
    names: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    names()
    with pytest.raises(OSError, match="no address for 'service'") as caught:
        connect_tcp("service", 80)
    assert caught.value.errno == errno.EADDRNOTAVAIL

    def times_out(*_: Any, **__: Any) -> Any:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    monkeypatch.setattr(socket, "getaddrinfo", times_out)
    monkeypatch.setattr(socket.socket, "connect", times_out)
    for connect in (lambda: connect_tcp("service", 80, timeout=100), lambda: connect_unix("/nowhere", timeout=100)):
        with pytest.raises(TimeoutError) as ended:  # it is not the limit's, which says otherwise
            connect()
        assert ended.value.errno == errno.ETIMEDOUT
    assert greenio.current_time() == 0
    assert descriptors() == before
