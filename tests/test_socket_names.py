"""greenio.socket has the standard module's names, and none that would block the OS thread under fibers."""

import inspect
import os
import socket as standard
import types
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


def public(thing: Any) -> list[str]:
    """Its names, but for what it has only imported."""
    return [
        name
        for name in dir(thing)
        if not name.startswith("_")
        and not isinstance(getattr(thing, name), types.ModuleType)
        and getattr(getattr(thing, name), "__module__", None) not in ("enum", "functools")
    ]


def same_shape(ours: Any, theirs: Any) -> bool:
    """Whether parameters have the same names and defaults, as far as the standard one tells them."""
    try:
        expected = inspect.signature(theirs).parameters.values()
    except ValueError:
        return True
    found = inspect.signature(ours).parameters.values()
    return len(found) == len(expected) and all(
        mine.default == each.default and (mine.name == each.name or each.kind is each.POSITIONAL_ONLY)
        for mine, each in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("name", public(standard))
def test_each_name_is_or_acts_as_the_standard_one(name: str) -> None:
    ours, theirs = getattr(socket, name), getattr(standard, name)
    if ours is theirs or name in ("socket", "SocketType"):
        return
    assert callable(theirs), "a constant or an exception is another one"
    assert same_shape(ours, theirs), f"{inspect.signature(ours)}, not {inspect.signature(theirs)}"


# What is Python in the standard module: the others tell no signature, or one without names.
NAMED = ["accept", "close", "detach", "dup", "get_inheritable", "makefile", "sendfile", "set_inheritable"]


def test_the_class_has_every_method_of_the_standard_one() -> None:
    assert set(public(standard.socket)) - set(public(socket.socket)) == set()
    with socket.socket() as ours, standard.socket() as theirs:
        assert [
            name for name in public(theirs) if callable(getattr(ours, name)) != callable(getattr(theirs, name))
        ] == []


@pytest.mark.parametrize("name", NAMED)
def test_methods_take_what_the_standard_ones_take(name: str) -> None:
    assert same_shape(getattr(socket.socket, name), getattr(standard.socket, name))


def test_exceptions_are_the_standard_ones() -> None:
    assert socket.error is OSError
    assert socket.timeout is TimeoutError
    assert issubclass(socket.gaierror, OSError) and issubclass(socket.herror, OSError)


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
