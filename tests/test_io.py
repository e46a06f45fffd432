"""greenio._io: readiness of any descriptor, and raw files on descriptors."""

import contextlib
import errno
import fcntl
import functools
import gc
import io
import os
import pty
import select
import signal
import socket as standard
import termios
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child import run_child
from waiters import in_thread, parked, until

import greenio
from greenio import FdIO, notify_closing, socket, spawn, wait_priority, wait_readable, wait_writable
from greenio._io import wait_many
from greenio.testing import VirtualClock, wait_all_parked


def fibers(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The test is the main fiber of a run."""

    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords))

    return test


def on_virtual_clock(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords), clock=VirtualClock())

    return test


@contextlib.contextmanager
def pipe(flags: int = 0) -> Iterator[tuple[int, int]]:
    """(reader, writer); what the test has closed itself stays closed."""
    ends = os.pipe2(os.O_CLOEXEC | flags)
    try:
        yield ends
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)


def fill(fd: int) -> int:
    """Write until there is no room, without a flag set; how many bytes."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += os.pwritev(fd, [b"f" * 65536], -1, 8)  # RWF_NOWAIT
    return count


def flags_of(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def calling(fn: Callable[..., Any], *args: Any) -> Any:
    """A fiber that waits for a call in another OS thread; wait_all_parked would wait for that."""
    fiber = spawn(fn, *args)
    while fiber.state != "parked":
        greenio.yield_now()
    return fiber


# --- readiness -------------------------------------------------------------------------------------------------------


def pipe_source() -> tuple[int, Callable[[], object], list[int]]:
    reader, writer = os.pipe()
    return reader, lambda: os.write(writer, b"x"), [reader, writer]


def end_of_pipe_source() -> tuple[int, Callable[[], object], list[int]]:
    reader, writer = os.pipe()
    return reader, lambda: os.close(writer), [reader]


def socket_source() -> tuple[int, Callable[[], object], list[int]]:
    one, other = standard.socketpair()
    return one.fileno(), lambda: os.write(writer, b"x"), [one.detach(), writer := other.detach()]


def tty_source() -> tuple[int, Callable[[], object], list[int]]:
    master, slave = pty.openpty()
    return slave, lambda: os.write(master, b"line\n"), [master, slave]


def eventfd_source() -> tuple[int, Callable[[], object], list[int]]:
    fd = os.eventfd(0)
    return fd, lambda: os.eventfd_write(fd, 1), [fd]


def pidfd_source() -> tuple[int, Callable[[], object], list[int]]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reader, 1)
        os._exit(0)
    fd = os.pidfd_open(pid)

    def end() -> None:
        os.write(writer, b"x")
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)

    return fd, end, [reader, writer, fd]


def inotify_source() -> tuple[int, Callable[[], object], list[int]]:
    from greenio._io import watch_opens

    fd = watch_opens("/dev/null")
    return fd, lambda: os.close(os.open("/dev/null", os.O_RDONLY)), [fd]


SOURCES = [
    pipe_source,
    end_of_pipe_source,
    socket_source,
    tty_source,
    eventfd_source,
    pidfd_source,
    inotify_source,
]


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with other OS threads alive
@fibers
def test_wait_readable_parks_until_there_is_something(make: Callable[[], Any]) -> None:
    fd, act, opened = make()
    before = flags_of(fd)
    try:
        waiter = parked(wait_readable, fd)
        assert waiter.waits_for[:2] == ("descriptor readable", fd)
        act()
        waiter.result()
        wait_readable(fd, timeout=0)  # level-triggered: nobody has read
        wait_readable(fd)
        assert flags_of(fd) == before
    finally:
        for each in opened:
            os.close(each)
        if make is pidfd_source:
            os.wait()


@fibers
def test_a_timerfd_is_waited_for() -> None:
    create = getattr(os, "timerfd_create", None)
    if create is None:
        pytest.skip("os.timerfd_create is new in Python 3.13")
    fd = create(1, flags=os.TFD_CLOEXEC)
    try:
        waiter = parked(wait_readable, fd)
        os.timerfd_settime(fd, initial=0.001)
        waiter.result()
    finally:
        os.close(fd)


