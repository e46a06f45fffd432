"""greenio.open and wrap_file: files that park, alone and shared by fibers."""

import contextlib
import errno
import fcntl
import functools
import gc
import io
import os
import pickle
import pty
import random
import signal
import stat
import subprocess
import termios
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child import run_child
from waiters import in_thread, parked

import greenio
from greenio import spawn
from greenio.testing import VirtualClock, wait_all_parked


def fibers(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The test is the main fiber of a run."""

    @functools.wraps(fn)
    def test(*args: Any, **keywords: Any) -> Any:
        return greenio.run(functools.partial(fn, *args, **keywords))

    return test


@contextlib.contextmanager
def pipe(mode: str = "", **keywords: Any) -> Iterator[tuple[Any, Any]]:
    """(reader, writer), greenio's files on a pipe."""
    ends = os.pipe()
    reader = greenio.open(ends[0], "r" + mode, **keywords)
    writer = greenio.open(ends[1], "w" + mode, **keywords)
    try:
        yield reader, writer
    finally:
        for file in (writer, reader):
            with contextlib.suppress(OSError, ValueError):  # broken or detached by the test
                file.close()


def outcome(fn: Callable[[], Any]) -> Any:
    try:
        return fn()
    except Exception as error:
        return type(error), getattr(error, "errno", None)


# --- as builtins.open ------------------------------------------------------------------------------------------------

TEXT = "".join(f"{index} \u00e9\u4e16 {'x' * (index % 91)}\n" for index in range(3000)) + "no newline at the end"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "utf-8-sig"])
@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@fibers
def test_text_is_what_the_standard_one_writes_and_reads(tmp_path: Path, encoding: str, newline: str | None) -> None:
    text = TEXT if encoding != "latin-1" else TEXT.replace("\u4e16", "\u00fc")
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for function, path in ((greenio.open, mine), (open, theirs)):
        with function(path, "w", encoding=encoding, newline=newline) as file:
            for line in text.splitlines(keepends=True):
                assert file.write(line) == len(line)
    assert mine.read_bytes() == theirs.read_bytes()
    (tmp_path / "mixed").write_bytes("a\nb\rc\r\nd\r\r\n\n\re".encode(encoding))
    for path in (mine, tmp_path / "mixed"):
        for read in (
            lambda file: file.read(),
            list,
            lambda file: file.readlines(1000),
            lambda file: [
                file.read(7),
                file.readline(),
                file.readline(3),
                file.readline(0),
                file.read(9000),
                file.read(),
            ],
            lambda file: (file.readlines(), file.newlines),
        ):
            with greenio.open(path, encoding=encoding, newline=newline) as ours:
                with open(path, encoding=encoding, newline=newline) as standard:
                    assert read(ours) == read(standard)
            # The same through a pipe, where the implementation is another one.
            with pipe("", encoding=encoding, newline=newline) as (reader, writer):
                feeder = spawn(lambda path=path, writer=writer: feed(writer, path.read_bytes()))
                with open(path, encoding=encoding, newline=newline) as standard:
                    assert read(reader) == read(standard)
                reader.close()
                feeder.join()
                feeder.exception()


def feed(writer: Any, data: bytes) -> None:
    binary = getattr(writer, "buffer", writer)
    try:
        at = 0
        pieces = random.Random(7)
        while at < len(data):
            size = pieces.choice((1, 2, 3, 100, 5000))
            binary.write(data[at : at + size])
            binary.flush()
            at += size
        writer.close()
    except BrokenPipeError:
        pass


def test_random_operations_on_binary_files_give_what_the_standard_ones_do(tmp_path: Path) -> None:
    def main() -> None:
        for seed in range(30):
            draw = random.Random(seed)
            mode = draw.choice(["r+b", "w+b", "a+b", "rb", "wb", "ab"])
            buffering = draw.choice([-1, 3, 16, 100])
            contents = draw.randbytes(300)
            paths = [tmp_path / "mine", tmp_path / "theirs"]
            for path in paths:
                path.write_bytes(contents)
            with greenio.open(paths[0], mode, buffering) as mine, open(paths[1], mode, buffering) as theirs:
                for _ in range(60):
                    name, *arguments = draw.choice(
                        [
                            ("read", draw.randrange(50)),
                            ("readline",),
                            ("readline", draw.randrange(1, 20)),
                            ("write", draw.randbytes(draw.randrange(40))),
                            ("seek", draw.randrange(300)),
                            ("seek", 0, 2),
                            ("tell",),
                            ("flush",),
                            ("truncate", draw.randrange(400)),
                            ("readinto", bytearray(draw.randrange(30))),
                        ]
                    )
                    both = [outcome(lambda file=file: getattr(file, name)(*arguments)) for file in (mine, theirs)]  # noqa: B023
                    assert both[0] == both[1], (seed, mode, buffering, name, arguments)
            assert paths[0].read_bytes() == paths[1].read_bytes(), (seed, mode)

    greenio.run(main)


