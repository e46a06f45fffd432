"""Each example, run as a user runs it: a process of its own, looked at from outside."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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
def server(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "echo_server.py", "--port=0", *arguments],
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
