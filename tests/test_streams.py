"""greenio.Stream: reads and writes with buffers, their limits and their ends."""

import contextlib
import errno
import functools
import itertools
import os
import random
import socket as standard
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from child import run_child
from waiters import parked

import greenio
from greenio import Cancelled, IncompleteReadError, LimitExceeded, Stream, socket, spawn
from greenio.testing import VirtualClock, wait_all_parked

KINDS = ["tcp", "unix", "wrapped"]


def fibers(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The test is the main fiber of a run with a virtual clock."""

    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords), clock=VirtualClock())

    return test


class Wrapped:
    """A socket that is no SocketCore, as TLS over something else: the stream calls its methods."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


@contextlib.contextmanager
def sockets(kind: str = "tcp") -> Iterator[tuple[Any, Any]]:
    if kind == "unix":
        left, right = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            left = socket.socket()
            left.connect(listener.getsockname())
            right, _ = listener.accept()
    with left, right:
        yield left, right


@contextlib.contextmanager
def streams(kind: str = "tcp", **options: Any) -> Iterator[tuple[Stream, Any]]:
    """(a stream, the socket at its other end)."""
    with sockets(kind) as (left, right), Stream(Wrapped(left) if kind == "wrapped" else left, **options) as stream:
        yield stream, right


def fill(stream: Stream, sock: Any) -> int:
    """Write until a write parks, and cancel it; returns how many bytes left."""
    sent = 0
    while True:
        with greenio.move_on_after(1) as scope:
            try:
                stream.write(b"f" * 65536)
                sent += 65536
            except Cancelled as error:
                sent += error.bytes_sent  # type: ignore[attr-defined]
                raise
        if scope.cancelled_caught:
            return sent


def receive_exactly(sock: Any, size: int) -> bytes:
    parts = []
    while size:
        part = sock.recv(min(size, 1 << 20))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_each_read_takes_its_part_and_leaves_the_rest(kind: str) -> None:
    with streams(kind) as (stream, peer):
        peer.sendall(b"line one\nheader;exact" + b"into!" + b"some" + b"the rest\nof it")
        assert stream.readline() == b"line one\n"
        assert stream.read_until(b";") == b"header;"
        assert stream.read_exactly(5) == b"exact"
        buffer = bytearray(5)
        assert stream.read_into(buffer) == 5
        assert buffer == b"into!"
        assert stream.read(4) == b"some"
        assert not stream.at_eof()
        peer.shutdown(socket.SHUT_WR)
        assert stream.read() == b"the rest\nof it"
        assert stream.at_eof()
        assert stream.read() == stream.read(5) == stream.readline() == b""
        assert stream.read_into(buffer) == 0


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_reads_give_the_same_bytes_however_they_arrive(kind: str) -> None:
    generator = random.Random(20)
    message = b"".join(bytes([generator.choice(b"abc\n")]) for _ in range(3000)) + b"\n"
    with streams(kind, read_buffer=64) as (stream, peer):

        def send() -> None:
            rest = message
            while rest:
                size = generator.randrange(1, 90)
                peer.sendall(rest[:size])
                rest = rest[size:]
                greenio.yield_now()
            peer.shutdown(socket.SHUT_WR)

        spawn(send)
        taken = b""
        while not stream.at_eof():
            choice = generator.randrange(5)
            try:
                if choice == 0:
                    part = stream.readline()
                    assert part.count(b"\n") == (1 if part else 0)
                elif choice == 1:
                    part = stream.read(generator.randrange(1, 100))
                elif choice == 2:
                    part = stream.read_until(b"\na")
                elif choice == 3:
                    part = stream.read_exactly(generator.randrange(150))
                else:
                    buffer = bytearray(generator.randrange(1, 150))
                    part = bytes(buffer[: stream.read_into(buffer)])
            except IncompleteReadError as error:
                part = error.partial
            taken += part
        assert taken == message


@fibers
def test_iteration_gives_lines_until_the_end() -> None:
    with streams() as (stream, peer):
        peer.sendall(b"one\ntwo\n\nlast without end")
        peer.shutdown(socket.SHUT_WR)
        assert list(stream) == [b"one\n", b"two\n", b"\n", b"last without end"]


@fibers
def test_read_returns_what_is_there_without_waiting_for_more() -> None:
    with streams() as (stream, peer):
        reader = parked(stream.read, 1000)
        peer.sendall(b"few")
        assert reader.result() == b"few"
        assert stream.read(0) == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [65_536, 65_537, 1 << 20, (1 << 20) + 1, 3_000_000])
