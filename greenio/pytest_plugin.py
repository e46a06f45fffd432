"""A plugin for pytest: a marked test runs as the main fiber of a run of its own, on a virtual clock, and must leave no fiber behind.

    @pytest.mark.greenio
    def test_sleep():
        greenio.sleep(3600)            # at once

    @pytest.mark.greenio(seeds=200)    # 200 runs, each in another order of the fibers; the seed that fails is printed
    def test_transfer(): ...

The mark's options:
    clock: "virtual" (the default) or "real".
    seeds: so many runs, with seeds from 0; or seed: one run with that one. Either makes "pct" the default schedule.
    schedule: "fifo" (round robin, the default), "pct" (greenio.testing.PctSchedule) or "random" (RandomSchedule); the last two,
        with neither seed nor seeds given: 100 seeds.
    timeout: seconds on the test's clock, after which TimeoutError is raised in it.

`--greenio-seed=N` repeats one seed; `--greenio-seeds=N` sets how many, for every test that has a schedule other than "fifo".

`unittest.TestCase` calls its methods itself, so those cannot run as fibers: a marked one fails.

Fixtures are set up and torn down by pytest as ever: before the run begins, after it has ended, and once for all seeds. A test
with seeds resets what it shares between its runs itself. Only the test's function runs as a fiber; an `async def` cannot.
What a fixture needs to do with fibers, it gives to the test as a function to call.
"""

import inspect
import unittest
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest

import greenio
from greenio.testing import PctSchedule, RandomSchedule, VirtualClock, check_no_fiber_left, replay

MARK = "greenio"
SEEDS = 100
SCHEDULES: dict[str, Callable[[int], greenio.Schedule] | None] = {
    "fifo": None,
    "pct": PctSchedule,
    "random": RandomSchedule,
}
CLOCKS: dict[str, Callable[[], greenio.Clock | None]] = {"virtual": VirtualClock, "real": lambda: None}


class Options(NamedTuple):
    """What a mark and the command line ask for."""

    clock: Callable[[], greenio.Clock | None]
    schedule: Callable[[int], greenio.Schedule] | None  # None: round robin
    seeds: Iterable[int]
    timeout: float | None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("greenio", "tests that run as fibers")
    group.addoption("--greenio-seed", type=int, metavar="N", help="repeat seeded greenio tests with this seed only")
    group.addoption("--greenio-seeds", type=int, metavar="N", help="run seeded greenio tests with N seeds, from 0")


def pytest_configure(config: pytest.Config) -> None:
    many = config.getoption("greenio_seeds")
    if many is not None and many < 1:
        raise pytest.UsageError(f"--greenio-seeds must be >= 1, not {many}: with no seed no test would run")
    config.addinivalue_line(
        "markers",
        f"{MARK}(clock='virtual'|'real', seeds=N, seed=N, schedule='fifo'|'pct'|'random', timeout=seconds): run the test as the "
        "main fiber of greenio.run",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker(MARK) is not None and not isinstance(item, pytest.Function):
            item.warn(
                pytest.PytestWarning(f"greenio runs functions; {item.nodeid} is none and runs as without the mark")
            )


def read_options(item: pytest.Function) -> Options:
    """The mark nearest to the test, with what the command line changes. pytest.UsageError names what is wrong."""
    marks: dict[str, Any] = {}
    for mark in item.iter_markers(MARK):  # nearest first
        if mark.args:
            raise pytest.UsageError(f"{item.nodeid}: the options of @pytest.mark.greenio have names; got {mark.args!r}")
        marks = {**mark.kwargs, **marks}
    unknown = sorted(set(marks) - {"clock", "seeds", "seed", "schedule", "timeout"})
    if unknown:
        raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.greenio has no option {', '.join(unknown)}")
    if "seed" in marks and "seeds" in marks:
        raise pytest.UsageError(f"{item.nodeid}: seed= is one run, seeds= is many; give one of them")
    seeded = "seed" in marks or "seeds" in marks
    schedule = _one_of(item, "schedule", marks.get("schedule", "pct" if seeded else "fifo"), SCHEDULES)
    clock = _one_of(item, "clock", marks.get("clock", "virtual"), CLOCKS)
    if schedule is None and seeded:
        raise pytest.UsageError(f"{item.nodeid}: schedule='fifo' takes no seed")
    one, many = item.config.getoption("greenio_seed"), item.config.getoption("greenio_seeds")
    seeds: Iterable[int]
    if schedule is None:
        seeds = (0,)
    elif one is not None:
        seeds = (one,)
    elif many is not None:
        seeds = range(many)
    elif "seed" in marks:
        seeds = (marks["seed"],)
    else:
        count = marks.get("seeds", SEEDS)
        if not isinstance(count, int) or count < 1:
            raise pytest.UsageError(f"{item.nodeid}: seeds must be >= 1, not {count!r}")
        seeds = range(count)
    return Options(clock, schedule, seeds, marks.get("timeout"))


def _one_of(item: pytest.Function, option: str, value: Any, table: dict[str, Any]) -> Any:
    if value not in table:
        names = ", ".join(map(repr, table))
        raise pytest.UsageError(f"{item.nodeid}: {option} must be one of {names}, not {value!r}")
    return table[value]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Refuse a marked method of a unittest.TestCase: pytest_pyfunc_call never sees it."""
    if item.get_closest_marker(MARK) is None or not isinstance(item, pytest.Function):
        return
    if item.cls is not None and issubclass(item.cls, unittest.TestCase):
        pytest.fail(
            f"{item.nodeid} is a method of a unittest.TestCase, which calls it itself, so it cannot run as a fiber; make it a function "
            "or a method of a plain class, or call greenio.run in it",
            pytrace=False,
        )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Call a marked test as a fiber."""
    if pyfuncitem.get_closest_marker(MARK) is None:
        return None
    try:
        options = read_options(pyfuncitem)
    except pytest.UsageError as error:
        pytest.fail(str(error), pytrace=False)
    function = pyfuncitem.obj
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        pytest.fail(
            f"{pyfuncitem.nodeid} is an async def; a greenio test is an ordinary function, which may sleep and wait without await",
            pytrace=False,
        )
    wanted = inspect.signature(function).parameters
    arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}

    def call() -> None:
        if options.timeout is None:
            function(**arguments)
        else:
            with greenio.timeout(options.timeout):
                function(**arguments)
        check_no_fiber_left()

    call.__qualname__ = pyfuncitem.name  # how replay's note names it
    if options.schedule is None:
        greenio.run(call, clock=options.clock())
        return True
    for seed in options.seeds:
        try:
            replay(call, seed, options.schedule, options.clock)
        except pytest.skip.Exception:
            raise
        except BaseException:
            pyfuncitem.add_report_section(
                "call",
                "greenio",
                f"failed with seed {seed}; again: pytest '{pyfuncitem.nodeid}' --greenio-seed={seed}",
            )
            raise
    return True
