"""greenio.socket: datagrams, addresses, ancillary data, files. The streams are in test_socket.py."""

import array
import concurrent.futures
import contextlib
import errno
import functools
import io
import os
import resource
import select
import socket as standard
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child import run_child
from faults import Faults
from sockets import LOCALHOST, connected, fibers, fill, outcome, receive_exactly

import greenio
from greenio import sleep, socket, spawn, yield_now
from greenio.testing import VirtualClock, wait_all_parked

DGRAM = standard.SOCK_DGRAM
IP_PKTINFO = 8  # the module has their names from CPython 3.14 on
IP_RECVERR = 11
DATAGRAMS = ["ipv4", "ipv6", "path", "abstract"]
numbers = iter(range(1 << 60))


@contextlib.contextmanager
def datagrams(kind: str, tmp_path: Path = Path("/nowhere"), module: Any = socket) -> Iterator[tuple[Any, Any]]:
    """Two bound sockets, not connected."""
    family = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}.get(kind, socket.AF_UNIX)
    with module.socket(family, DGRAM) as one, module.socket(family, DGRAM) as other:
        for each in (one, other):
            number = next(numbers)
            each.bind(
                {
                    "ipv4": (LOCALHOST, 0),
                    "ipv6": ("::1", 0),
                    "path": str(tmp_path / f"socket-{number}"),
                    "abstract": b"\0greenio-%d-%d" % (os.getpid(), number),
                }[kind]
            )
        yield one, other


def fill_receiver(name: Any) -> int:
    """Datagrams that a Unix receiver takes until it has no room."""
    count = 0
    with standard.socket(standard.AF_UNIX, DGRAM) as filling:
        filling.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filling.sendto(b"f", name)
                count += 1
    return count


def cancelled_error(fiber: Any) -> Any:
    """The Cancelled that ended *fiber*, with what it says about how far it had got."""
    with pytest.raises(concurrent.futures.CancelledError) as raised:
        fiber.result()
    return raised.value.__cause__


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- it works --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DATAGRAMS)
@fibers
def test_datagrams_forth_and_back(kind: str, tmp_path: Path) -> None:
    def answer() -> None:
        data, address = one.recvfrom(100)
        one.sendto(data, address)
        room = bytearray(100)
        count, address = one.recvfrom_into(room)
        one.sendto(memoryview(room)[:count], 0, address)
        data, _, flags, address = one.recvmsg(100)
        assert flags == 0
        one.sendmsg([data[:2], data[2:]], [], 0, address)
        count, _, _, address = one.recvmsg_into([memoryview(room)[:3], memoryview(room)[3:]])
        one.sendmsg((piece for piece in (room[:count], b"!")), address=address)

    with datagrams(kind, tmp_path) as (one, other):
        server = spawn(answer)
        for turn in range(4):
            message = b"message %d" % turn
            other.sendto(message, one.getsockname())
            assert other.recvfrom(100) == (message + b"!" * (turn == 3), one.getsockname())
        server.result()


@fibers
def test_a_name_is_looked_up() -> None:
    with datagrams("ipv4") as (one, other):
        port = one.getsockname()[1]
        assert other.sendto(b"one", ("localhost", port)) == 3
        assert other.sendmsg([b"two"], [], 0, ("localhost", port)) == 3
        assert (one.recv(10), one.recv(10)) == (b"one", b"two")


@fibers
def test_addresses_as_the_standard_module_tells_them(tmp_path: Path) -> None:
    def of(module: Any) -> list[Any]:
        told: list[Any] = []
        for kind in DATAGRAMS:
            folder = tmp_path / module.__name__
            folder.mkdir(exist_ok=True)
            with datagrams(kind, folder, module) as (one, other):
                named = {str(each.getsockname()): name for each, name in ((one, "one"), (other, "other"))}
                for _ in range(4):
                    other.sendto(b"x", one.getsockname())
                told += [
                    named[str(one.recvfrom(1)[1])],
                    named[str(one.recvfrom_into(bytearray(1))[1])],
                    named[str(one.recvmsg(1)[3])],
                    named[str(one.recvmsg_into([bytearray(1)])[3])],
                ]
        for family, kind in ((socket.AF_UNIX, DGRAM), (socket.AF_UNIX, socket.SOCK_STREAM)):
            left, right = module.socketpair(family, kind)
            with left, right:
                left.sendall(b"x")
                told.append(right.recvfrom(10))
                left.sendall(b"x")
                told.append(right.recvmsg(10))
        with module.create_server((LOCALHOST, 0)) as listener, module.create_connection(listener.getsockname()) as sock:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"xy")
                told += [sock.recvfrom(1), sock.recvmsg(1)]
        return told

    assert of(socket) == of(standard)


@fibers
def test_the_sender_of_a_bound_stream_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "listener"))
        listener.listen()
        client.bind(str(tmp_path / "client"))
        client.connect(str(tmp_path / "listener"))
        server, _ = listener.accept()
        with server:
            client.sendall(b"abcd")
            assert server.recvfrom(2) == (b"ab", str(tmp_path / "client"))
            assert server.recvmsg(2)[3] == str(tmp_path / "client")


def families(module: Any) -> dict[str, Callable[[], Any]]:
    def unix_connected() -> Any:
        left, right = module.socketpair(socket.AF_UNIX, DGRAM)
        right.close()
        left.setblocking(False)
        return left

    def bound() -> Any:
        sock = module.socket(socket.AF_INET, DGRAM)
        sock.bind((LOCALHOST, 0))
        sock.setblocking(False)
        return sock

    def closed() -> Any:
        sock = module.socket(socket.AF_INET, DGRAM)
        sock.close()
        return sock

    def netlink() -> Any:
        sock = module.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        sock.setblocking(False)
        return sock

    def ipv6() -> Any:
        sock = module.socket(socket.AF_INET6, DGRAM)
        sock.setblocking(False)
        return sock

    return {
        "bound": bound,
        "ipv6": ipv6,
        "closed": closed,
        "stream": lambda: module.socket(),
        "peer gone": unix_connected,
        "netlink": netlink,
    }


