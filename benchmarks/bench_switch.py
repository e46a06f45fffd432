"""What a switch between two fibers costs, beside greenlet's in the same process."""

import pytest
from greenlet import getcurrent, greenlet
from pytest_benchmark.fixture import BenchmarkFixture

import greenio

ROUNDS, ITERATIONS = 30, 20_000


@pytest.mark.benchmark(group="switch there and back")
def bench_greenio(benchmark: BenchmarkFixture) -> None:
    """ns per two switches: main yields to the only other fiber, which yields back."""
    running = True

    def other() -> None:
        while running:
            greenio.yield_now()

    def main() -> None:
        nonlocal running
        fiber = greenio.spawn(other)
        benchmark.pedantic(greenio.yield_now, rounds=ROUNDS, iterations=ITERATIONS)
        running = False
        fiber.join()

    greenio.run(main)


@pytest.mark.benchmark(group="switch there and back")
def bench_greenlet(benchmark: BenchmarkFixture) -> None:
    """ns per two switches: the baseline."""
    main = getcurrent()

    def other() -> None:
        while True:
            main.switch()

    benchmark.pedantic(greenlet(other).switch, rounds=ROUNDS, iterations=ITERATIONS)
