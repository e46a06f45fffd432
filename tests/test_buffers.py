"""Buffers on raw files: as the standard ones on equal input, shared by fibers, losing nothing. Sockets' makefile."""

import contextlib
import errno
import functools
import gc
import http.client
import io
import pickle
import random
import socket as standard
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from child import run_child
from sockets import connected, fibers
from waiters import in_thread, parked

import greenio
from greenio import _file_text, socket, spawn
from greenio._buffers import BufferedRandom, BufferedReader, BufferedRWPair, BufferedWriter
from greenio.testing import VirtualClock, wait_all_parked

try:
    from hypothesis import given, settings
    from hypothesis import strategies as some
except ImportError:  # the same with fewer draws, and failures are not made smaller
    given = None  # type: ignore[assignment]


def drawn(test: Callable[[random.Random], None]) -> Callable[..., None]:
    """The test gets a random.Random: hypothesis's, or several of known seeds."""
    if given is not None:
        return settings(max_examples=200, deadline=None)(given(draw=some.randoms(use_true_random=False))(test))

    def seeded() -> None:
        for seed in range(200):
            test(random.Random(seed))

    seeded.__name__ = test.__name__
    return seeded


# --- as the standard ones, on equal input ----------------------------------------------------------------------------


class Script(io.RawIOBase):
    """A raw file whose reads bring what the script says: bytes, None (it would block), or an exception. Then the end."""

    def __init__(self, script: list[Any]) -> None:
        self.script = script.copy()
        self.asked: list[int] = []

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.asked.append(len(buffer))
        if not self.script:
            return 0
        part = self.script.pop(0)
        if part is None:
            return None
        if isinstance(part, BaseException):
            raise part
        count = min(len(buffer), len(part))
        buffer[:count] = part[:count]
        if part[count:]:
            self.script.insert(0, part[count:])
        return count


class Sink(io.RawIOBase):
    """A raw file that takes as many bytes of each write as the script says, None: it would block. Then all of them."""

    def __init__(self, script: list[Any]) -> None:
        self.script = script.copy()
        self.written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        room = self.script.pop(0) if self.script else len(data)
        if room is None:
            return None
        self.written.append(bytes(data[:room]))
        return min(room, len(data))


class Both(Script):
    """Script and Sink in one."""

    def __init__(self, script: list[Any], room: list[Any]) -> None:
        super().__init__(script)
        self.sink = Sink(room)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        return self.sink.write(data)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BlockingIOError as error:  # whose errno the standard classes leave to chance
        return type(error), error.strerror, error.characters_written
    except Exception as error:
        return type(error), str(error)


def a_script(draw: random.Random) -> list[Any]:
    def part() -> Any:
        if draw.random() < 0.15:
            return None
        return bytes(draw.choice(b"abc\n\r") for _ in range(draw.choice([1, 2, 5, 9, 30, 100])))

    return [part() for _ in range(draw.randrange(12))]


def a_read(draw: random.Random) -> tuple[str, Any]:
    """The name of a call, and what makes its argument anew."""
    size = draw.choice([None, -1, 0, 1, 2, 3, 7, 8, 9, 16, 17, 50, 200])
    name = draw.choice(
        ["read", "read", "readline", "readline", "read1", "readinto", "readinto1", "peek", "next", "readlines"]
    )
    if name == "readinto1":
        # Of larger ones the standard class may wait for more than it has.
        return name, lambda: bytearray(min(7, max(0, size or 0)))
    if name == "readinto":
        return name, lambda: bytearray(max(0, size or 0))
    if name in ("read1", "peek"):
        return name, lambda: -1 if size is None else size
    return name, lambda: size


def read_by(file: Any, name: str, argument: Any) -> Any:
    if name == "next":
        return outcome(lambda: next(file, None))
    found = outcome(lambda: getattr(file, name)(argument))
    return (found, bytes(argument[:found])) if name.startswith("readinto") and isinstance(found, int) else found