@fibers
def test_read_exactly_of_large_blocks(size: int, kind: str) -> None:
    message = random.Random(size).randbytes(size)
    with streams(kind) as (stream, peer):
        sender = spawn(peer.sendall, b"head" + message + b"tail")
        assert stream.read_exactly(4) == b"head"
        assert stream.read_exactly(size) == message
        assert stream.read_exactly(4) == b"tail"
        sender.result()


@fibers
def test_room_for_a_large_block_is_made_as_it_comes() -> None:
    with streams() as (stream, peer):
        peer.sendall(b"few bytes")
        reader = parked(stream.read_exactly, 1 << 60)  # what a peer announces is no reason to allocate it
        reader.cancel()
        reader.join()
        assert stream.read(100) == b"few bytes"


@fibers
def test_end_before_all_has_come_gives_the_part_that_has() -> None:
    with streams() as (stream, peer):
        peer.sendall(b"abc")
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(IncompleteReadError, match=r"after 3 bytes, before 10 bytes") as caught:
            stream.read_exactly(10)
        assert (caught.value.partial, caught.value.expected) == (b"abc", 10)
        assert isinstance(caught.value, EOFError)
        with pytest.raises(IncompleteReadError) as caught:
            stream.read_until(b"x")
        assert (caught.value.partial, caught.value.expected) == (b"", None)


@fibers
def test_separator_across_two_arrivals() -> None:
    with streams() as (stream, peer):
        peer.sendall(b"one\r")
        reader = parked(stream.read_until, b"\r\n\r\n")
        peer.sendall(b"\n\r")
        wait_all_parked()
        peer.sendall(b"\nnext")
        assert reader.result() == b"one\r\n\r\n"
        assert stream.read(10) == b"next"


@fibers
def test_line_above_the_limit_is_an_error_and_stays() -> None:
    with streams(limit=10) as (stream, peer):
        peer.sendall(b"123456789\n")
        assert stream.readline() == b"123456789\n"
        peer.sendall(b"1234567890\nnext\n")
        with pytest.raises(LimitExceeded, match="11 bytes, above the limit of 10") as caught:
            stream.readline()
        assert caught.value.limit == 10
        assert stream.buffered == 16
        assert stream.readline(limit=11) == b"1234567890\n"
        assert stream.readline() == b"next\n"
        peer.sendall(b"x" * 10)
        with pytest.raises(LimitExceeded, match="within the limit of 10 bytes"):
            stream.readline()
        assert stream.read(100) == b"x" * 10


@fibers
def test_line_without_end_keeps_memory_bounded() -> None:
    with streams(limit=1000, read_buffer=4096) as (stream, peer):
        sender = spawn(peer.sendall, b"x" * 20_000_000)
        for _ in range(5):
            with pytest.raises(LimitExceeded):
                stream.readline()
            assert stream.buffered <= 1000 + 4096
        wait_all_parked()
        assert sender.state == "parked"
        sender.cancel()


@fibers
def test_read_until_the_end_obeys_its_limit() -> None:
    with streams(read_buffer=4096) as (stream, peer):
        peer.sendall(b"x" * 5000)
        for _ in range(2):
            with pytest.raises(LimitExceeded):
                stream.read(limit=4000)
        assert 4000 < stream.buffered <= 5000
        peer.shutdown(socket.SHUT_WR)
        assert stream.read(limit=5000) == b"x" * 5000


READS: dict[str, Callable[[Stream], Any]] = {
    "read": lambda stream: stream.read(100),
    "read all": lambda stream: stream.read(),
    "read_exactly": lambda stream: stream.read_exactly(100),
    "read_exactly, large": lambda stream: stream.read_exactly(1 << 20),
    "read_until": lambda stream: stream.read_until(b"end"),
    "readline": lambda stream: stream.readline(),
    "read_into": lambda stream: stream.read_into(bytearray(100)),
    "read_into, large": lambda stream: stream.read_into(bytearray(1 << 20)),
    "next": next,
}


