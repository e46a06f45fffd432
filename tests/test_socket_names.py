"""greenio.socket has the standard module's names, and none that would block the OS thread under fibers."""

import os
import socket as standard
from collections.abc import Callable
from typing import Any

import pytest

import greenio
from greenio import socket

WITHOUT_FIBERS: Callable[..., Any] = lambda fn, *args: fn(*args)  # noqa: E731
LOOKUPS = [
    ("gethostbyname", ("localhost",)),
    ("gethostbyname", ("127.0.0.1",)),
    ("gethostbyname_ex", ("localhost",)),
    ("gethostbyaddr", ("127.0.0.1",)),
    ("getfqdn", ("localhost",)),
    ("getnameinfo", (("127.0.0.1", 80), 0)),
    ("getnameinfo", (("127.0.0.1", 80), standard.NI_NUMERICHOST)),
    ("getaddrinfo", ("localhost", 80, standard.AF_INET, standard.SOCK_STREAM)),
]


def test_has_every_name_of_the_standard_module() -> None:
    assert set(standard.__all__) == set(socket.__all__)
    assert len(set(socket.__all__)) == len(socket.__all__)
    assert [name for name in socket.__all__ if not hasattr(socket, name)] == []


def test_leaves_the_standard_modules_list_as_it_was() -> None:
    assert "socket" in standard.__all__


def test_what_makes_sockets_makes_ours() -> None:
    assert issubclass(socket.socket, socket.SocketType)
    one, other = socket.socketpair()
    with one, other, socket.fromfd(one.fileno(), one.family, one.type) as copy, one.dup() as second:
        assert {type(made) for made in (one, other, copy, second)} == {socket.socket}
        assert copy.fileno() != one.fileno() != second.fileno()


def test_fromfd_of_what_is_no_socket_leaves_nothing_open() -> None:
    with open(os.devnull) as file, pytest.raises(OSError, match="non-socket"):
        socket.fromfd(file.fileno(), socket.AF_INET, socket.SOCK_STREAM)


def test_close_of_a_descriptor_wakes_who_waits_on_it() -> None:
    def main() -> None:
        one, other = socket.socketpair()
        with one, other:
            reader = greenio.spawn(other.recv, 1)
            greenio.yield_now()
            socket.close(other.fileno())
            other.detach()
            assert isinstance(reader.exception(), OSError)

    greenio.run(main)


@pytest.mark.parametrize("call", [WITHOUT_FIBERS, greenio.run], ids=["without fibers", "in a fiber"])
@pytest.mark.parametrize(("name", "arguments"), LOOKUPS)
def test_lookups_find_what_the_standard_ones_find(
    name: str, arguments: tuple[Any, ...], call: Callable[..., Any]
) -> None:
    assert call(getattr(socket, name), *arguments) == getattr(standard, name)(*arguments)


def test_lookup_raises_what_the_standard_one_raises() -> None:
    with pytest.raises(socket.gaierror):
        greenio.run(socket.gethostbyname, "name with spaces")
