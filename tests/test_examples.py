"""Each example, run as a user runs it: a process of its own, looked at from outside."""

import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from child import environment

EXAMPLES = Path(__file__).parent.parent / "examples"
SECONDS = 60  # the time limit of a child process; far above what it needs


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / arguments[0], *arguments[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@contextmanager
def server(*arguments: str, program: str = "echo_server.py") -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    with subprocess.Popen(
        [sys.executable, EXAMPLES / program, "--port=0", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            found = re.fullmatch(r"listening on ([\d.]+):(\d+)\n", line)
            assert found, line + (child.communicate(timeout=SECONDS)[1])
            yield child, (found[1], int(found[2]))
        finally:
            child.kill()


def ask(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(4096)


def wait_stopping(child: subprocess.Popen[str], address: tuple[str, int]) -> None:
    """Returns once the server says that it stops; from then on it accepts no connection."""
    assert child.stdout is not None
    assert child.stdout.readline().startswith("stopping: 1 connections open, ")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=SECONDS)


def test_hello_prints_what_came_back() -> None:
    result = run("hello.py")
    assert (result.returncode, result.stdout, result.stderr) == (0, "HELLO\nFIBERS\n", "")


def test_readme_shows_the_hello_example() -> None:
    readme = (EXAMPLES.parent / "README.md").read_text()
    shown = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert shown
    # The README leaves out the annotations and the guard.
    example = (EXAMPLES / "hello.py").read_text().split('"""\n\n', 1)[1]
    example = example.replace(": socket.socket", "").replace(" -> None", "")
    example = example.replace('if __name__ == "__main__":\n    greenio.run(main)', "greenio.run(main)")
    assert shown[1] == example


@pytest.mark.slow
def test_selftest_verifies_every_byte() -> None:
    result = run("echo_server.py", "--selftest")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "100 connections, 5000 requests of 1024 bytes, every byte compared" in result.stdout
    assert "0 failed" in result.stdout
    assert "stopped: 0 connections finished, 0 cancelled" in result.stdout


@pytest.mark.slow
def test_client_reports_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        result = run("echo_client.py", f"--port={taken.getsockname()[1]}", "--connections=3")
    assert result.returncode == 1
    assert "3 failed" in result.stdout
    assert "ConnectionRefusedError" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_lets_open_connections_finish(number: signal.Signals) -> None:
    with server(f"--grace={SECONDS}") as (child, address):
        with socket.create_connection(address, timeout=SECONDS) as connection:
            assert ask(connection, b"before") == b"before"
            child.send_signal(number)
            wait_stopping(child, address)
            assert ask(connection, b"after") == b"after"
        output, errors = child.communicate(timeout=SECONDS)
        assert (child.returncode, errors) == (0, "")
        assert output == "stopped: 1 connections finished, 0 cancelled\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_cancels_what_outstays_the_grace_period(number: signal.Signals) -> None:
    with (
        server("--grace=0.1") as (child, address),
        socket.create_connection(address, timeout=SECONDS) as connection,
    ):
        assert ask(connection, b"before") == b"before"
        child.send_signal(number)
        wait_stopping(child, address)
        assert connection.recv(4096) == b""
        output, errors = child.communicate(timeout=SECONDS)
        assert (child.returncode, errors) == (0, "")
        assert output == "stopped: 0 connections finished, 1 cancelled\n"


@pytest.mark.slow
def test_second_interrupt_ends_the_grace_period() -> None:
    with (
        server(f"--grace={10 * SECONDS}") as (child, address),
        socket.create_connection(address, timeout=SECONDS) as connection,
    ):
        assert ask(connection, b"before") == b"before"
        child.send_signal(signal.SIGINT)
        wait_stopping(child, address)
        child.send_signal(signal.SIGINT)
        assert connection.recv(4096) == b""
        output, errors = child.communicate(timeout=SECONDS)
        assert (child.returncode, errors) == (0, "")
        assert output == "stopped: 0 connections finished, 1 cancelled\n"


def test_examples_of_one_idea_are_under_sixty_lines() -> None:
    for name in ("hello.py", "chat_server.py", "pipeline.py", "rate_limiter.py"):
        assert len((EXAMPLES / name).read_text().splitlines()) < 60, name


def test_pipeline_counts_every_word_once(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.py").write_text("one two two\n" * number)
    result = run("pipeline.py", str(tmp_path))
    words = sum(range(40))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"40 files, {3 * words} words\n{2 * words:8} two\n{words:8} one\n"


def test_pipeline_ends_at_its_deadline(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text("one")
    result = run("pipeline.py", str(tmp_path), "--seconds=0")
    assert (result.returncode, result.stdout, result.stderr) == (0, "0 files, 0 words, cut short\n", "")


def test_rate_limiter_gives_each_permit_once_and_in_order() -> None:
    result = run("rate_limiter.py", "--rate=200", "--burst=3", "--calls=10")
    assert (result.returncode, result.stderr) == (0, "")
    found = re.findall(r"([\d.]+) s: (alice|bob) makes call (\d+)\n", result.stdout)
    assert [int(permit) for _, _, permit in found] == list(range(20))
    assert sorted(name for _, name, _ in found) == ["alice"] * 10 + ["bob"] * 10
    times = [float(time) for time, _, _ in found]
    assert times == sorted(times)
    assert times[-1] >= 16 / 200, "3 at once and one more being filled, the others at the rate"


def read_until(connection: socket.socket, end: bytes) -> bytes:
    text = b""
    while not text.endswith(end):
        more = connection.recv(65536)
        assert more, text
        text += more
    return text


def chat(address: tuple[str, int], name: bytes, room_bytes: int | None = None) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(SECONDS)
    if room_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room_bytes)
    connection.connect(address)
    read_until(connection, b"your name? ")
    connection.sendall(name + b"\n")
    return connection


def test_chat_tells_everybody_and_stops_when_asked() -> None:
    with server(program="chat_server.py") as (child, address):
        with chat(address, b"ann") as ann:
            read_until(ann, b"ann is here\n")
            with chat(address, b"bob") as bob:
                read_until(ann, b"bob is here\n")
                read_until(bob, b"bob is here\n")
                ann.sendall(b"good morning\n")
                assert read_until(bob, b"morning\n") == b"ann: good morning\n"
            read_until(ann, b"bob has left\n")
            child.send_signal(signal.SIGTERM)
            assert ann.recv(100) == b""
        output, errors = child.communicate(timeout=SECONDS)
        assert (child.returncode, output, errors) == (0, "", "")


@pytest.mark.slow
def test_chat_cuts_off_who_does_not_read() -> None:
    with server(program="chat_server.py") as (child, address), chat(address, b"ann") as ann:
        read_until(ann, b"ann is here\n")
        with chat(address, b"sleeper", 4096) as sleeper:
            read_until(ann, b"sleeper is here\n")
            line = b"x" * 990 + b"\n"
            for _ in range(20_000):  # more than the sockets and the buffer hold; ann waits for nobody
                ann.sendall(line)
                read_until(ann, line)
            seen = 0
            while data := sleeper.recv(65536):
                seen += len(data)
        assert seen < 20_000 * len(line)
        assert child.stdout is not None
        assert child.stdout.readline().startswith("cut off: ")
        ann.sendall(b"still here\n")
        read_until(ann, b"ann: still here\n")


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_line_server_answers_and_drains(tmp_path: Path, tls: bool, ended_by: signal.Signals) -> None:
    authority = trustme.CA()
    (tmp_path / "server.pem").write_bytes(authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes())
    arguments = [f"--certificate={tmp_path / 'server.pem'}"] if tls else []
    with server(*arguments, "--grace=0.05", program="line_server.py") as (child, address):
        with socket.create_connection(address, timeout=SECONDS) as connection:
            if tls:
                context = ssl.create_default_context()
                authority.configure_trust(context)
                connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
            with connection:
                assert ask(connection, b"three words here\n") == b"3\n"
                connection.sendall(b"two ")
                assert ask(connection, b"words\n\n") in (b"2\n0\n", b"2\n")
                child.send_signal(ended_by)
                out, err = child.communicate(timeout=SECONDS)
        assert (out, err, child.returncode) == ("0 finished, 1 cut off\n", "", 0)


@pytest.mark.slow
def test_an_unchanged_program_needs_no_os_threads() -> None:
    def os_threads(*options: str) -> int:
        done = subprocess.run(
            [sys.executable, *options, EXAMPLES / "unchanged.py"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        found = re.fullmatch(r"100 pages, (\d+) OS threads\n", done.stdout)
        assert found, done.stdout
        return int(found[1])

    assert os_threads() > 50
    assert os_threads("-m", "greenio") < 20