@drawn
def test_reads_are_the_standard_ones(draw: random.Random) -> None:
    script, size = a_script(draw), draw.choice([7, 8, 64])
    raws = [Script(script), Script(script)]
    mine, theirs = BufferedReader(raws[0], size), io.BufferedReader(raws[1], size)
    for _ in range(draw.randrange(20)):
        name, argument = a_read(draw)
        assert read_by(mine, name, argument()) == read_by(theirs, name, argument()), (script, size, name, argument())
        if name != "read" or argument() not in (None, -1):  # its reads are readall's
            assert sum(map(len, filter(None, raws[0].script))) == sum(map(len, filter(None, raws[1].script)))
    for file in (mine, theirs):
        file.close()
    for name in (
        "read",
        "read1",
        "readline",
        "peek",
        "readinto",
        "tell",
        "seek",
        "fileno",
        "truncate",
        "write",
        "readlines",
    ):
        argument = bytearray(5) if name == "readinto" else b"" if name == "write" else 5
        calls = [
            outcome(lambda file=file: getattr(file, name)(*() if name in ("tell", "fileno") else (argument,)))  # noqa: B023
            for file in (mine, theirs)
        ]
        assert calls[0][0] == calls[1][0], name


@drawn
def test_the_sizes_of_raw_reads_are_the_standard_ones(draw: random.Random) -> None:
    script = [part for part in a_script(draw) if part is not None]
    size = draw.choice([7, 8, 64])
    raws = [Script(script), Script(script)]
    mine, theirs = BufferedReader(raws[0], size), io.BufferedReader(raws[1], size)
    for _ in range(draw.randrange(12)):
        name, argument = a_read(draw)
        if name == "read" and argument() in (None, -1):
            continue
        assert read_by(mine, name, argument()) == read_by(theirs, name, argument())
        assert raws[0].asked == raws[1].asked, (script, size, name, argument())


@contextlib.contextmanager
def closed_at_the_end(sinks: list[Sink], *files: Any) -> Iterator[None]:
    """Closes the files, when the sinks take everything. Whoever draws may end a test in its middle."""
    try:
        yield
    finally:
        for sink in sinks:
            sink.script.clear()
        for file in files:
            file.close()


def a_write(draw: random.Random) -> Any:
    data = draw.randbytes(draw.choice([0, 1, 3, 7, 8, 9, 20, 100]))
    return draw.choice([data, bytearray(data), memoryview(data)])


def full_goes_straight_through() -> bool:
    """Whether this Python's own class writes what fills its buffer exactly, instead of keeping it for the next write."""
    raw = Sink([])
    with io.BufferedWriter(raw, 8) as file:
        file.write(bytes(8))
        return raw.written != []


FULL_GOES_THROUGH = full_goes_straight_through()


@drawn
def test_what_is_accepted_is_written_once_and_in_order(draw: random.Random) -> None:
    raw = Sink([draw.choice([None, 1, 2, 5, 100]) for _ in range(draw.randrange(30))])
    size = draw.choice([1, 7, 8, 64])
    file = BufferedWriter(raw, size)
    accepted = b""
    with closed_at_the_end([raw], file):
        for _ in range(draw.randrange(30)):
            data = a_write(draw)
            try:
                count = file.write(data)
                assert count == len(data)
            except BlockingIOError as error:
                count = error.characters_written
            accepted += bytes(data[:count])
            assert accepted.startswith(b"".join(raw.written))
            assert len(accepted) - len(b"".join(raw.written)) <= size
            if draw.random() < 0.2:
                outcome(file.flush)
    assert b"".join(raw.written) == accepted


@pytest.mark.skipif(FULL_GOES_THROUGH, reason="this Python's own class writes a full buffer sooner")
@drawn
def test_writes_are_the_standard_ones(draw: random.Random) -> None:
    room = [draw.choice([None, 1, 2, 5, 100]) for _ in range(draw.randrange(15))]
    size = draw.choice([1, 7, 8, 64])
    raws = [Sink(room), Sink(room)]
    mine, theirs = BufferedWriter(raws[0], size), io.BufferedWriter(raws[1], size)
    with closed_at_the_end(raws, mine, theirs):
        for _ in range(draw.randrange(15)):
            data = a_write(draw)
            name = draw.choice(["write", "write", "write", "flush"])
            arguments = (data,) if name == "write" else ()
            found = [outcome(lambda file=file: getattr(file, name)(*arguments)) for file in (mine, theirs)]  # noqa: B023
            assert found[0] == found[1], (room, size, name, arguments)
            assert raws[0].written == raws[1].written
            if name == "flush" and found[0] is not None:
                break  # the standard one does not use the room of what it has written until all is
        for file in (mine, theirs, mine):
            file_outcome = outcome(file.close)
            assert file_outcome is None or file_outcome[0] is BlockingIOError
        assert mine.closed
        assert theirs.closed
        for name in ("write", "flush"):
            arguments = (b"x",) if name == "write" else ()
            found = [outcome(lambda file=file: getattr(file, name)(*arguments)) for file in (mine, theirs)]  # noqa: B023
            assert found[0] == found[1]
        assert raws[0].written[: len(raws[1].written)] == raws[1].written