@pytest.mark.parametrize("kind", ["tcp", "wrapped"])
@pytest.mark.parametrize("name", READS)
@fibers
def test_cancelled_or_late_read_takes_nothing(name: str, kind: str) -> None:
    with streams(kind) as (stream, peer):
        reads_at_once = name in ("read", "read_into", "read_into, large")
        if not reads_at_once:
            peer.sendall(b"part")
        reader = parked(READS[name], stream)
        reader.cancel()
        reader.join()
        assert reader.cancelled()
        with pytest.raises(TimeoutError), greenio.timeout(5):
            READS[name](stream)
        stream.timeout = 5
        with pytest.raises(TimeoutError):
            READS[name](stream)
        stream.timeout = None
        peer.sendall(b" and rest")
        peer.shutdown(socket.SHUT_WR)
        assert stream.read() == (b" and rest" if reads_at_once else b"part and rest")


@pytest.mark.parametrize("name", READS)
@fibers
def test_cancelled_before_it_began(name: str) -> None:
    with streams() as (stream, peer):
        peer.sendall(b"x" * 50 + b"\nend")
        with greenio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(Cancelled):
                READS[name](stream)
        assert stream.read_exactly(54) == b"x" * 50 + b"\nend"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("name", READS)
@fibers
def test_closing_wakes_the_reader(name: str, kind: str) -> None:
    with streams(kind) as (stream, _):
        reader = parked(READS[name], stream)
        stream.close()
        with pytest.raises(OSError) as caught:
            reader.result()
        assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError, match="stream is closed"):
            READS[name](stream)


@fibers
def test_timeout_is_for_the_whole_operation() -> None:
    with streams() as (stream, peer):
        stream.timeout = 10

        def trickle() -> None:
            for _ in range(5):
                peer.sendall(b"x")
                greenio.sleep(4)

        began = greenio.current_time()
        dripper = spawn(trickle)
        with pytest.raises(TimeoutError):
            stream.readline()
        assert greenio.current_time() - began == pytest.approx(10)
        assert stream.read(10) == b"xxx"
        dripper.cancel()


@pytest.mark.parametrize("read", ["readline", "read_until", "read_exactly", "read", "read_into"])
@fibers
def test_a_buffer_full_of_messages_starves_nobody(read: str) -> None:
    reads: dict[str, Callable[[Stream], Any]] = {
        "readline": lambda stream: stream.readline(),
        "read_until": lambda stream: stream.read_until(b"\n"),
        "read_exactly": lambda stream: stream.read_exactly(1),
        "read": lambda stream: stream.read(1),
        "read_into": lambda stream: stream.read_into(bytearray(1)),
    }
    turns: list[int] = []

    def others() -> None:
        while True:
            turns.append(0)
            greenio.yield_now()

    with streams() as (stream, peer):
        peer.sendall(b"\n" * 5000)
        assert stream.read(1) == b"\n"
        assert stream.buffered >= 1000
        other = spawn(others)
        for _ in range(1000):
            reads[read](stream)
        other.cancel()
        assert len(turns) >= 10


@fibers
def test_second_reader_is_told_who_reads() -> None:
    with streams() as (stream, peer):
        reader = parked(stream.readline)
        reader.name = "the first"
        for name, read in READS.items():
            with pytest.raises(RuntimeError, match="the first is reading"):
                read(stream)
            assert name
        peer.sendall(b"for the first\n")
        assert reader.result() == b"for the first\n"
        peer.sendall(b"for all\n")
        assert stream.readline() == b"for all\n"


@fibers
def test_reset_is_told_by_every_later_read_after_what_came_before() -> None:
    with streams() as (stream, peer):
        peer.sendall(b"one\ntwo\n")
        assert stream.readline() == b"one\n"
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        assert stream.readline() == b"two\n"
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                stream.readline()
        assert stream.connection_lost
        assert not stream.at_eof()