@fibers
def test_what_is_never_waited_for_is_ready(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with open(tmp_path / "file", "r+") as file, open("/dev/null", "r+b", buffering=0) as null:
        for source in (file, file.fileno(), null, null.fileno()):
            wait_readable(source, timeout=0)
            wait_writable(source, timeout=0)


@fibers
def test_wait_writable_parks_until_there_is_room() -> None:
    with pipe() as (reader, writer):
        wait_writable(writer)
        fill(writer)
        waiter = parked(wait_writable, writer)
        assert waiter.waits_for[:2] == ("descriptor writable", writer)
        os.read(reader, 1 << 20)
        waiter.result()


@fibers
def test_both_directions_of_one_descriptor_are_waited_for() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                one.send(b"f" * 65536)
        reader, writer = parked(wait_readable, one), parked(wait_writable, one)
        other.send(b"x")
        reader.result()
        assert writer.state == "parked"
        drain = spawn(lambda: [other.recv(1 << 20) for _ in range(1000)])
        writer.result()
        drain.cancel()


@fibers
def test_several_waiters_all_see_what_is_ready() -> None:
    with pipe() as (reader, writer):
        waiters = [parked(wait_readable, reader) for _ in range(5)]
        os.write(writer, b"x")
        for waiter in waiters:
            waiter.result()


@fibers
def test_waiters_and_readers_of_one_descriptor_do_not_hold_each_other_up() -> None:
    with pipe() as (reader, writer), FdIO(reader, closefd=False) as file:
        first, second, third = parked(file.read, 1), parked(wait_readable, reader), parked(file.read, 1)
        os.write(writer, b"abc")
        assert (first.result(), third.result()) == (b"a", b"b")
        second.result()
        assert file.read(1) == b"c"


@on_virtual_clock
def test_a_wait_times_out() -> None:
    with pipe() as (reader, writer):
        for wait, fd in ((wait_readable, reader), (wait_priority, reader), (wait_writable, writer)):
            start = greenio.current_time()
            if fd == writer:
                fill(writer)
            with pytest.raises(TimeoutError, match="within 5 seconds"):
                wait(fd, 5)
            assert greenio.current_time() == start + 5
            with pytest.raises(TimeoutError):
                wait(fd, timeout=0)
            with pytest.raises(ValueError):
                wait(fd, -1)
            with greenio.move_on_after(2) as scope:
                wait(fd)
            assert scope.cancelled_caught
            assert greenio.current_time() == start + 7


@fibers
def test_a_cancelled_wait_leaves_nothing() -> None:
    with pipe() as (reader, writer):
        for wait in (wait_readable, wait_priority):
            waiter = parked(wait, reader)
            waiter.cancel()
            waiter.join()
            assert waiter.cancelled()
        following = parked(wait_readable, reader)
        os.write(writer, b"x")
        following.result()


@fibers
def test_cancelled_comes_before_readiness() -> None:
    with pipe() as (reader, writer):
        os.write(writer, b"x")
        with greenio.CancelScope() as scope:
            scope.cancel()
            wait_readable(reader)
        assert scope.cancelled_caught


@fibers
def test_notify_closing_wakes_whoever_waits() -> None:
    with pipe() as (_, writer):
        fill(writer)
        one, other = parked(wait_readable, writer), parked(wait_writable, writer)
        urgent = parked(wait_priority, writer)
        notify_closing(writer)
        os.close(writer)
        for waiter in (one, other, urgent):
            with pytest.raises(OSError) as raised:
                waiter.result()
            assert raised.value.errno == errno.EBADF
        with pytest.raises(OSError) as raised:
            wait_readable(writer)
        assert raised.value.errno == errno.EBADF


@fibers
def test_a_socket_that_is_closed_wakes_whoever_waits() -> None:
    one, other = socket.socketpair()
    with other:
        waiters = [parked(wait_readable, one), parked(wait_priority, one)]
        one.close()
        for waiter in waiters:
            with pytest.raises(OSError) as raised:
                waiter.result()
            assert raised.value.errno == errno.EBADF


@fibers
def test_a_number_used_again_is_another_descriptor() -> None:
    with pipe() as (reader, writer), pipe() as (other_reader, other_writer):
        old = parked(wait_readable, reader)
        notify_closing(reader)
        os.dup2(other_reader, reader)
        os.write(other_writer, b"x")
        new = spawn(wait_readable, reader)
        with pytest.raises(OSError):
            old.result()
        new.result()
        os.close(writer)


@fibers
def test_a_number_used_again_behind_our_back_wakes_the_old_waiters() -> None:
    with pipe() as (reader, writer), pipe() as (other_reader, other_writer):
        old = parked(wait_readable, reader)
        os.dup2(other_reader, reader)  # the kernel forgets the old file without a word
        new = parked(wait_readable, reader)
        with pytest.raises(OSError, match="closed"):
            old.result()
        assert new.state == "parked"
        os.write(other_writer, b"x")
        new.result()
        os.close(writer)


@fibers
def test_wait_priority_hears_urgent_data_only() -> None:
    with standard.create_server(("127.0.0.1", 0)) as listener:
        sender = standard.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    with sender, receiver:
        waiters = [parked(wait_priority, receiver) for _ in range(2)]
        sender.send(b"ordinary")
        wait_readable(receiver)
        wait_all_parked()
        assert [waiter.state for waiter in waiters] == ["parked", "parked"]
        sender.send(b"!", standard.MSG_OOB)
        for waiter in waiters:
            waiter.result()
        wait_priority(receiver, timeout=0)


@fibers
def test_wait_readable_waits_past_urgent_data() -> None:
    with standard.create_server(("127.0.0.1", 0)) as listener:
        sender = standard.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    with sender, receiver:
        before = [parked(wait_readable, receiver) for _ in range(2)]
        sender.send(b"!", standard.MSG_OOB)
        wait_priority(receiver)
        wait_all_parked()
        after = [parked(wait_readable, receiver) for _ in range(2)]
        assert {waiter.state for waiter in before} <= {
            "parked",
            "done",
        }  # the kernel counts the mark as readable for a while
        sender.send(b"x")
        for waiter in before + after:
            waiter.result()


@fibers
def test_two_selects_do_not_wake_each_other_while_something_urgent_is_all_there_is() -> None:
    with standard.create_server(("127.0.0.1", 0)) as listener:
        sender = standard.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    with sender, receiver:
        selects = [parked(greenio.select, greenio.readable(receiver)) for _ in range(2)]
        sender.send(b"!", standard.MSG_OOB)
        wait_priority(receiver)
        with greenio.timeout(10):
            wait_all_parked()
        sender.send(b"x")
        for each in selects:
            each.result()


class Told(TimeoutError):
    """A signal handler's, as programs raise it to end whatever takes too long."""


@pytest.mark.parametrize("timeout", [None, 1000])
@pytest.mark.parametrize("wait", ["wait_readable", "wait_priority", "os.read", "select", "poll", "epoll"])
@fibers
def test_a_handlers_timeout_error_is_not_taken_for_the_waits_own(wait: str, timeout: int | None) -> None:
    def tell(*_: object) -> None:
        raise Told

    before = signal.signal(signal.SIGALRM, tell)
    try:
        with pipe() as (reader, _), greenio.select.epoll() as epoll, pytest.raises(Told):
            poll = greenio.select.poll()
            for each in (poll, epoll):
                each.register(reader, select.POLLIN)
            waits: dict[str, Callable[[], object]] = {
                "wait_readable": lambda: wait_readable(reader, timeout),
                "wait_priority": lambda: wait_priority(reader, timeout),
                "os.read": lambda: greenio.os.read(reader, 1),
                "select": lambda: greenio.select.select([reader], [], [], timeout),
                "poll": lambda: poll.poll(timeout and timeout * 1000),
                "epoll": lambda: epoll.poll(timeout),
            }
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            waits[wait]()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@fibers
def test_misuse_is_told() -> None:
    for wait in (wait_readable, wait_writable, wait_priority):
        with pytest.raises(TypeError):
            wait("no descriptor")
        with pytest.raises(TypeError):
            wait(None)
        with pytest.raises(ValueError, match=">= 0"):
            wait(-1)
        with pytest.raises(ValueError):
            wait(1 << 40)
        with pytest.raises(OSError) as raised:
            wait(1 << 20)
        assert raised.value.errno == errno.EBADF
    with pipe() as (reader, _), open(reader, "rb", closefd=False) as file:
        file.close()
        with pytest.raises(ValueError):
            wait_readable(file)
    sock = standard.socket()
    sock.close()
    with pytest.raises(OSError):
        wait_readable(sock)
    with pytest.raises(ValueError):
        notify_closing(-1)


def test_on_an_os_thread_without_fibers_it_blocks_the_thread() -> None:
    with pipe() as (reader, writer):
        thread = in_thread(wait_readable, reader)
        os.write(writer, b"x")
        thread.join()
        assert thread.outcome == [None]
        wait_readable(reader, timeout=0)
        with pytest.raises(TimeoutError):
            wait_priority(reader, timeout=0.001)
        fill(writer)
        with pytest.raises(TimeoutError):
            wait_writable(writer, timeout=0)
    with pytest.raises(OSError) as raised:
        wait_readable(reader)
    assert raised.value.errno == errno.EBADF


def test_on_an_os_thread_without_fibers_signal_handlers_run_while_it_waits() -> None:
    class Told(Exception):
        pass

    def tell(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Told

    before = signal.signal(signal.SIGALRM, tell)
    try:
        with pipe() as (reader, _), pytest.raises(Told):
            # More than one: the first may come just before poll, and be told only when something ends that, as with the standard ones.
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            wait_readable(reader)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_two_runs_wait_for_one_descriptor() -> None:
    with pipe() as (reader, writer):
        both = threading.Barrier(3)

        def main() -> None:
            waiter = spawn(wait_readable, reader)
            wait_all_parked()
            both.wait()
            waiter.result()

        threads = [in_thread(greenio.run, main) for _ in range(2)]
        both.wait()
        os.write(writer, b"x")
        for thread in threads:
            thread.join()
            assert thread.outcome == [None]


def test_closing_in_one_run_wakes_another() -> None:
    with pipe() as (reader, _):
        waiting = threading.Event()

        def main() -> list[int]:
            waiters = [spawn(wait_readable, reader), spawn(wait_priority, reader)]
            wait_all_parked()
            waiting.set()
            numbers = []
            for waiter in waiters:
                with pytest.raises(OSError) as raised:
                    waiter.result()
                numbers.append(raised.value.errno)
            return numbers

        thread = in_thread(greenio.run, main)
        waiting.wait()
        notify_closing(reader)
        thread.join()
        assert thread.outcome == [[errno.EBADF, errno.EBADF]]


# --- many ------------------------------------------------------------------------------------------------------------


@fibers
def test_wait_many_tells_what_poll_does() -> None:
    import select

    with pipe() as (reader, writer), pipe() as (other_reader, other_writer):
        os.write(other_writer, b"x")
        wanted = [(reader, select.POLLIN), (other_reader, select.POLLIN), (writer, select.POLLOUT), (1 << 20, 0)]
        expected = [(other_reader, select.POLLIN), (writer, select.POLLOUT), (1 << 20, select.POLLNVAL)]
        assert wait_many(wanted, None, "many", None) == expected
        assert wait_many([(reader, select.POLLIN)], 0, "many", None) == []
        waiter = parked(wait_many, [(reader, select.POLLIN)] * 2, None, "many", "what")
        assert waiter.waits_for[:2] == ("many", "what")
        os.write(writer, b"x")
        assert waiter.result() == [(reader, select.POLLIN)] * 2


@fibers
def test_one_of_many_that_is_closed_and_used_again_is_told_as_closed() -> None:
    import select

    with pipe() as (reader, writer), pipe() as (other_reader, _), pipe() as (ready, ready_writer):
        os.write(ready_writer, b"x")
        waiter = parked(wait_many, [(reader, select.POLLIN), (other_reader, select.POLLIN)], None, "many", None)
        notify_closing(reader)
        os.dup2(ready, reader)
        assert waiter.result() == [(reader, select.POLLNVAL)]
        os.close(writer)


# --- raw files -------------------------------------------------------------------------------------------------------

KINDS = ["pipe", "nonblocking pipe", "socket", "tty"]


@contextlib.contextmanager
def raw_files(kind: str) -> Iterator[tuple[FdIO, FdIO]]:
    """(reader, writer), connected."""
    nonblocking = kind == "nonblocking pipe"
    if kind == "socket":
        ends = tuple(each.detach() for each in standard.socketpair())
    elif kind == "tty":
        master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[0] = attributes[1] = attributes[3] = 0  # raw, no echo
        attributes[6][termios.VMIN] = 1
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        ends = (slave, master)
    else:
        ends = os.pipe2(os.O_CLOEXEC | (os.O_NONBLOCK if nonblocking else 0))
    before = [flags_of(each) for each in ends]
    with FdIO(ends[0], "r", nonblocking=nonblocking) as reader, FdIO(ends[1], "w", nonblocking=nonblocking) as writer:
        yield reader, writer
        for each, flags in zip((reader, writer), before, strict=True):
            if not each.closed:
                assert flags_of(each.fileno()) == flags


def write_all(file: FdIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_reads_park_until_there_are_data(kind: str) -> None:
    with raw_files(kind) as (reader, writer):
        waiter = parked(reader.read, 100)
        assert waiter.waits_for[:2] == ("file read", reader)
        assert writer.write(b"hello") == 5
        assert waiter.result() == b"hello"
        buffer = bytearray(b"........")
        waiter = parked(reader.readinto, buffer)
        writer.write(b"abc")
        assert waiter.result() == 3
        assert buffer == b"abc....."


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_much_goes_through_both_sides_parking(kind: str) -> None:
    data = os.urandom(300_000 if kind != "tty" else 20_000)
    with raw_files(kind) as (reader, writer):
        sender = spawn(write_all, writer, data)
        received = b""
        while len(received) < len(data):
            received += reader.read(7000)
        sender.result()
        assert received == data


@pytest.mark.parametrize("kind", ["pipe", "nonblocking pipe", "socket"])
@fibers
def test_writes_park_until_there_is_room(kind: str) -> None:
    with raw_files(kind) as (reader, writer):
        sent = 0
        sender = spawn(write_all, writer, b"x" * 2_000_000)
        wait_all_parked()
        assert sender.waits_for[:2] == ("file write", writer)
        while sent < 2_000_000:
            sent += len(reader.read(1 << 20))
        sender.result()


@pytest.mark.parametrize("kind", ["pipe", "nonblocking pipe", "socket"])
@fibers
def test_the_end_is_empty_and_a_broken_pipe_is_told(kind: str) -> None:
    with raw_files(kind) as (reader, writer):
        writer.write(b"last")
        waiter = spawn(reader.readall)
        wait_all_parked()
        writer.close()
        assert waiter.result() == b"last"
        assert (reader.read(1), reader.readinto(bytearray(1)), reader.readall()) == (b"", 0, b"")
    with raw_files(kind) as (reader, writer):
        reader.close()
        with pytest.raises(BrokenPipeError):
            writer.write(b"x")


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_a_cancelled_read_has_taken_nothing(kind: str) -> None:
    with raw_files(kind) as (reader, writer):
        buffer = bytearray(b"....")
        first, second = parked(reader.readinto, buffer), parked(reader.read, 4)
        first.cancel()
        first.join()
        writer.write(b"data")
        assert second.result() == b"data"
        assert buffer == b"...."


@fibers
def test_a_cancelled_read_that_data_came_for_meanwhile_leaves_them() -> None:
    with raw_files("pipe") as (reader, writer):
        waiter = parked(reader.read, 4)
        writer.write(b"data")
        waiter.cancel()
        waiter.join()
        assert waiter.cancelled() or waiter.result() == b"data"
        if waiter.cancelled():
            assert reader.read(4) == b"data"


@fibers
def test_a_cancelled_write_has_written_nothing() -> None:
    with raw_files("pipe") as (reader, writer):
        count = fill(writer.fileno())
        waiter = parked(writer.write, b"more")
        waiter.cancel()
        waiter.join()
        assert waiter.cancelled()
        assert reader.read(1 << 20) == b"f" * count
        writer.close()
        assert reader.read(1) == b""


@fibers
def test_a_cancelled_readall_tells_what_it_has_read() -> None:
    with raw_files("pipe") as (reader, writer):
        waiter = parked(reader.readall)
        writer.write(b"some")
        wait_all_parked()
        caught = []

        def read() -> None:
            try:
                reader.readall()
            except greenio.Cancelled as error:
                caught.append(error.received)  # type: ignore[attr-defined]
                raise

        waiter.cancel()
        waiter.join()
        waiter = spawn(read)
        writer.write(b"more")
        wait_all_parked()
        waiter.cancel()
        waiter.join()
        assert caught == [b"more"]


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_close_wakes_whoever_waits(kind: str) -> None:
    with raw_files(kind) as (reader, _):
        waiters = [parked(reader.read, 1) for _ in range(3)]
        reader.close()
        for waiter in waiters:
            with pytest.raises(OSError) as raised:
                waiter.result()
            assert raised.value.errno == errno.EBADF
        with pytest.raises(ValueError, match="closed"):
            reader.read(1)
        reader.close()


@fibers
def test_readers_are_served_first_come_first_served() -> None:
    with raw_files("pipe") as (reader, writer):
        waiters = [parked(reader.read, 1) for _ in range(10)]
        writer.write(b"0123456789")
        assert [waiter.result() for waiter in waiters] == [b"%d" % index for index in range(10)]


@fibers
def test_another_process_that_reads_the_same_pipe_blocks_nobody() -> None:
    # Two readers, one byte each time: whoever is too late waits, parked, and the others run.
    with pipe() as (reader, writer):
        copy = os.dup(reader)
        with FdIO(reader, closefd=False) as one, FdIO(copy) as other:
            got: list[bytes] = []
            waiters = [spawn(lambda file=file: got.append(file.read(1))) for file in (one, other)]
            for _ in range(2):
                wait_all_parked()
                os.write(writer, b"x")
            for waiter in waiters:
                waiter.result()
            assert got == [b"x", b"x"]


@fibers
def test_a_flood_starves_nobody() -> None:
    with raw_files("pipe") as (reader, writer):
        turns = []

        def count() -> None:
            for _ in range(20):
                greenio.yield_now()
                turns.append(None)

        counter = spawn(count)
        for _ in range(2000):
            writer.write(b"x")
            reader.read(1)
        assert len(turns) == 20
        counter.result()


def test_from_an_os_thread_without_fibers_it_is_an_ordinary_file() -> None:
    for kind in ("pipe", "nonblocking pipe", "socket"):
        with raw_files(kind) as (reader, writer):
            thread = in_thread(reader.read, 5)
            writer.write(b"hello")
            thread.join()
            assert thread.outcome == [b"hello"]
            data = os.urandom(1_000_000)
            thread = in_thread(write_all, writer, data)
            received = b""
            while len(received) < len(data):
                received += reader.read(1 << 20)
            thread.join()
            assert received == data


def test_two_runs_share_a_file() -> None:
    with raw_files("pipe") as (reader, writer):
        threads = [in_thread(greenio.run, lambda: [reader.read(1) for _ in range(500)]) for _ in range(2)]
        greenio.run(lambda: [writer.write(b"x") for _ in range(1000)])
        for thread in threads:
            thread.join()
            assert thread.outcome == [[b"x"] * 500]


@fibers
def test_files_on_disk_are_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(300_000)
    with FdIO(os.open(path, os.O_RDWR | os.O_CREAT), "r+", name=path) as file:
        assert file.on_disk
        assert file.seekable()
        write_all(file, data)
        assert file.tell() == len(data)
        assert file.seek(0) == 0
        assert file.readall() == data
        assert file.read(1) == b""
        assert file.seek(-3, os.SEEK_END) == len(data) - 3
        assert file.read(10) == data[-3:]
        assert file.truncate(10) == 10
        assert os.fstat(file.fileno()).st_size == 10
        file.seek(5)
        assert file.truncate() == 5
        assert file.name == path
    assert path.read_bytes() == data[:5]


@fibers
def test_a_read_from_disk_that_is_cancelled_leaves_at_once_and_has_not_happened() -> None:
    # A file of /proc is a regular one of which the kernel never has anything at hand.
    with FdIO(os.open("/proc/self/status", os.O_RDONLY)) as file:
        go, begun = threading.Event(), threading.Event()
        real = os.pread

        def slow(*args: Any) -> bytes:
            begun.set()
            go.wait()
            return real(*args)

        fd = file.fileno()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pread", slow)
            waiter = calling(file.read, 4)
            begun.wait()
            waiter.cancel()
            waiter.join()
            assert waiter.cancelled()
            assert file.tell() == 0
            other = calling(file.read, 4)
            go.set()
            assert other.result() == b"Name"
            assert file.tell() == 4
            go.clear()
            last = calling(file.read, 4)
            file.close()
            os.fstat(fd)  # the other OS thread has it still
            go.set()
            with pytest.raises(OSError) as raised:
                last.result()
            assert raised.value.errno == errno.EBADF
    until(lambda: not os.path.exists(f"/proc/self/fd/{fd}"))  # the first call may be on its way still


@fibers
def test_a_descriptor_closed_while_another_thread_uses_it_is_closed_afterwards(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with FdIO(fd, "r+") as file:
        go = threading.Event()
        real = os.write

        def slow(number: int, data: bytes) -> int:
            go.wait()
            return real(number, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", slow)
            waiter = calling(file.write, b"data")
            file.close()
            os.fstat(fd)  # still open: the other OS thread must not write to what gets the number next
            go.set()
            assert waiter.result() == 4
    with pytest.raises(OSError):
        os.fstat(fd)
    assert (tmp_path / "file").read_bytes() == b"data"


@fibers
def test_a_write_to_disk_that_has_begun_is_seen_to_its_end(tmp_path: Path) -> None:
    with FdIO(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT), "r+") as file:
        go = threading.Event()
        real = os.write

        def slow(number: int, data: bytes) -> int:
            go.wait()
            return real(number, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", slow)
            waiter = calling(file.write, b"data")
            waiter.cancel()
            for _ in range(5):
                greenio.yield_now()
            assert waiter.state == "parked"
            go.set()
            assert waiter.result() == 4
        with greenio.CancelScope() as scope:
            scope.cancel()
            file.write(b"more")
        assert scope.cancelled_caught
    assert (tmp_path / "file").read_bytes() == b"data"


@fibers
def test_misuse_of_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised:
        FdIO(1 << 20)
    assert raised.value.errno == errno.EBADF
    for fd in (1.0, "1", None):
        with pytest.raises(TypeError):
            FdIO(fd)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        FdIO(-1)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            FdIO(directory)
        os.fstat(directory)
    finally:
        os.close(directory)
    with pipe() as (reader, writer):
        for mode in ("", "rw", "q", "+", "bb"):
            with pytest.raises(ValueError):
                FdIO(reader, mode)
        with FdIO(reader, "rb", closefd=False) as file:
            assert isinstance(file, io.RawIOBase)
            assert (file.mode, file.closefd, file.nonblocking, file.name) == ("rb", False, False, reader)
            with pytest.raises(io.UnsupportedOperation):
                file.write(b"x")
            with pytest.raises(io.UnsupportedOperation):
                file.truncate()
            with pytest.raises(OSError):
                file.seek(0)
            assert not file.seekable()
            assert not file.isatty()
            with pytest.raises(TypeError):
                file.readinto(b"not writable")
            assert f"fd={reader}" in repr(file)
        assert "closed" in repr(file)
        os.fstat(reader)
        with FdIO(writer, "w", closefd=False) as file:
            for read in (lambda: file.read(1), file.readall, lambda: file.readinto(bytearray(1))):
                with pytest.raises(io.UnsupportedOperation):
                    read()
            with pytest.raises(TypeError):
                file.write("text")  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                __import__("pickle").dumps(file)


@fibers
def test_an_unclosed_file_warns_and_is_closed() -> None:
    with pipe() as (reader, _):
        file: FdIO | None = FdIO(reader)
        with pytest.warns(ResourceWarning, match="unclosed file"):
            del file
        with pytest.raises(OSError):
            os.fstat(reader)
    with pipe() as (reader, _), warnings.catch_warnings():
        warnings.simplefilter("error")
        FdIO(reader, closefd=False)
        gc.collect()
        os.fstat(reader)


@fibers
def test_waits_leave_no_descriptor_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with pipe() as (reader, writer), FdIO(reader, closefd=False) as file:
            for fn in (lambda: wait_priority(reader), lambda: file.read(1), lambda: wait_readable(reader)):
                waiter = parked(fn)
                waiter.cancel()
                waiter.join()
            os.write(writer, b"x")
    assert len(os.listdir("/proc/self/fd")) == before


@fibers
def test_a_tty_whose_reader_is_slow_blocks_nobody() -> None:
    with raw_files("tty") as (reader, writer):
        sender = spawn(write_all, writer, b"x" * 100_000)
        wait_all_parked()
        assert sender.state == "parked"
        received = 0
        while received < 100_000:
            received += len(reader.read(4096))
        sender.result()


def test_a_forked_child_reads_on_and_the_waits_of_others_are_gone() -> None:
    run_child(
        """
        import os, greenio
        from greenio.testing import wait_all_parked

        def main():
            reader, writer = os.pipe()
            other_reader, other_writer = os.pipe()
            file = greenio.FdIO(reader)
            waiters = [greenio.spawn(file.read, 1), greenio.spawn(greenio.wait_priority, other_reader),
                       greenio.spawn(greenio.wait_readable, other_reader)]
            wait_all_parked()
            pid = os.fork()
            if pid == 0:
                greenio.notify_closing(other_reader)
                mine = greenio.spawn(file.read, 1)
                wait_all_parked()
                os.write(writer, b"x")
                assert mine.result() == b"x"
                poll = greenio.select.poll()
                poll.register(other_reader)
                again = greenio.spawn(poll.poll)
                wait_all_parked()
                os.write(other_writer, b"x")
                again.result()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            os.write(writer, b"y")
            assert waiters[0].result() == b"y"
            for waiter in waiters[1:]:
                waiter.cancel()
            for fd in (writer, other_reader, other_writer):
                greenio.notify_closing(fd)
                os.close(fd)
            file.close()

        greenio.run(main)
        """,
        flags=("-W", "error", "-W", "ignore::DeprecationWarning"),
    )


def test_o_nonblock_is_not_set_on_standard_streams() -> None:
    run_child(
        """
        import fcntl, os, greenio

        def main():
            for fd in (0, 1, 2):
                before = fcntl.fcntl(fd, fcntl.F_GETFL)
                with greenio.FdIO(fd, "r" if fd == 0 else "w", closefd=False) as file:
                    file.read(1) if fd == 0 else file.write(b"x")
                assert fcntl.fcntl(fd, fcntl.F_GETFL) == before

        greenio.run(main)
        """
    )