@drawn
def test_pairs_are_the_standard_ones(draw: random.Random) -> None:
    script, room = a_script(draw), [draw.choice([None, 1, 5, 100]) for _ in range(draw.randrange(8))]
    raws = [Both(script, room), Both(script, room)]
    mine, theirs = BufferedRWPair(raws[0], raws[0], 8), io.BufferedRWPair(raws[1], raws[1], 8)
    with closed_at_the_end([raw.sink for raw in raws], mine, theirs):
        for _ in range(draw.randrange(15)):
            if draw.random() < 0.5:
                name, argument = a_read(draw)
                if name == "readline" or name == "next" or name == "readlines":
                    continue  # the standard one reads lines byte by byte, and takes None for a mistake
                assert read_by(mine, name, argument()) == read_by(theirs, name, argument())
            else:
                data = a_write(draw)
                found = [outcome(lambda file=file: file.write(data)) for file in (mine, theirs)]  # noqa: B023
                if FULL_GOES_THROUGH:
                    continue
                assert found[0] == found[1]
                assert raws[0].sink.written == raws[1].sink.written


@pytest.mark.parametrize("mine", [BufferedReader, BufferedWriter, BufferedRWPair, BufferedRandom])
def test_what_else_is_as_the_standard_ones(mine: Any, tmp_path: Any) -> None:
    cls = mine.__name__
    theirs = getattr(io, cls)
    raws: list[Any] = []

    def made(kind: Any, *arguments: Any) -> Any:
        raw: Any = Both([b"abc\n"], []) if cls != "BufferedRandom" else (tmp_path / "file").open("w+b", buffering=0)
        raws.append(raw)
        return kind(*([raw, raw] if cls == "BufferedRWPair" else [raw]), *arguments)

    assert issubclass(mine, theirs)
    assert issubclass(mine, io.BufferedIOBase)
    for size in (0, -1):
        assert outcome(functools.partial(made, mine, size))[0] is ValueError
    assert outcome(lambda: made(mine, "x"))[0] is outcome(lambda: made(theirs, "x"))[0]
    wrong = Sink([]) if cls == "BufferedReader" else Script([])
    for kind in (mine, theirs):
        with pytest.raises(io.UnsupportedOperation):
            kind(*[wrong] * (2 if cls == "BufferedRWPair" else 1))
    files = [made(mine), made(theirs)]
    assert {name for name in dir(files[1]) if not name.startswith("__")} <= set(dir(files[0]))
    for name in ("peek", "read1", "raw", "name", "mode", "readable", "writable"):
        assert hasattr(files[0], name) == hasattr(files[1], name), name
    for name in ("readable", "writable", "seekable", "isatty", "fileno", "tell"):
        calls = [outcome(getattr(file, name)) for file in files]
        if name != "fileno" or cls != "BufferedRandom":
            assert calls[0] == calls[1], name
    for name, argument in (("read", 1), ("write", b"x"), ("readline", 1), ("read1", 1), ("readinto", bytearray(1))):
        calls = [outcome(lambda file=file: getattr(file, name)(argument)) for file in files]  # noqa: B023
        assert calls[0] == calls[1] or calls[0][0] is calls[1][0], name
    for wrong_type in (1.5, "x", object()):
        for name in ("read", "readline", "read1", "peek", "readinto", "write"):
            if hasattr(files[1], name):
                calls = [outcome(lambda file=file: getattr(file, name)(wrong_type)) for file in files]  # noqa: B023
                assert calls[0][0] is calls[1][0], (name, wrong_type)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(files[0], protocol)
    calls = [outcome(file.detach) for file in files]
    if cls == "BufferedRWPair":
        assert calls[0] == calls[1]
        assert [file.close() for file in files * 2] == [None] * 4
    else:
        for call in (files[0].close, files[0].flush, lambda: files[0].closed):
            with pytest.raises(ValueError, match="detached"):
                call()
        for name, argument in (("read", 1), ("write", b"x"), ("readline", -1), ("peek", 1), ("tell", None)):
            if hasattr(files[1], name):
                calls = [
                    outcome(lambda file=file: getattr(file, name)(*() if argument is None else (argument,)))  # noqa: B023
                    for file in files
                ]
                assert calls[0][0] is calls[1][0], name
    for raw in raws:
        raw.close()