GONE = ("192.0.2.1", 9)
ON_ANY: dict[str, Callable[[Any], Any]] = {
    "recvfrom 0": lambda sock: sock.recvfrom(0, socket.MSG_DONTWAIT),
    "recvfrom negative": lambda sock: sock.recvfrom(-1),
    "recvfrom float": lambda sock: sock.recvfrom(1.0),
    "recvfrom nothing": lambda sock: sock.recvfrom(),
    "recvfrom oob": lambda sock: sock.recvfrom(1, socket.MSG_OOB),
    "recvfrom errors": lambda sock: sock.settimeout(0) or sock.recvfrom(1, socket.MSG_ERRQUEUE),
    "recvfrom_into empty": lambda sock: sock.settimeout(0) or sock.recvfrom_into(bytearray()),
    "recvfrom_into bytes": lambda sock: sock.recvfrom_into(b"x"),
    "recvfrom_into negative": lambda sock: sock.recvfrom_into(bytearray(1), -1),
    "recvfrom_into too many": lambda sock: sock.recvfrom_into(bytearray(1), 2),
    "recvfrom_into scattered": lambda sock: sock.recvfrom_into(memoryview(bytearray(4))[::2]),
    "recvmsg negative": lambda sock: sock.recvmsg(-1),
    "recvmsg negative control": lambda sock: sock.recvmsg(1, -1),
    "recvmsg absurd control": lambda sock: sock.recvmsg(1, 1 << 40),
    "recvmsg_into int": lambda sock: sock.recvmsg_into(5),
    "recvmsg_into bytes": lambda sock: sock.recvmsg_into([b"x"]),
    "recvmsg_into ints": lambda sock: sock.recvmsg_into([5]),
    "recvmsg_into negative control": lambda sock: sock.recvmsg_into([bytearray(1)], -1),
    "sendto nothing": lambda sock: sock.sendto(),
    "sendto data only": lambda sock: sock.sendto(b"x"),
    "sendto too many": lambda sock: sock.sendto(b"x", 0, GONE, 5),
    "sendto str": lambda sock: sock.sendto("x", (LOCALHOST, 9)),
    "sendto flags str": lambda sock: sock.sendto(b"x", "y", (LOCALHOST, 9)),
    "sendto None": lambda sock: sock.sendto(b"x", None),
    "sendto path": lambda sock: sock.sendto(b"x", "/nowhere/at all"),
    "sendto long path": lambda sock: sock.sendto(b"x", "/" * 200),
    "sendto path bytearray": lambda sock: sock.sendto(b"x", bytearray(b"/nowhere")),
    "sendto nowhere": lambda sock: sock.sendto(b"x", b"\0nobody is called so"),
    "sendto list": lambda sock: sock.sendto(b"x", [LOCALHOST, 9]),
    "sendto empty": lambda sock: sock.sendto(b"x", ()),
    "sendto host only": lambda sock: sock.sendto(b"x", (LOCALHOST,)),
    "sendto port": lambda sock: sock.sendto(b"x", (LOCALHOST, 70000)),
    "sendto port negative": lambda sock: sock.sendto(b"x", (LOCALHOST, -1)),
    "sendto port absurd": lambda sock: sock.sendto(b"x", (LOCALHOST, 1 << 70)),
    "sendto port str": lambda sock: sock.sendto(b"x", (LOCALHOST, "http")),
    "sendto port bool": lambda sock: sock.sendto(b"x", (LOCALHOST, True)),
    "sendto host bytes": lambda sock: sock.sendto(b"x", (b"127.0.0.1", 9)),
    "sendto host int": lambda sock: sock.sendto(b"x", (5, 9)),
    "sendto host NUL": lambda sock: sock.sendto(b"x", ("127.0.0.1\0", 9)),
    "sendto any": lambda sock: sock.sendto(b"x", ("", 9)),
    "sendto broadcast": lambda sock: sock.sendto(b"x", ("<broadcast>", 9)),
    "sendto IPv6": lambda sock: sock.sendto(b"x", ("::1", 9)),
    "sendto IPv6 four": lambda sock: sock.sendto(b"x", ("::1", 9, 0, 0)),
    "sendto IPv6 five": lambda sock: sock.sendto(b"x", ("::1", 9, 0, 0, 0)),
    "sendto IPv6 flow": lambda sock: sock.sendto(b"x", ("::1", 9, 1 << 20, 0)),
    "sendto IPv6 flow negative": lambda sock: sock.sendto(b"x", ("::1", 9, -1, 0)),
    "sendto IPv6 scope absurd": lambda sock: sock.sendto(b"x", ("::1", 9, 0, 1 << 40)),
    "sendto netlink": lambda sock: sock.sendto(b"x", (0, 0)),
    "sendto large": lambda sock: sock.sendto(bytes(70000), (LOCALHOST, 9)),
    "sendmsg int": lambda sock: sock.sendmsg(5),
    "sendmsg ints": lambda sock: sock.sendmsg([5]),
    "sendmsg bytes": lambda sock: sock.sendmsg(b"abc"),
    "sendmsg strs": lambda sock: sock.sendmsg(["abc"]),
    "sendmsg scattered": lambda sock: sock.sendmsg([memoryview(b"abcd")[::2]]),
    "sendmsg many": lambda sock: sock.sendmsg([b"x"] * 2000),
    "sendmsg control None": lambda sock: sock.sendmsg([b"x"], None),
    "sendmsg control ints": lambda sock: sock.sendmsg([b"x"], [5]),
    "sendmsg control short": lambda sock: sock.sendmsg([b"x"], [(1, 2)]),
    "sendmsg control str": lambda sock: sock.sendmsg([b"x"], [(1, 2, "x")]),
    "sendmsg control level": lambda sock: sock.sendmsg([b"x"], [("x", 2, b"x")]),
    "sendmsg control absurd": lambda sock: sock.sendmsg([b"x"], [(1 << 40, 2, b"x")]),
    "sendmsg control unknown": lambda sock: sock.sendmsg([b"x"], [(socket.SOL_SOCKET, 9999, b"x")]),
    "sendmsg no descriptor": lambda sock: sock.sendmsg(
        [b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [9999]))]
    ),
    "sendmsg nowhere": lambda sock: sock.sendmsg([b"x"], [], 0, "/nowhere/at all"),
    "sendmsg address None": lambda sock: sock.sendmsg([b"x"], [], 0, None),
    "sendmsg_afalg": lambda sock: sock.sendmsg_afalg([b"x"], op=1),
    "sendmsg_afalg no op": lambda sock: sock.sendmsg_afalg([b"x"]),
    "sendfile text": lambda sock: sock.sendfile(io.TextIOWrapper(io.BytesIO(b"x"), "utf-8")),
    "sendfile count": lambda sock: sock.sendfile(io.BytesIO(b"x"), 0, -1),
    "sendfile count 0": lambda sock: sock.sendfile(io.BytesIO(b"x"), 0, 0),
    "sendfile count float": lambda sock: sock.sendfile(io.BytesIO(b"x"), 0, 1.5),
    "sendfile": lambda sock: sock.sendfile(io.BytesIO(b"x")),
    "inheritable": lambda sock: (sock.get_inheritable(), sock.set_inheritable(True), sock.get_inheritable()),
    "bind twice": lambda sock: (sock.bind((LOCALHOST, 0)), sock.bind((LOCALHOST, 0))),
}


