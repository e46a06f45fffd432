"""What every test gets: a check that it leaves no fiber and no file descriptor behind.

Nothing here needs greenio to be built: the tests of the assembly and of the stacks compile what they test by themselves.
"""

import gc
import os
import sys
from collections.abc import Iterator

import pytest
from faults import SOURCE, Faults
from native.build import ToolMissing, build_library

pytest_plugins = ["pytester"]

# What stays to the end (pytest itself, the tests, what they import) is not looked at by each of the collections that the tests ask
# for: a third of the time of the quick tests, otherwise.
gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.enable()
    gc.collect()
    gc.freeze()


def open_descriptors() -> dict[int, str]:
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listdir itself had open
        if "libffi.so" not in target:  # ctypes' first callback opens it, for good
            descriptors[int(name)] = target
    return descriptors


def live_fibers() -> list[object]:
    debug = sys.modules.get("greenio.debug")
    return list(debug.fibers()) if debug is not None else []


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fails a test after which a fiber lives or a descriptor is open that was not before."""
    before = open_descriptors()
    yield
    left = set(open_descriptors().items()) - set(before.items())
    fibers = live_fibers()
    if left or fibers:
        gc.collect()  # what only a reference cycle held, such as a traceback's frames, is no leak
        left = set(open_descriptors().items()) - set(before.items())
        fibers = live_fibers()
    assert not fibers, f"fibers left behind: {fibers}"
    assert not left, f"descriptors left behind: {sorted(left)}"


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    """System calls that fail as told, in child processes: see faults.py."""
    try:
        return Faults(build_library("faults.so", [SOURCE], [], tmp_path_factory.mktemp("faults")))
    except ToolMissing as missing:
        pytest.skip(str(missing))


# Test files whose child interpreters are measured, in a run under coverage. Others look at what a child imports, opens or says,
# and would find coverage's doings among it.
MEASURED_CHILDREN = (
    "test_monkey",
    "test_main",
    "test_clients",
    "test_groups",
    "test_server",
    "test_subprocess",
    "test_processes",
)
# Look at all modules, or start interpreters of their own.
NOT_MEASURED = ("round_trip", "imported_after", "started_anew")


@pytest.fixture(autouse=True)
def _measures_few_children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    name = request.node.name
    if not request.path.name.startswith(MEASURED_CHILDREN) or any(part in name for part in NOT_MEASURED):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