def test_a_raw_file_that_is_wrong_is_told_so() -> None:
    class Wrong(Script):
        answer: Any = None

        def readinto(self, buffer: Any) -> Any:
            return self.answer

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> Any:
            return self.answer

    for answer in (-1, 10**6, 10**30, "x", 1.5):
        for kind in (BufferedReader, io.BufferedReader):
            raw = Wrong([])
            raw.answer = answer
            file = kind(raw, 8)
            for name, argument in (("readline", -1), ("read", 3), ("readinto", bytearray(100)), ("peek", 1)):
                with pytest.raises(OSError, match="raw readinto"):
                    getattr(file, name)(argument)
        raw = Wrong([])
        raw.answer = answer
        writer = BufferedWriter(raw, 8)
        writer.write(b"x")
        with pytest.raises((OSError, TypeError, OverflowError)):
            writer.flush()
        with contextlib.suppress(Exception):
            writer.close()


def test_a_raw_file_that_keeps_its_memory_does_no_harm() -> None:
    kept: list[Any] = []

    class Keeping(Script):
        def readinto(self, buffer: Any) -> int | None:
            kept.append(buffer)
            return super().readinto(buffer)

    file = BufferedReader(Keeping([b"abc" * 1000] * 50), 8)
    assert file.read(100_000) == b"abc" * 33333 + b"a"
    file.peek()
    file.close()
    del file
    gc.collect()
    for view in kept:
        view[:] = b"z" * len(view)


def test_an_interrupted_raw_call_is_made_again() -> None:
    raw = Script([InterruptedError(errno.EINTR, "x"), b"ab", InterruptedError(errno.EINTR, "x"), b"c\n"])
    assert BufferedReader(raw).readline() == b"abc\n"


def test_a_raw_file_that_calls_its_buffer_is_told() -> None:
    class Curious(Script):
        file: Any = None

        def readinto(self, buffer: Any) -> int | None:
            self.file.read(5)
            return 0

    raw = Curious([])
    raw.file = BufferedReader(raw)
    with pytest.raises(RuntimeError):
        raw.file.read(5)
    with pytest.raises(RuntimeError):
        greenio.run(raw.file.read, 5)


# --- losing nothing --------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Any], Any]] = {
    "read": lambda file: file.read(100),
    "read to the end": lambda file: file.read(),
    "readline": lambda file: file.readline(),
    "readline, limited": lambda file: file.readline(100),
    "readinto": lambda file: file.readinto(bytearray(100)),
    "readinto, directly": lambda file: file.readinto(bytearray(20_000)),
    "large": lambda file: file.read(20_000),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_failed_read_had_is_there_for_the_next(name: str) -> None:
    for size in (1, 4, 7, 64, 8192):
        parts = [b"abcd", b"efg", b"h", b"ijklmnop"]
        for at in range(len(parts) + 1):
            script: list[Any] = parts.copy()
            script.insert(at, OSError(errno.EIO, "broken"))
            file = BufferedReader(Script(script), size)
            with pytest.raises(OSError, match="broken"):
                CALLS[name](file)
            if at:
                assert file.peek() == b"".join(parts[:at])
            assert file.read() == b"".join(parts), (size, at)


@pytest.mark.parametrize("mode", ["rb", "rwb", "r", "rw"])
@fibers
def test_cancelled_reads_of_a_socket_lose_nothing(mode: str) -> None:
    text = "b" not in mode
    for name, call in CALLS.items():
        if text and "into" in name:
            continue
        with connected() as (client, server), server.makefile(mode) as file:
            for part in (b"one", b"two", b"three"):
                waiting = parked(call, file)
                client.sendall(part)
                wait_all_parked()
                waiting.cancel()
                waiting.join()
                assert waiting.cancelled()
            client.shutdown(socket.SHUT_WR)
            assert file.read() == ("onetwothree" if text else b"onetwothree"), name