@fibers
def test_idle_stream_owns_no_buffer() -> None:
    import tracemalloc

    with streams() as (stream, peer):
        peer.sendall(b"x" * 60_000 + b"\n")
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            assert len(stream.readline()) == 60_001
            assert tracemalloc.get_traced_memory()[0] - before < 4000
        finally:
            tracemalloc.stop()


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_write_has_left_when_it_returns(kind: str) -> None:
    with streams(kind) as (stream, peer):
        for data in (b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview"), b""):
            stream.write(data)
            assert receive_exactly(peer, len(data)) == bytes(data)
        assert stream.statistics().unsent == 0
        stream.writelines([b"a", b"bc", bytearray(b"d")])
        stream.writelines([])
        assert peer.recv(100) == b"abcd"


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_peer_that_does_not_read_parks_the_writer_and_cancelling_tells_how_far_it_came(kind: str) -> None:
    with streams(kind) as (stream, peer):
        sent = fill(stream, peer)
        writer = parked(stream.write, b"y" * 100_000)
        writer.cancel()
        writer.join()
        with pytest.raises(TimeoutError) as caught, greenio.timeout(1):
            stream.write(b"z")
        stream.timeout = 1
        with pytest.raises(TimeoutError) as caught:
            stream.write(b"z")
        assert caught.value.bytes_sent == 0  # type: ignore[attr-defined]
        stream.timeout = None
        assert set(receive_exactly(peer, sent)) == {ord("f")}
        peer.settimeout(0)
        rest = b""
        with contextlib.suppress(BlockingIOError):
            rest = peer.recv(1 << 20)
        assert set(rest) <= {ord("y")}


@fibers
def test_timed_out_write_says_how_much_was_sent() -> None:
    with streams() as (stream, peer):
        stream.timeout = 2
        size = 30_000_000
        with pytest.raises(TimeoutError) as caught:
            stream.write(b"x" * size)
        sent = caught.value.bytes_sent  # type: ignore[attr-defined]
        assert 0 < sent < size
        assert stream.statistics().bytes_sent == sent
        stream.abort()
        del peer


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_writes_of_many_fibers_go_out_whole_and_in_order(kind: str) -> None:
    with streams(kind) as (stream, peer):
        writers = [spawn(stream.write, bytes([48 + index]) * 500_000) for index in range(8)]
        data = receive_exactly(peer, 8 * 500_000)
        assert [(bytes([key]), len(list(group))) for key, group in itertools.groupby(data)] == [
            (bytes([48 + index]), 500_000) for index in range(8)
        ]
        for writer in writers:
            writer.result()


@pytest.mark.parametrize("kind", KINDS)
@fibers
def test_reading_and_writing_at_the_same_time(kind: str) -> None:
    with streams(kind) as (stream, peer):
        reader = parked(stream.readline)
        stream.write(b"question\n")
        assert receive_exactly(peer, 9) == b"question\n"
        peer.sendall(b"answer\n")
        assert reader.result() == b"answer\n"


@fibers
def test_closing_wakes_the_writers() -> None:
    with streams() as (stream, peer):
        fill(stream, peer)
        writers = [parked(stream.write, b"x") for _ in range(3)]
        stream.abort()
        for writer in writers:
            with pytest.raises(OSError) as caught:
                writer.result()
            assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError, match="closed"):
            stream.write(b"x")


@fibers
def test_cork_gathers_until_its_end() -> None:
    with streams(write_buffer=100) as (stream, peer):
        peer.settimeout(0)
        with stream.corked():
            stream.write(b"a")
            with stream.corked():
                stream.write(b"b")
            stream.write(b"c")
            assert stream.statistics().unsent == 3
            with pytest.raises(BlockingIOError):
                peer.recv(1)
            stream.flush()
            assert peer.recv(10) == b"abc"
            stream.write(b"x" * 90)
            stream.write(b"y" * 10)
            with pytest.raises(BlockingIOError):
                peer.recv(1)
            stream.write(b"z")
            assert peer.recv(1000) == b"x" * 90 + b"y" * 10 + b"z"
            stream.write(b"last")
        assert peer.recv(10) == b"last"
        assert stream.statistics().sends == 4


