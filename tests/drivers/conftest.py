"""Starts each server once, when the first test wants it, and ends it with this folder's: other tests count the children."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import SERVERS, Missing


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[[str | None], dict[str, Any]]]:
    """server("redis") starts it unless it runs, and gives its address; what is not installed skips the test."""
    addresses: dict[str, dict[str, Any] | str] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str | None) -> dict[str, Any]:
            if name is None:
                return {}
            if name not in addresses:
                try:
                    addresses[name] = stack.enter_context(SERVERS[name]())
                except Missing as missing:
                    addresses[name] = str(missing)
            address = addresses[name]
            if isinstance(address, str):
                pytest.skip(address)
            return address

        yield start