@pytest.mark.parametrize("mode", ["rb", "r"])
@fibers
def test_cancelled_again_and_again_a_socket_comes_through_whole(mode: str) -> None:
    draw = random.Random(3)
    sent = b"".join(b"%d %s\n" % (index, b"x" * draw.randrange(60)) for index in range(300))
    with connected() as (client, server), server.makefile(mode, 64) as file:
        got: list[Any] = []

        def send() -> None:
            rest = sent
            while rest:
                rest = rest[client.send(rest[: draw.randrange(1, 90)]) :]
                greenio.yield_now()
            client.shutdown(socket.SHUT_WR)

        def read() -> None:
            calls = [file.readline, lambda: file.read(draw.randrange(1, 150))]
            if mode == "rb":
                calls += [
                    lambda: file.read1(20),
                    lambda: bytes(memoryview(into := bytearray(99))[: file.readinto(into)]),
                ]
            while part := draw.choice(calls)():
                got.append(part)
            got.append(None)

        sending = spawn(send)
        while not (got and got[-1] is None):
            fiber = spawn(read)
            for _ in range(draw.randrange(8)):
                greenio.yield_now()
            if draw.random() < 0.9:
                fiber.cancel()
            fiber.join()
        sending.result()
        joined = ("" if mode == "r" else b"").join(got[:-1])
        assert joined == (sent.decode() if mode == "r" else sent)


def test_a_timeout_around_a_read_loses_nothing() -> None:
    def main() -> None:
        with connected() as (client, server), server.makefile("rb") as file:
            client.sendall(b"begun")
            for _ in range(3):
                with pytest.raises(TimeoutError), greenio.timeout(5):
                    file.readline()
            client.sendall(b" and ended\n")
            assert file.readline() == b"begun and ended\n"

    greenio.run(main, clock=VirtualClock())


def test_after_the_sockets_own_timeout_only_what_was_there_is_read() -> None:
    def main() -> None:
        with connected() as (client, server):
            server.settimeout(5)
            with server.makefile("rb") as file:
                client.sendall(b"line\nbegun")
                with pytest.raises(TimeoutError):
                    file.read(100)
                client.sendall(b" and ended\n")
                assert file.readline() == b"line\n"
                with pytest.raises(OSError, match="cannot read from timed out object"):
                    file.readline()
                assert file.peek() == b"begun"
                assert file.read1() == b"begun"
                assert server.recv(100) == b" and ended\n"

    greenio.run(main, clock=VirtualClock())


@fibers
def test_a_socket_that_does_not_wait() -> None:
    with connected() as (client, server):
        server.settimeout(0)
        with server.makefile("rwb") as file, server.makefile("r") as text:
            assert file.read(10) is None
            assert file.read() is None
            assert file.readinto(bytearray(5)) is None
            assert file.readline() == b""
            with pytest.raises(BlockingIOError):
                text.read()
            client.sendall(b"abc")
            greenio.wait_readable(server)
            assert file.read(10) == b"abc"
            client.sendall(b"d\xc3")
            greenio.wait_readable(server)
            assert text.read(1) == "d"
            with pytest.raises(BlockingIOError) as raised:
                while True:
                    file.write(b"x" * 5000)
            assert raised.value.characters_written <= 5000
            with pytest.raises(BlockingIOError):
                file.close()
            assert file.closed


@fibers
def test_a_cancelled_flush_goes_on_where_it_was() -> None:
    with connected() as (client, server):
        file = client.makefile("wb", 10_000_000)
        sent = random.Random(1).randbytes(9_000_000)
        file.write(sent)
        got = bytearray()
        for _ in range(5):
            flushing = parked(file.flush)
            flushing.cancel()
            flushing.join()
            assert flushing.cancelled()
            got += server.recv(100_000)
        reading = spawn(server.makefile("rb").read)
        file.close()
        client.close()
        assert got + reading.result() == sent


@fibers
def test_a_cancelled_fiber_still_sends_what_there_is_room_for_when_it_closes() -> None:
    with connected() as (client, server):

        def say() -> None:
            with client.makefile("wb") as file:
                file.write(b"bye")
                greenio.Event().wait()

        for _ in range(2):
            fiber = parked(say)
            fiber.cancel()
            fiber.join()
            assert fiber.cancelled()
            assert server.recv(10) == b"bye"


@fibers
def test_a_cancelled_close_of_a_full_socket_ends() -> None:
    with connected() as (client, server):
        file = client.makefile("wb", 50_000_000)
        file.write(bytes(40_000_000))
        closing = parked(file.close)
        closing.cancel()
        closing.join()
        assert closing.cancelled()
        assert file.closed
        assert client._io_refs == 0
        client.close()
        assert 0 < len(server.makefile("rb").read()) < 40_000_000