@fibers
def test_cork_left_by_an_exception_sends_nothing_and_the_next_write_sends_it_first() -> None:
    with streams() as (stream, peer):
        peer.settimeout(0)
        with pytest.raises(ZeroDivisionError), stream.corked():
            stream.write(b"before ")
            raise ZeroDivisionError
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        stream.write(b"after")
        assert peer.recv(100) == b"before after"


@fibers
def test_interrupted_flush_goes_on_where_it_was() -> None:
    with streams(write_buffer=1 << 20) as (stream, peer):
        sent = fill(stream, peer)
        with pytest.raises(TimeoutError), stream.corked():
            stream.write(b"gathered" * 1000)
            with greenio.timeout(1):
                stream.flush()
        left = stream.statistics().unsent
        assert 0 < left <= 8000
        with pytest.raises(TimeoutError) as caught, greenio.timeout(1):
            stream.write(b"not sent, and never will be")
        assert stream.statistics().unsent == left
        flusher = parked(stream.flush)
        assert receive_exactly(peer, sent + 8000)[sent:] == b"gathered" * 1000
        flusher.result()
        stream.write(b"next")
        assert receive_exactly(peer, 4) == b"next"
        del caught


@fibers
def test_flush_cut_in_the_middle_repeats_and_loses_nothing() -> None:
    message = random.Random(1).randbytes(20_000_000)
    with streams(write_buffer=len(message)) as (stream, peer):
        with pytest.raises(TimeoutError), stream.corked():
            stream.write(message)
            with greenio.timeout(1):
                stream.flush()
        assert 0 < stream.statistics().unsent < len(message)
        flusher = parked(stream.flush)
        writers = [parked(stream.write, b"next"), parked(stream.write, b"last")]
        assert receive_exactly(peer, len(message) + 8) == message + b"nextlast"
        for fiber in (flusher, *writers):
            fiber.result()


@fibers
def test_writelines_of_a_generator_keeps_memory_bounded_and_says_how_much_left() -> None:
    with streams(write_buffer=1000) as (stream, peer):
        made = 0

        def parts() -> Iterator[bytes]:
            nonlocal made
            while True:
                made += 100
                yield b"x" * 100

        stream.timeout = 1
        with pytest.raises(TimeoutError) as caught:
            stream.writelines(parts())
        sent = caught.value.bytes_sent  # type: ignore[attr-defined]
        assert sent <= made <= sent + 1000
        peer.settimeout(0)
        received = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                received += len(peer.recv(1 << 20))
        assert received <= sent == stream.statistics().bytes_sent


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@fibers
def test_half_close_ends_one_direction(kind: str) -> None:
    with streams(kind) as (stream, peer):
        with stream.corked():
            stream.write(b"all of it")
            stream.half_close()
            assert receive_exactly(peer, 100) == b"all of it"
        with pytest.raises(BrokenPipeError, match="half_close"):
            stream.write(b"more")
        stream.half_close()
        peer.sendall(b"answer")
        assert stream.read(10) == b"answer"


@fibers
def test_close_sends_what_was_gathered() -> None:
    with sockets() as (left, right):
        stream = Stream(left)
        cork = stream.corked()
        cork.__enter__()
        stream.write(b"gathered")
        stream.close()
        stream.close()
        assert stream.closed
        assert receive_exactly(right, 100) == b"gathered"
        assert stream.fileno() == -1


@fibers
def test_close_that_cannot_send_closes_all_the_same() -> None:
    with sockets() as (left, right):
        stream = Stream(left)
        fill(stream, right)
        cork = stream.corked()
        cork.__enter__()
        stream.write(b"gathered")
        with pytest.raises(TimeoutError), greenio.timeout(1):
            stream.close()
        assert stream.closed
        assert left.fileno() == -1


@fibers
def test_block_left_by_an_exception_closes_at_once_and_drops_what_was_gathered() -> None:
    with sockets() as (left, right):
        with pytest.raises(ZeroDivisionError), Stream(left) as stream, stream.corked():
            stream.write(b"gathered")
            raise ZeroDivisionError
        assert receive_exactly(right, 100) == b""


@fibers
def test_abort_resets() -> None:
    with streams() as (stream, peer):
        stream.abort()
        stream.abort()
        with pytest.raises(ConnectionResetError):
            peer.recv(1)


