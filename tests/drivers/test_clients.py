"""Client libraries, unchanged, against their real servers: a hundred operations at once, and what goes wrong."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from child import run_child
from table import CLIENTS, STUCK, Client

CLIENTS_FOLDER = Path(__file__).parent / "clients"
RUN = CLIENTS_FOLDER / "run.py"

Start = Callable[[str | None], dict[str, Any]]

# Its own threads, those that look names up, and the server's that is still being waited for: not one for each client.
FEW_OS_THREADS = 40
STALL_THREADS = 64  # run()'s default


def skip_without(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            before = "apt-get install -y libmariadb-dev gcc pkg-config && " if module == "MySQLdb" else ""
            pytest.skip(f"no {module}: {before}python -m pip install 'greenio-fibers[drivers]'")


def run_client(client: Client, mode: str, what: str, start: Start) -> str:
    skip_without(*client.needs)
    address = start(client.server)
    arguments = (mode, client.module, what, json.dumps(address))
    return run_child(RUN, *arguments, flags=(), **dict(client.environment)).stdout


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_hundred_operations_wait_at_the_same_time(client: Client, server: Start) -> None:
    found = json.loads(run_client(client, client.mode, "hundred", server))
    assert found["errors"] == []
    assert found["together"] >= 90
    assert found["ticks"] > 0, "nobody else ran while they waited"
    allowed = FEW_OS_THREADS + (STALL_THREADS if client.mode == "handoff" else 0)
    assert found["os_threads"] < allowed, "they were not fibers"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "module"), STUCK, ids=[each[0] for each in STUCK])
def test_fifty_wait_inside_a_c_library_with_nothing_patched(name: str, kind: str, module: str, server: Start) -> None:
    skip_without(module)
    # Long enough for the last to be there before the first has left, on any machine.
    child = run_child(CLIENTS_FOLDER / "stuck.py", name, "50", "5", json.dumps(server(kind)), flags=())
    found = json.loads(child.stdout)
    assert found["errors"] == []
    assert found["together"] == 50
    assert found["os_threads"] <= 64
    assert found["ticks"] > 50, "nobody else ran while they waited"


@pytest.mark.slow
@pytest.mark.parametrize("stall", ["handoff", "warn"])
def test_a_heartbeat_is_kept_beside_a_fiber_that_computes(stall: str, server: Start) -> None:
    skip_without("pika")
    child = run_child(CLIENTS_FOLDER / "heartbeat.py", stall, "8", json.dumps(server("rabbitmq")), flags=())
    found = json.loads(child.stdout)
    assert found["kept"] == (stall == "handoff"), found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("client", "check"),
    [pytest.param(client, check, id=f"{client.name}-{check}") for client in CLIENTS for check in client.checks],
)
def test_what_goes_wrong_is_as_under_threads(client: Client, check: str, server: Start) -> None:
    assert run_client(client, client.mode, check, server).endswith("ok\n")


@pytest.mark.slow
@pytest.mark.skipif(
    "GREENIO_TEST_THREADS" not in os.environ, reason="shows that the programs are right: set GREENIO_TEST_THREADS"
)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_same_programs_run_with_threads(client: Client, server: Start) -> None:
    found = json.loads(run_client(client, "threads", "hundred", server))
    assert found["errors"] == [] and found["together"] >= 90
    for check in client.checks:
        if check not in ("other_thread", "copies", "unpatched"):  # about the patch
            assert run_client(client, "threads", check, server).endswith("ok\n")