@pytest.mark.parametrize("kind", families(socket))
@pytest.mark.parametrize("name", ON_ANY)
@fibers
def test_same_outcome_as_the_standard_socket(name: str, kind: str) -> None:
    def of(module: Any) -> Any:
        with families(module)[kind]() as sock:
            return outcome(lambda: ON_ANY[name](sock)), outcome(lambda: ON_ANY[name](sock))

    assert of(socket) == of(standard)


# --- cut short, looked at, waited for in whole -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", DATAGRAMS)
@fibers
def test_what_does_not_fit_is_lost_and_said(kind: str, tmp_path: Path) -> None:
    with datagrams(kind, tmp_path) as (one, other):
        for _ in range(6):
            other.sendto(b"abcdef", one.getsockname())
        assert one.recvfrom(3)[0] == b"abc"
        assert one.recvmsg(3)[:3] == (b"abc", [], socket.MSG_TRUNC)
        assert one.recvmsg(10, 0, socket.MSG_PEEK)[0] == b"abcdef"
        # Longer than the room: what is said to be there beyond it is nobody else's memory.
        assert one.recvfrom(3, socket.MSG_TRUNC)[0] == b"abc\0\0\0"
        assert one.recv(3, socket.MSG_TRUNC) == b"abc\0\0\0"
        assert one.recv_into(bytearray(3), 0, socket.MSG_TRUNC) == 6
        assert one.recvmsg_into([bytearray(1), bytearray(1)], 0, socket.MSG_TRUNC)[:3] == (6, [], socket.MSG_TRUNC)
        one.settimeout(0)
        with pytest.raises(BlockingIOError):
            one.recvfrom(1)


@fibers
def test_truncation_of_what_is_larger_than_any_scratch_buffer() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, DGRAM)
    with left, right:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 500_000)
        large = 180_000
        for receive in (
            lambda: right.recv(4, socket.MSG_TRUNC),
            lambda: right.recvfrom(4, socket.MSG_TRUNC)[0],
            lambda: right.recvmsg(4, 0, socket.MSG_TRUNC)[0],
        ):
            left.send(b"x" * large)
            assert receive() == b"xxxx" + bytes(large - 4)


@fibers
def test_bytes_of_a_stream_thrown_away_are_zeros() -> None:
    with connected() as (client, server):
        for receive in (server.recv, lambda *arguments: server.recvfrom(*arguments)[0]):
            client.sendall(b"secret")
            select.select([server.fileno()], [], [])
            assert receive(100, socket.MSG_TRUNC) == bytes(6)


@pytest.mark.parametrize("kind", ["ipv4", "pair"])
@fibers
def test_waitall_parks_until_all_is_there(kind: str) -> None:
    room = [bytearray(3), bytearray(0), bytearray(4), bytearray(3)]
    with connected(kind) as (client, server):
        calls: list[Callable[[], bytes]] = [
            lambda: server.recvfrom(10, socket.MSG_WAITALL)[0],
            lambda: server.recvmsg(10, 0, socket.MSG_WAITALL)[0],
            lambda: b"".join(room) if server.recvmsg_into(room, 0, socket.MSG_WAITALL)[0] == 10 else b"",
            lambda: server.recvmsg(10, 0, socket.MSG_WAITALL | socket.MSG_PEEK)[0],
        ]
        for call in calls:
            waiting = spawn(call)
            for piece in (b"01", b"23456", b"789"):
                wait_all_parked()
                assert waiting.state == "parked"
                client.sendall(piece)
            assert waiting.result() == b"0123456789"
        assert server.recv(20) == b"0123456789"
        waiting = spawn(server.recvmsg_into, room, 0, socket.MSG_WAITALL)
        wait_all_parked()
        client.sendall(b"abcde")
        wait_all_parked()
        waiting.cancel()
        assert cancelled_error(waiting).received == b"abcde"


@fibers
def test_waitall_ends_at_descriptors_passed_along() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"ab")
        socket.send_fds(left, [b"cd"], [0])
        left.sendall(b"ef")
        assert right.recvmsg(2, 100, socket.MSG_WAITALL)[0] == b"ab"
        data, control, _, _ = right.recvmsg(100, 100, socket.MSG_WAITALL)
        assert data == b"cd"
        for fd in array.array("i", control[0][2]):
            os.close(fd)


# --- ancillary data --------------------------------------------------------------------------------------------------


@fibers
def test_descriptors_passed_are_close_on_exec_and_the_callers() -> None:
    left, right = socket.socketpair()
    reader, writer = os.pipe()
    with left, right:
        waiting = spawn(socket.recv_fds, right, 100, 4)
        wait_all_parked()
        assert socket.send_fds(left, [b"two ", b"ends"], [reader, writer]) == 8
        data, descriptors, flags, _ = waiting.result()
        assert (data, flags, len(descriptors)) == (b"two ends", 0, 2)
        assert [os.get_inheritable(fd) for fd in descriptors] == [False, False]
        os.write(descriptors[1], b"through")
        assert os.read(reader, 10) == b"through"
        for fd in (reader, writer, *descriptors):
            os.close(fd)