# --- shared ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["", "b"])
@fibers
def test_fibers_share_a_sockets_file_line_by_line(mode: str) -> None:
    with connected() as (client, server):
        lines = [f"{index} {'x' * (index * 7 % 90)}\n" for index in range(500)]
        got: list[Any] = []

        def read(file: Any) -> None:
            for line in file:
                got.append(line)
                greenio.yield_now()

        def write(file: Any, index: int) -> None:
            for line in lines[index::5]:
                file.write(line.encode() if mode else line)
                if draw.random() < 0.3:
                    file.flush()

        draw = random.Random(9)
        with server.makefile("r" + mode) as reader:
            readers = [spawn(read, reader) for _ in range(5)]
            with client.makefile("w" + mode, 300) as writer:
                for fiber in [spawn(write, writer, index) for index in range(5)]:
                    fiber.result()
            client.shutdown(socket.SHUT_WR)
            for fiber in readers:
                fiber.result()
        assert sorted(got) == sorted(line.encode() if mode else line for line in lines)


@pytest.mark.parametrize("mode", ["rwb", "rw"])
@fibers
def test_one_fiber_writes_while_another_waits_to_read(mode: str) -> None:
    word: Any = "word\n" if mode == "rw" else b"word\n"
    with connected() as (client, server), client.makefile(mode) as mine, server.makefile(mode) as theirs:
        for _ in range(3):
            waiting = parked(mine.readline)
            mine.write(word)
            mine.flush()
            assert theirs.readline() == word
            theirs.write(word)
            theirs.flush()
            assert waiting.result() == word


def test_threads_and_runs_share_a_sockets_file() -> None:
    def main() -> None:
        with connected() as (client, server), server.makefile("rb") as reader, client.makefile("wb", 100) as writer:

            def write(name: int) -> None:
                for index in range(200):
                    writer.write(b"%d %d\n" % (name, index))

            writing = [in_thread(greenio.run, write, name) for name in range(3)]

            def finish() -> None:
                for thread in writing:
                    greenio.to_thread(thread.join)
                    assert thread.outcome == [None]
                writer.flush()
                client.shutdown(socket.SHUT_WR)

            finishing = spawn(finish)
            lines = reader.readlines()
            finishing.result()
            assert sorted(lines) == sorted(b"%d %d\n" % (name, index) for name in range(3) for index in range(200))

    greenio.run(main)


@pytest.mark.parametrize("mode", ["b", ""])
def test_buffers_need_no_fibers(mode: str) -> None:
    left, right = standard.socketpair()
    with left, right:
        raws = [standard.SocketIO(sock, "rw") for sock in (left, right)]  # type: ignore[arg-type]
        pairs = [BufferedRWPair(raw, raw) for raw in raws]
        files: list[Any] = pairs if mode else [_file_text.TextIOWrapper(pair, "utf-8") for pair in pairs]
        word: Any = b"word\n" if mode else "word\n"
        waiting = in_thread(files[0].readline)
        files[1].write(word)
        files[1].flush()
        waiting.join()
        assert waiting.outcome == [word]
        lines: list[Any] = []
        threads = [in_thread(lambda: lines.extend(files[0])) for _ in range(3)]
        for index in range(100):
            files[1].write(word * (index % 5))
        files[1].flush()
        right.shutdown(standard.SHUT_WR)
        for thread in threads:
            thread.join()
            assert thread.outcome == [None]
        assert lines == [word] * 200
        for file in files:
            file.close()
            file.close()
            assert file.closed


# --- makefile --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def both_kinds() -> Iterator[list[tuple[Any, Any]]]:
    """Pairs of sockets, greenio's and the standard ones."""
    with contextlib.ExitStack() as stack:
        yield [tuple(map(stack.enter_context, module.socketpair())) for module in (socket, standard)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["r", "w", "rw", "rb", "wb", "rwb", "b", "", "br", "wr", "rrb"])
@pytest.mark.parametrize("buffering", [None, -1, 0, 1, 5])
@fibers
def test_makefile_makes_what_the_standard_one_does(mode: str, buffering: int | None) -> None:
    with both_kinds() as pairs:
        made = [outcome(lambda ends=ends: ends[0].makefile(mode, buffering, encoding="utf-8")) for ends in pairs]
        mine, theirs = made
        if isinstance(theirs, tuple):
            assert mine == theirs
            assert pairs[0][0]._io_refs == 0
            return
        assert isinstance(mine, type(theirs))
        fds = [ends[0].fileno() for ends in pairs]
        for name in ("name", "mode", "closed", "encoding", "errors", "newlines", "line_buffering", "write_through"):
            found = [outcome(lambda file=file: getattr(file, name)) for file in made]  # noqa: B023
            if found[1] == fds[1]:
                found = [found[0] - fds[0], 0]
            assert found[0] == found[1] or found[0][0] is found[1][0] is AttributeError, name
        for name in ("readable", "writable", "seekable", "isatty", "tell", "fileno"):
            found = [outcome(getattr(file, name)) for file in made]
            assert found[0] == found[1] or found == fds or found[0][0] is found[1][0], name
        for file, (end, _), fd in zip(made, pairs, fds, strict=True):
            end.close()
            assert end.fileno() == fd
            file.close()
            file.close()
            assert end.fileno() == -1
            assert file.closed
        for name in ("read", "readline", "flush", "fileno", "__enter__", "__next__"):
            found = [outcome(getattr(file, name)) for file in made]
            assert found[0][0] is found[1][0], name


