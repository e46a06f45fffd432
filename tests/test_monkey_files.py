"""greenio.monkey: open(), input() and the standard streams park. What patches is run in child interpreters."""

import subprocess

import pytest
from child import command, environment
from test_monkey_processes import PRELUDE, check


def piped(source: str, text: str, *, end: str = "print('ok')") -> str:
    """What a child with the patch says whose standard input is a pipe, with *text* in it, and whose end it sees."""
    done = subprocess.run(
        command(f"{PRELUDE}\n{source}\nticker.cancel()\n{end}", flags=()),
        env=environment(),
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_files_on_pipes_and_fifos_park():
    check(
        """
import io
r, w = os.pipe()
later(os.write, w, b"line\\n")
with os.fdopen(r) as file:
    assert isinstance(file, io.TextIOWrapper) and isinstance(file.buffer, io.BufferedReader)
    assert parked(file.readline) == "line\\n"
    assert stopped(file.readline)
    later(os.write, w, b"second\\n")
    assert parked(file.readline) == "second\\n"
folder = tempfile.mkdtemp()
fifo = folder + "/fifo"
os.mkfifo(fifo)

def write(text):
    with open(fifo, "w") as file:
        file.write(text)

for opener in (lambda: open(fifo), lambda: io.open(fifo, "r"), lambda: os.fdopen(os.open(fifo, os.O_RDONLY))):
    later(write, "hello")
    with parked(opener) as file:
        assert file.read() == "hello"
fd = os.open(folder, os.O_RDONLY)
later(write, "by a directory")
read = parked(lambda: os.open("fifo", os.O_RDONLY, dir_fd=fd))
assert os.get_blocking(read) and os.read(read, 99) == b"by a directory"
assert builtins.open is io.open
""".replace("import io\n", "import builtins, io\n", 1)
    )


def test_regular_files_stay_what_they_were():
    check(
        """
import _io, io
with tempfile.NamedTemporaryFile() as path:
    for mode, kind in (("w", io.TextIOWrapper), ("wb", io.BufferedWriter), ("rb", io.BufferedReader), ("r+b", io.BufferedRandom)):
        with open(path.name, mode) as file:
            assert type(file) is kind, file
    with open(path.name, "rb", 0) as file:
        assert type(file) is io.FileIO
with open(os.devnull, "rb") as file:
    assert type(file) is io.BufferedReader
r, w = os.pipe()
os.set_blocking(r, False)
with open(r, "rb", 0) as file:
    assert file.read(1) is None and type(file) is io.FileIO
for wrong in (lambda: open("/nowhere/at/all"), lambda: open(w, "zz"), lambda: open(99999)):
    try:
        wrong()
        raise AssertionError("opened")
    except (OSError, ValueError):
        pass
"""
    )


def test_two_fibers_share_one_file():
    check(
        """
r, w = os.pipe()
reader, writer = open(r, "rb"), open(w, "wb")
lines = []

def read():
    while line := reader.readline():
        lines.append(line)

def write(number):
    for _ in range(200):
        writer.write(b"%d" % number * 100 + b"\\n")
        writer.flush()

readers = [greenio.spawn(read) for _ in range(2)]
writers = [greenio.spawn(write, number) for number in range(3)]
for fiber in writers:
    fiber.join()
writer.close()
for fiber in readers:
    fiber.join()
assert sorted(lines) == sorted([b"%d" % number * 100 + b"\\n" for number in range(3)] * 200)
"""
    )


def test_an_unbuffered_write_writes_all():
    check(
        """
r, w = os.pipe()
got = []
def read():
    with open(r, "rb") as file:
        got.append(file.read())
reader = greenio.spawn(read)
with open(w, "wb", buffering=0) as file:
    assert file.write(bytes(1 << 20)) == 1 << 20
reader.join()
assert len(got[0]) == 1 << 20
"""
    )


def test_a_warning_names_the_caller():
    said = check(
        """
import warnings
r, w = os.pipe()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    open(w, "wb", buffering=1).close()
[warning] = caught
assert warning.category is RuntimeWarning and "line buffering" in str(warning.message) and warning.filename == "<string>"
"""
    )
    assert said == "ok\n"


def test_standard_input_parks_and_keeps_what_was_read_ahead():
    source = f"""
import os, sys
first = sys.stdin.readline()
stdin, stdout = sys.stdin, sys.stdout
{PRELUDE}
assert sys.stdin is stdin and sys.stdout is stdout
assert first == "one\\n" and sys.stdin.readline() == "two\\n"
assert input() == "three"
before = ticks
assert parked(sys.stdin.readline) == "four \\u20ac\\n"
assert list(sys.stdin) == ["five\\n", "six"]
assert sys.stdin.buffer.read() == b"" and sys.stdin.read() == ""
try:
    input()
    raise AssertionError("no EOFError")
except EOFError:
    pass
ticker.cancel()
print("ok")
"""
    child = subprocess.Popen(
        command(source, flags=()),
        env=environment(PYTHONIOENCODING="utf-8"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdin is not None
    child.stdin.write(b"one\ntwo\nthree\n")
    child.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1)
    out, err = child.communicate("four \u20ac\nfive\nsix".encode())
    assert out == b"ok\n", err.decode()


def test_fibers_share_standard_input():
    lines = [f"{number}\n" for number in range(1000)]
    said = piped(
        """
lines = []

def read():
    while line := sys.stdin.buffer.readline():
        lines.append(line.decode())
        greenio.yield_now()

fibers = [greenio.spawn(read) for _ in range(3)]
for fiber in fibers:
    fiber.join()
""",
        "".join(lines),
        end="sys.stdout.write(''.join(sorted(lines, key=int)))",
    )
    assert said == "".join(lines)


def test_full_standard_output_parks():
    source = f"""
{PRELUDE}
import logging
logging.basicConfig(stream=sys.stderr, format="%(message)s")
def fill():
    for _ in range(100):
        print("x" * 9999)
    sys.stdout.flush()
filler = greenio.spawn(fill)
greenio.sleep(0.01)
assert not filler.done()
before = ticks
greenio.sleep(0.01)
assert ticks > before
logging.warning("full")
filler.join()
ticker.cancel()
"""
    child = subprocess.Popen(
        command(source, flags=()),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stderr is not None and child.stdout is not None
    assert child.stderr.readline() == b"full\n"
    assert child.stdout.read() == (b"x" * 9999 + b"\n") * 100
    assert child.wait() == 0, child.stderr.read()
    child.stdout.close()
    child.stderr.close()


def test_a_terminal_parks():
    check(
        """
import io, pty
ours, theirs = pty.openpty()
later(os.write, ours, b"typed\\n")
with open(theirs, "r") as file:
    assert file.isatty() and file.line_buffering
    assert parked(file.readline) == "typed\\n"
pid, terminal = pty.fork()
if pid == 0:
    greenio.spawn(lambda: [time.sleep(0.005) for _ in range(2)])
    name = input("name? ")
    print("hello", name, flush=True)
    os._exit(0)
said = b""
while not said.endswith(b"? "):
    said += parked(os.read, terminal, 99)
os.write(terminal, b"me\\n")
said = b""
while b"hello me" not in said:
    said += os.read(terminal, 99)
assert os.waitpid(pid, 0)[1] == 0
"""
    )
