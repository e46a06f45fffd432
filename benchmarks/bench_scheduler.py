"""What it costs to spawn a fiber, let it run and join it, beside asyncio's tasks in the same process."""

import asyncio

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import greenio

COUNT = 1_000  # in each timed call; the event loop is entered once for all of them


@pytest.mark.benchmark(group="spawn, run and join 1,000, one by one")
def bench_greenio(benchmark: BenchmarkFixture) -> None:
    """Time per 1,000 fibers."""

    def spawn_all() -> None:
        for _ in range(COUNT):
            greenio.spawn(int).join()

    greenio.run(benchmark, spawn_all)


@pytest.mark.benchmark(group="spawn, run and join 1,000, one by one")
def bench_asyncio(benchmark: BenchmarkFixture) -> None:
    """Time per 1,000 tasks: the baseline."""

    async def nothing() -> None:
        pass

    async def spawn_all() -> None:
        for _ in range(COUNT):
            await asyncio.create_task(nothing())

    with asyncio.Runner() as runner:
        benchmark(lambda: runner.run(spawn_all()))