@fibers
def test_descriptors_for_which_there_is_no_room_are_closed_and_said() -> None:
    left, right = socket.socketpair()
    with left, right:
        before = open_descriptors()
        for room in (0, socket.CMSG_LEN(4)):
            socket.send_fds(left, [b"x"], [0, 1, 2])
            _, control, flags, _ = right.recvmsg(1, room)
            assert flags == socket.MSG_CTRUNC
            for item in control:
                for fd in array.array("i", item[2]):
                    os.close(fd)
        assert open_descriptors() == before


@fibers
def test_a_wait_for_descriptors_that_is_given_up_takes_none() -> None:
    left, right = socket.socketpair()
    with left, right:
        before = open_descriptors()
        waiting = spawn(socket.recv_fds, right, 100, 4)
        wait_all_parked()
        socket.send_fds(left, [b"x"], [0])
        waiting.cancel()
        waiting.join()
        assert waiting.cancelled()
        assert open_descriptors() == before
        data, descriptors, _, _ = socket.recv_fds(right, 100, 4)
        assert data == b"x"
        os.close(descriptors[0])


def test_ancillary_data_are_the_standard_modules() -> None:
    def of(module: Any) -> list[Any]:
        told: list[Any] = []
        with datagrams("ipv4", module=module) as (one, other):
            one.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            one.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
            other.sendmsg([b"x"], [(socket.IPPROTO_IP, socket.IP_TOS, struct.pack("i", 16))], 0, one.getsockname())
            told.append(one.recvmsg(10, 1000)[:3])
            other.sendmsg([b"x"], [], 0, one.getsockname())
            told.append(one.recvmsg(10, socket.CMSG_SPACE(12))[:3])
            other.sendmsg([b"x"], [], 0, one.getsockname())
            told.append(one.recvmsg(10, 18)[:3])
            other.sendmsg([b"x"], [], 0, one.getsockname())
            told.append(one.recvmsg(10, 3)[:3])
        with datagrams("ipv6", module=module) as (one, other):
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
            control = [
                (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, array.array("i", [7])),
                (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, memoryview(struct.pack("i", 9))),
            ]
            other.sendmsg([b"x"], iter(control), 0, one.getsockname())
            told.append(one.recvmsg_into([bytearray(10)], 1000)[:3])
        left, right = module.socketpair()
        with left, right:
            right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            mine = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
            left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, mine)])
            told.append(right.recvmsg(10, 600))
        return told

    assert greenio.run(of, socket) == of(standard)


# --- every wait ------------------------------------------------------------------------------------------------------


class Parked:
    """A call that is parked, on a socket of its own, and what is needed to see that it has not happened."""

    def __init__(self, what: str, stack: contextlib.ExitStack, tmp_path: Path) -> None:
        self.what = what
        self.stack = stack
        name = what.removesuffix(" ipv6").removesuffix(" netlink").removesuffix(" stream")
        self.receives = name.startswith("recv")
        if what.endswith("netlink"):
            self.sock = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
            self.sock.bind((0, 0))
        elif name == "recvmsg errors":
            self.peer, self.sock = stack.enter_context(datagrams("ipv4"))
            self.sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        elif self.receives and what.endswith("stream"):
            self.sock, self.peer = stack.enter_context(connected())
        elif self.receives:
            self.sock, self.peer = stack.enter_context(datagrams("ipv6" if what.endswith("ipv6") else "ipv4"))
        elif name == "sendfile":
            self.sock, self.peer = stack.enter_context(connected())
            self.file = stack.enter_context(file_of(b"s" * 100))
            self.room = fill(self.sock)
        elif name in ("sendmsg", "sendfile pieces"):
            self.sock, self.peer = stack.enter_context(connected("pair"))
            self.room = fill(self.sock)
        else:
            self.peer, self.sock = stack.enter_context(datagrams("path", tmp_path))
            if "connected" in name:
                self.sock.connect(self.peer.getsockname())
            self.room = fill_receiver(self.peer.getsockname())
        peer = self.peer.getsockname() if hasattr(self, "peer") else None
        self.call: Callable[[], Any] = {
            "recvfrom": lambda: self.sock.recvfrom(100),
            "recvfrom_into": lambda: self.sock.recvfrom_into(bytearray(100)),
            "recvmsg": lambda: self.sock.recvmsg(100, 100),
            "recvmsg_into": lambda: self.sock.recvmsg_into([bytearray(100)], 100),
            "recvmsg all": lambda: self.sock.recvmsg(100, 100, socket.MSG_WAITALL),
            "recvmsg errors": lambda: self.sock.recvmsg(100, 100, socket.MSG_ERRQUEUE),
            "sendto": lambda: self.sock.sendto(b"again", peer),
            "sendto connected": lambda: self.sock.sendto(b"again", peer),
            "send connected": lambda: self.sock.send(b"again"),
            "sendmsg connected": lambda: self.sock.sendmsg([b"aga", b"in"]),
            "sendmsg to one": lambda: self.sock.sendmsg([b"aga", b"in"], [], 0, peer),
            "sendmsg": lambda: self.sock.sendmsg([b"s" * 50, b"s" * 50]),
            "sendfile": lambda: self.sock.sendfile(self.file),
            "sendfile pieces": lambda: self.sock.sendfile(io.BytesIO(b"s" * 100)),
        }[name]

    def check_usable(self) -> None:
        """As if the call had never been."""
        if self.what.endswith("netlink"):
            # A request for nothing known: the kernel answers with an error, 36 bytes.
            self.sock.sendto(struct.pack("IHHII", 16, 999, 1, 1, 0), (0, 0))
            assert len(self.sock.recv(1000)) == 36
        elif self.what == "recvmsg errors":
            pass
        elif self.receives and self.what.endswith("stream"):
            self.peer.sendall(b"hello")
            assert self.sock.recv(100) == b"hello"
        elif self.receives:
            self.peer.sendto(b"hello", self.sock.getsockname())
            assert self.sock.recv(100) == b"hello"
        elif self.what in ("sendmsg", "sendfile", "sendfile pieces"):
            again = spawn(self.sock.sendall, b"again")
            assert receive_exactly(self.peer, self.room) == b"f" * self.room
            again.result()
            assert self.peer.recv(100) == b"again"
        else:
            again = spawn(self.call)
            wait_all_parked()
            assert [self.peer.recv(10) for _ in range(self.room)] == [b"f"] * self.room
            assert again.result() == 5
            assert self.peer.recv(10) == b"again"
            self.peer.settimeout(0)
            with pytest.raises(BlockingIOError):
                self.peer.recv(10)