@fibers
def test_text_positions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(TEXT, encoding="utf-8")
    with greenio.open(path, "r+", encoding="utf-8") as file:
        file.readline()
        second = file.tell()
        lines = file.readlines()
        file.seek(second)
        assert file.readlines() == lines
        file.seek(0, 2)
        file.write("\nmore")
        file.seek(second)
        assert file.read() == TEXT.split("\n", 1)[1] + "\nmore"
        file.seek(0)
        file.truncate(4)
        assert file.read() == TEXT[:3]
    with greenio.open(path, "a", encoding="utf-16") as file:
        assert file.tell() == 4
        file.write("a")
        assert file.tell() == 6
    with greenio.open(path, "w", encoding="utf-16") as file:
        file.write("abc")
        here = file.tell()
        file.write("def")
        file.seek(here)
        file.write("x")
        file.seek(0, 2)
        file.truncate(here + 2)
    assert path.read_text(encoding="utf-16") == "abcx"


@fibers
def test_what_is_returned_and_its_attributes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for mode, kind in (
        ("w", io.TextIOWrapper),
        ("r", io.TextIOWrapper),
        ("r+", io.TextIOWrapper),
        ("wb", io.BufferedWriter),
        ("rb", io.BufferedReader),
        ("rb+", io.BufferedRandom),
        ("wb+", io.BufferedRandom),
        ("ab", io.BufferedWriter),
    ):
        with greenio.open(path, mode) as mine, open(path, mode) as theirs:
            assert isinstance(mine, kind)
            assert type(theirs) is kind
            for name in ("name", "mode", "closed", "encoding", "errors", "line_buffering", "newlines", "write_through"):
                assert getattr(mine, name, None) == getattr(theirs, name, None), (mode, name)
            for name in ("readable", "writable", "seekable", "isatty"):
                assert getattr(mine, name)() == getattr(theirs, name)()
            assert isinstance(mine.fileno(), int)
            assert str(path) in repr(mine)
        assert mine.closed
        for call in (mine.flush, mine.fileno, mine.tell, mine.isatty, lambda: mine.read(0), mine.__enter__):
            with pytest.raises(ValueError):
                call()
        mine.close()
    with greenio.open(path, "rb", buffering=0) as raw:
        assert isinstance(raw, greenio.FdIO)
    with greenio.open(path, "xb") if not path.exists() else contextlib.nullcontext():
        pass
    with pytest.raises(FileExistsError):
        greenio.open(path, "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()


def umask() -> int:
    present = os.umask(0)
    os.umask(present)
    return present


@fibers
def test_misuse_is_told_as_by_the_standard_one(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    path = str(tmp_path / "file")
    for arguments in (
        {"file": path},
        {"file": str(tmp_path)},
        {"file": str(tmp_path), "mode": "w"},
        {"file": path, "mode": "q"},
        {"file": path, "mode": ""},
        {"file": path, "mode": "rw"},
        {"file": path, "mode": "rr"},
        {"file": path, "mode": "rbt"},
        {"file": path, "mode": "rb", "encoding": "utf-8"},
        {"file": path, "mode": "rb", "errors": "strict"},
        {"file": path, "mode": "rb", "newline": ""},
        {"file": path, "buffering": 0},
        {"file": path, "newline": "x"},
        {"file": path, "encoding": 5},
        {"file": path, "mode": 5},
        {"file": path, "closefd": False},
        {"file": 1.5},
        {"file": None},
        {"file": -1},
        {"file": 1 << 20},
        {"file": "nul\0"},
        {"file": path, "mode": "w", "encoding": "no such"},
        {"file": path, "opener": lambda *_: -1},
        {"file": path, "opener": lambda *_: "x"},
    ):
        if "buffering" in arguments or "newline" in arguments:  # the standard one looks at these last
            Path(path).touch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it left something open
            mine, theirs = (outcome(lambda f=f, arguments=arguments: f(**arguments)) for f in (greenio.open, open))
        assert mine == theirs, arguments
        with contextlib.suppress(OSError):
            os.unlink(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
    assert os.listdir("/proc/self/fd") == before


@fibers
def test_an_opener_is_called_elsewhere_and_its_descriptor_is_closed(tmp_path: Path) -> None:
    here = threading.get_ident()
    seen = []

    def opener(path: str, flags: int) -> int:
        seen.append((path, flags, threading.get_ident()))
        return os.open(tmp_path / "real", flags, 0o600)

    with greenio.open("nominal", "w", opener=opener) as file:
        file.write("text")
        assert file.name == "nominal"
        assert not os.get_inheritable(file.fileno())
    assert (tmp_path / "real").read_text() == "text"
    assert seen[0][:2] == ("nominal", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
    assert seen[0][2] != here


@fibers
def test_small_reads_and_writes_take_no_other_thread(tmp_path: Path) -> None:
    from greenio import _io

    path = tmp_path / "file"
    path.write_bytes(b"0123456789\n" * 2000)
    calls = []
    real = _io.os.pread, _io.os.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", lambda *args: calls.append("read") or real[0](*args))
        patch.setattr(os, "write", lambda *args: calls.append("write") or real[1](*args))
        with greenio.open(path, "rb") as file:
            while file.read(1):
                pass
        with greenio.open(path) as file:
            assert sum(1 for _ in file) == 2000
        assert len(calls) <= 6
        calls.clear()
        with greenio.open(path, "w") as file:
            for _ in range(5000):
                file.write("0123456789\n")
        assert calls == ["write"]


@fibers
def test_others_run_while_a_disk_is_waited_for(tmp_path: Path) -> None:
    go = threading.Event()
    real = os.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: (go.wait(), real(fd, data))[1])
        with greenio.open(tmp_path / "file", "w") as file:
            file.write("text")
            flusher = spawn(file.flush)
            while flusher.state != "parked":
                greenio.yield_now()
            file.write("more")
            assert flusher.state == "parked"
            go.set()
            flusher.result()
    assert (tmp_path / "file").read_text() == "textmore"


# --- shared by fibers ------------------------------------------------------------------------------------------------


def prints(file: Any, fiber: int, count: int) -> None:
    for index in range(count):
        print(f"fiber {fiber} line {index} " + "x" * (index * 7 % 300), file=file)


def expected_lines(fibers: int, count: int) -> list[str]:
    made = (
        f"fiber {fiber} line {index} " + "x" * (index * 7 % 300) + "\n"
        for fiber in range(fibers)
        for index in range(count)
    )
    return sorted(made)


@pytest.mark.parametrize(("buffering", "through"), [(-1, False), (1, False), (50, False), (-1, True)])
@fibers
def test_a_hundred_fibers_print_to_one_pipe_and_lines_stay_whole(buffering: int, through: bool) -> None:
    ends = os.pipe()
    with greenio.open(ends[0]) as reader:
        got: list[str] = []
        reading = spawn(lambda: got.extend(reader))
        with greenio.open(ends[1], "w", buffering) as writer:
            writer.reconfigure(write_through=through)
            printing = [spawn(prints, writer, fiber, 30) for fiber in range(100)]
            for fiber in printing:
                fiber.result()
        reading.result()
    assert sorted(got) == expected_lines(100, 30)
    for fiber in range(100):
        mine = [line for line in got if line.startswith(f"fiber {fiber} ")]
        assert mine == sorted(mine, key=lambda line: int(line.split()[3]))


@fibers
def test_fibers_print_to_one_file_on_disk(tmp_path: Path) -> None:
    for mode in ("w", "w+", "a"):
        path = tmp_path / mode
        with greenio.open(path, mode, 200) as file:
            for fiber in [spawn(file.write, line) for line in expected_lines(20, 20)]:
                fiber.result()
        assert sorted(path.read_text().splitlines(keepends=True)) == expected_lines(20, 20)


@pytest.mark.parametrize("mode", ["", "b"])
@fibers
def test_fibers_read_whole_lines_from_one_file(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "file"
    path.write_text("".join(expected_lines(50, 40)))
    sources = [greenio.open(path, "r" + mode, 100)]
    ends = os.pipe()
    sources.append(greenio.open(ends[0], "r" + mode, 100))
    feeder = spawn(lambda: feed(greenio.open(ends[1], "w"), path.read_bytes()))
    for source in sources:
        with source:
            got: list[Any] = []

            def read(source: Any = source, got: list[Any] = got) -> None:
                while line := source.readline():
                    got.append(line if mode == "" else line.decode())
                    greenio.yield_now()

            for fiber in [spawn(read) for _ in range(20)]:
                fiber.result()
            assert sorted(got) == expected_lines(50, 40)
    feeder.result()


def test_two_runs_and_a_thread_share_one_pipe() -> None:
    ends = os.pipe()
    with greenio.open(ends[0]) as reader, greenio.open(ends[1], "w") as writer:
        got: list[str] = []
        reading = in_thread(lambda: got.extend(reader))
        writing = [in_thread(greenio.run, prints, writer, fiber, 50) for fiber in range(2)]
        writing.append(in_thread(prints, writer, 2, 50))
        for thread in writing:
            thread.join()
            assert thread.outcome == [None]
        writer.close()
        reading.join()
        assert sorted(got) == expected_lines(3, 50)


# --- cancelled, timed out, closed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["", "b"])
@fibers
def test_a_cancelled_read_loses_nothing(mode: str) -> None:
    def text(data: bytes) -> Any:
        return data if mode else data.decode()

    with pipe(mode) as (reader, writer):
        for read in (reader.readline, reader.read, lambda: reader.read(100)):
            waiter = parked(read)
            raw_of(writer).write("dr\u00e9i ".encode()[:3])
            wait_all_parked()
            waiter.cancel()
            waiter.join()
            assert waiter.cancelled()
            with greenio.move_on_after(0.001):
                read()
            raw_of(writer).write("dr\u00e9i ".encode()[3:])
        assert reader.read(3 if mode == "" else 4) == text("dr\u00e9".encode())
        raw_of(writer).write(b"end\nmore")
        assert reader.readline() == text("i dr\u00e9i dr\u00e9i end\n".encode())
        writer.close()
        assert reader.read() == text(b"more")


def raw_of(file: Any) -> Any:
    return getattr(file, "buffer", file).raw


@fibers
def test_cancelled_again_and_again_a_stream_comes_through_whole() -> None:
    draw = random.Random(11)
    data = "".join(expected_lines(10, 20))
    for mode in ("", "b"):
        ends = os.pipe()
        reader, writer = greenio.open(ends[0], "r" + mode, 64), greenio.open(ends[1], "wb", 0)
        got: list[Any] = []

        def feed_slowly(writer: Any = writer) -> None:
            rest = data.encode()
            while rest:
                rest = rest[writer.write(rest[: draw.randrange(1, 60)]) :]
                greenio.yield_now()
            writer.close()

        def read(reader: Any = reader, got: list[Any] = got) -> None:
            while part := draw.choice([reader.readline, lambda: reader.read(draw.randrange(1, 50))])():
                got.append(part)
            got.append(None)

        feeding = spawn(feed_slowly)
        while not (got and got[-1] is None):
            fiber = spawn(read)
            for _ in range(draw.randrange(6)):
                greenio.yield_now()
            if not fiber.done() and draw.random() < 0.9:
                fiber.cancel()
            fiber.join()
        feeding.result()
        reader.close()
        joined = ("" if mode == "" else b"").join(got[:-1])
        assert joined == (data if mode == "" else data.encode())


@fibers
def test_cancelled_writers_write_all_or_nothing() -> None:
    draw = random.Random(5)
    ends = os.pipe()
    with greenio.open(ends[0]) as reader, greenio.open(ends[1], "w", 100) as writer:
        accepted: list[str] = []

        def write(line: str) -> None:
            try:
                writer.write(line)
            except greenio.Cancelled as error:
                if error.characters_written:  # type: ignore[attr-defined]
                    accepted.append(line)
                raise
            accepted.append(line)

        lines = [f"{index} {'x' * draw.randrange(3000)}\n" for index in range(300)]
        writing = [spawn(write, line) for line in lines]
        wait_all_parked()
        for fiber in writing:
            if draw.random() < 0.5:
                fiber.cancel()
        got: list[str] = []
        reading = spawn(lambda: got.extend(reader))
        for fiber in writing:
            fiber.join()
        writer.close()
        reading.result()
        assert 10 < len(got) < 300
        assert sorted(got) == sorted(accepted)


@fibers
def test_a_large_write_that_is_cancelled_tells_how_far_it_got() -> None:
    with pipe("b") as (reader, writer):
        data = os.urandom(500_000)
        told = []

        def write() -> None:
            try:
                writer.write(data)
            except greenio.Cancelled as error:
                told.append(error.characters_written)  # type: ignore[attr-defined]
                raise

        waiter = parked(write)
        waiter.cancel()
        waiter.join()
        assert 0 < told[0] < len(data)
        closing = spawn(writer.close)
        assert reader.read() == data[: told[0]]
        closing.result()


@fibers
def test_a_cancelled_flush_keeps_what_was_not_written() -> None:
    with pipe() as (reader, writer):
        writer.buffer._buffer.size = 1 << 20  # so that writes do not park
        writer.write("x" * 200_000 + "\n")
        flushing = parked(writer.flush)
        flushing.cancel()
        flushing.join()
        reading = spawn(reader.read)
        writer.close()
        assert reading.result() == "x" * 200_000 + "\n"


@fibers
def test_a_file_on_disk_is_written_out_although_its_fiber_is_cancelled(tmp_path: Path) -> None:
    def write(path: Path, mode: str) -> None:
        with greenio.open(path, mode) as file:
            file.write("kept" if "b" not in mode else b"kept")
            greenio.sleep(1000)

    for mode in ("w", "w+", "wb"):
        waiter = parked(write, tmp_path / mode, mode)
        waiter.cancel()
        waiter.join()
        assert waiter.cancelled()
        assert (tmp_path / mode).read_text() == "kept"


@fibers
def test_closing_a_pipe_that_nobody_reads_can_be_cancelled() -> None:
    with pipe() as (reader, writer):
        writer.buffer._buffer.size = 1 << 20
        writer.write("x" * 200_000 + "\n")
        closing = parked(writer.close)
        closing.cancel()
        closing.join()
        assert closing.cancelled()
        assert writer.closed
        assert 0 < len(reader.read()) < 200_000


@pytest.mark.parametrize("mode", ["", "b"])
@fibers
def test_close_wakes_whoever_waits(mode: str) -> None:
    with pipe(mode) as (reader, _):
        waiters = [parked(reader.readline) for _ in range(3)]
        reader.close()
        for waiter in waiters:
            with pytest.raises((OSError, ValueError)) as raised:
                waiter.result()
            assert getattr(raised.value, "errno", errno.EBADF) == errno.EBADF


@fibers
def test_a_broken_pipe_is_told_and_the_file_closed() -> None:
    with pipe() as (reader, writer):
        reader.close()
        writer.write("text\n")
        with pytest.raises(BrokenPipeError):
            writer.flush()
        with pytest.raises(BrokenPipeError):
            writer.close()
        assert writer.closed


def test_a_read_times_out() -> None:
    def main() -> None:
        with pipe() as (reader, writer):
            start = greenio.current_time()
            with pytest.raises(TimeoutError), greenio.timeout(3):
                reader.readline()
            assert greenio.current_time() == start + 3
            print("line", file=writer, flush=True)
            assert reader.readline() == "line\n"

    greenio.run(main, clock=VirtualClock())


# --- FIFOs, ttys, devices, standard streams --------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["r", "w"])
@fibers
def test_opening_a_fifo_parks_until_the_other_side_is_there(tmp_path: Path, first: str) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    one = spawn(greenio.open, path, first)
    for _ in range(3):
        with greenio.move_on_after(0.003):
            greenio.Event().wait()
        assert not one.done()
    other = spawn(greenio.open, path, "w" if first == "r" else "r")
    files = {first: one.result(), "w" if first == "r" else "r": other.result()}
    with files["r"] as reader, files["w"] as writer:
        waiter = parked(reader.readline)
        print("through", file=writer, flush=True)
        assert waiter.result() == "through\n"
        writer.close()
        assert reader.read() == ""


@pytest.mark.parametrize("mode", ["r", "w"])
@fibers
def test_opening_a_fifo_meets_another_process(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opening = spawn(greenio.open, path, mode)
    greenio.yield_now()
    command = ["sh", "-c", f"cat {path}" if mode == "w" else f"echo hello > {path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        with opening.result() as file:
            if mode == "w":
                file.write("hello\n")
            else:
                assert file.read() == "hello\n"
        if mode == "w":
            assert process.communicate()[0] == b"hello\n"


@pytest.mark.parametrize("mode", ["r", "w"])
@fibers
def test_opening_a_fifo_can_be_cancelled(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with greenio.move_on_after(0.005) as scope:
            greenio.open(path, mode)
        assert scope.cancelled_caught
    while os.listdir("/proc/self/fd") != before:  # the last attempt may be on its way still
        greenio.sleep(0.001)
    with greenio.open(path, "r+b", 0) as both:
        both.write(b"x")
        assert both.read(5) == b"x"


@fibers
def test_a_fifo_whose_writer_was_quick_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opening = spawn(greenio.open, path)
    while opening.state != "parked":
        greenio.yield_now()
    greenio.to_thread(path.write_text, "quick")
    with opening.result() as file:
        assert file.read() == "quick"


@fibers
def test_opening_a_fifo_works_where_nobody_tells_of_opens(tmp_path: Path) -> None:
    # No inotify instance to be had: it is looked again and again.
    path = tmp_path / "fifo"
    os.mkfifo(path)
    for first in ("r", "w"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("greenio._files.watch_opens", lambda path: -1)
            one = spawn(greenio.open, path, first)
            greenio.sleep(0.005)
            assert not one.done()
            with greenio.open(path, "w" if first == "r" else "r") as other, one.result() as mine:
                writer, reader = (other, mine) if first == "r" else (mine, other)
                print("through", file=writer, flush=True)
                assert reader.readline() == "through\n"


@fibers
def test_buffers_do_what_the_standard_ones_do_at_their_edges(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 100)

    def use(make: Callable[..., Any]) -> Any:
        with make(path, "r+b", 64) as file:
            found = [
                outcome(lambda: file.read(-2)),
                outcome(lambda: len(file.read1())) and None,
                file.seek(0),
                file.read1(0),
                file.read(10),
                file.seek(5, os.SEEK_CUR),
                file.read(3),
                file.seek(-4, os.SEEK_CUR),
                file.read(1),
                file.seek(-3, os.SEEK_END),
                len(file.read(None)),
                outcome(lambda: file.seek(0, 9)),
                file.seek(2),
                file.write(memoryview(b"ab")),
                file.write(bytearray(b"c")),
                file.write(b"y" * 62),
                file.write(b"z" * 200),
                file.tell(),
                file.seek(0),
                file.read(300),
                outcome(lambda: pickle.dumps(file)),
            ]
        with make(path, "r", 1, "latin-1") as text:
            found += [text.read(3), outcome(lambda: pickle.dumps(text)), outcome(lambda: text.write("x"))]
        with make(path, "w") as text:
            found += [outcome(lambda: pickle.dumps(text)), outcome(lambda: text.read(1)), outcome(text.readline)]
            text.reconfigure(line_buffering=True)
            print("line", file=text)
            found.append(path.read_text())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            with make(path, "rb", 1) as file:
                found.append(file.readline())
        return found

    content = path.read_bytes()
    theirs = use(open)
    path.write_bytes(content)
    assert use(greenio.open) == theirs


@fibers
def test_pipes_cannot_be_moved_in() -> None:
    with pipe("b") as (reader, writer):
        for file in (reader, writer):
            with pytest.raises(io.UnsupportedOperation):
                file.seek(0)
            with pytest.raises(TypeError, match="pickle"):
                pickle.dumps(file)
            with pytest.raises(ValueError, match="buffer size"):
                type(file)(file.raw, 0)


@fibers
def test_a_tty_parks_and_its_buffering_is_by_lines() -> None:
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    with greenio.open(os.ttyname(slave), "r") as reader, greenio.open(slave, "w") as writer:
        with greenio.open(master, "r+b", 0) as terminal:
            assert writer.line_buffering
            waiter = parked(reader.readline)
            terminal.write(b"typed\n")
            assert waiter.result() == "typed\n"
            print("shown", file=writer)
            assert terminal.read(100) == b"shown\n"
            terminal.write(b"\x04")  # the end, once
            assert reader.read() == ""
            waiter = parked(reader.readline)
            terminal.write(b"again\n")
            assert waiter.result() == "again\n"
            reader.close()
            writer.close()


@fibers
def test_devices() -> None:
    with greenio.open("/dev/null", "w") as file:
        print("gone", file=file)
    with greenio.open("/dev/null") as file:
        assert file.read() == ""
    with greenio.open("/dev/zero", "rb") as file:
        assert file.read(5) == bytes(5)
    with greenio.open("/proc/self/status") as file:
        assert file.readline().startswith("Name:")
    with greenio.open("/dev/urandom", "rb", 0) as file:
        assert len(file.read(7)) == 7
    for buffering in (-1, 1):
        file = greenio.open("/dev/full", "w", buffering)
        with pytest.raises(OSError) as raised:
            file.write("x\n")
            file.close()
        assert raised.value.errno == errno.ENOSPC
        with contextlib.suppress(OSError):
            file.close()
        assert file.closed


STREAMS = """
    import fcntl, os, sys, greenio

    def main():
        before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in range(3)]
        with {stdin} as stdin, {stdout} as stdout:
            def shout(line):
                print(line.strip().upper(), file=stdout)
            fibers = [greenio.spawn(shout, line) for line in stdin]
            for fiber in fibers:
                fiber.result()
            print("end", file=stdout)
        assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in range(3)] == before

    greenio.run(main)
"""


@pytest.mark.parametrize(
    ("stdin", "stdout"),
    [
        ("greenio.wrap_file(sys.stdin)", "greenio.wrap_file(sys.stdout)"),
        ("greenio.open(0, closefd=False)", "greenio.open(1, 'w', closefd=False)"),
        ("greenio.open('/dev/stdin')", "greenio.open('/dev/stdout', 'a')"),
    ],
)
@pytest.mark.parametrize("how", ["pipe", "file"])
@pytest.mark.slow
def test_standard_streams(tmp_path: Path, stdin: str, stdout: str, how: str) -> None:
    import textwrap

    from child import command, environment

    text = "".join(f"line {index}\n" for index in range(500))
    arguments = command(textwrap.dedent(STREAMS.format(stdin=stdin, stdout=stdout)))
    if how == "pipe":
        done = subprocess.run(arguments, input=text, capture_output=True, text=True, env=environment(), check=False)
        output, errors = done.stdout, done.stderr
    else:
        (tmp_path / "in").write_text(text)
        with open(tmp_path / "in") as source, open(tmp_path / "out", "w") as target:
            done = subprocess.run(
                arguments,
                stdin=source,
                stdout=target,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(),
                check=False,
            )
        output, errors = (tmp_path / "out").read_text(), done.stderr
    assert done.returncode == 0, errors
    assert sorted(output.splitlines()) == sorted([*text.upper().splitlines(), "end"])


@fibers
def test_wrap_file_keeps_kind_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open(path, "w+", encoding="utf-16", errors="replace") as theirs:
        theirs.write("first ")
        with greenio.wrap_file(theirs) as mine:
            assert (mine.encoding, mine.errors, mine.mode, mine.name) == ("utf-16", "replace", "w+", theirs.name)
            mine.write("second")
        theirs.flush()
        assert not theirs.closed
    with open(path, "rb") as theirs, greenio.wrap_file(theirs) as mine:
        assert isinstance(mine, io.BufferedReader)
        assert mine.read() == path.read_bytes()
    with open(path, "rb", buffering=0) as theirs, greenio.wrap_file(theirs) as mine:
        assert isinstance(mine, greenio.FdIO)
    for wrong in ("path", 5, None):
        with pytest.raises(TypeError):
            greenio.wrap_file(wrong)
    with pytest.raises(OSError):
        greenio.wrap_file(io.StringIO())
    assert theirs.closed
    with pytest.raises(ValueError):
        greenio.wrap_file(theirs)


# --- the rest --------------------------------------------------------------------------------------------------------


@fibers
def test_reconfigure(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with greenio.open(path, "w", encoding="utf-8") as file:
        file.write("\u00e9\n")
        file.reconfigure(encoding="latin-1", newline="\r\n", line_buffering=True)
        file.write("\u00e9\n")
        assert path.read_bytes() == b"\xc3\xa9\n\xe9\r\n"
        file.reconfigure(write_through=True)
        file.write("z")
        assert path.read_bytes().endswith(b"z")
    with pipe(encoding="utf-8") as (reader, writer):
        reader.reconfigure(encoding="latin-1")
        writer.write("\u00e9\n\n")
        writer.flush()
        assert reader.readline() == "\u00c3\u00a9\n"
        with pytest.raises(io.UnsupportedOperation):
            reader.reconfigure(encoding="utf-8")


@fibers
def test_detach_gives_the_layer_below() -> None:
    with pipe() as (reader, writer):
        writer.write("text\n")
        buffer = writer.detach()
        with pytest.raises(ValueError):
            writer.write("x")
        raw = buffer.detach()
        assert isinstance(raw, greenio.FdIO)
        raw.write(b"more\n")
        raw.close()
        assert reader.readlines() == ["text\n", "more\n"]


@fibers
def test_an_unclosed_file_warns_and_is_written_out(tmp_path: Path) -> None:
    for mode in ("w", "wb", "w+", "w+b"):
        path = tmp_path / "file"
        file: Any = greenio.open(path, mode)
        file.write("text" if "b" not in mode else b"text")
        with pytest.warns(ResourceWarning, match="unclosed file"):
            del file
        assert path.read_text() == "text"


def test_files_work_without_fibers(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with greenio.open(path, "w") as file:
        prints(file, 0, 100)
    with greenio.open(path) as file:
        assert sorted(file) == expected_lines(1, 100)
    with greenio.open(path, "r+b") as file:
        file.seek(5)
        file.write(b"X")
        file.seek(0)
        assert file.read(7) == b"fiberX0"
    with greenio.open("/dev/null", "rb") as file:
        assert file.read() == b""


@fibers
def test_files_of_a_run_may_be_closed_after_it(tmp_path: Path) -> None:
    left: list[Any] = []
    path = tmp_path / "file"

    def write() -> None:
        file = greenio.open(path, "w")
        file.write("late")
        left.append(file)

    thread = in_thread(greenio.run, write)
    thread.join()
    assert thread.outcome == [None]
    left[0].close()
    assert path.read_text() == "late"


@pytest.mark.slow
def test_what_is_open_when_the_interpreter_exits_is_written_out(tmp_path: Path) -> None:
    run_child(
        f"""
        import greenio, sys
        file = None

        def main():
            global file
            file = greenio.open({str(tmp_path / "file")!r}, "w")
            file.write("text")
            sys.stdout = greenio.wrap_file(sys.stdout)
            print("printed")

        greenio.run(main)
        """,
        flags=(),
    )
    assert (tmp_path / "file").read_text() == "text"


@fibers
def test_files_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        for mode in ("w", "r", "r+", "rb", "ab"):
            greenio.open(path, mode).close()
        with pipe() as (reader, _):
            waiter = parked(reader.readline)
            waiter.cancel()
            waiter.join()
    for _ in range(20):
        opening = spawn(greenio.open, path)
        greenio.yield_now()
        opening.cancel()
        opening.join()
        if not opening.cancelled():
            opening.result().close()
    greenio.to_thread(lambda: None)
    while os.listdir("/proc/self/fd") != before:
        greenio.sleep(0.001)


# --- openings that fail or wait ------------------------------------------------------------------------------------------


@fibers
def test_a_codec_that_is_not_for_text_is_refused_and_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"text")
    before = os.listdir("/proc/self/fd")
    said = []
    for opens in (open, greenio.open):
        with pytest.raises(LookupError) as caught:
            opens(path, encoding="rot13")
        said.append(str(caught.value))
    assert said[0] == said[1]
    del caught
    gc.collect()
    assert os.listdir("/proc/self/fd") == before


def test_opening_waits_until_a_lease_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "leased"
    path.write_bytes(b"contents")
    holder = os.open(path, os.O_RDWR)
    given_back = []

    def give_back(*_: Any) -> None:
        given_back.append(fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK))

    before = signal.signal(signal.SIGIO, give_back)
    try:
        try:
            fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            pytest.skip(f"no leases on this file system: {error}")

        def main() -> bytes:
            with greenio.open(path, "rb") as file:
                return file.read()

        assert greenio.run(main) == b"contents"
        assert given_back == [0]
    finally:
        os.close(holder)
        signal.signal(signal.SIGIO, before)
