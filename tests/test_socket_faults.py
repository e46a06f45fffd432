"""Sockets under faults of the system: interrupted, refused, cut short, woken for nothing. Not a byte is lost or changed."""

from pathlib import Path

import pytest
from faults import Faults

SCENARIOS = Path(__file__).parent / "crash" / "socket_faults.py"

EACH = {
    "recv interrupted": "recv=EINTR:0.3",
    "send interrupted": "send=EINTR:0.3",
    "recv finds nothing": "recv=EAGAIN:0.6",
    "send finds no room": "send=EAGAIN:0.6",
    "short reads": "recv=short:0.7",
    "short writes": "send=short:0.7",
    "poller interrupted": "epoll=EINTR:0.3",
    "ready for nothing": "epoll=spurious:0.5",
    "all at once": "recv=EINTR:0.1,EAGAIN:0.2,short:0.3;send=EINTR:0.1,EAGAIN:0.2,short:0.3;epoll=EINTR:0.1,spurious:0.3",
}


def under_faults(faults: Faults, name: str, text: str, seed: int = 0) -> str:
    child = faults.run(SCENARIOS, text, name, str(seed), seed=seed)
    assert child.stdout.endswith("ok\n")
    assert child.stderr == ""
    return child.stdout


# --- the injection itself --------------------------------------------------------------------------------------------


def test_faults_happen_as_told_and_only_while_active(faults: Faults) -> None:
    told = faults.run(
        """
        import errno, os, socket, faults

        left, right = socket.socketpair()
        left.setblocking(False)
        right.sendall(b"abc")

        def outcome(size):
            try:
                return left.recv(size)
            except OSError as error:
                return error.errno

        with faults.active():
            assert outcome(10) == errno.EAGAIN
            assert right.send(b"x" * 100) < 100
        assert faults.count("recv", "EAGAIN") == faults.count("send", "short") == 1
        assert outcome(3) == b"abc"
        faults.choose("recv=ECONNRESET:1", seed=3)
        with faults.active():
            assert outcome(10) == errno.ECONNRESET
        try:
            faults.choose("recv=NONSENSE:1")
        except ValueError:
            print("ok")
        """,
        "recv=EAGAIN:1;send=short:1",
    )
    assert told.stdout == "ok\n"


def test_the_same_seed_brings_the_same_faults(faults: Faults) -> None:
    script = """
        import os, faults
        reader, writer = os.pipe()
        with faults.active():
            sizes = [os.write(writer, b"x" * 100) for _ in range(50)]
        print(sizes)
        """
    one, again, other = (faults.run(script, "write=short:0.5", seed=seed).stdout for seed in (1, 1, 2))
    assert one == again != other


def test_a_read_that_was_told_nothing_is_followed_by_an_event(faults: Faults) -> None:
    # As the kernel would: an edge-triggered poller must not be left without one.
    told = faults.run(
        """
        import os, select, faults
        reader, writer = os.pipe2(os.O_NONBLOCK)
        poller = select.epoll()
        poller.register(reader, select.EPOLLIN | select.EPOLLET)
        os.write(writer, b"abc")
        assert poller.poll(10)
        assert not poller.poll(0)
        with faults.active():
            try:
                os.read(reader, 10)
                raise AssertionError
            except BlockingIOError:
                pass
        assert poller.poll(10)
        print(os.read(reader, 10))
        """,
        "read=EAGAIN:1",
    )
    assert told.stdout == "b'abc'\n"


# --- sockets ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("text", EACH.values(), ids=EACH)
def test_echo_stays_exact(faults: Faults, text: str, seed: int) -> None:
    under_faults(faults, "echo", text, seed)


@pytest.mark.slow
@pytest.mark.parametrize("text", [EACH["short reads"], EACH["short writes"], EACH["all at once"]], ids=str)
def test_files_on_sockets_stay_exact(faults: Faults, text: str) -> None:
    under_faults(faults, "files", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        EACH["recv finds nothing"],
        EACH["send finds no room"],
        "recv=EINTR:0.3;send=EINTR:0.3",
        "send=ENOBUFS:0.3",
        "recv=EINTR:0.1,EAGAIN:0.2;send=EINTR:0.1,EAGAIN:0.2,ENOBUFS:0.1;epoll=EINTR:0.1,spurious:0.3",
        "send=EAGAIN:0.2;socket=EMFILE:0.5",
    ],
)
def test_datagrams_and_descriptors_arrive_whole_and_once(faults: Faults, text: str) -> None:
    under_faults(faults, "messages", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "sendfile=EINTR:0.3",
        "sendfile=EAGAIN:0.5",
        "sendfile=short:0.5",
        "sendfile=EAGAIN:0.2,EINTR:0.2,short:0.3;send=EAGAIN:0.2;open=EMFILE:0.3;epoll=spurious:0.3",
        "sendfile=EIO:0.05;send=short:0.3",
    ],
)
def test_files_arrive_whole(faults: Faults, text: str) -> None:
    under_faults(faults, "sendfile", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "accept=ECONNABORTED:0.3",
        "accept=EINTR:0.3",
        "accept=EAGAIN:0.5",
        "accept=EMFILE:0.3",
        "accept=ENOBUFS:0.3",
        "socket=EMFILE:0.2;accept=EINTR:0.2,ECONNABORTED:0.1,EMFILE:0.1;recv=EAGAIN:0.2;epoll=spurious:0.3",
    ],
)
def test_a_server_goes_on_accepting(faults: Faults, text: str) -> None:
    under_faults(faults, "accept", text)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["epoll=EINTR:0.5", "epoll=spurious:0.3", "recv=EINTR:0.5;epoll=spurious:0.3"])
def test_deadlines_are_kept(faults: Faults, text: str) -> None:
    under_faults(faults, "deadlines", text)