PARKED = [
    "recvfrom",
    "recvfrom ipv6",
    "recvfrom stream",
    "recvfrom_into",
    "recvmsg",
    "recvmsg_into",
    "recvmsg all stream",
    "recvfrom netlink",
    "recvfrom_into netlink",
    "recvmsg netlink",
    "recvmsg_into netlink",
    "recvmsg errors",
    "sendto",
    "sendto connected",
    "send connected",
    "sendmsg connected",
    "sendmsg to one",
    "sendmsg",
    "sendfile",
    "sendfile pieces",
]


@pytest.mark.parametrize("what", PARKED)
@fibers
def test_cancelled_while_parked_has_not_happened(what: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        parked = Parked(what, stack, tmp_path)
        before = open_descriptors()
        fiber = spawn(parked.call)
        wait_all_parked()
        assert fiber.waits_for[0] == f"socket {'receive' if parked.receives else 'send'}"
        assert fiber.waits_for[1] is parked.sock
        fiber.cancel("enough")
        fiber.join()
        assert fiber.cancelled()
        assert open_descriptors() == before
        parked.check_usable()


@pytest.mark.parametrize("what", [what for what in PARKED if "all" not in what])  # a timeout makes MSG_WAITALL void
def test_timed_out_has_not_happened(what: str, tmp_path: Path) -> None:
    def main() -> None:
        with contextlib.ExitStack() as stack:
            parked = Parked(what, stack, tmp_path)
            before = open_descriptors()
            parked.sock.settimeout(7)
            begin = greenio.current_time()
            with pytest.raises(TimeoutError, match="timed out"):
                parked.call()
            assert greenio.current_time() - begin == 7
            with pytest.raises(TimeoutError), greenio.timeout(3):
                parked.call()
            assert greenio.current_time() - begin == 10
            parked.sock.settimeout(0)
            if not what.startswith("sendfile"):
                with pytest.raises(BlockingIOError):
                    parked.call()
            parked.sock.settimeout(None)
            assert open_descriptors() == before
            parked.check_usable()

    greenio.run(main, clock=VirtualClock())


@pytest.mark.parametrize("what", PARKED)
@pytest.mark.parametrize("how", ["close", "detach", "close from a thread"])
@fibers
def test_closing_wakes_all_who_wait(what: str, how: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        parked = Parked(what, stack, tmp_path)
        waiting = [spawn(parked.call) for _ in range(3)]
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
        with pytest.raises(OSError) as raised:
            parked.call()
        assert raised.value.errno == errno.EBADF


@pytest.mark.parametrize("what", PARKED)
@fibers
def test_an_operation_of_a_cancelled_fiber_does_not_begin(what: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        parked = Parked(what, stack, tmp_path)
        with greenio.CancelScope() as scope:
            scope.cancel()
            parked.call()
            pytest.fail("it happened")
        assert scope.cancelled_caught
        parked.check_usable()


def test_calls_that_wait_say_what_to_do_outside_a_run() -> None:
    with datagrams("ipv4") as (one, other):
        for call in (
            lambda: one.recvfrom(1),
            lambda: one.recvfrom_into(bytearray(1)),
            lambda: one.recvmsg(1),
            lambda: one.recvmsg_into([bytearray(1)]),
            lambda: one.sendto(b"x", other.getsockname()),
            lambda: one.sendmsg([b"x"], [], 0, other.getsockname()),
            lambda: one.sendmsg_afalg([b"x"], op=1),
            lambda: one.sendfile(io.BytesIO(b"x")),
        ):
            with pytest.raises(RuntimeError, match=r"greenio\.run"):
                call()


@fibers
def test_a_timeout_set_by_another_fiber_is_for_the_next_call() -> None:
    with datagrams("ipv4") as (one, other):
        waiting = spawn(one.recvfrom, 10)
        wait_all_parked()
        one.settimeout(0)
        with pytest.raises(BlockingIOError):
            one.recvfrom(10)
        wait_all_parked()
        assert waiting.state == "parked"
        other.sendto(b"x", one.getsockname())
        assert waiting.result()[0] == b"x"


# --- MSG_DONTWAIT ----------------------------------------------------------------------------------------------------


NOW: dict[str, Callable[[Any], Any]] = {
    "recv": lambda sock: sock.recv(1, socket.MSG_DONTWAIT),
    "recv all": lambda sock: sock.recv(2, socket.MSG_DONTWAIT | socket.MSG_WAITALL),
    "recv peek": lambda sock: sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK),
    "recv large": lambda sock: sock.recv(1 << 20, socket.MSG_DONTWAIT),
    "recv_into": lambda sock: sock.recv_into(bytearray(1), 1, socket.MSG_DONTWAIT),
    "recv_into all": lambda sock: sock.recv_into(bytearray(2), 2, socket.MSG_DONTWAIT | socket.MSG_WAITALL),
    "recvfrom": lambda sock: sock.recvfrom(1, socket.MSG_DONTWAIT),
    "recvfrom_into": lambda sock: sock.recvfrom_into(bytearray(1), 1, socket.MSG_DONTWAIT),
    "recvmsg": lambda sock: sock.recvmsg(2, 100, socket.MSG_DONTWAIT | socket.MSG_WAITALL),
    "recvmsg errors": lambda sock: sock.recvmsg(1, 100, socket.MSG_DONTWAIT | socket.MSG_ERRQUEUE),
    "recvmsg_into": lambda sock: sock.recvmsg_into([bytearray(1)], 0, socket.MSG_DONTWAIT),
    "send": lambda sock: sock.send(b"x", socket.MSG_DONTWAIT),
    "sendall": lambda sock: sock.sendall(b"x", socket.MSG_DONTWAIT),
    "sendall in part": lambda sock: sock.sendall(bytes(1 << 23), socket.MSG_DONTWAIT),
    "sendmsg": lambda sock: sock.sendmsg([b"x"], (), socket.MSG_DONTWAIT),
}


@pytest.mark.parametrize("name", NOW)
@fibers
def test_dontwait_gets_the_standard_sockets_answer_without_waiting(name: str) -> None:
    def of(module: Any) -> Any:
        one, other = module.socketpair()
        with one, other:
            found = [outcome(lambda: NOW[name](one))]  # nothing there; or there is room
            other.send(b"x")
            found.append(outcome(lambda: NOW[name](one)))
            fill(one)
            return [*found, outcome(lambda: NOW[name](one))]

    with greenio.timeout(30):
        answers = of(socket)
    assert answers == of(standard)
    assert (BlockingIOError, errno.EAGAIN, os.strerror(errno.EAGAIN)) in answers


@fibers
def test_dontwait_passes_those_that_wait_in_line() -> None:
    with connected("pair") as (one, other):
        waiting = spawn(one.recv, 1)
        wait_all_parked()
        with pytest.raises(BlockingIOError):
            one.recv(1, socket.MSG_DONTWAIT)
        other.send(b"x")
        assert one.recv(1, socket.MSG_DONTWAIT) == b"x"
        wait_all_parked()
        other.send(b"y")
        assert waiting.result() == b"y"


@fibers
def test_dontwait_is_void_under_a_timeout() -> None:
    with connected("pair") as (one, other):
        one.settimeout(30)
        waiting = spawn(one.recv, 1, socket.MSG_DONTWAIT)
        wait_all_parked()
        other.send(b"x")
        assert waiting.result() == b"x"


# --- Unix datagrams: room at the receiver ----------------------------------------------------------------------------


@fibers
def test_a_full_receiver_holds_up_no_other(tmp_path: Path) -> None:
    with datagrams("path", tmp_path) as (full, free), socket.socket(socket.AF_UNIX, DGRAM) as sender:
        fill_receiver(full.getsockname())
        waiting = [spawn(sender.sendto, b"x", full.getsockname()) for _ in range(3)]
        wait_all_parked()
        for _ in range(5):
            sender.sendto(b"y", free.getsockname())
            assert free.recv(10) == b"y"
        assert {fiber.state for fiber in waiting} == {"parked"}
        for _ in range(3):
            full.recv(10)
        assert [fiber.result() for fiber in waiting] == [1, 1, 1]


def test_room_at_a_receiver_is_told_at_once(tmp_path: Path) -> None:
    # By an event: under this clock, a wait in pauses would show in the time.
    def main() -> None:
        with datagrams("abstract") as (receiver, sender):

            def send() -> None:
                for number in range(500):
                    sender.sendto(b"%d" % number, receiver.getsockname())

            sending = spawn(send)
            wait_all_parked()
            begin = greenio.current_time()
            assert [receiver.recv(10) for _ in range(500)] == [b"%d" % number for number in range(500)]
            sending.result()
            assert greenio.current_time() == begin

    greenio.run(main, clock=VirtualClock())


@fibers
def test_a_receiver_that_goes_wakes_its_senders(tmp_path: Path) -> None:
    with datagrams("path", tmp_path) as (receiver, sender), socket.socket(socket.AF_UNIX, DGRAM) as tied:
        tied.connect(receiver.getsockname())
        fill_receiver(receiver.getsockname())
        waiting = [spawn(sender.sendto, b"x", receiver.getsockname()), spawn(tied.send, b"x")]
        wait_all_parked()
        receiver.close()
        assert [type(fiber.exception()) for fiber in waiting] == [ConnectionRefusedError, ConnectionRefusedError]


@fibers
def test_a_sender_whose_own_buffer_is_full_waits_for_that(tmp_path: Path) -> None:
    # Large datagrams to many receivers: none of them is full, the sender's buffer is.
    with contextlib.ExitStack() as stack:
        receivers = [receiver for index in range(6) for receiver in stack.enter_context(datagrams("abstract"))]
        sender = stack.enter_context(socket.socket(socket.AF_UNIX, DGRAM))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        large = b"x" * 15_000
        waiting = [spawn(sender.sendto, large, receiver.getsockname()) for receiver in receivers]
        wait_all_parked()
        assert {fiber.state for fiber in waiting} == {"parked", "done"}
        for receiver in receivers:
            assert receiver.recv(20_000) == large
        assert {fiber.result() for fiber in waiting} == {15_000}


def test_without_a_descriptor_to_wait_on_it_is_tried_again(tmp_path: Path) -> None:
    def main() -> None:
        with datagrams("path", tmp_path) as (receiver, sender), contextlib.ExitStack() as stack:
            fill_receiver(receiver.getsockname())
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 1, hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            taken: list[int] = []
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            stack.callback(lambda: [os.close(fd) for fd in taken])
            waiting = spawn(sender.sendto, b"x", receiver.getsockname())
            sleep(1)
            assert waiting.state == "parked"
            receiver.recv(10)
            assert waiting.result() == 1
            assert greenio.current_time() > 1

    greenio.run(main, clock=VirtualClock())


@fibers
def test_senders_to_a_connected_socket_go_on_in_order() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, DGRAM)
    with left, right:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        sending = [spawn(left.send, b"%d" % number * 1000) for number in range(10, 60)]
        wait_all_parked()
        assert sending[-1].state == "parked"
        assert [right.recv(3000) for _ in sending] == [b"%d" % number * 1000 for number in range(10, 60)]
        for fiber in sending:
            assert fiber.result() == 2000


# --- errors of the network -------------------------------------------------------------------------------------------


@fibers
def test_the_error_queue_is_waited_for_beside_the_data() -> None:
    with datagrams("ipv4") as (one, other), socket.socket(socket.AF_INET, DGRAM) as gone:
        gone.bind((LOCALHOST, 0))
        nobody = gone.getsockname()
        gone.close()
        one.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        errors = spawn(one.recvmsg, 100, 1000, socket.MSG_ERRQUEUE)
        wait_all_parked()
        other.sendto(b"data", one.getsockname())
        assert one.recvfrom(10)[0] == b"data"
        wait_all_parked()
        assert errors.state == "parked"
        one.sendto(b"returned", nobody)
        data, control, flags, address = errors.result()
        assert (data, flags & socket.MSG_ERRQUEUE, address) == (b"returned", socket.MSG_ERRQUEUE, nobody)
        assert control[0][:2] == (socket.IPPROTO_IP, IP_RECVERR)
        assert struct.unpack_from("I", control[0][2])[0] == errno.ECONNREFUSED


@fibers
def test_a_refused_datagram_is_told_once() -> None:
    with datagrams("ipv4") as (one, other):
        one.connect(other.getsockname())
        other.close()
        one.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            one.recv(10)
        one.settimeout(0)
        with pytest.raises(BlockingIOError):
            one.recvfrom(10)


@pytest.mark.parametrize("call", ["send", "sendto", "sendmsg"])
def test_no_buffers_passes_or_is_told_after_a_second(faults: Faults, call: str) -> None:
    script = f"""
        import errno, faults, greenio
        from greenio import socket
        from greenio.testing import VirtualClock

        def main():
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with one, other:
                other.bind(("127.0.0.1", 0))
                one.connect(other.getsockname())
                send = {{
                    "send": lambda: one.send(b"x"),
                    "sendto": lambda: one.sendto(b"x", other.getsockname()),
                    "sendmsg": lambda: one.sendmsg([b"x"]),
                }}["{call}"]
                with faults.active():
                    for _ in range(100):
                        assert send() == 1
                        assert other.recv(10) == b"x"
                    assert faults.count("send", "ENOBUFS") > 20
                    faults.choose("send=ENOBUFS:1")
                    one.settimeout(0.1)
                    begin = greenio.current_time()
                    for wait, kind in ((0.1, TimeoutError), (None, OSError), (0, OSError)):
                        one.settimeout(wait)
                        begin = greenio.current_time()
                        try:
                            send()
                            raise AssertionError
                        except kind as error:
                            took = greenio.current_time() - begin
                            assert wait is None or took == wait, took
                            assert wait is not None or 1 <= took < 1.1, took
                            assert wait == 0.1 or error.errno == errno.ENOBUFS
        greenio.run(main, clock=VirtualClock())
        print("ok")
        """
    assert faults.run(script, "send=ENOBUFS:0.5", seed=4).stdout == "ok\n"


# --- files -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def file_of(data: bytes) -> Iterator[Any]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file


@pytest.mark.parametrize("source", ["file", "BytesIO", "pair"])
@pytest.mark.parametrize(("offset", "count"), [(0, None), (7, None), (0, 100_000), (12345, 2_000_000), (0, 1)])
@fibers
def test_sendfile(source: str, offset: int, count: int | None) -> None:
    data = os.urandom(3_000_000)
    expected = data[offset:][:count]
    with connected("pair" if source == "pair" else "ipv4") as (client, server), contextlib.ExitStack() as stack:
        file = io.BytesIO(data) if source == "BytesIO" else stack.enter_context(file_of(data))
        sending = spawn(client.sendfile, file, offset, count)
        assert receive_exactly(server, len(expected)) == expected
        assert sending.result() == len(expected)
        assert file.tell() == offset + len(expected)
        client.close()
        assert server.recv(1) == b""


@fibers
def test_sendfile_beyond_the_end_and_of_nothing() -> None:
    with connected() as (client, _), file_of(b"abc") as file, file_of(b"") as empty:
        assert client.sendfile(file, 10) == 0
        assert client.sendfile(empty) == 0
        assert client.sendfile(io.BytesIO()) == 0


@pytest.mark.parametrize("how", ["cancelled", "timed out", "closed"])
def test_sendfile_given_up_says_how_much_went_out(how: str) -> None:
    data = os.urandom(16_000_000)

    def main() -> None:
        with connected() as (client, server), file_of(data) as file:
            fiber = spawn(client.sendfile, file)
            if how == "timed out":
                client.settimeout(5)
            wait_all_parked()
            if how == "cancelled":
                fiber.cancel()
            elif how == "closed":
                client.close()
            error = cancelled_error(fiber) if how == "cancelled" else fiber.exception()
            assert isinstance(
                error, {"cancelled": greenio.Cancelled, "timed out": TimeoutError, "closed": OSError}[how]
            )
            assert 0 < error.bytes_sent < len(data)
            assert file.tell() == error.bytes_sent
            client.close()
            assert receive_exactly(server, len(data)) == data[: error.bytes_sent]

    greenio.run(main, clock=VirtualClock())


@fibers
def test_a_file_is_sent_in_one_piece() -> None:
    data = os.urandom(10_000_000)
    with connected() as (client, server), file_of(data) as file:
        sending = spawn(client.sendfile, file)
        yield_now()
        others = [spawn(client.sendall, b"after"), spawn(client.sendmsg, [b"that"])]
        assert receive_exactly(server, len(data)) == data
        assert receive_exactly(server, 9) == b"afterthat"
        for fiber in (sending, *others):
            fiber.result()


@fibers
def test_sendfile_to_a_peer_that_has_gone() -> None:
    with connected() as (client, server), file_of(bytes(20_000_000)) as file:
        sending = spawn(client.sendfile, file)
        wait_all_parked()
        server.close()
        assert isinstance(sending.exception(), ConnectionError)


# --- raw sockets and other families ----------------------------------------------------------------------------------


def raw(family: int, kind: int, protocol: int) -> Any:
    try:
        return socket.socket(family, kind, protocol)
    except PermissionError:
        pytest.skip("raw sockets need CAP_NET_RAW")


@fibers
def test_ping() -> None:
    def checksum(data: bytes) -> int:
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        total = (total & 0xFFFF) + (total >> 16)
        return ~(total + (total >> 16)) & 0xFFFF

    with raw(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        packet = struct.pack("!BBHHH", 8, 0, 0, 4711, 1) + b"greenio!"
        packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]

        def answer() -> bytes:
            while True:
                data, (host, _) = sock.recvfrom(1000)
                header = (data[0] & 15) * 4
                if host == LOCALHOST and data[header] == 0 and data[header + 4 : header + 8] == packet[4:8]:
                    return bytes(data[header + 8 :])

        waiting = spawn(answer)
        wait_all_parked()
        sock.sendto(packet, (LOCALHOST, 0))
        assert waiting.result() == b"greenio!"


@fibers
def test_packets_of_a_device() -> None:
    with raw(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock, datagrams("ipv4") as (one, other):
        sock.bind(("lo", 0x0800))

        def find() -> Any:
            while True:
                data, address = sock.recvfrom(2000)
                if data.endswith(b"looked for"):
                    return address

        waiting = spawn(find)
        wait_all_parked()
        other.sendto(b"looked for", one.getsockname())
        assert waiting.result()[:2] == ("lo", 0x0800)


@fibers
def test_netlink() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
        sock.bind((0, 0))
        replies = [spawn(sock.recvmsg, 100_000), spawn(sock.recvfrom, 100_000)]
        wait_all_parked()
        for _ in range(2):
            assert sock.sendmsg([struct.pack("IHHII", 16, 999, 1, 1, 0)], [], 0, (0, 0)) == 16
        assert replies[0].result()[3] == replies[1].result()[1] == (0, 0)


# --- fairness, OS threads, fork --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_flood_of_datagrams_starves_nobody() -> None:
    stop = threading.Event()
    rounds = [0] * 50

    def pour(target: Any) -> None:
        with standard.socket(standard.AF_INET, DGRAM) as sock:
            while not stop.is_set():
                for _ in range(100):
                    sock.sendto(b"f" * 100, target)

    def drain(sock: Any, receive: str) -> None:
        while True:
            {"recvfrom": lambda: sock.recvfrom(10), "recvmsg": lambda: sock.recvmsg(10)}[receive]()

    def flood(sock: Any, target: Any) -> None:
        while True:
            sock.sendto(b"f", target)

    def answer(sock: Any) -> None:
        while True:
            data, address = sock.recvfrom(10)
            sock.sendto(data, address)

    def ask(sock: Any, address: Any, index: int) -> None:
        for _ in range(20):
            sock.sendto(b"?", address)
            assert sock.recv(1) == b"?"
            rounds[index] += 1

    def main() -> None:
        with contextlib.ExitStack() as stack:
            flooded, lost = stack.enter_context(datagrams("ipv4"))
            thread = threading.Thread(target=pour, args=(flooded.getsockname(),))
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
            busy = [
                spawn(drain, flooded, "recvfrom"),
                spawn(drain, flooded, "recvmsg"),
                spawn(flood, lost, lost.getsockname()),
            ]
            asking = []
            for index in range(len(rounds)):
                one, other = stack.enter_context(datagrams("ipv4"))
                busy.append(spawn(answer, one))
                asking.append(spawn(ask, other, one.getsockname(), index))
            for fiber in asking:
                fiber.result()
            for fiber in busy:
                assert not fiber.done()
                fiber.cancel()
                fiber.join()
        assert rounds == [20] * len(rounds)

    greenio.run(main)


def test_one_socket_in_several_schedulers() -> None:
    found: list[bytes] = []
    ready = [threading.Event() for _ in range(3)]

    def main(index: int) -> None:
        reader = spawn(receive)
        wait_all_parked()
        ready[index].set()
        reader.result()

    def receive() -> None:
        while (data := one.recvfrom(10)[0]) != b"end":
            found.append(data)
            one.sendto(b"ok", other.getsockname())

    def send() -> None:
        for number in range(600):
            other.sendto(b"%d" % number, one.getsockname())
            assert other.recv(10) == b"ok"
        for _ in ready:
            other.sendto(b"end", one.getsockname())

    with datagrams("ipv4") as (one, other):
        threads = [threading.Thread(target=functools.partial(greenio.run, main, index)) for index in range(len(ready))]
        for thread in threads:
            thread.start()
        for event in ready:
            assert event.wait(30)
        greenio.run(send)
        for thread in threads:
            thread.join(30)
    assert sorted(found, key=int) == [b"%d" % number for number in range(600)]


def test_closing_wakes_senders_of_every_scheduler(tmp_path: Path) -> None:
    ready = [threading.Event(), threading.Event()]
    errors: list[Any] = []

    def main(index: int) -> None:
        waiting = [spawn(sender.sendto, b"x", receiver.getsockname()) for _ in range(3)]
        wait_all_parked()
        ready[index].set()
        errors.extend(fiber.exception() for fiber in waiting)

    with datagrams("path", tmp_path) as (receiver, sender):
        fill_receiver(receiver.getsockname())
        threads = [threading.Thread(target=greenio.run, args=(main, index)) for index in range(2)]
        for thread in threads:
            thread.start()
        for event in ready:
            assert event.wait(30)
        sender.close()
        for thread in threads:
            thread.join(30)
    assert [error.errno for error in errors] == [errno.EBADF] * 6


def test_a_forked_child_keeps_no_descriptor_of_anothers_wait() -> None:
    run_child(
        """
        import os, greenio
        from greenio import socket, spawn
        from greenio.testing import wait_all_parked

        def main():
            name = b"\\0greenio-fork-%d" % os.getpid()
            receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            receiver.bind(name)
            sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sender.settimeout(0)
            try:
                while True:
                    sender.sendto(b"f", name)
            except BlockingIOError:
                sender.settimeout(None)
            before = len(os.listdir("/proc/self/fd"))
            waiting = spawn(sender.sendto, b"x", name)
            wait_all_parked()
            assert len(os.listdir("/proc/self/fd")) == before + 1
            pid = os.fork()
            if pid == 0:
                assert len(os.listdir("/proc/self/fd")) == before, os.listdir("/proc/self/fd")
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            receiver.recv(10)
            assert waiting.result() == 1
            assert len(os.listdir("/proc/self/fd")) == before

        greenio.run(main)
        """,
        flags=(),
    )