@fibers
def test_a_file_that_waits_for_its_socket_has_no_room_yet() -> None:
    with contextlib.ExitStack() as stack:
        pairs = [tuple(map(stack.enter_context, socket.socketpair())) for _ in range(20)]
        files = [stack.enter_context(far.makefile("rb", 50_000)) for _, far in pairs]
        tracemalloc.start()
        try:
            lines = [spawn(file.readline) for file in files]
            wait_all_parked()
            waiting, _ = tracemalloc.get_traced_memory()
            for near, _ in pairs:
                near.sendall(b"one\ntwo\n")
            assert [fiber.result() for fiber in lines] == [b"one\n"] * 20
            assert [file.readline() for file in files] == [b"two\n"] * 20
            lines = [spawn(file.read, 3) for file in files]
            wait_all_parked()
            again, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert waiting < 20 * 20_000 and again < 20 * 20_000
        for near, _ in pairs:
            near.sendall(b"end")
        assert [fiber.result() for fiber in lines] == [b"end"] * 20


@fibers
def test_what_comes_in_pieces_is_whole() -> None:
    with connected() as (client, server), server.makefile("rb", 16) as file:
        for read, expected in (
            (lambda: file.read(20), b"abcdefghijklmnopqrst"),
            (lambda: file.readline(), b"a line longer than the buffer\n"),
            (lambda: file.read1(100), b"once"),
            (lambda: (file.readinto(room := bytearray(20)), room[:20])[1], b"01234567890123456789"),
        ):
            reading = spawn(read)
            for byte in expected if len(expected) > 4 else [expected]:
                client.sendall(bytes([byte]) if isinstance(byte, int) else byte)
                wait_all_parked() if not reading.done() else None
            assert reading.result() == expected
        client.sendall(b"whole")
        assert file.peek() == b"whole"
        whole = file.read(5)
        client.sendall(b"next!")
        assert file.read(5) == b"next!" and whole == b"whole"


@fibers
def test_a_sockets_own_recv_into_is_asked() -> None:
    class Counted(socket.socket):
        asked = 0

        def recv_into(self, *arguments: Any) -> Any:
            Counted.asked += 1
            return super().recv_into(*arguments)

    near, far = socket.socketpair()
    with near, Counted(fileno=far.detach()) as counted, counted.makefile("rb") as file:
        near.sendall(b"line\n")
        assert file.readline() == b"line\n" and Counted.asked == 1


@fibers
def test_makefile_refuses_what_is_wrong_and_leaves_nothing() -> None:
    with both_kinds() as pairs:
        for keywords in ({"mode": "q"}, {"mode": "r+"}, {"mode": "a"}, {"mode": "w", "buffering": 0}, {"newline": "x"},
                         {"encoding": "no such"}, {"encoding": 5}, {"buffering": "x"}):  # fmt: skip
            mine, theirs = (outcome(lambda ends=ends: ends[0].makefile(**keywords)) for ends in pairs)  # noqa: B023
            assert mine[:2] == theirs[:2] or mine[0] is theirs[0], keywords
        assert pairs[0][0]._io_refs == 0