@fibers
def test_lingering_close_waits_for_the_peer_to_read_the_last_answer() -> None:
    with streams() as (stream, peer):
        peer.sendall(b"a large request that nobody reads")
        stream.write(b"413 too large")
        closer = parked(functools.partial(stream.close, linger=30))
        assert receive_exactly(peer, 100) == b"413 too large"
        peer.close()
        closer.result()
        assert greenio.current_time() < 30
    with streams() as (stream, _):
        began = greenio.current_time()
        stream.close(linger=30)
        assert greenio.current_time() - began == pytest.approx(30)


# --- what is known ---------------------------------------------------------------------------------------------------


@fibers
def test_names_and_statistics() -> None:
    with streams() as (stream, peer):
        assert stream.peername == peer.getsockname()
        assert stream.sockname == peer.getpeername()
        stream.write(b"12345")
        peer.sendall(b"123")
        stream.read(1)
        seen = stream.statistics()
        assert (seen.bytes_sent, seen.bytes_received, seen.sends, seen.receives, seen.buffered) == (5, 3, 1, 1, 2)
        greenio.sleep(5)
        assert greenio.current_time() - seen.since == pytest.approx(5)
        host, port = stream.peername
        assert repr(stream) == f"<greenio.Stream to {host}:{port}, open>"
        stream.close()
        assert stream.peername == (host, port)
        assert "closed" in repr(stream)


@fibers
def test_what_makes_no_stream_is_refused_and_left_as_it_was() -> None:
    with standard.socket() as blocking, pytest.raises(TypeError, match="would block the OS thread"):
        Stream(blocking)
    with pytest.raises(TypeError, match="needs a socket"):
        Stream(5)
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, pytest.raises(ValueError, match="stream socket"):
        Stream(datagrams)
    with sockets() as (left, _):
        left.settimeout(0)
        with pytest.raises(ValueError, match="timeout is 0"):
            Stream(left)
        left.settimeout(7)
        for wrong in ({"read_buffer": 0}, {"read_buffer": 1 << 30}, {"write_buffer": 0}, {"limit": 0}):
            with pytest.raises(ValueError):
                Stream(left, **wrong)
        assert left.gettimeout() == 7
        stream = Stream(left)
        assert (stream.timeout, left.gettimeout()) == (7, None)
        for number in (0, -1, float("nan")):
            with pytest.raises(ValueError):
                stream.timeout = number
        with pytest.raises(ValueError):
            stream.limit = 0
        stream.limit = 5
        assert (stream.timeout, stream.limit) == (7, 5)


