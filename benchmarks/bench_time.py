"""What a timer costs: 1,000 fibers that sleep until the same moment, beside asyncio in the same process."""

import asyncio

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import greenio

FIBERS = 1_000
ROUNDS = 20


@pytest.mark.benchmark(group="1,000 sleeps of 1 ms at once")
def bench_greenio(benchmark: BenchmarkFixture) -> None:
    """Time until the last of 1,000 fibers has been spawned, has slept 1 ms and is joined."""

    def sleep_all() -> None:
        for fiber in [greenio.spawn(greenio.sleep, 0.001) for _ in range(FIBERS)]:
            fiber.join()

    greenio.run(lambda: benchmark.pedantic(sleep_all, rounds=ROUNDS, warmup_rounds=2))


@pytest.mark.benchmark(group="1,000 sleeps of 1 ms at once")
def bench_asyncio(benchmark: BenchmarkFixture) -> None:
    """Time until the last of 1,000 tasks has slept: the baseline."""

    async def sleep_all() -> None:
        await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(FIBERS)))

    with asyncio.Runner() as runner:
        benchmark.pedantic(lambda: runner.run(sleep_all()), rounds=ROUNDS, warmup_rounds=2)