@pytest.mark.parametrize("newline", [None, "", "\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "latin-1"])
@fibers
def test_text_through_a_socket_is_as_the_standard_ones(newline: str | None, encoding: str) -> None:
    text = "".join(f"line {index} \u00e9{ending}" for index in range(300) for ending in ("\n", "\r\n", "\r")) + "end"
    with both_kinds() as pairs:
        found = []
        for near, far in pairs:
            with near.makefile("w", newline=newline, encoding=encoding) as file:
                for line in text.splitlines(keepends=True):
                    file.write(line)
            near.shutdown(socket.SHUT_WR)
            with far.makefile("r", 100, newline=newline, encoding=encoding) as file:
                found.append(
                    [
                        file.readline(),
                        file.read(17),
                        file.readline(3),
                        file.readlines(2000),
                        next(file),
                        file.read(),
                        file.newlines,
                    ]
                )
        assert found[0] == found[1]


@fibers
def test_the_socket_is_closed_with_its_last_file_even_a_dropped_one() -> None:
    with connected() as (client, server):
        files = [client.makefile(mode) for mode in ("rb", "wb", "rwb", "r", "w", "rw")]
        files[1].write(b"dropped")
        client.close()
        while files:
            assert client.fileno() >= 0
            del files[0]
        gc.collect()
        assert client.fileno() == -1
        assert server.recv(10) == b"dropped"
        assert server.recv(10) == b""


@fibers
def test_closing_file_and_socket_wakes_the_reader() -> None:
    with connected() as (client, _):
        file = client.makefile("rb")
        waiting = parked(file.readline)
        client.close()
        file.close()
        with pytest.raises(OSError) as raised:
            waiting.result()
        assert raised.value.errno == errno.EBADF


@pytest.mark.parametrize("name", ["readline", "read1", "peek", "read"])
@fibers
def test_a_read_that_comes_through_after_close_is_an_error(name: str) -> None:
    with connected() as (client, server):
        file = client.makefile("rb")
        waiting = parked(getattr(file, name))
        file.close()
        server.sendall(b"late\n")
        with pytest.raises(ValueError, match="closed"):
            waiting.result()


@fibers
def test_detach_gives_the_sockets_raw_file() -> None:
    with connected() as (client, server):
        file = client.makefile("w")
        file.write("text")
        buffer = file.detach()
        raw = buffer.detach()
        assert isinstance(raw, socket.SocketIO)
        assert server.recv(10) == b"text"
        raw.close()
        assert client._io_refs == 0


@fibers
def test_http_client_reads_its_answer() -> None:
    with connected() as (client, server):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = client
        answers = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: r\r\n\r\n",
        ]

        def serve() -> None:
            with server.makefile("rb") as requests:
                for answer in answers:
                    assert requests.readline() == b"GET / HTTP/1.1\r\n"
                    while requests.readline() != b"\r\n":
                        pass
                    for byte in answer:
                        server.sendall(bytes([byte]))
                        greenio.yield_now()

        serving = spawn(serve)
        for expected in (b"hello", b"hello world"):
            connection.request("GET", "/")
            response = connection.getresponse()
            assert response.read() == expected
        serving.result()
        connection.close()


def test_what_is_pending_at_the_interpreters_end_is_sent() -> None:
    with standard.create_server(("127.0.0.1", 0)) as listener:
        child = run_child("""
            import socket, sys, unittest.mock, warnings
            from greenio._buffers import BufferedRWPair, BufferedWriter
            from greenio._file_text import TextIOWrapper

            warnings.simplefilter("ignore")
            kept = []
            for index in range(3):
                sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
                raw = socket.SocketIO(sock, "rw")
                sock._io_refs += 1
                file = BufferedRWPair(raw, raw) if index == 1 else BufferedWriter(raw)
                file = TextIOWrapper(file) if index == 2 else file
                file.write("pending" if index == 2 else b"pending")
                sock.close()
                kept.append(file)
        """, str(listener.getsockname()[1]))  # fmt: skip
        assert child.stderr == ""
        for _ in range(3):
            with listener.accept()[0] as sock, sock.makefile("rb") as file:
                assert file.read() == b"pending"


def test_sockets_files_that_are_left_over_do_no_harm_at_the_end() -> None:
    child = run_child("""
        import greenio, greenio.socket, unittest.mock, warnings
        kept = []

        def main():
            for mode in ("wb", "w", "rw", "rwb", "r"):
                near, far = greenio.socket.socketpair()
                kept.extend((near, far, near.makefile(mode)))
                if "w" in mode:
                    kept[-1].write(b"x" if "b" in mode else "x")

        warnings.simplefilter("ignore")
        greenio.run(main)
        print("done")
    """)
    assert child.stdout == "done\n"


def test_what_is_put_back_comes_first() -> None:
    for size in (1, 4, 100):
        file = BufferedReader(io.BytesIO(b"abcdefgh"), size)
        assert file.read(3) == b"abc"
        file.unread(b"bc")
        file.unread(b"")
        file.unread(b"A")
        assert file.peek()[:3] == b"Abc"
        assert file.read() == b"Abcdefgh"
        file.unread(b"xyz")
        assert file.read() == b"xyz"