@fibers
def test_wrong_arguments_change_nothing() -> None:
    with streams() as (stream, peer):
        peer.sendall(b"kept")
        with pytest.raises(ValueError):
            stream.read_exactly(-1)
        with pytest.raises(ValueError):
            stream.read_until(b"")
        with pytest.raises(ValueError):
            stream.readline(limit=0)
        with pytest.raises(TypeError):
            stream.read_into(b"constant")
        for wrong in ("text", 5, None):
            with pytest.raises(TypeError):
                stream.write(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            stream.writelines([b"ok", "text"])  # type: ignore[list-item]
        assert stream.read(100) == b"kept"


def test_without_fibers_it_says_what_to_do() -> None:
    left, right = standard.socketpair()
    with socket.socket(fileno=left.detach()) as sock, right:
        stream = Stream(sock)
        for call in (stream.read, lambda: stream.write(b"x"), stream.flush, stream.half_close):
            with pytest.raises(RuntimeError, match="run"):
                call()
        stream.close()


def test_stream_crosses_os_threads() -> None:
    def main() -> None:
        with streams() as (stream, peer):
            outcome = []

            def elsewhere() -> None:
                def read() -> None:
                    outcome.append(stream.readline())
                    stream.write(b"from the other thread")

                greenio.run(read)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            peer.sendall(b"a line\n")
            assert receive_exactly(peer, 21) == b"from the other thread"
            thread.join()
            assert outcome == [b"a line\n"]

    greenio.run(main)


def test_writers_of_two_os_threads_take_turns() -> None:
    def main() -> None:
        with streams() as (stream, peer):
            filled = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    try:
                        with greenio.timeout(0.02):
                            stream.write(b"f" * 65536)
                            filled += 65536
                    except TimeoutError as error:
                        filled += getattr(error.__cause__, "bytes_sent", 0)
                        raise
            first = spawn(stream.write, b"1" * 300_000)
            greenio.yield_now()
            thread = threading.Thread(target=greenio.run, args=(stream.write, b"2" * 300_000))
            thread.start()
            data = receive_exactly(peer, filled + 600_000)[filled:]
            assert [(key, len(list(group))) for key, group in itertools.groupby(data)] in (
                [(49, 300_000), (50, 300_000)],
                [(50, 300_000), (49, 300_000)],
            )
            first.join()
            thread.join()

    greenio.run(main)


def test_forked_child_reads_and_writes_though_other_fibers_were_at_it() -> None:
    run_child(
        """
        import os, greenio
        from greenio import socket, spawn
        from greenio.testing import wait_all_parked

        def main():
            left, right = socket.socketpair()
            with greenio.Stream(left) as stream, right:
                reader = spawn(stream.readline)
                writer = spawn(stream.write, b"x" * 10_000_000)
                wait_all_parked()
                child = os.fork()
                if child == 0:
                    right.settimeout(5)
                    while right.recv(1 << 20) == b"x" * (1 << 20):
                        pass
                    right.settimeout(0)
                    try:
                        while right.recv(1 << 20):
                            pass
                    except BlockingIOError:
                        pass
                    stream.write(b"child")
                    assert right.recv(100) == b"child"
                    right.sendall(b"line\\n")
                    assert stream.readline() == b"line\\n"
                    os._exit(7)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
                writer.cancel()
                reader.cancel()

        greenio.run(main)
        """,
        flags=("-W", "ignore"),
    )


@pytest.mark.slow
def test_cancellation_at_any_moment_loses_and_repeats_nothing() -> None:
    generator = random.Random(4)
    message = generator.randbytes(400_000)

    def main() -> None:
        with streams(read_buffer=1000) as (stream, peer):
            sender = spawn(peer.sendall, message)
            taken = b""
            while len(taken) < len(message):
                with greenio.move_on_after(generator.choice([0, 0.001, 5])):
                    want = min(generator.randrange(1, 5000), len(message) - len(taken))
                    part = stream.read_exactly(want) if generator.random() < 0.5 else stream.read(want)
                    taken += part
                if generator.random() < 0.1:
                    reader = spawn(stream.read, 1000)
                    if generator.random() < 0.5:
                        greenio.yield_now()
                    reader.cancel()
                    reader.join()
                    if not reader.cancelled():
                        taken += reader.result()
            assert taken == message
            sender.result()

    for _ in range(5):
        greenio.run(main, clock=VirtualClock())


def test_close_of_a_stream_leaves_no_descriptor() -> None:
    def main() -> None:
        before = os.listdir("/proc/self/fd")
        for _ in range(10):
            with streams() as (stream, peer):
                peer.sendall(b"x")
                stream.read(1)
                stream.write(b"y")
        assert os.listdir("/proc/self/fd") == before

    greenio.run(main)


def test_openssl_is_loaded_by_the_first_use_of_tls_and_not_before() -> None:
    run_child(
        """
        import sys
        import greenio

        def main():
            with greenio.listen_tcp("127.0.0.1") as listener, greenio.connect_tcp("127.0.0.1", listener.port) as one:
                with listener.accept() as other:
                    one.write(b"x")
                    assert other.read(1) == b"x"
                    assert not {"ssl", "_ssl", "greenio.ssl", "greenio._tls"} & sys.modules.keys()
                    greenio.spawn(other.read, 1000)
                    try:
                        one.start_tls(server_hostname="localhost", timeout=0.01)
                    except TimeoutError:
                        pass
                    assert {"ssl", "_ssl", "greenio.ssl", "greenio._tls"} <= sys.modules.keys()

        greenio.run(main)
        assert greenio.ssl is sys.modules["greenio.ssl"]
        try:
            greenio.tsl
        except AttributeError as error:
            assert "tsl" in str(error)
        """
    )
